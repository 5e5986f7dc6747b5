//! Common subexpressions: of nodes with the same op, attributes and inputs, the first computes
//! and the others read it.

use super::rewrite::Rewrite;
use rlx_ir::{Graph, Node, Type};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

/// Feeds text to a hasher.
struct HashText(DefaultHasher);

impl Write for HashText {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}

fn hash(of: impl FnOnce(&mut HashText)) -> u64 {
    let mut h = HashText(DefaultHasher::new());
    of(&mut h);
    h.0.finish()
}

/// By kind and inputs alone: attributes are written out only where these repeat.
fn rough(node: &Node) -> u64 {
    hash(|h| (discriminant(&node.op), &node.ins[..]).hash(&mut h.0))
}

fn whole(node: &Node) -> u64 {
    hash(|h| {
        // Writing to a hasher does not fail.
        let _ = write!(h, "{:?}", node.op);
        node.ins.hash(&mut h.0);
    })
}

/// Merges equal nodes.  Nodes that write states stay, each a write of its own.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    // The only node of each rough hash, or none where there are several.
    let mut only: HashMap<u64, Option<usize>> = HashMap::with_capacity(r.len());
    // Of those that are not the only one, the latest of each whole hash, and the one before each of the same hash.
    let mut latest: HashMap<u64, usize> = HashMap::new();
    let mut earlier: HashMap<usize, usize> = HashMap::new();
    for i in 0..r.len() {
        r.resolve_inputs(i);
        let node = &r.graph.nodes[i];
        if node.outs.iter().any(|v| matches!(r.graph.ty(*v), Type::Cache(..) | Type::State(..))) {
            continue;
        }
        match only.entry(rough(node)) {
            Entry::Vacant(e) => {
                e.insert(Some(i));
                continue;
            }
            Entry::Occupied(mut e) => {
                if let Some(other) = e.get_mut().take() {
                    latest.insert(whole(&r.graph.nodes[other]), other).map(|k| earlier.insert(other, k));
                }
            }
        }
        let hash = whole(node);
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
