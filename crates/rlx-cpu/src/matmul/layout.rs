//! The packed layouts: which bytes a group of interleaved rows consists of.
//!
//! A group holds `R` rows (the lanes of the instruction set), first a header with the f16 scales of all its blocks,
//! then the blocks. Everything below is repeated for each block along `K`; `[a][b]` are nested arrays, and a *word* is
//! the four bytes of one lane, meeting four consecutive `k`. Chunk `c` of a block is its elements `4c..4c+4`.
//!
//! | format | block | header | block body |
//! |---|---|---|---|
//! | Q4_0 | 32 | `d[R]` | `[4][R]` words: chunk `2v` in the low nibbles, `2v+1` in the high |
//! | Q8_0 | 32 | `d[R]` | `[8][R]` words: chunk `c` (plus 128 where the instruction set wants it) |
//! | Q4_K | 256 | `d[R] dmin[R]` | scales, mins: `[4][R][2]` u8 each; `[8][4][R]` words as in Q4_0 |
//! | Q5_K | 256 | `d[R] dmin[R]` | scales, mins as Q4_K; per sub-block of 32: `[R]` words of fifth bits (chunk `c` in bit `c`), then `[4][R]` words as in Q4_0 |
//! | affine | group | | `scale[R] bias[R]`, then per 32 and bits, words `[R]`: 2: chunks 0 to 3, chunks 4 to 7; 3: the same, and upper bits (chunk `c` in bit `c`); 4, 5, 6 as in Q4_0, Q5_K and Q6_K; 8 as in Q8_0, less 128 |
//! | Q6_K | 256 | `d[R]` | scales: `[8][R][2]` i8; per 16: `[R]` words low nibbles of chunks 0, 1; `[R]` of chunks 2, 3; `[R]` of upper bits (chunk `c` in bits `2c`, `2c+1`) |
//!
//! The header is padded to 64 bytes, so groups and blocks of 256 keep the alignment of their vectors. Sizes are those
//! of the file's formats (affine ones exactly), but for expanded 6-bit scales: +2.8 % for Q4_K, +2.3 % for Q5_K, -1.0 + 1.0 % for Q6_K.

use super::act::ActForm;
use rlx_gguf::blocks::{Affine, BlockFormat};

/// The number of these layouts, raised with any change of packed bytes: files of packed weights of another number are
/// not used.
pub(crate) const VERSION: u32 = 2;

/// A packed layout, or the file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Raw,
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    Affine(Affine),
}

impl Layout {
    /// The fast layout of a block format.
    pub fn of(f: BlockFormat) -> Layout {
        match f {
            BlockFormat::Q4_0 => Layout::Q4_0,
            BlockFormat::Q8_0 => Layout::Q8_0,
            BlockFormat::Q4K => Layout::Q4K,
            BlockFormat::Q5K => Layout::Q5K,
            BlockFormat::Q6K => Layout::Q6K,
            BlockFormat::Affine(a) => Layout::Affine(a),
            _ => Layout::Raw,
        }
    }

    /// The block format that a packed layout holds.
    ///
    /// # Panics
    /// For the file's bytes.
    pub fn format(self) -> BlockFormat {
        match self {
            Layout::Raw => panic!("the file's bytes have no packed layout"),
            Layout::Q4_0 => BlockFormat::Q4_0,
            Layout::Q8_0 => BlockFormat::Q8_0,
            Layout::Q4K => BlockFormat::Q4K,
            Layout::Q5K => BlockFormat::Q5K,
            Layout::Q6K => BlockFormat::Q6K,
            Layout::Affine(a) => BlockFormat::Affine(a),
        }
    }

    /// Elements of a block along `K`.
    pub fn block_len(self) -> usize {
        match self {
            Layout::Raw => 1,
            Layout::Q4_0 | Layout::Q8_0 => 32,
            Layout::Q4K | Layout::Q5K | Layout::Q6K => 256,
            Layout::Affine(a) => a.group(),
        }
    }

    /// f16 numbers per row and block in the header.
    pub fn n_halves(self) -> usize {
        match self {
            Layout::Raw | Layout::Affine(_) => 0,
            Layout::Q4_0 | Layout::Q8_0 | Layout::Q6K => 1,
            Layout::Q4K | Layout::Q5K => 2,
        }
    }

    /// Bytes per row and block in the body.
    pub fn body_bytes(self) -> usize {
        match self {
            Layout::Raw => 0,
            Layout::Q4_0 => 16,
            Layout::Q8_0 => 32,
            Layout::Q4K => 16 + 128,
            Layout::Q5K => 16 + 32 + 128,
            Layout::Q6K => 16 + 192,
            Layout::Affine(a) => a.block_bytes(),
        }
    }

    /// Bytes of a group's header.
    pub fn header_bytes(self, lanes: usize, k: usize) -> usize {
        (k / self.block_len() * self.n_halves() * lanes * 2).next_multiple_of(64)
    }

    /// Bytes of a group of `lanes` rows.
    pub fn group_bytes(self, lanes: usize, k: usize) -> usize {
        let body = k / self.block_len() * self.body_bytes() * lanes;
        self.header_bytes(lanes, k) + body.next_multiple_of(64)
    }

    /// The form of activations it is multiplied with.
    pub fn act_form(self) -> ActForm {
        match self {
            Layout::Raw => ActForm::F32,
            Layout::Q4_0 | Layout::Q8_0 => ActForm::Q8Block(32),
            Layout::Affine(a) => ActForm::Q8Block(a.group()),
            Layout::Q4K | Layout::Q5K | Layout::Q6K => ActForm::Q8Super256,
        }
    }
}
