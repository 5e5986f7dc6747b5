//! `rlx-inspect`, also `rlx-run inspect`: what a checkpoint is.

use super::plan::Planned;
use crate::families;
use clap::Parser;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::term::{human_bytes, human_count};
use rlx_core::config::ConfigSource;
use rlx_core::registry::Identity;
use rlx_core::weights::{Checkpoint, open_with};
use rlx_gguf::Value as Gguf;
use rlx_lm::{LmError, Text};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat
  $P model-Q4_K_M.gguf --json
  $P model-Q4_K_M.gguf --plan 8192         memory at 8192 tokens too, per part
";

/// Longest setting shown in text.
const WIDEST: usize = 72;

/// Say what a checkpoint is: format, tensors, settings, tokenizer, and which program runs it
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also plan a run of this many tokens
    #[arg(long, value_name = "TOKENS", conflicts_with = "max_seq", value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    plan: Option<u32>,
}

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
    let checkpoint = open_with(args.model.load_opts(), args.model.weights()?)?;
    let found = Inspection::of(&checkpoint);
    let plan = match args.plan {
        Some(n) => {
            args.model.max_seq = Some(n);
            Some(Planned::of(&args.model)?)
        }
        None => None,
    };
    let mut out = io::stdout().lock();
    if args.json {
        let mut object = found.json();
        if let Some(p) = plan {
            object["plan"] = p.json();
        }
        writeln!(out, "{object:#}")?;
    } else {
        write!(out, "{}", found.text())?;
        if let Some(p) = plan {
            write!(out, "\nplan\n{}", p.text())?;
        }
    }
    Ok(0)
}

/// What was found.  A part that cannot be read says why; the rest is shown all the same.
struct Inspection {
    path: String,
    files: Vec<String>,
    format: String,
    model: Result<String, String>,
    program: Result<String, String>,
    /// Type → tensors and bytes.
    types: BTreeMap<String, (u64, u64)>,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    /// Size of the vocabulary, and whether there is a chat template.
    text: Result<(usize, bool), String>,
    settings: Result<Map<String, Value>, String>,
}

impl Inspection {
    fn of(c: &Checkpoint) -> Inspection {
        let mut types: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for t in c.tensors() {
            let entry = types.entry(t.stored.to_string()).or_default();
            *entry = (entry.0 + 1, entry.1.saturating_add(t.bytes));
        }
        let text = match Text::open(c) {
            Ok(t) => Ok((t.tokenizer.vocab_size(), matches!(t.template, Ok(Some(_))))),
            Err(LmError::NoTokenizer { .. }) => Err("none".into()),
            Err(e) => Err(e.to_string()),
        };
        Inspection {
            path: c.path().display().to_string(),
            files: c.files().map(|f| f.display().to_string()).collect(),
            format: c.format().to_string(),
            model: Identity::of(c).map(|i| i.to_string()).map_err(|e| e.to_string()),
            program: families::of(c).map(|e| e.family.program().to_owned()).map_err(|e| e.to_string()),
            types,
            tensors: c.tensors().len(),
            parameters: c.tensors().fold(0, |n, t| n.saturating_add(t.elements())),
            bytes: c.total_bytes(),
            text,
            settings: settings(c).map_err(|e| e.to_string()),
        }
    }

    fn json(&self) -> Value {
        let types: Map<String, Value> = self.types.iter().map(|(k, (n, b))| (k.clone(), json!({ "tensors": n, "bytes": b }))).collect();
        let text = self.text.as_ref().ok();
        json!({
            "path": self.path,
            "files": self.files,
            "format": self.format,
            "model": self.model.as_ref().ok(),
            "program": self.program.as_ref().ok(),
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "types": types,
            "tokenizer": text.map(|t| json!({ "tokens": t.0 })),
            "chat_template": text.is_some_and(|t| t.1),
            "settings": self.settings.as_ref().ok(),
        })
    }

    fn text(&self) -> String {
        let mut t = format!("{}\n", self.path);
        let mut line = |name: &str, value: &str| t += &format!("  {name:<10} {value}\n");
        line("model", either(&self.model));
        let files = if self.files.len() == 1 { "1 file".into() } else { format!("{} files", self.files.len()) };
        line("format", &format!("{}, {files}, {} of tensors", self.format, human_bytes(self.bytes)));
        line("tensors", &format!("{}, {} parameters", self.tensors, human_count(self.parameters)));
        for (name, (n, bytes)) in &self.types {
            line("", &format!("{name:<8} {n:>5}  {:>9}", human_bytes(*bytes)));
        }
        match &self.text {
            Ok((tokens, template)) => {
                line("tokenizer", &format!("{tokens} tokens"));
                line("template", if *template { "yes" } else { "none: use --no-chat-template" });
            }
            Err(why) => line("tokenizer", why),
        }
        match &self.program {
            Ok(program) => line("run with", &format!("{program} {}", self.path)),
            Err(why) => line("run with", why),
        }
        match &self.settings {
            Ok(settings) => {
                t += "settings\n";
                for (key, value) in settings {
                    t += &format!("  {key:<36} {}\n", short(value));
                }
            }
            Err(why) => t += &format!("settings\n  {why}\n"),
        }
        t
    }
}

fn either(v: &Result<String, String>) -> &str {
    match v {
        Ok(s) | Err(s) => s,
    }
}

/// A value on one line of bounded length, whatever the file contains.
fn short(v: &Value) -> String {
    let text = v.as_str().map_or_else(|| v.to_string(), |s| format!("{s:?}"));
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `config.json`, or GGUF metadata with arrays told by their length.
fn settings(c: &Checkpoint) -> Result<Map<String, Value>, rlx_core::config::ConfigError> {
    Ok(match ConfigSource::open(c)? {
        ConfigSource::Hf { root, .. } => root
            .keys()
            .map(|key| {
                let raw = root.raw(&key).unwrap_or("null");
                // Numbers beyond a float's range (`Infinity`) stay text.
                (key.clone().into_owned(), serde_json::from_str(raw).unwrap_or_else(|_| Value::from(raw)))
            })
            .collect(),
        ConfigSource::Gguf { gguf, .. } => gguf.metadata().iter().map(|(k, v)| (k.to_owned(), gguf_value(v))).collect(),
    })
}

fn gguf_value(v: &Gguf) -> Value {
    match v {
        // The shortest decimal, not the digits of the wider type.
        Gguf::F32(v) => json!(v.to_string().parse::<f64>().unwrap_or(f64::from(*v))),
        Gguf::F64(v) => json!(v),
        Gguf::Bool(v) => json!(v),
        Gguf::String(v) => json!(v),
        Gguf::Array(_) => json!(v.type_name()),
        other => other.as_integer().and_then(|i| i64::try_from(i).ok()).map_or_else(|| json!(other.type_name()), |i| json!(i)),
    }
}
