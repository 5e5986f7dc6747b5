//! `act(x[…, :N]) · x[…, N:]` becomes one op.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::{BinaryOp, Slice, Swiglu};
use rlx_ir::{Dim, Graph, Op};

/// Finds gated activations over the two halves of one value, as the merge of gate and up
/// projections leaves them and fused checkpoints spell them.
pub fn run(graph: Graph) -> Graph {
    let uses = graph.use_counts();
    let mut r = Rewrite::new(graph);
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        if !matches!(&node.op, Op::Binary(b) if b.op == BinaryOp::Mul) {
            continue;
        }
        let (a, b) = (node.ins[0], node.ins[1]);
        let Some(found) = gated(&r, &uses, a, b).or_else(|| gated(&r, &uses, b, a)) else { continue };
        let (x, op, through) = found;
        r.set(i, op, &[x]);
        through.into_iter().for_each(|n| r.kill(n));
    }
    r.finish()
}

/// For `act(slice(x, 0, n)) · slice(x, n, n)`: x, the op, and the nodes that nothing else reads.
fn gated(r: &Rewrite, uses: &[u32], gate: ValueId, up: ValueId) -> Option<(ValueId, Swiglu, Vec<usize>)> {
    let (act_at, act) = r.producer(gate)?;
    let Op::Unary(u) = &act.op else { return None };
    if !super::is_activation(u.op) || uses[gate.index()] != 1 {
        return None;
    }
    let ((low_at, low_x, low), (high_at, high_x, high)) = (part(r, act.ins[0])?, part(r, up)?);
    let n = &low.len;
    let last = r.shape(low_x).len().checked_sub(1)?;
    let halves = low.axis == last && high.axis == last && low.start == Dim::from(0) && high.start == *n && high.len == *n;
    if low_x != high_x || !halves || r.shape(low_x)[last] != n.clone() * 2 {
        return None;
    }
    let single = [(act.ins[0], low_at), (up, high_at)].into_iter().filter(|(v, _)| uses[v.index()] == 1).map(|p| p.1);
    Some((low_x, Swiglu { act: u.op }, std::iter::once(act_at).chain(single).collect()))
}

/// The slice that defines a value: node, what it slices, attributes.
fn part(r: &Rewrite, v: ValueId) -> Option<(usize, ValueId, &Slice)> {
    let (at, node) = r.producer(v)?;
    let Op::Slice(s) = &node.op else { return None };
    Some((at, node.ins[0], s))
}
