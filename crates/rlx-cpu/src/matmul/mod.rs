//! Matrix products with weights as they are stored in model files: `y[M,N] = x[M,K] · Wᵀ`, `W` being `[N,K]`.
//!
//! [`Matmul`] says how one weight is held in memory and multiplied, for a weight type, a [`Mode`], an instruction set
//! and a shape. Either the file's bytes are used in place ([`Matmul::is_raw`]) or they are packed once into groups of
//! [`Matmul::group_rows`] interleaved rows. Activations are brought into an [`ActSpec`]'s form once and
//! shared by all weights of equal form.
//!
//! Nothing here starts threads: each thread of a team calls [`ActSpec::prepare`] with its index, waits for the others,
//! and calls [`Matmul::run`] for its own range of row groups.
//!
//! | weights | mode | memory | arithmetic |
//! |---|---|---|---|
//! | Q4_0, Q8_0 | fast | packed | int8, one activation scale per 32 |
//! | affine | fast | packed | int8, one activation scale per group |
//! | Q4_K, Q5_K, Q6_K | fast | packed | int8, one activation scale per 256 |
//! | f32, f16, bf16 | any | file's bytes | f32 |
//! | bf16, many rows, where the processor has dot products of them | fast | file's bytes | activations rounded to bf16 |
//! | all other formats, and exact mode | any | file's bytes | rows dequantised to f32 tiles, f32 |

mod act;
mod affine;
mod codes;
mod dense;
mod layout;
mod pack;
mod pack_group;
mod panel;
mod quant;

pub use act::{ActForm, ActSpec};
use layout::Layout;
pub(crate) use layout::VERSION as LAYOUT_VERSION;
pub use panel::Words;
use rlx_gguf::blocks::BlockFormat;
use std::ops::Range;

use crate::simd::Level;
use crate::tuning::Blocks;

/// How the elements of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of quantised elements along `K`.
    Block(BlockFormat),
}

impl WeightType {
    /// Bytes of a row of `k` elements. `k` is a multiple of the block length.
    pub fn row_bytes(self, k: usize) -> usize {
        match self {
            WeightType::F32 => 4 * k,
            WeightType::F16 | WeightType::BF16 => 2 * k,
            WeightType::Block(f) => k / f.block_len() * f.block_bytes(),
        }
    }

    /// Elements that are stored together: row lengths are a multiple of it.
    pub fn block_len(self) -> usize {
        match self {
            WeightType::Block(f) => f.block_len(),
            _ => 1,
        }
    }
}

/// What may be rounded on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Activations may be quantised to int8 for block-quantised weights, and rounded to bfloat16 for bfloat16 ones.
    Fast,
    /// Weights are dequantised exactly, activations and sums are f32.
    Exact,
}

/// Where results go: element `(m, n)` of the product to `ptr[m * stride + col + n]`.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Row 0 of the destination.
    pub ptr: *mut f32,
    /// Floats from a row to the next.
    pub stride: usize,
    /// Column of the destination that column 0 of the product goes to.
    pub col: usize,
}

/// One weight `[N,K]`: its layout in memory and its kernels.
#[derive(Clone, Debug)]
pub struct Matmul {
    ty: WeightType,
    level: Level,
    layout: Layout,
    /// What products of many rows with the file's bytes multiply.
    words: Words,
    n: usize,
    k: usize,
    blocks: Blocks,
}

impl Matmul {
    /// Chooses layout and kernels for a weight of `n` rows of `k` elements.
    ///
    /// # Panics
    /// When `k` is not a multiple of the type's block length.
    pub fn new(ty: WeightType, mode: Mode, level: Level, n: usize, k: usize) -> Self {
        assert_eq!(k % ty.block_len(), 0, "rows of {k} elements do not divide into blocks of {}", ty.block_len());
        let layout = match (ty, mode) {
            (WeightType::Block(f), Mode::Fast) => Layout::of(f),
            _ => Layout::Raw,
        };
        let words = match (ty, mode) {
            (WeightType::BF16, Mode::Fast) if level.dots_bf16() => Words::Bf16,
            _ => Words::F32,
        };
        Matmul { ty, level, layout, words, n, k, blocks: Blocks::of(level) }
    }

    /// The same product, worked on in other blocks.
    pub fn with_blocks(self, blocks: Blocks) -> Matmul {
        Matmul { blocks, ..self }
    }

    /// Rows of the weight: output columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The stored type.
    pub fn weight_type(&self) -> WeightType {
        self.ty
    }

