//! Ops as a program runs them: a graph of one op after the other, compiled for the CPU.

use super::shape::Decoder;
use super::{Row, Work, timing};
use crate::limits;
use anyhow::Context;
use rlx_compile::{Arg, Backend, Plan, Pool, Profile, Program, Ragged, WeightData, WeightSource, lower};
use rlx_cpu::Cpu;
use rlx_ir::ops::{AddRmsNorm, Attention, Swiglu, UnaryOp};
use rlx_ir::ops::{RmsNorm, Rope};
use rlx_ir::{Bindings, Builder, DType, Dim, Graph, Segments, Type, Val};
use std::sync::Arc;

/// How many times an op stands in its graph, so that the start of a run does not count.
const CHAIN: usize = 32;
/// Rows of a cache block.
const BLOCK: usize = 64;

/// Ones for every parameter.
struct Ones<'a>(&'a Graph);

impl WeightSource for Ones<'_> {
    fn weight(&self, name: &str) -> Result<WeightData, String> {
        let param = self.0.params.iter().find(|p| *p.name == *name).ok_or("is no parameter")?;
        let Type::Tensor(DType::F32, shape) = self.0.ty(param.value) else { return Err("is no f32 tensor".into()) };
        let shape: Vec<usize> = shape.0.iter().filter_map(Dim::as_const).collect();
        let bytes: Vec<u8> = 1f32.to_le_bytes().repeat(shape.iter().product());
        Ok(WeightData { dtype: DType::F32, shape, bytes: Arc::new(bytes) })
    }
}

/// A compiled graph with `T` new tokens of one sequence behind `past` cached ones.
struct Ready {
    program: Box<dyn Program>,
    inputs: Vec<Option<Vec<f32>>>,
    dims: Bindings,
    seg: Segments,
    blocks: Vec<u32>,
}

impl Ready {
    fn compiled(cpu: &Cpu, graph: Graph, tokens: usize, past: usize) -> anyhow::Result<Ready> {
        let dims = Bindings::new().with("S", 1).with("T", tokens as u64);
        let blocks: Vec<u32> = (0..(tokens + past).div_ceil(BLOCK) as u32).collect();
        let (lowered, _) = lower(graph, cpu)?;
        let plan = Arc::new(Plan::new(lowered, cpu));
        let weights = cpu.load(&plan, &Ones(&plan.graph), &|_, _| {})?;
        let mut inputs = vec![];
        for (name, v) in &plan.graph.inputs {
            inputs.push(match plan.graph.ty(*v) {
                Type::Tensor(DType::F32, shape) => {
                    let n = shape.numel().eval(&dims).with_context(|| format!("the size of {name}"))?;
                    Some((0..n).map(|i| (i * 7919 % 2003) as f32 * 1e-3 - 1.0).collect())
                }
                _ => None,
            });
        }
        let pool = Pool { block_tokens: BLOCK, blocks: blocks.len(), slots: 1 };
        let program = cpu.compile(plan, weights, pool)?;
        Ok(Ready { program, inputs, dims, seg: Segments::new([(tokens as u32, past as u32, 0)]), blocks })
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let starts = [0, self.blocks.len() as u32];
        let segments = Ragged { segments: &self.seg, blocks: &self.blocks, block_starts: &starts };
        let arg = |x: &'_ Option<Vec<f32>>| match x {
            // SAFETY: floats are bytes.
            Some(x) => Arg::Tensor(unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), 4 * x.len()) }),
            None => Arg::Segments(segments),
        };
        let args: Vec<Arg<'_>> = self.inputs.iter().map(arg).collect();
        Ok(self.program.run(&self.dims, &args)?)
    }

    /// Seconds per op, of which a run does `count`.
    fn time(&mut self, rounds: u32, count: usize) -> anyhow::Result<Vec<f64>> {
        let seconds = timing::usual(rounds, |calls| (0..calls).try_for_each(|_| self.run()))?;
        Ok(seconds.into_iter().map(|s| s / count as f64).collect())
    }
}

fn rows_of(dims: &[usize]) -> Type {
    Type::tensor(DType::F32, std::iter::once(Dim::sym("T")).chain(dims.iter().map(|n| Dim::from(*n))).collect::<Vec<_>>())
}

