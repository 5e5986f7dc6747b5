//! Recurrences over ragged sequences: a prefill of n tokens equals n decode steps and any chunking
//! of it, and a batch of sequences equals each of them alone.

use rlx_ir::ops::*;
use rlx_ir::sample::Rng;
use rlx_ir::{Bindings, Builder, DType, Dim, Graph, Interpreter, Segments, Tensor, Type, Val, interp::Value};

/// Row widths of the inputs that follow seg.
type Widths = &'static [usize];

fn rows<'g>(b: &'g Builder<'g>, name: &str, d: &[usize]) -> Val<'g> {
    let dims: Vec<Dim> = std::iter::once(Dim::sym("T")).chain(d.iter().map(|n| Dim::from(*n))).collect();
    b.input(name, Type::tensor(DType::F64, dims))
}

fn fixed<'g>(b: &'g Builder<'g>, shape: &[usize]) -> Val<'g> {
    let mut rng = Rng(5);
    let data = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    b.constant(DType::F64, shape, data)
}

/// Short convolution, then a Mamba-2 scan.
fn mamba() -> (Graph, Widths) {
    let b = Builder::new("mamba");
    let id = {
        let (seg, root) = (b.segments(), b.root());
        let x = rows(&b, "x", &[6]);
        let x = root.recurrent("conv", [6, 3], seg, |s| {
            let (y, s) = x.short_conv(fixed(&b, &[6, 4]), Some(fixed(&b, &[6])), seg, s);
            (y.silu(), s)
        });
        let (dt, bb, cc) = (rows(&b, "dt", &[2]).softplus(), rows(&b, "b", &[1, 5]), rows(&b, "c", &[1, 5]));
        let x = x.reshape([Dim::sym("T"), Dim::from(2), Dim::from(3)]);
        let y = root.recurrent("ssm", [2, 3, 5], seg, |s| {
            let out = x.with_all(SelectiveScan { skip: true }, &[dt, -fixed(&b, &[2]).exp(), bb, cc, seg, s, fixed(&b, &[2])]);
            (out[0], out[1])
        });
        y.merge_heads().id()
    };
    (b.finish_ids(&[id]).unwrap(), &[6, 2, 5, 5])
}

/// A Mamba scan with one decay per state.
fn mamba1() -> (Graph, Widths) {
    let b = Builder::new("mamba1");
    let id = {
        let (seg, x, dt) = (b.segments(), rows(&b, "x", &[4, 1]), rows(&b, "dt", &[4]).softplus());
        let (bb, cc) = (rows(&b, "b", &[1, 3]), rows(&b, "c", &[1, 3]));
        let y = b.root().recurrent("ssm", [4, 1, 3], seg, |s| {
            let out = x.with_all(SelectiveScan { skip: false }, &[dt, -fixed(&b, &[4, 3]).exp(), bb, cc, seg, s]);
            (out[0], out[1])
        });
        y.merge_heads().id()
    };
    (b.finish_ids(&[id]).unwrap(), &[4, 4, 3, 3])
}

/// Two key heads, four value heads.
fn delta() -> (Graph, Widths) {
    let b = Builder::new("delta");
    let id = {
        let (seg, q, k, v) = (b.segments(), rows(&b, "q", &[2, 3]), rows(&b, "k", &[2, 3]), rows(&b, "v", &[4, 5]));
        let (g, beta) = (-rows(&b, "g", &[4]).softplus(), rows(&b, "beta", &[4]).sigmoid());
        let op = GatedDeltaRule { scale: 0.5, qk_norm: Some(1e-6) };
        let y = b.root().recurrent("memory", [4, 3, 5], seg, |s| {
            let out = q.with_all(op, &[k, v, g, beta, seg, s]);
            (out[0], out[1])
        });
        y.merge_heads().id()
    };
    (b.finish_ids(&[id]).unwrap(), &[6, 6, 20, 4, 4])
}

/// One sequence's inputs: `n` rows of every width.
fn draw(widths: Widths, n: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Rng(seed);
    widths.iter().map(|w| (0..n * w).map(|_| rng.normal()).collect()).collect()
}

