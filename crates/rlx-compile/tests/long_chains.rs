//! Passes on graphs of a million nodes in a row: no recursion, no quadratic time.

use rlx_compile::passes::{FusionSwitches, run_all};
use rlx_ir::graph::ValueId;
use rlx_ir::ops::*;
use rlx_ir::{DType, Dim, Graph, Op, Type};

/// `n` nodes one after the other; `next(i, last)` says what node `i` is.
fn chain(n: usize, next: impl Fn(usize, ValueId, [ValueId; 2]) -> (Op, Vec<ValueId>)) -> Graph {
    let mut g = Graph { name: "chain".into(), ..Graph::default() };
    let mut last = g.add_input("x", Type::tensor(DType::F64, [2, 4]));
    let params = [g.add_param("w", Type::tensor(DType::F64, [4, 4])), g.add_param("b", Type::tensor(DType::F64, [4]))];
    let scope: std::sync::Arc<str> = "".into();
    for i in 0..n {
        let (op, ins) = next(i, last, params);
        last = g.apply(op, &ins, scope.clone()).unwrap()[0];
    }
    g.outputs.push(("y".into(), last));
    g
}

#[test]
fn a_million_elementwise_ops_become_programs() {
    let n = 1_000_000;
    let g = chain(n, |i, last, _| {
        let op = if i % 2 == 0 { UnaryOp::Tanh } else { UnaryOp::Silu };
        (Unary { op }.into(), vec![last])
    });
    let (after, _) = run_all(g, &FusionSwitches::default());
    assert!(after.nodes.len() <= n / 40, "{}", after.nodes.len());
    assert!(after.nodes.iter().all(|n| n.op.name() == "fused"));
}

#[test]
fn long_chains_of_nothing_vanish() {
    let g = chain(300_000, |i, last, _| match i % 3 {
        0 => (Reshape { shape: [4, 2].map(Dim::from).to_vec() }.into(), vec![last]),
        1 => (Reshape { shape: [2, 4].map(Dim::from).to_vec() }.into(), vec![last]),
        _ => (Unary { op: UnaryOp::Neg }.into(), vec![last]),
    });
    let (after, _) = run_all(g, &FusionSwitches::default());
    assert_eq!(after.nodes.len(), 0, "{after}");
    assert_eq!(after.outputs[0].1, after.inputs[0].1);
}

#[test]
fn products_in_a_row_take_in_what_follows_them() {
    let g = chain(300_000, |i, last, [w, b]| match i % 3 {
        0 => (Linear::plain(1).into(), vec![last, w]),
        1 => (Binary { op: BinaryOp::Add }.into(), vec![b, last]),
        _ => (Unary { op: UnaryOp::Gelu }.into(), vec![last]),
    });
    let (after, _) = run_all(g, &FusionSwitches::default());
    assert_eq!(after.nodes.len(), 100_000);
}

#[test]
fn a_hundred_thousand_products_of_one_input_merge() {
    let n = 100_000;
    let mut g = chain(0, |_, last, _| (Unary { op: UnaryOp::Neg }.into(), vec![last]));
    let (x, scope): (ValueId, std::sync::Arc<str>) = (g.inputs[0].1, "".into());
    for _ in 0..n {
        let w = g.params[0].value;
        let y = g.apply(Linear::plain(1).into(), &[x, w], scope.clone()).unwrap()[0];
        g.outputs[0].1 = y;
    }
    let on = FusionSwitches { cse: false, dce: false, ..FusionSwitches::default() };
    let (after, _) = run_all(g, &on);
    assert_eq!(after.nodes.iter().filter(|n| n.op.name() == "linear").count(), 1);
}