    /// Whether the file's bytes are used in place, without [`Matmul::pack`].
    pub fn is_raw(&self) -> bool {
        self.layout == Layout::Raw
    }

    /// Rows that are stored and computed together; work is split among threads by groups.
    pub fn group_rows(&self) -> usize {
        if self.is_raw() { dense::ROWS } else { self.level.lanes() }
    }

    /// Number of groups; the last one may be filled up with rows that are never written to the output.
    pub fn n_groups(&self) -> usize {
        self.n.div_ceil(self.group_rows())
    }

    /// Bytes of a group in memory (of a full group where the file's bytes are used).
    pub fn group_bytes(&self) -> usize {
        match self.layout {
            Layout::Raw => self.group_rows() * self.ty.row_bytes(self.k),
            l => l.group_bytes(self.level.lanes(), self.k),
        }
    }

    /// Where the rows of these groups are among the weight's stored bytes.
    pub fn stored_range(&self, groups: Range<usize>) -> Range<usize> {
        let row_bytes = self.ty.row_bytes(self.k);
        groups.start * self.group_rows() * row_bytes..(groups.end * self.group_rows()).min(self.n) * row_bytes
    }

    /// Bytes of the whole weight in memory. Packed weights should start on a 64-byte boundary.
    pub fn bytes(&self) -> usize {
        match self.layout {
            Layout::Raw => self.n * self.ty.row_bytes(self.k),
            _ => self.n_groups() * self.group_bytes(),
        }
    }

    /// The form of activations that [`Matmul::run`] reads.
    pub fn activation(&self) -> ActSpec {
        ActSpec { form: self.layout.act_form(), level: self.level, k: self.k }
    }

    /// The form of `m` rows of activations that [`Matmul::run`] reads fastest: where many rows are multiplied with the
    /// file's bytes, it lays them out itself, for every range of groups anew, unless they are prepared in this form.
    pub fn activation_of(&self, m: usize) -> ActSpec {
        match self.activation() {
            spec if self.is_raw() && m > dense::IN_REGISTERS => {
                ActSpec { form: ActForm::Tiles(self.words, panel::block_rows(self.blocks.act)), ..spec }
            }
            spec => spec,
        }
    }

    /// The groups that thread `ith` of `nth` computes.
    pub fn share(&self, ith: usize, nth: usize) -> Range<usize> {
        let n = self.n_groups();
        n * ith / nth..n * (ith + 1) / nth
    }

    /// Packs the rows of `groups`. `src` is the whole weight as stored in the file; `dst` receives these groups only,
    /// [`Matmul::group_bytes`] each. Threads may pack disjoint ranges at the same time.
    ///
    /// # Panics
    /// When a length does not fit, or the weight [is used in place](Matmul::is_raw).
    pub fn pack(&self, src: &[u8], groups: Range<usize>, dst: &mut [u8]) {
        let (row_bytes, lanes) = (self.ty.row_bytes(self.k), self.level.lanes());
        assert!(!self.is_raw(), "the file's bytes are used in place");
        assert_eq!(src.len(), self.n * row_bytes, "bytes of {:?}[{}, {}]", self.ty, self.n, self.k);
        assert_eq!(dst.len(), groups.len() * self.group_bytes(), "bytes of {} packed groups", groups.len());
        for (group, out) in groups.zip(dst.chunks_exact_mut(self.group_bytes())) {
            let rows = &src[self.stored_range(group..group + 1)];
            let whole = rows.len() == lanes * row_bytes;
            if !(whole && pack_group::pack_whole_group(self.level, self.layout, rows, row_bytes, out)) {
                pack::pack_group(self.layout, rows, row_bytes, lanes, self.level.i8_bias(), out);
            }
        }
    }

