//! From nodes to steps: which ops this backend claims, and the step each becomes.

pub(crate) mod data;
pub(crate) mod elementwise;
pub(crate) mod linear;
pub(crate) mod rows;
pub(crate) mod sequence;

use crate::frame::{MAX_RANK, Step};
use crate::matmul::{Matmul, Mode, WeightType};
use crate::simd::Level;
use data::{ConcatStep, ConstantStep, CopyStep, GatherStep, How, IotaStep, TokenStep};
use elementwise::{BinaryStep, CastStep, FusedStep, MAX_INPUTS, MAX_REGISTERS, SelectStep, UnaryStep};
use linear::{LinearStep, MatmulStep};
use rlx_ir::graph::Def;
use rlx_ir::ops::{Mask, Op, UnaryOp};
use rlx_ir::{DType, Graph, Node, NodeId, Type, ValueId};
use rows::{ReduceStep, RmsNormStep, SoftmaxStep, SwigluStep};
use sequence::{AppendStep, AttentionStep, Role, RopeStep, Rotation, kv_type};

/// Types of activations that data movement and integer arithmetic handle.
fn plain(d: DType) -> bool {
    matches!(d, DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::I32 | DType::U32 | DType::U8 | DType::Bool)
}

fn dtype(t: &Type) -> Option<DType> {
    match t {
        Type::Tensor(d, s) if s.rank() <= MAX_RANK => Some(*d),
        _ => None,
    }
}

/// The storage of a weight, for types that have kernels.
pub(crate) fn weight_type(d: DType) -> Option<WeightType> {
    Some(match d {
        DType::F32 => WeightType::F32,
        DType::F16 => WeightType::F16,
        DType::BF16 => WeightType::BF16,
        DType::Block(b) => WeightType::Block(b),
        _ => return None,
    })
}

/// Whether a step exists for `op` on these types.
pub(crate) fn supports(op: &Op, ins: &[&Type]) -> bool {
    let d = |i: usize| ins.get(i).and_then(|t| dtype(t));
    let f32_in = |i: usize| d(i) == Some(DType::F32);
    let all_plain = || ins.iter().all(|t| dtype(t).is_some_and(plain));
    match op {
        Op::Unary(u) => f32_in(0) || u.op == UnaryOp::Not && d(0) == Some(DType::Bool),
        Op::Binary(_) | Op::Select(_) | Op::Cast(_) => all_plain(),
        Op::Fused(p) => {
            let real = |t: &Type| matches!(dtype(t), Some(DType::F32 | DType::Bool));
            let fits = p.steps.len() <= MAX_REGISTERS && ins.len() <= MAX_INPUTS && ins.iter().all(|t| real(t));
            fits && p.types(ins).is_ok_and(|r| r.iter().all(real) && r.last().and_then(dtype) == Some(DType::F32))
        }
        Op::Constant(c) => plain(c.dtype) && c.shape.len() <= MAX_RANK,
        Op::Iota(i) => plain(i.dtype),
        Op::Reshape(_) | Op::Permute(_) | Op::Slice(_) | Op::Concat(_) => all_plain(),
        Op::Broadcast(b) => all_plain() && b.shape.len() <= MAX_RANK,
        Op::Gather(g) => {
            let index = matches!(d(1), Some(DType::U32 | DType::I32));
            index && (d(0) == Some(g.to) && plain(g.to) || g.to == DType::F32 && matrix(ins[0]) && d(0).and_then(weight_type).is_some())
        }
        Op::Reduce(_) => matches!(d(0), Some(DType::F32 | DType::I32 | DType::U32)),
        Op::Matmul(_) => f32_in(0) && f32_in(1),
        Op::Linear(l) => f32_in(0) && (1..=l.weights).all(|i| d(i).and_then(weight_type).is_some()),
        Op::Positions(_) | Op::SegmentIds(_) => true,
        Op::CacheAppend(_) => cache(ins[0]) && f32_in(1),
        Op::RopeAppend(_) => cache(ins[0]) && f32_in(1) && d(2) == Some(DType::U32),
        Op::RmsNorm(_) => f32_in(0) && d(1).is_some_and(plain),
        Op::AddRmsNorm(_) => f32_in(0) && d(2).is_some_and(plain),
        Op::Softmax(_) | Op::Swiglu(_) => f32_in(0),
        Op::Rope(_) => f32_in(0) && matches!(d(1), Some(DType::U32 | DType::I32)),
        Op::Attention(a) => {
            f32_in(0) && a.ragged && cache(ins[1]) && cache(ins[2]) && (a.mask == Mask::Causal || a.window.is_none())
        }
        _ => false,
    }
}

