//! What is known of a checkpoint from headers, settings and file names.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::config::{ConfigDoc, ConfigError, ConfigSource};
use crate::message::quote;
use crate::registry::Identity;
use crate::weights::{Checkpoint, LoadOpts, StoredType, TensorMeta, WeightFormat, WeightsError, open_with};
use rlx_gguf::Gguf;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Most files of a directory or repository that are looked at.
pub const MAX_FILES: usize = 65_536;

/// How weights are stored.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Container {
    /// One or several safetensors files.
    Safetensors,
    /// One or several GGUF files.
    Gguf,
    /// Python pickles.
    PyTorch,
    /// An ONNX graph.
    Onnx,
    /// TensorFlow, Keras or Flax.
    TensorFlow,
    /// The formats that GGUF replaced.
    OldGgml,
    /// `imatrix.dat` of llama.cpp before it wrote GGUF.
    ImportanceMatrix,
    /// No weights were found.
    None,
}

impl Container {
    /// The short name, for data.
    pub fn name(self) -> &'static str {
        match self {
            Container::Safetensors => "safetensors",
            Container::Gguf => "gguf",
            Container::PyTorch => "pytorch",
            Container::Onnx => "onnx",
            Container::TensorFlow => "tensorflow",
            Container::OldGgml => "ggml",
            Container::ImportanceMatrix => "imatrix",
            Container::None => "none",
        }
    }

    /// What it is in words, when weights in it cannot be read.
    pub(super) fn unreadable(self) -> Option<&'static str> {
        match self {
            Container::PyTorch => Some("PyTorch pickle files"),
            Container::Onnx => Some("ONNX files"),
            Container::TensorFlow => Some("TensorFlow or Flax files"),
            Container::OldGgml => Some("a GGML file from before GGUF"),
            Container::Safetensors | Container::Gguf | Container::ImportanceMatrix | Container::None => None,
        }
    }

    /// By the name of a file, for weights that are not opened.
    fn by_name(name: &str) -> Option<Container> {
        let lower = name.to_ascii_lowercase();
        let (_, extension) = lower.rsplit_once('.')?;
        match extension {
            "gguf" => Some(Container::Gguf),
            "safetensors" => Some(Container::Safetensors),
            "bin" if lower.contains("pytorch") || lower.contains("adapter_model") || lower.contains("diffusion") => {
                Some(Container::PyTorch)
            }
            "pt" | "pth" | "ckpt" => Some(Container::PyTorch),
            "onnx" => Some(Container::Onnx),
            "h5" | "msgpack" | "tflite" | "keras" => Some(Container::TensorFlow),
            "imatrix" => Some(Container::ImportanceMatrix),
            "dat" if lower.contains("imatrix") => Some(Container::ImportanceMatrix),
            _ => None,
        }
    }

    /// By the first bytes of a file.
    fn by_content(start: &[u8]) -> Option<Container> {
        match start {
            [b'G', b'G', b'U', b'F', ..] => Some(Container::Gguf),
            [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(Container::PyTorch),
            [b'l', b'm', b'g', b'g', ..] | [b'f', b'm', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] => Some(Container::OldGgml),
            // Content-addressed stores drop extensions: eight bytes of length and a brace.
            [_, _, _, _, _, 0, 0, 0, b'{', ..] => Some(Container::Safetensors),
            [0x89, b'H', b'D', b'F', ..] | [_, _, _, _, b'T', b'F', b'L', b'3', ..] => Some(Container::TensorFlow),
            _ => None,
        }
    }
}

/// A file of a directory or repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileEntry {
    /// The name, with `/` before names in sub-directories.
    pub name: String,
    /// Its length, where it is known.
    pub bytes: Option<u64>,
}

/// A tensor as its header tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineTensor {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub stored: StoredType,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes of data.
    pub bytes: u64,
}

impl From<&TensorMeta> for OutlineTensor {
    fn from(t: &TensorMeta) -> Self {
        OutlineTensor { name: t.name.clone(), stored: t.stored, shape: t.shape.clone(), bytes: t.bytes }
    }
}

