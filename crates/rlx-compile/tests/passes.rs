//! Each pass on a small graph: what it makes of it, as a snapshot of before and after, and that
//! the result stays.

mod common;

use common::{assert_same, assert_well_formed};
use rlx_compile::passes::*;
use rlx_ir::{Graph, text};

/// A graph from its statements; inputs are `x`, `y` `[T,8]` and `seg`.
fn graph(body: &str) -> Graph {
    let all = format!("func @t(%0 x: f64[T,8], %1 y: f64[T,8], %2 seg: segments[S,T]) {{\n{body}\n}}\n");
    text::parse(&all).unwrap_or_else(|e| panic!("{e}\n{all}"))
}

/// Snapshots what `pass` does; asserts that it does something and keeps the results.
fn fires(name: &str, pass: fn(Graph) -> Graph, body: &str) -> Graph {
    fires_on(name, pass, graph(body))
}

fn fires_on(name: &str, pass: fn(Graph) -> Graph, before: Graph) -> Graph {
    assert_well_formed(name, &before, &before);
    let after = pass(before.clone());
    assert_ne!(after, before, "{name} did nothing");
    assert_well_formed(name, &before, &after);
    assert_same(name, &before, &after, 1, 1e-12);
    assert_eq!(pass(after.clone()).to_string(), after.to_string(), "{name} is not done after one run");
    insta::assert_snapshot!(name, format!("{before}\n{after}"));
    after
}

/// Asserts that `pass` leaves a graph alone.
fn leaves(pass: fn(Graph) -> Graph, body: &str) {
    let before = graph(body);
    assert_eq!(pass(before.clone()).to_string(), before.to_string());
}

fn canonicalise_and_clean(g: Graph) -> Graph {
    dce::run(canonicalise::run(g))
}

#[test]
fn canonicalise_removes_what_does_nothing() {
    fires(
        "canonicalise_no_ops",
        canonicalise_and_clean,
        r#"  %3 = constant  {dtype="f64", shape=[], data=[1]} : f64[]
  %4 = constant  {dtype="f64", shape=[1,8], data=[0,0,0,0,0,0,0,0]} : f64[1,8]
  %5 = binary %3, %0 {op="mul"} : f64[T,8]
  %6 = binary %5, %4 {op="add"} : f64[T,8]
  %7 = unary %6 {op="neg"} : f64[T,8]
  %8 = unary %7 {op="neg"} : f64[T,8]
  %9 = reshape %8 {shape=["T",2,4]} : f64[T,2,4]
  %10 = permute %9 {axes=[0,2,1]} : f64[T,4,2]
  %11 = permute %10 {axes=[0,2,1]} : f64[T,2,4]
  %12 = reshape %11 {shape=["T",8]} : f64[T,8]
  %13 = cast %12 {to="f64"} : f64[T,8]
  %14 = slice %13 {axis=1, start=0, len=8} : f64[T,8]
  %15 = concat %14 {axis=1} : f64[T,8]
  %16 = unary %15 {op="tanh"} : f64[T,8]
  return %16 r
  tap %15 t"#,
    );
}

#[test]
fn canonicalise_writes_compositions_one_way() {
    fires(
        "canonicalise_forms",
        canonicalise_and_clean,
        r#"  %3 = unary %0 {op="sigmoid"} : f64[T,8]
  %4 = binary %3, %0 {op="mul"} : f64[T,8]
  %5 = slice %4 {axis=1, start=1, len=6} : f64[T,6]
  %6 = slice %5 {axis=1, start=2, len=3} : f64[T,3]
  %7 = constant  {dtype="f64", shape=[], data=[2]} : f64[]
  %8 = broadcast %7 {shape=["T",3]} : f64[T,3]
  %9 = binary %8, %6 {op="mul"} : f64[T,3]
  %10 = binary %9, %8 {op="pow"} : f64[T,3]
  %11 = unary %10 {op="neg"} : f64[T,3]
  %12 = binary %9, %11 {op="add"} : f64[T,3]
  return %12 r"#,
    );
    // Rounding to f32 and back is no no-op, and neither is a product that broadcasts.
    leaves(
        canonicalise::run,
        r#"  %3 = cast %0 {to="f32"} : f32[T,8]
  %4 = cast %3 {to="f64"} : f64[T,8]
  %5 = constant  {dtype="f64", shape=[2,1,1], data=[1,1]} : f64[2,1,1]
  %6 = binary %4, %5 {op="mul"} : f64[2,T,8]
  return %6 r"#,
    );
}

