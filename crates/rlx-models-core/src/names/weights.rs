//! Weights by checkpoint name, whatever the format.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{HeadCounts, NameTable, Transform, TransformError, matches};
use crate::message::{hint, nearest, quote};
use crate::weights::{Checkpoint, TensorMeta, TensorView, WeightFormat, WeightsError};
use rlx_ir::{DType, Dim, Shape};
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

/// Tensors of GGUF files that are configuration: [`config::rope`](crate::config::rope) reads them.
const GGUF_CONFIG: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
/// Most names a report compares with all others.
const MAX_NEAREST: usize = 16;

/// A checkpoint seen through a family's table.
#[derive(Copy, Clone, Debug)]
pub struct NamedWeights<'a> {
    checkpoint: &'a Checkpoint,
    table: &'a NameTable,
    heads: HeadCounts,
}

/// A weight that a model needs and the checkpoint lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The name the model asked for.
    pub name: String,
    /// What it would be called in the file, where that differs.
    pub stored: Option<String>,
    /// The most similar names that the checkpoint has.
    pub nearest: Vec<String>,
}

/// What a model and a checkpoint do not agree on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Weights that the checkpoint lacks.
    pub missing: Vec<Missing>,
    /// Tensors of the checkpoint that the model does not use and that are not tolerated, by their names in the file.
    pub extra: Vec<String>,
}

/// Why weights by name were refused.
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The checkpoint.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weight cannot be rearranged.
    #[error("{}: tensor {}: {source}", file.display(), quote(tensor))]
    Transform { file: PathBuf, tensor: String, source: TransformError },
    /// Missing and left-over tensors.
    #[error("{}: the tensors are not those of the model\n{report}", path.display())]
    Mismatch { path: PathBuf, report: Report },
}

impl<'a> NamedWeights<'a> {
    /// The weights of `checkpoint` under the names of `table`.  `heads` matters to transforms alone.
    pub fn new(checkpoint: &'a Checkpoint, table: &'a NameTable, heads: HeadCounts) -> Self {
        NamedWeights { checkpoint, table, heads }
    }

    /// The checkpoint behind it.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The name in the file and the arrangement there.
    fn stored(&self, name: &str) -> (String, Transform) {
        match self.checkpoint.format() {
            WeightFormat::Safetensors => (name.to_owned(), Transform::None),
            WeightFormat::Gguf => self.table.to_gguf(name).unwrap_or_else(|| (name.to_owned(), Transform::None)),
        }
    }

    /// Whether the checkpoint has this weight.
    pub fn has(&self, name: &str) -> bool {
        self.meta(name).is_some()
    }

    /// Whether the output projection is the embedding: the checkpoint has no tensor `head` of its own.
    pub fn is_tied(&self, head: &str) -> bool {
        !self.has(head)
    }

