//! `rlx-inspect`, also `rlx-run inspect`: what a checkpoint is.
//!
//! Every part is looked at for itself: what is wrong with one is told in its place, and the rest is shown all the same.

mod files;
mod page;
mod render;
mod scan;
mod settings;
mod tensors;
mod words;

use super::check::Report;
use super::plan::Contexts;
use anyhow::anyhow;
use clap::Parser;
use files::Files;
use page::Page;
use render::Renderings;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::describe;
use rlx_cli::term::{Notes, human_bytes};
use rlx_core::check::Verdict;
use rlx_core::registry::Identity;
use rlx_core::weights::{Access, Checkpoint, WeightFormat, WeightsError, open_with};
use scan::Scan;
use serde_json::{Map, Value, json};
use settings::Settings;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tensors::Tensors;
use words::Both;

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat
  $P models --prefer Q8_0                  of several GGUF files, this one
  $P model.gguf --plan 4096,32768          exact memory at these context lengths
  $P model.gguf --render                   what the chat template makes of a conversation
  $P model.gguf --scan --quiet             look at every value: NaN, Inf, tensors of zeros
  $P model.gguf --json | jq .types

Without flags nothing but headers is read.  A part that is broken (tokenizer, template, settings)
says so in its place; the rest is shown all the same.

--json prints one object.  Its members are always there, null where they do not apply:
  schema          1; changes when a member changes its meaning
  path            as it was given
  errors          an object: what could not be read, by section, and why
  format, version safetensors, gguf, or the name of a registered format; version of GGUF
  model           what it says it is
  kind, verdict, reasons      as `rlx-run check` tells them
  program, command, memory    who runs it, how, and bytes taken with the default context
  files           name, bytes, what, gguf_index, opened of each
  parts           count, and missing: names of files that should be there
  tensors, parameters, bytes, bits_per_weight
  types           the same four by element type
  mtp             the same four of multi-token-prediction heads, and their names
  quantization    method, weights (how many), refused (why it cannot be read)
  tokenizer       place, kind, pre, tokens, bos, eos, …, adds_before, adds_after, ends_answers, special
  chat_template   place, templates, tools (offered ones are seen), convention (of calls), error
  settings        config.json or GGUF metadata; long lists as {of, count, first}
  file_metadata   __metadata__ of safetensors
  plan            device, profile, by_context: tokens and memory in bytes (--plan)
  render          name, text, tokens, ids, error of each conversation (--render)
  scan            tensors, bytes, not_finite, all_zero, unread (--scan)

Exit codes of its own: 3 when --scan found NaN or Inf, 1 when the weights cannot be opened or
--plan or --render cannot be had; the report is printed all the same.
";

/// Say what a checkpoint is: files, tensors, settings, tokenizer, template, and which program runs it
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Render an example conversation by the chat template: text and token ids
    #[arg(long)]
    render: bool,
    /// Exact memory of runs of so many tokens
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', conflicts_with = "max_seq", value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    plan: Vec<u32>,
    /// Read every tensor and list those with NaN, Inf or nothing but zeros
    #[arg(long)]
    scan: bool,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Exit code when values are not finite.
const NOT_FINITE: u8 = 3;

/// Runs `rlx-inspect` on these arguments (without the program's name); returns the exit code.
///
/// # Errors
/// The checkpoint cannot be opened.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<u8> {
    run("rlx-inspect", args.into_iter().collect())
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn run(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let mut args: Args = args::parse(program, EXAMPLES, args)?;
    args.model.quiet = args.quiet;
    let path = args.model.weights()?;
    std::fs::metadata(path).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    let weights = open_with(args.model.load_opts().access(Access::Loader), path);
    let found = Inspection::of(path, &weights, &args)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", found.json())?;
    } else {
        write!(out, "{}", found.text())?;
    }
    out.flush()?;
    if let Err(e) = weights {
        return Err(found.refusal(e));
    }
    let asked = [found.plan.as_ref().and_then(|p| p.as_ref().err()), found.render.as_ref().and_then(Renderings::failure)];
    if let Some(why) = asked.into_iter().flatten().next() {
        return Err(anyhow!("{why}"));
    }
    Ok(if found.scan.is_some_and(|s| s.is_bad()) { NOT_FINITE } else { 0 })
}

/// What was found, part by part; `Err` is why a part cannot be read.
struct Inspection {
    path: String,
    /// The file that was opened.
    opened: Option<String>,
    /// Why none could be.
    broken: Option<String>,
    format: Option<(WeightFormat, Option<u32>)>,
    model: Option<Result<String, String>>,
    report: Result<Report, String>,
    files: Files,
    tensors: Option<Tensors>,
    words: Option<Both>,
    settings: Result<Option<Settings>, String>,
    file_metadata: Option<Map<String, Value>>,
    plan: Option<Result<Contexts, String>>,
    render: Option<Renderings>,
    scan: Option<Scan>,
}

