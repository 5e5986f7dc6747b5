//! Which tensors are quantised, and to which type: the rules of llama-quantize.
//!
//! Input: names and shapes of tensors in the order of [`super::roles::order`], and a few facts about the model.  Output: a type for
//! each.  The rules are experience, not theory: values and down projections, first and last layers and the output get
//! more bits than the rest.  Reference: llama.cpp's `llama-quant.cpp`.

use super::roles::{KEPT, KEPT_LATENT, Role, layer_of};
use super::{FileType as T, Options, QuantizeError};
use crate::blocks::BlockFormat as F;
use crate::error::quote;
use crate::tensor::{TensorInfo, TensorType};
use crate::{Array, Gguf, Value};

use TensorType::Block;

/// Architectures that the rules treat specially, as llama.cpp does: name, trait and, for size classes, layers.
const ARCHITECTURES: &str = include_str!("architectures.tsv");

/// Facts about the model that the rules ask for.
#[derive(Debug, Default)]
struct Model {
    layers: usize,
    experts: u64,
    /// Query heads per key and value head in the first layer.
    grouped: u64,
    traits: Vec<&'static str>,
    is_70b: bool,
    has_importance: bool,
    /// There is no `output.weight`: the embedding is the output too.
    tied: bool,
    values: usize,
}

/// The first element of an integer, or of an array with one per layer.
fn first_integer(gguf: &Gguf, key: &str) -> Option<u64> {
    let first = match gguf.get(key)? {
        Value::Array(a) => match &**a {
            Array::I32(a) => a.first().map(|v| i128::from(*v)),
            Array::U32(a) => a.first().map(|v| i128::from(*v)),
            Array::I64(a) => a.first().map(|v| i128::from(*v)),
            Array::U64(a) => a.first().map(|v| i128::from(*v)),
            _ => None,
        },
        value => value.as_integer(),
    };
    first.and_then(|v| u64::try_from(v).ok())
}

impl Model {
    fn of(gguf: &Gguf, has_importance: bool) -> Result<Model, QuantizeError> {
        let architecture = gguf.architecture()?;
        let key = |name: &str| format!("{architecture}.{name}");
        let layers = gguf.get_u32(&key("block_count"))? as usize;
        let heads = first_integer(gguf, &key("attention.head_count")).unwrap_or(0);
        let shared = first_integer(gguf, &key("attention.head_count_kv")).unwrap_or(heads);
        let rows = ARCHITECTURES.lines().map(|l| l.split('\t').collect::<Vec<_>>());
        let rows: Vec<_> = rows.filter(|r| r.first() == Some(&architecture)).collect();
        let of_size = |name: &str| rows.iter().any(|r| r.get(1) == Some(&name) && r.get(2).and_then(|n| n.parse().ok()) == Some(layers));
        Ok(Model {
            layers,
            experts: first_integer(gguf, &key("expert_count")).unwrap_or(0),
            grouped: heads.checked_div(shared).unwrap_or(0),
            is_70b: of_size("70b") || (of_size("grouped_70b") && heads != shared),
            traits: rows.iter().filter_map(|r| r.get(1).copied()).collect(),
            has_importance,
            tied: gguf.find_tensor("output.weight").is_none(),
            values: gguf.tensors().iter().filter(|t| Role::of(&t.name) == Role::Value).count(),
        })
    }

    fn is(&self, name: &str) -> bool {
        self.traits.contains(&name)
    }
}

/// What was decided for a tensor.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(super) struct Choice {
    pub ty: TensorType,
    /// The type that the rules wanted, but whose blocks do not fit the rows.
    pub instead_of: Option<F>,
}

/// Decides tensor after tensor; which layer comes next is counted.
pub(super) struct Selector<'a> {
    file_type: T,
    options: &'a Options,
    model: Model,
    /// Values, down, gate and up projections seen so far.
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    values: usize,
    down: usize,
    gate: usize,
    up: usize,
}

impl<'a> Selector<'a> {
    pub fn new(gguf: &Gguf, file_type: T, options: &'a Options) -> Result<Self, QuantizeError> {
        let has_importance = options.importance.is_some();
        // Files of other kinds have no layers to count; their types need no rules.
        let rules = matches!(file_type.tensor_type(), Block(_)) && !options.pure && !options.copy;
        let model = if rules { Model::of(gguf, has_importance)? } else { Model::default() };
        Ok(Self { file_type, options, model, seen: Seen::default() })
    }

