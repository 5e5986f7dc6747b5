//! Product with weight matrices, and what is fused into it.

use super::{BinaryOp, OpDef, Unary, UnaryOp};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Gen, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule, sample};
use serde::{Deserialize, Serialize};

/// `y = act(x · [W₀; W₁; …]ᵀ + b) + r`.
///
/// Inputs: x […,K] in a real type; `weights` matrices `[Nᵢ,K]`, each in any real or block type;
/// then, where the flags say so, a bias `[ΣNᵢ]` and a residual of the result's shape, both of
/// x's type.  Result: […,ΣNᵢ] of x's type.
///
/// Builders emit one weight and nothing else; the compiler merges weights that share `x` and
/// fuses bias, activation and residual.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Linear {
    /// Number of weights.
    pub weights: usize,
    /// A bias follows the weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
    /// Activation after the bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<UnaryOp>,
    /// A residual follows, added last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub residual: bool,
}

impl Linear {
    /// The plain product with `weights` matrices.
    pub fn plain(weights: usize) -> Linear {
        Linear { weights, bias: false, act: None, residual: false }
    }

    /// Positions of the bias and the residual among the inputs.
    pub fn extras(&self) -> (Option<usize>, Option<usize>) {
        let b = 1 + self.weights;
        (self.bias.then_some(b), self.residual.then_some(b + usize::from(self.bias)))
    }
}

impl OpDef for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let want = self.weights.saturating_add(1 + usize::from(self.bias) + usize::from(self.residual));
        if self.weights == 0 || ins.len() != want {
            return Err(TypeError::Arity { expected: format!("{want} (x, 1 or more weights, bias, residual)"), found: ins.len() });
        }
        let (d, xs) = rule::float("x", ins[0])?;
        let k = rule::last("x", xs)?;
        let mut n = crate::Dim::from(0);
        for (i, w) in ins[1..=self.weights].iter().enumerate() {
            let (wd, [rows, cols]) = rule::ranked::<2>(&format!("weight {i}"), w)?;
            if !wd.is_float() {
                return Err(rule::mismatch(format!("weight {i}"), w, "a matrix of reals"));
            }
            rule::same(&format!("columns of weight {i}"), cols, "last dimension of x", k)?;
            n = n + rows;
        }
        let mut out = xs.to_vec();
        out.pop();
        out.push(n.clone());
        let (bias, residual) = self.extras();
        for (what, at, shape) in [("bias", bias, vec![n]), ("residual", residual, out.clone())] {
            let want = Type::tensor(d, shape);
            if let Some(t) = at.and_then(|i| ins.get(i))
                && **t != want
            {
                return Err(rule::mismatch(what, t, want));
            }
        }
        Ok(vec![Type::tensor(d, out)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let (x, ws) = (ts[0], &ts[1..=self.weights]);
        let k = x.last();
        let n: usize = ws.iter().map(|w| w.shape[0]).sum();
        let m = x.numel() / k.max(1);
        let (bias, residual) = self.extras();
        let mut out = Vec::with_capacity(m * n);
        for row in x.data.chunks(k) {
            for w in ws.iter().flat_map(|w| w.data.chunks(k)) {
                let dot: f64 = row.iter().zip(w).map(|(a, b)| a * b).sum();
                let y = dot + bias.map_or(0.0, |b| ts[b].data[out.len() % n]);
                let y = self.act.map_or(y, |a| a.apply(y));
                out.push(y + residual.map_or(0.0, |r| ts[r].data[out.len()]));
            }
        }
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(n);
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, shape, out))])
    }

    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let x = ins[0];
        let parts: Vec<Val<'g>> = ins[1..=self.weights].iter().map(|w| x.matmul_t(*w)).collect();
        if parts.len() == 1 && !self.bias && self.act.is_none() && !self.residual {
            return None; // the plain product with one weight is the primitive
        }
        let (bias, residual) = self.extras();
        let mut y = if parts.len() == 1 { parts[0] } else { parts[0].concat(x.rank() - 1, &parts[1..]) };
        if let Some(b) = bias {
            y = y.with(super::Binary { op: BinaryOp::Add }, &[ins[b]]);
        }
        if let Some(op) = self.act {
            y = y.with(Unary { op }, &[]);
        }
        if let Some(r) = residual {
            y = y + ins[r];
        }
        Some(vec![y])
    }

    fn samples(s: &mut Samples) {
        use rlx_gguf::blocks::BlockFormat::{self, *};
        let f = |d: &[usize]| Type::tensor(DType::F32, d.iter().map(|n| (*n).into()).collect::<Vec<_>>());
        let exact = Tol { nmse: 1e-11, max: 1e-5 };
        for (m, k, n) in [(1, 64, 40), (3, 33, 7), (17, 128, 70), (2, 1, 1)] {
            s.op(Linear::plain(1), &[f(&[m, k]), f(&[n, k])], exact);
        }
        for d in [DType::F16, DType::BF16] {
            s.op(Linear::plain(1), &[f(&[5, 96]), Type::tensor(d, [33, 96])], exact);
        }
        // Activations may be quantised to 8 bits for block formats; 5e-4 is what that costs.
        for b in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, MXFP4, TQ2_0] {
            for (m, n) in [(1, 37), (9, 16)] {
                let w = (Type::tensor(DType::Block(b), [n, 512]), Gen::Normal(0.3));
                s.op_with(Linear::plain(1), &[(f(&[m, 512]), Gen::Normal(1.0)), w], Tol::nmse(5e-4));
            }
        }
        for b in BlockFormat::GGML.iter().copied().chain(sample::affine_and_fp8()) {
            for (m, n) in [(1, 11), (5, 8)] {
                let w = (Type::tensor(DType::Block(b), [n, 512]), Gen::Bytes);
                s.op_with(Linear::plain(1), &[(f(&[m, 512]), Gen::Normal(1.0)), w], Tol::nmse(5e-4));
            }
        }
        // Groups of 32, 64 and 128 in rows that are no multiple of larger blocks.
        for b in sample::affine_and_fp8() {
            for (m, n, groups) in [(1, 19, 1), (7, 33, 3)] {
                let k = groups * b.block_len();
                let w = (Type::tensor(DType::Block(b), [n, k]), Gen::Normal(0.3));
                s.op_with(Linear::plain(1), &[(f(&[m, k]), Gen::Normal(1.0)), w], Tol::nmse(5e-4));
            }
        }
        let w = |d, n: usize| (Type::tensor(d, [n, 256]), Gen::Normal(0.3));
        let x = (f(&[4, 256]), Gen::Normal(1.0));
        let q = [x.clone(), w(DType::Block(Q4K), 24), w(DType::Block(Q6K), 9), w(DType::BF16, 11)];
        s.op_with(Linear::plain(3), &q, Tol::nmse(5e-4));
        let all = Linear { weights: 2, bias: true, act: Some(UnaryOp::Gelu), residual: true };
        let ins = [x, w(DType::F32, 19), w(DType::F32, 8), (f(&[27]), Gen::Normal(1.0)), (f(&[4, 27]), Gen::Normal(1.0))];
        s.op_with(all, &ins, exact);
    }
}
