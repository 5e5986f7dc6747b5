//! Common subexpressions: of nodes with the same op, attributes and inputs, the first computes
//! and the others read it.

use super::rewrite::Rewrite;
use rlx_ir::{Graph, Node, Type};
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

fn hash(node: &Node) -> u64 {
    let mut h = HashText(DefaultHasher::new());
    // Writing to a hasher does not fail.
    let _ = write!(h, "{:?}", node.op);
    node.ins.hash(&mut h.0);
    h.0.finish()
}

/// Merges equal nodes.  Nodes that write states stay, each a write of its own.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    // The first node to read each value as its first input: equal nodes do, and most values have no other, so most nodes
    // need no hash.
    let mut reader: Vec<Option<usize>> = vec![None; r.graph.values.len()];
    let mut is_hashed = vec![false; r.len()];
    // Of nodes that were hashed, the latest of each hash, and the one before each of the same hash.
    let mut latest: HashMap<u64, usize> = HashMap::new();
    let mut earlier: HashMap<usize, usize> = HashMap::new();
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        if node.outs.iter().any(|v| matches!(r.graph.ty(*v), Type::Cache(..) | Type::State(..))) {
            continue;
        }
        if let Some(v) = node.ins.first() {
            let Some(first) = reader[v.index()] else {
                reader[v.index()] = Some(i);
                continue;
            };
            if !std::mem::replace(&mut is_hashed[first], true) {
                latest.insert(hash(&r.graph.nodes[first]), first).map(|k| earlier.insert(first, k));
            }
        }
        let hash = hash(node);
        let equal = |k: &usize| r.graph.nodes[*k].op == node.op && r.graph.nodes[*k].ins == node.ins;
        let Some(first) = std::iter::successors(latest.get(&hash).copied(), |k| earlier.get(k).copied()).find(equal) else {
            latest.insert(hash, i).map(|k| earlier.insert(i, k));
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
