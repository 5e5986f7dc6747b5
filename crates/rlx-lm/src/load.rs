//! Loading: settings, profile, graph, memory, weights.

use crate::runner::LmRunner;
use crate::source::{Source, unpacked};
use crate::text::Text;
use crate::{LmError, LmFamily, LmModel, Result};
use rlx_compile::{PackedCache, Plan, Pool, Profile};
use rlx_core::config::{ConfigSource, keys};
use rlx_core::names::HeadCounts;
use rlx_core::registry;
use rlx_core::weights::{Access, Checkpoint, LoadOpts, WeightMap, open_with};
use rlx_flow::LmInputs;
use rlx_ir::{Bindings, Builder, Graph, Options};
use rlx_runtime::{Device, Explain, Memory, RuntimeError, Session};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Context length of a run unless asked for more: enough for a conversation, small beside the weights.
const DEFAULT_MAX_SEQ: usize = 4096;

/// How exact the arithmetic is.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// What the profile says; by default activations meet quantised weights in 8 bits and keys and
    /// values are f16.
    #[default]
    Fast,
    /// f32 throughout (the `exact` preset).
    Exact,
}

/// Hears what the user should know, a line at a time.
type Note = Arc<dyn Fn(&str) + Send + Sync>;

/// Says what to load and how.
#[derive(Clone)]
pub struct LmBuilder {
    family: &'static dyn LmFamily,
    weights: Option<PathBuf>,
    device: Device,
    max_seq: Option<usize>,
    sequences: usize,
    precision: Precision,
    profile: Option<Profile>,
    max_memory: Option<u64>,
    stream: bool,
    packed: bool,
    load: LoadOpts,
    taps: bool,
    progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
    note: Option<Note>,
}

/// A model that is planned, not loaded: what it is and what it would take.
pub struct LmPlan {
    /// Bytes, exactly.
    pub memory: Memory,
    /// What compiling did.
    pub explain: Explain,
    /// Context length planned for.
    pub max_seq: usize,
    /// Context length the model was trained for, where the checkpoint says it.
    pub trained: Option<usize>,
    /// Number of weights the model uses.
    pub params: usize,
    /// The compiled graph as text.
    pub graph: String,
}

/// Everything known before weights are touched.
struct Prepared {
    weights: WeightMap,
    config: ConfigSource,
    model: Box<dyn LmModel>,
    session: Session,
    plan: Arc<Plan>,
    explain: Explain,
    pool: Pool,
    max_seq: usize,
    memory: Memory,
}

/// The profile of a run: the preset of `precision`, then `<family>.rlx.toml` beside the weights.
pub fn resolve_profile(family: &str, weights: &Path, precision: Precision) -> Result<Profile> {
    let base = Profile::preset(match precision {
        Precision::Fast => "lm",
        Precision::Exact => "exact",
    })?;
    let dir = if weights.is_dir() { weights } else { weights.parent().unwrap_or(Path::new(".")) };
    let file = dir.join(format!("{family}.rlx.toml"));
    // `exact` is asked for by name; a file beside the weights tunes speed and does not take it back.
    if precision == Precision::Exact || !file.is_file() {
        return Ok(base);
    }
    let text = std::fs::read_to_string(&file).map_err(|source| LmError::Io { file: file.clone(), source })?;
    Ok(Profile::from_toml_over(base, &text, &file)?)
}

impl LmBuilder {
    pub(crate) fn new(family: &'static dyn LmFamily) -> LmBuilder {
        LmBuilder {
            family,
            weights: None,
            device: Device::Cpu,
            max_seq: None,
            sequences: 1,
            precision: Precision::Fast,
            profile: None,
            max_memory: None,
            stream: true,
            packed: true,
            load: LoadOpts::default(),
            taps: false,
            progress: None,
            note: None,
        }
    }

    /// The checkpoint: a file or a directory.
    pub fn weights(mut self, path: impl Into<PathBuf>) -> Self {
        self.weights = Some(path.into());
        self
    }

