//! What a device implements, and the device that computes nothing.
//!
//! A backend sees only legal, memory-planned programs: [`crate::lower()`] has expanded what it does
//! not claim, [`crate::Plan`] says where every value lives.

use crate::plan::{Layout, Plan};
use rlx_ir::{Bindings, DType, Graph, Node, Op, Segments, Type};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// What a device is and can hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceInfo {
    /// `cpu`, `cuda`, …
    pub kind: &'static str,
    /// What the user would call it, e.g. `AMD EPYC, 2 threads, avx2`.
    pub name: String,
    /// Bytes of memory a program may use, when known.
    pub memory: Option<u64>,
}

/// Errors of backends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A weight is missing, unreadable or not what the graph says.
    #[error("weight {name}: {why}")]
    Weight {
        /// Checkpoint name.
        name: String,
        /// Reason.
        why: String,
    },
    /// A call does not fit the program.
    #[error("{0}")]
    Call(String),
    /// An input value is out of its range (a token id, say).
    #[error("{op}: {why}")]
    Value {
        /// Op name and scope.
        op: String,
        /// Reason.
        why: String,
    },
    /// Dimensions without a value.
    #[error(transparent)]
    Dim(#[from] rlx_ir::DimError),
    /// The device has not this much memory.
    #[error("{what} takes {bytes} bytes, which this device does not have")]
    Memory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// The device lacks something this program needs.
    #[error("{device} has no {what}")]
    Missing {
        /// The device.
        device: String,
        /// What it lacks.
        what: String,
    },
}

/// Bytes of a weight that outlive the call that handed them out.  A device that has copied them drops them, and with
/// them the memory they take.
pub trait Bytes: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// True when the bytes are a view of a file, which costs no memory of its own to keep.
    fn is_mapped(&self) -> bool {
        false
    }
    /// Says that this range of the bytes has been copied elsewhere and need not stay in memory.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// One weight as stored: row-major, little-endian, block formats along the last dimension.
#[derive(Clone)]
pub struct WeightData {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Storage.
    pub bytes: Arc<dyn Bytes>,
}

/// Where a device may keep weights in the layout of its kernels from one start to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedCache {
    /// The file of weights to keep them beside: a device puts something behind its name.
    pub beside: PathBuf,
    /// What the weights are made of, in lines of text.  What was made of anything else is not used.
    pub source: Vec<String>,
}

/// Where weights come from.
pub trait WeightSource: Sync {
    /// The weight of this checkpoint name.
    fn weight(&self, name: &str) -> Result<WeightData, String>;
    /// Where they may be kept packed; nowhere unless said.
    fn packed_cache(&self) -> Option<&PackedCache> {
        None
    }
}

/// Told how many bytes of weights are done, out of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Weights in a device's memory, in the layout its programs want.
pub trait Weights: Send + Sync {
    /// Bytes held in device memory (bytes used in place from a mapped file are not).
    fn held_bytes(&self) -> u64;
    /// Bytes used in place from files.
    fn mapped_bytes(&self) -> u64;
    /// What the user should know of how they were loaded, a line each.
    fn notes(&self) -> &[String] {
        &[]
    }
    /// For the backend that made them.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// How many rows and sequences the states of a program hold.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Rows per cache block.
    pub block_tokens: usize,
    /// Blocks of every cache.
    pub blocks: usize,
    /// Sequences with a recurrent state.
    pub slots: usize,
}

/// Segments with the cache blocks of each.
#[derive(Copy, Clone, Debug)]
pub struct Ragged<'a> {
    /// The segments.
    pub segments: &'a Segments,
    /// Block numbers of all segments, one after the other.
    pub blocks: &'a [u32],
    /// `[S+1]`: where the blocks of each segment start in `blocks`.
    pub block_starts: &'a [u32],
}

