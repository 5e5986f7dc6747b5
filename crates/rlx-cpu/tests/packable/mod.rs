//! A model whose weights are packed in all the ways there are.

use rlx_ir::interp::Value;
use rlx_ir::ops::{ExpertLinear, Linear};
use rlx_ir::sample::{Gen, Rng};
use rlx_ir::{Bindings, Builder, DType, Dim, Graph, Tensor, Type, Weight};
use std::sync::Arc;

/// A row of a table, through two matrices of which one is the table, then through experts.
pub fn graph(format: &str) -> Graph {
    let b = Builder::new("packing");
    let param = |name: &str, shape: &str| b.param_value(name, format!("{format}[{shape}]").parse().unwrap());
    let ids = b.input("ids", "u32[T]".parse().unwrap());
    let (table, up, experts) = (param("table", "260,256"), param("up", "256,256"), param("experts", "3,70,256"));
    let chosen = b.input("chosen", "u32[T,2]".parse().unwrap());
    let x = table.gather(ids, DType::F32);
    let y = x.with(Linear::plain(1), &[up]);
    let e = y.with(ExpertLinear { bias: false }, &[experts, chosen]);
    let outs = [y.with(Linear::plain(1), &[table]).id(), e.id()];
    b.finish_ids(&outs).unwrap()
}

/// Weights for it, always the same.
pub fn weights(graph: &Graph) -> Vec<Weight> {
    let mut rng = Rng(3);
    let mut one = |name: &Arc<str>, ty: &Type| {
        let Type::Tensor(dtype, shape) = ty else { panic!("{ty} is no tensor") };
        let shape: Vec<usize> = shape.0.iter().filter_map(Dim::as_const).collect();
        let (tensor, bytes) = Gen::Normal(0.1).draw_stored(&mut rng, *dtype, &shape).unwrap();
        Weight { name: name.clone(), tensor, bytes }
    };
    graph.params.iter().map(|p| one(&p.name, graph.ty(p.value))).collect()
}

/// Inputs of `n` rows.
pub fn tokens(n: usize) -> (Bindings, Vec<Value>) {
    let ids = (0..n).map(|i| (i * 97 % 260) as f64).collect();
    let chosen = (0..2 * n).map(|i| (i * 5 % 3) as f64).collect();
    let u32s = |shape: Vec<usize>, data: Vec<f64>| Value::Tensor(Tensor { dtype: DType::U32, shape, data: data.into() });
    (Bindings::new().with("T", n as u64), vec![u32s(vec![n], ids), u32s(vec![n, 2], chosen)])
}
