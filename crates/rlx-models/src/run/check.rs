//! `rlx-run check`: what a file or directory is, and whether it can run.

use crate::families;
use anyhow::Context;
use clap::Parser;
use rlx_cli::term::{human_bytes, human_count};
use rlx_cli::{Usage, args};
use rlx_core::check::{Judgement, Outline, Verdict, judge};
use rlx_core::config::ConfigError;
use rlx_core::weights::LoadOpts;
use rlx_gguf::GgufError;
use rlx_lm::{LmError, LmFamily, LmPlan, LmRunner, Text};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  $P model-Q4_K_M.gguf
  $P weights/rlx-tiny-chat --json

Verdicts and exit codes: SUPPORTED 0; KnownUnimplemented(WHAT) 3: it is known what this is, and WHAT
cannot run here; MissingMetadata(KEYS) 4: settings or files that running needs are absent;
Unknown 5.  What cannot be read at all is an error, 1.

--json prints one object.  Its members are always there, null where they do not apply:
  schema      1; changes when a member changes its meaning
  place       the path
  verdict     SUPPORTED, KnownUnimplemented, MissingMetadata or Unknown
  kind        what it is: llm, multimodal, embedding, seq2seq, classifier, vision, asr, tts, audio,
              time-series, draft, mmproj, adapter, diffusion, vocab-only, imatrix, tokenizer, other, unknown
  what        KnownUnimplemented: what cannot run
  missing     MissingMetadata: a list of keys and files
  nearest     Unknown: a list of the most similar known names
  family, program, command    SUPPORTED: who runs it, and how
  reasons     a list of phrases
  format      safetensors, gguf, pytorch, onnx, tensorflow, ggml, imatrix or none
  name        general.architecture, model_type or the first of architectures
  tensors, parameters, bytes  counts from headers
  memory      SUPPORTED, on disk: bytes that a run with the default context takes

";

/// Say what a file or a directory is, and whether it can run
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// A weights file or a directory
    #[arg(value_name = "PATH")]
    place: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Which of several GGUF files to look at, by quantisation
    #[arg(long, alias = "prefer", value_name = "NAME", default_value = "Q4_K_M")]
    prefer_quant: String,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, EXAMPLES, args)?;
    let path = Path::new(&args.place);
    let opts = LoadOpts::default().prefer_quant(&args.prefer_quant);
    if !path.exists() {
        let why = "is no file or directory here; checkpoints of the Hub are judged once they have been downloaded";
        return Err(Usage(format!("{} {why}", path.display())).into());
    }
    let report = Report::at(path, &opts)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{}", report.text())?;
    }
    Ok(report.exit_code())
}

/// An outline, its judgement, and what planning a run said.
pub(super) struct Report {
    outline: Outline,
    pub judgement: Judgement,
    /// Bytes that a run with the default context takes, where it can run.
    pub memory: Option<u64>,
}

impl Report {
    /// Of a file or directory.
    pub fn at(path: &Path, opts: &LoadOpts) -> anyhow::Result<Report> {
        let mut report = Report::of(Outline::open(path, opts).context("it cannot be judged")?);
        report.try_plan(path, opts)?;
        Ok(report)
    }

    fn of(outline: Outline) -> Report {
        let families: Vec<&'static dyn LmFamily> = families::all().iter().map(|e| e.family).collect();
        let judgement = judge(&outline, &families);
        Report { outline, judgement, memory: None }
    }

    /// What headers alone do not tell: settings in range, every tensor there and of the right shape, a vocabulary
    /// that can be read.
    fn try_plan(&mut self, path: &Path, opts: &LoadOpts) -> anyhow::Result<()> {
        let Verdict::Supported { family, .. } = self.judgement.verdict else { return Ok(()) };
        let Some(entry) = families::all().iter().find(|e| e.family.name() == family) else { return Ok(()) };
        match plan(entry.family, path, opts) {
            Ok(plan) => self.memory = Some(plan.memory.total()),
            Err(e) => match demoted(&e, family) {
                Some(verdict) => self.judgement.verdict = verdict,
                None => return Err(e.into()),
            },
        }
        Ok(())
    }

    fn exit_code(&self) -> u8 {
        match self.judgement.verdict {
            Verdict::Supported { .. } => 0,
            Verdict::KnownUnimplemented(_) => 3,
            Verdict::MissingMetadata(_) => 4,
            _ => 5,
        }
    }

