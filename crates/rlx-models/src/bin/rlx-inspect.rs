//! Says what a checkpoint is.

fn main() -> std::process::ExitCode {
    rlx_cli::exit(rlx_models::run::inspect_main(std::env::args_os().skip(1)))
}
