//! A residual sum and the norm that reads it become one op.

use super::rewrite::Rewrite;
use rlx_ir::ops::{AddRmsNorm, BinaryOp};
use rlx_ir::{Graph, Op};

/// `rms_norm(a + b, w)` becomes `add_rms_norm` where the sum, which both results stand beside, is
/// read elsewhere too.  a and b have the sum's shape.
pub fn run(graph: Graph) -> Graph {
    let uses = graph.use_counts();
    let mut r = Rewrite::new(graph);
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        let Op::RmsNorm(norm) = &node.op else { continue };
        let (sum, w) = (node.ins[0], node.ins[1]);
        let Some((at, add)) = r.producer(sum) else { continue };
        let (Op::Binary(op), whole) = (&add.op, |k: usize| r.graph.ty(add.ins[k]) == r.graph.ty(sum)) else { continue };
        // The norm moves up to the sum, so its weight must be there.
        if op.op != BinaryOp::Add || uses[sum.index()] < 2 || !whole(0) || !whole(1) || !r.defined_before(w, at) {
            continue;
        }
        let (fused, ins, scope) = (AddRmsNorm { eps: norm.eps }, [add.ins[0], add.ins[1], w], node.scope.clone());
        let normed = node.outs[0];
        let Some(outs) = r.insert(at, fused, &ins, scope) else { continue };
        r.replace(sum, outs[0]);
        r.replace(normed, outs[1]);
        r.kill(at);
        r.kill(i);
    }
    r.finish()
}
