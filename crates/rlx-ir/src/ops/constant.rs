//! Constant tensors.

use super::OpDef;
use crate::interp::{EvalCx, EvalError, Value};
use crate::{DType, Dim, Inferred, Samples, Tensor, Tol, Type, TypeError};
use serde::{Deserialize, Serialize};

/// A tensor known when the graph is built.  Small: tables of a few thousand numbers at most;
/// anything larger is a parameter.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Constant {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Elements, row-major; all finite.
    pub data: Vec<f64>,
}

impl OpDef for Constant {
    const NAME: &'static str = "constant";

    fn infer(&self, ins: &[&Type]) -> Inferred {
        let [] = crate::rule::arity(ins)?;
        let n = self.shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        if n != Some(self.data.len()) || self.dtype.is_block() {
            let why = format!("{} elements for {}{:?}", self.data.len(), self.dtype, self.shape);
            return Err(TypeError::Attribute(why));
        }
        Ok(vec![Type::tensor(self.dtype, self.shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>())])
    }

    fn eval(&self, _: &mut EvalCx<'_>, _: &[&Value]) -> Result<Vec<Value>, EvalError> {
        let data = self.data.iter().map(|v| self.dtype.round(*v)).collect();
        Ok(vec![Value::Tensor(Tensor::new(self.dtype, self.shape.clone(), data))])
    }

    fn samples(s: &mut Samples) {
        s.op(Constant { dtype: DType::F32, shape: vec![2, 3], data: vec![1.0, -2.5, 0.1, 4.0, 1e-9, 7.0] }, &[], Tol::EXACT);
        s.op(Constant { dtype: DType::I32, shape: vec![], data: vec![-3.0] }, &[], Tol::EXACT);
    }
}
