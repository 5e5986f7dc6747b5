//! Conversion of checkpoints between Hugging Face safetensors, GGUF and MLX-quantised safetensors.
//!
//! A family gives data: [`NameTable`](rlx_core::NameTable) with its transforms, and
//! [`SettingsTable`].  Weights are those that the model uses, by the names it asks for them; what it does not use is
//! left out and reported.  Before a tensor is written, the written settings are read again and the graph they describe
//! is compared with the graph of the source, so that a setting which the other format cannot say is an error and never
//! another model.  Tensors are read where they lie, converted a run at a time and streamed; at most one is in memory.

mod config;
mod same;
mod types;
mod vocab;

pub use types::{FloatType, GgufTypes};

use crate::{LmError, LmFamily, LmModel, Result};
use rlx_core::config::ConfigSource;
use rlx_core::convert::{Caster, ConvertError, GgufPlan, Output, SettingsTable, ShardPlan, TensorSink, to_gguf};
use rlx_core::names::{HeadCounts, Transform, WeightMap};
use rlx_core::weights::Checkpoint;
use rlx_ir::DType;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use types::{Affine, Plan, Planned};

/// What to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A GGUF file, or parts of at most so many bytes.
    Gguf {
        /// Types of matrices.
        types: GgufTypes,
        /// Bytes of tensors per part; one file unless given.
        part_bytes: Option<u64>,
    },
    /// Safetensors with the names and the arrangement of Hugging Face checkpoints.
    Safetensors {
        /// Type of the elements.
        dtype: FloatType,
        /// Bytes per shard.
        shard_bytes: u64,
    },
    /// The same with matrices quantised as MLX does: `.weight` of packed codes, `.scales`, `.biases`.
    Mlx {
        /// Bits of a code: 2, 3, 4, 5, 6 or 8.
        bits: usize,
        /// Elements per scale and bias: 32, 64 or 128.
        group: usize,
        /// Bytes per shard.
        shard_bytes: u64,
    },
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// All files.
    pub files: Vec<PathBuf>,
    /// Weights of the model.
    pub tensors: usize,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// Tensors of the source that the model does not use, by their names in the file.
    pub left_out: Vec<String>,
}

/// A checkpoint to be converted: opened, its settings read, its tensors compared with those the model needs.
pub struct Conversion {
    family: &'static dyn LmFamily,
    config: ConfigSource,
    weights: WeightMap,
    model: Box<dyn LmModel>,
    graph: rlx_ir::Graph,
}

impl Conversion {
    /// Looks at a checkpoint of `family`.
    ///
    /// # Errors
    /// Settings that cannot be read; missing and left-over tensors.
    pub fn new(family: &'static dyn LmFamily, checkpoint: Arc<Checkpoint>) -> Result<Conversion> {
        let config = ConfigSource::open(&checkpoint)?;
        let bare = WeightMap::new(Arc::clone(&checkpoint), family.names(), HeadCounts { query: 1, key_value: 1 });
        let model = same::model(family, &config, &|name| bare.has(name))?;
        let weights = WeightMap::new(checkpoint, family.names(), model.heads());
        let types = |name: &str, shape: &[rlx_ir::Dim]| weights.param_type(name, shape).map(|_| DType::F32);
        let graph = same::graph(family, &*model, weights.checkpoint().path(), Box::new(types))?;
        weights.check(graph.params.iter().map(|p| &*p.name), &[])?;
        Ok(Conversion { family, config, weights, model, graph })
    }

    /// Converts to `out`: a file for GGUF, else a directory.  `progress` gets bytes of the source done and in all;
    /// false cancels.
    ///
    /// # Errors
    /// Settings, tokenizers and types that the target cannot express; existing files, unless `force`; the file system.
    pub fn run(&self, target: Target, out: &Path, force: bool, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Converted> {
        self.refuse_source(target, out)?;
        let plan = self.plan(target)?;
        match target {
            Target::Gguf { part_bytes, .. } => self.to_gguf(&plan, out, part_bytes, force, progress),
            Target::Safetensors { shard_bytes, .. } => self.to_safetensors(&plan, None, out, shard_bytes, force, progress),
            Target::Mlx { bits, group, shard_bytes } => self.to_safetensors(&plan, Some((bits, group)), out, shard_bytes, force, progress),
        }
    }

    fn settings(&self) -> &'static SettingsTable {
        self.family.settings()
    }

    fn checkpoint(&self) -> &Checkpoint {
        self.weights.checkpoint()
    }

    /// The file or directory to write must not be what is read.
    fn refuse_source(&self, target: Target, out: &Path) -> Result<()> {
        let real = |p: &Path| p.canonicalize().ok();
        let same = match target {
            Target::Gguf { .. } => self.checkpoint().files().any(|f| real(f).is_some_and(|f| Some(f) == real(out))),
            _ => real(out).is_some_and(|o| Some(o) == real(self.checkpoint().dir())),
        };
        if same { Err(ConvertError::Source { path: out.into() }.into()) } else { Ok(()) }
    }

    /// Every weight the model uses, with the type it will have.
    fn plan(&self, target: Target) -> Result<Plan> {
        let mut sources = Vec::with_capacity(self.graph.params.len());
        for p in &self.graph.params {
            let view = self.weights.get(&p.name)?;
            sources.push((p.name.to_string(), view.dtype, view.shape.to_vec()));
        }
        types::plan(target, sources, &|name, to| {
            let view = self.weights.get(name)?;
            let columns = view.shape.last().copied().unwrap_or(1);
            Ok(Caster::new(view.dtype, to)?.is_exact(view.bytes(), columns)?)
        })
    }

