//! Compile profiles: how a model is compiled and run, apart from what it computes.
//!
//! A [`Profile`] starts from a preset.  A TOML file beside the weights overrides parts of it, and
//! `--set key=value` overrides both.  Every value remembers where it came from, and printing the
//! profile says so (`--explain`).  Unknown keys and values out of range are errors that name the
//! place and what would be accepted.

use crate::passes::FusionSwitches;
use rlx_ir::{DType, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Type of activations.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compute {
    /// 32-bit floats.
    #[default]
    F32,
}

impl Compute {
    /// As an element type.
    pub fn dtype(self) -> DType {
        match self {
            Compute::F32 => DType::F32,
        }
    }
}

/// Type of cached keys and values.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 11 significant bits; the usual choice.
    #[default]
    F16,
    /// 16-bit floats with the range of f32 and 8 significant bits.
    Bf16,
}

impl KvType {
    /// As an element type.
    pub fn dtype(self) -> DType {
        match self {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
            KvType::Bf16 => DType::BF16,
        }
    }
}

/// What products with block-quantised weights may do to activations.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Activations {
    /// Quantise them to 8 bits per block, for integer dot products.
    #[default]
    Int8,
    /// Leave them as they are; weights are dequantised instead.
    Exact,
}

/// When weights are brought into the layout of the kernels.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Packing {
    /// While they are in use, some with every run: the first answer starts sooner.
    #[default]
    Lazy,
    /// While they are loaded: every answer is equally fast.
    Eager,
}

/// Which vector instructions CPU kernels use.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Simd {
    /// The best this machine has.
    #[default]
    Auto,
    /// None.
    Scalar,
    /// AVX2 with FMA.
    Avx2,
    /// AVX2 with AVX-VNNI.
    AvxVnni,
    /// AVX-512.
    Avx512,
    /// AVX-512 with BF16.
    Avx512Bf16,
    /// NEON with dot products.
    Neon,
    /// NEON with I8MM.
    I8mm,
}

/// How a model is compiled and run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, for messages.
    pub name: String,
    /// Type of activations.
    pub compute: Compute,
    /// Type of cached keys and values.
    pub kv: KvType,
    /// Whether products with block-quantised weights may quantise activations.
    pub activations: Activations,
    /// When weights are brought into the layout of the kernels.
    pub packing: Packing,
    /// Whether weights in that layout are kept in a file beside the checkpoint, for the next start.
    pub packed_cache: bool,
    /// Threads; 0 takes one per physical core.
    pub threads: usize,
    /// Vector instructions of CPU kernels.
    pub simd: Simd,
    /// Tokens per block of the paged cache.
    pub kv_block_tokens: usize,
    /// Most new tokens in one run, longer prompts are fed in chunks; 0 sets no limit.
    pub prefill_chunk: usize,
    /// KiB of activations that CPU products work on at once; 0 takes what suits the processor.
    pub act_block_kib: usize,
    /// KiB of packed weights that CPU products work on at once; 0 takes what suits the processor.
    pub weight_block_kib: usize,
    /// Which graph passes run.
    pub fusion: FusionSwitches,
    /// The preset underneath.
    #[serde(skip)]
    base: String,
    /// Dotted key → where its value came from, for keys that the preset did not set.
    #[serde(skip)]
    origins: BTreeMap<String, Origin>,
}

/// Two profiles are equal when all values in force are, wherever these came from.
impl PartialEq for Profile {
    fn eq(&self, other: &Profile) -> bool {
        tree(self) == tree(other)
    }
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// A preset, by name.
    Preset(String),
    /// A profile file.
    File(PathBuf),
    /// `--set`.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Preset(name) => write!(f, "preset {name}"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Set => f.write_str("--set"),
        }
    }
}

/// Why a profile could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No preset of that name.
    #[error("{origin}: no preset is named `{name}`; there are {}", Profile::PRESETS.join(", "))]
    UnknownPreset {
        /// The name.
        name: String,
        /// Who asked for it.
        origin: String,
    },
    /// A key that profiles do not have.
    #[error("{origin}: unknown key `{key}`{}; known keys: {}", nearest(key).map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default(), Profile::keys().join(", "))]
    UnknownKey {
        /// The dotted key.
        key: String,
        /// File or `--set`.
        origin: String,
    },
    /// A value of the wrong kind or out of its range.
    #[error("{origin}: `{key}` = {value}: {why}")]
    Value {
        /// The dotted key.
        key: String,
        /// The value.
        value: String,
        /// File or `--set`.
        origin: String,
        /// Reason.
        why: String,
    },
    /// A file that is not TOML.
    #[error("{origin}: {why}")]
    Syntax {
        /// The file.
        origin: String,
        /// Reason with line and column.
        why: String,
    },
    /// A `--set` argument without `=`.
    #[error("--set {text}: expected key=value, for example kv=f32 or fusion.epilogue=false")]
    Set {
        /// The argument.
        text: String,
    },
}

