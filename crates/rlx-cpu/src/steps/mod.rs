//! From nodes to steps: which ops this backend claims, and the step each becomes.

mod conv;
mod data;
mod elementwise;
mod index;
mod linear;
mod moe;
mod norm;
mod order;
mod resize;
mod rows;
mod scan;
mod sequence;
mod signal;
mod state;

use crate::frame::{MAX_RANK, Step};
use crate::matmul::{Matmul, Mode, WeightType};
use crate::simd::Level;
use crate::team::Claims;
use crate::tuning::Blocks;
use conv::{ConvStep, Sizes};
use data::{ConcatStep, ConstantStep, CopyStep, GatherStep, How, IotaStep, TokenStep};
use elementwise::{BinaryStep, CastStep, FusedStep, MAX_INPUTS, MAX_REGISTERS, SelectStep, UnaryStep};
use index::{GatherAxisStep, PadStep, ScatterStep, is_index};
use linear::{LinearStep, MatmulStep};
use moe::{ExpertStep, RouteStep};
use norm::{LayerNormStep, Wide};
use order::{CumsumStep, MOST_BEST, SortStep, TopKStep};
use resize::ResizeStep;
use rlx_compile::BackendError;
use rlx_ir::graph::Def;
use rlx_ir::ops::fft::FftKind;
use rlx_ir::ops::{Mask, Op};
use rlx_ir::{Bindings, DType, Graph, Node, NodeId, Type, ValueId};
use rows::{ReduceStep, RmsNormStep, SoftmaxStep, SwigluStep};
use scan::{GatedDeltaStep, SelectiveScanStep};
use sequence::{AppendStep, AttentionStep, Role, RopeStep, Rotation, kv_type};
use signal::{FftStep, Frames};
use state::{ShortConvStep, StateStep};

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
    let wide = |i: usize| d(i).is_some_and(Wide::reads);
    let all_plain = || ins.iter().all(|t| dtype(t).is_some_and(plain));
    match op {
        Op::Unary(_) => all_plain(),
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
            let weight = g.to == DType::F32 && matrix(ins[0]) && d(0).and_then(weight_type).is_some();
            index && (weight || plain(g.to) && d(0).is_some_and(plain))
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
        Op::Attention(a) => f32_in(0) && a.ragged && cache(ins[1]) && cache(ins[2]) && (a.mask == Mask::Causal || a.window.is_none()),
        Op::LayerNorm(_) => f32_in(0) && (1..ins.len()).all(wide),
        Op::Pad(_) | Op::Cumsum(_) | Op::Sort(_) => all_plain(),
        Op::TopK(t) => all_plain() && t.k <= MOST_BEST,
        Op::Scatter(_) => d(0).is_some_and(plain) && d(1).is_some_and(is_index),
        Op::GatherAxis(_) => d(0).is_some_and(plain) && d(1).is_some_and(is_index),
        Op::Route(r) => f32_in(0) && r.k <= MOST_BEST,
        Op::ExpertLinear(_) => f32_in(0) && d(1).and_then(weight_type).is_some() && d(2).is_some_and(is_index) && (3..ins.len()).all(wide),
        Op::Conv(_) => f32_in(0) && (1..ins.len()).all(wide),
        Op::StateRead(_) | Op::StateWrite(_) => matches!(ins[0], Type::State(d, s) if plain(*d) && s.rank() < MAX_RANK),
        Op::ShortConv(_) => f32_in(0) && wide(1) && f32_in(3) && (4..ins.len()).all(wide),
        Op::SelectiveScan(_) => f32_in(0) && f32_in(2) && f32_in(6) && (7..ins.len()).all(wide),
        Op::GatedDeltaRule(_) => f32_in(0) && f32_in(6),
        Op::Fft(_) | Op::Stft(_) | Op::Resize(_) => f32_in(0),
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
        Op::Pad(_) | Op::Cumsum(_) => true,
        Op::LayerNorm(_) | Op::Sort(_) | Op::TopK(_) | Op::Route(_) | Op::ShortConv(_) => i == 0,
        Op::GatherAxis(_) => i < 2,
        Op::SelectiveScan(_) => matches!(i, 0 | 1 | 3 | 4),
        Op::GatedDeltaRule(_) => i < 5,
        _ => false,
    }
}

