//! Matrix products with weights, over several copies of the weight so that one call does not find the last one's in a
//! cache.

use super::shape::Matrix;
use super::{Peak, Row, Work, timing};
use crate::limits;
use anyhow::{Context, bail};
use rlx_cli::Usage;
use rlx_cpu::Level;
use rlx_cpu::matmul::{ActForm, Matmul, Mode, Output, WeightType, Words};
use rlx_cpu::memory::Buffer;
use rlx_cpu::team::{Barrier, Team, Worker};
use rlx_cpu::tuning::Blocks;
use rlx_gguf::blocks::BlockFormat;
use rlx_ir::DType;
use rlx_ir::sample::{Gen, Rng};

/// Formats where none is named.
const USUAL: [&str; 7] = ["bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0"];
const FLOATS: [Format; 3] = [
    Format { ty: WeightType::F32, dtype: DType::F32 },
    Format { ty: WeightType::F16, dtype: DType::F16 },
    Format { ty: WeightType::BF16, dtype: DType::BF16 },
];

/// A weight format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    ty: WeightType,
    dtype: DType,
}

impl Format {
    fn block(f: BlockFormat) -> Format {
        Format { ty: WeightType::Block(f), dtype: DType::Block(f) }
    }

    /// `q4_k` and the like.
    pub fn name(&self) -> String {
        self.dtype.to_string()
    }

    /// What row lengths are a multiple of.
    pub fn block_len(&self) -> usize {
        self.ty.block_len()
    }
}

/// The formats of `--format`.
///
/// # Errors
/// When there is none of a name.
pub fn formats(names: &[String]) -> anyhow::Result<Vec<Format>> {
    let find = |name: &str| {
        let float = FLOATS.into_iter().find(|f| f.name() == name);
        float.or_else(|| BlockFormat::from_name(name).map(Format::block))
    };
    let mut all = vec![];
    for name in names.iter().map(String::as_str) {
        match name {
            "all" => all.extend(FLOATS.into_iter().chain(BlockFormat::all().map(Format::block))),
            _ => all.push(find(name).ok_or_else(|| {
                let ggml = BlockFormat::GGML.iter().map(|f| Format::block(*f));
                let known: Vec<String> = FLOATS.into_iter().chain(ggml).map(|f| f.name()).collect();
                Usage(format!("--format {name}: expected all, {}, or a format such as affine4_g64_bf16", known.join(", ")))
            })?),
        }
    }
    if names.is_empty() {
        all.extend(USUAL.into_iter().filter_map(find));
    }
    Ok(all)
}

/// What a product is measured with.
pub struct Setting<'a> {
    pub level: Level,
    pub mode: Mode,
    pub rows: &'a [usize],
    pub threads: &'a [usize],
    pub rounds: u32,
}

/// Weights are held in so many copies that together they have at least this many bytes, and four times the last cache.
const LEAST: usize = 256 << 20;
/// Most copies.
const COPIES: usize = 64;

/// Measures one weight, for each number of rows and threads.
///
/// # Errors
/// When memory does not suffice, or threads cannot be started.
pub fn measure(format: Format, matrix: Matrix, with: &Setting<'_>, out: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
    let Matrix { k, n, .. } = matrix;
    let bench = Bench::new(format, matrix, with.level, with.mode, with.threads.iter().copied().max().unwrap_or(1))?;
    let mm = &bench.mm;
    for &threads in with.threads {
        for &m in with.rows {
            let seconds = bench.seconds(threads, m, None, with.rounds)?;
            let peak = match mm.activation_of(m).form() {
                ActForm::Tiles(Words::Bf16, _) => Peak::Bf16,
                ActForm::Tiles(Words::F32, _) | ActForm::F32 => Peak::F32,
                _ => Peak::Int8,
            };
            let work = Work { bytes: mm.bytes() as f64, ops: 2.0 * (m * n) as f64 * k as f64, peak: Some(peak), memory: true };
            out(Row { name: format!("linear {} {k}x{n} m{m} t{threads}", format.name()), threads, seconds, work });
        }
    }
    Ok(())
}

/// A weight in memory.
pub struct Bench {
    mm: Matmul,
    weights: Vec<Buffer>,
}

impl Bench {
    /// Draws a weight, and packs it with so many threads.
    ///
    /// # Errors
    /// When memory does not suffice, or threads cannot be started.
    ///
    /// # Panics
    /// When rows do not divide into blocks of the format.
    pub fn new(format: Format, m: Matrix, level: Level, mode: Mode, threads: usize) -> anyhow::Result<Bench> {
        let mm = Matmul::new(format.ty, mode, level, m.n, m.k);
        let weights = copies(format, &mm, &mut start(threads)?)?;
        Ok(Bench { mm, weights })
    }

    /// Seconds of a product with `m` rows, in these blocks or the processor's, of each round.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn seconds(&self, threads: usize, m: usize, blocks: Option<Blocks>, rounds: u32) -> anyhow::Result<Vec<f64>> {
        let mut team = start(threads)?;
        let mm = blocks.map_or_else(|| self.mm.clone(), |b| self.mm.clone().with_blocks(b));
        let x: Vec<f32> = (0..m * mm.k()).map(|i| (i * 7919 % 2003) as f32 * 1e-3 - 1.0).collect();
        let (act, y) = (Buffer::zeroed(mm.activation_of(m).bytes(m)), Buffer::zeroed(4 * m * mm.n()));
        let product = Product { mm: &mm, x: &x, m, act, y };
        let mut next = 0;
        timing::usual(rounds, |calls| {
            let first = next;
            next += calls;
            let weight = |i: usize| self.weights[i % self.weights.len()].bytes();
            team.run(&|w, b| (first..first + calls).for_each(|i| product.call(weight(i), w, b)));
            Ok(())
        })
    }
}

