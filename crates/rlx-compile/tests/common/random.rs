//! Random graphs of the ops that passes touch.
//!
//! Everything is f64, so that a pass may change a result by rounding of the last bits only; where
//! narrower types appear, their values have been rounded to them already.

use rlx_ir::ops::{Attention, Rope};
use rlx_ir::sample::Rng;
use rlx_ir::{Builder, DType, Dim, Graph, Options, Scope, Type, Val};

const E: usize = 8;

struct Maker<'g> {
    b: &'g Builder<'g>,
    rng: Rng,
    /// Values of shape `[T,8]`.
    pool: Vec<Val<'g>>,
    seg: Val<'g>,
    pos: Val<'g>,
    n: usize,
}

/// A graph from `seed` of about `size` constructs; a smaller size is a prefix of a larger one.
pub fn graph(seed: u64, size: usize) -> Graph {
    let b = Builder::with("random", Options { compute: DType::F64, kv: DType::F64 }, Box::new(|_, _| Ok(DType::F64)));
    let ids = {
        let x = b.input("x", Type::tensor(DType::F64, [Dim::sym("T"), Dim::from(E)]));
        let seg = b.segments();
        let pos = seg.positions();
        let rows = b.input("rows", Type::tensor(DType::U32, [Dim::sym("R")]));
        let mut m = Maker { b: &b, rng: Rng(seed), pool: vec![x], seg, pos, n: 0 };
        for _ in 0..size {
            m.n += 1;
            m.construct();
        }
        let mut outs = vec![m.pool[m.pool.len() - 1]];
        for _ in 0..m.rng.bits() % 3 {
            outs.push(m.any());
        }
        if m.pick(2) == 0 {
            outs[0] = m.scope().linear("head", outs[0].gather(rows, DType::F64), 3);
        }
        outs.iter().map(|v| v.id()).collect::<Vec<_>>()
    };
    b.finish_ids(&ids).unwrap_or_else(|d| panic!("the generator made a bad graph: {d}"))
}

impl<'g> Maker<'g> {
    fn pick(&mut self, n: usize) -> usize {
        (self.rng.bits() % n as u64) as usize
    }

