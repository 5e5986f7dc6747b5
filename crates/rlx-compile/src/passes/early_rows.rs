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
/// The table has a symbol for rows (the tokens of a call) and the index another: it is taken to pick from them.
pub fn run(graph: Graph) -> Graph {
    let wanted = wanted(&graph);
    let mut is_done = true;
    let mut r = Rewrite::new(graph);
    // The rows of a value that were picked, and by which index.
    let mut picked: Vec<Option<(ValueId, ValueId)>> = vec![None; r.graph.values.len()];
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        let out = node.outs[0];
        if let Some((table, index)) = pick(&r.graph, i) {
            if let Some((_, rows)) = picked[table.index()].filter(|p| p.0 == index) {
                r.replace(out, rows);
                r.kill(i);
                is_done = false;
            }
            continue;
        }
        let Wanted::Rows(index) = wanted[out.index()] else { continue };
        if !is_by_row(&node.op) || !r.defined_before(index, i) {
            continue;
        }
        let (op, mut ins, scope) = (node.op.clone(), node.ins.to_vec(), node.scope.clone());
        let dtype = |v: ValueId| r.dtype(v);
        let by_row: Vec<Option<_>> = ins.iter().map(|v| dtype(*v).filter(|_| has_rows_of(&r.graph, *v, out))).collect();
        let mut whole = true;
        for (v, to) in ins.iter_mut().zip(by_row) {
            let Some(to) = to else { continue };
            let rows = match picked[v.index()].filter(|p| p.0 == index) {
                Some((_, rows)) => Some(rows),
                None => r.insert(i, Gather { to }, &[*v, index], scope.clone()).map(|outs| outs[0]),
            };
            match rows {
                Some(rows) => {
                    picked[v.index()] = Some((index, rows));
                    *v = rows;
                }
                None => whole = false,
            }
        }
        let Some(outs) = whole.then(|| r.insert(i, op, &ins, scope)).flatten() else { continue };
        picked[out.index()] = Some((index, outs[0]));
    }
    // What the rows were picked from is read no more.
    if is_done { r.graph } else { super::dce::run(r.finish()) }
}

/// What is read of every value, from the last node to the first.
fn wanted(g: &Graph) -> Vec<Wanted> {
    let mut wanted = vec![Wanted::Nothing; g.values.len()];
    g.outputs.iter().map(|o| o.1).chain(g.updates.iter().map(|u| u.1)).for_each(|v| wanted[v.index()] = Wanted::All);
    for i in (0..g.nodes.len()).rev() {
        let node = &g.nodes[i];
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
