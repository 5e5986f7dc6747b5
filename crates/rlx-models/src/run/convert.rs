//! `rlx-convert`, also `rlx-run convert`: checkpoints from one format to another.

use crate::families;
use clap::{Parser, ValueEnum};
use rlx_cli::args::{self, HubArgs};
use rlx_cli::interrupt::Answering;
use rlx_cli::term::{Notes, human_bytes};
use rlx_cli::{CANCELLED, Usage};
use rlx_core::weights::{LoadOpts, open_with};
use rlx_lm::LmError;
use rlx_lm::convert::{Conversion, Converted, FloatType, GgufTypes, Target};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat tiny.gguf                     Hugging Face to GGUF, nothing lost
  $P weights/rlx-tiny-chat tiny.gguf --type q8_0
  $P model.gguf model-hf --dtype bf16                    GGUF to Hugging Face
  $P weights/rlx-tiny-chat tiny-mlx --bits 4             to MLX, quantised
  $P mlx-community/model model.gguf --type f16           MLX to GGUF
  $P big-model big.gguf --split-max-size 4G

What OUT is called says the format: NAME.gguf is GGUF, anything else a directory of safetensors, MLX's
with --mlx, --bits or --group-size.  Types are chosen such that nothing is lost unless asked otherwise;
rlx-quantize makes small GGUF files.  Settings that the other format cannot express are an error.
";

/// Convert a checkpoint between Hugging Face safetensors, GGUF and MLX-quantised safetensors
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// A .safetensors or .gguf file, or a directory of them (not with --hf), and where to write: NAME.gguf, or a
    /// directory
    #[arg(value_name = "WEIGHTS OUT", required = true, num_args = 1..=2)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// GGUF: type of matrices (vectors are f32); auto keeps what GGUF has, else takes f32
    #[arg(long = "type", value_name = "TYPE", default_value = "auto", value_enum)]
    types: GgufType,
    /// GGUF: split into parts with at most this much tensor data, such as 500M or 4G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split_max_size: Option<u64>,
    /// Hugging Face: type of tensors; auto keeps what floats are and makes quantised ones f32
    #[arg(long, value_name = "TYPE", default_value = "auto", value_enum)]
    dtype: Float,
    /// Write MLX-quantised safetensors
    #[arg(long)]
    mlx: bool,
    /// MLX: bits per weight: 2, 3, 4, 5, 6 or 8; 4 unless given
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// MLX: weights that share a scale: 32, 64 or 128; 64 unless given
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,
    /// Safetensors: most tensor data of a file
    #[arg(long, value_name = "SIZE", default_value = "5G", value_parser = size)]
    shard_size: u64,
    /// Which of a directory's GGUF files to take, by quantisation
    #[arg(long, value_name = "NAME", default_value = "Q4_K_M")]
    prefer_quant: String,
    /// Which of a directory's GGUF files to take, counted from 0 in the order of names
    #[arg(long, value_name = "N")]
    gguf_index: Option<usize>,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Debug)]
enum GgufType {
    Auto,
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Debug)]
enum Float {
    Auto,
    F32,
    F16,
    Bf16,
}

/// `5G`, `300M`, `64K`, `1000`: decimal, as download sizes are.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().trim_end_matches('B') {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err("expected a size such as 500M or 5G".into()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| "expected a size above 0, such as 500M or 5G".into())
}

impl Args {
    /// Where to write.
    fn out(&self) -> anyhow::Result<&Path> {
        let out = self.paths.last().filter(|_| self.paths.len() == 2 || self.hub.hf.is_some());
        Ok(out.ok_or_else(|| Usage("name the weights and where to write: WEIGHTS OUT, or --hf ORG/REPO OUT".into()))?)
    }

