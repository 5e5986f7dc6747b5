//! Elementwise functions over strided operands.

use crate::frame::{Frame, Step, View, Walk};
use crate::simd::{Kernel, Level, Simd, dispatch, exp};
use crate::team::Worker;
use rlx_ir::ops::fused::Instr;
use rlx_ir::ops::{BinaryOp, UnaryOp};
use rlx_ir::{DType, ValueId};
use smallvec::SmallVec;

/// `op(x)`.
pub(crate) struct UnaryStep {
    pub level: Level,
    pub op: UnaryOp,
    pub dtype: DType,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for UnaryStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let walk = Walk::new(y.shape, [(y.shape, y.strides), (x.shape, x.strides)]);
        walk.share(w, |[to, from], n| {
            // SAFETY: the walk stays inside both tensors; this share of `y` is this thread's.
            unsafe {
                if self.op == UnaryOp::Not {
                    for i in 0..n {
                        *y.ptr.add(to + i) = u8::from(*x.ptr.add(from + i * walk.inner(1)) == 0);
                    }
                } else if self.dtype != DType::F32 {
                    (0..n).for_each(|i| set(&y, self.dtype, to + i, self.op.apply(number(&x, self.dtype, from + i * walk.inner(1)))));
                } else {
                    let y = std::slice::from_raw_parts_mut(y.ptr.cast::<f32>().add(to), n);
                    load(x.ptr.cast::<f32>().add(from), walk.inner(1), y);
                    unary(self.level, self.op, y);
                }
            }
        });
    }
}

/// Fills `y` from a strided row.
///
/// # Safety
/// The row is readable.
#[inline]
pub(crate) unsafe fn load(x: *const f32, stride: usize, y: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match stride {
            0 => y.fill(*x),
            1 => std::ptr::copy_nonoverlapping(x, y.as_mut_ptr(), y.len()),
            s => y.iter_mut().enumerate().for_each(|(i, y)| *y = *x.add(i * s)),
        }
    }
}

struct Map<'a> {
    op: UnaryOp,
    y: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Map { op, y } = self;
        match op {
            UnaryOp::Neg => y.iter_mut().for_each(|v| *v = -*v),
            UnaryOp::Abs => y.iter_mut().for_each(|v| *v = v.abs()),
            UnaryOp::Sqrt => y.iter_mut().for_each(|v| *v = v.sqrt()),
            UnaryOp::Rsqrt => y.iter_mut().for_each(|v| *v = 1.0 / v.sqrt()),
            UnaryOp::Recip => y.iter_mut().for_each(|v| *v = 1.0 / *v),
            UnaryOp::Square => y.iter_mut().for_each(|v| *v *= *v),
            UnaryOp::Relu => y.iter_mut().for_each(|v| *v = v.max(0.0)),
            UnaryOp::Exp => lanes(s, y, Exp),
            UnaryOp::Sigmoid => lanes(s, y, Sigmoid),
            UnaryOp::Silu => lanes(s, y, Silu),
            UnaryOp::GeluTanh => lanes(s, y, GeluTanh),
            UnaryOp::Log => y.iter_mut().for_each(|v| *v = v.ln()),
            UnaryOp::Sin => y.iter_mut().for_each(|v| *v = v.sin()),
            UnaryOp::Cos => y.iter_mut().for_each(|v| *v = v.cos()),
            UnaryOp::Tanh => y.iter_mut().for_each(|v| *v = v.tanh()),
            UnaryOp::Erf => y.iter_mut().for_each(|v| *v = erf(*v)),
            UnaryOp::Gelu => y.iter_mut().for_each(|v| *v = 0.5 * *v * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2))),
            UnaryOp::Softplus => y.iter_mut().for_each(|v| *v = v.max(0.0) + (-v.abs()).exp().ln_1p()),
            UnaryOp::Floor => y.iter_mut().for_each(|v| *v = v.floor()),
            UnaryOp::Not => y.iter_mut().for_each(|v| *v = f32::from(u8::from(*v == 0.0))),
        }
    }
}

/// A function of vectors. A closure would not do: it is compiled without the level's instructions, and where it is
/// called from two places it becomes a function of its own that calls every one of them.
trait Lanes {
    fn apply<S: Simd>(&self, s: S, x: S::F) -> S::F;
}

struct Exp;

impl Lanes for Exp {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F) -> S::F {
        exp(s, x)
    }
}

