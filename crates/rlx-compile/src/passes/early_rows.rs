//! Rows are picked before what is computed row by row, not after.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::Gather;
use rlx_ir::{Dim, Graph, Op, Type};

/// Which rows of a value are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// Those of this index.
    Rows(ValueId),
    All,
}

impl Wanted {
    fn and(self, other: Wanted) -> Wanted {
        match (self, other) {
            (Wanted::Nothing, w) | (w, Wanted::Nothing) => w,
            (a, b) if a == b => a,
            _ => Wanted::All,
        }
    }
}

/// `gather(f(x), rows)` becomes `f(gather(x, rows))` for every `f` that computes each row from the same row of `x`, so
/// that of a prompt's last layer only the rows whose logits are asked for go through its feed-forward block.
///
/// The table has a symbol for rows (the tokens of a call) and the index another: it is taken to pick from them.  A pick
/// from picked rows moves up to where those are picked.  What rows were picked from stays until [`super::dce`].
pub fn run(graph: Graph) -> Graph {
    let wanted = wanted(&graph);
    let mut early = Early { picked: vec![None; graph.values.len()], r: Rewrite::new(graph) };
    for i in 0..early.r.len() {
        if let Some((table, index)) = pick(&early.r.graph, i) {
            if let Some(rows) = early.known(table, index) {
                early.r.replace(early.r.graph.nodes[i].outs[0], rows);
                early.r.kill(i);
            }
            continue;
        }
        let node = &early.r.graph.nodes[i];
        if let Wanted::Rows(index) = wanted[node.outs[0].index()]
            && is_by_row(&node.op)
            && early.r.defined_before(index, i)
        {
            early.compute(i, index);
        }
    }
    early.r.finish()
}

/// A graph under change.  Values are those it came with: what replaces them has no rows to pick any more.
struct Early {
    r: Rewrite,
    /// Of each value, an index and its rows of that index.
    picked: Vec<Option<(ValueId, ValueId)>>,
}

impl Early {
    /// Rows of a value that are there already.
    fn known(&self, v: ValueId, index: ValueId) -> Option<ValueId> {
        self.picked[v.index()].filter(|p| p.0 == index).map(|p| p.1)
    }

    /// Computes the rows of node `i`; nothing where a type rule refuses them.
    fn compute(&mut self, i: usize, index: ValueId) -> Option<()> {
        let node = self.r.graph.nodes[i].clone();
        let mut ins = node.ins;
        for v in &mut ins {
            if has_rows_of(&self.r.graph, *v, node.outs[0]) {
                *v = self.rows(*v, index, i)?;
            }
        }
        let outs = self.r.insert(i, node.op, &ins, node.scope)?;
        self.picked[node.outs[0].index()] = Some((index, outs[0]));
        Some(())
    }

    /// Rows of a value before node `i`.
    fn rows(&mut self, v: ValueId, index: ValueId, i: usize) -> Option<ValueId> {
        if let Some(rows) = self.known(v, index) {
            return Some(rows);
        }
        let (to, scope) = (self.r.dtype(v)?, self.r.graph.nodes[i].scope.clone());
        let rows = self.r.insert(i, Gather { to }, &[v, index], scope)?[0];
        self.picked[v.index()] = Some((index, rows));
        Some(rows)
    }
}

/// What is read of every value, from the last node to the first.
fn wanted(g: &Graph) -> Vec<Wanted> {
    let mut wanted = vec![Wanted::Nothing; g.values.len()];
    g.outputs.iter().map(|o| o.1).chain(g.updates.iter().map(|u| u.1)).for_each(|v| wanted[v.index()] = Wanted::All);
    for i in (0..g.nodes.len()).rev() {
        let node = &g.nodes[i];
        if node.outs.iter().all(|v| wanted[v.index()] == Wanted::Nothing) {
            continue;
        }
        let rows = match (pick(g, i), node.outs.as_slice()) {
            (Some((table, index)), _) => Some((table, Wanted::Rows(index))),
            (None, [out]) if is_by_row(&node.op) => Some((*out, wanted[out.index()])),
            _ => None,
        };
        for v in &node.ins {
            let w = match rows {
                Some((like, w)) if has_rows_of(g, *v, like) => w,
                _ => Wanted::All,
            };
            wanted[v.index()] = wanted[v.index()].and(w);
        }
    }
    wanted
}

/// Table and index of a node that picks rows of what was computed.
fn pick(g: &Graph, i: usize) -> Option<(ValueId, ValueId)> {
    let Op::Gather(gather) = &g.nodes[i].op else { return None };
    let (table, index) = (g.nodes[i].ins[0], g.nodes[i].ins[1]);
    let (Type::Tensor(d, t), Type::Tensor(_, n)) = (g.ty(table), g.ty(index)) else { return None };
    let picks = |n: &[Dim], t: &Dim| n.len() == 1 && n[0] != *t && n[0].as_sym().is_some() && t.as_sym().is_some();
    (gather.to == *d && picks(&n.0, t.0.first()?)).then_some((table, index))
}

/// Whether a value's first dimension is that of `like`, so that its rows meet those.
fn has_rows_of(g: &Graph, v: ValueId, like: ValueId) -> bool {
    match (g.ty(v), g.ty(like)) {
        (Type::Tensor(_, a), Type::Tensor(_, b)) => a.rank() >= 2 && a.rank() == b.rank() && a.0.first() == b.0.first(),
        _ => false,
    }
}

/// Ops of one result, each row of which follows from the same row of the inputs that have as many.
fn is_by_row(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Linear(_) | Op::RmsNorm(_) | Op::LayerNorm(_))
}
