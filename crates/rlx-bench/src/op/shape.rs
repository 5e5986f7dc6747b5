//! Sizes at which ops are measured: those of released models, or a matrix.

use std::str::FromStr;

/// A decoder's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    pub name: &'static str,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
    pub vocab: usize,
}

const DECODERS: [Decoder; 2] = [
    Decoder { name: "qwen3-0.6b", hidden: 1024, heads: 16, kv_heads: 8, head_dim: 128, intermediate: 3072, vocab: 151_936 },
    Decoder { name: "qwen3-4b", hidden: 2560, heads: 32, kv_heads: 8, head_dim: 128, intermediate: 9728, vocab: 151_936 },
];

/// What `--shape` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All matrices of a decoder, and its heads.
    Decoder(Decoder),
    /// One matrix: `k` elements to `n`.
    Matrix { k: usize, n: usize },
}

/// Most elements of one side of a matrix.
const MOST: usize = 1 << 20;

impl FromStr for Shape {
    type Err = String;

    fn from_str(s: &str) -> Result<Shape, String> {
        if let Some(d) = DECODERS.iter().find(|d| d.name == s) {
            return Ok(Shape::Decoder(*d));
        }
        let side = |t: &str| t.parse().ok().filter(|n| (1..=MOST).contains(n));
        let sides = s.split_once(['x', 'X']).and_then(|(k, n)| Some(Shape::Matrix { k: side(k)?, n: side(n)? }));
        let names = DECODERS.map(|d| d.name).join(", ");
        sides.ok_or_else(|| format!("expected {names}, or KxN such as 1024x3072 with sides of at most {MOST}"))
    }
}

/// A weight of a model: `n` rows of `k` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub k: usize,
    pub n: usize,
    /// The output head, which reads few rows however long the prompt is.
    pub head: bool,
}

impl Shape {
    /// The weights, as the compiler merges them: Q, K and V are one, gate and up are one.
    pub fn matrices(&self) -> Vec<Matrix> {
        let body = |k, n| Matrix { k, n, head: false };
        match *self {
            Shape::Matrix { k, n } => vec![body(k, n)],
            Shape::Decoder(d) => vec![
                body(d.hidden, (d.heads + 2 * d.kv_heads) * d.head_dim),
                body(d.heads * d.head_dim, d.hidden),
                body(d.hidden, 2 * d.intermediate),
                body(d.intermediate, d.hidden),
                Matrix { k: d.hidden, n: d.vocab, head: true },
            ],
        }
    }

    /// The decoder, for ops that are no matrix products.
    pub fn decoder(&self) -> Option<Decoder> {
        match self {
            Shape::Decoder(d) => Some(*d),
            Shape::Matrix { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_models_or_matrices() {
        assert_eq!("1024x3072".parse(), Ok(Shape::Matrix { k: 1024, n: 3072 }));
        let of: Vec<(usize, usize)> = "qwen3-4b".parse::<Shape>().unwrap().matrices().iter().map(|m| (m.k, m.n)).collect();
        assert_eq!(of, [(2560, 6144), (4096, 2560), (2560, 19456), (9728, 2560), (2560, 151_936)]);
        for bad in ["", "x", "0x8", "8x0", "8", "qwen3", "9999999x8", "-1x8"] {
            assert!(bad.parse::<Shape>().unwrap_err().contains("qwen3-0.6b"), "{bad}");
        }
    }
}