struct Sigmoid;

impl Lanes for Sigmoid {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F) -> S::F {
        let one = s.splat(1.0);
        s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
    }
}

struct Silu;

impl Lanes for Silu {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F) -> S::F {
        s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
    }
}

struct GeluTanh;

impl Lanes for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F) -> S::F {
        // x · sigmoid(2·√(2/π)·(x + 0.044715 x³)) is the same function.
        let u = s.mul(s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x), s.splat(-1.595_769));
        s.div(x, s.add(s.splat(1.0), exp(s, u)))
    }
}

/// `y = f(y)`, vector by vector.
#[inline(always)]
fn lanes<S: Simd>(s: S, y: &mut [f32], f: impl Lanes) {
    let (n, p) = (y.len(), y.as_mut_ptr());
    let mut i = 0;
    // SAFETY: indices stay below n; the tail goes through a buffer of the widest vector's size.
    unsafe {
        while i + S::LANES <= n {
            s.store(p.add(i), f.apply(s, s.load(p.add(i))));
            i += S::LANES;
        }
        if i < n {
            let mut tail = [0f32; 16];
            tail[..n - i].copy_from_slice(&y[i..]);
            let v = f.apply(s, s.load(tail.as_ptr()));
            s.store_first(p.add(i), v, n - i);
        }
    }
}

/// `y = op(y)` in place.
pub(crate) fn unary(level: Level, op: UnaryOp, y: &mut [f32]) {
    dispatch(level, Map { op, y });
}

/// Error function, absolute error below 2e-7: Maclaurin series for small arguments, beyond that the
/// Chebyshev fit of `erfc(x)·exp(x²)` in `2/(2+x)` of Press et al., Numerical Recipes, §6.2.
pub(crate) fn erf(x: f32) -> f32 {
    let a = f64::from(x.abs());
    if a < 0.5 {
        // Alternating series; the terms fall below 1e-9 within 8.
        let q = a * a;
        let (mut term, mut sum) = (a, a);
        for n in 1..9 {
            term *= -q / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return (sum * std::f64::consts::FRAC_2_SQRT_PI) as f32 * x.signum();
    }
    if a > 4.0 {
        return x.signum();
    }
    // erfc(a) = t·exp(−a² + P(t)), t = 2/(2+a); relative error below 1.2e-7.
    let t = 2.0 / (2.0 + a);
    const P: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let p = P.iter().fold(0.0, |acc, c| acc * t + c);
    ((1.0 - t * (-a * a + p).exp()) as f32).copysign(x)
}

/// `op(a, b)` with broadcasting, on f32, i32, u32 or bool.
pub(crate) struct BinaryStep {
    pub op: BinaryOp,
    pub dtype: DType,
    pub a: ValueId,
    pub b: ValueId,
    pub y: ValueId,
}

fn apply_f32(op: BinaryOp, a: f32, b: f32) -> f32 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Lt => f32::from(u8::from(a < b)),
        BinaryOp::Le => f32::from(u8::from(a <= b)),
        BinaryOp::Eq => f32::from(u8::from(a == b)),
        BinaryOp::And => f32::from(u8::from(a != 0.0 && b != 0.0)),
        BinaryOp::Or => f32::from(u8::from(a != 0.0 || b != 0.0)),
    }
}

/// `y[i] = op(a[i·sa], b[i·sb])`, with the operator outside the loop.
///
/// # Safety
/// The rows are readable and writable for `n` elements.
pub(crate) unsafe fn binary_row(op: BinaryOp, a: (*const f32, usize), b: (*const f32, usize), y: *mut f32, n: usize) {
    macro_rules! row {
        ($f:expr) => {
            // SAFETY: the caller's promise.
            unsafe {
                match (a.1, b.1) {
                    (1, 1) => (0..n).for_each(|i| *y.add(i) = $f(*a.0.add(i), *b.0.add(i))),
                    (1, 0) => {
                        let b = *b.0;
                        (0..n).for_each(|i| *y.add(i) = $f(*a.0.add(i), b));
                    }
                    _ => (0..n).for_each(|i| *y.add(i) = $f(*a.0.add(i * a.1), *b.0.add(i * b.1))),
                }
            }
        };
    }
    match op {
        BinaryOp::Add => row!(|a: f32, b: f32| a + b),
        BinaryOp::Sub => row!(|a: f32, b: f32| a - b),
        BinaryOp::Mul => row!(|a: f32, b: f32| a * b),
        BinaryOp::Div => row!(|a: f32, b: f32| a / b),
        BinaryOp::Max => row!(|a: f32, b: f32| a.max(b)),
        BinaryOp::Min => row!(|a: f32, b: f32| a.min(b)),
        op => row!(|a: f32, b: f32| apply_f32(op, a, b)),
    }
}

