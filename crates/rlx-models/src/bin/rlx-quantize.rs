//! Quantises a GGUF file.

fn main() -> std::process::ExitCode {
    rlx_cli::exit(rlx_models::run::quantize_main(std::env::args_os().skip(1)))
}
