//! Any [`Backend`] as a [`Runner`]: lowers, plans, loads and runs each case.

use crate::{RunError, Runner, Running};
use rlx_compile::backend::Bytes;
use rlx_compile::{Arg, Backend, PackedCache, Plan, Pool, Program, Ragged, WeightData, WeightSource, lower};
use rlx_ir::interp::Value;
use rlx_ir::{Bindings, DType, Graph, Tensor, Type, Weight};
use std::sync::Arc;

/// Runs cases on a backend.
pub struct OnBackend<'b> {
    /// The device.
    pub backend: &'b dyn Backend,
    /// For the report.
    pub name: String,
    /// Cache blocks and slots of each case.
    pub pool: Pool,
    /// Whether weights say that they are views of a file, which a device need not copy at once.
    pub mapped: bool,
    /// Where the device may keep packed weights.
    pub cache: Option<PackedCache>,
}

impl<'b> OnBackend<'b> {
    /// A runner with a small pool of cache blocks.
    pub fn new(backend: &'b dyn Backend) -> OnBackend<'b> {
        OnBackend { name: backend.info().name, backend, pool: Pool { block_tokens: 16, blocks: 64, slots: 16 }, mapped: false, cache: None }
    }
}

struct Loaded<'a> {
    weights: &'a [Weight],
    mapped: bool,
    cache: Option<&'a PackedCache>,
}

struct View(Vec<u8>);

impl Bytes for View {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn is_mapped(&self) -> bool {
        true
    }
}

impl WeightSource for Loaded<'_> {
    fn weight(&self, name: &str) -> Result<WeightData, String> {
        let w = self.weights.iter().find(|w| &*w.name == name).ok_or("is not a parameter of the case")?;
        let bytes: Arc<dyn Bytes> = if self.mapped { Arc::new(View(w.bytes.clone())) } else { Arc::new(w.bytes.clone()) };
        Ok(WeightData { dtype: w.tensor.dtype, shape: w.tensor.shape.clone(), bytes })
    }
    fn packed_cache(&self) -> Option<&PackedCache> {
        self.cache
    }
}

struct Run {
    plan: Arc<Plan>,
    program: Box<dyn Program>,
    pool: Pool,
}

impl Runner for OnBackend<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn prepare(&mut self, graph: &Graph, params: &[Weight]) -> Result<Box<dyn Running>, RunError> {
        let failed = |e: &dyn std::fmt::Display| RunError::Failed(e.to_string());
        let (lowered, _) = lower(graph.clone(), self.backend).map_err(|e| RunError::Missing(e.coverage.missing.join("; ")))?;
        let plan = Arc::new(Plan::new(lowered, self.backend));
        let weights = self
            .backend
            .load(&plan, &Loaded { weights: params, mapped: self.mapped, cache: self.cache.as_ref() }, &|_, _| {})
            .map_err(|e| failed(&e))?;
        let program = self.backend.compile(Arc::clone(&plan), weights, self.pool).map_err(|e| failed(&e))?;
        Ok(Box::new(Run { plan, program, pool: self.pool }))
    }
}

impl Running for Run {
    fn run(&mut self, dims: &Bindings, inputs: &[Value]) -> Result<Vec<Tensor>, RunError> {
        let failed = |e: &dyn std::fmt::Display| RunError::Failed(e.to_string());
        // Slot s owns a fixed run of blocks, in an order that is not the identity.
        let per_slot = self.pool.blocks / self.pool.slots;
        let (mut blocks, mut starts) = (vec![], vec![0u32]);
        let mut bytes: Vec<Vec<u8>> = vec![];
        for v in inputs {
            match v {
                Value::Tensor(t) => bytes.push(t.to_bytes().map_err(|e| failed(&e))?),
                Value::Segments(s) => {
                    for (_, _, slot) in s.iter() {
                        let first = (self.pool.slots - 1 - slot as usize) * per_slot;
                        blocks.extend((first..first + per_slot).rev().map(|b| b as u32));
                        starts.push(blocks.len() as u32);
                    }
                    bytes.push(vec![]);
                }
                Value::State(_) => return Err(RunError::Failed("a state is no input".into())),
            }
        }
        let aligned: Vec<Aligned> = bytes.iter().map(|b| Aligned::new(b)).collect();
        let args: Vec<Arg<'_>> = inputs
            .iter()
            .zip(&aligned)
            .map(|(v, b)| match v {
                Value::Segments(s) => Arg::Segments(Ragged { segments: s, blocks: &blocks, block_starts: &starts }),
                _ => Arg::Tensor(b.bytes()),
            })
            .collect();
        self.program.run(dims, &args).map_err(|e| failed(&e))?;
        let g = &self.plan.graph;
        let outputs = g.outputs.iter().enumerate().map(|(i, (_, v))| {
            let Type::Tensor(d, s) = g.ty(*v) else { return Err(RunError::Failed("an output is no tensor".into())) };
            let shape = s.0.iter().map(|d| d.eval(dims)).collect::<Result<Vec<_>, _>>().map_err(|e| failed(&e))?;
            let mut out = vec![0u8; d.size().unwrap_or(0) * shape.iter().product::<usize>()];
            self.program.read(i, &mut out).map_err(|e| failed(&e))?;
            Tensor::from_bytes(*d, &shape, &out).map_err(|e| failed(&e))
        });
        outputs.collect()
    }
}

/// Bytes at an address that suits any element type.
struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let word = |c: &[u8]| {
            let mut w = [0; 8];
            w[..c.len()].copy_from_slice(c);
            u64::from_ne_bytes(w)
        };
        Aligned { words: bytes.chunks(DType::F64.size().unwrap_or(8)).map(word).collect(), len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: any initialised memory may be read as bytes, and `len` is at most the words' size.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) }
    }
}
