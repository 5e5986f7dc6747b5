//! The verifier: everything a well-formed graph keeps, reported all at once.

use crate::graph::{Def, Graph, ValueId};
use crate::{Dim, Sym, Type};
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashSet};

/// Problems reported of one graph; a graph of a million nodes may have as many.
pub const MAX_PROBLEMS: usize = 100;

/// A list that stops growing.
#[derive(Default)]
struct Problems {
    first: Vec<String>,
    more: usize,
}

impl Problems {
    fn push(&mut self, problem: String) {
        if self.first.len() < MAX_PROBLEMS { self.first.push(problem) } else { self.more += 1 }
    }
}

/// Checks a graph; returns the problems found (the first [`MAX_PROBLEMS`], and how many more there are), each with the
/// node it is about.
///
/// Checked: ids in range, definitions before uses (so no cycles), definitions that point back,
/// types equal to what the type rules infer, unique names, one writer per state, updates of the
/// state's own type, and symbols that some input binds.
pub fn verify(g: &Graph) -> Result<(), Vec<String>> {
    let mut bad = Problems::default();
    let n_values = g.values.len();
    let in_range = |v: ValueId| v.index() < n_values;

    let mut defined = vec![false; n_values];
    for (what, list) in [("input", &g.inputs), ("state", &g.states)] {
        for (i, (name, v)) in list.iter().enumerate() {
            let want = if what == "input" { Def::Input(i as u32) } else { Def::State(i as u32) };
            check_def(g, &mut defined, &mut bad, &|| format!("{what} {name}"), *v, want);
        }
    }
    for (i, p) in g.params.iter().enumerate() {
        check_def(g, &mut defined, &mut bad, &|| format!("param {}", p.name), p.value, Def::Param(i as u32));
    }
    for (i, node) in g.nodes.iter().enumerate() {
        let at = || format!("node {i} {}{}{}", node.op.name(), if node.scope.is_empty() { "" } else { " in " }, node.scope);
        let mut usable = true;
        for v in &node.ins {
            if !in_range(*v) {
                bad.push(format!("{}: input %{} does not exist", at(), v.0));
                usable = false;
            } else if !defined[v.index()] {
                bad.push(format!("{}: input %{} is used before it is defined", at(), v.0));
                usable = false;
            }
        }
        if usable {
            let tys: SmallVec<[&Type; 4]> = node.ins.iter().map(|v| g.ty(*v)).collect();
            match node.op.infer(&tys) {
                Err(why) => bad.push(format!("{}: {why}", at())),
                Ok(want) if want.len() != node.outs.len() => {
                    bad.push(format!("{}: has {} outputs, the op gives {}", at(), node.outs.len(), want.len()));
                }
                Ok(want) => {
                    for (v, ty) in node.outs.iter().zip(want).filter(|(v, ty)| in_range(**v) && g.ty(**v) != ty) {
                        bad.push(format!("{}: %{} is declared {}, the op gives {ty}", at(), v.0, g.ty(*v)));
                    }
                }
            }
        }
        for (k, v) in node.outs.iter().enumerate() {
            check_def(g, &mut defined, &mut bad, &at, *v, Def::Node(crate::NodeId(i as u32), k as u32));
        }
    }
    for (name, v) in g.outputs.iter().chain(&g.taps) {
        if !in_range(*v) || !defined[v.index()] {
            bad.push(format!("output {name}: %{} is not defined", v.0));
        }
    }
    let mut written = HashSet::new();
    for (state, v) in &g.updates {
        let Some((name, old)) = g.states.get(*state as usize) else {
            bad.push(format!("update of state number {state}, which does not exist"));
            continue;
        };
        if !written.insert(*state) {
            bad.push(format!("state {name} has two writers"));
        }
        if !in_range(*v) || !defined[v.index()] {
            bad.push(format!("update of state {name}: %{} is not defined", v.0));
        } else if g.ty(*v) != g.ty(*old) {
            bad.push(format!("update of state {name}: is {}, the state is {}", g.ty(*v), g.ty(*old)));
        }
    }
    for (what, names) in [
        ("input", g.inputs.iter().map(|n| &n.0).collect::<Vec<_>>()),
        ("state", g.states.iter().map(|n| &n.0).collect()),
        ("output", g.outputs.iter().map(|n| &n.0).collect()),
        ("param", g.params.iter().map(|p| &p.name).collect()),
    ] {
        let mut seen = HashSet::new();
        for n in names {
            if !seen.insert(n) {
                bad.push(format!("two {what}s are named {n}"));
            }
        }
    }
    check_symbols(g, &mut bad);
    if bad.more > 0 {
        bad.first.push(format!("and {} more", bad.more));
    }
    if bad.first.is_empty() { Ok(()) } else { Err(bad.first) }
}

