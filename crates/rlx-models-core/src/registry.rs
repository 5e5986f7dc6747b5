//! What a checkpoint is, and which family answers to it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::config::{ConfigDoc, ConfigError, Key};
use crate::message::{hint, list, nearest, quote};
use crate::weights::{Checkpoint, LoadOpts, open_with};
use rlx_gguf::{Gguf, GgufError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// What a family answers to.  Runner traits of other crates build on it.
pub trait Family: Send + Sync {
    /// Name of the family: `qwen3`.
    fn name(&self) -> &'static str;
    /// Values of `model_type` in `config.json`.
    fn model_types(&self) -> &'static [&'static str];
    /// Class names in `architectures` of `config.json`.
    fn architectures(&self) -> &'static [&'static str];
    /// Values of `general.architecture` in GGUF files.
    fn gguf_architectures(&self) -> &'static [&'static str];
    /// The family's own program: `rlx-qwen3`.
    fn program(&self) -> &'static str;
    /// Settings that no checkpoint of the family can do without.
    fn required_settings(&self) -> &'static [Key] {
        &[]
    }
}

/// What a checkpoint says it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Identity {
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// `architectures` of `config.json`.
    pub architectures: Vec<String>,
    /// `general.architecture` of GGUF metadata.
    pub gguf_arch: Option<String>,
    /// The weights files.
    pub files: Vec<PathBuf>,
}

impl Identity {
    /// What an open checkpoint says: the metadata of a GGUF file, or the `config.json` beside safetensors.
    ///
    /// # Errors
    /// A `config.json` that cannot be read, or GGUF metadata without an architecture.
    pub fn of(checkpoint: &Checkpoint) -> Result<Identity, ConfigError> {
        let files = checkpoint.files().map(Path::to_owned).collect();
        if let Some(gguf) = checkpoint.gguf() {
            return Ok(Identity { gguf_arch: Some(gguf.architecture()?.to_owned()), files, ..Identity::default() });
        }
        let config = ConfigDoc::open(checkpoint.dir().join("config.json"))?;
        Ok(Identity { model_type: config.model_type()?, architectures: config.architectures()?, gguf_arch: None, files })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.gguf_arch.iter().map(|a| format!("GGUF architecture {}", quote(a))));
        parts.extend(self.model_type.iter().map(|t| format!("model_type {}", quote(t))));
        parts.extend(self.architectures.iter().take(4).map(|a| format!("architecture {}", quote(a))));
        f.write_str(if parts.is_empty() { "a checkpoint that does not say what it is" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// Opens the checkpoint at `path` and says what it is.
///
/// # Errors
/// As [`open_with`] and [`Identity::of`].
pub fn identify(path: impl AsRef<Path>, opts: LoadOpts) -> Result<Identity, ConfigError> {
    Identity::of(&open_with(opts, path)?)
}

/// No family answers to a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no family for {what}{}; known: {}", hint(nearest), list(known))]
pub struct UnknownModel {
    /// What the checkpoint says it is.
    pub what: String,
    /// The most similar names that a family answers to.
    pub nearest: Vec<String>,
    /// The names of all families.
    pub known: Vec<String>,
}

/// The family that answers to a checkpoint: by GGUF architecture, else by `model_type`, else by class name.
///
/// # Errors
/// [`UnknownModel`] with the most similar names.
pub fn find<'f, F: Family + ?Sized>(families: &[&'f F], identity: &Identity) -> Result<&'f F, UnknownModel> {
    let by = |names: fn(&F) -> &'static [&'static str], name: &str| families.iter().copied().find(|f| names(f).contains(&name));
    let found = match &identity.gguf_arch {
        Some(arch) => by(F::gguf_architectures, arch),
        None => identity
            .model_type
            .iter()
            .find_map(|t| by(F::model_types, t))
            .or_else(|| identity.architectures.iter().find_map(|a| by(F::architectures, a))),
    };
    found.ok_or_else(|| {
        let name = identity.gguf_arch.as_ref().or(identity.model_type.as_ref()).or(identity.architectures.first());
        let all = families.iter().flat_map(|f| match identity.gguf_arch {
            Some(_) => f.gguf_architectures().iter(),
            None if identity.model_type.is_some() => f.model_types().iter(),
            None => f.architectures().iter(),
        });
        UnknownModel {
            what: identity.to_string(),
            nearest: name.map(|n| nearest(n, all.copied())).unwrap_or_default(),
            known: families.iter().map(|f| f.name().to_owned()).collect(),
        }
    })
}

static FAMILIES: RwLock<Vec<&'static dyn Family>> = RwLock::new(Vec::new());

/// Makes a family known to [`registered`], and so to the messages of [`assert_family`].  One of a name that is known
/// already changes nothing.
pub fn register(family: &'static dyn Family) {
    let mut families = FAMILIES.write().unwrap_or_else(PoisonError::into_inner);
    if !families.iter().any(|f| f.name() == family.name()) {
        families.push(family);
    }
}

/// Every family that was registered.
pub fn registered() -> Vec<&'static dyn Family> {
    FAMILIES.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A checkpoint that was given to the program of another family.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FamilyError {
    /// It is of another family, or of none that is known.
    #[error("{}: found {what}, which {family} does not run; {redirect}", path.display())]
    Wrong {
        /// The checkpoint.
        path: PathBuf,
        /// What it says it is.
        what: String,
        /// The family it was given to.
        family: &'static str,
        /// What to do.
        redirect: String,
    },
    /// What it is cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Makes sure that a checkpoint is of this family: by GGUF architecture, else by `model_type` or class name of
/// `config.json`.  One that does not say what it is passes: its settings and weights will tell.
///
/// # Errors
/// [`FamilyError::Wrong`] names the program of the registered family that answers to it.
pub fn assert_family<F: Family + ?Sized>(checkpoint: &Checkpoint, family: &F) -> Result<(), FamilyError> {
    if let Some(gguf) = checkpoint.gguf() {
        return assert_gguf_family(gguf, family);
    }
    let identity = Identity::of(checkpoint)?;
    if identity == (Identity { files: identity.files.clone(), ..Identity::default() }) {
        return Ok(());
    }
    assert_identity(&identity, family, checkpoint.path())
}

/// Makes sure that a GGUF file is of this family.
///
/// # Errors
/// [`FamilyError::Wrong`] as [`assert_family`]; [`FamilyError::Config`] for metadata without an architecture.
pub fn assert_gguf_family<F: Family + ?Sized>(gguf: &Gguf, family: &F) -> Result<(), FamilyError> {
    let arch = gguf.architecture().map_err(|e: GgufError| ConfigError::from(e))?.to_owned();
    let identity = Identity { gguf_arch: Some(arch), ..Identity::default() };
    assert_identity(&identity, family, gguf.path().unwrap_or(Path::new("GGUF bytes in memory")))
}

fn assert_identity<F: Family + ?Sized>(identity: &Identity, family: &F, path: &Path) -> Result<(), FamilyError> {
    if find(&[family], identity).is_ok() {
        return Ok(());
    }
    let shown = path.display();
    let redirect = match find(&registered(), identity) {
        Ok(right) => format!("run {} {shown}, or rlx-run auto {shown}", right.program()),
        // The program of one family does not know the others.
        Err(_) if registered().len() < 2 => format!("run rlx-run auto {shown}, which knows all families"),
        Err(unknown) => unknown.to_string(),
    };
    Err(FamilyError::Wrong { path: path.into(), what: identity.to_string(), family: family.name(), redirect })
}