fn start(threads: usize) -> anyhow::Result<Team> {
    Team::new(threads).with_context(|| format!("cannot start {threads} threads"))
}

/// The weight in memory of its own, as often as it takes.
fn copies(format: Format, mm: &Matmul, team: &mut Team) -> anyhow::Result<Vec<Buffer>> {
    let row_bytes = format.ty.row_bytes(mm.k());
    let wanted = LEAST.max(4 * limits::last_cache().unwrap_or(0) as usize);
    let count = wanted.div_ceil(mm.bytes().max(1)).clamp(1, COPIES);
    let need = (count * mm.bytes() + mm.n() * row_bytes) as u64;
    if let Some(free) = crate::machine::available_memory().filter(|free| need > *free) {
        bail!("{} {}x{}: {need} bytes of weights, but only {free} are free", format.name(), mm.k(), mm.n());
    }
    // A few rows with values of usual sizes, again and again: time depends on the sizes alone.
    let some = mm.n().min(16);
    let generator = if matches!(format.dtype, DType::Block(_)) { Gen::Bytes } else { Gen::Normal(0.02) };
    let drawn = generator.draw_stored(&mut Rng(7), format.dtype, &[some, mm.k()]).context("weights cannot be drawn")?.1;
    let stored: Vec<u8> = drawn.iter().copied().cycle().take(mm.n() * row_bytes).collect();
    let copies = (0..count).map(|_| Buffer::zeroed(mm.bytes())).collect::<Vec<_>>();
    team.run(&|w, _| {
        let groups = mm.share(w.ith, w.nth);
        let range =
            if mm.is_raw() { mm.stored_range(groups.clone()) } else { groups.start * mm.group_bytes()..groups.end * mm.group_bytes() };
        for copy in &copies {
            // SAFETY: the shares are disjoint parts of the buffer, which nobody else uses meanwhile.
            let part = unsafe { std::slice::from_raw_parts_mut(copy.ptr().add(range.start), range.len()) };
            match mm.is_raw() {
                true => part.copy_from_slice(&stored[range.clone()]),
                false => mm.pack(&stored, groups.clone(), part),
            }
        }
    });
    Ok(copies)
}

struct Product<'a> {
    mm: &'a Matmul,
    x: &'a [f32],
    m: usize,
    act: Buffer,
    y: Buffer,
}

impl Product<'_> {
    /// One product, as a program's step computes it: all threads prepare activations, meet, multiply, and meet.
    fn call(&self, weight: &[u8], w: Worker, barrier: &Barrier) {
        let spec = self.mm.activation_of(self.m);
        if spec.bytes(self.m) > 0 {
            // SAFETY: the buffer has the size; the threads write their own shares.
            unsafe { spec.prepare(self.x, self.m, self.act.ptr(), w.ith, w.nth) };
            barrier.wait();
        }
        let out = Output { ptr: self.y.ptr().cast(), stride: self.mm.n(), col: 0 };
        // SAFETY: the result has `m` rows of `n`; the threads' groups are disjoint, and nobody reads meanwhile.
        unsafe { self.mm.run(weight, self.x, self.act.bytes(), self.m, self.mm.share(w.ith, w.nth), out) };
        barrier.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_by_name_and_others_refused() {
        let found = formats(&["q4_k".into(), "bf16".into(), "affine4_g64_bf16".into()]).unwrap();
        assert_eq!(found.iter().map(|f| f.name()).collect::<Vec<_>>(), ["q4_k", "bf16", "affine4_g64_bf16"]);
        assert_eq!(formats(&[]).unwrap().len(), USUAL.len());
        assert!(formats(&["all".into()]).unwrap().len() > 20);
        assert!(formats(&["q4".into()]).unwrap_err().to_string().contains("q4_k"));
    }

    #[test]
    fn a_product_of_copies_is_the_weights_own() {
        for name in ["q8_0", "bf16"] {
            let format = formats(&[name.into()]).unwrap()[0];
            let mm = Matmul::new(format.ty, Mode::Fast, Level::detect(), 19, 64);
            let mut team = Team::new(2).unwrap();
            let weights = copies(format, &mm, &mut team).unwrap();
            assert!(weights.len() > 1 && weights.iter().all(|w| w.bytes() == weights[0].bytes()));
            let x = vec![1.0; 2 * 64];
            let p = Product { mm: &mm, x: &x, m: 2, act: Buffer::zeroed(mm.activation_of(2).bytes(2)), y: Buffer::zeroed(4 * 2 * 19) };
            team.run(&|w, b| p.call(weights[1].bytes(), w, b));
            let mut row = vec![0.0; 64];
            for n in 0..19 {
                mm.unpack_row(weights[0].bytes(), n, &mut row);
                let want: f32 = row.iter().sum();
                for m in 0..2 {
                    let at = 4 * (m * 19 + n);
                    let got = f32::from_ne_bytes(p.y.bytes()[at..at + 4].try_into().unwrap());
                    let most = row.iter().map(|v| v.abs()).sum::<f32>() * 0.01;
                    assert!((got - want).abs() <= most, "{name} row {m} column {n}: {got}, not {want}");
                }
            }
        }
    }
}