    /// A value, recent ones more often.
    fn any(&mut self) -> Val<'g> {
        let n = self.pool.len();
        let back = self.pick(n).min(self.pick(n));
        self.pool[n - 1 - back]
    }

    fn scope(&mut self) -> Scope<'g> {
        self.b.root().at(format!("part.{}", self.n))
    }

    fn number(&mut self) -> f64 {
        let k = self.pick(7);
        [0.0, 1.0, -1.0, 2.0, 0.5, 0.3, -1.7][k]
    }

    /// Keeps numbers in bounds by a function that no pass looks at.
    fn push(&mut self, v: Val<'g>) {
        let v = if self.pick(3) == 0 { v.tanh() } else { v };
        if self.pick(8) == 0 {
            v.tap(format!("tap.{}", self.n));
        }
        // Some values are left unused.
        if self.pick(12) > 0 {
            self.pool.push(v);
        }
    }

    fn construct(&mut self) {
        let x = self.any();
        let y = match self.pick(18) {
            0 | 1 => self.unary(x),
            2 | 3 => self.binary(x),
            4 | 5 => self.with_number(x),
            6 => self.projections(x),
            7 => self.product_with_epilogue(x),
            8 => self.gated(x),
            9 => self.residual_norm(x),
            10 => self.attention(x),
            11 => self.casts(x),
            12 => self.slices(x),
            13 => self.movement(x),
            14 => self.choice(x),
            15 => self.constants(x),
            16 => self.integers(x),
            _ => self.twice(x),
        };
        self.push(y);
    }

    fn unary(&mut self, x: Val<'g>) -> Val<'g> {
        match self.pick(9) {
            0 => x.neg(),
            1 => x.neg().neg(),
            2 => x.abs().neg().abs(),
            3 => x.relu().relu(),
            4 => x.silu(),
            5 => x * x.sigmoid(),
            6 => x.sigmoid() * x,
            7 => (x.square() + 1.0).sqrt().recip(),
            _ => x.gelu(),
        }
    }

    fn binary(&mut self, x: Val<'g>) -> Val<'g> {
        let y = self.any();
        match self.pick(7) {
            0 => x + y,
            1 => x - y,
            2 => x.tanh() * y.tanh(),
            3 => x.maximum(y),
            4 => x.minimum(y),
            5 => x + y.neg(),
            _ => x.neg() + y - y.neg(),
        }
    }

    fn with_number(&mut self, x: Val<'g>) -> Val<'g> {
        let c = self.number();
        let table = self.b.full(DType::F64, [Dim::from(1), Dim::from(E)], c);
        match self.pick(8) {
            0 => x * c,
            1 => x + c,
            2 => x - c,
            3 => x.scalar(c) * x,
            4 => x.scalar(c) - x,
            5 => x.maximum(table),
            6 => table + x,
            _ => x / if c == 0.0 { 1.0 } else { c },
        }
    }

    /// Two or three products that share their input, joined again.
    fn projections(&mut self, x: Val<'g>) -> Val<'g> {
        let (w, n) = (self.scope(), 2 + self.pick(2));
        let parts: Vec<Val<'g>> = (0..n).map(|i| w.linear(&format!("{i}"), x, if i == 2 { 3 } else { 4 })).collect();
        let rest = parts.iter().skip(2).fold(parts[0].concat(1, &parts[1..2]), |y, p| y * p.mean_last().tanh());
        if self.pick(2) == 0 { rest } else { rest + x }
    }

    fn product_with_epilogue(&mut self, x: Val<'g>) -> Val<'g> {
        let w = self.scope();
        let bias = self.pick(2) == 0;
        let mut y = w.linear_bias("fc", x, E, bias);
        match self.pick(4) {
            0 => y = y.silu(),
            1 => y = y.gelu(),
            2 => y = y.tanh() + w.param("late.bias", [E]),
            _ => {}
        }
        match self.pick(4) {
            0 => y = y + self.any(),
            1 => y = self.any() + y,
            2 => y = y + w.linear("second", x, E),
            _ => {}
        }
        if self.pick(4) == 0 { y + y.abs() } else { y }
    }

    fn gated(&mut self, x: Val<'g>) -> Val<'g> {
        let w = self.scope();
        let act = |v: Val<'g>, k: usize| if k == 0 { v.gelu_tanh() } else { v.silu() };
        let k = self.pick(3);
        let both = match self.pick(3) {
            0 => {
                let gate = w.linear("gate", x, 12);
                act(gate, k) * w.linear("up", x, 12)
            }
            1 => {
                let up = w.linear("up", x, 12);
                up * act(w.linear("gate", x, 12), k)
            }
            _ => {
                let y = w.linear("gate_up", x, 24);
                act(y.slice(1, 0, 12), k) * y.slice(1, 12, 12)
            }
        };
        let y = w.linear("down", both, E);
        if self.pick(2) == 0 { x + y } else { y }
    }

    fn residual_norm(&mut self, x: Val<'g>) -> Val<'g> {
        let (w, y) = (self.scope(), self.any());
        let y = if self.pick(2) == 0 { w.linear("fc", y, E) } else { y };
        let sum = x + y;
        let normed = w.rms_norm("norm", sum, 1e-5);
        if self.pick(3) > 0 {
            self.pool.push(sum);
        }
        if self.pick(4) == 0 {
            self.pool.push(w.rms_norm("norm2", sum, 1e-6));
        }
        normed
    }

    /// A cached attention block; the cache carries over from step to step.
    fn attention(&mut self, x: Val<'g>) -> Val<'g> {
        let (w, rope) = (self.scope(), Rope::new(4, 1e4));
        let heads = |n: &str| w.linear(n, x, E).reshape([Dim::sym("T"), Dim::from(2), Dim::from(4)]);
        let (q, k, v) = (heads("q").rope(&rope, self.pos), heads("k").rope(&rope, self.pos), heads("v"));
        let (ck, cv) = w.kv_cache(k, v, self.seg);
        let y = q.attend(ck, cv, Some(self.seg), Attention::causal(0.5)).merge_heads();
        if self.pick(4) == 0 {
            self.pool.push(k.merge_heads());
        }
        let y = w.linear("o", y, E);
        if self.pick(2) == 0 { x + y } else { y }
    }

    fn casts(&mut self, x: Val<'g>) -> Val<'g> {
        let k = self.pick(3);
        let narrow = x.cast([DType::F32, DType::F16, DType::BF16][k]);
        match self.pick(3) {
            0 => narrow.cast(DType::F64),
            1 => narrow.cast(DType::F32).cast(DType::F64),
            _ => x + narrow.cast(DType::F64).cast(narrow.dtype()).cast(DType::F64),
        }
    }

    fn slices(&mut self, x: Val<'g>) -> Val<'g> {
        let (low, high) = (x.slice(1, 0, 4), x.slice(1, 4, 4));
        match self.pick(4) {
            0 => high.concat(1, &[low]),
            1 => x.slice(1, 2, 6).slice(1, 1, 4).concat(1, &[low]),
            2 => (low * high.silu()).concat(1, &[low.silu() * high]),
            _ => x.slice(1, 0, E).concat(1, &[]),
        }
    }

    fn movement(&mut self, x: Val<'g>) -> Val<'g> {
        let t = || Dim::sym("T");
        let shape = |a: usize, b: usize| [t(), Dim::from(a), Dim::from(b)];
        match self.pick(4) {
            0 => x.reshape(shape(2, 4)).reshape(shape(4, 2)).reshape([t(), Dim::from(E)]),
            1 => x.reshape(shape(2, 4)).permute(&[0, 2, 1]).permute(&[2, 0, 1]).permute(&[1, 2, 0]).reshape([t(), Dim::from(E)]),
            2 => x.permute(&[1, 0]).tanh().permute(&[1, 0]),
            _ => x.mean_last().broadcast_to([t(), Dim::from(E)]) - x,
        }
    }

    fn choice(&mut self, x: Val<'g>) -> Val<'g> {
        let (y, c) = (self.any(), self.number() + 0.01);
        let test = y.lt(y.scalar(c));
        match self.pick(4) {
            0 => test.select(x, y),
            1 => test.with(rlx_ir::ops::Unary { op: rlx_ir::ops::UnaryOp::Not }, &[]).select(x, x.neg()),
            2 => test.and(x.le(x.scalar(0.77))).select(x * 2.0, x.scalar(0.25)),
            _ => test.cast(DType::F64) + x,
        }
    }

    fn constants(&mut self, x: Val<'g>) -> Val<'g> {
        let c = self.number();
        let row = self.b.iota(DType::F64, E);
        let table = match self.pick(4) {
            0 => (row * 0.1 + c).tanh(),
            1 => row.scalar(c).tanh() + 0.1,
            2 => row.reshape([1, E]).broadcast_to([3, E]).mean(&[0]) * 0.1,
            _ => self.b.constant(DType::F64, &[E], (0..E).map(|i| c * i as f64).collect()).sin(),
        };
        if self.pick(2) == 0 { x + table } else { table * x }
    }

    fn integers(&mut self, x: Val<'g>) -> Val<'g> {
        let p = self.pos.cast(DType::I32);
        let p = p * 3.0 + 1.0;
        let p = p / p.scalar(2.0);
        x + p.cast(DType::F64).reshape([Dim::sym("T"), Dim::from(1)])
    }

    fn twice(&mut self, x: Val<'g>) -> Val<'g> {
        let make = || (x * 0.7).tanh();
        make() * make() + make()
    }
}
