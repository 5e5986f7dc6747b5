//! File types: names for mixes of tensor types, as llama-quantize knows them.

use crate::blocks::BlockFormat as F;
use crate::tensor::TensorType;
use std::fmt;

/// What a file is quantised to: the type of most of its tensors, and which mix of others goes with it.
#[allow(non_camel_case_types, reason = "the field's spelling")]
#[allow(missing_docs, reason = "the names are the documentation; `FileType::about` has a line on each")]
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q2KS,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
    Q6K,
    IQ1S,
    IQ1M,
    IQ2XXS,
    IQ2XS,
    IQ2S,
    IQ2M,
    IQ3XXS,
    IQ3XS,
    IQ3S,
    IQ3M,
    IQ4NL,
    IQ4XS,
    TQ1_0,
    TQ2_0,
    MXFP4MoE,
}

use FileType as T;
use TensorType::Block;

impl FileType {
    /// Every file type, fewest bits per weight last.
    pub const ALL: &[FileType] = &[
        T::F32,
        T::F16,
        T::BF16,
        T::Q8_0,
        T::Q6K,
        T::Q5_1,
        T::Q5KM,
        T::Q5_0,
        T::Q5KS,
        T::Q4_1,
        T::Q4KM,
        T::Q4KS,
        T::Q4_0,
        T::IQ4NL,
        T::IQ4XS,
        T::MXFP4MoE,
        T::Q3KL,
        T::Q3KM,
        T::IQ3M,
        T::Q3KS,
        T::IQ3S,
        T::IQ3XS,
        T::Q2K,
        T::IQ3XXS,
        T::Q2KS,
        T::IQ2M,
        T::IQ2S,
        T::IQ2XS,
        T::IQ2XXS,
        T::TQ2_0,
        T::IQ1M,
        T::TQ1_0,
        T::IQ1S,
    ];

    /// (name, number in `general.file_type`, type of most tensors, bits per weight of an 8B model, about).
    const fn row(self) -> (&'static str, u32, TensorType, f32, &'static str) {
        match self {
            T::F32 => ("F32", 0, TensorType::F32, 32.0, "as exact as the source"),
            T::F16 => ("F16", 1, TensorType::F16, 16.0, "half precision; a good source for everything below"),
            T::BF16 => ("BF16", 32, TensorType::BF16, 16.0, "the type that most models are trained in"),
            T::Q4_0 => ("Q4_0", 2, Block(F::Q4_0), 4.63, "old and quick; Q4_K_S is better"),
            T::Q4_1 => ("Q4_1", 3, Block(F::Q4_1), 5.10, "old; Q4_K_M is smaller and better"),
            T::Q5_0 => ("Q5_0", 8, Block(F::Q5_0), 5.57, "old; Q5_K_S is better"),
            T::Q5_1 => ("Q5_1", 9, Block(F::Q5_1), 6.04, "old; Q5_K_M is smaller and better"),
            T::Q8_0 => ("Q8_0", 7, Block(F::Q8_0), 8.50, "hardly told from the source"),
            T::Q2K => ("Q2_K", 10, Block(F::Q2K), 3.16, "small; loses noticeably"),
            T::Q2KS => ("Q2_K_S", 21, Block(F::Q2K), 2.97, "smaller; needs an importance matrix"),
            T::Q3KS => ("Q3_K_S", 11, Block(F::Q3K), 3.64, "small"),
            T::Q3KM => ("Q3_K_M", 12, Block(F::Q3K), 4.00, "small, with more bits where they count"),
            T::Q3KL => ("Q3_K_L", 13, Block(F::Q3K), 4.30, "small, with yet more bits where they count"),
            T::Q4KS => ("Q4_K_S", 14, Block(F::Q4K), 4.67, "good"),
            T::Q4KM => ("Q4_K_M", 15, Block(F::Q4K), 4.89, "good, with more bits where they count: the usual choice"),
            T::Q5KS => ("Q5_K_S", 16, Block(F::Q5K), 5.57, "very good"),
            T::Q5KM => ("Q5_K_M", 17, Block(F::Q5K), 5.70, "very good, with more bits where they count"),
            T::Q6K => ("Q6_K", 18, Block(F::Q6K), 6.56, "close to the source"),
            T::IQ1S => ("IQ1_S", 24, Block(F::IQ1S), 2.00, "for the desperate; needs an importance matrix"),
            T::IQ1M => ("IQ1_M", 31, Block(F::IQ1M), 2.15, "as IQ1_S, a little better"),
            T::IQ2XXS => ("IQ2_XXS", 19, Block(F::IQ2XXS), 2.38, "needs an importance matrix"),
            T::IQ2XS => ("IQ2_XS", 20, Block(F::IQ2XS), 2.59, "needs an importance matrix"),
            T::IQ2S => ("IQ2_S", 28, Block(F::IQ2XS), 2.74, "IQ2_XS with more bits where they count"),
            T::IQ2M => ("IQ2_M", 29, Block(F::IQ2S), 2.93, "needs an importance matrix"),
            T::IQ3XXS => ("IQ3_XXS", 23, Block(F::IQ3XXS), 3.25, "needs an importance matrix"),
            T::IQ3XS => ("IQ3_XS", 22, Block(F::IQ3S), 3.50, "IQ3_S with fewer bits where they do not count"),
            T::IQ3S => ("IQ3_S", 26, Block(F::IQ3S), 3.66, "better than Q3_K_S at its size"),
            T::IQ3M => ("IQ3_M", 27, Block(F::IQ3S), 3.76, "IQ3_S with more bits where they count"),
            T::IQ4NL => ("IQ4_NL", 25, Block(F::IQ4NL), 4.68, "uneven levels in blocks of 32"),
            T::IQ4XS => ("IQ4_XS", 30, Block(F::IQ4XS), 4.46, "uneven levels; nearly Q4_K_S, smaller"),
            T::TQ1_0 => ("TQ1_0", 36, Block(F::TQ1_0), 2.19, "for models trained with ternary weights"),
            T::TQ2_0 => ("TQ2_0", 37, Block(F::TQ2_0), 2.52, "as TQ1_0, quicker"),
            T::MXFP4MoE => ("MXFP4_MOE", 38, Block(F::MXFP4), 8.50, "experts in MXFP4, the rest in Q8_0"),
        }
    }

    /// llama.cpp's name: `Q4_K_M`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The number that `general.file_type` has.
    pub const fn number(self) -> u32 {
        self.row().1
    }

    /// The type of the tensors that no rule says more about.
    pub const fn tensor_type(self) -> TensorType {
        self.row().2
    }

    /// Bits per weight of a model of Llama 3's 8B shape, its mix counted; files of other shapes come near.
    pub const fn bits_per_weight(self) -> f32 {
        self.row().3
    }

    /// Whether the type is garbage without an importance matrix.
    pub const fn needs_importance(self) -> bool {
        let low = matches!(self, T::IQ1S | T::IQ1M | T::IQ2XXS | T::IQ2XS | T::IQ2S | T::IQ2M);
        low || matches!(self, T::IQ3XXS | T::IQ3XS | T::Q2KS)
    }

    /// A line on what the type is good for.
    pub const fn about(self) -> &'static str {
        self.row().4
    }

    /// The file type named `name` in any case; `Q3_K`, `Q4_K` and `Q5_K` are their `_M`.
    pub fn from_name(name: &str) -> Option<Self> {
        let medium = ["Q3_K", "Q4_K", "Q5_K"].into_iter().find(|n| n.eq_ignore_ascii_case(name)).map(|n| format!("{n}_M"));
        let name = medium.as_deref().unwrap_or(name);
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
