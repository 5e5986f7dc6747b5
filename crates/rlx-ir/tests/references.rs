//! Ops against PyTorch 2.15 in float64 (and transformers' `torch_recurrent_gated_delta_rule`, in
//! float32).  Inputs are `sin(i·a + b)` over the flat index; of a result y the shape and
//! `Σ yᵢ·cos(0.37·i)` are compared.

use rlx_ir::ops::*;
use rlx_ir::{Bindings, Builder, DType, Dim, Interpreter, Segments, Type, Val, interp::Value};

fn input<'g>(b: &'g Builder<'g>, shape: &[usize], step: f64, start: f64) -> Val<'g> {
    let data = (0..shape.iter().product()).map(|i: usize| (i as f64 * step + start).sin()).collect();
    b.constant(DType::F64, shape, data)
}
fn x<'g>(b: &'g Builder<'g>, shape: &[usize]) -> Val<'g> {
    input(b, shape, 0.7, 0.3)
}
fn w<'g>(b: &'g Builder<'g>, shape: &[usize]) -> Val<'g> {
    input(b, shape, 1.3, 0.1)
}
fn c<'g>(b: &'g Builder<'g>, shape: &[usize]) -> Val<'g> {
    input(b, shape, 0.9, 0.5)
}

fn check(name: &str, shape: &[usize], sum: f64, tol: f64, f: impl for<'g> Fn(&'g Builder<'g>) -> Val<'g>) {
    let b = Builder::new(name);
    let id = f(&b).id();
    let mut it = Interpreter::new(b.finish_ids(&[id]).unwrap(), |_| None).unwrap();
    let seg = Value::Segments(Segments::new([(7, 0, 0)]).into());
    let inputs = if it.graph().inputs.is_empty() { vec![] } else { vec![seg] };
    let y = it.run(&Bindings::new().with("S", 1).with("T", 7), &inputs).unwrap().remove(0);
    assert_eq!(y.shape, shape, "{name}");
    let got: f64 = y.data.iter().enumerate().map(|(i, v)| v * (i as f64 * 0.37).cos()).sum();
    assert!((got - sum).abs() < tol, "{name}: {got} instead of {sum}");
}

#[test]
fn convolutions() {
    check("conv1d", &[2, 6, 15], -5.800042058190, 1e-9, |b| {
        let op = Conv { padding: vec![[6, 6]], dilation: vec![3], groups: 6, ..Conv::plain(1) };
        x(b, &[2, 6, 9]).conv(w(b, &[6, 1, 3]), Some(c(b, &[6])), op)
    });
    check("conv2d", &[2, 6, 4, 13], -8.440407383998, 1e-9, |b| {
        let op = Conv { stride: vec![2, 1], padding: vec![[2, 2], [3, 3]], dilation: vec![1, 2], groups: 2, bias: true };
        x(b, &[2, 4, 8, 9]).conv(w(b, &[6, 2, 5, 2]), Some(c(b, &[6])), op)
    });
    check("conv3d", &[1, 5, 2, 3, 4], -3.020260711089, 1e-9, |b| {
        let op = Conv { stride: vec![2; 3], padding: vec![[0, 0], [1, 1], [1, 1]], ..Conv::plain(3) };
        x(b, &[1, 3, 4, 6, 7]).conv(w(b, &[5, 3, 2, 3, 2]), None, op)
    });
    check("conv_transpose1d", &[1, 5, 46], 0.727058216335, 1e-9, |b| {
        let op = ConvTranspose { padding: vec![[3, 3]], output_padding: vec![1], ..ConvTranspose::plain(&[5]) };
        x(b, &[1, 6, 9]).conv_transpose(w(b, &[6, 5, 11]), Some(c(b, &[5])), op)
    });
    check("conv_transpose2d", &[2, 6, 8, 8], 2.528145486861, 1e-9, |b| {
        let (padding, output_padding) = (vec![[1, 1], [2, 2]], vec![1, 0]);
        let op = ConvTranspose { padding, output_padding, dilation: vec![2, 1], groups: 2, ..ConvTranspose::plain(&[2, 2]) };
        x(b, &[2, 4, 3, 5]).conv_transpose(w(b, &[4, 3, 3, 4]), None, op)
    });
}