/// What a parameter is to this backend.
pub(crate) enum ParamUse {
    /// Bytes as stored.
    Stored,
    /// A small f16 or bf16 vector, held as f32: norm scales, read on every token.
    Widened(WeightType, usize),
    /// Weight matrices of one shape, one after the other, each in the layout of its kernel.
    Matrices(usize, Matmul),
}

/// Which kernels a program's steps use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    pub mode: Mode,
    pub level: Level,
    pub blocks: Blocks,
}

/// How parameter `i` is held: packed when every use of it can read the packed form.
pub(crate) fn param_use(g: &Graph, i: usize, kernels: Kernels) -> ParamUse {
    let v = g.params[i].value;
    let Type::Tensor(d, s) = g.ty(v) else { return ParamUse::Stored };
    let sizes: Option<Vec<usize>> = s.0.iter().map(|d| d.as_const()).collect();
    let (Some(ty), Some(sizes)) = (weight_type(*d), sizes) else { return ParamUse::Stored };
    let (count, n, k) = match sizes[..] {
        [n] if *d != DType::F32 && norm_scale(g, v) => return ParamUse::Widened(ty, n),
        [n, k] => (1, n, k),
        [experts, n, k] => (experts, n, k),
        _ => return ParamUse::Stored,
    };
    if k % ty.block_len() != 0 {
        return ParamUse::Stored;
    }
    let (mut multiplied, mut packable) = (false, true);
    for node in &g.nodes {
        for (at, _) in node.ins.iter().enumerate().filter(|(_, x)| **x == v) {
            match &node.op {
                Op::Linear(l) if (1..=l.weights).contains(&at) => multiplied = true,
                Op::ExpertLinear(_) if at == 1 => multiplied = true,
                Op::Gather(_) if at == 0 && sizes.len() == 2 => {}
                _ => packable = false,
            }
        }
    }
    let mode = if multiplied && packable { kernels.mode } else { Mode::Exact };
    ParamUse::Matrices(count, Matmul::new(ty, mode, kernels.level, n, k).with_blocks(kernels.blocks))
}

/// Whether every use of a value is as the scale of a norm.
fn norm_scale(g: &Graph, v: ValueId) -> bool {
    g.nodes.iter().all(|n| {
        let at = match n.op {
            Op::RmsNorm(_) => 1,
            Op::AddRmsNorm(_) => 2,
            _ => usize::MAX,
        };
        n.ins.iter().enumerate().all(|(i, x)| *x != v || i == at)
    })
}

/// The type in memory of the scale of a norm.
fn scale_type(g: &Graph, v: ValueId, kernels: Kernels) -> DType {
    match g.values[v.index()].def {
        Def::Param(i) if matches!(param_use(g, i as usize, kernels), ParamUse::Widened(..)) => DType::F32,
        _ => dtype(g.ty(v)).unwrap_or(DType::F32),
    }
}

/// The weight behind a value: the layout of a parameter's matrices, or plain ones of activations.
fn matrix_of(g: &Graph, v: ValueId, kernels: Kernels) -> Matmul {
    if let Def::Param(i) = g.values[v.index()].def
        && let ParamUse::Matrices(_, m) = param_use(g, i as usize, kernels)
    {
        return m;
    }
    let Type::Tensor(d, s) = g.ty(v) else { unreachable!("weights are tensors") };
    let size = |from_end: usize| s.0[s.rank() - from_end].as_const().expect("weight shapes are constant");
    Matmul::new(weight_type(*d).expect("`supports` checked the type"), Mode::Exact, kernels.level, size(2), size(1))
        .with_blocks(kernels.blocks)
}