    /// The type for a tensor; the tensor's own where it stays as it is.
    pub fn choose(&mut self, t: &TensorInfo) -> Result<Choice, QuantizeError> {
        let role = Role::of(&t.name);
        let keep = Choice { ty: t.ty, instead_of: None };
        if !self.may_quantize(t) {
            return Ok(keep);
        }
        let plain = |ty| Ok(Choice { ty, instead_of: None });
        let rule = self.options.rules.iter().find(|r| (r.matches)(&t.name)).map(|r| r.ty);
        if let Some(ty) = self.options.token_embedding.filter(|_| role == Role::TokenEmbedding) {
            let named = t.name == "per_layer_token_embd.weight" && rule.is_some();
            if !named {
                return plain(ty);
            }
        }
        if let Some(ty) = self.options.output.filter(|_| role == Role::Output) {
            return plain(ty);
        }
        let Block(default) = self.file_type.tensor_type() else {
            return plain(self.file_type.tensor_type());
        };
        let wanted = match rule {
            Some(ty) => ty,
            None if self.options.pure => Block(default),
            None => self.by_rules(t, role, default)?,
        };
        Ok(fitting(wanted, t.shape.last().copied().unwrap_or(1)))
    }

    fn may_quantize(&self, t: &TensorInfo) -> bool {
        // Leading dimensions of 1 are none, as in ggml.
        let dims = t.shape.len() - t.shape.iter().take_while(|d| **d == 1).count();
        let name = t.name.as_str();
        let own = ["position_embd.weight", "token_types.weight"].contains(&name);
        let left = self.options.leave_output && name == "output.weight";
        let kept = KEPT.iter().any(|part| name.contains(part));
        let latent = self.model.is("keep_latent") && KEPT_LATENT.iter().any(|part| name.contains(part));
        dims >= 2 && name.ends_with("weight") && !(self.options.copy || own || left || kept || latent)
    }

    /// First and last eighth of the layers, and every third between them.
    fn deserves_more(layer: usize, layers: usize) -> bool {
        layer < layers / 8 || layer >= 7 * layers / 8 || (layer.wrapping_sub(layers / 8)) % 3 == 2
    }

    /// The layer of a tensor: counted, or by name where a layer has many such tensors.
    fn layer(&self, t: &TensorInfo, counted: usize) -> Result<usize, QuantizeError> {
        if self.model.experts <= 1 {
            return Ok(counted);
        }
        let layers = self.model.layers;
        let layer = layer_of(&t.name).map(|l| l as usize);
        layer.filter(|l| *l < layers).ok_or_else(|| QuantizeError::Layer { tensor: quote(&t.name), layers })
    }

    fn by_rules(&mut self, t: &TensorInfo, role: Role, default: F) -> Result<TensorType, QuantizeError> {
        if self.model.is("keep_latent") && ["attn_q_a", "attn_q_b", "nextn.eh_proj"].iter().any(|part| t.name.contains(part)) {
            return Ok(Block(F::Q8_0));
        }
        if role == Role::Output || (self.model.tied && role == Role::TokenEmbedding) {
            return Ok(self.output_type(t, default));
        }
        if self.file_type == T::MXFP4MoE {
            let three_d = t.shape.len() > 2 && t.shape[t.shape.len() - 3] > 1;
            let expert = !self.model.is("experts_by_name") || matches!(role, Role::Up | Role::Gate | Role::Down);
            return Ok(Block(if three_d && expert { F::MXFP4 } else { F::Q8_0 }));
        }
        Ok(Block(match role {
            Role::TokenEmbedding => return Ok(self.embedding_type(default)),
            _ if self.is_very_low() => self.very_low(role, default),
            Role::Value => self.value(default),
            Role::Key | Role::Query => self.key_or_query(role, default),
            Role::Down => {
                let layer = self.layer(t, self.seen.down)?;
                self.seen.down += 1;
                self.down(layer, default)
            }
            Role::AttentionOutput => self.attention_output(default),
            Role::Gate | Role::Up => {
                let seen = if role == Role::Gate { &mut self.seen.gate } else { &mut self.seen.up };
                let counted = *seen;
                *seen += 1;
                let (layer, layers) = (self.layer(t, counted)?, self.model.layers);
                let middle = layer >= layers / 8 && layer < 7 * layers / 8;
                if self.file_type == T::IQ3XS && middle { F::IQ3XXS } else { default }
            }
            _ => default,
        }))
    }

