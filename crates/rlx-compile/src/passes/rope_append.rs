//! Rotation and append of keys become one op.

use super::rewrite::Rewrite;
use rlx_ir::ops::RopeAppend;
use rlx_ir::{Graph, Op};

/// `cache_append(cache, rope(k, positions), seg)` becomes `rope_append`, where nothing else reads
/// the rotated keys.
pub fn run(graph: Graph) -> Graph {
    let uses = graph.use_counts();
    let mut r = Rewrite::new(graph);
    for i in 0..r.len() {
        let node = &r.graph.nodes[i];
        let Op::CacheAppend(_) = &node.op else { continue };
        let (cache, rows, seg) = (node.ins[0], node.ins[1], node.ins[2]);
        let Some((at, rotation)) = r.producer(rows).filter(|_| uses[rows.index()] == 1) else { continue };
        let Op::Rope(rope) = &rotation.op else { continue };
        let (op, ins) = (RopeAppend { rope: (**rope).clone() }, [cache, rotation.ins[0], rotation.ins[1], seg]);
        r.set(i, op, &ins);
        r.kill(at);
    }
    r.finish()
}
