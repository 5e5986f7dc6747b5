//! Common subexpressions: of nodes with the same op, attributes and inputs, the first computes
//! and the others read it.

use super::rewrite::Rewrite;
use rlx_ir::{Graph, Type};
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Feeds text to a hasher.
struct HashText(DefaultHasher);

impl Write for HashText {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}

/// Merges equal nodes.  Nodes that write states stay, each a write of its own.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    // The latest node of each hash, and for every node the one before it of the same hash.
    let mut latest: HashMap<u64, usize> = HashMap::with_capacity(r.len());
    let mut earlier: Vec<Option<usize>> = vec![None; r.len()];
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        if node.outs.iter().any(|v| matches!(r.graph.ty(*v), Type::Cache(..) | Type::State(..))) {
            continue;
        }
        let mut h = HashText(DefaultHasher::new());
        // Writing to a hasher does not fail.
        let _ = write!(h, "{:?}", node.op);
        node.ins.iter().for_each(|v| v.0.hash(&mut h.0));
        let hash = h.0.finish();
        let equal = |k: &usize| r.graph.nodes[*k].op == node.op && r.graph.nodes[*k].ins == node.ins;
        let Some(first) = std::iter::successors(latest.get(&hash).copied(), |k| earlier[*k]).find(equal) else {
            earlier[i] = latest.insert(hash, i);
            continue;
        };
        for k in 0..r.graph.nodes[i].outs.len() {
            let (old, new) = (r.graph.nodes[i].outs[k], r.graph.nodes[first].outs[k]);
            r.replace(old, new);
        }
        r.kill(i);
    }
    r.finish()
}