    fn output_type(&self, t: &TensorInfo, default: F) -> TensorType {
        let columns = t.shape.last().copied().unwrap_or(1);
        Block(match self.file_type {
            _ if self.options.output.is_some() => return self.options.output.unwrap_or(t.ty),
            T::MXFP4MoE => F::Q8_0,
            _ if self.model.is("large_output") || !columns.is_multiple_of(default.block_len() as u64) => F::Q8_0,
            T::IQ2XXS | T::IQ2XS | T::IQ3XXS | T::IQ1S | T::IQ2S | T::IQ2M | T::IQ1M => F::Q5K,
            _ if default != F::Q8_0 => F::Q6K,
            _ => default,
        })
    }

    fn embedding_type(&self, default: F) -> TensorType {
        Block(match self.file_type {
            T::IQ2XXS | T::IQ2XS | T::IQ1S | T::IQ1M => F::Q2K,
            T::IQ2S | T::IQ2M | T::IQ3XXS => F::IQ3S,
            T::TQ1_0 | T::TQ2_0 => F::Q4K,
            _ => default,
        })
    }

    /// Two bits and fewer have rules of their own.
    fn is_very_low(&self) -> bool {
        matches!(self.file_type, T::IQ2XXS | T::IQ2XS | T::IQ1S | T::IQ2S | T::IQ2M | T::IQ1M)
    }

    fn very_low(&mut self, role: Role, default: F) -> F {
        let larger = matches!(self.file_type, T::IQ2S | T::IQ2M);
        let better = if larger { F::IQ3S } else { F::Q2K };
        match role {
            Role::Value => {
                self.seen.values += 1;
                if self.model.grouped >= 4 || self.model.experts >= 4 { F::Q4K } else { better }
            }
            Role::Key if self.model.experts == 8 => F::Q4K,
            Role::Down => {
                self.seen.down += 1;
                if self.seen.down - 1 < self.model.layers / 8 { better } else { default }
            }
            Role::AttentionOutput if self.model.experts == 8 => F::Q5K,
            Role::AttentionOutput if larger => F::IQ3S,
            Role::AttentionOutput if matches!(self.file_type, T::IQ1S | T::IQ1M) => F::IQ2XXS,
            _ => default,
        }
    }

    fn value(&mut self, default: F) -> F {
        let n = self.seen.values;
        self.seen.values += 1;
        let grouped = self.model.grouped >= 4;
        let more = Self::deserves_more(n, self.model.values);
        let ty = match self.file_type {
            T::Q2K => {
                if grouped {
                    F::Q4K
                } else {
                    F::Q3K
                }
            }
            T::Q2KS if grouped => F::Q4K,
            T::IQ3XXS if grouped => F::Q4K,
            T::IQ3XXS => {
                if self.model.has_importance {
                    F::IQ3XXS
                } else {
                    F::IQ3S
                }
            }
            T::IQ3XS | T::IQ3S if grouped => F::Q4K,
            T::IQ3M => F::Q4K,
            T::Q3KM => {
                if n < 2 {
                    F::Q5K
                } else {
                    F::Q4K
                }
            }
            T::Q3KL => F::Q5K,
            T::IQ4NL | T::IQ4XS if grouped => F::Q5K,
            T::Q4KM | T::Q5KM if more => F::Q6K,
            T::Q4KS if n < 4 => F::Q5K,
            _ => default,
        };
        match ty {
            // Eight heads share these weights, so more bits cost next to nothing.
            _ if self.model.experts == 8 => F::Q8_0,
            F::Q3K | F::Q4K if self.model.is_70b => F::Q5K,
            _ => ty,
        }
    }