fn check_def(g: &Graph, defined: &mut [bool], bad: &mut Problems, at: &dyn Fn() -> String, v: ValueId, want: Def) {
    match g.values.get(v.index()) {
        None => bad.push(format!("{}: %{} does not exist", at(), v.0)),
        Some(_) if defined[v.index()] => bad.push(format!("{}: %{} is defined twice", at(), v.0)),
        Some(info) => {
            defined[v.index()] = true;
            if info.def != want {
                bad.push(format!("{}: %{} says it is {:?}, not {want:?}", at(), v.0, info.def));
            }
            if let Err(why) = info.ty.check_blocks() {
                bad.push(format!("{}: {why}", at()));
            }
            if *info.ty == Type::Poison {
                bad.push(format!("{}: %{} has no type", at(), v.0));
            }
        }
    }
}

/// Dimensions of a type.
fn dims(ty: &Type) -> Vec<&Dim> {
    match ty {
        Type::Tensor(_, s) | Type::Cache(_, s) | Type::State(_, s) => s.0.iter().collect(),
        Type::Segments { count, tokens } => vec![count, tokens],
        Type::Poison => vec![],
    }
}

fn check_symbols(g: &Graph, bad: &mut Problems) {
    let collect = |ids: &mut dyn Iterator<Item = ValueId>| {
        let mut set: BTreeSet<Sym> = BTreeSet::new();
        for v in ids.filter(|v| v.index() < g.values.len()) {
            dims(g.ty(v)).into_iter().for_each(|d| d.symbols(&mut set));
        }
        set
    };
    let bound = collect(&mut g.inputs.iter().map(|i| i.1));
    let used = collect(&mut (0..g.values.len() as u32).map(ValueId));
    for s in used.difference(&bound) {
        bad.push(format!("symbol {s} is used, but no input binds it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, DType, Options};

    #[test]
    fn a_built_graph_verifies_and_damage_is_reported_in_full() {
        let b = Builder::new("t");
        let x = b.input("x", Type::tensor(DType::F32, ["T", "E"].map(Dim::sym).to_vec()));
        let y = (x + 1.0) * x;
        let id = y.id();
        let good = b.finish(&[("y", id)]).unwrap();
        verify(&good).unwrap();

        let mut cyclic = good.clone();
        cyclic.nodes[1].ins[0] = id;
        cyclic.outputs.push(("y".into(), ValueId(99)));
        let bad = verify(&cyclic).unwrap_err().join("\n");
        assert!(bad.contains("used before it is defined") && bad.contains("%99") && bad.contains("two outputs"), "{bad}");
    }

    #[test]
    fn a_mistake_gives_one_message_with_its_scope() {
        let b = Builder::with("t", Options::default(), Box::new(|_, _| Ok(DType::F32)));
        let w = b.root().at("model.layers.3");
        let x = b.input("x", Type::tensor(DType::F32, [4, 8]));
        let y = w.rms_norm("norm", x, 1e-6);
        let bad = w.emit(crate::ops::Matmul {}, &[y, y]);
        let after = w.linear("q", bad, 3) + bad;
        let id = after.id();
        let d = b.finish(&[("y", id)]).unwrap_err();
        assert_eq!(d.0.len(), 1, "{d}");
        assert_eq!(d.0[0].scope, "model.layers.3");
    }

    #[test]
    fn a_second_writer_of_a_cache_is_refused() {
        let b = Builder::new("t");
        let seg = b.segments();
        let x = b.input("x", Type::tensor(DType::F32, vec![Dim::sym("T"), Dim::from(2), Dim::from(4)]));
        b.root().cache("k", x, seg);
        b.root().cache("k", x, seg);
        assert!(b.finish(&[]).unwrap_err().to_string().contains("written twice"));
    }
}
