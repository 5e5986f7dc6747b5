//! A tree of elementwise ops as one op.

use super::binary::{broadcast_shape, expand};
use super::{Binary, BinaryOp, Cast, Constant, OpDef, Select, Unary, UnaryOp};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// One step of a [`Fused`] program; operands are numbers of earlier steps.
#[derive(Copy, Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instr {
    /// The element of input number `.0`.
    Input(usize),
    /// A number of this type.
    Const(f64, DType),
    /// As [`Unary`].
    Unary(UnaryOp, usize),
    /// As [`Binary`].
    Binary(BinaryOp, usize, usize),
    /// As [`Select`]: condition, then the value if true, then the other.
    Select(usize, usize, usize),
    /// As [`Cast`].
    Cast(DType, usize),
}

impl Instr {
    /// The steps it reads.
    pub fn operands(&self) -> impl Iterator<Item = usize> + use<> {
        let (a, b, c) = match *self {
            Instr::Input(_) | Instr::Const(..) => (None, None, None),
            Instr::Unary(_, a) | Instr::Cast(_, a) => (Some(a), None, None),
            Instr::Binary(_, a, b) => (Some(a), Some(b), None),
            Instr::Select(a, b, c) => (Some(a), Some(b), Some(c)),
        };
        [a, b, c].into_iter().flatten()
    }
}

/// A program run per element.  Step `i` computes register `i`; the last register is the result.
///
/// Inputs: tensors of any plain types that broadcast to the result's shape.  Types of registers
/// follow from the steps (see [`Fused::types`]).  Every input and every register is used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fused {
    /// The program.
    pub steps: Vec<Instr>,
}

impl Fused {
    /// The type of every register, or why the program does not fit the inputs.
    pub fn types(&self, ins: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let mut types: Vec<Type> = Vec::with_capacity(self.steps.len());
        let mut used = vec![false; self.steps.len()];
        let mut read = vec![false; ins.len()];
        for (i, step) in self.steps.iter().enumerate() {
            for r in step.operands() {
                if r >= i {
                    return Err(TypeError::Attribute(format!("step {i} reads register {r}, which is not computed before it")));
                }
                used[r] = true;
            }
            let of = |r: usize| &types[r];
            let made = match *step {
                Instr::Input(k) => {
                    let Some(t) = ins.get(k) else {
                        return Err(TypeError::Arity { expected: format!("more than {k}"), found: ins.len() });
                    };
                    let (d, _) = rule::tensor(&format!("input {k}"), t)?;
                    if d.is_block() {
                        return Err(rule::mismatch(format!("input {k}"), t, "a tensor that is not block-quantised"));
                    }
                    read[k] = true;
                    vec![(*t).clone()]
                }
                Instr::Const(v, dtype) => Constant { dtype, shape: vec![], data: vec![v] }.infer(&[])?,
                Instr::Unary(op, a) => Unary { op }.infer(&[of(a)])?,
                Instr::Binary(op, a, b) => Binary { op }.infer(&[of(a), of(b)])?,
                Instr::Select(c, a, b) => Select {}.infer(&[of(c), of(a), of(b)])?,
                Instr::Cast(to, a) => Cast { to }.infer(&[of(a)])?,
            };
            types.extend(made);
        }
        if ins.is_empty() || self.steps.is_empty() {
            return Err(TypeError::Arity { expected: "at least one input and one step".into(), found: ins.len() });
        }
        if let Some(i) = read.iter().position(|r| !r) {
            return Err(TypeError::Attribute(format!("input {i} is never read")));
        }
        used.pop();
        if let Some(i) = used.iter().position(|u| !u) {
            return Err(TypeError::Attribute(format!("register {i} is never read")));
        }
        Ok(types)
    }
}

