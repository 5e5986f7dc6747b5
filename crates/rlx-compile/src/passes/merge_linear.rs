//! Products that read one input become one product with several weights: query, key and value
//! projections, gate and up projections.
//!
//! One pass over the activations then serves all of them, and a device has one large product to
//! spread over its threads instead of several small ones.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::{BinaryOp, Linear, Slice};
use rlx_ir::{Dim, Graph, Op};
use std::collections::HashMap;
use std::sync::Arc;

/// Merges plain products of one scope that share their input into one, followed by a slice of the
/// last dimension for each.
///
/// Only within a scope: projections of one input in many layers (cross attention over an encoder's
/// result) would otherwise all be computed, and kept, at the first of them.  Biases stay behind
/// the slices.
pub fn run(graph: Graph) -> Graph {
    let uses = Uses::of(&graph);
    let mut r = Rewrite::new(graph);
    let mut groups: Vec<Vec<usize>> = vec![];
    let mut by_input: HashMap<(ValueId, Arc<str>), usize> = HashMap::new();
    for (i, node) in r.graph.nodes.iter().enumerate() {
        if !matches!(&node.op, Op::Linear(l) if **l == Linear::plain(1)) {
            continue;
        }
        let group = *by_input.entry((node.ins[0], node.scope.clone())).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(g) if r.defined_before(node.ins[1], g[0]) => g.push(i),
            Some(_) => {}
            None => groups.push(vec![i]),
        }
    }
    for mut group in groups.into_iter().filter(|g| g.len() > 1) {
        let first = group[0];
        // `swiglu` takes the gate first.
        if let [a, b] = group[..]
            && !uses.is_gate(&r.graph, a)
            && uses.is_gate(&r.graph, b)
        {
            group.swap(0, 1);
        }
        merge(&mut r, &group, first);
    }
    r.finish()
}

/// Puts one product for `group` before node `first`.
fn merge(r: &mut Rewrite, group: &[usize], first: usize) {
    let scope = r.graph.nodes[first].scope.clone();
    let x = r.graph.nodes[first].ins[0];
    let ins: Vec<ValueId> = std::iter::once(x).chain(group.iter().map(|i| r.graph.nodes[*i].ins[1])).collect();
    let Some(merged) = r.insert(first, Linear::plain(group.len()), &ins, scope.clone()) else { return };
    let axis = r.shape(merged[0]).len() - 1;
    let mut start = Dim::from(0);
    for i in group {
        let out = r.graph.nodes[*i].outs[0];
        let len = r.shape(out)[axis].clone();
        let slice = Slice { axis, start: start.clone(), len: len.clone() };
        start = start + &len;
        if let Some(part) = r.insert(*i, slice, &[merged[0]], scope.clone()) {
            r.replace(out, part[0]);
            r.kill(*i);
        }
    }
}

/// The nodes that read each value first and second; enough to tell a single use.
struct Uses {
    count: Vec<u32>,
    last_user: Vec<u32>,
}

impl Uses {
    fn of(graph: &Graph) -> Uses {
        let mut last_user = vec![u32::MAX; graph.values.len()];
        for (i, node) in graph.nodes.iter().enumerate() {
            node.ins.iter().for_each(|v| last_user[v.index()] = i as u32);
        }
        Uses { count: graph.use_counts(), last_user }
    }

    /// The only node that reads a value.
    fn single<'g>(&self, graph: &'g Graph, v: ValueId) -> Option<&'g rlx_ir::Node> {
        (self.count[v.index()] == 1).then(|| graph.nodes.get(self.last_user[v.index()] as usize)).flatten()
    }

    /// True when the result of a product is only activated and then multiplied.
    fn is_gate(&self, graph: &Graph, i: usize) -> bool {
        let act = self.single(graph, graph.nodes[i].outs[0]).filter(|n| matches!(&n.op, Op::Unary(u) if super::is_activation(u.op)));
        let product = act.and_then(|n| self.single(graph, n.outs[0]));
        product.is_some_and(|n| matches!(&n.op, Op::Binary(b) if b.op == BinaryOp::Mul))
    }
}
