//! Chat with a Qwen3 model from its weights on disk.

fn main() -> std::process::ExitCode {
    rlx_cli::exit(rlx_qwen3::cli::run(std::env::args_os().skip(1)))
}
