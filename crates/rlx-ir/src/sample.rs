//! Conformance cases: small graphs with generated inputs, run by every backend against the
//! interpreter.  Ops declare theirs in [`crate::OpDef::samples`].

use crate::graph::ValueId;
use crate::interp::{EvalError, Value};
use crate::tensor::tensor_bytes;
use crate::{Bindings, Builder, DType, Graph, Op, Segments, Tensor, TensorError, Type, Val};
use rlx_gguf::blocks::{Affine, BlockFormat, Fp8, ScaleType};
use std::sync::Arc;

/// How far a result may be from the reference.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Tol {
    /// Bound on `Σ(a−b)² / Σb²`.
    pub nmse: f64,
    /// Bound on `max |a−b|`, relative to `max(1, max |b|)`.
    pub max: f64,
}

impl Tol {
    /// Equal elements.
    pub const EXACT: Tol = Tol { nmse: 0.0, max: 0.0 };
    /// Plain f32 arithmetic on short chains.
    pub const F32: Tol = Tol { nmse: 1e-12, max: 3e-6 };

    /// A bound on the normalised mean squared error alone.
    pub const fn nmse(nmse: f64) -> Tol {
        Tol { nmse, max: f64::INFINITY }
    }
}

/// How the elements of an input are drawn.
#[derive(Clone, PartialEq, Debug)]
pub enum Gen {
    /// Normal distribution with this standard deviation.
    Normal(f64),
    /// Uniform over `[lo, hi)`; whole numbers for integer types.
    Uniform(f64, f64),
    /// These elements exactly.
    Values(Vec<f64>),
    /// Random bytes, for block formats: reaches codes that no quantiser writes, and formats that
    /// have none.  Every block has finite elements, the largest between 0.5 and 2 in magnitude, and a spread of at
    /// least a quarter of that: no block outweighs all others, and no format's minimum drowns its codes.
    Bytes,
}

/// A drawn parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct Weight {
    /// Name in the graph.
    pub name: Arc<str>,
    /// The elements that `bytes` stand for.
    pub tensor: Tensor,
    /// The tensor as a file stores it.  Quantising `tensor` again need not give these bytes.
    pub bytes: Vec<u8>,
}

/// One call of a case.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Values of the symbols.
    pub dims: Bindings,
    /// The segments input, where the graph has one.
    pub segments: Option<Segments>,
}

/// A graph, how to draw its inputs and parameters, the calls to make in order (states carry over
/// from one to the next), and the tolerance of every output.
#[derive(Clone, Debug)]
pub struct Case {
    /// `op/number`, or a name.
    pub name: String,
    /// The computation.
    pub graph: Graph,
    /// One per graph input; ignored for segments.
    pub inputs: Vec<Gen>,
    /// One per parameter.
    pub params: Vec<Gen>,
    /// Calls.
    pub steps: Vec<Step>,
    /// Tolerance.
    pub tol: Tol,
}

/// Collects cases.
#[derive(Clone, Default, Debug)]
pub struct Samples {
    /// What was collected.
    pub cases: Vec<Case>,
    op: &'static str,
}

/// Affine formats of all bits, groups and types of scales (not all combinations), and the fp8 ones.
pub(crate) fn affine_and_fp8() -> impl Iterator<Item = BlockFormat> {
    let affine = Affine::all().filter(|a| a.scale() == ScaleType::ALL[(a.bits() + a.group().ilog2() as usize) % 3]);
    affine.map(BlockFormat::Affine).chain(Fp8::all().map(BlockFormat::Fp8))
}

/// The usual distribution for a type: normal for reals, small whole numbers for integers.
pub fn default_gen(ty: &Type) -> Gen {
    match ty {
        Type::Tensor(DType::Bool, _) => Gen::Uniform(0.0, 2.0),
        Type::Tensor(d, _) if d.is_int() => Gen::Uniform(0.0, 5.0),
        _ => Gen::Normal(1.0),
    }
}

impl Samples {
    /// Names the op the next cases belong to.
    pub fn set_op(&mut self, name: &'static str) {
        self.op = name;
    }

    fn name(&self) -> String {
        let n = self.cases.iter().filter(|c| c.name.split('/').next() == Some(self.op)).count();
        format!("{}/{n}", self.op)
    }

    /// `op` on inputs of these types with all dimensions constant, default distributions.
    pub fn op(&mut self, op: impl Into<Op>, types: &[Type], tol: Tol) {
        let ins: Vec<(Type, Gen)> = types.iter().map(|t| (t.clone(), default_gen(t))).collect();
        self.op_with(op, &ins, tol);
    }

    /// `op` on inputs of these types and distributions.  Weights (block types) become parameters.
    pub fn op_with(&mut self, op: impl Into<Op>, ins: &[(Type, Gen)], tol: Tol) {
        let (b, op) = (Builder::new("sample"), op.into());
        let (mut gens, mut params) = (vec![], vec![]);
        let ids: Vec<ValueId> = {
            let mut vals = vec![];
            for (i, (ty, g)) in ins.iter().enumerate() {
                if let Type::Tensor(DType::Block(_), _) = ty {
                    vals.push(b.param_value(&format!("w{i}"), ty.clone()));
                    params.push(g.clone());
                } else {
                    vals.push(b.input(&format!("x{i}"), ty.clone()));
                    gens.push(g.clone());
                }
            }
            b.emit("", op, &vals).iter().map(|v| v.id()).filter(|v| b.has_value(*v)).collect()
        };
        self.push(b, &ids, gens, params, vec![Step { dims: Bindings::new(), segments: None }], tol);
    }

