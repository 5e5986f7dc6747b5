//! Weights by checkpoint name, whatever the format.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{GgufTensorResolver, HeadCounts, NameTable, Transform, TransformError, gguf_tensor_resolver, matches};
use crate::message::{hint, nearest, quote};
use crate::weights::{Checkpoint, TensorMeta, TensorView, WeightsError};
use rlx_ir::{DType, Dim, Shape};
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Tensors of GGUF files that are configuration: [`config::rope`](crate::config::rope) reads them.
const GGUF_CONFIG: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
/// Most names a report compares with all others.
const MAX_NEAREST: usize = 16;

/// A checkpoint under the names of Hugging Face checkpoints, whatever its format.  Cheap to clone.
///
/// Names of GGUF files are translated by what the application registered for their architecture
/// ([`register_gguf_tensor_resolver`](super::register_gguf_tensor_resolver)), then by the family's table.
#[derive(Clone, Debug)]
pub struct WeightMap {
    checkpoint: Arc<Checkpoint>,
    /// Of GGUF files alone.
    resolver: Option<Arc<dyn GgufTensorResolver>>,
    table: Option<&'static NameTable>,
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
    /// Unused tensors of multi-token-prediction heads, by their names in the file: no mistake.
    pub mtp: Vec<String>,
}

impl Report {
    /// Whether the model has all that it needs, and nothing is left over.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty()
    }
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

impl WeightMap {
    /// The weights of `checkpoint` under the names of a family's table.  `heads` matters to transforms alone.
    pub fn new(checkpoint: impl Into<Arc<Checkpoint>>, table: &'static NameTable, heads: HeadCounts) -> Self {
        WeightMap { table: Some(table), heads, ..Self::of_file(checkpoint) }
    }

    /// The weights of `checkpoint` under the names that are registered for its architecture, else its own.
    pub(crate) fn of_file(checkpoint: impl Into<Arc<Checkpoint>>) -> Self {
        let checkpoint = checkpoint.into();
        let resolver = checkpoint.gguf().and_then(|g| gguf_tensor_resolver(g.architecture().ok()?));
        let heads = checkpoint.gguf().map(|g| HeadCounts::of_gguf(g)).unwrap_or_default();
        WeightMap { checkpoint, resolver, table: None, heads }
    }

    /// The checkpoint behind it.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The name in the file and the arrangement there.
    fn stored(&self, name: &str) -> (String, Transform) {
        let translated = || {
            self.checkpoint.gguf()?;
            let by_application = self.resolver.as_ref().and_then(|r| r.to_gguf(name));
            by_application.or_else(|| self.table?.to_gguf(name))
        };
        translated().unwrap_or_else(|| (name.to_owned(), Transform::None))
    }

    /// The checkpoint name of a name in the file, where it is another.
    fn translated(&self, stored: &str) -> Option<String> {
        self.checkpoint.gguf()?;
        let by_application = self.resolver.as_ref().and_then(|r| r.to_hf(stored));
        Some(by_application.or_else(|| self.table?.to_hf(stored))?.0)
    }

    /// Whether the table has a place for this name of the file.
    fn is_known(&self, stored: &str) -> bool {
        self.translated(stored).is_some() || (self.checkpoint.gguf().is_none() && self.table.is_some_and(|t| t.to_gguf(stored).is_some()))
    }

    /// Every tensor, with its checkpoint name, in the order of names in the file.
    pub fn iter(&self) -> impl Iterator<Item = (String, &TensorMeta)> {
        self.checkpoint.tensors().map(|t| (self.translated(&t.name).unwrap_or_else(|| t.name.clone()), t))
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
    pub fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.checkpoint.find(&self.stored(name).0)
    }

    /// The weight in the checkpoint's arrangement: a view of the file, or rearranged in memory where a transform asks.
    ///
    /// # Errors
    /// As [`Checkpoint::get`], and [`NamesError::Transform`].
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, NamesError> {
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
    pub fn param_types(&self) -> rlx_ir::builder::ParamTypes<'static> {
        let weights = self.clone();
        Box::new(move |name, shape| weights.param_type(name, shape))
    }

    /// The type of the parameter `name`, which must have this shape.
    ///
    /// # Errors
    /// One line: no such tensor, with the nearest; both shapes, with file and tensor; a type that cannot be used.
    pub fn param_type(&self, name: &str, shape: &[Dim]) -> Result<DType, String> {
        let Some(meta) = self.meta(name) else {
            if let Some(refusal) = self.checkpoint.refusal(name) {
                return Err(refusal.to_string());
            }
            return Err(format!("{}: no tensor {}", self.checkpoint.path().display(), self.missing(name)));
        };
        let dtype = self.checkpoint.check_tensor(meta).map_err(|e| e.to_string())?;
        let place = || format!("{}: tensor {}", self.checkpoint.file_of(meta).display(), quote(&meta.name));
        let same = shape.len() == meta.shape.len() && shape.iter().zip(&meta.shape).all(|(want, have)| want.as_const() == Some(*have));
        if !same {
            return Err(format!("{} has shape {:?}, but the model needs {}", place(), meta.shape, Shape::from(shape)));
        }
        Ok(dtype)
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
        let mtp: HashSet<&str> = self.checkpoint.mtp_tensors().map(|t| t.name.as_str()).collect();
        let own = self.table.map_or(&[][..], |t| t.tolerated);
        for meta in self.checkpoint.tensors().filter(|t| !seen.contains(t.name.as_str())) {
            let hf = self.translated(&meta.name);
            let fits = |p: &&str| matches(p, &meta.name) || hf.as_ref().is_some_and(|n| matches(p, n));
            let known = self.checkpoint.gguf().is_some() && GGUF_CONFIG.contains(&meta.name.as_str());
            if known || own.iter().chain(tolerated).any(fits) {
                continue;
            }
            let list = if mtp.contains(meta.name.as_str()) { &mut report.mtp } else { &mut report.extra };
            list.push(meta.name.clone());
        }
        report
    }

    /// An error unless the checkpoint has what the model uses and nothing else.
    ///
    /// # Errors
    /// [`NamesError::Mismatch`].
    pub fn check<'n>(&self, used: impl IntoIterator<Item = &'n str>, tolerated: &[&str]) -> Result<(), NamesError> {
        let report = self.report(used, tolerated);
        if report.is_complete() {
            return Ok(());
        }
        Err(NamesError::Mismatch { path: self.checkpoint.path().into(), report })
    }

    fn missing(&self, name: &str) -> Missing {
        let (stored, _) = self.stored(name);
        // A name that belongs to nothing else is likelier the one that is meant than the neighbour in the next layer.
        let (known, odd): (Vec<&str>, Vec<&str>) = self.checkpoint.tensors().map(|t| t.name.as_str()).partition(|n| self.is_known(n));
        let mut near = nearest(&stored, odd);
        near.extend(nearest(&stored, known));
        near.truncate(3);
        let nearest = near;
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
        if !self.mtp.is_empty() {
            lines.push(format!("  left aside: {} tensors of multi-token-prediction heads", self.mtp.len()));
        }
        f.write_str(&lines.join("\n"))
    }
}
