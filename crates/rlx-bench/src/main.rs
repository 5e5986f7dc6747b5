//! Measurements against other engines on the same machine in the same run.

mod machine;
mod peers;

use clap::Parser;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  $P peers --llama-bench llama.cpp/build/bin/llama-bench --gguf qwen3-0.6b-Q4_K_M.gguf --threads 2
  $P peers --help
";

/// Measure against other engines
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Alternate `rlx-run bench` with llama.cpp's `llama-bench` on the same files, and compare
    Peers(peers::Args),
}

fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    let args: Args = rlx_cli::args::parse("rlx-bench", EXAMPLES, args)?;
    match args.command {
        Command::Peers(args) => peers::run(&args),
    }
}

fn main() -> std::process::ExitCode {
    rlx_cli::exit(run(std::env::args_os().skip(1)))
}