    fn target(&self) -> anyhow::Result<Target> {
        let out = self.out()?;
        let refuse = |flag: &str, what: &str| Err(Usage(format!("{flag} is for {what}; {} is not", out.display())).into());
        let mlx = self.mlx || self.bits.is_some() || self.group_size.is_some();
        if out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            if mlx || self.dtype != Float::Auto {
                return refuse("--mlx, --bits, --group-size and --dtype", "directories of safetensors");
            }
            let types = match self.types {
                GgufType::Auto => GgufTypes::Auto,
                GgufType::F32 => GgufTypes::F32,
                GgufType::F16 => GgufTypes::F16,
                GgufType::Bf16 => GgufTypes::BF16,
                GgufType::Q8 => GgufTypes::Q8_0,
            };
            return Ok(Target::Gguf { types, part_bytes: self.split_max_size });
        }
        if self.types != GgufType::Auto || self.split_max_size.is_some() {
            return refuse("--type and --split-max-size", "files called NAME.gguf");
        }
        let shard_bytes = self.shard_size;
        if mlx {
            if self.dtype != Float::Auto {
                return Err(Usage("--dtype is for plain safetensors; MLX's scales keep the type of the source".into()).into());
            }
            return Ok(Target::Mlx { bits: self.bits.unwrap_or(4), group: self.group_size.unwrap_or(64), shard_bytes });
        }
        let dtype = match self.dtype {
            Float::Auto => FloatType::Auto,
            Float::F32 => FloatType::F32,
            Float::F16 => FloatType::F16,
            Float::Bf16 => FloatType::BF16,
        };
        Ok(Target::Safetensors { dtype, shard_bytes })
    }
}

/// Runs `rlx-convert` on these arguments (without the program's name); returns the exit code.
///
/// # Errors
/// The checkpoint cannot be opened, or not converted.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    run("rlx-convert", args.into_iter().collect())
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn run(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, EXAMPLES, args)?;
    let target = args.target()?;
    let mut opts = LoadOpts::default().prefer_quant(&args.prefer_quant);
    if let Some(i) = args.gguf_index {
        opts = opts.gguf_index(i);
    }
    let notes = Notes::new(args.quiet);
    let weights = args.hub.weights(args.paths.first().filter(|_| args.paths.len() == 2).map(PathBuf::as_path), &opts, &notes)?;
    let checkpoint = Arc::new(open_with(opts, weights)?);
    let family = families::of(&checkpoint)?.family;
    let conversion = Conversion::new(family, checkpoint)?;
    let (working, bar) = (Answering::start(), notes.bytes_bar("writing"));
    let done = conversion.run(target, args.out()?, args.force, &mut |done, all| {
        bar.at(done, all);
        !working.cancelled()
    });
    bar.clear();
    let done = match done {
        Err(LmError::Cancelled) => {
            notes.say("[cancelled; nothing was written]");
            return Ok(CANCELLED);
        }
        other => other?,
    };
    report(&args, &done, &notes)?;
    Ok(0)
}

fn report(args: &Args, done: &Converted, notes: &Notes) -> io::Result<()> {
    let files: Vec<String> = done.files.iter().map(|f| f.display().to_string()).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let object = json!({ "files": files, "tensors": done.tensors, "bytes": done.bytes, "left_out": done.left_out });
        return writeln!(out, "{object:#}");
    }
    if !done.left_out.is_empty() {
        notes.say(format_args!("left out, as the model does not use them: {}", done.left_out.join(", ")));
    }
    files.iter().try_for_each(|f| writeln!(out, "{f}"))?;
    notes.say(format_args!("{} tensors, {}", done.tensors, human_bytes(done.bytes)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        for (text, want) in [("5G", 5_000_000_000), ("300M", 300_000_000), ("64kb", 64_000), ("12", 12)] {
            assert_eq!(size(text), Ok(want));
        }
        for bad in ["", "G", "0", "5T", "-1", "99999999999G", "1.5G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    fn target(list: &[&str]) -> anyhow::Result<Target> {
        args::parse::<Args>("x", "", list.iter().map(OsString::from))?.target()
    }

    #[test]
    fn the_name_says_the_format_and_flags_must_fit_it() {
        assert_eq!(target(&["w", "o.gguf", "--type", "bf16"]).unwrap(), Target::Gguf { types: GgufTypes::BF16, part_bytes: None });
        assert!(matches!(target(&["w", "o"]).unwrap(), Target::Safetensors { dtype: FloatType::Auto, .. }));
        assert!(matches!(target(&["w", "o", "--bits", "8"]).unwrap(), Target::Mlx { bits: 8, group: 64, .. }));
        for bad in [
            &["w", "o.gguf", "--bits", "4"][..],
            &["w", "o.gguf", "--dtype", "f16"],
            &["w", "o", "--type", "f16"],
            &["w", "o", "--mlx", "--dtype", "f32"],
        ] {
            assert!(target(bad).unwrap_err().is::<Usage>(), "{bad:?}");
        }
    }
}
