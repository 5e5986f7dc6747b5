//! Evaluates small constant subgraphs with the reference interpreter.

use super::rewrite::Rewrite;
use rlx_ir::interp::{EvalCx, Value};
use rlx_ir::ops::Constant;
use rlx_ir::{Bindings, Graph, Op, Tensor, Type};
use std::collections::HashMap;

/// Elements of the largest constant this makes; anything larger is cheaper to compute than to keep.
pub const MAX_ELEMENTS: usize = 4096;
/// Elements evaluated in one graph, after which folding stops.
const BUDGET: usize = 1 << 22;

/// Turns nodes that depend on constants alone into constants.  Ranges and repetitions by
/// themselves stay as they are: they are shorter than their elements.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    let mut known: Vec<Option<Value>> = vec![None; r.graph.values.len()];
    let mut budget = BUDGET;
    for i in 0..r.len() {
        let node = &r.graph.nodes[i];
        let Some(size) = size(r.graph.ty(node.outs[0])).filter(|s| *s <= budget && foldable(&node.op)) else { continue };
        let Some(ins) = node.ins.iter().map(|v| known[v.index()].as_ref()).collect::<Option<Vec<_>>>() else { continue };
        let mut cx = EvalCx { dims: &Bindings::new(), states: &mut HashMap::new() };
        let Ok(mut outs) = node.op.eval(&mut cx, &ins) else { continue };
        // Constants are finite, and whole numbers that left their range depend on the device.
        let sound = |t: &Tensor| t.data.iter().all(|v| v.is_finite() && (t.dtype.is_float() || t.dtype.round(*v) == *v));
        if matches!(outs.first(), Some(Value::Tensor(t)) if sound(t)) {
            budget -= size;
            known[node.outs[0].index()] = outs.pop();
        }
    }
    // A known value becomes a constant where something unknown reads it.
    let mut wanted = vec![false; known.len()];
    for node in &r.graph.nodes {
        if node.outs.iter().any(|v| known[v.index()].is_none()) {
            node.ins.iter().for_each(|v| wanted[v.index()] = true);
        }
    }
    let ends = r.graph.outputs.iter().map(|o| o.1).chain(r.graph.updates.iter().map(|u| u.1));
    ends.for_each(|v| wanted[v.index()] = true);
    for i in 0..r.len() {
        let node = &r.graph.nodes[i];
        let out = node.outs[0].index();
        if !wanted[out] || matches!(node.op, Op::Constant(_) | Op::Iota(_) | Op::Broadcast(_)) {
            continue;
        }
        if let Some(Value::Tensor(Tensor { dtype, shape, data })) = known[out].take() {
            r.set(i, Constant { dtype, shape, data: data.to_vec() }, &[]);
        }
    }
    r.finish()
}

/// Elements of a tensor of constant shape that is small enough to fold.
fn size(ty: &Type) -> Option<usize> {
    let Type::Tensor(dtype, shape) = ty else { return None };
    let n = shape.0.iter().try_fold(1usize, |n, d| n.checked_mul(d.as_const()?))?;
    (n <= MAX_ELEMENTS && !dtype.is_block()).then_some(n)
}

/// Ops whose cost is that of their elements.
fn foldable(op: &Op) -> bool {
    use Op::*;
    matches!(
        op,
        Unary(_)
            | Binary(_)
            | Select(_)
            | Cast(_)
            | Constant(_)
            | Iota(_)
            | Reshape(_)
            | Permute(_)
            | Broadcast(_)
            | Slice(_)
            | Concat(_)
            | Gather(_)
            | Reduce(_)
    )
}