    fn key_or_query(&self, role: Role, default: F) -> F {
        match self.file_type {
            _ if role == Role::Key && self.model.experts == 8 => F::Q8_0,
            T::IQ3XS => F::IQ3XXS,
            T::IQ3XXS => F::IQ2S,
            _ => default,
        }
    }

    fn down(&self, layer: usize, default: F) -> F {
        let layers = self.model.layers;
        let (early, more) = (layer < layers / 8, Self::deserves_more(layer, layers));
        let (importance, large_output) = (self.model.has_importance, self.model.is("large_output"));
        match self.file_type {
            T::Q2K => F::Q3K,
            T::Q2KS if early => F::Q4K,
            T::IQ3XXS if !importance => {
                if early {
                    F::Q4K
                } else {
                    F::Q3K
                }
            }
            T::Q3KM if layer < layers / 16 => F::Q5K,
            T::Q3KM if !large_output || more => F::Q4K,
            T::IQ3M if early || (self.model.experts == 8 && more) => F::Q4K,
            T::Q3KL => {
                if large_output {
                    F::Q4K
                } else {
                    F::Q5K
                }
            }
            T::Q4KM if large_output && layer < layers / 16 => F::Q6K,
            T::Q4KM if more => {
                if large_output {
                    F::Q5K
                } else {
                    F::Q6K
                }
            }
            T::IQ4NL | T::IQ4XS if early && !importance => F::Q5K,
            T::Q5KM if more => F::Q6K,
            T::Q4KS if early && !large_output => F::Q5K,
            // The plain ones go wrong in the first layers when errors are weighed; with a minimum they do not.
            T::Q4_0 if early && importance => F::Q4_1,
            T::Q5_0 if early && importance => F::Q5_1,
            _ => default,
        }
    }

    fn attention_output(&self, default: F) -> F {
        if self.model.is("large_output") {
            return if self.file_type == T::Q3KL { F::Q4K } else { default };
        }
        if self.model.experts == 8 {
            let small = matches!(self.file_type, T::Q2K | T::IQ3XS | T::IQ3XXS | T::Q3KS | T::Q3KM | T::IQ3S | T::IQ3M);
            let middle = matches!(self.file_type, T::IQ4NL | T::IQ4XS | T::Q4KS | T::Q4KM);
            return if small || middle { F::Q5K } else { default };
        }
        match self.file_type {
            T::Q2K => F::Q3K,
            T::IQ3XXS => F::IQ3S,
            T::Q3KM | T::IQ3M => F::Q4K,
            T::Q3KL => F::Q5K,
            _ => default,
        }
    }
}

/// `wanted`, or a type with blocks of 32 where rows are no multiple of its block, or F16 where they are not of 32.
fn fitting(wanted: TensorType, columns: u64) -> Choice {
    let fits = |f: F| columns.is_multiple_of(f.block_len() as u64);
    let Block(format) = wanted else {
        return Choice { ty: wanted, instead_of: None };
    };
    if fits(format) {
        return Choice { ty: wanted, instead_of: None };
    }
    let smaller = match format {
        F::IQ1S | F::IQ1M | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ3XXS | F::IQ3S | F::IQ4XS => F::IQ4NL,
        F::Q2K | F::Q3K | F::TQ1_0 | F::TQ2_0 => F::Q4_0,
        F::Q4K | F::NVFP4 => F::Q5_0,
        F::Q5K => F::Q5_1,
        F::Q6K | F::Q8K => F::Q8_0,
        other => other,
    };
    let ty = if fits(smaller) { Block(smaller) } else { TensorType::F16 };
    Choice { ty, instead_of: Some(format) }
}

/// Whether the type is garbage without an importance matrix.
pub(super) fn needs_importance(name: &str, ty: TensorType, file_type: T) -> bool {
    if matches!(Role::of(name), Role::TokenEmbedding | Role::Output) {
        return false;
    }
    match ty {
        Block(F::IQ3XXS | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ1M | F::IQ1S) => true,
        Block(F::Q2K) => file_type == T::Q2KS,
        _ => false,
    }
}

/// Whether an importance of the wrong size is passed over: files of llama-imatrix have none for embeddings.
pub(super) fn tolerates_wrong_size(name: &str) -> bool {
    Role::of(name) == Role::TokenEmbedding
}
