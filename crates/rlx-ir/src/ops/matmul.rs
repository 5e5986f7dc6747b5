//! Batched matrix product of activations.

use super::OpDef;
use super::binary::{broadcast_shape, expand};
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// `a · b`.  a: […,M,K], b: […,K,N] → […,M,N]; leading dimensions broadcast.  Products with a
/// weight are [`super::Linear`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Matmul {}

impl OpDef for Matmul {
    const NAME: &'static str = "matmul";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [a, b] = rule::arity(ins)?;
        let ((da, sa), (db, sb)) = (rule::float("a", a)?, rule::float("b", b)?);
        let ([la @ .., m, k], [lb @ .., k2, n]) = (sa, sb) else {
            return Err(rule::mismatch("rank", format!("{} and {}", sa.len(), sb.len()), "at least 2 each"));
        };
        if da != db {
            return Err(rule::mismatch("b", b, format!("a tensor of {da}, like a")));
        }
        rule::same("last dimension of a", k, "second to last of b", k2)?;
        let mut s = rule::broadcast(la, lb)?;
        s.extend([m.clone(), n.clone()]);
        Ok(vec![Type::tensor(da, s)])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let (a, b) = (ins[0].tensor(Self::NAME)?, ins[1].tensor(Self::NAME)?);
        let (la, lb) = (a.shape.len() - 2, b.shape.len() - 2);
        let (m, k, n) = (a.shape[la], a.shape[la + 1], b.shape[lb + 1]);
        let lead = broadcast_shape(&a.shape[..la], &b.shape[..lb]);
        let (a, b) = (expand(a, &[&lead[..], &[m, k]].concat()), expand(b, &[&lead[..], &[k, n]].concat()));
        let batches: usize = lead.iter().product();
        let mut out = vec![0.0; batches * m * n];
        for i in 0..batches {
            let (a, b, o) = (&a.data[i * m * k..], &b.data[i * k * n..], &mut out[i * m * n..(i + 1) * m * n]);
            for r in 0..m {
                for c in 0..n {
                    o[r * n + c] = (0..k).map(|j| a[r * k + j] * b[j * n + c]).sum();
                }
            }
        }
        Ok(vec![Value::Tensor(Tensor::new(a.dtype, [&lead[..], &[m, n]].concat(), out))])
    }

    fn samples(s: &mut Samples) {
        let f = |d: &[usize]| Type::tensor(DType::F32, d.iter().map(|n| (*n).into()).collect::<Vec<_>>());
        for (a, b) in [(vec![5, 7], vec![7, 3]), (vec![2, 3, 17, 40], vec![2, 3, 40, 9]), (vec![3, 1, 4, 8], vec![2, 8, 5]), (vec![1, 64], vec![64, 33])] {
            s.op(Matmul {}, &[f(&a), f(&b)], Tol { nmse: 1e-11, max: 1e-5 });
        }
    }
}
