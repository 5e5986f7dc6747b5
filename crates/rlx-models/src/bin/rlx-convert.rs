//! Converts checkpoints between formats.

fn main() -> std::process::ExitCode {
    rlx_cli::exit(rlx_models::run::convert_main(std::env::args_os().skip(1)))
}
