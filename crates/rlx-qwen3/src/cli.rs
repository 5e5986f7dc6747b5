//! The `rlx-qwen3` program, also `rlx-run qwen3`.

use std::ffi::OsString;

/// Runs the program on these arguments (without its own name); returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    run_as("rlx-qwen3", args)
}

/// Its flags and help under this name.
pub fn command(program: &str) -> rlx_cli::clap::Command {
    rlx_cli::lm::command(program)
}

/// The same under another name, which help and usage show.
pub fn run_as(program: &str, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    rlx_cli::lm::run(&crate::Qwen3, program, args)
}
