//! The ops.  One file each: type rule, meaning (reference evaluation), decomposition where the op
//! is a composite, conformance samples.  Adding an op is its file and one line in [`Op`].
//!
//! The text form of an op is its name and its serde fields, so it needs no code here.

use crate::interp::{EvalCx, EvalError, Value};
use crate::{Inferred, Samples, Type, Val};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What an op is.  Implemented once per op, dispatched by [`Op`].
pub trait OpDef: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned {
    /// Name in the text form.
    const NAME: &'static str;

    /// The types of the outputs, or why the inputs do not fit.
    fn infer(&self, ins: &[&Type]) -> Inferred;

    /// Reference evaluation in f64.  Composites inherit this: what they mean is their
    /// decomposition.
    fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
        cx.eval_decomposed(Self::NAME, ins, |v| self.decompose(v))
    }

    /// The same computation in simpler ops; `None` for primitives, and for composites on input
    /// types that have no simpler form.
    fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
        let _ = ins;
        None
    }

    /// Conformance cases.
    fn samples(s: &mut Samples);
}

macro_rules! ops {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(pub mod $module; #[doc(inline)] pub use $module::$name;)*

        /// Every op.  Boxed, so that the size of a node is not that of the largest op.
        #[derive(Clone, PartialEq, Debug)]
        #[allow(missing_docs)] // each variant is documented by its struct
        pub enum Op { $($name(Box<$name>)),* }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(Box::new(op)) } })*

        impl Op {
            /// Name in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => <$name as OpDef>::NAME),* }
            }

            /// See [`OpDef::infer`].
            pub fn infer(&self, ins: &[&Type]) -> Inferred {
                match self { $(Op::$name(op) => op.infer(ins)),* }
            }

            /// See [`OpDef::eval`].
            pub fn eval(&self, cx: &mut EvalCx<'_>, ins: &[&Value]) -> Result<Vec<Value>, EvalError> {
                match self { $(Op::$name(op) => op.eval(cx, ins)),* }
            }

            /// See [`OpDef::decompose`].
            pub fn decompose<'g>(&self, ins: &[Val<'g>]) -> Option<Vec<Val<'g>>> {
                match self { $(Op::$name(op) => op.decompose(ins)),* }
            }

            /// The attributes as JSON, in field order.
            pub fn attributes(&self) -> serde_json::Value {
                match self { $(Op::$name(op) => serde_json::to_value(&**op).unwrap_or_default()),* }
            }

            /// The op of this name with these attributes.
            pub fn from_attributes<'de, D: serde::Deserializer<'de>>(name: &str, attributes: D) -> Result<Op, String> {
                match name {
                    $(<$name as OpDef>::NAME => $name::deserialize(attributes).map(Op::from).map_err(|e| format!("{name}: {e}")),)*
                    other => Err(format!("unknown op `{other}`; nearest: {}", nearest(other).unwrap_or("none"))),
                }
            }

            /// Names of all ops.
            pub const NAMES: &'static [&'static str] = &[$(<$name as OpDef>::NAME),*];

            /// Every conformance case of every op.
            pub fn all_samples() -> Samples {
                let mut s = Samples::default();
                $(s.set_op(<$name as OpDef>::NAME); <$name as OpDef>::samples(&mut s);)*
                s
            }
        }
    };
}

ops! {
    // Elementwise.
    unary::Unary,
    binary::Binary,
    select::Select,
    cast::Cast,
    // Data movement.
    constant::Constant,
    iota::Iota,
    reshape::Reshape,
    permute::Permute,
    broadcast::Broadcast,
    slice::Slice,
    concat::Concat,
    pad::Pad,
    gather::Gather,
    gather_axis::GatherAxis,
    scatter::Scatter,
    sort::Sort,
    resize::Resize,
    // Reductions and products.
    reduce::Reduce,
    cumsum::Cumsum,
    matmul::Matmul,
    linear::Linear,
    conv::Conv,
    fft::Fft,
    // Sequences and states.
    positions::Positions,
    segment_ids::SegmentIds,
    cache_append::CacheAppend,
    state_read::StateRead,
    state_write::StateWrite,
    short_conv::ShortConv,
    selective_scan::SelectiveScan,
    gated_delta_rule::GatedDeltaRule,
    // Composites.
    rms_norm::RmsNorm,
    layer_norm::LayerNorm,
    group_norm::GroupNorm,
    l2_norm::L2Norm,
    conv_transpose::ConvTranspose,
    softmax::Softmax,
    swiglu::Swiglu,
    rope::Rope,
    attention::Attention,
    top_k::TopK,
    route::Route,
    expert_linear::ExpertLinear,
    stft::Stft,
    // Fused forms, made by the compiler.
    fused::Fused,
    add_rms_norm::AddRmsNorm,
    rope_append::RopeAppend,
}
mod window;

pub use attention::Mask;
pub use binary::BinaryOp;
pub use fft::FftKind;
pub use fused::Instr;
pub use reduce::ReduceOp;
pub use resize::ResizeMode;
pub use rope::{RopeScaling, RopeStyle};
pub use route::RouterScore;
pub use scatter::ScatterMode;
pub use unary::UnaryOp;

/// The op whose name differs from `name` by the fewest edits.
fn nearest(name: &str) -> Option<&'static str> {
    Op::NAMES.iter().copied().filter(|n| distance(n, name) <= 3).min_by_key(|n| distance(n, name))
}

/// Levenshtein distance, with long inputs cut (they are errors anyway).
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