impl OpDef for Fused {
    const NAME: &'static str = "fused";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        Ok(self.types(ins)?.pop().into_iter().collect())
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let shape = ts.iter().fold(vec![], |s, t| broadcast_shape(&s, &t.shape));
        let ts: Vec<Tensor> = ts.into_iter().map(|t| expand(t, &shape)).collect();
        let mut dtypes: Vec<DType> = vec![];
        for step in &self.steps {
            let d = match *step {
                Instr::Input(k) => ts[k].dtype,
                Instr::Const(_, d) | Instr::Cast(d, _) => d,
                Instr::Binary(op, ..) if op.is_predicate() => DType::Bool,
                Instr::Unary(_, a) | Instr::Binary(_, a, _) | Instr::Select(_, a, _) => dtypes[a],
            };
            dtypes.push(d);
        }
        let mut regs = vec![0.0; self.steps.len()];
        let mut data = Vec::with_capacity(shape.iter().product());
        for e in 0..shape.iter().product() {
            for (i, step) in self.steps.iter().enumerate() {
                regs[i] = match *step {
                    Instr::Input(k) => ts[k].data[e],
                    Instr::Const(v, d) => d.round(v),
                    Instr::Unary(op, a) => op.apply(regs[a]),
                    Instr::Binary(op, a, b) if dtypes[i].is_int() => op.apply(regs[a], regs[b]).trunc(),
                    Instr::Binary(op, a, b) => op.apply(regs[a], regs[b]),
                    Instr::Select(c, a, b) => regs[if regs[c] != 0.0 { a } else { b }],
                    Instr::Cast(d, a) => d.round(regs[a]),
                };
            }
            data.extend(regs.last());
        }
        let dtype = dtypes.pop().unwrap_or(DType::F32);
        Ok(vec![Value::Tensor(Tensor::new(dtype, shape, data))])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let b = ins[0].builder();
        let mut regs: Vec<Val<'g>> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            regs.push(match *step {
                Instr::Input(k) => ins[k],
                Instr::Const(v, d) => b.constant(d, &[], vec![v]),
                Instr::Unary(op, a) => regs[a].with(Unary { op }, &[]),
                Instr::Binary(op, a, c) => regs[a].with(Binary { op }, &[regs[c]]),
                Instr::Select(c, x, y) => regs[c].select(regs[x], regs[y]),
                Instr::Cast(to, a) => regs[a].with(Cast { to }, &[]),
            });
        }
        Some(vec![regs.pop()?])
    }

    fn samples(s: &mut Samples) {
        use Instr::*;
        let tol = Tol { nmse: 1e-11, max: 1e-5 };
        let f = |d: &[usize]| (Type::tensor(DType::F32, d.iter().map(|n| (*n).into()).collect::<Vec<_>>()), Gen::Normal(1.0));
        // gelu_tanh(x · 0.5 + b) · y, with a bias per column and a gate per row.
        let steps = vec![
            Input(0),
            Const(0.5, DType::F32),
            Binary(BinaryOp::Mul, 0, 1),
            Input(1),
            Binary(BinaryOp::Add, 2, 3),
            Unary(UnaryOp::GeluTanh, 4),
            Input(2),
            Binary(BinaryOp::Mul, 5, 6),
        ];
        s.op_with(Fused { steps: steps.clone() }, &[f(&[6, 67]), f(&[67]), f(&[6, 1])], tol);
        s.op_with(Fused { steps }, &[f(&[2, 1, 64]), f(&[3, 64]), f(&[2, 3, 1])], tol);
        // A clamp by selection, through a bool.
        let steps = vec![Input(0), Const(0.25, DType::F32), Binary(BinaryOp::Lt, 0, 1), Unary(UnaryOp::Neg, 0), Select(2, 1, 3)];
        s.op_with(Fused { steps }, &[f(&[4, 33])], Tol::EXACT);
        // Several types: f16 rounding in the middle, integers at the side.
        let steps = vec![
            Input(0),
            Unary(UnaryOp::Square, 0),
            Cast(DType::F16, 1),
            Cast(DType::F32, 2),
            Input(1),
            Cast(DType::F32, 4),
            Binary(BinaryOp::Sub, 3, 5),
        ];
        let ints = (Type::tensor(DType::I32, [5]), Gen::Uniform(-9.0, 9.0));
        s.op_with(Fused { steps }, &[f(&[3, 5]), ints], Tol { nmse: 1e-6, max: 2e-3 });
    }
}