    /// The checkpoint of the Hugging Face Hub that `name` means: `org/repo`, `org/repo:Q4_K_M`, `org/repo@revision`.
    /// It is downloaded now, unless the cache has it; see [`rlx_core::hub`].
    ///
    /// # Errors
    /// [`LmError::Hub`].
    pub fn pretrained(self, name: &str) -> Result<Self> {
        Ok(self.weights(rlx_core::hub::from_pretrained(name)?))
    }

    /// Where to run; the processor unless said otherwise.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Most tokens of a sequence, prompt and answer together.
    pub fn max_seq(mut self, tokens: usize) -> Self {
        self.max_seq = Some(tokens);
        self
    }

    /// How many sequences may be cached at once.
    pub fn sequences(mut self, n: usize) -> Self {
        self.sequences = n.max(1);
        self
    }

    /// How exact the arithmetic is.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// A profile that replaces the preset and the file beside the weights.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Refuse, before loading, a model that would hold more than this.
    pub fn max_memory_gb(mut self, gb: f64) -> Self {
        self.max_memory = Some((gb * 1e9) as u64);
        self
    }

    /// Hand out text as it is made (the default) rather than at the end.
    pub fn stream(mut self, on: bool) -> Self {
        self.stream = on;
        self
    }

    /// Keep block-quantised weights as they are (the default); otherwise they are dequantised to f32
    /// at load, which takes more memory and is exact.
    pub fn packed_weights(mut self, on: bool) -> Self {
        self.packed = on;
        self
    }

    /// Which file of a directory to take.
    pub fn load_opts(mut self, opts: LoadOpts) -> Self {
        self.load = opts;
        self
    }

    /// Make the model's named intermediates outputs, for comparisons.
    pub fn taps(mut self, on: bool) -> Self {
        self.taps = on;
        self
    }