struct Run(Interpreter, Widths);

impl Run {
    fn new(f: fn() -> (Graph, Widths)) -> Run {
        let (g, widths) = f();
        rlx_ir::verify::verify(&g).unwrap();
        Run(Interpreter::new(g, |_| None).unwrap(), widths)
    }

    /// Runs `(sequence, from, to, slot)` chunks in one call; returns the result rows.
    fn call(&mut self, parts: &[(&Vec<Vec<f64>>, usize, usize, u32)]) -> Vec<f64> {
        let seg = Segments::new(parts.iter().map(|p| ((p.2 - p.1) as u32, p.1 as u32, p.3)));
        let dims = Bindings::new().with("S", seg.count() as u64).with("T", seg.tokens() as u64);
        let mut ins = vec![Value::Segments(seg.into())];
        for (i, w) in self.1.iter().enumerate() {
            let data: Vec<f64> = parts.iter().flat_map(|p| p.0[i][p.1 * w..p.2 * w].to_vec()).collect();
            let shape = self.0.graph().ty(self.0.graph().inputs[i + 1].1).clone();
            let Type::Tensor(d, shape) = shape else { panic!("a tensor") };
            let shape: Vec<usize> = shape.0.iter().map(|d| d.eval(&dims).unwrap()).collect();
            ins.push(Value::Tensor(Tensor::new(d, shape, data)));
        }
        self.0.run(&dims, &ins).unwrap().remove(0).data.to_vec()
    }
}

const ALL: [fn() -> (Graph, Widths); 3] = [mamba, mamba1, delta];

#[test]
fn prefill_equals_decode_equals_chunks() {
    for f in ALL {
        let (widths, n) = (f().1, 9);
        let x = draw(widths, n, 3);
        let whole = Run::new(f).call(&[(&x, 0, n, 0)]);
        for cuts in [(0..=n).collect::<Vec<_>>(), vec![0, 1, 7, 9], vec![0, 2, 3, 9]] {
            let mut run = Run::new(f);
            let parts: Vec<f64> = cuts.windows(2).flat_map(|c| run.call(&[(&x, c[0], c[1], 4)])).collect();
            assert_eq!(parts, whole, "{cuts:?}");
        }
    }
}

#[test]
fn a_batch_equals_its_sequences_alone_even_in_used_slots() {
    for f in ALL {
        let (a, b) = (draw(f().1, 6, 1), draw(f().1, 4, 2));
        let alone = [Run::new(f).call(&[(&a, 0, 6, 0)]), Run::new(f).call(&[(&b, 0, 4, 0)])];
        let mut run = Run::new(f);
        assert_eq!(run.call(&[(&a, 0, 6, 5), (&b, 0, 4, 2)]), alone.concat());
        // The slots swap their sequences: past 0 forgets what they hold.
        let first = run.call(&[(&b, 0, 1, 5), (&a, 0, 5, 2)]);
        let rest = run.call(&[(&a, 5, 6, 2), (&b, 1, 4, 5)]);
        let (wa, wb) = (alone[0].len() / 6, alone[1].len() / 4);
        assert_eq!(first, [&alone[1][..wb], &alone[0][..5 * wa]].concat());
        assert_eq!(rest, [&alone[0][5 * wa..], &alone[1][wb..]].concat());
    }
}

#[test]
fn a_past_without_a_state_is_an_error() {
    let x = draw(mamba().1, 4, 1);
    let (g, _) = mamba();
    let mut it = Interpreter::new(g, |_| None).unwrap();
    let dims = Bindings::new().with("S", 1).with("T", 1);
    let mut ins = vec![Value::Segments(Segments::new([(1, 3, 0)]).into())];
    for (shape, v) in [vec![1, 6], vec![1, 2], vec![1, 1, 5], vec![1, 1, 5]].into_iter().zip(&x) {
        let n = shape.iter().product();
        ins.push(Value::Tensor(Tensor::new(DType::F64, shape, v[..n].to_vec())));
    }
    let why = it.run(&dims, &ins).unwrap_err().to_string();
    assert!(why.contains("slot 0 of conv is empty"), "{why}");
}
