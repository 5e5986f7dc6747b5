//! The [`Backend`] implementation: weights in memory, programs that run.

use crate::frame::{Frame, Step};
use crate::load::{Loading, Meter};
use crate::matmul::Mode;
use crate::memory::Buffer;
use crate::simd::Level;
use crate::steps::{self, Kernels, ParamUse};
use crate::team::Team;
use crate::tuning::{self, Blocks};
use crate::weights::CpuWeights;
use rlx_compile::backend::{Progress, check_args, stored_bytes};
use rlx_compile::{Arg, Backend, BackendError, DeviceInfo, Layout, Plan, Pool, Program, WeightSource, Weights};
use rlx_ir::ops::Op;
use rlx_ir::{Bindings, Graph, Node, Type};
use std::sync::{Arc, Mutex, PoisonError};

/// How to use this processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Threads; 0 for one per physical core.
    pub threads: usize,
    /// Instruction set; the fastest when absent.
    pub level: Option<Level>,
    /// Whether matrix products may quantise activations.
    pub exact: bool,
    /// Whether weights are packed while loading rather than while they are in use.
    pub eager: bool,
    /// Block sizes of matrix products; the processor's when absent.
    pub blocks: Option<Blocks>,
}

/// The CPU.
pub struct Cpu {
    kernels: Kernels,
    threads: usize,
    eager: bool,
    team: Arc<Mutex<Team>>,
}