#[test]
fn constant_fold_evaluates_what_is_known() {
    fires(
        "constant_fold",
        |g| dce::run(constant_fold::run(g)),
        r#"  %3 = iota  {dtype="f64", len=8} : f64[8]
  %4 = constant  {dtype="f64", shape=[], data=[0.25]} : f64[]
  %5 = binary %3, %4 {op="mul"} : f64[8]
  %6 = reduce %5 {op="mean", axes=[0]} : f64[1]
  %7 = binary %0, %5 {op="add"} : f64[T,8]
  %8 = binary %7, %6 {op="mul"} : f64[T,8]
  return %8 r"#,
    );
    // Nothing infinite, nothing large, no bare ranges.
    leaves(
        constant_fold::run,
        r#"  %3 = constant  {dtype="f64", shape=[], data=[0]} : f64[]
  %4 = unary %3 {op="recip"} : f64[]
  %5 = iota  {dtype="f64", len=8192} : f64[8192]
  %6 = unary %5 {op="neg"} : f64[8192]
  %7 = iota  {dtype="f64", len=8} : f64[8]
  %8 = binary %0, %7 {op="add"} : f64[T,8]
  return %8 r
  return %4 s
  return %6 u"#,
    );
}

#[test]
fn cse_computes_equal_nodes_once() {
    fires(
        "cse",
        cse::run,
        r#"  %3 = unary %0 {op="tanh"} : f64[T,8]
  %4 = unary %0 {op="tanh"} : f64[T,8]
  %5 = binary %3, %1 {op="mul"} : f64[T,8]
  %6 = binary %4, %1 {op="mul"} : f64[T,8]
  %7 = binary %1, %4 {op="mul"} : f64[T,8]
  %8 = binary %5, %6 {op="add"} : f64[T,8]
  return %8 r
  return %7 s
  tap %6 t"#,
    );
}

#[test]
fn dce_keeps_state_updates() {
    let after = fires(
        "dce",
        dce::run,
        r#"  state %3 k: cache f64[8]
  %4 = unary %0 {op="tanh"} : f64[T,8]
  %5 = cache_append %3, %4, %2 : cache f64[8]
  %6 = unary %1 {op="tanh"} : f64[T,8]
  %7 = unary %6 {op="neg"} : f64[T,8]
  %8 = unary %1 {op="abs"} : f64[T,8]
  update %3 = %5
  return %8 r
  tap %7 t"#,
    );
    assert_eq!((after.nodes.len(), after.updates.len(), after.taps.len()), (3, 1, 0));
}

const GATED: &str = r#"  param %3 gate: f64[6,8]
  param %4 up: f64[6,8]
  %5 = linear %0, %4 {weights=1} : f64[T,6]
  %6 = linear %0, %3 {weights=1} : f64[T,6]
  %7 = unary %6 {op="silu"} : f64[T,6]
  %8 = binary %5, %7 {op="mul"} : f64[T,6]
  return %8 r"#;

#[test]
fn merge_linear_joins_products_of_one_input_with_the_gate_first() {
    fires("merge_linear", merge_linear::run, GATED);
    // Other scopes, and weights that are computed later, stay.
    leaves(
        merge_linear::run,
        r#"  param %3 a: f64[6,8]
  param %4 b: f64[6,8]
  scope one
  %5 = linear %0, %3 {weights=1} : f64[T,6]
  %6 = unary %4 {op="tanh"} : f64[6,8]
  %7 = linear %0, %6 {weights=1} : f64[T,6]
  scope two
  %8 = linear %0, %4 {weights=1} : f64[T,6]
  %9 = binary %5, %7 {op="mul"} : f64[T,6]
  %10 = binary %9, %8 {op="mul"} : f64[T,6]
  return %10 r"#,
    );
}

#[test]
fn swiglu_takes_the_two_halves() {
    fires("swiglu", |g| swiglu::run(merge_linear::run(g)), GATED);
    // The other way round it would be another function.
    leaves(
        swiglu::run,
        r#"  %3 = slice %0 {axis=1, start=0, len=4} : f64[T,4]
  %4 = slice %0 {axis=1, start=4, len=4} : f64[T,4]
  %5 = unary %4 {op="silu"} : f64[T,4]
  %6 = binary %5, %3 {op="mul"} : f64[T,4]
  return %6 r"#,
    );
}

#[test]
fn epilogue_takes_bias_activation_and_residual() {
    fires(
        "epilogue",
        epilogue::run,
        r#"  param %3 w: f64[8,8]
  param %4 b: f64[8]
  %5 = linear %0, %3 {weights=1} : f64[T,8]
  %6 = binary %5, %4 {op="add"} : f64[T,8]
  %7 = unary %6 {op="gelu"} : f64[T,8]
  %8 = unary %1 {op="tanh"} : f64[T,8]
  %9 = binary %8, %7 {op="add"} : f64[T,8]
  return %9 r
  tap %6 t"#,
    );
    fires(
        "epilogue_of_two_products",
        epilogue::run,
        r#"  param %3 w: f64[8,8]
  param %4 v: f64[8,8]
  %5 = linear %0, %3 {weights=1} : f64[T,8]
  %6 = linear %1, %4 {weights=1} : f64[T,8]
  %7 = binary %5, %6 {op="add"} : f64[T,8]
  return %7 r"#,
    );
    // A product that something else reads, and a bias behind the activation.
    leaves(
        epilogue::run,
        r#"  param %3 w: f64[8,8]
  param %4 b: f64[1,8]
  %5 = linear %0, %3 {weights=1} : f64[T,8]
  %6 = binary %5, %1 {op="add"} : f64[T,8]
  %7 = linear %0, %3 {weights=1} : f64[T,8]
  %8 = binary %7, %4 {op="add"} : f64[T,8]
  return %5 q
  return %6 r
  return %8 s"#,
    );
}

