//! `rlx-run check`: what a file or directory is, and whether it can run.

use crate::families;
use anyhow::Context;
use clap::Parser;
use rlx_cli::args::{self, HubArgs};
use rlx_cli::term::{human_bytes, human_count};
use rlx_cli::{Usage, describe};
use rlx_core::check::{Judgement, Outline, Verdict, judge};
use rlx_core::config::ConfigError;
use rlx_core::hub::{Hub, HubError, Spec};
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
  $P Qwen/Qwen3-0.6B                         of the Hugging Face Hub, before it is downloaded
  $P unsloth/Qwen3-0.6B-GGUF:Q8_0

Of a repository, the list of files, the settings and the headers of the weights are read; nothing is
kept.  What the cache has is judged there.

Verdicts and exit codes: SUPPORTED 0; KnownUnimplemented(WHAT) 3: it is known what this is, and WHAT
cannot run here; MissingMetadata(KEYS) 4: settings or files that running needs are absent;
Unknown 5.  What cannot be read at all is an error, 1.

--json prints one object.  Its members are always there, null where they do not apply:
  schema      1; changes when a member changes its meaning
  place       the path or repository
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
  memory      SUPPORTED: bytes that a run with the default context takes
  read        of a repository: bytes that were read from the Hub

";

/// Say what a file, a directory or a repository of the Hugging Face Hub is, and whether it can run
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// A weights file, a directory, or org/repo of the Hugging Face Hub (org/repo:Q8_0, org/repo@revision)
    #[arg(value_name = "PATH|ORG/REPO", required_unless_present = "hf", conflicts_with = "hf")]
    place: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
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
    let opts = LoadOpts::default().prefer_quant(&args.prefer_quant);
    let report = match args.place.as_deref().map(Path::new).filter(|p| p.exists()) {
        Some(path) => Report::at(path, &opts)?,
        None => remote(&args.spec()?, &args.hub, &opts).with_context(|| args.taken_for())?,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", report.json())?;
    } else {
        write!(out, "{}", report.text())?;
    }
    Ok(report.exit_code())
}

impl Args {
    /// What the name was understood as, for mistyped paths.
    fn taken_for(&self) -> String {
        match &self.place {
            Some(place) => format!("{place} is no file or directory here, and as a repository of the Hub cannot be judged"),
            None => "the repository cannot be judged".into(),
        }
    }

    /// The repository that was named.
    fn spec(&self) -> anyhow::Result<Spec> {
        if let Some(spec) = self.hub.spec()? {
            return Ok(spec);
        }
        let place = self.place.as_deref().unwrap_or_default();
        let neither = |_: HubError| Usage(format!("{place} is no file or directory here, and no repository: expected org/repo"));
        Ok(place.parse().map_err(neither)?)
    }
}

/// Judges a repository: in the cache when that has it, else by its headers.
fn remote(spec: &Spec, args: &HubArgs, opts: &LoadOpts) -> anyhow::Result<Report> {
    let hub = Hub::new(args.options());
    let (place, dir);
    let mut read = None;
    let mut report = match hub.cached(spec, &opts.resolve) {
        Ok(Some(path)) => {
            place = path.parent().map(Path::to_owned).unwrap_or_default();
            Report::at(&path, opts)?
        }
        Ok(None) | Err(HubError::NoCache) => {
            dir = tempfile::tempdir()?;
            place = dir.path().to_owned();
            let headers = hub.headers(spec, &opts.resolve, dir.path())?;
            read = Some(headers.read);
            let report = Report::of(&headers.path, opts, false);
            report.map_err(|e| anyhow::anyhow!(moved(&describe(&e), &place, spec)))?
        }
        Err(e) => return Err(e.into()),
    };
    report.read = read;
    report.outline.place = spec.to_string();
    report.hub = true;
    let j = &mut report.judgement;
    if let Verdict::KnownUnimplemented(what) = &mut j.verdict {
        *what = moved(what, &place, spec);
    }
    j.reasons.iter_mut().for_each(|r| *r = moved(r, &place, spec));
    Ok(report)
}

/// A message about files in `dir`, said of the repository whose files they are.
fn moved(text: &str, dir: &Path, spec: &Spec) -> String {
    text.replace(&dir.display().to_string(), &spec.repo)
}

/// An outline, its judgement, and what planning a run said.
pub(super) struct Report {
    outline: Outline,
    pub judgement: Judgement,
    /// Bytes that a run with the default context takes, where it can run.
    pub memory: Option<u64>,
    /// Bytes read from the Hub.
    read: Option<u64>,
    /// The place is a repository.
    hub: bool,
}

impl Report {
    /// Of a file or directory.
    pub fn at(path: &Path, opts: &LoadOpts) -> anyhow::Result<Report> {
        Report::of(path, opts, true)
    }

    /// Of what is at `path`; `whole` unless all but headers and settings is missing there.
    fn of(path: &Path, opts: &LoadOpts, whole: bool) -> anyhow::Result<Report> {
        let outline = Outline::open(path, opts).context("it cannot be judged")?;
        let families: Vec<&'static dyn LmFamily> = families::all().iter().map(|e| e.family).collect();
        let judgement = judge(&outline, &families);
        let mut report = Report { outline, judgement, memory: None, read: None, hub: false };
        report.try_plan(path, opts, whole)?;
        Ok(report)
    }

    /// What headers alone do not tell: settings in range, every tensor there and of the right shape, a vocabulary
    /// that can be read.
    fn try_plan(&mut self, path: &Path, opts: &LoadOpts, whole: bool) -> anyhow::Result<()> {
        let Verdict::Supported { family, .. } = self.judgement.verdict else { return Ok(()) };
        let Some(entry) = families::all().iter().find(|e| e.family.name() == family) else { return Ok(()) };
        // A tokenizer that is there in name only says nothing.
        let text = whole || self.outline.has_vocabulary || !self.outline.has_file("tokenizer.json");
        match plan(entry.family, path, opts, text) {
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
            Verdict::Supported { program, .. } => {
                let hf = if self.hub { "--hf " } else { "" };
                Some(format!("{program} {hf}{}", quoted(place)))
            }
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
            "read": self.read,
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
        if let Some(bytes) = self.read {
            line("read", &format!("{} from the Hub", human_bytes(bytes)));
        }
        if let Some(command) = self.command() {
            line("run with", &command);
        }
        t
    }
}

fn plan(family: &'static dyn LmFamily, path: &Path, opts: &LoadOpts, text: bool) -> Result<LmPlan, LmError> {
    let plan = LmRunner::builder(family).weights(path).load_opts(opts.clone()).plan()?;
    if text {
        Text::open(&rlx_core::weights::open_with(opts.clone(), path)?)?;
    }
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
        LmError::Vocabulary { .. } => Verdict::KnownUnimplemented(format!("its vocabulary: {e}")),
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