/// What a cache is to the attention that reads it.
fn role(g: &Graph, cache: ValueId) -> Role {
    let reads = |n: &Node| matches!(n.op, Op::Attention(_)) && n.ins[1] == cache;
    if g.nodes.iter().any(reads) { Role::Key } else { Role::Value }
}

/// The weights of a linear node, in order.
pub(crate) fn linear_weights(g: &Graph, n: &Node, kernels: Kernels) -> smallvec::SmallVec<[(ValueId, Matmul); 3]> {
    let Op::Linear(l) = &n.op else { return smallvec::SmallVec::new() };
    n.ins[1..=l.weights].iter().map(|v| (*v, matrix_of(g, *v, kernels))).collect()
}

/// Bytes of working memory a node's step needs beside its inputs and outputs.
pub(crate) fn scratch(g: &Graph, n: &Node, dims: &Bindings, kernels: Kernels, threads: usize) -> Result<usize, BackendError> {
    let shape = |v: ValueId| -> Result<Vec<usize>, BackendError> {
        let Type::Tensor(_, s) = g.ty(v) else { return Ok(vec![]) };
        Ok(s.0.iter().map(|d| d.eval(dims)).collect::<Result<_, _>>()?)
    };
    let numel = |v: ValueId| Ok::<usize, BackendError>(shape(v)?.iter().product());
    let dtype_of = |v: ValueId| dtype(g.ty(v)).unwrap_or(DType::F32);
    let last = |v: ValueId| Ok::<usize, BackendError>(shape(v)?.last().copied().unwrap_or(1));
    let (ins, y) = (&n.ins, n.outs[0]);
    Ok(match &n.op {
        Op::Linear(_) => {
            let weights = linear_weights(g, n, kernels);
            linear::scratch(weights.iter().map(|w| &w.1), numel(ins[0])? / last(ins[0])?.max(1), threads)
        }
        Op::Matmul(_) => 4 * numel(ins[1])?,
        Op::Attention(a) if a.ragged => {
            let (Type::Segments { count, .. }, [t, h, d]) = (g.ty(ins[3]), &shape(y)?[..]) else { return Ok(0) };
            sequence::attention_scratch(*t, count.eval(dims)?, *h, *d)
        }
        Op::ExpertLinear(_) => {
            let experts = shape(ins[1])?.first().copied().unwrap_or(0);
            moe::expert_scratch(&matrix_of(g, ins[1], kernels), experts, numel(ins[2])?, threads)
        }
        Op::Conv(c) => Sizes::new(c, &shape(ins[0])?, &shape(ins[1])?, &shape(y)?).scratch(dtype_of(ins[1]), threads),
        Op::Fft(o) => signal::fft_scratch(last(if o.kind == FftKind::Real { ins[0] } else { y })?, threads),
        Op::Stft(_) => signal::fft_scratch(last(ins[1])?, threads),
        Op::Resize(r) => resize::resize_scratch(r, &shape(ins[0])?, &shape(y)?),
        _ => 0,
    })
}

