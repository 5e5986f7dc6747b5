//! What a checkpoint is and whether it can run, judged without tensor data.
//!
//! An [`Outline`] is what is known from headers, settings and the names of files, of a path on disk ([`Outline::open`])
//! or of a repository that is not here.  [`judge`] says of an outline what it is ([`Kind`]), whether a family runs it
//! ([`Verdict`]), and why.  Nothing is computed and no weight is read, so a verdict of [`Verdict::Supported`] speaks of
//! the kind of model, its settings and its element types, not of the values in it.
//!
//! The names of architectures are facts of llama.cpp (`general.architecture`) and of transformers (`model_type`); they
//! stand in the table `known.txt`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod kind;
mod outline;
mod verdict;

pub use kind::Kind;
pub use outline::{Container, FileEntry, Outline, OutlineError, OutlineTensor};
pub use verdict::{Judgement, Verdict, judge};