impl Inspection {
    fn of(path: &Path, weights: &Result<Checkpoint, WeightsError>, args: &Args) -> anyhow::Result<Inspection> {
        let c = weights.as_ref().ok();
        let dir = directory(path, c);
        let settings = match (c.and_then(|c| c.gguf()), &dir) {
            (Some(g), _) => Ok(Some(Settings::of_gguf(g))),
            (None, Some(dir)) => Settings::of_dir(dir).map_err(|e| e.to_string()),
            (None, None) => Ok(None),
        };
        let words = dir.as_ref().map(|dir| Both::of(c, dir));
        let (tokenizer, template) = match &words {
            Some(b) => (b.words.as_ref().ok().and_then(Option::as_ref), b.template.as_ref().ok().and_then(Option::as_ref)),
            None => (None, None),
        };
        let plan = !args.plan.is_empty() && c.is_some();
        Ok(Inspection {
            path: path.display().to_string(),
            opened: c.map(|c| c.path().display().to_string()),
            broken: weights.as_ref().err().map(ToString::to_string),
            format: c.map(|c| (c.format(), c.gguf().map(|g| g.version()))),
            model: c.map(|c| Identity::of(c).map(|i| i.to_string()).map_err(|e| e.to_string())),
            report: Report::at(path, &args.model.load_opts()).map_err(|e| format!("{:#}", e.root_cause())),
            files: Files::of(path, weights)?,
            tensors: c.map(Tensors::of),
            file_metadata: c.and_then(settings::file_metadata),
            plan: plan.then(|| Contexts::of(&args.model, &args.plan).map_err(|e| describe(&e))),
            render: (args.render && words.is_some()).then(|| Renderings::of(tokenizer, template)),
            scan: c.filter(|_| args.scan).map(|c| Scan::of(c, args.model.device.threads, Notes::new(args.quiet))),
            settings,
            words,
        })
    }

    /// Why weights that cannot be opened cannot: what they are, where that says more than the header they lack.
    fn refusal(&self, e: WeightsError) -> anyhow::Error {
        match &self.report {
            Ok(r) if !matches!(r.judgement.verdict, Verdict::Unknown { .. } | Verdict::MissingMetadata(_)) => {
                anyhow!("{}: no weights that can be opened: {}", self.path, r.judgement.verdict)
            }
            _ => e.into(),
        }
    }

    fn errors(&self) -> Map<String, Value> {
        let words = self.words.as_ref();
        let found = [
            ("weights", self.broken.as_ref()),
            ("model", self.model.as_ref().and_then(|m| m.as_ref().err())),
            ("verdict", self.report.as_ref().err()),
            ("settings", self.settings.as_ref().err()),
            ("tokenizer", words.and_then(|w| w.words.as_ref().err())),
            ("chat_template", words.and_then(|w| w.template.as_ref().err())),
            ("plan", self.plan.as_ref().and_then(|p| p.as_ref().err())),
            ("render", self.render.as_ref().and_then(Renderings::failure)),
        ];
        found.into_iter().filter_map(|(name, why)| Some((name.to_owned(), why?.as_str().into()))).collect()
    }

    fn json(&self) -> Value {
        let format = self.format.map(|(f, _)| if f == WeightFormat::Gguf { "gguf".into() } else { f.to_string() });
        let report = self.report.as_ref().ok();
        let judgement = report.map(|r| &r.judgement);
        let program = judgement.and_then(|j| if let Verdict::Supported { program, .. } = j.verdict { Some(program) } else { None });
        let words = self.words.as_ref();
        let object = json!({
            "schema": 1,
            "path": self.path,
            "errors": self.errors(),
            "format": format,
            "version": self.format.and_then(|f| f.1),
            "model": self.model.as_ref().and_then(|m| m.as_ref().ok()),
            "kind": judgement.map(|j| j.kind.name()),
            "verdict": judgement.map(|j| j.verdict.to_string()),
            "reasons": judgement.map(|j| &j.reasons),
            "program": program,
            "command": self.command(),
            "memory": report.and_then(|r| r.memory),
            "files": self.files.json(),
            "parts": self.files.parts_json(),
            "tensors": null, "parameters": null, "bytes": null, "bits_per_weight": null,
            "types": null, "mtp": null, "quantization": null,
            "tokenizer": words.and_then(|w| w.words.as_ref().ok()?.as_ref()).map(|w| w.json()),
            "chat_template": words.and_then(|w| w.template.as_ref().ok()?.as_ref()).map(|t| t.json()),
            "settings": self.settings.as_ref().ok().and_then(Option::as_ref).map(Settings::json),
            "file_metadata": self.file_metadata,
            "plan": self.plan.as_ref().and_then(|p| p.as_ref().ok()).map(Contexts::json),
            "render": self.render.as_ref().map(Renderings::json),
            "scan": self.scan.as_ref().map(Scan::json),
        });
        let Value::Object(mut object) = object else { return object };
        if let Some(t) = &self.tensors {
            t.json(&mut object);
        }
        object.into()
    }