impl Default for Profile {
    /// The preset `lm`.
    fn default() -> Profile {
        Profile {
            name: "lm".into(),
            compute: Compute::F32,
            kv: KvType::F16,
            activations: Activations::Int8,
            packing: Packing::Lazy,
            packed_cache: false,
            threads: 0,
            simd: Simd::Auto,
            kv_block_tokens: 64,
            prefill_chunk: 512,
            act_block_kib: 0,
            weight_block_kib: 0,
            fusion: FusionSwitches::default(),
            base: "lm".into(),
            origins: BTreeMap::new(),
        }
    }
}

impl Profile {
    /// Names of the presets.
    pub const PRESETS: [&'static str; 6] = ["lm", "encoder", "vision", "sam", "diffusion", "exact"];

    /// The preset of that name.
    ///
    /// * `lm`: autoregressive language models.
    /// * `encoder`: text encoders; whole sequences at once, nothing cached.
    /// * `vision`: image encoders.
    /// * `sam`: promptable segmentation; masks are cut at a threshold, so activations stay exact.
    /// * `diffusion`: denoisers and their autoencoders.
    /// * `exact`: no reduced precision anywhere; what parity tests use.
    pub fn preset(name: &str) -> Result<Profile, ProfileError> {
        let lm = Profile { name: name.into(), base: name.into(), ..Profile::default() };
        let whole = Profile { kv: KvType::F32, prefill_chunk: 0, ..lm.clone() };
        Ok(match name {
            "lm" => lm,
            "encoder" | "vision" | "diffusion" => whole,
            "sam" => Profile { activations: Activations::Exact, ..whole },
            "exact" => Profile { kv: KvType::F32, activations: Activations::Exact, ..lm },
            _ => return Err(ProfileError::UnknownPreset { name: name.into(), origin: "profile".into() }),
        })
    }

    /// `base` with what the TOML `text` of the file `path` overrides.  A file that says
    /// `preset = "…"` starts from that preset instead of `base`.
    pub fn from_toml_over(base: Profile, text: &str, path: &Path) -> Result<Profile, ProfileError> {
        let origin = || path.display().to_string();
        let mut table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| ProfileError::Syntax { origin: origin(), why: e.to_string() })?;
        let mut profile = match table.remove("preset") {
            None => base,
            Some(toml::Value::String(name)) => {
                Profile::preset(&name).map_err(|_| ProfileError::UnknownPreset { name: name.clone(), origin: origin() })?
            }
            Some(other) => {
                let why = format!("expected one of {}", Profile::PRESETS.join(", "));
                return Err(ProfileError::Value { key: "preset".into(), value: other.to_string(), origin: origin(), why });
            }
        };
        let given = serde_json::to_value(table).map_err(|e| ProfileError::Syntax { origin: origin(), why: e.to_string() })?;
        let known = tree(&profile);
        for (key, value) in leaves(&given) {
            // An empty file, or an empty section of a known name, says nothing.
            if value.is_object() && (key.is_empty() || known.get(&key).is_some_and(Value::is_object)) {
                continue;
            }
            profile.apply(&key, value, Origin::File(path.into()))?;
        }
        Ok(profile)
    }