impl Step for BinaryStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (a, b, y) = (f.view(self.a), f.view(self.b), f.view(self.y));
        let walk = Walk::new(y.shape, [(y.shape, y.strides), (a.shape, a.strides), (b.shape, b.strides)]);
        let (sa, sb) = (walk.inner(1), walk.inner(2));
        let predicate = self.op.is_predicate();
        walk.share(w, |[to, at_a, at_b], n| {
            // SAFETY: the walk stays inside the tensors; this share of `y` is this thread's.
            unsafe {
                match self.dtype {
                    DType::F32 if !predicate => {
                        let (a, b) = (a.ptr.cast::<f32>().add(at_a), b.ptr.cast::<f32>().add(at_b));
                        binary_row(self.op, (a, sa), (b, sb), y.ptr.cast::<f32>().add(to), n);
                    }
                    _ => {
                        for i in 0..n {
                            let (x, z) = (number(&a, self.dtype, at_a + i * sa), number(&b, self.dtype, at_b + i * sb));
                            let r = self.op.apply(x, z);
                            let out = if predicate { DType::Bool } else { self.dtype };
                            set(&y, out, to + i, r);
                        }
                    }
                }
            }
        });
    }
}

/// Element `i` as f64: exact for every type handled.
///
/// # Safety
/// The element exists.
pub(crate) unsafe fn number(v: &View<'_>, d: DType, i: usize) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        match d {
            DType::F32 => f64::from(*v.ptr.cast::<f32>().add(i)),
            DType::F64 => *v.ptr.cast::<f64>().add(i),
            DType::I32 => f64::from(*v.ptr.cast::<i32>().add(i)),
            DType::U32 => f64::from(*v.ptr.cast::<u32>().add(i)),
            DType::F16 => half::f16::from_bits(*v.ptr.cast::<u16>().add(i)).to_f64(),
            DType::BF16 => half::bf16::from_bits(*v.ptr.cast::<u16>().add(i)).to_f64(),
            _ => f64::from(*v.ptr.add(i)),
        }
    }
}

/// Writes element `i`, rounding or truncating as a cast does.
///
/// # Safety
/// The element exists and belongs to this thread.
pub(crate) unsafe fn set(v: &View<'_>, d: DType, i: usize, x: f64) {
    // SAFETY: the caller's promise.
    unsafe {
        match d {
            DType::F32 => *v.ptr.cast::<f32>().add(i) = x as f32,
            DType::F64 => *v.ptr.cast::<f64>().add(i) = x,
            DType::I32 => *v.ptr.cast::<i32>().add(i) = x as i32,
            DType::U32 => *v.ptr.cast::<u32>().add(i) = x as u32,
            DType::F16 => *v.ptr.cast::<u16>().add(i) = half::f16::from_f64(x).to_bits(),
            DType::BF16 => *v.ptr.cast::<u16>().add(i) = half::bf16::from_f64(x).to_bits(),
            DType::Bool => *v.ptr.add(i) = u8::from(x != 0.0),
            _ => *v.ptr.add(i) = x as u8,
        }
    }
}

/// `c ? a : b` with broadcasting.
pub(crate) struct SelectStep {
    pub dtype: DType,
    pub ins: [ValueId; 3],
    pub y: ValueId,
}

impl Step for SelectStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let ([c, a, b], y) = (self.ins.map(|v| f.view(v)), f.view(self.y));
        let walk = Walk::new(y.shape, [(y.shape, y.strides), (c.shape, c.strides), (a.shape, a.strides), (b.shape, b.strides)]);
        walk.share(w, |[to, ic, ia, ib], n| {
            for i in 0..n {
                // SAFETY: the walk stays inside the tensors; this share of `y` is this thread's.
                unsafe {
                    let (v, at) =
                        if *c.ptr.add(ic + i * walk.inner(1)) != 0 { (&a, ia + i * walk.inner(2)) } else { (&b, ib + i * walk.inner(3)) };
                    match self.dtype {
                        DType::F32 | DType::I32 | DType::U32 => *y.ptr.cast::<u32>().add(to + i) = *v.ptr.cast::<u32>().add(at),
                        d => set(&y, d, to + i, number(v, d, at)),
                    }
                }
            }
        });
    }
}

