//! The tensor graph IR: types with symbolic dimensions, primitive and composite ops, a builder that
//! collects diagnostics, a verifier, a text form that parses back, and a float64 reference
//! interpreter that says what every op means.
//!
//! A [`Graph`] is a list of nodes in topological order over SSA values.  Sequence models work on a
//! flat token axis with [`Segments`] that say where each sequence starts and what it has cached;
//! caches and recurrent states are named graph resources ([`Type::Cache`], [`Type::State`]).
//!
//! This crate knows no files and no devices.

pub mod builder;
pub mod dim;
pub mod dtype;
pub mod graph;
pub mod interp;
pub mod ops;
pub mod sample;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;

pub use builder::{Builder, Diag, Diags, Options, Scope, Val};
pub use dim::{Bindings, Dim, DimError, Sym};
pub use dtype::DType;
pub use graph::{Def, Graph, Node, NodeId, Param, ValueId};
pub use interp::{EvalError, Interpreter};
pub use ops::{Op, OpDef};
pub use sample::{Case, Gen, Samples, Step, Tol, Weight};
pub use tensor::{Segments, Tensor, TensorError};
pub use types::{Inferred, Shape, Type, TypeError, rule};