impl Cpu {
    /// A backend with a team of threads of its own.
    pub fn new(options: Options) -> Result<Cpu, BackendError> {
        let level = options.level.unwrap_or_else(Level::detect);
        if !level.is_available() {
            let device = format!("this processor (best: {})", Level::detect());
            return Err(BackendError::Missing { device, what: format!("{level} instructions") });
        }
        if let Some(b) = options.blocks.filter(|b| !Blocks::BYTES.contains(&b.act) || !Blocks::BYTES.contains(&b.weight)) {
            return Err(BackendError::Call(format!("blocks of {} and {} bytes: expected {:?}", b.act, b.weight, Blocks::BYTES)));
        }
        let threads = if options.threads == 0 { tuning::threads(level) } else { options.threads };
        let team = Team::new(threads).map_err(|e| BackendError::Call(format!("cannot start {threads} threads: {e}")))?;
        let mode = if options.exact { Mode::Exact } else { Mode::Fast };
        let kernels = Kernels { mode, level, blocks: options.blocks.unwrap_or_else(|| Blocks::of(level)) };
        Ok(Cpu { kernels, threads, eager: options.eager, team: Arc::new(Mutex::new(team)) })
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.kernels.level
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl Backend for Cpu {
    fn info(&self) -> DeviceInfo {
        let b = self.kernels.blocks;
        let name = format!("cpu ({} threads, {}, blocks of {} and {} KiB)", self.threads, self.kernels.level, b.act >> 10, b.weight >> 10);
        DeviceInfo { kind: "cpu", name, memory: total_memory() }
    }

    fn supports(&self, op: &Op, ins: &[&Type]) -> bool {
        steps::supports(op, ins)
    }

    fn accepts_strided(&self, op: &Op, i: usize) -> bool {
        steps::accepts_strided(op, i)
    }

    fn scratch_bytes(&self, g: &Graph, n: &Node, dims: &Bindings) -> Result<u64, BackendError> {
        steps::scratch(g, n, dims, self.kernels, self.threads).map(|bytes| bytes as u64)
    }

    fn weight_bytes(&self, g: &Graph, param: usize) -> Result<u64, BackendError> {
        match steps::param_use(g, param, self.kernels) {
            ParamUse::Matrices(count, m) if !m.is_raw() => Ok((count * m.bytes()) as u64),
            ParamUse::Widened(_, n) => Ok(4 * n as u64),
            _ => stored_bytes(g, param).map(|_| 0),
        }
    }

    fn load(&self, plan: &Plan, source: &dyn WeightSource, progress: Progress<'_>) -> Result<Arc<dyn Weights>, BackendError> {
        let (graph, meter) = (&plan.graph, Meter::new(&plan.graph, progress)?);
        let loading = Loading { graph, source, kernels: self.kernels, eager: self.eager, meter };
        let mut team = self.team.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(loading.run(&mut team)?))
    }

    fn compile(&self, plan: Arc<Plan>, weights: Arc<dyn Weights>, pool: Pool) -> Result<Box<dyn Program>, BackendError> {
        let own = cpu_weights(&weights)?;
        let g = &plan.graph;
        let find = |name: &Arc<str>| own.params.iter().position(|p| p.0 == *name);
        let params = g.params.iter().map(|p| {
            find(&p.name).ok_or_else(|| BackendError::Weight { name: p.name.to_string(), why: "was not loaded with these weights".into() })
        });
        let params = params.collect::<Result<Vec<_>, _>>()?;
        let mut phases = vec![];
        for phase in &plan.phases {
            let steps = phase.iter().map(|n| {
                let missing = || BackendError::Missing { device: "cpu".into(), what: format!("{} kernel", g.nodes[n.index()].op.name()) };
                steps::step(g, *n, self.kernels).ok_or_else(missing)
            });
            phases.push(steps.collect::<Result<Vec<_>, _>>()?);
        }
        let states = (0..g.states.len()).map(|i| {
            let rows = match g.ty(g.states[i].1) {
                Type::Cache(..) => pool.blocks * pool.block_tokens,
                _ => pool.slots,
            };
            Ok(Buffer::zeroed(plan.state_row_bytes(i)? as usize * rows))
        });
        let states = states.collect::<Result<Vec<_>, BackendError>>()?;
        Ok(Box::new(CpuProgram {
            backend: Cpu { team: Arc::clone(&self.team), ..*self },
            state_ptrs: states.iter().map(Buffer::ptr).collect(),
            plan,
            phases,
            params,
            weights,
            states,
            pool,
            arena: Buffer::zeroed(0),
            layouts: vec![],
            last: None,
        }))
    }
}

/// Physical memory of this machine, where the system tells.
fn total_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(kib * 1024)
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

fn cpu_weights(weights: &Arc<dyn Weights>) -> Result<&CpuWeights, BackendError> {
    let own = weights.as_any().downcast_ref::<CpuWeights>();
    own.ok_or_else(|| BackendError::Call("these weights were loaded for another device".into()))
}

/// Layouts kept for bindings seen lately.
const LAYOUTS: usize = 32;

struct CpuProgram {
    backend: Cpu,
    plan: Arc<Plan>,
    phases: Vec<Vec<Box<dyn Step>>>,
    /// Which of the weights each parameter is.
    params: Vec<usize>,
    weights: Arc<dyn Weights>,
    states: Vec<Buffer>,
    state_ptrs: Vec<*mut u8>,
    pool: Pool,
    arena: Buffer,
    /// Least recently used first.
    layouts: Vec<(Bindings, Layout)>,
    /// The binding of the last run is `layouts[last]`.
    last: Option<usize>,
}

// SAFETY: the raw pointers are into `states`, which the program owns.
unsafe impl Send for CpuProgram {}

impl CpuProgram {
    fn bind(&mut self, dims: &Bindings) -> Result<usize, BackendError> {
        if let Some(i) = self.layouts.iter().position(|l| l.0 == *dims) {
            return Ok(i);
        }
        let layout = self.plan.bind(dims, &self.backend)?;
        if self.layouts.len() == LAYOUTS {
            self.layouts.remove(0);
        }
        self.layouts.push((dims.clone(), layout));
        Ok(self.layouts.len() - 1)
    }
}

impl Program for CpuProgram {
    fn run(&mut self, dims: &Bindings, args: &[Arg<'_>]) -> Result<(), BackendError> {
        check_args(&self.plan.graph, dims, args, &self.pool)?;
        self.last = None;
        let at = self.bind(dims)?;
        let bytes = self.layouts[at].1.arena_bytes as usize;
        if self.arena.len() < bytes {
            self.arena = Buffer::zeroed(0);
            self.arena = Buffer::zeroed(bytes);
        }
        let weights = cpu_weights(&self.weights)?;
        let mistake = Mutex::new(None);
        let frame = Frame {
            plan: &self.plan,
            layout: &self.layouts[at].1,
            arena: self.arena.ptr(),
            args,
            weights,
            params: &self.params,
            states: &self.state_ptrs,
            pool: self.pool,
            dims,
            mistake: &mistake,
        };
        let phases = &self.phases;
        let mut team = self.backend.team.lock().unwrap_or_else(PoisonError::into_inner);
        let used = weights.use_in_run(&mut team);
        team.run(&|w, barrier| {
            for steps in phases {
                let stages = steps.iter().map(|s| s.stages(&frame)).max().unwrap_or(0);
                for stage in 0..stages {
                    steps.iter().filter(|s| stage < s.stages(&frame)).for_each(|s| s.run(&frame, stage, w));
                    barrier.wait();
                }
            }
        });
        drop(used);
        drop(team);
        if let Some(why) = mistake.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(BackendError::Value { op: self.plan.graph.name.clone(), why });
        }
        self.last = Some(at);
        Ok(())
    }

    fn read(&self, i: usize, dst: &mut [u8]) -> Result<(), BackendError> {
        let last = self.last.ok_or_else(|| BackendError::Call("the program has not run".into()))?;
        let (_, v) = self.plan.graph.outputs.get(i).ok_or_else(|| BackendError::Call(format!("there is no output {i}")))?;
        let slot = &self.layouts[last].1.values[v.index()];
        if slot.bytes != dst.len() {
            return Err(BackendError::Call(format!("output {i} has {} bytes, not {}", slot.bytes, dst.len())));
        }
        match self.plan.places[v.index()].as_ref().map(|p| p.root) {
            Some(rlx_compile::Root::Arena) => dst.copy_from_slice(&self.arena.bytes()[slot.offset..slot.offset + slot.bytes]),
            _ => return Err(BackendError::Call(format!("output {i} is an input or a parameter"))),
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.arena.len() as u64 + self.states.iter().map(|s| s.len() as u64).sum::<u64>()
    }
}