#[test]
fn norms() {
    check("layer_norm", &[5, 33], 1.582470577241, 1e-9, |b| x(b, &[5, 33]).layer_norm(Some(c(b, &[33])), Some(w(b, &[33])), 1e-5));
    check("group_norm", &[2, 12, 5, 7], 21.809107441857, 1e-9, |b| {
        x(b, &[2, 12, 5, 7]).group_norm(4, Some(c(b, &[12])), Some(w(b, &[12])), 1e-5)
    });
    check("l2_norm", &[2, 33], 0.828222540229, 1e-9, |b| x(b, &[2, 33]).with(L2Norm { eps: 1e-12, clamp: true }, &[]));
}

#[test]
fn interpolation() {
    let (linear, cubic) = (ResizeMode::Linear, ResizeMode::Cubic(-0.75));
    // Plain, align_corners, antialias.
    let cases = [
        (14, 20, linear, [-1.274679976623, -1.663788403680, -1.274679976623]),
        (14, 20, cubic, [-1.706058367519, -1.972101326297, -1.609234485871]),
        (5, 4, linear, [0.556933542966, -0.865743510871, 1.097789414524]),
        (5, 4, cubic, [0.758107063604, -0.611933481534, 0.937368408544]),
    ];
    let size = |h: usize, w: usize| vec![Dim::from(h), Dim::from(w)];
    for (h, wd, mode, [plain, corners, smooth]) in cases {
        let op = Resize::plain(size(h, wd), mode);
        let soft = if mode == cubic { ResizeMode::Cubic(-0.5) } else { mode };
        let variants = [
            (op.clone(), plain),
            (Resize { align_corners: true, ..op.clone() }, corners),
            (Resize { antialias: true, mode: soft, ..op }, smooth),
        ];
        for (op, sum) in variants {
            let name = format!("{op:?}");
            check(&name, &[2, 3, h, wd], sum, 1e-9, |b| x(b, &[2, 3, 7, 10]).with(op.clone(), &[]));
        }
    }
    let resize = |op: Resize, shape: &[usize], sum: f64| check("resize", shape, sum, 1e-9, |b| x(b, &[2, 3, 7, 10]).with(op.clone(), &[]));
    resize(Resize::plain(size(3, 27), ResizeMode::Nearest), &[2, 3, 3, 27], -1.635490031830);
    resize(Resize::plain(size(3, 27), ResizeMode::NearestExact), &[2, 3, 3, 27], 10.853792781715);
    let scaled = Resize { scale: Some(vec![5.1 / 7.0, 9.1 / 10.0]), ..Resize::plain(size(5, 9), cubic) };
    resize(scaled, &[2, 3, 5, 9], 0.989445060203);
}

#[test]
fn transforms() {
    check("stft", &[2, 14, 8, 2], -9.662968170029, 1e-9, |b| x(b, &[2, 41]).stft(c(b, &[15]), 3, true));
    check("rfft", &[3, 8, 2], 4.199852214305, 1e-9, |b| x(b, &[3, 15]).rfft());
    check("irfft", &[3, 16], 1.384604028203, 1e-9, |b| x(b, &[3, 9, 2]).with(Fft { kind: FftKind::InverseReal }, &[]));
    check("irfft odd", &[3, 15], 0.411575762464, 1e-9, |b| x(b, &[3, 8, 2]).with(Fft { kind: FftKind::InverseRealOdd }, &[]));
}

/// Seven tokens of one sequence, three heads.
fn delta<'g>(b: &'g Builder<'g>) -> Vec<Val<'g>> {
    let (h, dk, dv) = (3, 5, 4);
    let seg = b.input("seg", Type::Segments { count: Dim::from(1), tokens: Dim::from(7) });
    let op = GatedDeltaRule { scale: (dk as f64).powf(-0.5), qk_norm: Some(1e-6) };
    let (g, beta) = (-x(b, &[7, h]).abs(), w(b, &[7, h]).sigmoid());
    x(b, &[7, h, dk]).with_all(op, &[w(b, &[7, h, dk]), c(b, &[7, h, dv]), g, beta, seg, x(b, &[1, h, dk, dv])])
}

#[test]
fn the_gated_delta_rule() {
    check("result", &[7, 3, 4], -0.304932158486, 1e-5, |b| delta(b)[0]);
    check("state", &[1, 3, 5, 4], -1.624319422842, 1e-5, |b| delta(b)[1]);
}