    /// Dequantises row `row` of the weight, exactly as from the file. `data` is the whole weight in memory
    /// ([`Matmul::bytes`]), `out` has `k` elements.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn unpack_row(&self, data: &[u8], row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.k, "elements of a row");
        assert!(row < self.n, "row {row} of {}", self.n);
        match self.layout {
            Layout::Raw => {
                let bytes = self.ty.row_bytes(self.k);
                dense::widen(self.ty, &data[row * bytes..(row + 1) * bytes], out);
            }
            layout => {
                let (lanes, bytes) = (self.level.lanes(), self.group_bytes());
                let group = &data[row / lanes * bytes..][..bytes];
                pack::unpack_row(layout, group, row % lanes, lanes, self.level.i8_bias(), out);
            }
        }
    }

    /// Dequantises row `row` of the weight as the file stores it, as [`Matmul::unpack_row`] does of one in memory.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn widen_row(&self, stored: &[u8], row: usize, out: &mut [f32]) {
        Matmul { layout: Layout::Raw, ..*self }.unpack_row(stored, row, out);
    }

    /// Computes the output columns of `groups` for all `m` rows of activations.
    ///
    /// `w`: the whole weight in memory. `x`: the activations, `m` rows of `k`; read where the form is
    /// [`ActForm::F32`]. `act`: what [`ActSpec::prepare`] of [`Matmul::activation`] or of [`Matmul::activation_of`] left;
    /// read for the other forms.
    ///
    /// # Safety
    /// `y` is writable for `m` rows of these columns, and nobody else touches them meanwhile.
    ///
    /// # Panics
    /// When a slice is too short.
    pub unsafe fn run(&self, w: &[u8], x: &[f32], act: &[u8], m: usize, groups: Range<usize>, y: Output) {
        if m == 0 || groups.is_empty() {
            return;
        }
        assert!(groups.end <= self.n_groups(), "group {} of {}", groups.end, self.n_groups());
        assert!(w.len() >= self.bytes(), "{} bytes of weights, not {}", w.len(), self.bytes());
        match self.layout {
            Layout::Raw => {
                assert!(x.len() >= m * self.k, "{} activations, not {m} rows of {}", x.len(), self.k);
                let rows = groups.start * dense::ROWS..self.n.min(groups.end * dense::ROWS);
                let all = panel::Rows { x: x.as_ptr(), m, k: self.k, block: panel::block_rows(self.blocks.act), words: self.words };
                let bytes = self.activation_of(m).bytes(m);
                let tiles = (bytes > 0 && act.len() >= bytes).then(|| act.as_ptr().cast());
                // SAFETY: the lengths are checked above; `y` is the caller's promise.
                unsafe { dense::run(self.level, self.ty, w, all, tiles, rows, y) }
            }
            layout => {
                let job = self.job(layout, w, act, m, y);
                // SAFETY: the lengths are checked; `y` is the caller's promise.
                unsafe { quant::run(self.level, layout, job, m, groups) }
            }
        }
    }

    /// Bytes of working memory of [`Matmul::run_stored`].
    pub fn room_bytes(&self) -> usize {
        if self.is_raw() { 0 } else { (self.blocks.weight / self.group_bytes().max(1)).max(1) * self.group_bytes() }
    }

    /// As [`Matmul::run`], to the last bit, with the weight as the file stores it: groups are packed as they are
    /// multiplied, into `room` of [`Matmul::room_bytes`].
    ///
    /// # Safety
    /// As there.
    ///
    /// # Panics
    /// When a slice is too short, or the weight [is used in place](Matmul::is_raw).
    pub unsafe fn run_stored(&self, stored: &[u8], act: &[u8], m: usize, groups: Range<usize>, y: Output, room: &mut [u8]) {
        assert!(groups.end <= self.n_groups(), "group {} of {}", groups.end, self.n_groups());
        let lanes = self.level.lanes();
        for first in groups.clone().step_by((self.room_bytes() / self.group_bytes()).max(1)) {
            let some = first..(first + self.room_bytes() / self.group_bytes()).min(groups.end);
            let packed = &mut room[..some.len() * self.group_bytes()];
            self.pack(stored, some.clone(), packed);
            // What is packed here is a weight of its own, with its columns further right.
            let part = Matmul { n: self.n.min(some.end * lanes) - first * lanes, ..*self };
            // SAFETY: the caller's promise.
            unsafe { part.run(packed, &[], act, m, 0..some.len(), Output { col: y.col + first * lanes, ..y }) }
        }
    }

    /// A product's operands, lengths checked.
    fn job(&self, layout: Layout, w: &[u8], act: &[u8], m: usize, y: Output) -> quant::Job {
        let spec = self.activation();
        assert!(act.len() >= spec.bytes(m), "{} bytes of prepared activations, not {}", act.len(), spec.bytes(m));
        quant::Job {
            w: w.as_ptr(),
            group_bytes: self.group_bytes(),
            header_bytes: layout.header_bytes(self.level.lanes(), self.k),
            n_blocks: self.k / layout.block_len(),
            n: self.n,
            act: act.as_ptr(),
            y,
            blocks: self.blocks,
        }
    }
}