/// Why an outline could not be made.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OutlineError {
    /// Weights or their headers.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// `config.json` and its like.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What is known of a checkpoint without tensor data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outline {
    /// The path or repository, for messages.
    pub place: String,
    /// The files there.
    pub files: Vec<FileEntry>,
    /// How the weights are stored.
    pub container: Container,
    /// Every tensor.
    pub tensors: Vec<OutlineTensor>,
    /// `general.architecture` of GGUF metadata.
    pub gguf_arch: Option<String>,
    /// `general.type` of GGUF metadata: `model`, `adapter`, …
    pub general_type: Option<String>,
    /// GGUF metadata hold a vocabulary.
    pub has_vocabulary: bool,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// `architectures` of `config.json`.
    pub architectures: Vec<String>,
    /// The settings.
    pub settings: Option<ConfigSource>,
    /// The model that an adapter is for.
    pub adapter_of: Option<String>,
    /// The pipeline that `model_index.json` names.
    pub pipeline: Option<String>,
    /// `_class_name` of a diffusers `config.json`.
    pub diffusers_class: Option<String>,
    /// A quantisation that `config.json` names and that cannot be read, and why.
    pub quantisation: Option<String>,
}

/// Files beside a weights file that say something of it.
const BESIDE: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer.model", "adapter_config.json"];

impl Outline {
    /// Nothing but the names of files; the other functions add what they hold.
    pub fn new(place: impl Into<String>, files: Vec<FileEntry>) -> Outline {
        Outline {
            place: place.into(),
            files,
            container: Container::None,
            tensors: vec![],
            gguf_arch: None,
            general_type: None,
            has_vocabulary: false,
            model_type: None,
            architectures: vec![],
            settings: None,
            adapter_of: None,
            pipeline: None,
            diffusers_class: None,
            quantisation: None,
        }
    }