    /// The description of a weight, by checkpoint name.
    pub fn meta(&self, name: &str) -> Option<&'a TensorMeta> {
        self.checkpoint.find(&self.stored(name).0)
    }

    /// The weight in the checkpoint's arrangement: a view of the file, or rearranged in memory where a transform asks.
    ///
    /// # Errors
    /// As [`Checkpoint::get`], and [`NamesError::Transform`].
    pub fn get(&self, name: &str) -> Result<TensorView<'a>, NamesError> {
        let (stored, transform) = self.stored(name);
        let Some(meta) = self.checkpoint.find(&stored) else {
            let missing = self.missing(name);
            return Err(WeightsError::MissingTensor {
                path: self.checkpoint.path().into(),
                tensor: missing.stored.unwrap_or(missing.name),
                nearest: missing.nearest,
            }
            .into());
        };
        let mut view = self.checkpoint.view(meta)?;
        let rows = meta.shape.first().copied().unwrap_or(1);
        let moved = transform.apply(&view.data, rows, self.heads).map_err(|source| NamesError::Transform {
            file: self.checkpoint.file_of(meta).into(),
            tensor: meta.name.clone(),
            source,
        })?;
        if let Some(bytes) = moved {
            view.data = bytes.into();
        }
        Ok(view)
    }

    /// What [`rlx_ir::Builder::with`] asks for the type of each parameter; the shape is checked as well.
    pub fn param_types(&self) -> rlx_ir::builder::ParamTypes<'a> {
        let weights = *self;
        Box::new(move |name, shape| weights.param_type(name, shape))
    }

    /// The type of the parameter `name`, which must have this shape.
    ///
    /// # Errors
    /// One line: no such tensor, with the nearest; both shapes, with file and tensor; a type that cannot be used.
    pub fn param_type(&self, name: &str, shape: &[Dim]) -> Result<DType, String> {
        let Some(meta) = self.meta(name) else {
            return Err(format!("{}: no tensor {}", self.checkpoint.path().display(), self.missing(name)));
        };
        let place = || format!("{}: tensor {}", self.checkpoint.file_of(meta).display(), quote(&meta.name));
        let same = shape.len() == meta.shape.len() && shape.iter().zip(&meta.shape).all(|(want, have)| want.as_const() == Some(*have));
        if !same {
            return Err(format!("{} has shape {:?}, but the model needs {}", place(), meta.shape, Shape::from(shape)));
        }
        meta.dtype().ok_or_else(|| format!("{} has elements of type {}, which cannot be computed with", place(), meta.stored))
    }

    /// Compares the names a model uses with those of the checkpoint.  `tolerated` are patterns of checkpoint names
    /// beyond those of the table.
    pub fn report<'n>(&self, used: impl IntoIterator<Item = &'n str>, tolerated: &[&str]) -> Report {
        let mut report = Report::default();
        let mut seen: HashSet<&str> = HashSet::new();
        for name in used {
            match self.meta(name) {
                Some(meta) => {
                    seen.insert(&meta.name);
                }
                None if report.missing.len() < MAX_NEAREST => report.missing.push(self.missing(name)),
                None => {
                    let stored = Some(self.stored(name).0).filter(|s| s != name);
                    report.missing.push(Missing { name: name.into(), stored, nearest: vec![] });
                }
            }
        }
        for meta in self.checkpoint.tensors().filter(|t| !seen.contains(t.name.as_str())) {
            let gguf = self.checkpoint.format() == WeightFormat::Gguf;
            let hf = if gguf { self.table.to_hf(&meta.name).map(|n| n.0) } else { None };
            let fits = |p: &&str| matches(p, &meta.name) || hf.as_ref().is_some_and(|n| matches(p, n));
            let known = gguf && GGUF_CONFIG.contains(&meta.name.as_str());
            if !known && !self.table.tolerated.iter().chain(tolerated).any(fits) {
                report.extra.push(meta.name.clone());
            }
        }
        report
    }

    /// An error unless the checkpoint has what the model uses and nothing else.
    ///
    /// # Errors
    /// [`NamesError::Mismatch`].
    pub fn check<'n>(&self, used: impl IntoIterator<Item = &'n str>, tolerated: &[&str]) -> Result<(), NamesError> {
        let report = self.report(used, tolerated);
        if report.missing.is_empty() && report.extra.is_empty() {
            return Ok(());
        }
        Err(NamesError::Mismatch { path: self.checkpoint.path().into(), report })
    }

    fn missing(&self, name: &str) -> Missing {
        let (stored, _) = self.stored(name);
        let nearest = nearest(&stored, self.checkpoint.tensors().map(|t| t.name.as_str()));
        Missing { name: name.into(), stored: Some(stored).filter(|s| s != name), nearest }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.name))?;
        if let Some(stored) = &self.stored {
            write!(f, " ({} in this file)", quote(stored))?;
        }
        f.write_str(&hint(&self.nearest))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 16;
        let mut lines: Vec<String> = self.missing.iter().take(MOST).map(|m| format!("  missing {m}")).collect();
        if self.missing.len() > MOST {
            lines.push(format!("  and {} more missing", self.missing.len() - MOST));
        }
        lines.extend(self.extra.iter().take(MOST).map(|e| format!("  not used: {}", quote(e))));
        if self.extra.len() > MOST {
            lines.push(format!("  and {} more not used", self.extra.len() - MOST));
        }
        f.write_str(&lines.join("\n"))
    }
}
