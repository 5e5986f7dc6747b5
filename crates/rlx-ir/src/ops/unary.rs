//! Elementwise functions of one tensor.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Inferred, Samples, Tensor, Tol, Type, rule};
use serde::{Deserialize, Serialize};

/// Which function.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // named as in NumPy and PyTorch; the meaning is `UnaryOp::apply`
pub enum UnaryOp {
    Neg,
    Abs,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Recip,
    Square,
    Sin,
    Cos,
    Tanh,
    Erf,
    Sigmoid,
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    Softplus,
    Floor,
    Not,
}

impl UnaryOp {
    /// Every function.
    pub const ALL: [UnaryOp; 20] = {
        use UnaryOp::*;
        [Neg, Abs, Exp, Log, Sqrt, Rsqrt, Recip, Square, Sin, Cos, Tanh, Erf, Sigmoid, Silu, Gelu, GeluTanh, Relu, Softplus, Floor, Not]
    };

    /// The function in f64.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            UnaryOp::Neg => -x,
            UnaryOp::Abs => x.abs(),
            UnaryOp::Exp => x.exp(),
            UnaryOp::Log => x.ln(),
            UnaryOp::Sqrt => x.sqrt(),
            UnaryOp::Rsqrt => 1.0 / x.sqrt(),
            UnaryOp::Recip => 1.0 / x,
            UnaryOp::Square => x * x,
            UnaryOp::Sin => x.sin(),
            UnaryOp::Cos => x.cos(),
            UnaryOp::Tanh => x.tanh(),
            UnaryOp::Erf => erf(x),
            UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            UnaryOp::Silu => x / (1.0 + (-x).exp()),
            UnaryOp::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            UnaryOp::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
            UnaryOp::Relu => x.max(0.0),
            UnaryOp::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            UnaryOp::Floor => x.floor(),
            UnaryOp::Not => f64::from(u8::from(x == 0.0)),
        }
    }
}

/// The error function in f64: Maclaurin series for |x| < 3, continued fraction beyond.
/// Absolute error below 1e-15.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let r = if a < 3.0 {
        // erf(a) = 2/√π · e^(−a²) · Σ 2ⁿ a^(2n+1) / (1·3·…·(2n+1)); all terms positive.
        let (mut term, mut sum, mut n) = (a, a, 1.0);
        while term > 1e-17 * sum {
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
    } else if a.is_nan() {
        a
    } else {
        // erfc(a) = e^(−a²)/√π · 1/(a + (1/2)/(a + 1/(a + (3/2)/(a + …)))), evaluated backwards.
        let f = (1..=60).rev().fold(a, |f, k| a + 0.5 * f64::from(k) / f);
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * f)
    };
    r.copysign(x)
}

/// `op(x)` per element.  x: any shape → same shape and type.  `not` takes bools, the others reals.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Unary {
    /// The function.
    pub op: UnaryOp,
}

impl OpDef for Unary {
    const NAME: &'static str = "unary";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [x] = rule::arity(ins)?;
        match self.op {
            UnaryOp::Not => {
                let (d, _) = rule::tensor("x", x)?;
                if d != DType::Bool {
                    return Err(rule::mismatch("x", x, "a tensor of bool"));
                }
            }
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Square => {
                let (d, _) = rule::tensor("x", x)?;
                if d.is_block() || d == DType::Bool {
                    return Err(rule::mismatch("x", x, "a tensor of numbers"));
                }
            }
            _ => {
                rule::float("x", x)?;
            }
        }
        Ok(vec![x.clone()])
    }

    fn eval(&self, _: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let x = ins[0].tensor(Self::NAME)?;
        let data = x.data.iter().map(|v| self.op.apply(*v)).collect();
        Ok(vec![Value::Tensor(Tensor::new(x.dtype, x.shape.clone(), data))])
    }

    fn samples(s: &mut Samples) {
        use crate::Gen;
        for op in UnaryOp::ALL {
            let (d, g) = match op {
                UnaryOp::Not => (DType::Bool, Gen::Uniform(0.0, 2.0)),
                UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => (DType::F32, Gen::Uniform(0.1, 9.0)),
                _ => (DType::F32, Gen::Normal(3.0)),
            };
            s.op_with(Unary { op }, &[(Type::tensor(d, [3, 37]), g)], Tol { nmse: 1e-11, max: 1e-5 });
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_matches_known_values() {
        // Abramowitz & Stegun, table 7.1.
        for (x, y) in [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.5, 0.999999256901628)] {
            assert!((super::erf(x) - y).abs() < 1e-10, "{x}");
            assert_eq!(super::erf(-x), -super::erf(x));
        }
    }
}