/// Attention of `tokens` new tokens behind `past` cached ones, over caches of the usual type: as many layers as their
/// keys and values take to be larger than the last cache.
pub fn attention(cpu: &Cpu, d: &Decoder, tokens: usize, past: usize, rounds: u32) -> anyhow::Result<Row> {
    let options = Profile::default().options();
    let row_bytes = 2 * d.kv_heads * d.head_dim * options.kv.size().unwrap_or(2);
    let cached = (tokens + past) * row_bytes;
    let layers = (4 * limits::last_cache().unwrap_or(0) as usize).div_ceil(cached).clamp(2, 16);
    let b = Builder::with("attention", options, Box::new(|_, _| Err("there are no parameters".into())));
    let graph = {
        let (k, v) = (b.input("k", rows_of(&[d.kv_heads, d.head_dim])), b.input("v", rows_of(&[d.kv_heads, d.head_dim])));
        let (mut q, seg) = (b.input("q", rows_of(&[d.heads, d.head_dim])), b.segments());
        for i in 0..layers {
            let (keys, values) = b.root().at(format!("{i}")).kv_cache(k, v, seg);
            q = q.attend(keys, values, Some(seg), Attention::causal((d.head_dim as f64).powf(-0.5)));
        }
        q.id()
    };
    let mut ready = Ready::compiled(cpu, b.finish_ids(&[graph]).context("the graph is wrong")?, tokens, past)?;
    let seconds = ready.time(rounds, layers)?;
    // Every query head meets each key up to its own position in two products, of scores and of values.
    let pairs = tokens as f64 * past as f64 + (tokens * (tokens + 1)) as f64 / 2.0;
    let ops = 4.0 * pairs * (d.heads * d.head_dim) as f64;
    let name = format!("attention {} m{tokens} behind {past} t{}", d.name, cpu.threads());
    let work = Work { bytes: cached as f64, ops, peak: Some(super::Peak::F32), memory: true };
    Ok(Row { name, threads: cpu.threads(), seconds, work })
}

/// An op that is bound by neither memory nor arithmetic: it is what barriers and calls cost.
pub struct Small {
    pub name: &'static str,
    pub what: &'static str,
    /// Elements of a row it reads and writes, in all.
    elements: fn(&Decoder) -> usize,
    /// The graph, and how often the op is in it.
    build: for<'g> fn(&'g Builder<'_>, &Decoder) -> (Val<'g>, usize),
}

/// The small ops of a decoder.
pub const SMALL: [Small; 5] = [
    Small {
        name: "rms_norm",
        what: "norm of hidden states",
        elements: |d| 2 * d.hidden,
        build: |b, d| {
            let weight = b.param_value("weight", Type::tensor(DType::F32, [d.hidden]));
            chain(b.input("x", rows_of(&[d.hidden])), |x| x.with(RmsNorm { eps: 1e-6 }, &[weight]))
        },
    },
    Small {
        name: "add_rms_norm",
        what: "residual sum and norm of hidden states",
        elements: |d| 4 * d.hidden,
        build: |b, d| {
            let weight = b.param_value("weight", Type::tensor(DType::F32, [d.hidden]));
            let sum = b.input("sum", rows_of(&[d.hidden]));
            chain(b.input("x", rows_of(&[d.hidden])), |x| x.with_all(AddRmsNorm { eps: 1e-6 }, &[sum, weight])[1])
        },
    },
    Small {
        name: "rope",
        what: "rotation of all query heads",
        elements: |d| 2 * d.heads * d.head_dim,
        build: |b, d| {
            let (rope, positions) = (Rope::new(d.head_dim, 1e6), b.segments().positions());
            chain(b.input("x", rows_of(&[d.heads, d.head_dim])), |x| x.rope(&rope, positions))
        },
    },
    Small {
        name: "silu",
        what: "the activation of a feed-forward block",
        elements: |d| 2 * d.intermediate,
        build: |b, d| chain(b.input("x", rows_of(&[d.intermediate])), |x| x.silu()),
    },
    Small {
        name: "silu_mul",
        what: "gate times up of a feed-forward block, with the start of a run",
        elements: |d| 3 * d.intermediate,
        build: |b, d| (b.input("x", rows_of(&[2 * d.intermediate])).with(Swiglu { act: UnaryOp::Silu }, &[]), 1),
    },
];

fn chain<'g>(mut x: Val<'g>, op: impl Fn(Val<'g>) -> Val<'g>) -> (Val<'g>, usize) {
    for _ in 0..CHAIN {
        x = op(x);
    }
    (x, CHAIN)
}

/// Measures a small op over `tokens` rows.
pub fn small(cpu: &Cpu, op: &Small, d: &Decoder, tokens: usize, rounds: u32) -> anyhow::Result<Row> {
    let b = Builder::new(op.name);
    let (id, count) = {
        let (out, count) = (op.build)(&b, d);
        (out.id(), count)
    };
    let mut ready = Ready::compiled(cpu, b.finish_ids(&[id]).context("the graph is wrong")?, tokens, 0)?;
    let seconds = ready.time(rounds, count)?;
    let work = Work { bytes: (4 * tokens * (op.elements)(d)) as f64, ops: 0.0, peak: None, memory: false };
    let name = format!("{} {} m{tokens} t{}", op.name, d.name, cpu.threads());
    Ok(Row { name, threads: cpu.threads(), seconds, work })
}