fn early_rows_and_clean(g: Graph) -> Graph {
    dce::run(early_rows::run(g))
}

/// A last layer whose rows are picked, with more statements behind it.
fn last_layer(more: &str) -> Graph {
    let text = format!(
        r#"func @t(%0 x: f64[T,8], %1 y: f64[T,8], %2 seg: segments[S,T], %3 rows: u32[R], %4 one: u32[Q]) {{
  param %5 a: f64[8]
  param %6 b: f64[8,8]
  %7 = cumsum %0 {{axis=0}} : f64[T,8]
  %8 = binary %7, %1 {{op="add"}} : f64[T,8]
  %9 = rms_norm %8, %5 {{eps=1e-6}} : f64[T,8]
  %10 = linear %9, %6 {{weights=1}} : f64[T,8]
  %11 = binary %8, %10 {{op="add"}} : f64[T,8]
  %12 = gather %11, %3 {{to="f64"}} : f64[R,8]
{more}
}}
"#
    );
    text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn early_rows_picks_before_what_goes_by_rows() {
    fires_on("early_rows", early_rows_and_clean, last_layer("  return %12 r"));
    let all = last_layer("  return %12 r\n  return %11 all");
    assert_eq!(early_rows_and_clean(all.clone()), all);
}

#[test]
fn early_rows_picks_from_rows_that_were_picked() {
    let more = r#"  %13 = unary %12 {op="silu"} : f64[R,8]
  %14 = gather %13, %4 {to="f64"} : f64[Q,8]
  %15 = gather %12, %4 {to="f64"} : f64[Q,8]
  return %14 q
  return %15 s"#;
    let before = last_layer(more);
    let after = early_rows_and_clean(before.clone());
    assert_well_formed("picks of picks", &before, &after);
    assert_same("picks of picks", &before, &after, 1, 1e-12);
    assert!(!after.nodes.iter().any(|n| n.op.name() == "linear" && after.ty(n.outs[0]) == after.ty(after.inputs[0].1)), "{after}");
}

#[test]
fn norm_residual_joins_a_sum_and_its_norm() {
    fires(
        "norm_residual",
        norm_residual::run,
        r#"  param %3 w: f64[8]
  %4 = binary %0, %1 {op="add"} : f64[T,8]
  %5 = unary %4 {op="tanh"} : f64[T,8]
  %6 = rms_norm %4, %3 {eps=1e-6} : f64[T,8]
  %7 = binary %5, %6 {op="mul"} : f64[T,8]
  return %7 r
  tap %4 t"#,
    );
    leaves(
        norm_residual::run,
        r#"  param %3 w: f64[8]
  %4 = binary %0, %1 {op="add"} : f64[T,8]
  %5 = rms_norm %4, %3 {eps=1e-6} : f64[T,8]
  return %5 r"#,
    );
}

#[test]
fn rope_append_rotates_on_the_way_into_the_cache() {
    let body = r#"  state %3 k: cache f64[2,4]
  %4 = positions %2 : u32[T]
  %5 = reshape %0 {shape=["T",2,4]} : f64[T,2,4]
  %6 = rope %5, %4 {dim=4, theta=10000.0} : f64[T,2,4]
  %7 = cache_append %3, %6, %2 : cache f64[2,4]
  %8 = attention %5, %7, %7, %2 {scale=0.5, mask="causal", ragged=true} : f64[T,2,4]
  update %3 = %7
  return %8 r"#;
    fires("rope_append", rope_append::run, body);
    leaves(rope_append::run, &format!("{body}\n  return %6 rotated"));
}

#[test]
fn elementwise_makes_programs() {
    let after = fires(
        "elementwise",
        |g| dce::run(elementwise::run(g)),
        r#"  param %3 b: f64[8]
  %4 = constant  {dtype="f64", shape=[], data=[0.5]} : f64[]
  %5 = binary %0, %4 {op="mul"} : f64[T,8]
  %6 = binary %5, %3 {op="add"} : f64[T,8]
  %7 = unary %6 {op="sigmoid"} : f64[T,8]
  %8 = binary %6, %7 {op="mul"} : f64[T,8]
  %9 = binary %8, %4 {op="lt"} : bool[T,8]
  %10 = select %9, %8, %1 : f64[T,8]
  %11 = reduce %10 {op="sum", axes=[1]} : f64[T,1]
  %12 = unary %11 {op="tanh"} : f64[T,1]
  %13 = unary %12 {op="neg"} : f64[T,1]
  %14 = binary %10, %13 {op="add"} : f64[T,8]
  return %14 r"#,
    );
    assert_eq!(after.nodes.iter().filter(|n| n.op.name() == "fused").count(), 2);
}
