//! The one way passes change a graph: nodes are edited, dropped or inserted, values forwarded to
//! others, and [`Rewrite::finish`] puts the result in order with dense ids.
//!
//! Nothing is copied, so a pass costs what it looks at.

use rlx_ir::graph::{Def, Graph, Node, NodeId, ValueId};
use rlx_ir::{DType, Dim, Op, Type};
use smallvec::SmallVec;
use std::sync::Arc;

/// A graph under change.  Until [`Rewrite::finish`], ids stay as they are; inserted nodes stand
/// behind the original ones in `graph.nodes`.
pub struct Rewrite {
    /// The graph.  Read it freely; change it through the methods.
    pub graph: Graph,
    /// Nodes the graph came with.
    n_original: usize,
    /// What each value is replaced by; itself when it stays.
    forward: Vec<ValueId>,
    dead: Vec<bool>,
    /// For each inserted node, the original node it goes before.
    before: Vec<usize>,
    changed: bool,
}

impl Rewrite {
    /// Starts changing a graph.
    pub fn new(graph: Graph) -> Rewrite {
        let forward = (0..graph.values.len() as u32).map(ValueId).collect();
        let n_original = graph.nodes.len();
        Rewrite { dead: vec![false; n_original], graph, n_original, forward, before: vec![], changed: false }
    }

    /// Original nodes; passes walk `0..len()`.
    pub fn len(&self) -> usize {
        self.n_original
    }

    /// What stands for a value now.
    pub fn resolve(&mut self, v: ValueId) -> ValueId {
        let mut to = v;
        while self.forward[to.index()] != to {
            to = self.forward[to.index()];
        }
        // Shorten the path, so that long chains of replacements stay cheap.
        let mut at = v;
        while at != to {
            at = std::mem::replace(&mut self.forward[at.index()], to);
        }
        to
    }

    /// Applies replacements to the inputs of node `i`.
    pub fn resolve_inputs(&mut self, i: usize) {
        for k in 0..self.graph.nodes[i].ins.len() {
            let v = self.graph.nodes[i].ins[k];
            let to = self.resolve(v);
            self.graph.nodes[i].ins[k] = to;
        }
    }

    /// From now on `new` stands for `old`.  `new` must be defined before every use of `old`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        let (old, new) = (self.resolve(old), self.resolve(new));
        debug_assert_eq!(self.graph.ty(old), self.graph.ty(new));
        self.forward[old.index()] = new;
        self.changed = true;
    }

    /// Drops a node; nothing may use its outputs any more.
    pub fn kill(&mut self, i: usize) {
        self.dead[i] = true;
        self.changed = true;
    }

    /// Gives node `i` another op and inputs; its outputs keep their types.
    pub fn set(&mut self, i: usize, op: impl Into<Op>, ins: &[ValueId]) {
        let node = &mut self.graph.nodes[i];
        node.op = op.into();
        node.ins = ins.into();
        self.changed = true;
    }

    /// Inserts a node before original node `i`; `None` when the type rule refuses it.
    pub fn insert(&mut self, i: usize, op: impl Into<Op>, ins: &[ValueId], scope: Arc<str>) -> Option<SmallVec<[ValueId; 2]>> {
        let outs = self.graph.apply(op.into(), ins, scope).ok()?;
        self.forward.extend(outs.iter().copied());
        self.dead.push(false);
        self.before.push(i);
        self.changed = true;
        Some(outs)
    }

    /// The node that defines a value, with its index.
    pub fn producer(&self, v: ValueId) -> Option<(usize, &Node)> {
        match self.graph.values[v.index()].def {
            Def::Node(n, _) => Some((n.index(), &self.graph.nodes[n.index()])),
            _ => None,
        }
    }

    /// True when a value is there before original node `i` runs.
    pub fn defined_before(&self, v: ValueId, i: usize) -> bool {
        match self.graph.values[v.index()].def {
            Def::Node(n, _) if n.index() < self.n_original => n.index() < i,
            Def::Node(n, _) => self.before[n.index() - self.n_original] <= i,
            _ => true,
        }
    }

    /// Shape of a tensor; empty for anything else.
    pub fn shape(&self, v: ValueId) -> &[Dim] {
        match self.graph.ty(v) {
            Type::Tensor(_, s) => &s.0,
            _ => &[],
        }
    }

    /// Element type of a tensor.
    pub fn dtype(&self, v: ValueId) -> Option<DType> {
        match self.graph.ty(v) {
            Type::Tensor(d, _) => Some(*d),
            _ => None,
        }
    }

    /// The changed graph.  Taps whose value is gone are dropped.
    pub fn finish(mut self) -> Graph {
        if !self.changed {
            return self.graph;
        }
        for i in 0..self.graph.nodes.len() {
            if !self.dead[i] {
                self.resolve_inputs(i);
            }
        }
        let ends = |list: &mut Vec<(Arc<str>, ValueId)>| std::mem::take(list);
        let mut outputs = ends(&mut self.graph.outputs);
        let mut taps = ends(&mut self.graph.taps);
        let mut updates = std::mem::take(&mut self.graph.updates);
        outputs.iter_mut().chain(&mut taps).for_each(|(_, v)| *v = self.resolve(*v));
        updates.iter_mut().for_each(|(_, v)| *v = self.resolve(*v));

        // Node order: inserted nodes before the original they were inserted at, in order.
        let mut order: Vec<(usize, usize)> = (0..self.graph.nodes.len())
            .filter(|i| !self.dead[*i])
            .map(|i| match i.checked_sub(self.n_original) {
                Some(k) => (2 * self.before[k], i),
                None => (2 * i + 1, i),
            })
            .collect();
        order.sort_unstable();
        let mut new_node = vec![u32::MAX; self.graph.nodes.len()];
        order.iter().enumerate().for_each(|(n, (_, i))| new_node[*i] = n as u32);

        // Values whose node is gone go; the rest keep their order.
        let mut new_value = vec![ValueId(u32::MAX); self.graph.values.len()];
        let mut n = 0;
        let mut at = 0;
        self.graph.values.retain_mut(|info| {
            let keep = match &mut info.def {
                Def::Node(id, _) => {
                    *id = NodeId(new_node[id.index()]);
                    id.0 != u32::MAX
                }
                _ => true,
            };
            if keep {
                new_value[at] = ValueId(n);
                n += 1;
            }
            at += 1;
            keep
        });
        let map = |v: &mut ValueId| *v = new_value[v.index()];
        let g = &mut self.graph;
        let mut nodes: Vec<Option<Node>> = std::mem::take(&mut g.nodes).into_iter().map(Some).collect();
        g.nodes = order.into_iter().filter_map(|(_, i)| nodes[i].take()).collect();
        g.nodes.iter_mut().flat_map(|n| n.ins.iter_mut().chain(&mut n.outs)).for_each(map);
        g.inputs.iter_mut().chain(&mut g.states).for_each(|(_, v)| map(v));
        g.params.iter_mut().for_each(|p| map(&mut p.value));
        outputs.iter_mut().chain(&mut taps).for_each(|(_, v)| map(v));
        updates.iter_mut().for_each(|(_, v)| map(v));
        taps.retain(|t| t.1.0 != u32::MAX);
        (g.outputs, g.taps, g.updates) = (outputs, taps, updates);
        self.graph
    }
}
