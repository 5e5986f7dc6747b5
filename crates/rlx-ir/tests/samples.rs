//! What holds for every conformance case of every op: it verifies, its text form parses back, the
//! interpreter evaluates it, and where the op has a decomposition, that agrees with the op's own
//! evaluation.

use rlx_ir::sample::Rng;
use rlx_ir::{Builder, Case, Graph, Interpreter, Op, Tensor, Val, ValueId, text, verify::verify};

/// The outputs of every step of `graph`, on the inputs and parameters that `case` draws.
fn run(case: &Case, graph: &Graph) -> Vec<Vec<Tensor>> {
    let mut rng = Rng(7);
    let params = case.draw_params(&mut rng).unwrap();
    let by_name = |n: &str| params.iter().find(|p| &*p.name == n).map(|p| p.tensor.clone());
    let mut it = Interpreter::new(graph.clone(), by_name).unwrap();
    (0..case.steps.len())
        .map(|i| {
            let ins = case.draw_inputs(i, &mut rng).unwrap();
            it.run(&case.steps[i].dims, &ins).unwrap_or_else(|e| panic!("{}: {e}", case.name))
        })
        .collect()
}

#[test]
fn every_op_has_cases_that_verify_print_parse_and_run() {
    let samples = Op::all_samples();
    for name in Op::NAMES {
        let direct = samples.cases.iter().any(|c| c.graph.nodes.iter().any(|n| n.op.name() == *name));
        assert!(direct, "{name} has no conformance case");
    }
    for case in &samples.cases {
        verify(&case.graph).unwrap_or_else(|e| panic!("{}: {}", case.name, e.join("\n")));
        assert_eq!(case.inputs.len(), case.graph.inputs.len(), "{}", case.name);
        let printed = case.graph.to_string();
        let parsed = text::parse(&printed).unwrap_or_else(|e| panic!("{}: {e}\n{printed}", case.name));
        assert_eq!(parsed.to_string(), printed, "{}", case.name);
        verify(&parsed).unwrap_or_else(|e| panic!("{}: {}", case.name, e.join("\n")));
        assert!(!run(case, &case.graph).is_empty());
    }
}

/// The graph with every op that decomposes replaced by its decomposition, one level deep.
fn expand(g: &Graph) -> Option<Graph> {
    let b = Builder::new("expanded");
    let mut changed = false;
    let outs: Vec<ValueId> = {
        let mut map: Vec<Option<Val<'_>>> = vec![None; g.values.len()];
        for (name, v) in &g.inputs {
            map[v.index()] = Some(b.input(name, g.ty(*v).clone()));
        }
        for p in &g.params {
            map[p.value.index()] = Some(b.param_value(&p.name, g.ty(p.value).clone()));
        }
        for (name, v) in &g.states {
            map[v.index()] = Some(b.state(name, g.ty(*v).clone()));
        }
        for n in &g.nodes {
            let ins: Vec<Val<'_>> = n.ins.iter().map(|v| map[v.index()].unwrap()).collect();
            let made = match n.op.decompose(&ins) {
                Some(made) => {
                    changed = true;
                    made
                }
                None => b.emit("", n.op.clone(), &ins),
            };
            for (v, m) in n.outs.iter().zip(made) {
                assert_eq!(m.ty(), *g.ty(*v), "the decomposition of {} has another type", n.op.name());
                map[v.index()] = Some(m);
            }
        }
        for (s, v) in &g.updates {
            b.update(map[g.states[*s as usize].1.index()].unwrap(), map[v.index()].unwrap());
        }
        g.outputs.iter().map(|o| map[o.1.index()].unwrap().id()).collect()
    };
    changed.then(|| b.finish_ids(&outs).unwrap())
}

#[test]
fn decompositions_mean_what_their_op_means() {
    let mut n = 0;
    for case in &Op::all_samples().cases {
        let Some(expanded) = expand(&case.graph) else {
            continue;
        };
        n += 1;
        for (a, b) in run(case, &case.graph).iter().flatten().zip(run(case, &expanded).iter().flatten()) {
            assert_eq!(a.shape, b.shape, "{}", case.name);
            for (x, y) in a.data.iter().zip(b.data.iter()) {
                // Casts to f32 inside a decomposition round; nothing else may differ.
                assert!((x - y).abs() <= 1e-6 * x.abs().max(1.0), "{}: {x} and {y}", case.name);
            }
        }
    }
    assert!(n > 20, "{n} cases decompose");
}
