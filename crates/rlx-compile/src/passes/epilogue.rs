//! Bias, activation and residual move into the product before them.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::{BinaryOp, Linear};
use rlx_ir::{Graph, Op, Type};

/// Fuses chains `product → + bias → activation → + residual`, any part of which may be missing,
/// where nothing else reads what lies between.
///
/// The product moves down to the last op it takes in, where everything that op reads is defined.
pub fn run(graph: Graph) -> Graph {
    let uses = graph.use_counts();
    let mut r = Rewrite::new(graph);
    for i in 0..r.len() {
        let node = &r.graph.nodes[i];
        let fused = match &node.op {
            Op::Unary(u) if super::is_activation(u.op) => product(&r, &uses, node.ins[0]).and_then(|(at, l)| {
                let op = Linear { act: Some(u.op), ..l.clone() };
                (l.act.is_none() && !l.residual).then(|| (at, op, r.graph.nodes[at].ins.to_vec()))
            }),
            Op::Binary(b) if b.op == BinaryOp::Add => sum(&r, &uses, node.ins[0], node.ins[1]),
            _ => None,
        };
        if let Some((at, op, ins)) = fused {
            // Messages about the product name the layer it belongs to, not whoever added to it.
            r.graph.nodes[i].scope = r.graph.nodes[at].scope.clone();
            r.set(i, op, &ins);
            r.kill(at);
        }
    }
    r.finish()
}

/// The product that defines a value which one node alone reads.
fn product<'r>(r: &'r Rewrite, uses: &[u32], v: ValueId) -> Option<(usize, &'r Linear)> {
    let (at, node) = r.producer(v).filter(|_| uses[v.index()] == 1)?;
    match &node.op {
        Op::Linear(l) => Some((at, l)),
        _ => None,
    }
}

/// `a + b` as a product with a bias or residual more.  Of two products the later one takes the
/// other as its residual.
fn sum(r: &Rewrite, uses: &[u32], a: ValueId, b: ValueId) -> Option<(usize, Linear, Vec<ValueId>)> {
    let mut choices: Vec<(usize, ValueId, ValueId)> =
        [(a, b), (b, a)].into_iter().filter_map(|(y, other)| Some((product(r, uses, y)?.0, y, other))).collect();
    choices.sort_by_key(|c| std::cmp::Reverse(c.0));
    choices.into_iter().find_map(|(at, y, other)| {
        let l = product(r, uses, y)?.1;
        let mut ins = r.graph.nodes[at].ins.to_vec();
        let (Type::Tensor(d, s), given) = (r.graph.ty(y), r.graph.ty(other)) else { return None };
        let bias = Type::tensor(*d, &s.0[s.rank().saturating_sub(1)..]);
        let op = if *given == bias && !l.bias && l.act.is_none() && !l.residual {
            Linear { bias: true, ..l.clone() }
        } else if given == r.graph.ty(y) && !l.residual {
            Linear { residual: true, ..l.clone() }
        } else {
            return None;
        };
        ins.push(other);
        Some((at, op, ins))
    })
}