    /// The outline of a file or directory.
    ///
    /// # Errors
    /// Paths that cannot be read, weights files that are damaged or ambiguous, settings that are not JSON.
    pub fn open(path: &Path, opts: &LoadOpts) -> Result<Outline, OutlineError> {
        let io = |source| WeightsError::Io { file: path.into(), source };
        let is_dir = fs::metadata(path).map_err(io)?.is_dir();
        let dir = if is_dir { path } else { path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")) };
        let mut o = Outline::new(path.display().to_string(), if is_dir { list(path)? } else { beside(path, dir) });
        let container = if is_dir { None } else { sniff(path)? };
        match container {
            None if !is_dir => return Ok(o), // nothing that holds weights
            None | Some(Container::Gguf | Container::Safetensors) => match open_with(opts.clone(), path) {
                Ok(checkpoint) => o.take_checkpoint(&checkpoint),
                Err(WeightsError::NotFound { .. }) => o.container = o.named_container(),
                Err(e) => return Err(e.into()),
            },
            Some(other) => o.container = other,
        }
        let config_counts = o.container != Container::Gguf;
        for name in BESIDE.into_iter().filter(|n| n.ends_with("config.json")).chain(["model_index.json"]) {
            if config_counts && o.has_file(name) {
                o.take_json(name, crate::weights::read_small(&dir.join(name), crate::config::MAX_CONFIG_BYTES)?)?;
            }
        }
        Ok(o)
    }

    fn take_checkpoint(&mut self, c: &Checkpoint) {
        let tensors = c.tensors().map(OutlineTensor::from).collect();
        let refused = c.quantization().and_then(|q| Some((&q.method, q.refused.as_ref()?)));
        self.quantisation = refused.map(|(method, why)| format!("{}: {why}", quote(method)));
        match (c.format(), c.gguf()) {
            (WeightFormat::Gguf, Some(gguf)) => self.take_gguf(gguf, tensors),
            _ => self.take_safetensors(tensors),
        }
    }

    /// Adds GGUF metadata and the tensors of all parts.
    pub fn take_gguf(&mut self, gguf: &Arc<Gguf>, tensors: Vec<OutlineTensor>) {
        let text = |key| gguf.find::<&str>(key).ok().flatten().filter(|t| !t.is_empty()).map(str::to_owned);
        (self.container, self.tensors) = (Container::Gguf, tensors);
        self.gguf_arch = text("general.architecture");
        self.general_type = text("general.type");
        self.has_vocabulary = gguf.get("tokenizer.ggml.tokens").is_some();
        self.settings = ConfigSource::from_gguf(gguf.clone()).ok();
    }

    /// Adds the tensors of safetensors files.
    pub fn take_safetensors(&mut self, tensors: Vec<OutlineTensor>) {
        (self.container, self.tensors) = (Container::Safetensors, tensors);
    }

    /// Adds the JSON file `name`: `config.json`, `adapter_config.json` or `model_index.json`.  Others are passed over.
    ///
    /// # Errors
    /// What is not JSON, and settings of the wrong type.
    pub fn take_json(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), ConfigError> {
        let file = Path::new(&self.place).join(name);
        match name {
            "adapter_config.json" => self.adapter_of = ConfigDoc::from_bytes(&file, bytes)?.opt_string("base_model_name_or_path")?,
            "model_index.json" => self.pipeline = ConfigDoc::from_bytes(&file, bytes)?.opt_string("_class_name")?,
            "config.json" => {
                let doc = ConfigDoc::from_bytes(&file, bytes)?;
                (self.model_type, self.architectures) = (doc.model_type()?, doc.architectures()?);
                self.diffusers_class = doc.opt_string("_class_name")?;
                self.settings = Some(ConfigSource::from_doc(doc, None)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether there is a file of this name.
    pub fn has_file(&self, name: &str) -> bool {
        self.files.iter().any(|f| f.name == name)
    }

    /// The number of elements of all tensors.
    pub fn parameters(&self) -> u64 {
        let elements = |t: &OutlineTensor| t.shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        self.tensors.iter().fold(0, |n, t| n.saturating_add(elements(t)))
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |n, t| n.saturating_add(t.bytes))
    }

    /// What it says it is, for the registry.
    pub fn identity(&self) -> Identity {
        Identity {
            model_type: self.model_type.clone(),
            architectures: self.architectures.clone(),
            gguf_arch: self.gguf_arch.clone(),
            files: vec![],
        }
    }

    /// The container of weights that could not be opened, by the names of files.
    pub fn named_container(&self) -> Container {
        let found = |c: Container| self.files.iter().any(|f| Container::by_name(&f.name) == Some(c));
        let order = [Container::Safetensors, Container::Gguf, Container::PyTorch, Container::Onnx, Container::TensorFlow];
        order.into_iter().find(|c| found(*c)).unwrap_or(Container::None)
    }
}

fn list(dir: &Path) -> Result<Vec<FileEntry>, WeightsError> {
    let io = |source| WeightsError::Io { file: dir.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)?.take(MAX_FILES) {
        let entry = entry.map_err(io)?;
        // Links are followed: caches of the hub are made of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            files.push(FileEntry { name, bytes: Some(metadata.len()) });
        }
    }
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A weights file and what lies beside it.
fn beside(path: &Path, dir: &Path) -> Vec<FileEntry> {
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = BESIDE.iter().map(|n| (*n).to_owned()).filter(|n| *n != own);
    let entry = |name: String| {
        let metadata = fs::metadata(dir.join(&name)).ok().filter(|m| m.is_file())?;
        Some(FileEntry { name, bytes: Some(metadata.len()) })
    };
    std::iter::once(own.clone()).chain(names).filter_map(entry).collect()
}

/// What a file holds, by its first bytes, then by its name.
fn sniff(path: &Path) -> Result<Option<Container>, WeightsError> {
    let (mut file, _) = crate::weights::open_regular(path)?;
    let mut start = [0; 9];
    let mut n = 0;
    while let Some(rest) = start.get_mut(n..).filter(|r| !r.is_empty()) {
        match file.read(rest).map_err(|source| WeightsError::Io { file: path.into(), source })? {
            0 => break,
            more => n += more,
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = start.get(..n).unwrap_or_default();
    let index = name.ends_with(".safetensors.index.json");
    Ok(Container::by_content(start).or_else(|| Container::by_name(&name)).or(index.then_some(Container::Safetensors)))
}