fn matrix(t: &Type) -> bool {
    matches!(t, Type::Tensor(_, s) if s.rank() == 2)
}

fn cache(t: &Type) -> bool {
    matches!(t, Type::Cache(d, s) if kv_type(*d).is_some() && s.rank() == 2)
}

/// Which inputs steps read through strides.
pub(crate) fn accepts_strided(op: &Op, i: usize) -> bool {
    match op {
        Op::Unary(_) | Op::Binary(_) | Op::Select(_) | Op::Cast(_) | Op::Fused(_) | Op::Concat(_) | Op::Reduce(_) => true,
        Op::RmsNorm(_) | Op::Softmax(_) | Op::Swiglu(_) | Op::Rope(_) => i == 0,
        Op::CacheAppend(_) | Op::RopeAppend(_) => i == 1,
        _ => false,
    }
}

/// What a parameter is to this backend.
pub(crate) enum ParamUse {
    /// Bytes as stored.
    Stored,
    /// A weight matrix in the layout of its kernel.
    Matrix(Matmul),
}

/// How parameter `i` is held: packed when every use of it can read the packed form.
pub(crate) fn param_use(g: &Graph, i: usize, mode: Mode, level: Level) -> ParamUse {
    let v = g.params[i].value;
    let Type::Tensor(d, s) = g.ty(v) else { return ParamUse::Stored };
    let sizes: Option<Vec<usize>> = s.0.iter().map(|d| d.as_const()).collect();
    let (Some(ty), Some([n, k])) = (weight_type(*d), sizes.as_deref()) else { return ParamUse::Stored };
    if k % ty.block_len() != 0 {
        return ParamUse::Stored;
    }
    let (mut multiplied, mut packable) = (false, true);
    for node in &g.nodes {
        for (at, _) in node.ins.iter().enumerate().filter(|(_, x)| **x == v) {
            match &node.op {
                Op::Linear(l) if (1..=l.weights).contains(&at) => multiplied = true,
                Op::Gather(_) if at == 0 => {}
                _ => packable = false,
            }
        }
    }
    let mode = if multiplied && packable { mode } else { Mode::Exact };
    ParamUse::Matrix(Matmul::new(ty, mode, level, *n, *k))
}

/// The weight behind a value: a parameter's layout, or a plain matrix of activations.
fn matrix_of(g: &Graph, v: ValueId, mode: Mode, level: Level) -> Matmul {
    if let Def::Param(i) = g.values[v.index()].def
        && let ParamUse::Matrix(m) = param_use(g, i as usize, mode, level)
    {
        return m;
    }
    let Type::Tensor(d, s) = g.ty(v) else { unreachable!("weights are tensors") };
    let size = |i: usize| s.0[i].as_const().expect("weight shapes are constant");
    Matmul::new(weight_type(*d).expect("`supports` checked the type"), Mode::Exact, level, size(0), size(1))
}

/// What a cache is to the attention that reads it.
fn role(g: &Graph, cache: ValueId) -> Role {
    let reads = |n: &Node| matches!(n.op, Op::Attention(_)) && n.ins[1] == cache;
    if g.nodes.iter().any(reads) { Role::Key } else { Role::Value }
}

/// The weights of a linear node, in order.
pub(crate) fn linear_weights(g: &Graph, n: &Node, mode: Mode, level: Level) -> smallvec::SmallVec<[(ValueId, Matmul); 3]> {
    let Op::Linear(l) = &n.op else { return smallvec::SmallVec::new() };
    n.ins[1..=l.weights].iter().map(|v| (*v, matrix_of(g, *v, mode, level))).collect()
}

