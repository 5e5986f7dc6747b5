//! Trees of elementwise ops become one op with a small program, so that a device reads and writes
//! memory once per tree.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::{Fused, Instr};
use rlx_ir::{Graph, Op, Type};
use std::collections::HashMap;

/// Ops in one program.
const MAX_OPS: usize = 48;
/// Inputs of one program.
const MAX_INPUTS: usize = 12;
/// No region, or several.
const NONE: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Ops that run as one program; the result of the first is the only one used outside.
#[derive(Default)]
struct Region {
    /// Nodes, last first.
    nodes: Vec<usize>,
    /// What they read from outside, without scalar constants.
    reads: Vec<ValueId>,
}

/// Fuses maximal groups of unary, binary, select and cast ops of one shape, of which one result is
/// used outside.  Scalar constants become part of the program.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    for region in regions(&r).iter().filter(|g| g.nodes.len() > 1) {
        let Some((op, ins)) = program(&r, region) else { continue };
        let root = region.nodes[0];
        r.set(root, op, &ins);
        region.nodes[1..].iter().for_each(|n| r.kill(*n));
    }
    r.finish()
}

/// Divides the elementwise nodes into regions.  Backwards, so that all users of a node have their
/// region when it is looked at: a node joins the region that all its users are in.
fn regions(r: &Rewrite) -> Vec<Region> {
    let mut regions: Vec<Region> = vec![];
    // For each value, the region of its users.
    let mut used_in = vec![NONE; r.graph.values.len()];
    let ends = r.graph.outputs.iter().map(|o| o.1).chain(r.graph.updates.iter().map(|u| u.1));
    ends.for_each(|v| used_in[v.index()] = SEVERAL);
    for i in (0..r.len()).rev() {
        let node = &r.graph.nodes[i];
        if !is_elementwise(r, i) {
            node.ins.iter().for_each(|v| used_in[v.index()] = SEVERAL);
            continue;
        }
        let out = node.outs[0];
        let joined = used_in[out.index()];
        let fits = regions.get(joined as usize).is_some_and(|g| joins(r, g, i));
        let id = if fits { joined } else { regions.len() as u32 };
        if !fits {
            regions.push(Region::default());
        }
        let region = &mut regions[id as usize];
        region.nodes.push(i);
        region.reads.retain(|v| *v != out);
        for v in &node.ins {
            if scalar(r, *v).is_none() && !region.reads.contains(v) {
                region.reads.push(*v);
            }
            let used = &mut used_in[v.index()];
            *used = if *used == NONE || *used == id { id } else { SEVERAL };
        }
    }
    regions
}

fn is_elementwise(r: &Rewrite, i: usize) -> bool {
    let node = &r.graph.nodes[i];
    let plain = |v: &ValueId| r.dtype(*v).is_some_and(|d| !d.is_block());
    matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Select(_) | Op::Cast(_)) && node.ins.iter().all(plain)
}

/// True when node `i`, all of whose users are in the region, has its shape and there is room.
fn joins(r: &Rewrite, region: &Region, i: usize) -> bool {
    let node = &r.graph.nodes[i];
    let root = r.graph.nodes[region.nodes[0]].outs[0];
    let more = node.ins.iter().filter(|v| !region.reads.contains(v)).count();
    r.shape(node.outs[0]) == r.shape(root) && region.nodes.len() < MAX_OPS && region.reads.len() - 1 + more <= MAX_INPUTS
}

/// The instruction for a scalar constant.
fn scalar(r: &Rewrite, v: ValueId) -> Option<Instr> {
    let (_, node) = r.producer(v)?;
    match &node.op {
        Op::Constant(c) if c.shape.is_empty() => Some(Instr::Const(c.data[0], c.dtype)),
        _ => None,
    }
}

/// The region as an op and its inputs.
fn program(r: &Rewrite, region: &Region) -> Option<(Fused, Vec<ValueId>)> {
    let mut steps: Vec<Instr> = vec![];
    let mut ins: Vec<ValueId> = vec![];
    let mut register: HashMap<ValueId, usize> = HashMap::new();
    for i in region.nodes.iter().rev() {
        let node = &r.graph.nodes[*i];
        let mut regs = [0; 3];
        for (reg, v) in regs.iter_mut().zip(&node.ins) {
            *reg = *register.entry(*v).or_insert_with(|| {
                steps.push(scalar(r, *v).unwrap_or_else(|| {
                    ins.push(*v);
                    Instr::Input(ins.len() - 1)
                }));
                steps.len() - 1
            });
        }
        let [a, b, c] = regs;
        steps.push(match &node.op {
            Op::Unary(u) => Instr::Unary(u.op, a),
            Op::Binary(o) => Instr::Binary(o.op, a, b),
            Op::Select(_) => Instr::Select(a, b, c),
            Op::Cast(to) => Instr::Cast(to.to, a),
            _ => return None,
        });
        register.insert(node.outs[0], steps.len() - 1);
    }
    let op = Fused { steps };
    let types: Vec<&Type> = ins.iter().map(|v| r.graph.ty(*v)).collect();
    let root = r.graph.nodes[region.nodes[0]].outs[0];
    let made = op.types(&types).ok()?.pop()?;
    (made == *r.graph.ty(root)).then_some((op, ins))
}
