//! From an outline to a verdict.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::kind::{Kind, Namespace, known, recognise};
use super::outline::{Container, Outline};
use crate::message::{list, nearest, quote};
use crate::registry::{Family, find};
use std::collections::BTreeMap;
use std::fmt;

/// Whether a checkpoint can run.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// A family runs it.
    Supported {
        /// Name of the family.
        family: &'static str,
        /// Its program.
        program: &'static str,
    },
    /// It is known what this is, and that it cannot run here: what would be needed.
    KnownUnimplemented(String),
    /// Settings or files that running needs are absent: their names.
    MissingMetadata(Vec<String>),
    /// It is not known what this is.
    Unknown {
        /// Names that look most like the one found.
        nearest: Vec<String>,
    },
}

impl Verdict {
    /// The name alone: `SUPPORTED`, `KnownUnimplemented`, `MissingMetadata`, `Unknown`.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Supported { .. } => "SUPPORTED",
            Verdict::KnownUnimplemented(_) => "KnownUnimplemented",
            Verdict::MissingMetadata(_) => "MissingMetadata",
            Verdict::Unknown { .. } => "Unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Verdict::KnownUnimplemented(what) => write!(f, "({what})"),
            Verdict::MissingMetadata(keys) => write!(f, "({})", list(keys)),
            Verdict::Supported { .. } | Verdict::Unknown { .. } => Ok(()),
        }
    }
}

/// A verdict and what it rests on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Judgement {
    /// Whether it can run.
    pub verdict: Verdict,
    /// What it is.
    pub kind: Kind,
    /// Why, a short phrase each; names from files are quoted and escaped.
    pub reasons: Vec<String>,
}

/// Says what the outline is of, and whether one of `families` runs it.
pub fn judge<F: Family + ?Sized>(o: &Outline, families: &[&F]) -> Judgement {
    let seen = recognise(o);
    let mut reasons = seen.reasons;
    let verdict = verdict(o, families, seen.kind, seen.known, &mut reasons);
    Judgement { verdict, kind: seen.kind, reasons }
}

fn verdict<F: Family + ?Sized>(o: &Outline, families: &[&F], kind: Kind, known_name: bool, reasons: &mut Vec<String>) -> Verdict {
    if let Some(what) = o.container.unreadable() {
        reasons.push(format!("the weights are {what}"));
        return Verdict::KnownUnimplemented(format!("weights in {what}; convert them to safetensors or GGUF"));
    }
    let parts = [Kind::Adapter, Kind::VocabularyOnly, Kind::ImportanceMatrix, Kind::TokenizerOnly, Kind::Classifier];
    if parts.contains(&kind) {
        return Verdict::KnownUnimplemented(kind.to_string());
    }
    let identity = o.identity();
    let family = match find(families, &identity) {
        Ok(family) => family,
        Err(unknown) => return unclaimed(o, kind, known_name, unknown.nearest),
    };
    reasons.push(format!("family {}", family.name()));
    if let Some(what) = unsupported_types(o).or_else(|| unsupported_quantisation(o)) {
        return Verdict::KnownUnimplemented(what);
    }
    let missing = missing(o, family);
    if !missing.is_empty() {
        return Verdict::MissingMetadata(missing);
    }
    Verdict::Supported { family: family.name(), program: family.program() }
}

/// No family answers.
fn unclaimed(o: &Outline, kind: Kind, known_name: bool, mut near: Vec<String>) -> Verdict {
    let name = o.gguf_arch.as_ref().or(o.model_type.as_ref()).or(o.architectures.first());
    if known_name {
        let name = name.map(|n| format!(": {}", quote(n))).unwrap_or_default();
        return Verdict::KnownUnimplemented(format!("{kind}{name}"));
    }
    let Some(name) = name else {
        return match o.container {
            Container::Gguf => Verdict::MissingMetadata(vec!["general.architecture".into()]),
            Container::Safetensors if !o.has_file("config.json") => Verdict::MissingMetadata(vec!["config.json".into()]),
            Container::Safetensors => Verdict::MissingMetadata(vec!["config.json: model_type".into()]),
            _ if o.has_file("config.json") => Verdict::MissingMetadata(vec!["model.safetensors".into()]),
            _ => Verdict::Unknown { nearest: near },
        };
    };
    let space = if o.gguf_arch.is_some() { Namespace::Gguf } else { Namespace::Hf };
    for n in nearest(name, known().filter(|k| k.0 == space).map(|k| k.2)) {
        if !near.contains(&n) {
            near.push(n);
        }
    }
    near.truncate(3);
    Verdict::Unknown { nearest: near }
}

/// Element types that cannot be computed with, with how many tensors have them.
fn unsupported_types(o: &Outline) -> Option<String> {
    let mut types: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for t in o.tensors.iter().filter(|t| t.stored.dtype().is_none()) {
        types.entry(t.stored.to_string()).or_insert((0, &t.name)).0 += 1;
    }
    let told: Vec<String> = types.iter().map(|(ty, (n, first))| format!("{ty} ({n} tensors, first {})", quote(first))).collect();
    (!told.is_empty()).then(|| format!("tensor types {}", list(&told)))
}

/// A quantisation of the settings that the weights cannot be read with.
fn unsupported_quantisation(o: &Outline) -> Option<String> {
    o.quantisation.as_ref().map(|q| format!("quantisation {q}"))
}

/// Names of what running needs and the outline lacks.
fn missing<F: Family + ?Sized>(o: &Outline, family: &F) -> Vec<String> {
    let mut missing = Vec::new();
    if o.tensors.is_empty() {
        missing.push(match o.container {
            Container::Gguf => "tensors".to_owned(),
            _ => "model.safetensors".to_owned(),
        });
    }
    if let Some(settings) = &o.settings {
        let absent = |key: &&crate::config::Key| !settings.has(**key);
        let named = family.required_settings().iter().filter(absent).map(|k| settings.field(*k));
        missing.extend(named.map(|f| if o.container == Container::Gguf { f } else { format!("config.json: {f}") }));
    }
    match o.container {
        Container::Gguf if !o.has_vocabulary && !o.has_file("tokenizer.json") => missing.push("tokenizer.ggml.tokens".into()),
        Container::Safetensors if !o.has_file("tokenizer.json") => missing.push("tokenizer.json".into()),
        _ => {}
    }
    missing
}