    /// A graph built by `f` (its result values are the outputs).  `gens` has one entry per input;
    /// segments in `steps` feed the segments input and bind `S` and `T`.
    pub fn graph(
        &mut self,
        gens: &[Gen],
        steps: &[(Segments, &[(&str, u64)])],
        tol: Tol,
        f: impl for<'g> FnOnce(&'g Builder<'g>) -> Vec<Val<'g>>,
    ) {
        let b = Builder::new("sample");
        let ids: Vec<ValueId> = f(&b).iter().map(|v| v.id()).collect();
        let steps = steps
            .iter()
            .map(|(seg, dims)| {
                let mut d = Bindings::new().with("S", seg.count() as u64).with("T", seg.tokens() as u64);
                dims.iter().for_each(|(k, v)| d.set(k, *v));
                Step { dims: d, segments: Some(seg.clone()) }
            })
            .collect();
        self.push(b, &ids, gens.to_vec(), vec![], steps, tol);
    }

    fn push(&mut self, b: Builder<'_>, ids: &[ValueId], mut inputs: Vec<Gen>, mut params: Vec<Gen>, steps: Vec<Step>, tol: Tol) {
        let name = self.name();
        match b.finish_ids(ids) {
            Ok(graph) => {
                params.resize(graph.params.len(), Gen::Normal(1.0));
                inputs.resize(graph.inputs.len(), Gen::Normal(1.0));
                self.cases.push(Case { name, graph, inputs, params, steps, tol });
            }
            // A sample that does not type-check is a mistake in the op's file.
            Err(d) => unreachable!("sample {name}: {d}"),
        }
    }
}

/// A small deterministic generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

impl Case {
    /// Draws every parameter.
    pub fn draw_params(&self, rng: &mut Rng) -> Result<Vec<Weight>, EvalError> {
        let draw = |(p, g): (&crate::Param, &Gen)| {
            let Type::Tensor(dtype, shape) = self.graph.ty(p.value) else {
                return Err(EvalError::Input(format!("parameter {} is no tensor", p.name)));
            };
            let shape = shape.0.iter().map(|d| d.eval(&Bindings::new())).collect::<Result<Vec<_>, _>>()?;
            let (tensor, bytes) = g.draw_stored(rng, *dtype, &shape).map_err(|e| EvalError::Input(e.to_string()))?;
            Ok(Weight { name: p.name.clone(), tensor, bytes })
        };
        self.graph.params.iter().zip(&self.params).map(draw).collect()
    }

    /// Draws the inputs of call number `step`.
    pub fn draw_inputs(&self, step: usize, rng: &mut Rng) -> Result<Vec<Value>, EvalError> {
        let s = &self.steps[step];
        let draw = |((name, v), g): (&crate::graph::Named, &Gen)| match self.graph.ty(*v) {
            Type::Tensor(d, shape) => {
                let shape = shape.0.iter().map(|d| d.eval(&s.dims)).collect::<Result<Vec<_>, _>>()?;
                g.draw(rng, *d, &shape).map(Value::Tensor).map_err(|e| EvalError::Input(e.to_string()))
            }
            _ => {
                let seg = s.segments.clone().ok_or_else(|| EvalError::Input(format!("step {step} has no segments for {name}")))?;
                Ok(Value::Segments(seg.into()))
            }
        };
        self.graph.inputs.iter().zip(&self.inputs).map(draw).collect()
    }
}

impl Gen {
    /// Draws a tensor of this type and shape, rounded to what its storage holds.
    pub fn draw(&self, rng: &mut Rng, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        self.draw_stored(rng, dtype, shape).map(|d| d.0)
    }

    /// Draws a tensor of this type and shape, with the bytes that store it.
    pub fn draw_stored(&self, rng: &mut Rng, dtype: DType, shape: &[usize]) -> Result<(Tensor, Vec<u8>), TensorError> {
        if let (Gen::Bytes, DType::Block(b)) = (self, dtype) {
            let mut bytes = vec![0; tensor_bytes(dtype, shape)?];
            bytes.chunks_exact_mut(b.block_bytes()).for_each(|block| random_block(b, block, rng));
            return Ok((Tensor::from_bytes(dtype, shape, &bytes)?, bytes));
        }
        let n = shape.iter().product();
        let data = (0..n)
            .map(|i| match self {
                Gen::Normal(sd) => rng.normal() * sd,
                Gen::Uniform(lo, hi) => {
                    let v = lo + rng.uniform() * (hi - lo);
                    if dtype.is_float() { v } else { v.floor() }
                }
                Gen::Values(v) => v[i % v.len()],
                Gen::Bytes => rng.normal(),
            })
            .collect();
        let bytes = Tensor::new(dtype, shape, data).to_bytes()?;
        Ok((Tensor::from_bytes(dtype, shape, &bytes)?, bytes))
    }
}

/// Fills one block with random bytes whose meaning is in the range of [`Gen::Bytes`].
fn random_block(format: BlockFormat, block: &mut [u8], rng: &mut Rng) {
    let mut values = vec![0f32; format.block_len()];
    // About one draw in 700 fits the least likely formats, which have a random f32 and codes that are NaN.
    for _ in 0..20_000 {
        block.chunks_mut(8).for_each(|b| b.copy_from_slice(&rng.bits().to_le_bytes()[..b.len()]));
        let whole = format.dequantize(block, &mut values).is_ok() && values.iter().all(|v| v.is_finite());
        let low = values.iter().fold(f32::INFINITY, |m, v| m.min(*v));
        let high = values.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let largest = high.abs().max(low.abs());
        if whole && (0.5..2.0).contains(&largest) && high - low > 0.25 * largest {
            return;
        }
    }
    block.fill(0);
}
