//! `rlx-run parity`: checkpoints against recorded reference outputs.

use crate::families;
use clap::Parser;
use rlx_cli::args::{self, DeviceArgs};
use rlx_core::weights::LoadOpts;
use rlx_lm::parity::{self, Report};
use rlx_lm::{LmRunner, Precision};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  $P ../shared/oracle/lm/fixtures/qwen3
  $P ../shared/oracle/lm/fixtures/gguf/models/qwen3 --set simd=scalar
  $P my-checkpoint --profile lm            as users run it: reduced precision shows

A directory holds a checkpoint with expected.safetensors and expected.json, or NAME.gguf files, each
with NAME.expected.safetensors.  Deviations are max|a-b| / max|b|.  The exit code is 1 when any is
outside its tolerance or any token differs.
";

/// Compare checkpoints with recorded reference outputs, tensor by tensor and token by token
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// Directories of checkpoints with their records
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Keep quantised weights packed; =false dequantises them to f32 at load
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    packed: bool,
    /// Only the checkpoints that are outside
    #[arg(long, short)]
    quiet: bool,
    /// Where and how to compute; the profile is `exact` unless given.
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, EXAMPLES, args)?;
    args.device.device()?;
    let (mut good, mut all) = (0, 0);
    for dir in &args.dirs {
        for (weights, record) in parity::cases(dir)? {
            all += 1;
            let out = &mut io::stdout().lock();
            match compare(&args, &weights, &record) {
                Ok(report) => {
                    good += usize::from(report.ok());
                    if !report.ok() || !args.quiet {
                        writeln!(out, "{report}")?;
                    }
                }
                // One checkpoint that cannot run does not hide the others.
                Err(e) => writeln!(out, "{}\n  error: {}\n", weights.display(), rlx_cli::describe(&e))?,
            }
        }
    }
    writeln!(io::stdout(), "{good} of {all} within tolerance")?;
    Ok(u8::from(good != all))
}

fn compare(args: &Args, weights: &Path, record: &Path) -> anyhow::Result<Report> {
    let family = families::at(weights, &LoadOpts::default())?.family;
    let profile = args.device.profile(family.name(), weights, Precision::Exact)?;
    let builder = LmRunner::builder(family).device(args.device.device()?).profile(profile).packed_weights(args.packed);
    Ok(parity::run(builder, weights, record)?)
}
