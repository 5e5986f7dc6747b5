//! What quantising activations costs, format by format: no more than by llama.cpp's rules, on activations as they are
//! drawn from a bell curve and on such with outliers.

mod levels;

use half::f16;
use levels::levels;
use rlx_conform::{OnBackend, Runner};
use rlx_cpu::{Cpu, Options};
use rlx_ir::interp::Value;
use rlx_ir::ops::Linear;
use rlx_ir::sample::{Gen, Rng};
use rlx_ir::{Bindings, Builder, DType, Graph, Tensor, Weight};

/// Rows of activations, rows of the weight, elements of a row.
const M: usize = 16;
const N: usize = 96;
const K: usize = 2048;

/// What f32 sums may add to an error.
const ROUNDING: f64 = 1e-4;

fn graph(format: &str) -> Graph {
    let b = Builder::new("activations");
    let x = b.input("x", format!("f32[T,{K}]").parse().unwrap());
    let w = b.param_value("w", format!("{format}[{N},{K}]").parse().unwrap());
    let y = x.with(Linear::plain(1), &[w]).id();
    b.finish_ids(&[y]).unwrap()
}

fn normals(seed: u64, n: usize) -> Vec<f64> {
    Gen::Normal(1.0).draw(&mut Rng(seed), DType::F32, &[n]).unwrap().data.to_vec()
}

/// Student's t with three degrees of freedom: one element in a thousand lies beyond ten times the middle.
fn heavy(seed: u64, n: usize) -> Vec<f64> {
    let (top, below) = (normals(seed, n), normals(seed + 1, 3 * n));
    let spread = below.chunks_exact(3).map(|c| (c.iter().map(|v| v * v).sum::<f64>() / 3.0).sqrt());
    top.iter().zip(spread).map(|(t, s)| f64::from((t / s) as f32)).collect()
}

/// What activations become.
type Rule = fn(&[f64]) -> Vec<f64>;

/// `quantize_row_q8_0`: a scale per 32 of f16, rounded away from zero at halves.
fn q8_0(x: &[f64]) -> Vec<f64> {
    let block = |x: &[f64]| {
        let d = x.iter().fold(0f32, |m, v| m.max(v.abs() as f32)) / 127.0;
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        let stored = f16::from_f32(d).to_f64();
        x.iter().map(|v| f64::from((*v as f32 * inverse).round()) * stored).collect::<Vec<_>>()
    };
    x.chunks_exact(32).flat_map(block).collect()
}

/// `quantize_row_q8_K`: a scale per 256 of f32, with the sign that makes the largest element -127.
fn q8_k(x: &[f64]) -> Vec<f64> {
    let block = |x: &[f64]| {
        let largest = x.iter().fold(0f64, |m, v| if v.abs() > m.abs() { *v } else { m }) as f32;
        let factor = if largest == 0.0 { 0.0 } else { -127.0 / largest };
        let scale = if factor == 0.0 { 0.0 } else { f64::from(1.0 / factor) };
        x.iter().map(|v| f64::from((factor * *v as f32).round_ties_even().min(127.0)) * scale).collect::<Vec<_>>()
    };
    x.chunks_exact(256).flat_map(block).collect()
}

/// `x · Wᵀ` in f64.
fn product(x: &[f64], w: &Weight) -> Vec<f64> {
    let row = |x: &[f64]| w.tensor.data.chunks_exact(K).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect::<Vec<f64>>();
    x.chunks_exact(K).flat_map(row).collect()
}

/// Root of the mean square of the difference, relative to that of `want`.
fn error(got: &[f64], want: &[f64]) -> f64 {
    let squares = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>();
    (squares(&mut got.iter().zip(want).map(|(g, w)| g - w)) / squares(&mut want.iter().copied())).sqrt()
}

#[test]
fn quantised_activations_lose_no_more_than_llama_cpp_quantises_away() {
    let rules: [(&str, Rule); 5] = [("q4_0", q8_0), ("q8_0", q8_0), ("q4_k", q8_k), ("q5_k", q8_k), ("q6_k", q8_k)];
    for (format, rule) in rules {
        let g = graph(format);
        let (tensor, bytes) = Gen::Normal(0.05).draw_stored(&mut Rng(5), format.parse().unwrap(), &[N, K]).unwrap();
        let weight = Weight { name: "w".into(), tensor, bytes };
        for (kind, x) in [("gaussian", normals(11, M * K)), ("heavy-tailed", heavy(12, M * K))] {
            let want = product(&x, &weight);
            let theirs = error(&product(&rule(&x), &weight), &want);
            assert!(theirs > 1e-3, "{format}, {kind}: the rule quantises");
            for level in levels() {
                let cpu = Cpu::new(Options { threads: 2, level: Some(level), ..Options::default() }).unwrap();
                let mut runner = OnBackend::new(&cpu).prepare(&g, std::slice::from_ref(&weight)).unwrap();
                // One row at a time and all at once, which are different kernels.
                for rows in [1, M] {
                    let run = |x: &[f64]| {
                        let data: Vec<f64> = x.to_vec();
                        let x = Value::Tensor(Tensor { dtype: DType::F32, shape: vec![rows, K], data: data.into() });
                        runner.run(&Bindings::new().with("T", rows as u64), &[x]).unwrap()[0].data.to_vec()
                    };
                    let got: Vec<f64> = x.chunks_exact(rows * K).flat_map(run).collect();
                    let ours = error(&got, &want);
                    println!("{format} {kind} {level}, {rows} rows: {ours:.6} and {theirs:.6}");
                    assert!(
                        ours <= theirs * (1.0 + ROUNDING),
                        "{format}, {kind} at {level}, {rows} rows: {ours} where llama.cpp loses {theirs}"
                    );
                }
            }
        }
    }
}