/// The step of a node; `None` when [`supports`] says no.
pub(crate) fn step(g: &Graph, id: NodeId, kernels: Kernels) -> Option<Box<dyn Step>> {
    let level = kernels.level;
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
        Op::Unary(u) => Box::new(UnaryStep { level, op: u.op, dtype: of(y), x: ins[0], y }),
        Op::Binary(b) => Box::new(BinaryStep { op: b.op, dtype: of(ins[0]), a: ins[0], b: ins[1], y }),
        Op::Select(_) => Box::new(SelectStep { dtype: of(y), ins: [ins[0], ins[1], ins[2]], y }),
        Op::Cast(c) => Box::new(CastStep { from: of(ins[0]), to: c.to, x: ins[0], y }),
        Op::Fused(p) => {
            let ins = ins.iter().map(|v| (*v, of(*v) == DType::Bool)).collect();
            Box::new(FusedStep { level, steps: p.steps.clone(), ins, y })
        }
        Op::Constant(c) => Box::new(ConstantStep { op: (**c).clone(), y }),
        Op::Iota(i) => Box::new(IotaStep { dtype: i.dtype, y }),
        Op::Reshape(_) | Op::Broadcast(_) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Flat }),
        Op::Permute(p) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Permute(p.axes.clone()) }),
        Op::Slice(s) => Box::new(CopyStep { size: size(y), x: ins[0], y, how: How::Slice(s.axis, s.start.clone()) }),
        Op::Concat(c) => Box::new(ConcatStep { size: size(y), axis: c.axis, ins: ins.to_vec(), y }),
        Op::Gather(gather) => {
            let (from, to) = (of(ins[0]), gather.to);
            // f32 weights are never packed.
            let is_weight = from != to && to == DType::F32 && matrix(g.ty(ins[0])) && matches!(g.values[ins[0].index()].def, Def::Param(_));
            let weight = is_weight.then(|| matrix_of(g, ins[0], kernels));
            let cast = (from != to).then_some((from, to));
            Box::new(GatherStep { name: at(n), weight, cast, size: size(y), table: ins[0], index: ins[1], y })
        }
        Op::Reduce(r) => Box::new(ReduceStep { op: r.op, dtype: of(y), x: ins[0], y }),
        Op::Matmul(_) => Box::new(MatmulStep { node: id, level, a: ins[0], b: ins[1], y }),
        Op::Linear(l) => {
            let (bias, residual) = l.extras();
            let weights = linear_weights(g, n, kernels);
            let pick = |i: Option<usize>| i.map(|i| ins[i]);
            Box::new(LinearStep {
                node: id,
                level,
                x: ins[0],
                weights,
                bias: pick(bias),
                act: l.act,
                residual: pick(residual),
                y,
                claims: Claims::default(),
            })
        }
        Op::Positions(_) => Box::new(TokenStep { positions: true, seg: ins[0], y }),
        Op::SegmentIds(_) => Box::new(TokenStep { positions: false, seg: ins[0], y }),
        Op::CacheAppend(_) => append(None, ins[2])?,
        Op::RopeAppend(r) => append(Some((Rotation::new(&r.rope), ins[2])), ins[3])?,
        Op::RmsNorm(r) => Box::new(RmsNormStep {
            level,
            eps: r.eps,
            x: ins[0],
            residual: None,
            weight: ins[1],
            weight_type: scale_type(g, ins[1], kernels),
            y,
        }),
        Op::AddRmsNorm(r) => Box::new(RmsNormStep {
            level,
            eps: r.eps,
            x: ins[0],
            residual: Some((ins[1], y)),
            weight: ins[2],
            weight_type: scale_type(g, ins[2], kernels),
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
                op: (**a).clone(),
                y,
            })
        }
        op => return more(g, id, op, kernels),
    })
}