    fn name(&self) -> Option<&String> {
        let o = &self.outline;
        o.gguf_arch.as_ref().or(o.model_type.as_ref()).or(o.architectures.first()).or(o.diffusers_class.as_ref())
    }

    fn command(&self) -> Option<String> {
        self.command_for(&self.outline.place)
    }

    /// How to run it, where it lies at `place`.
    pub fn command_for(&self, place: &str) -> Option<String> {
        match self.judgement.verdict {
            Verdict::Supported { program, .. } => Some(format!("{program} {}", quoted(place))),
            _ => None,
        }
    }

    fn json(&self) -> Value {
        let (o, j) = (&self.outline, &self.judgement);
        let (mut family, mut program, mut what, mut missing, mut nearest) = (None, None, None, None, None);
        match &j.verdict {
            Verdict::Supported { family: f, program: p } => (family, program) = (Some(*f), Some(*p)),
            Verdict::KnownUnimplemented(w) => what = Some(w),
            Verdict::MissingMetadata(keys) => missing = Some(keys),
            Verdict::Unknown { nearest: n } => nearest = Some(n),
            _ => {}
        }
        json!({
            "schema": 1,
            "place": o.place,
            "verdict": j.verdict.name(),
            "kind": j.kind.name(),
            "what": what,
            "missing": missing,
            "nearest": nearest,
            "family": family,
            "program": program,
            "command": self.command(),
            "reasons": j.reasons,
            "format": o.container.name(),
            "name": self.name(),
            "tensors": o.tensors.len(),
            "parameters": o.parameters(),
            "bytes": o.tensor_bytes(),
            "memory": self.memory,
        })
    }

    fn text(&self) -> String {
        let (o, j) = (&self.outline, &self.judgement);
        let mut t = format!("{}\n", one_line(&j.verdict.to_string()));
        let mut line = |name: &str, value: &str| t += &format!("  {name:<9} {}\n", one_line(value));
        line("place", &o.place);
        line("is", &j.kind.to_string());
        line("because", &j.reasons.join("; "));
        if !o.tensors.is_empty() {
            let size = human_bytes(o.tensor_bytes());
            line("holds", &format!("{} tensors, {} parameters, {size}", o.tensors.len(), human_count(o.parameters())));
        }
        if let Verdict::Unknown { nearest } = &j.verdict {
            line("nearest", &if nearest.is_empty() { "nothing similar is known".into() } else { nearest.join(", ") });
        }
        if let Some(bytes) = self.memory {
            line("memory", &format!("{} with the default context", human_bytes(bytes)));
        }
        if let Some(command) = self.command() {
            line("run with", &command);
        }
        t
    }
}

fn plan(family: &'static dyn LmFamily, path: &Path, opts: &LoadOpts) -> Result<LmPlan, LmError> {
    let plan = LmRunner::builder(family).weights(path).load_opts(opts.clone()).plan()?;
    Text::open(&rlx_core::weights::open_with(opts.clone(), path)?)?;
    Ok(plan)
}

/// The verdict that an error of planning stands for; `None` when it says nothing about the model.
fn demoted(e: &LmError, family: &str) -> Option<Verdict> {
    let unfit = |e: &dyn std::fmt::Display| Verdict::KnownUnimplemented(format!("a variant that family {family} does not run: {e}"));
    Some(match e {
        LmError::Config(ConfigError::Missing { field, .. }) => Verdict::MissingMetadata(vec![field.clone()]),
        LmError::Config(ConfigError::Gguf(GgufError::MissingKey { key, .. })) => {
            Verdict::MissingMetadata(vec![key.trim_matches('"').to_owned()])
        }
        LmError::NoTokenizer { .. } => Verdict::MissingMetadata(vec!["tokenizer.json".into()]),
        LmError::Config(e) => unfit(e),
        LmError::Names(e) => unfit(e),
        LmError::Build { .. } => unfit(e),
        LmError::Vocab(e) => Verdict::KnownUnimplemented(format!("its vocabulary: {e}")),
        LmError::Text(e) => Verdict::KnownUnimplemented(format!("its tokenizer or template: {e}")),
        _ => return None,
    })
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:@%".contains(&b) || b >= 0x80);
    if plain && !path.is_empty() { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Text from anywhere, safe for a terminal and on one line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("a/b-Q4_K_M.gguf"), "a/b-Q4_K_M.gguf");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
        assert_eq!(one_line("a\x1b[31m\nb ü"), "a\\u{1b}[31m\\nb ü");
    }
}
