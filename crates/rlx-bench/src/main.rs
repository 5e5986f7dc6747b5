//! Measurements: of this machine, against other engines on the same machine in the same run, and against what was before.

mod capsule;
mod limits;
mod machine;
mod op;
mod peers;
mod process;
mod report;
mod run;
mod tune;
mod validate;

use clap::Parser;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  $P peers --llama-bench llama.cpp/build/bin/llama-bench --gguf qwen3-0.6b-Q4_K_M.gguf --threads 2
  $P report before.json after.json
  $P run model-Q4_K_M.gguf --threads 2 --out before.json
  $P validate weights/rlx-tiny-chat
  $P limits
  $P tune --out tuned.toml
  $P op linear --format q4_k --rows 1,512
  $P peers --help
";

/// Measure this machine and this engine, against other engines and against before
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// What this machine can do: memory bandwidth, and peaks of f32, bf16 and int8 arithmetic
    Limits(limits::Args),
    /// Measure one op at sizes of real models, and its share of what the machine can do
    Op(op::Args),
    /// Alternate `rlx-run bench` with llama.cpp's `llama-bench` on the same files, and compare
    Peers(peers::Args),
    /// Measure one model: loading, first token, decoding, memory, bytes per token
    Run(run::Args),
    /// Find block sizes and threads that suit this machine, and write them as a profile
    Tune(tune::Args),
    /// Say whether a profile writes the same tokens as profile exact, or where they part and by how much
    Validate(validate::Args),
    /// Print a capsule, compare two, or write tables of several into a document
    Report(report::Args),
}

fn run(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    let args: Args = rlx_cli::args::parse("rlx-bench", EXAMPLES, args)?;
    match args.command {
        Command::Limits(args) => limits::run(&args),
        Command::Op(args) => op::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Run(args) => run::run(args),
        Command::Tune(args) => tune::run(&args),
        Command::Validate(args) => validate::run(args),
        Command::Report(args) => report::run(&args),
    }
}

fn main() -> std::process::ExitCode {
    rlx_cli::exit(run(std::env::args_os().skip(1)))
}
