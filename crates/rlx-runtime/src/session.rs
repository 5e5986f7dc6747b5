//! Sessions compile graphs; compiled graphs run.

use crate::device::{Device, DeviceError};
use rlx_compile::passes::{self, PassReport};
use rlx_compile::{Arg, Backend, BackendError, Coverage, MissingOps, Plan, Pool, Profile, Program, WeightSource, Weights, lower};
use rlx_ir::{Bindings, Graph, Type};
use std::fmt;
use std::sync::Arc;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The device lacks ops.
    #[error(transparent)]
    Missing(#[from] Box<MissingOps>),
    /// The model takes more memory than it may.
    #[error("this needs {} ({memory}), more than the {} allowed; a smaller --max-seq or a more quantised file needs less", human(*needed), human(*limit))]
    TooLarge {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
        /// What they are for.
        memory: Box<Memory>,
    },
    /// Dimensions without a value.
    #[error(transparent)]
    Dim(#[from] rlx_ir::DimError),
}

/// `1.5 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut v, mut u) = (bytes as f64, 0);
    while v >= 1024.0 && u + 1 < units.len() {
        v /= 1024.0;
        u += 1;
    }
    if u == 0 { format!("{bytes} B") } else { format!("{v:.1} {}", units[u]) }
}

/// Bytes a model takes, exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Weights in device memory (packed).
    pub weights: u64,
    /// Weights used in place from the mapped file.
    pub mapped: u64,
    /// Caches and recurrent states.
    pub states: u64,
    /// Activations of the largest planned call.
    pub activations: u64,
}

impl Memory {
    /// All but mapped files, which the system may drop and read again.
    pub fn held(&self) -> u64 {
        self.weights + self.states + self.activations
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.held() + self.mapped
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {}, mapped file {}, cache {}, activations {}",
            human(self.weights),
            human(self.mapped),
            human(self.states),
            human(self.activations)
        )
    }
}

/// What compiling did: for `--explain`.
#[derive(Clone, Debug)]
pub struct Explain {
    /// The profile in force.
    pub profile: Profile,
    /// The device.
    pub device: String,
    /// Passes in order.
    pub passes: Vec<PassReport>,
    /// What the device runs itself.
    pub coverage: Coverage,
    /// Synchronisations per run.
    pub phases: usize,
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "device: {}\n{}\npasses:", self.device, self.profile)?;
        for p in &self.passes {
            writeln!(f, "  {:<16} {:>6} -> {:<6} nodes  {:>8} us", p.name, p.nodes_before, p.nodes_after, p.micros)?;
        }
        write!(f, "ops ({} phases):\n{}", self.phases, self.coverage)
    }
}

/// A device under a profile.
#[derive(Clone)]
pub struct Session {
    backend: Arc<dyn Backend>,
    profile: Profile,
}

impl Session {
    /// Opens a device.
    pub fn new(device: Device, profile: Profile) -> Result<Session, RuntimeError> {
        Ok(Session { backend: device.open(&profile)?, profile })
    }

    /// A session on a backend made elsewhere.
    pub fn on(backend: Arc<dyn Backend>, profile: Profile) -> Session {
        Session { backend, profile }
    }

    /// The profile.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The device.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Runs passes, lowers and plans, without touching any weight.
    pub fn plan(&self, graph: Graph) -> Result<(Arc<Plan>, Explain), RuntimeError> {
        let (graph, passes) = passes::run_all(graph, &self.profile.fusion);
        let (graph, coverage) = lower(graph, &*self.backend)?;
        let plan = Arc::new(Plan::new(graph, &*self.backend));
        let explain =
            Explain { profile: self.profile.clone(), device: self.backend.info().name, passes, coverage, phases: plan.phases.len() };
        Ok((plan, explain))
    }

    /// Exact bytes a plan takes with this pool, for calls up to these dimensions.
    pub fn memory(&self, plan: &Plan, pool: &Pool, dims: &Bindings) -> Result<Memory, RuntimeError> {
        let mut m = Memory { states: plan.state_bytes(pool)?, ..Memory::default() };
        for i in 0..plan.graph.params.len() {
            match self.backend.weight_bytes(&plan.graph, i)? {
                0 => m.mapped += rlx_compile::backend::stored_bytes(&plan.graph, i)?,
                packed => m.weights += packed,
            }
        }
        m.activations = plan.bind(dims, &*self.backend)?.arena_bytes;
        Ok(m)
    }

    /// Loads the weights a plan needs.
    pub fn load(
        &self,
        plan: &Plan,
        source: &dyn WeightSource,
        progress: rlx_compile::backend::Progress<'_>,
    ) -> Result<Arc<dyn Weights>, RuntimeError> {
        Ok(self.backend.load(plan, source, progress)?)
    }

    /// Makes a plan runnable with weights that were loaded for it.
    pub fn compile(&self, plan: Arc<Plan>, weights: Arc<dyn Weights>, pool: Pool) -> Result<CompiledGraph, RuntimeError> {
        let program = self.backend.compile(Arc::clone(&plan), weights, pool)?;
        Ok(CompiledGraph { plan, program })
    }
}

/// A runnable graph.
pub struct CompiledGraph {
    plan: Arc<Plan>,
    program: Box<dyn Program>,
}

impl CompiledGraph {
    /// The planned graph.
    pub fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    /// What it was compiled from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs once; arguments in the order of the graph's inputs.
    pub fn run(&mut self, dims: &Bindings, args: &[Arg<'_>]) -> Result<(), RuntimeError> {
        Ok(self.program.run(dims, args)?)
    }

    /// The position of an output.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.plan.graph.outputs.iter().position(|o| &*o.0 == name)
    }

    /// Copies f32 output number `i` of the last run into `dst`, resized to fit.
    pub fn read_f32(&self, i: usize, dims: &Bindings, dst: &mut Vec<f32>) -> Result<(), RuntimeError> {
        let bad = |why: &str| RuntimeError::Backend(BackendError::Call(format!("output {i} {why}")));
        let (_, v) = self.plan.graph.outputs.get(i).ok_or_else(|| bad("does not exist"))?;
        let Type::Tensor(rlx_ir::DType::F32, s) = self.plan.graph.ty(*v) else { return Err(bad("is not f32")) };
        let n = s.0.iter().map(|d| d.eval(dims)).product::<Result<usize, _>>()?;
        dst.resize(n, 0.0);
        // SAFETY: any bytes are valid f32, and the slice covers exactly the vector's elements.
        let bytes = unsafe { std::slice::from_raw_parts_mut(dst.as_mut_ptr().cast::<u8>(), n * 4) };
        Ok(self.program.read(i, bytes)?)
    }

    /// Bytes held for activations and states.
    pub fn held_bytes(&self) -> u64 {
        self.program.held_bytes()
    }
}

/// Numbers as the bytes of a u32 argument.
pub fn bytes_of_u32(v: &[u32]) -> &[u8] {
    // SAFETY: u32 has no padding, and any initialised memory may be read as bytes.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), size_of_val(v)) }
}