    fn text(&self) -> String {
        let mut page = Page::default();
        page.raw(&super::check::one_line(&self.path));
        self.summary(&mut page);
        self.files.text(&mut page);
        if let Some(t) = &self.tensors {
            t.text(&mut page);
        }
        if let Some(both) = &self.words {
            match &both.words {
                Ok(Some(w)) => w.text(&mut page),
                other => self.absent(&mut page, "tokenizer", other.as_ref().err()),
            }
            match &both.template {
                Ok(Some(t)) => t.text(&mut page),
                other => self.absent(&mut page, "chat template", other.as_ref().err()),
            }
        }
        match &self.settings {
            Ok(Some(s)) => s.text(&mut page),
            Ok(None) => {}
            Err(why) => {
                page.section("settings");
                page.line("broken", why);
            }
        }
        if let Some(values) = &self.file_metadata {
            page.section("metadata of the file");
            settings::table(values, &mut page);
        }
        self.asked(&mut page);
        page.finish()
    }

    /// A part that is broken or not there; of what is no checkpoint, nothing is missed.
    fn absent(&self, page: &mut Page, name: &str, broken: Option<&String>) {
        if broken.is_none() && self.tensors.is_none() {
            return;
        }
        page.section(name);
        match broken {
            Some(why) => page.line("broken", why),
            None if name == "tokenizer" => page.line("none", "the model runs on token ids alone"),
            None => page.line("none", "use --no-chat-template"),
        }
    }

    /// How to run what was opened.
    fn command(&self) -> Option<String> {
        // Of several files in a directory, another could be the one that is preferred there.
        let place = self.opened.as_ref().filter(|_| self.files.several_ggufs()).unwrap_or(&self.path);
        self.report.as_ref().ok()?.command_for(place)
    }

    /// What it is and who runs it.
    fn summary(&self, page: &mut Page) {
        if let Ok(r) = &self.report {
            page.line("is", &r.judgement.kind.to_string());
        }
        match &self.model {
            Some(Ok(m)) => page.line("model", m),
            Some(Err(why)) => page.line("model", why),
            None => {}
        }
        if let (Some((format, version)), Some(t)) = (self.format, &self.tensors) {
            let version = version.map(|v| format!(" v{v}")).unwrap_or_default();
            page.line("format", &format!("{format}{version}, {}, {}", self.files.summary(), t.size()));
        }
        match &self.report {
            Ok(r) => match self.command() {
                Some(command) => page.line("run with", &command),
                None if self.broken.is_some() && matches!(r.judgement.verdict, Verdict::Unknown { .. }) => {}
                None => page.line("verdict", &format!("{}; {}", r.judgement.verdict, r.judgement.reasons.join("; "))),
            },
            // Weights that cannot be opened are the error of the whole.
            Err(why) if self.broken.is_none() => page.line("run with", &format!("unclear: {why}")),
            Err(_) => {}
        }
        if let Some(bytes) = self.report.as_ref().ok().and_then(|r| r.memory) {
            page.line("memory", &format!("{} with the default context; --plan 2048,8192 tells more", human_bytes(bytes)));
        }
    }

    /// What flags asked for.
    fn asked(&self, page: &mut Page) {
        match &self.plan {
            Some(Ok(plan)) => {
                let (title, rows) = plan.text();
                page.section(&title);
                rows.iter().for_each(|r| page.raw(r));
            }
            Some(Err(why)) => {
                page.section("memory");
                page.line("no plan", why);
            }
            None => {}
        }
        if let Some(r) = &self.render {
            r.text(page);
        }
        if let Some(s) = &self.scan {
            s.text(page);
        }
    }
}

/// Where tokenizer and settings lie; `None` for a file that is nothing of a checkpoint.
fn directory(path: &Path, c: Option<&Checkpoint>) -> Option<PathBuf> {
    if let Some(c) = c {
        return Some(c.dir().to_owned());
    }
    path.is_dir().then(|| path.to_owned())
}
