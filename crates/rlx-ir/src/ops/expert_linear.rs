//! Products with the weight matrices of chosen experts.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value, op_error};
use crate::{DType, Dim, Gen, Inferred, Samples, Tensor, Tol, Type, TypeError, Val, rule};
use serde::{Deserialize, Serialize};

/// `y[t,j] = x[t] · W[ids[t,j]]ᵀ (+ b[ids[t,j]])`.
///
/// Inputs: x `[T, K]` (one row for all experts of a token) or `[T, k, K]` (one for each) in a plain
/// real type; W `[E, N, K]` in any real or block type; ids `[T, k]` integers below E; with `bias`
/// also b `[E, N]` in any plain real type.  Result: `[T, k, N]` of x's type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExpertLinear {
    /// A bias per expert follows the ids.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
}

impl OpDef for ExpertLinear {
    const NAME: &'static str = "expert_linear";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        if ins.len() != 3 + usize::from(self.bias) {
            return Err(TypeError::Arity { expected: "3 (x, W, ids), or 4 with a bias".into(), found: ins.len() });
        }
        let ((d, x), (wd, [e, n, k])) = (rule::float("x", ins[0])?, rule::ranked::<3>("W", ins[1])?);
        let [t, chosen] = rule::ranked::<2>("ids", ins[2])?.1;
        rule::int("ids", ins[2])?;
        if !wd.is_float() {
            return Err(rule::mismatch("W", ins[1], "matrices of reals"));
        }
        let fits = match x {
            [rows, cols] => rows == t && cols == k,
            [rows, each, cols] => rows == t && each == chosen && cols == k,
            _ => false,
        };
        if !fits {
            return Err(rule::mismatch("x", ins[0], format!("[{t},{k}] or [{t},{chosen},{k}]")));
        }
        if self.bias {
            let (_, b) = rule::float("bias", ins[3])?;
            if b != [e.clone(), n.clone()] {
                return Err(rule::mismatch("bias", ins[3], format!("[{e},{n}]")));
            }
        }
        Ok(vec![Type::tensor(d, [t.clone(), chosen.clone(), n.clone()])])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let ts = ins.iter().map(|v| v.tensor(Self::NAME)).collect::<Result<Vec<_>, _>>()?;
        let (x, w, ids) = (ts[0], ts[1], ts[2]);
        let (&[e, n, k], &[t, chosen]) = (&w.shape[..], &ids.shape[..]) else {
            return Err(op_error(Self::NAME, "W or ids has the wrong rank"));
        };
        let mut out = Vec::with_capacity(t * chosen * n);
        for (i, id) in ids.data.iter().enumerate() {
            if *id < 0.0 || *id >= e as f64 {
                return Err(op_error(Self::NAME, format!("expert {id} is outside the {e} experts")));
            }
            let (id, row) = (*id as usize, if x.shape.len() == 3 { i } else { i / chosen });
            let row = &x.data[row * k..][..k];
            for r in id * n..(id + 1) * n {
                let dot: f64 = row.iter().zip(&w.data[r * k..]).map(|(a, b)| a * b).sum();
                out.push(dot + if self.bias { ts[3].data[r] } else { 0.0 });
            }
        }
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, [t, chosen, n], out))])
    }

    /// Copies the matrix of every choice: right, and far too large for real models.
    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let (x, w, ids) = (ins[0], ins[1], ins[2]);
        let ([t, chosen], n, k) = (<[Dim; 2]>::try_from(ids.shape()).ok()?, w.dim(1), w.last_dim());
        let each = if x.rank() == 3 { chosen.clone() } else { Dim::from(1) };
        let x = x.reshape([t.clone(), each, k, Dim::from(1)]);
        let mut y = w.gather(ids, x.dtype()).matmul(x).reshape([t, chosen, n]); // [T,k,N,K] · [T,k,K,1]
        if let Some(b) = ins.get(3) {
            y = y + b.gather(ids, x.dtype());
        }
        Some(vec![y])
    }

    fn samples(s: &mut Samples) {
        use rlx_gguf::blocks::BlockFormat::{IQ4XS, MXFP4, Q4_0, Q4K, Q6K, Q8_0};
        let f = |d: &[usize]| (Type::tensor(DType::F32, d.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>()), Gen::Normal(1.0));
        let w = |d: DType, s: [usize; 3]| (Type::tensor(d, s), Gen::Normal(0.3));
        let ids = |t: usize, k: usize, e: usize| (Type::tensor(DType::U32, [t, k]), Gen::Uniform(0.0, e as f64));
        let (op, exact) = (ExpertLinear { bias: false }, Tol { nmse: 1e-11, max: 1e-5 });
        s.op_with(op.clone(), &[f(&[5, 33]), w(DType::F32, [4, 7, 33]), ids(5, 2, 4)], exact);
        s.op_with(op.clone(), &[f(&[3, 4, 64]), w(DType::BF16, [8, 10, 64]), ids(3, 4, 8)], exact);
        s.op_with(ExpertLinear { bias: true }, &[f(&[1, 96]), w(DType::F16, [3, 17, 96]), ids(1, 3, 3), f(&[3, 17])], exact);
        // Many tokens on few experts, one of which no token chooses.
        s.op_with(op.clone(), &[f(&[40, 32]), w(DType::F32, [4, 9, 32]), ids(40, 2, 3)], exact);
        let affine4 = crate::sample::affine_and_fp8().filter(|b| b.name().starts_with("affine4"));
        for b in [Q4_0, Q8_0, Q4K, Q6K, MXFP4, IQ4XS].into_iter().chain(affine4) {
            s.op_with(op.clone(), &[f(&[6, 256]), w(DType::Block(b), [5, 12, 256]), ids(6, 2, 5)], Tol::nmse(5e-4));
            s.op_with(op.clone(), &[f(&[2, 3, 512]), w(DType::Block(b), [4, 9, 512]), ids(2, 3, 4)], Tol::nmse(5e-4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shapes_are_refused() {
        let t = |s: &str| s.parse::<Type>().unwrap();
        let infer = |x: &str, w: &str, i: &str| ExpertLinear { bias: false }.infer(&[&t(x), &t(w), &t(i)]);
        assert_eq!(infer("f32[T,256]", "q4_k[8,16,256]", "u32[T,2]").unwrap()[0].to_string(), "f32[T,2,16]");
        assert!(infer("f32[T,2,256]", "q4_k[8,16,256]", "u32[T,2]").is_ok());
        for (x, w, i) in [("f32[T,3,256]", "f32[8,16,256]", "u32[T,2]"), ("f32[S,256]", "f32[8,16,256]", "u32[T,2]"), ("f32[T,128]", "f32[8,16,256]", "u32[T,2]"), ("f32[T,256]", "i32[8,16,256]", "u32[T,2]"), ("f32[T,256]", "f32[8,16,256]", "f32[T,2]")] {
            assert!(infer(x, w, i).is_err(), "{x} {w} {i}");
        }
    }
}
