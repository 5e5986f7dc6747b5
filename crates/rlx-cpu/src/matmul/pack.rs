//! Packing rows of a file's blocks into a group of a [`Layout`], and taking one row out again.
//!
//! Both work on words of four codes, and are exact inverses: a row is taken out by rebuilding the file's blocks.

use super::affine;
use super::layout::Layout;

const LOW: u32 = 0x0f0f_0f0f;

/// Packs up to `lanes` rows (`rows.len() / row_bytes`); the missing ones become zeros.
pub(super) fn pack_group(l: Layout, rows: &[u8], row_bytes: usize, lanes: usize, i8_bias: u8, dst: &mut [u8]) {
    let (block, n_rows) = (l.format().block_bytes(), rows.len() / row_bytes);
    let n_blocks = row_bytes / block;
    let (header, body) = dst.split_at_mut(l.header_bytes(lanes, n_blocks * l.block_len()));
    if n_rows < lanes {
        body.fill(0);
    }
    header.fill(0);
    let body_len = l.body_bytes() * lanes;
    let bias = u32::from_ne_bytes([i8_bias; 4]);
    for b in 0..n_blocks {
        let out = &mut body[b * body_len..][..body_len];
        for r in 0..n_rows {
            let raw = &rows[r * row_bytes + b * block..][..block];
            let mut to = Lane { bytes: &mut *out, lanes, row: r };
            let halves = match l {
                Layout::Q4_0 => pack_q4_0(raw, &mut to),
                Layout::Q8_0 => pack_q8_0(raw, bias, &mut to),
                Layout::Q4K => pack_q4k(raw, &mut to),
                Layout::Q5K => pack_q5k(raw, &mut to),
                Layout::Q6K => pack_q6k(raw, &mut to),
                Layout::Affine(a) => {
                    affine::pack(a, raw, bias, &mut to);
                    [[0; 2]; 2]
                }
                Layout::Raw => unreachable!("the file's bytes are not packed"),
            };
            for (i, h) in halves.iter().take(l.n_halves()).enumerate() {
                let at = 2 * ((b * l.n_halves() + i) * lanes + r);
                header[at..at + 2].copy_from_slice(h);
            }
        }
    }
}

/// Dequantises lane `row` of a group into `out` (`k` elements).
pub(super) fn unpack_row(l: Layout, group: &[u8], row: usize, lanes: usize, i8_bias: u8, out: &mut [f32]) {
    let header_bytes = l.header_bytes(lanes, out.len());
    let (header, body) = group.split_at(header_bytes);
    let body_len = l.body_bytes() * lanes;
    let bias = u32::from_ne_bytes([i8_bias; 4]);
    let format = l.format();
    let mut raw = [0u8; 256];
    let raw = &mut raw[..format.block_bytes()];
    for (b, out) in out.chunks_exact_mut(l.block_len()).enumerate() {
        let from = View { bytes: &body[b * body_len..][..body_len], lanes, row };
        let half = |i: usize| {
            let at = 2 * ((b * l.n_halves() + i) * lanes + row);
            [header[at], header[at + 1]]
        };
        match l {
            Layout::Q4_0 => unpack_q4_0(from, half(0), raw),
            Layout::Q8_0 => unpack_q8_0(from, half(0), bias, raw),
            Layout::Q4K => unpack_q4k(from, [half(0), half(1)], raw),
            Layout::Q5K => unpack_q5k(from, [half(0), half(1)], raw),
            Layout::Q6K => unpack_q6k(from, half(0), raw),
            Layout::Affine(a) => affine::unpack(a, from, bias, raw),
            Layout::Raw => unreachable!("the file's bytes are not packed"),
        }
        format.dequantize(raw, out).expect("one block on both sides");
    }
}

/// One row's place in a block's body.
pub(super) struct Lane<'a> {
    bytes: &'a mut [u8],
    lanes: usize,
    row: usize,
}

impl Lane<'_> {
    /// Writes word `i` of the row, counting words from byte `base * lanes` of the body.
    #[inline(always)]
    pub fn word(&mut self, base: usize, i: usize, value: u32) {
        let at = base * self.lanes + 4 * (i * self.lanes + self.row);
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes number `i` of the row from the start of the body, where there are only numbers of this size.
    pub fn number(&mut self, i: usize, value: &[u8]) {
        let at = value.len() * (i * self.lanes + self.row);
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// Writes scale `i` of the row into pairs from byte `base * lanes`.
    #[inline(always)]
    fn scale(&mut self, base: usize, i: usize, value: u8) {
        self.bytes[base * self.lanes + 2 * (i / 2 * self.lanes + self.row) + i % 2] = value;
    }
}

/// One row's place in a block's body, to be read.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
    lanes: usize,
    row: usize,
}