    /// Called with bytes of weights done and in all while loading.
    pub fn progress(mut self, f: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(f));
        self
    }

    /// Called with what the user should know of how the weights were loaded, line by line.
    pub fn note(mut self, f: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.note = Some(Arc::new(f));
        self
    }

    fn named(&self, checkpoint: &Arc<Checkpoint>, heads: HeadCounts) -> WeightMap {
        WeightMap::new(Arc::clone(checkpoint), self.family.names(), heads)
    }

    fn graph(&self, model: &dyn LmModel, weights: &WeightMap, profile: &Profile, path: &Path) -> Result<Graph> {
        let options = Options { compute: profile.compute.dtype(), kv: profile.kv.dtype() };
        let types = |name: &str, shape: &[rlx_ir::Dim]| weights.param_type(name, shape).map(|d| if self.packed { d } else { unpacked(d) });
        let b = Builder::with(self.family.name(), options, Box::new(types));
        let logits = {
            let io = LmInputs::declare(&b);
            model.build(&b.root(), &io).id()
        };
        let graph = b.finish(&[("logits", logits)]).map_err(|diags| LmError::Build { path: path.into(), diags })?;
        weights.check(graph.params.iter().map(|p| &*p.name), &[])?;
        Ok(if self.taps { graph.promote_taps(|_| true) } else { graph })
    }

    /// Everything up to the plan: nothing of a weight is read.
    fn prepare(&self) -> Result<Prepared> {
        let path = self.weights.as_deref().ok_or(LmError::NoWeights)?;
        let checkpoint = Arc::new(open_with(self.load.clone().access(Access::Loader), path)?);
        registry::assert_family(&checkpoint, self.family)?;
        checkpoint.check_quantization()?;
        let config = ConfigSource::open(&checkpoint)?;
        check_layers(&config, checkpoint.tensors().len())?;
        let unknown = HeadCounts { query: 1, key_value: 1 };
        let names = self.named(&checkpoint, unknown);
        let has = |name: &str| names.has(name);
        // Some rope scalings need the context length, which the settings bound: read them twice.
        let first = self.family.load(&config, &has, self.max_seq.unwrap_or(DEFAULT_MAX_SEQ))?;
        let max_seq = self.max_seq.unwrap_or_else(|| first.context_length().unwrap_or(DEFAULT_MAX_SEQ).min(DEFAULT_MAX_SEQ));
        let model = self.family.load(&config, &has, max_seq)?;
        let profile = match &self.profile {
            Some(p) => p.clone(),
            None => resolve_profile(self.family.name(), path, self.precision)?,
        };
        let weights = self.named(&checkpoint, model.heads());
        let graph = self.graph(&*model, &weights, &profile, path)?;
        let block_tokens = profile.kv_block_tokens;
        let pool = Pool { block_tokens, blocks: self.sequences * max_seq.div_ceil(block_tokens), slots: self.sequences };
        let chunk = if profile.prefill_chunk == 0 { max_seq } else { profile.prefill_chunk.min(max_seq) };
        let session = Session::new(self.device, profile)?;
        let (plan, explain) = session.plan(graph)?;
        // The largest call: a whole chunk that ends a prompt, or one token of every sequence.
        let tokens = chunk.max(self.sequences) as u64;
        let rows = if self.taps { tokens } else { self.sequences as u64 };
        let dims = Bindings::new().with("T", tokens).with("S", self.sequences as u64).with("R", rows);
        let memory = session.memory(&plan, &pool, &dims)?;
        Ok(Prepared { config, model, session, plan, explain, pool, max_seq, memory, weights })
    }

    /// Plans the model without loading any weight.
    pub fn plan(&self) -> Result<LmPlan> {
        let p = self.prepare()?;
        let (params, graph) = (p.plan.graph.params.len(), p.plan.graph.to_string());
        let trained = p.model.context_length();
        Ok(LmPlan { memory: p.memory, explain: p.explain, max_seq: p.max_seq, trained, params, graph })
    }

    /// Loads the model.
    pub fn build(self) -> Result<LmRunner> {
        let p = self.prepare()?;
        if let Some(limit) = self.max_memory
            && p.memory.total() > limit
        {
            return Err(RuntimeError::TooLarge { needed: p.memory.total(), limit, memory: Box::new(p.memory) }.into());
        }
        let checkpoint = Arc::clone(p.weights.checkpoint());
        let cache = if p.session.profile().packed_cache { packed_cache(&checkpoint)? } else { None };
        let source = Source { weights: p.weights, unpack: !self.packed, cache };
        let progress = self.progress.clone();
        let tell = move |done, all| {
            if let Some(f) = &progress {
                f(done, all);
            }
        };
        let weights = p.session.load(&p.plan, &source, &tell)?;
        if let Some(f) = &self.note {
            weights.notes().iter().for_each(|line| f(line));
        }
        // Weights of a packed cache are in a file, and not in memory as planned.
        let memory = Memory { weights: weights.held_bytes(), mapped: weights.mapped_bytes(), ..p.memory };
        let compiled = p.session.compile(p.plan, weights, p.pool)?;
        let eos = p.config.eos_token_ids()?;
        // Token ids alone are enough to run a model; text is refused later by name when it is missing.
        let text = Text::open(&checkpoint).and_then(|text| text.within(p.model.vocab_size(), checkpoint.path()));
        Ok(LmRunner::new(
            p.model,
            p.session,
            compiled,
            p.pool,
            p.max_seq,
            eos,
            text,
            p.explain,
            memory,
            self.stream,
            checkpoint.path().into(),
        ))
    }
}

/// Where weights of a checkpoint may be kept packed: beside its first file.
fn packed_cache(checkpoint: &Checkpoint) -> Result<Option<PackedCache>> {
    let Some(first) = checkpoint.files().next() else { return Ok(None) };
    Ok(Some(PackedCache { beside: first.into(), source: checkpoint.fingerprint()? }))
}

/// Refuses more layers than there are tensors before a graph of them is built, which may be far larger than the files.
fn check_layers(config: &ConfigSource, tensors: usize) -> Result<()> {
    // A family may count its layers by another name.
    match config.opt_usize(keys::LAYERS) {
        Ok(Some(layers)) if layers > tensors => {
            Err(config.invalid(keys::LAYERS, layers, format_args!("at most the {tensors} tensors of the checkpoint")).into())
        }
        _ => Ok(()),
    }
}
