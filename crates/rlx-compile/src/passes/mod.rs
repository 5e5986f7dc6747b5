//! Graph passes.  Each takes a graph and returns one that computes the same, up to the rounding
//! that casts and constants spell out.
//!
//! Graphs must verify ([`rlx_ir::verify::verify`]); what comes out does too.  All passes are
//! deterministic, free of recursion and near-linear in the size of the graph.  Outputs, inputs,
//! parameters and state updates keep their names and order; an output may turn out to be an input,
//! a parameter, a constant or the same value as another output.  A tap whose value a fusion
//! swallows is dropped: promote taps that matter before compiling
//! ([`rlx_ir::Graph::promote_taps`]).

pub mod canonicalise;
pub mod constant_fold;
pub mod cse;
pub mod dce;
pub mod early_rows;
pub mod elementwise;
pub mod epilogue;
pub mod merge_linear;
pub mod norm_residual;
mod rewrite;
pub mod rope_append;
pub mod swiglu;

use rlx_ir::{Graph, ops::UnaryOp};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Which passes run.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionSwitches {
    /// Operations that do nothing are removed, equal forms are written one way.
    pub canonicalise: bool,
    /// Small constant subgraphs are evaluated.
    pub constant_fold: bool,
    /// Equal nodes are computed once.
    pub cse: bool,
    /// Nodes nobody uses are removed.
    pub dce: bool,
    /// Rows are picked before what is computed row by row.
    pub early_rows: bool,
    /// Products with one input become one product with several weights.
    pub merge_linear: bool,
    /// Gate activation times up projection becomes `swiglu`.
    pub swiglu: bool,
    /// Bias, activation and residual move into the product before them.
    pub epilogue: bool,
    /// A residual sum and the norm that reads it become one op.
    pub norm_residual: bool,
    /// `norm_residual` goes before `epilogue` and so takes the sums that both could.
    pub norm_residual_first: bool,
    /// Rotation and append of keys become one op.
    pub rope_append: bool,
    /// Trees of elementwise ops become one op.
    pub elementwise: bool,
}

impl Default for FusionSwitches {
    /// Every pass, the epilogue before the norm.
    fn default() -> FusionSwitches {
        FusionSwitches { norm_residual_first: false, ..FusionSwitches::all(true) }
    }
}

impl FusionSwitches {
    /// Every switch at `on`.
    pub fn all(on: bool) -> FusionSwitches {
        FusionSwitches {
            canonicalise: on,
            constant_fold: on,
            cse: on,
            dce: on,
            early_rows: on,
            merge_linear: on,
            swiglu: on,
            epilogue: on,
            norm_residual: on,
            norm_residual_first: on,
            rope_append: on,
            elementwise: on,
        }
    }
}

/// What one pass did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassReport {
    /// Name of the pass.
    pub name: &'static str,
    /// Nodes it was given.
    pub nodes_before: usize,
    /// Nodes it left.
    pub nodes_after: usize,
    /// Microseconds it took.
    pub micros: u64,
}

/// A pass by its name.
pub type Pass = (&'static str, fn(Graph) -> Graph);

/// The passes that `on` switches on, in the order they run.
pub fn pipeline(on: &FusionSwitches) -> Vec<Pass> {
    let norm = |now: bool| (on.norm_residual && now, ("norm_residual", norm_residual::run as fn(Graph) -> Graph));
    let all: [(bool, Pass); 13] = [
        (on.constant_fold, ("constant_fold", constant_fold::run)),
        (on.canonicalise, ("canonicalise", canonicalise::run)),
        (on.cse, ("cse", cse::run)),
        (on.early_rows, ("early_rows", early_rows::run)),
        (on.dce, ("dce", dce::run)),
        (on.merge_linear, ("merge_linear", merge_linear::run)),
        (on.swiglu, ("swiglu", swiglu::run)),
        norm(on.norm_residual_first),
        (on.epilogue, ("epilogue", epilogue::run)),
        norm(!on.norm_residual_first),
        (on.rope_append, ("rope_append", rope_append::run)),
        (on.elementwise, ("elementwise", elementwise::run)),
        (on.dce, ("dce", dce::run)),
    ];
    all.into_iter().filter(|p| p.0).map(|p| p.1).collect()
}

/// Runs the passes that `on` switches on; says what each did.
pub fn run_all(mut graph: Graph, on: &FusionSwitches) -> (Graph, Vec<PassReport>) {
    let mut reports = vec![];
    for (name, pass) in pipeline(on) {
        let (nodes_before, start) = (graph.nodes.len(), Instant::now());
        graph = pass(graph);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        reports.push(PassReport { name, nodes_before, nodes_after: graph.nodes.len(), micros });
    }
    (graph, reports)
}

/// Functions that serve as activations of a layer: what products and gates take in.
pub(crate) fn is_activation(op: UnaryOp) -> bool {
    use UnaryOp::*;
    matches!(op, Silu | Gelu | GeluTanh | Relu | Sigmoid | Tanh | Softplus)
}