/// Conversion of element types.
pub(crate) struct CastStep {
    pub from: DType,
    pub to: DType,
    pub x: ValueId,
    pub y: ValueId,
}

impl Step for CastStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let (x, y) = (f.view(self.x), f.view(self.y));
        let walk = Walk::new(y.shape, [(y.shape, y.strides), (x.shape, x.strides)]);
        walk.share(w, |[to, from], n| {
            for i in 0..n {
                // SAFETY: the walk stays inside both tensors; this share of `y` is this thread's.
                unsafe { set(&y, self.to, to + i, number(&x, self.from, from + i * walk.inner(1))) };
            }
        });
    }
}

/// A tree of elementwise ops, evaluated a chunk of elements at a time.
pub(crate) struct FusedStep {
    pub level: Level,
    pub steps: Vec<Instr>,
    /// Inputs and whether each is bool (read as 0 or 1).
    pub ins: SmallVec<[(ValueId, bool); 6]>,
    pub y: ValueId,
}

/// Elements per register.
const CHUNK: usize = 64;
/// Most registers of a program this backend claims.
pub(crate) const MAX_REGISTERS: usize = 32;
/// Most inputs of a program this backend claims.
pub(crate) const MAX_INPUTS: usize = 6;

impl Step for FusedStep {
    fn run(&self, f: &Frame<'_>, _: usize, w: Worker) {
        let y = f.view(self.y);
        let mut operands: [(&[usize], &[usize]); MAX_INPUTS + 1] = [(&[], &[]); MAX_INPUTS + 1];
        let mut ptrs = [std::ptr::null_mut(); MAX_INPUTS];
        operands[0] = (y.shape, y.strides);
        for (i, (v, _)) in self.ins.iter().enumerate() {
            let x = f.view(*v);
            operands[i + 1] = (x.shape, x.strides);
            ptrs[i] = x.ptr;
        }
        let walk = Walk::new(y.shape, operands);
        let mut regs = [[0f32; CHUNK]; MAX_REGISTERS];
        walk.share(w, |at, n| {
            for first in (0..n).step_by(CHUNK) {
                let len = CHUNK.min(n - first);
                for (r, step) in self.steps.iter().enumerate() {
                    let (before, rest) = regs.split_at_mut(r);
                    let out = &mut rest[0][..len];
                    // SAFETY: the walk stays inside the tensors.
                    unsafe {
                        match *step {
                            Instr::Input(k) => {
                                let (stride, from) = (walk.inner(k + 1), at[k + 1] + first * walk.inner(k + 1));
                                if self.ins[k].1 {
                                    out.iter_mut().enumerate().for_each(|(i, o)| *o = f32::from(*ptrs[k].add(from + i * stride)));
                                } else {
                                    load(ptrs[k].cast::<f32>().add(from), stride, out);
                                }
                            }
                            Instr::Const(v, _) => out.fill(v as f32),
                            Instr::Unary(op, a) => {
                                out.copy_from_slice(&before[a][..len]);
                                unary(self.level, op, out);
                            }
                            Instr::Binary(op, a, b) => {
                                binary_row(op, (before[a].as_ptr(), 1), (before[b].as_ptr(), 1), out.as_mut_ptr(), len)
                            }
                            Instr::Select(c, a, b) => {
                                for (i, o) in out.iter_mut().enumerate() {
                                    *o = if before[c][i] != 0.0 { before[a][i] } else { before[b][i] };
                                }
                            }
                            // Only f32 and bool registers are claimed: a cast to bool normalises.
                            Instr::Cast(d, a) => {
                                out.copy_from_slice(&before[a][..len]);
                                if d == DType::Bool {
                                    out.iter_mut().for_each(|v| *v = f32::from(u8::from(*v != 0.0)));
                                }
                            }
                        }
                    }
                }
                // SAFETY: this share of `y` is this thread's.
                unsafe {
                    let to = y.ptr.cast::<f32>().add(at[0] + first);
                    std::ptr::copy_nonoverlapping(regs[self.steps.len() - 1].as_ptr(), to, len);
                }
            }
        });
    }
}