impl View<'_> {
    pub fn word(self, base: usize, i: usize) -> u32 {
        word(self.bytes, base * self.lanes + 4 * (i * self.lanes + self.row))
    }

    pub fn number(self, i: usize, value: &mut [u8]) {
        let at = value.len() * (i * self.lanes + self.row);
        value.copy_from_slice(&self.bytes[at..at + value.len()]);
    }

    fn scale(self, base: usize, i: usize) -> u8 {
        self.bytes[base * self.lanes + 2 * (i / 2 * self.lanes + self.row) + i % 2]
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Low nibbles of `a` and `b` into one word.
#[inline(always)]
fn lows(a: u32, b: u32) -> u32 {
    (a & LOW) | ((b & LOW) << 4)
}

/// High nibbles of `a` and `b` into one word.
#[inline(always)]
fn highs(a: u32, b: u32) -> u32 {
    ((a >> 4) & LOW) | (b & !LOW)
}

fn pack_q4_0(raw: &[u8], to: &mut Lane<'_>) -> [[u8; 2]; 2] {
    for v in 0..2 {
        let (a, b) = (word(raw, 2 + 8 * v), word(raw, 6 + 8 * v));
        to.word(0, v, lows(a, b));
        to.word(0, 2 + v, highs(a, b));
    }
    [[raw[0], raw[1]], [0; 2]]
}

fn unpack_q4_0(from: View<'_>, d: [u8; 2], raw: &mut [u8]) {
    raw[..2].copy_from_slice(&d);
    for v in 0..2 {
        let (a, b) = (from.word(0, v), from.word(0, 2 + v));
        put(raw, 2 + 8 * v, lows(a, b));
        put(raw, 6 + 8 * v, highs(a, b));
    }
}

fn pack_q8_0(raw: &[u8], bias: u32, to: &mut Lane<'_>) -> [[u8; 2]; 2] {
    for c in 0..8 {
        to.word(0, c, word(raw, 2 + 4 * c) ^ bias);
    }
    [[raw[0], raw[1]], [0; 2]]
}

fn unpack_q8_0(from: View<'_>, d: [u8; 2], bias: u32, raw: &mut [u8]) {
    raw[..2].copy_from_slice(&d);
    for c in 0..8 {
        put(raw, 2 + 4 * c, from.word(0, c) ^ bias);
    }
}

/// Writes the 6-bit scales and mins of row `row` of a Q4_K or Q5_K block, 12 bytes in the file, into a packed block.
pub(super) fn pack_row_scales(q: &[u8], block: &mut [u8], lanes: usize, row: usize) {
    pack_scales(q, &mut Lane { bytes: block, lanes, row });
}

/// Writes the 6-bit scales and mins of a K-quant as bytes.
fn pack_scales(q: &[u8], to: &mut Lane<'_>) {
    for j in 0..4 {
        to.scale(0, j, q[j] & 63);
        to.scale(8, j, q[j + 4] & 63);
        to.scale(0, j + 4, (q[j + 8] & 15) | ((q[j] >> 6) << 4));
        to.scale(8, j + 4, (q[j + 8] >> 4) | ((q[j + 4] >> 6) << 4));
    }
}

fn unpack_scales(from: View<'_>, q: &mut [u8]) {
    for j in 0..4 {
        let (s, m) = (from.scale(0, j + 4), from.scale(8, j + 4));
        q[j] = from.scale(0, j) | ((s >> 4) << 6);
        q[j + 4] = from.scale(8, j) | ((m >> 4) << 6);
        q[j + 8] = (s & 15) | ((m & 15) << 4);
    }
}

fn pack_q4k(raw: &[u8], to: &mut Lane<'_>) -> [[u8; 2]; 2] {
    pack_scales(&raw[4..16], to);
    for j in 0..4 {
        for v in 0..4 {
            let at = 16 + 32 * j + 8 * v;
            let (a, b) = (word(raw, at), word(raw, at + 4));
            to.word(16, 8 * j + v, lows(a, b));
            to.word(16, 8 * j + 4 + v, highs(a, b));
        }
    }
    [[raw[0], raw[1]], [raw[2], raw[3]]]
}

fn unpack_q4k(from: View<'_>, d: [[u8; 2]; 2], raw: &mut [u8]) {
    raw[..2].copy_from_slice(&d[0]);
    raw[2..4].copy_from_slice(&d[1]);
    unpack_scales(from, &mut raw[4..16]);
    for j in 0..4 {
        for v in 0..4 {
            let (a, b) = (from.word(16, 8 * j + v), from.word(16, 8 * j + 4 + v));
            let at = 16 + 32 * j + 8 * v;
            put(raw, at, lows(a, b));
            put(raw, at + 4, highs(a, b));
        }
    }
}

/// Word `i` of bits `i` of eight words: the transpose of the 8×8 bits at each byte position, its own inverse.
#[inline(always)]
fn transpose_bits(words: [u32; 8]) -> [u32; 8] {
    std::array::from_fn(|s| (0..8).fold(0, |h, c| h | (((words[c] >> s) & 0x0101_0101) << c)))
}

fn pack_q5k(raw: &[u8], to: &mut Lane<'_>) -> [[u8; 2]; 2] {
    pack_scales(&raw[4..16], to);
    let fifth = transpose_bits(std::array::from_fn(|c| word(raw, 16 + 4 * c)));
    for j in 0..4 {
        to.word(16, 10 * j, fifth[2 * j]);
        to.word(16, 10 * j + 5, fifth[2 * j + 1]);
        for v in 0..4 {
            let at = 48 + 32 * j + 8 * v;
            let (a, b) = (word(raw, at), word(raw, at + 4));
            to.word(16, 10 * j + 1 + v, lows(a, b));
            to.word(16, 10 * j + 6 + v, highs(a, b));
        }
    }
    [[raw[0], raw[1]], [raw[2], raw[3]]]
}

fn unpack_q5k(from: View<'_>, d: [[u8; 2]; 2], raw: &mut [u8]) {
    raw[..2].copy_from_slice(&d[0]);
    raw[2..4].copy_from_slice(&d[1]);
    unpack_scales(from, &mut raw[4..16]);
    let fifth = transpose_bits(std::array::from_fn(|s| from.word(16, 5 * s)));
    for (c, bits) in fifth.into_iter().enumerate() {
        put(raw, 16 + 4 * c, bits);
    }
    for j in 0..4 {
        for v in 0..4 {
            let (a, b) = (from.word(16, 10 * j + 1 + v), from.word(16, 10 * j + 6 + v));
            let at = 48 + 32 * j + 8 * v;
            put(raw, at, lows(a, b));
            put(raw, at + 4, highs(a, b));
        }
    }
}

/// Byte offsets of a Q6_K block's fields.
const Q6K_HIGH: usize = 128;
const Q6K_SCALES: usize = 192;
const Q6K_D: usize = 208;

fn pack_q6k(raw: &[u8], to: &mut Lane<'_>) -> [[u8; 2]; 2] {
    for i in 0..16 {
        to.scale(0, i, raw[Q6K_SCALES + i]);
    }
    for half in 0..2 {
        for part in 0..2 {
            // Elements l and l + 64 share the bytes of `a`, l + 32 and l + 96 those of `b`.
            let a: [u32; 4] = std::array::from_fn(|i| word(raw, 64 * half + 16 * part + 4 * i));
            let b: [u32; 4] = std::array::from_fn(|i| word(raw, 64 * half + 32 + 16 * part + 4 * i));
            let h: [u32; 4] = std::array::from_fn(|i| word(raw, Q6K_HIGH + 32 * half + 16 * part + 4 * i));
            let low = [
                [lows(a[0], a[1]), lows(a[2], a[3])],
                [lows(b[0], b[1]), lows(b[2], b[3])],
                [highs(a[0], a[1]), highs(a[2], a[3])],
                [highs(b[0], b[1]), highs(b[2], b[3])],
            ];
            for q in 0..4 {
                let unit = 3 * (8 * half + 2 * q + part);
                to.word(16, unit, low[q][0]);
                to.word(16, unit + 1, low[q][1]);
                let high = (0..4).fold(0, |w, i| w | (((h[i] >> (2 * q)) & 0x0303_0303) << (2 * i)));
                to.word(16, unit + 2, high);
            }
        }
    }
    [[raw[Q6K_D], raw[Q6K_D + 1]], [0; 2]]
}

fn unpack_q6k(from: View<'_>, d: [u8; 2], raw: &mut [u8]) {
    raw[Q6K_D..].copy_from_slice(&d);
    for i in 0..16 {
        raw[Q6K_SCALES + i] = from.scale(0, i);
    }
    for half in 0..2 {
        for part in 0..2 {
            let unit = |q: usize, i: usize| from.word(16, 3 * (8 * half + 2 * q + part) + i);
            for i in 0..2 {
                let (at, p) = (64 * half + 16 * part + 8 * i, [0, 1, 2, 3].map(|q| unit(q, i)));
                put(raw, at, lows(p[0], p[2]));
                put(raw, at + 4, highs(p[0], p[2]));
                put(raw, at + 32, lows(p[1], p[3]));
                put(raw, at + 36, highs(p[1], p[3]));
            }
            for i in 0..4 {
                let bits = (0..4).fold(0, |w, q| w | (((unit(q, 2) >> (2 * i)) & 0x0303_0303) << (2 * q)));
                put(raw, Q6K_HIGH + 32 * half + 16 * part + 4 * i, bits);
            }
        }
    }
}