    fn left_out(&self) -> Vec<String> {
        let used: std::collections::HashSet<&str> =
            self.graph.params.iter().filter_map(|p| Some(self.weights.meta(&p.name)?.name.as_str())).collect();
        self.checkpoint().tensors().filter(|t| !used.contains(t.name.as_str())).map(|t| t.name.clone()).collect()
    }

    fn to_gguf(
        &self,
        plan: &Plan,
        out: &Path,
        part_bytes: Option<u64>,
        force: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Converted> {
        let arch = self.family.gguf_architectures().first().copied().unwrap_or_default();
        let mut gguf = GgufPlan::default();
        gguf.put(config::general(arch, self.checkpoint(), plan));
        gguf.put(to_gguf(self.settings(), &self.config, arch)?);
        let vocab = vocab::for_gguf(self.checkpoint(), &self.config)?;
        gguf.put(vocab.metadata());
        let has = |name: &str| plan.tensors.iter().any(|t| t.name == name);
        let again = ConfigSource::from_gguf(Arc::new(gguf.read_back().map_err(LmError::from)?))?;
        self.compare(&again, &has, "GGUF metadata")?;
        rlx_text::Tokenizer::from_gguf(&crate::text::convert(&vocab))?;

        let mut stored = Vec::with_capacity(plan.tensors.len());
        for t in &plan.tensors {
            let (name, transform) = self.family.names().to_gguf(&t.name).unwrap_or_else(|| (t.name.clone(), Transform::None));
            gguf.add(&name, t.to, &t.shape)?;
            stored.push(transform);
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut output = Output::new(dir, force, |_| false)?;
        let bytes = gguf.bytes();
        let sink = gguf.begin(&mut output, &name, part_bytes)?;
        self.stream(plan, &stored, sink, progress)?;
        Ok(Converted { files: output.commit()?, tensors: plan.tensors.len(), bytes, left_out: self.left_out() })
    }

    fn to_safetensors(
        &self,
        plan: &Plan,
        affine: Option<(usize, usize)>,
        out: &Path,
        shard_bytes: u64,
        force: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Converted> {
        let mut output = Output::new(out, force, config::is_weights)?;
        let has = |name: &str| plan.tensors.iter().any(|t| t.name == name);
        let config = config::json(self.family, &self.config, self.checkpoint(), plan, affine, &has)?;
        output.write("config.json", format!("{config:#}\n").as_bytes())?;
        vocab::for_directory(self.checkpoint(), &self.config, &mut output)?;
        let again = ConfigSource::from_dir(output.staging())?;
        self.compare(&again, &has, "config.json")?;

        let mut shards = ShardPlan::default();
        for t in &plan.tensors {
            match t.affine() {
                Some(a) => a.parts(&t.name, &t.shape).into_iter().try_for_each(|(n, d, s)| shards.add(&n, d, &s))?,
                None => shards.add(&t.name, t.to, &t.shape)?,
            }
        }
        let bytes = shards.bytes();
        let sink = shards.begin(&mut output, shard_bytes)?;
        self.stream(plan, &vec![Transform::None; plan.tensors.len()], sink, progress)?;
        Ok(Converted { files: output.commit()?, tensors: plan.tensors.len(), bytes, left_out: self.left_out() })
    }

    /// An error unless the settings that were written mean the model that was read.
    fn compare(&self, again: &ConfigSource, has: &dyn Fn(&str) -> bool, format: &'static str) -> Result<()> {
        let model = same::model(self.family, again, has)?;
        let graph = same::graph(self.family, &*model, again.file(), Box::new(|_, _| Ok(DType::F32)))?;
        match same::difference(&self.graph, &graph) {
            None => Ok(()),
            Some((expected, found)) => Err(LmError::OtherModel { path: self.checkpoint().path().into(), format, found, expected }),
        }
    }

    /// Writes the data of all tensors, each rearranged for its file.
    fn stream(
        &self,
        plan: &Plan,
        arrangements: &[Transform],
        mut sink: Box<dyn TensorSink + '_>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let all: u64 = plan.tensors.iter().map(|t| self.weights.meta(&t.name).map_or(0, |m| m.bytes)).sum();
        let mut done = 0;
        for (t, arrangement) in plan.tensors.iter().zip(arrangements) {
            if !progress(done, all) {
                return Err(LmError::Cancelled);
            }
            done += self.tensor(t, *arrangement, &mut *sink)?;
        }
        sink.finish()?;
        progress(all, all);
        Ok(())
    }

    /// Writes the data of one tensor; returns its bytes in the source.
    fn tensor(&self, t: &Planned, arrangement: Transform, sink: &mut dyn TensorSink) -> Result<u64> {
        let view = self.weights.get(&t.name)?;
        let (rows, columns) = (t.shape.first().copied().unwrap_or(1), t.shape.last().copied().unwrap_or(1));
        let moved = arrangement.undo(view.bytes(), rows, self.model.heads()).map_err(|source| rlx_core::names::NamesError::Transform {
            file: self.checkpoint().path().into(),
            tensor: t.name.clone(),
            source,
        })?;
        let data = moved.as_deref().unwrap_or(view.bytes());
        let caster = Caster::new(view.dtype, t.to)?;
        match t.affine() {
            // Codes, scales and biases are three tensors, so the quantised one is held.
            Some(affine) => {
                let mut blocks = vec![];
                caster.run(data, columns, &mut |b| {
                    blocks.extend_from_slice(b);
                    Ok(())
                })?;
                Affine::split(affine, &blocks, &mut |b| sink.write(b))?;
            }
            None => caster.run(data, columns, &mut |b| sink.write(b))?,
        }
        Ok(data.len() as u64)
    }
}
