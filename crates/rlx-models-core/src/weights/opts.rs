//! What to open, and how it will be read.

use std::path::PathBuf;

/// The container a checkpoint is in.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum WeightFormat {
    /// One or several safetensors files.  Tensors of one weight that belong together (MLX, GPTQ, fp8 scales, …) are
    /// presented as one tensor of a block format.
    Safetensors,
    /// One or several GGUF files.
    Gguf,
    /// A format that the application registered, by its name.
    Custom(&'static str),
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WeightFormat::Safetensors => "safetensors",
            WeightFormat::Gguf => "GGUF",
            WeightFormat::Custom(name) => name,
        })
    }
}

/// How to choose among the files at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ResolveWeightsOptions {
    /// The quantisation to take of a directory with several GGUF files; `None` makes more than one an error.
    pub prefer_quant: Option<String>,
    /// The GGUF file to take of a directory, counted from 0 in the order of names.  Wins over everything else.
    pub gguf_index: Option<usize>,
}

impl Default for ResolveWeightsOptions {
    fn default() -> Self {
        ResolveWeightsOptions { prefer_quant: Some("Q4_K_M".into()), gguf_index: None }
    }
}

/// What a path turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ResolvedWeights {
    /// The container.
    pub format: WeightFormat,
    /// The file to open: a weights file, the index of a sharded checkpoint, or a part of a split GGUF file.
    pub file: PathBuf,
}

/// How tensors will be read.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Access {
    /// In any order, any number of times: pages stay in memory while the system has room.
    #[default]
    Map,
    /// Each about once, as a device takes them over: the pages of a tensor are given back to the system when the last
    /// [`TensorData`](super::TensorData) of it is dropped, so that loading never holds the file beside its copy.
    Loader,
}

/// Which files of a path to open, and how they will be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LoadOpts {
    /// Which files.
    pub resolve: ResolveWeightsOptions,
    /// How they will be read.
    pub access: Access,
}

impl LoadOpts {
    /// For tensors in any order: [`Access::Map`].
    pub fn map() -> LoadOpts {
        LoadOpts::default()
    }

    /// For handing a checkpoint over to a device: [`Access::Loader`].
    pub fn loader() -> LoadOpts {
        LoadOpts { access: Access::Loader, ..LoadOpts::default() }
    }

    /// With this way of reading.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// With this preferred quantisation.
    pub fn prefer_quant(mut self, name: impl Into<String>) -> Self {
        self.resolve.prefer_quant = Some(name.into());
        self
    }

    /// With the preferred quantisation `Q4_K_M`, which is also the default.
    pub fn prefer_q4_k_m(self) -> Self {
        self.prefer_quant("Q4_K_M")
    }

    /// With this GGUF file of a directory.
    pub fn gguf_index(mut self, index: usize) -> Self {
        self.resolve.gguf_index = Some(index);
        self
    }
}