/// The step of a node; `None` when [`supports`] says no.
pub(crate) fn step(g: &Graph, id: NodeId, mode: Mode, level: Level) -> Option<Box<dyn Step>> {
    let n = &g.nodes[id.index()];
    let tys: Vec<&Type> = n.ins.iter().map(|v| g.ty(*v)).collect();
    if !supports(&n.op, &tys) {
        return None;
    }
    let (ins, y) = (&n.ins, *n.outs.first()?);
    let of = |v: ValueId| dtype(g.ty(v)).unwrap_or(DType::F32);
    let size = |v: ValueId| of(v).size().unwrap_or(0);
    let append = |rotation: Option<(Rotation, ValueId)>, seg: ValueId| -> Option<Box<dyn Step>> {
        let Type::Cache(d, s) = g.ty(ins[0]) else { return None };
        let (heads, dim) = (s.0[0].as_const()?, s.0[1].as_const()?);
        Some(Box::new(AppendStep { role: role(g, y), kv: kv_type(*d)?, heads, dim, rotation, state: ins[0], rows: ins[1], seg }))
    };
    Some(match &n.op {
        Op::Unary(u) => Box::new(UnaryStep { level, op: u.op, x: ins[0], y }),
        Op::Binary(b) => Box::new(BinaryStep { op: b.op, dtype: of(ins[0]), a: ins[0], b: ins[1], y }),
        Op::Select(_) => Box::new(SelectStep { dtype: of(y), ins: [ins[0], ins[1], ins[2]], y }),
        Op::Cast(c) => Box::new(CastStep { from: of(ins[0]), to: c.to, x: ins[0], y }),
        Op::Fused(p) => {
            let ins = ins.iter().map(|v| (*v, of(*v) == DType::Bool)).collect();
            Box::new(FusedStep { level, steps: p.steps.clone(), ins, y })
        }
        Op::Constant(c) => Box::new(ConstantStep { op: c.clone(), y }),
        Op::Iota(i) => Box::new(IotaStep { dtype: i.dtype, y }),
        Op::Reshape(_) | Op::Broadcast(_) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Flat }),
        Op::Permute(p) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Permute(p.axes.clone()) }),
        Op::Slice(s) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Slice(s.axis, s.start.clone()) }),
        Op::Concat(c) => Box::new(ConcatStep { size: size(y), axis: c.axis, ins: ins.to_vec(), y }),
        Op::Gather(gather) => {
            let same = of(ins[0]) == gather.to; // f32 weights are never packed
            let weight = (!same).then(|| matrix_of(g, ins[0], mode, level));
            Box::new(GatherStep { name: at(n), weight, size: size(y), table: ins[0], index: ins[1], y })
        }
        Op::Reduce(r) => Box::new(ReduceStep { op: r.op, dtype: of(y), x: ins[0], y }),
        Op::Matmul(_) => Box::new(MatmulStep { node: id, level, a: ins[0], b: ins[1], y }),
        Op::Linear(l) => {
            let (bias, residual) = l.extras();
            let weights = linear_weights(g, n, mode, level);
            let pick = |i: Option<usize>| i.map(|i| ins[i]);
            Box::new(LinearStep { node: id, level, x: ins[0], weights, bias: pick(bias), act: l.act, residual: pick(residual), y })
        }
        Op::Positions(_) => Box::new(TokenStep { positions: true, seg: ins[0], y }),
        Op::SegmentIds(_) => Box::new(TokenStep { positions: false, seg: ins[0], y }),
        Op::CacheAppend(_) => append(None, ins[2])?,
        Op::RopeAppend(r) => append(Some((Rotation::new(&r.rope), ins[2])), ins[3])?,
        Op::RmsNorm(r) => {
            Box::new(RmsNormStep { level, eps: r.eps, x: ins[0], residual: None, weight: ins[1], weight_type: of(ins[1]), y })
        }
        Op::AddRmsNorm(r) => Box::new(RmsNormStep {
            level,
            eps: r.eps,
            x: ins[0],
            residual: Some((ins[1], y)),
            weight: ins[2],
            weight_type: of(ins[2]),
            y: n.outs[1],
        }),
        Op::Softmax(_) => Box::new(SoftmaxStep { level, x: ins[0], y }),
        Op::Swiglu(s) => Box::new(SwigluStep { level, act: s.act, x: ins[0], y }),
        Op::Rope(r) => Box::new(RopeStep { rotation: Rotation::new(r), x: ins[0], positions: ins[1], y }),
        Op::Attention(a) => {
            let (Type::Cache(d, s), Type::Cache(_, vs)) = (g.ty(ins[1]), g.ty(ins[2])) else { return None };
            let [seg, sinks, _] = a.extras();
            Box::new(AttentionStep {
                node: id,
                level,
                kv: kv_type(*d)?,
                kv_heads: s.0[0].as_const()?,
                value_dim: vs.0[1].as_const()?,
                q: ins[0],
                keys: ins[1],
                values: ins[2],
                seg: ins[seg?],
                sinks: sinks.map(|i| ins[i]),
                op: a.clone(),
                y,
            })
        }
        _ => return None,
    })
}

/// `scope: op`, for messages.
fn at(n: &Node) -> String {
    if n.scope.is_empty() { n.op.name().to_owned() } else { format!("{}: {}", n.scope, n.op.name()) }
}