/// An argument of a call, in the order of [`Graph::inputs`].
#[derive(Copy, Clone, Debug)]
pub enum Arg<'a> {
    /// A tensor as row-major little-endian bytes, aligned to its element.
    Tensor(&'a [u8]),
    /// Segments.
    Segments(Ragged<'a>),
}

/// A compiled graph with its memory, ready to run.
pub trait Program: Send {
    /// Runs once.
    fn run(&mut self, dims: &Bindings, args: &[Arg<'_>]) -> Result<(), BackendError>;
    /// Copies output number `i` of the last run; `dst` must have its size.
    fn read(&self, i: usize, dst: &mut [u8]) -> Result<(), BackendError>;
    /// Bytes held for activations and states.
    fn held_bytes(&self) -> u64;
}

/// A device.
pub trait Backend: Send + Sync {
    /// What it is.
    fn info(&self) -> DeviceInfo;
    /// Whether it runs `op` on inputs of these types itself.  The only question of capability.
    fn supports(&self, op: &Op, ins: &[&Type]) -> bool;
    /// Whether input number `i` of `op` may be a strided view whose last dimension is contiguous.
    fn accepts_strided(&self, op: &Op, i: usize) -> bool;
    /// Working memory one node needs beside its inputs and outputs, under these dimensions.
    fn scratch_bytes(&self, graph: &Graph, node: &Node, dims: &Bindings) -> Result<u64, BackendError>;
    /// Bytes of device memory a parameter takes; 0 when its storage is used in place.
    fn weight_bytes(&self, graph: &Graph, param: usize) -> Result<u64, BackendError>;
    /// Brings the weights of a plan into device memory.
    fn load(&self, plan: &Plan, source: &dyn WeightSource, progress: Progress<'_>) -> Result<Arc<dyn Weights>, BackendError>;
    /// Makes a plan runnable.
    fn compile(&self, plan: Arc<Plan>, weights: Arc<dyn Weights>, pool: Pool) -> Result<Box<dyn Program>, BackendError>;
}

/// Plans and counts bytes, computes nothing: outputs are zeros.  It powers memory estimates and
/// scheduler tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

struct NullWeights(u64);
impl Weights for NullWeights {
    fn held_bytes(&self) -> u64 {
        self.0
    }
    fn mapped_bytes(&self) -> u64 {
        0
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

struct NullProgram {
    plan: Arc<Plan>,
    pool: Pool,
    layout: Option<Layout>,
}

impl Program for NullProgram {
    fn run(&mut self, dims: &Bindings, args: &[Arg<'_>]) -> Result<(), BackendError> {
        check_args(&self.plan.graph, dims, args, &self.pool)?;
        self.layout = Some(self.plan.bind(dims, &NullBackend)?);
        Ok(())
    }

    fn read(&self, i: usize, dst: &mut [u8]) -> Result<(), BackendError> {
        let want = self.layout.as_ref().map(|l| l.values[self.plan.graph.outputs[i].1.index()].bytes);
        if want != Some(dst.len()) {
            return Err(BackendError::Call(format!("output {i} has {want:?} bytes, not {}", dst.len())));
        }
        dst.fill(0);
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.layout.as_ref().map_or(0, |l| l.arena_bytes) + self.plan.state_bytes(&self.pool).unwrap_or(0)
    }
}

impl Backend for NullBackend {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { kind: "null", name: "no device".into(), memory: None }
    }
    fn supports(&self, _: &Op, _: &[&Type]) -> bool {
        true
    }
    fn accepts_strided(&self, _: &Op, _: usize) -> bool {
        true
    }
    fn scratch_bytes(&self, _: &Graph, _: &Node, _: &Bindings) -> Result<u64, BackendError> {
        Ok(0)
    }
    fn weight_bytes(&self, graph: &Graph, param: usize) -> Result<u64, BackendError> {
        stored_bytes(graph, param)
    }
    fn load(&self, plan: &Plan, _: &dyn WeightSource, _: Progress<'_>) -> Result<Arc<dyn Weights>, BackendError> {
        let sizes = (0..plan.graph.params.len()).map(|i| self.weight_bytes(&plan.graph, i));
        Ok(Arc::new(NullWeights(sizes.sum::<Result<u64, _>>()?)))
    }
    fn compile(&self, plan: Arc<Plan>, _: Arc<dyn Weights>, pool: Pool) -> Result<Box<dyn Program>, BackendError> {
        Ok(Box::new(NullProgram { plan, pool, layout: None }))
    }
}

/// Bytes of a parameter as stored.
pub fn stored_bytes(graph: &Graph, param: usize) -> Result<u64, BackendError> {
    let p = &graph.params[param];
    let bad = |why: String| BackendError::Weight { name: p.name.to_string(), why };
    let Type::Tensor(d, shape) = graph.ty(p.value) else { return Err(bad("is no tensor".into())) };
    let shape = shape.0.iter().map(|d| d.as_const()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(|| bad("has a symbolic shape".into()))?;
    rlx_ir::tensor::tensor_bytes(*d, &shape).map(|b| b as u64).map_err(|e| bad(e.to_string()))
}

/// Checks the arguments of a call: number, kind, size, and segments against the pool.
pub fn check_args(graph: &Graph, dims: &Bindings, args: &[Arg<'_>], pool: &Pool) -> Result<(), BackendError> {
    let bad = BackendError::Call;
    if args.len() != graph.inputs.len() {
        return Err(bad(format!("{} arguments, the program takes {}", args.len(), graph.inputs.len())));
    }
    let caches = graph.states.iter().any(|s| matches!(graph.ty(s.1), Type::Cache(..)));
    for ((name, v), arg) in graph.inputs.iter().zip(args) {
        match (graph.ty(*v), arg) {
            (Type::Tensor(d, shape), Arg::Tensor(bytes)) => {
                let mut want = d.size();
                for dim in &shape.0 {
                    let n = dim.eval(dims)?;
                    want = want.and_then(|w| w.checked_mul(n));
                }
                if want != Some(bytes.len()) {
                    return Err(bad(format!("input {name}: {} bytes, {d}{shape} takes {want:?}", bytes.len())));
                }
            }
            (Type::Segments { count, tokens }, Arg::Segments(r)) => {
                let s = r.segments;
                // The sizes say the same as the dimensions, and slots are distinct by construction in the
                // runtime; the quadratic check is for tests and runs there.
                if count.eval(dims)? != s.count() || tokens.eval(dims)? != s.tokens() {
                    return Err(bad(format!("input {name}: {} segments of {} tokens do not match the dimensions", s.count(), s.tokens())));
                }
                if !caches {
                    continue;
                }
                for (i, (range, past, slot)) in s.iter().enumerate() {
                    let blocks = r.block_starts.get(i..i + 2).and_then(|w| r.blocks.get(w[0] as usize..w[1] as usize));
                    let blocks = blocks.ok_or_else(|| bad(format!("segment {i} has no block list")))?;
                    if blocks.len() * pool.block_tokens < past + range.len() || blocks.iter().any(|b| *b as usize >= pool.blocks) {
                        let held = blocks.len() * pool.block_tokens;
                        return Err(bad(format!("segment {i} (slot {slot}) needs {} rows, its blocks hold {held}", past + range.len())));
                    }
                }
            }
            (ty, _) => return Err(bad(format!("input {name} is {ty}"))),
        }
    }
    Ok(())
}
