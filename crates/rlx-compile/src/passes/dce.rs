//! Removes nodes that contribute to no output and no state.

use super::rewrite::Rewrite;
use rlx_ir::{Graph, Type};

/// Keeps what outputs and state updates need, and every node that writes a state.
pub fn run(graph: Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    let ends = graph.outputs.iter().map(|o| o.1).chain(graph.updates.iter().map(|u| u.1));
    ends.for_each(|v| live[v.index()] = true);
    let mut r = Rewrite::new(graph);
    for i in (0..r.len()).rev() {
        let node = &r.graph.nodes[i];
        let needed = node.outs.iter().any(|v| live[v.index()] || matches!(r.graph.ty(*v), Type::Cache(..) | Type::State(..)));
        if needed {
            node.ins.iter().for_each(|v| live[v.index()] = true);
        } else {
            r.kill(i);
        }
    }
    r.finish()
}
