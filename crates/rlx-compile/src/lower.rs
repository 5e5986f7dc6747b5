//! Lowering: every op a device does not claim is expanded by its own decomposition, until nothing
//! is left or an op has none.

use crate::backend::Backend;
use rlx_ir::graph::Graph;
use rlx_ir::ops::Reshape;
use rlx_ir::{Builder, Type, Val, ValueId};
use std::collections::BTreeMap;
use std::fmt;

/// What a device does with each kind of op of a graph.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Op name → nodes the device runs itself.
    pub native: BTreeMap<&'static str, usize>,
    /// Op name → nodes expanded into simpler ops.
    pub decomposed: BTreeMap<&'static str, usize>,
    /// `scope: op(types)` of nodes that can neither run nor expand.
    pub missing: Vec<String>,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, ops) in [("native", &self.native), ("decomposed", &self.decomposed)] {
            for (name, n) in ops {
                writeln!(f, "{what:>11}  {n:>5} x {name}")?;
            }
        }
        self.missing.iter().try_for_each(|m| writeln!(f, "{:>11}  {m}", "missing"))
    }
}

/// A graph holds ops that a device cannot run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{device} cannot run {}", .coverage.missing.join("; "))]
pub struct MissingOps {
    /// The device.
    pub device: String,
    /// What it can do.
    pub coverage: Coverage,
}

/// Deepest chain of decompositions followed.
const MAX_DEPTH: usize = 16;

/// Expands what `backend` does not support.
pub fn lower(mut graph: Graph, backend: &dyn Backend) -> Result<(Graph, Coverage), Box<MissingOps>> {
    let mut coverage = Coverage::default();
    for _ in 0..MAX_DEPTH {
        let claims: Vec<bool> = graph
            .nodes
            .iter()
            .map(|n| {
                let tys: Vec<&Type> = n.ins.iter().map(|v| graph.ty(*v)).collect();
                backend.supports(&n.op, &tys)
            })
            .collect();
        if claims.iter().all(|c| *c) {
            break;
        }
        let missing = coverage.missing.len();
        graph = expand(graph, &claims, &mut coverage);
        if coverage.missing.len() > missing {
            return Err(Box::new(MissingOps { device: backend.info().kind.into(), coverage }));
        }
    }
    own_outputs(&mut graph);
    for n in &graph.nodes {
        *coverage.native.entry(n.op.name()).or_default() += 1;
    }
    Ok((graph, coverage))
}

/// Results that are inputs or parameters become copies: a program owns what it returns.
fn own_outputs(g: &mut Graph) {
    for i in 0..g.outputs.len() {
        let v = g.outputs[i].1;
        let Type::Tensor(_, shape) = g.ty(v).clone() else { continue };
        if g.producer(v).is_none()
            && let Ok(copy) = g.apply(Reshape { shape: shape.0 }.into(), &[v], "".into())
        {
            g.outputs[i].1 = copy[0];
        }
    }
}

/// One level of expansion of the nodes whose `claims` entry is false.
fn expand(g: Graph, claims: &[bool], coverage: &mut Coverage) -> Graph {
    let b = Builder::new(&g.name);
    let mut outputs: Vec<(&str, ValueId)> = vec![];
    {
        let mut map: Vec<Option<Val<'_>>> = vec![None; g.values.len()];
        let at = |map: &[Option<Val<'_>>], v: &ValueId| map[v.index()].map(|v| v.id());
        for (name, v) in &g.inputs {
            map[v.index()] = Some(b.input(name, g.ty(*v).clone()));
        }
        for p in &g.params {
            map[p.value.index()] = Some(b.param_value(&p.name, g.ty(p.value).clone()));
        }
        for (name, v) in &g.states {
            map[v.index()] = Some(b.state(name, g.ty(*v).clone()));
        }
        for (n, native) in g.nodes.iter().zip(claims) {
            let ins: Vec<Val<'_>> = n.ins.iter().filter_map(|v| map[v.index()]).collect();
            let made = if *native { None } else { n.op.decompose(&ins) };
            let made = match made {
                Some(made) => {
                    *coverage.decomposed.entry(n.op.name()).or_default() += 1;
                    made
                }
                None => {
                    if !native {
                        let tys: Vec<String> = n.ins.iter().map(|v| g.ty(*v).to_string()).collect();
                        let at = if n.scope.is_empty() { String::new() } else { format!("{}: ", n.scope) };
                        coverage.missing.push(format!("{at}{}({})", n.op.name(), tys.join(", ")));
                    }
                    b.emit(&n.scope, n.op.clone(), &ins)
                }
            };
            for (v, m) in n.outs.iter().zip(made) {
                map[v.index()] = Some(m);
            }
        }
        for (s, v) in &g.updates {
            if let (Some(state), Some(new)) = (map[g.states[*s as usize].1.index()], map[v.index()]) {
                b.update(state, new);
            }
        }
        for (name, v) in &g.outputs {
            outputs.extend(at(&map, v).map(|id| (&**name, id)));
        }
    }
    // The ops were well-typed before and a decomposition keeps types (tested for every op).
    b.finish(&outputs).expect("decompositions are well-typed")
}
