//! Runs any model of the zoo: `rlx-run auto WEIGHTS`.

fn main() -> std::process::ExitCode {
    rlx_cli::exit(rlx_models::run::main(std::env::args_os().skip(1)))
}
