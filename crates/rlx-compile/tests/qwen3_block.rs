//! A Qwen3-like decoder block through the whole pipeline: what is fused, and that the result stays.

mod common;

use rlx_compile::passes::{FusionSwitches, run_all};
use rlx_ir::ops::{Attention, Rope};
use rlx_ir::{Builder, DType, Dim, Graph, Options, Scope, Type, Val, text, verify::verify};
use std::collections::BTreeMap;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const HIDDEN: usize = 24;

fn attention<'g>(w: &Scope<'g>, x: Val<'g>, pos: Val<'g>, seg: Val<'g>) -> Val<'g> {
    let rope = Rope::new(HEAD_DIM, 1e6);
    let query = w.linear("q_proj", x, HEADS * HEAD_DIM).split_heads(HEADS);
    let key = w.linear("k_proj", x, KV_HEADS * HEAD_DIM).split_heads(KV_HEADS);
    let value = w.linear("v_proj", x, KV_HEADS * HEAD_DIM).split_heads(KV_HEADS);
    let query = w.rms_norm("q_norm", query, 1e-6).rope(&rope, pos);
    let key = w.rms_norm("k_norm", key, 1e-6).rope(&rope, pos);
    let (key, value) = w.kv_cache(key, value, seg);
    let out = query.attend(key, value, Some(seg), Attention::causal((HEAD_DIM as f64).powf(-0.5)));
    w.linear("o_proj", out.merge_heads(), HIDDEN)
}

fn mlp<'g>(w: &Scope<'g>, x: Val<'g>) -> Val<'g> {
    let gate = w.linear("gate_proj", x, 40).silu();
    let up = w.linear("up_proj", x, 40);
    w.linear("down_proj", gate * up, HIDDEN)
}

fn blocks(n: usize, compute: DType) -> Graph {
    let b = Builder::with("qwen3", Options { compute, kv: compute }, Box::new(move |_, _| Ok(compute)));
    let mut x = b.input("x", Type::tensor(compute, [Dim::sym("T"), Dim::from(HIDDEN)]));
    let seg = b.segments();
    let pos = seg.positions();
    for layer in 0..n {
        let w = b.root().at(format!("model.layers.{layer}"));
        x = x + attention(&w.at("self_attn"), w.rms_norm("input_layernorm", x, 1e-6), pos, seg);
        x = (x + mlp(&w.at("mlp"), w.rms_norm("post_attention_layernorm", x, 1e-6))).tap(format!("hidden.{layer}"));
    }
    let y = x.id();
    b.finish(&[("y", y)]).unwrap()
}

fn count(g: &Graph) -> BTreeMap<&'static str, usize> {
    let mut n = BTreeMap::new();
    g.nodes.iter().for_each(|node| *n.entry(node.op.name()).or_default() += 1);
    n
}

#[test]
fn one_block_becomes_what_a_device_wants_to_run() {
    let before = blocks(1, DType::F32);
    verify(&before).unwrap();
    let (after, reports) = run_all(before, &FusionSwitches::default());
    verify(&after).unwrap();
    assert_eq!(text::parse(&after.to_string()).unwrap().to_string(), after.to_string());
    insta::assert_snapshot!("qwen3_block", after);
    assert!(reports.iter().map(|r| r.name).eq([
        "constant_fold",
        "canonicalise",
        "cse",
        "early_rows",
        "dce",
        "merge_linear",
        "swiglu",
        "epilogue",
        "norm_residual",
        "rope_append",
        "elementwise",
        "dce"
    ]));
    assert_eq!(reports[11].nodes_after, after.nodes.len());
}

#[test]
fn with_the_norm_first_the_sums_go_to_it() {
    let on = FusionSwitches { norm_residual_first: true, ..FusionSwitches::default() };
    let n = count(&run_all(blocks(2, DType::F32), &on).0);
    // The very first norm reads the graph's input, the last sum goes to no norm.
    assert_eq!((n["add_rms_norm"], n["rms_norm"]), (3, 1 + 4));
}

#[test]
fn fused_blocks_compute_the_same_over_several_steps() {
    let plain = blocks(3, DType::F64).promote_taps(|_| true);
    for norm_residual_first in [false, true] {
        let on = FusionSwitches { norm_residual_first, ..FusionSwitches::default() };
        common::assert_same("blocks", &plain, &run_all(plain.clone(), &on).0, 3, 1e-12);
    }
    let none = run_all(plain.clone(), &FusionSwitches::all(false)).0;
    assert_eq!(none, plain);
}

#[test]
fn taps_of_values_that_stay_are_kept() {
    let (g, _) = run_all(blocks(2, DType::F32), &FusionSwitches::default());
    assert!(g.taps.iter().map(|t| &*t.0).eq(["hidden.0", "hidden.1"]));
}
