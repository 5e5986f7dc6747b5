//! Graphs and runs that several tests share.
#![allow(dead_code)] // each test file uses a part

use rlx_ir::interp::Value;
use rlx_ir::sample::{Rng, default_gen};
use rlx_ir::{Bindings, Gen, Graph, Interpreter, Segments, Tensor, Type, text, verify::verify};
use std::collections::HashMap;

/// Steps of two sequences: prefill of both, then a chunk and a decode step, then one alone.
pub fn steps() -> Vec<Segments> {
    vec![Segments::new([(3, 0, 0), (2, 0, 5)]), Segments::new([(1, 2, 5), (2, 3, 0)]), Segments::new([(1, 5, 0)])]
}

/// Outputs of every step by name, inputs and parameters drawn by name from `seed`, so that two
/// graphs with the same interface see the same numbers.
pub fn run(graph: &Graph, seed: u64) -> Vec<HashMap<String, Tensor>> {
    let param = |name: &str| {
        let v = graph.params.iter().find(|p| &*p.name == name)?.value;
        let Type::Tensor(d, s) = graph.ty(v) else { return None };
        let shape: Vec<usize> = s.0.iter().map(|d| d.as_const()).collect::<Option<_>>()?;
        Gen::Normal(0.4).draw(&mut Rng(seed ^ hash(name)), *d, &shape).ok()
    };
    let mut it = Interpreter::new(graph.clone(), param).unwrap();
    let mut results = vec![];
    for (n, seg) in steps().into_iter().enumerate() {
        let dims = Bindings::new().with("S", seg.count() as u64).with("T", seg.tokens() as u64).with("R", 2).with("Q", 1);
        let inputs: Vec<Value> = graph
            .inputs
            .iter()
            .map(|(name, v)| match graph.ty(*v) {
                // Rows that are asked for, the last one first, and one of those.
                Type::Tensor(d, _) if &**name == "rows" => Value::Tensor(Tensor::new(*d, vec![2], vec![seg.tokens() as f64 - 1.0, 0.0])),
                Type::Tensor(d, _) if &**name == "one" => Value::Tensor(Tensor::new(*d, vec![1], vec![1.0])),
                ty @ Type::Tensor(d, s) => {
                    let shape: Vec<usize> = s.0.iter().map(|d| d.eval(&dims).unwrap()).collect();
                    let mut rng = Rng(seed ^ hash(name) ^ (n as u64) << 32);
                    Value::Tensor(default_gen(ty).draw(&mut rng, *d, &shape).unwrap())
                }
                _ => Value::Segments(seg.clone().into()),
            })
            .collect();
        let outs = it.run(&dims, &inputs).unwrap_or_else(|e| panic!("{e}\n{graph}"));
        results.push(graph.outputs.iter().map(|o| o.0.to_string()).zip(outs).collect());
    }
    results
}

fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Asserts that two graphs compute the same outputs, within `tol` of the largest element.
pub fn assert_same(what: &str, a: &Graph, b: &Graph, seed: u64, tol: f64) {
    assert_results(what, a, &run(a, seed), b, seed, tol);
}

/// Asserts that `b` computes what `a` was seen to compute.
pub fn assert_results(what: &str, a: &Graph, seen: &[HashMap<String, Tensor>], b: &Graph, seed: u64, tol: f64) {
    for (step, (x, y)) in seen.iter().zip(run(b, seed)).enumerate() {
        assert_eq!(x.len(), y.len(), "{what}");
        for (name, t) in x {
            let u = &y[name];
            assert_eq!((t.dtype, &t.shape), (u.dtype, &u.shape), "{what}: {name}");
            // Differences of equal numbers leave only rounding, so tiny results are held to an absolute bound.
            let scale = t.data.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
            for (p, q) in t.data.iter().zip(u.data.iter()) {
                assert!((p - q).abs() <= tol * scale, "{what}, step {step}, {name}: {p} and {q}\n{a}\n{b}");
            }
        }
    }
}

/// What every pass must keep: a verified graph with the same interface that prints and parses back.
pub fn assert_well_formed(what: &str, before: &Graph, after: &Graph) {
    verify(after).unwrap_or_else(|e| panic!("{what}: {}\n{before}\n{after}", e.join("\n")));
    let printed = after.to_string();
    let parsed = text::parse(&printed).unwrap_or_else(|e| panic!("{what}: {e}\n{printed}"));
    let again = parsed.to_string();
    let differ = printed.lines().zip(again.lines()).find(|(a, b)| a != b);
    assert!(printed == again, "{what}: prints back otherwise: {differ:?}");
    let interface = |g: &Graph| {
        let names = |l: &[rlx_ir::graph::Named]| l.iter().map(|n| (n.0.clone(), g.ty(n.1).clone())).collect::<Vec<_>>();
        let params: Vec<_> = g.params.iter().map(|p| (p.name.clone(), g.ty(p.value).clone())).collect();
        let updates: Vec<u32> = g.updates.iter().map(|u| u.0).collect();
        (names(&g.inputs), params, names(&g.states), names(&g.outputs), updates)
    };
    assert_eq!(interface(after), interface(before), "{what}");
}