    /// Overrides one value: `kv=f32`, `fusion.epilogue=false`.
    pub fn set(&mut self, text: &str) -> Result<(), ProfileError> {
        let bad = || ProfileError::Set { text: text.into() };
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(bad());
        }
        let old = leaves(&tree(self)).into_iter().find(|l| l.0 == key);
        let value = match old {
            Some((_, Value::String(_))) => Value::String(value.trim_matches(['"', '\'']).into()),
            _ => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into())),
        };
        self.apply(key, value, Origin::Set)
    }

    /// Sets the value of a dotted key.
    fn apply(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ProfileError> {
        let mut all = tree(self);
        let known = leaves(&all).iter().any(|l| l.0 == key);
        let Some(at) = all.pointer_mut(&format!("/{}", key.replace('.', "/"))).filter(|_| known) else {
            return Err(ProfileError::UnknownKey { key: key.into(), origin: origin.to_string() });
        };
        *at = value.clone();
        let error = |why: String| ProfileError::Value { key: key.into(), value: value.to_string(), origin: origin.to_string(), why };
        let new: Profile = serde_json::from_value(all).map_err(|e| error(e.to_string()))?;
        if let Some((_, why)) = new.out_of_range().into_iter().find(|p| p.0 == key) {
            return Err(error(why));
        }
        let (base, origins) = (std::mem::take(&mut self.base), std::mem::take(&mut self.origins));
        *self = Profile { base, origins, ..new };
        self.origins.insert(key.into(), origin);
        Ok(())
    }

    /// Keys whose values no machine can run with, and why.
    fn out_of_range(&self) -> Vec<(&'static str, String)> {
        let mut bad = vec![];
        if self.threads > 4096 {
            bad.push(("threads", "expected at most 4096 (0 takes one per physical core)".into()));
        }
        if !self.kv_block_tokens.is_power_of_two() || self.kv_block_tokens > 1 << 16 {
            bad.push(("kv_block_tokens", "expected a power of two, at most 65536".into()));
        }
        if self.prefill_chunk > 1 << 24 {
            bad.push(("prefill_chunk", "expected at most 16777216 (0 sets no limit)".into()));
        }
        for (key, kib) in [("act_block_kib", self.act_block_kib), ("weight_block_kib", self.weight_block_kib)] {
            if kib != 0 && !(16..=1 << 16).contains(&kib) {
                bad.push((key, "expected 16 to 65536 (0 takes what suits the processor)".into()));
            }
        }
        bad
    }

    /// The types a graph is built with under this profile.
    pub fn options(&self) -> Options {
        Options { compute: self.compute.dtype(), kv: self.kv.dtype() }
    }

    /// Where the value of a dotted key came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_else(|| Origin::Preset(self.base.clone()))
    }

    /// Every dotted key, in order.
    pub fn keys() -> Vec<String> {
        leaves(&tree(&Profile::default())).into_iter().map(|l| l.0).collect()
    }

    /// All values as TOML; [`Profile::from_toml_over`] reads it back.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        let all = leaves(&tree(self));
        for (key, value) in &all {
            let (head, name) = key.rsplit_once('.').unwrap_or(("", key));
            if head != section {
                section = head;
                out += &format!("\n[{head}]\n");
            }
            out += &format!("{name} = {value}\n");
        }
        out
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "profile {}", self.name)?;
        for (key, value) in leaves(&tree(self)).into_iter().filter(|l| l.0 != "name") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(f, "  {key:<28} {value:<10} ({})", self.origin(&key))?;
        }
        Ok(())
    }
}

/// A profile as a tree of values in the order of its fields.
fn tree(p: &Profile) -> Value {
    serde_json::to_value(p).expect("a profile has only strings, numbers and bools")
}

/// Dotted keys and values of everything in a tree that is no table with
/// content, in order.
fn leaves(v: &Value) -> Vec<(String, Value)> {
    let mut out = vec![];
    let mut open = vec![(String::new(), v)];
    while let Some((key, v)) = open.pop() {
        match v {
            Value::Object(map) if !map.is_empty() => {
                let name = |k: &String| if key.is_empty() { k.clone() } else { format!("{key}.{k}") };
                open.extend(map.iter().rev().map(|(k, v)| (name(k), v)));
            }
            leaf => out.push((key, leaf.clone())),
        }
    }
    out
}

/// The known key closest to `key`, comparing last parts too, so that `epilog` finds
/// `fusion.epilogue`.
fn nearest(key: &str) -> Option<String> {
    let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_owned();
    let cost = |k: &String| distance(k, key).min(distance(&last(k), &last(key)));
    Profile::keys().into_iter().map(|k| (cost(&k), k)).filter(|(c, k)| *c <= 3.min(last(k).len() / 2)).min_by_key(|c| c.0).map(|c| c.1)
}

/// Levenshtein distance, with long inputs cut.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let d = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], d);
        }
    }
    row[b.len()]
}