/// The second half of [`step`]: norms, selections, convolutions, recurrences, transforms.
fn more(g: &Graph, id: NodeId, op: &Op, kernels: Kernels) -> Option<Box<dyn Step>> {
    let level = kernels.level;
    let n = &g.nodes[id.index()];
    let (ins, y) = (&n.ins, *n.outs.first()?);
    let of = |v: ValueId| dtype(g.ty(v)).unwrap_or(DType::F32);
    let size = |v: ValueId| of(v).size().unwrap_or(0);
    let typed = |i: usize| ins.get(i).map(|v| (*v, of(*v)));
    Some(match op {
        Op::LayerNorm(l) => {
            let weight = if l.weight { typed(1) } else { None };
            let bias = if l.bias { typed(ins.len() - 1) } else { None };
            Box::new(LayerNormStep { level, eps: l.eps, x: ins[0], weight, bias, y })
        }
        Op::Pad(p) => {
            let mut interior = p.interior.clone();
            interior.resize(p.lo.len(), 0);
            Box::new(PadStep { dtype: of(y), lo: p.lo.clone(), interior, value: p.value, x: ins[0], y })
        }
        Op::Scatter(s) => Box::new(ScatterStep {
            name: at(n),
            mode: s.mode,
            dtype: of(y),
            index_type: of(ins[1]),
            base: ins[0],
            index: ins[1],
            updates: ins[2],
            y,
        }),
        Op::GatherAxis(s) => {
            Box::new(GatherAxisStep { name: at(n), axis: s.axis, size: size(y), index_type: of(ins[1]), x: ins[0], index: ins[1], y })
        }
        Op::Sort(s) => Box::new(SortStep { descending: s.descending, dtype: of(y), x: ins[0], values: y, indices: n.outs[1] }),
        Op::TopK(s) => Box::new(TopKStep { k: s.k, dtype: of(y), x: ins[0], values: y, indices: n.outs[1] }),
        Op::Cumsum(c) => Box::new(CumsumStep { op: (**c).clone(), dtype: of(y), x: ins[0], y }),
        Op::Route(r) => Box::new(RouteStep { op: (**r).clone(), logits: ins[0], bias: ins.get(1).copied(), weights: y, ids: n.outs[1] }),
        Op::ExpertLinear(_) => {
            let Type::Tensor(_, shape) = g.ty(ins[1]) else { return None };
            let (experts, each) = (shape.0[0].as_const()?, matrix_of(g, ins[1], kernels));
            Box::new(ExpertStep { node: id, name: at(n), experts, each, x: ins[0], weight: ins[1], ids: typed(2)?, bias: typed(3), y })
        }
        Op::Conv(c) => Box::new(ConvStep { node: id, level, op: (**c).clone(), x: ins[0], weight: typed(1)?, bias: typed(2), y }),
        Op::StateRead(_) => Box::new(StateStep { name: at(n), read: true, size: size(y), state: ins[0], seg: ins[1], value: y }),
        Op::StateWrite(_) => {
            Box::new(StateStep { name: at(n), read: false, size: size(ins[1]), state: ins[0], seg: ins[2], value: ins[1] })
        }
        Op::ShortConv(_) => {
            Box::new(ShortConvStep { level, x: ins[0], weight: typed(1)?, seg: ins[2], state: ins[3], bias: typed(4), y, last: n.outs[1] })
        }
        Op::SelectiveScan(_) => Box::new(SelectiveScanStep {
            level,
            x: ins[0],
            dt: ins[1],
            a: ins[2],
            b: ins[3],
            c: ins[4],
            seg: ins[5],
            state: ins[6],
            skip: typed(7),
            y,
            last: n.outs[1],
        }),
        Op::GatedDeltaRule(o) => Box::new(GatedDeltaStep {
            level,
            op: (**o).clone(),
            q: ins[0],
            k: ins[1],
            v: ins[2],
            g: ins[3],
            beta: ins[4],
            seg: ins[5],
            state: ins[6],
            y,
            last: n.outs[1],
        }),
        Op::Fft(o) => Box::new(FftStep::new(id, level, o.kind, None, ins[0], y)),
        Op::Stft(s) => {
            let frames = Frames { hop: s.hop, center: s.center, window: ins[1] };
            Box::new(FftStep::new(id, level, FftKind::Real, Some(frames), ins[0], y))
        }
        Op::Resize(r) => Box::new(ResizeStep::new(id, level, r, ins[0], y)),
        _ => return None,
    })
}

/// `scope: op`, for messages.
fn at(n: &Node) -> String {
    if n.scope.is_empty() { n.op.name().to_owned() } else { format!("{}: {}", n.scope, n.op.name()) }
}
