//! Element types, including every block-quantised format as a first-class type.

use rlx_gguf::blocks::BlockFormat;
use std::fmt;
use std::str::FromStr;

/// The type of a tensor's elements.  A block format packs `block_len` consecutive elements of the
/// last dimension into `block_bytes` bytes; all other types have one size per element.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(missing_docs)] // the variants are their own documentation
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Block(BlockFormat),
}

use DType::*;

const PLAIN: [(DType, &str, usize); 15] = [
    (F64, "f64", 8),
    (F32, "f32", 4),
    (F16, "f16", 2),
    (BF16, "bf16", 2),
    (F8E4M3, "f8e4m3", 1),
    (F8E5M2, "f8e5m2", 1),
    (I64, "i64", 8),
    (I32, "i32", 4),
    (I16, "i16", 2),
    (I8, "i8", 1),
    (U64, "u64", 8),
    (U32, "u32", 4),
    (U16, "u16", 2),
    (U8, "u8", 1),
    (Bool, "bool", 1),
];

impl DType {
    /// Lower-case name, as the text form spells it: `f32`, `bf16`, `q4_k`, …
    pub fn name(self) -> String {
        match self {
            Block(b) => b.name().to_ascii_lowercase(),
            plain => PLAIN.iter().find(|p| p.0 == plain).map(|p| p.1).unwrap_or_default().to_owned(),
        }
    }

    /// Bytes of `n` consecutive elements of one row; `None` when a block format does not divide
    /// `n` or the size does not fit.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        match self {
            Block(b) => b.row_bytes(n),
            plain => n.checked_mul(plain.size()?),
        }
    }

    /// Bytes per element; `None` for block formats.
    pub fn size(self) -> Option<usize> {
        PLAIN.iter().find(|p| p.0 == self).map(|p| p.2)
    }

    /// Real-valued types: floating point and block formats.
    pub fn is_float(self) -> bool {
        matches!(self, F64 | F32 | F16 | BF16 | F8E4M3 | F8E5M2 | Block(_))
    }

    /// Signed and unsigned integers (not `bool`).
    pub fn is_int(self) -> bool {
        !self.is_float() && self != Bool
    }

    /// True for a block-quantised format.
    pub fn is_block(self) -> bool {
        matches!(self, Block(_))
    }

    /// `x` as this type would store it, back in f64.  Block formats and f64 return `x` itself.
    pub fn round(self, x: f64) -> f64 {
        match self {
            F32 => f64::from(x as f32),
            F16 => half::f16::from_f64(x).to_f64(),
            BF16 => half::bf16::from_f64(x).to_f64(),
            F8E4M3 => round_minifloat(x, 4, 3, 448.0),
            F8E5M2 => round_minifloat(x, 5, 2, 57344.0),
            I64 => x as i64 as f64,
            I32 => f64::from(x as i32),
            I16 => f64::from(x as i16),
            I8 => f64::from(x as i8),
            U64 => x as u64 as f64,
            U32 => f64::from(x as u32),
            U16 => f64::from(x as u16),
            U8 => f64::from(x as u8),
            Bool => f64::from(u8::from(x != 0.0)),
            F64 | Block(_) => x,
        }
    }
}

/// Round to nearest even in a small float with `e` exponent and `m` mantissa bits, saturating at
/// `max` (the OCP 8-bit formats; infinities and NaN pass through).
fn round_minifloat(x: f64, e: i32, m: i32, max: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let least = 2 - (1 << (e - 1)); // exponent of the smallest normal number
    let exponent = (x.abs().log2().floor() as i32).max(least);
    let ulp = f64::powi(2.0, exponent - m);
    let r = (x / ulp).round_ties_even() * ulp;
    r.clamp(-max, max)
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(p) = PLAIN.iter().find(|p| p.1 == s) {
            return Ok(p.0);
        }
        BlockFormat::from_name(s).map(Block).ok_or_else(|| format!("unknown element type `{s}` (for example f32, bf16, u32, q4_k)"))
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name())
    }
}

impl<'de> serde::Deserialize<'de> for DType {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for (d, _, _) in PLAIN {
            assert_eq!(d.name().parse::<DType>().unwrap(), d);
        }
        for b in BlockFormat::all() {
            assert_eq!(Block(b).name().parse::<DType>().unwrap(), Block(b));
        }
        assert!("f33".parse::<DType>().is_err());
    }

    #[test]
    fn minifloats_round_to_even_and_saturate() {
        assert_eq!(F8E4M3.round(500.0), 448.0);
        assert_eq!(F8E4M3.round(17.0), 16.0); // between 16 and 18, ties to even
        assert_eq!(F8E4M3.round(0.001_953_125), 0.001_953_125); // 2^-9, the smallest subnormal
        assert_eq!(F8E5M2.round(-3.3), -3.5);
        assert_eq!(BF16.round(1.003), 1.0);
    }
}
