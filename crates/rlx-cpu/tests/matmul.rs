//! Products against f64 at every instruction set of this machine, over odd sizes.

mod levels;

use half::{bf16, f16};
use levels::levels;
use rlx_cpu::matmul::{ActForm, ActSpec, Matmul, Mode, Output, WeightType, Words};
use rlx_cpu::memory::Buffer;
use rlx_cpu::simd::Level;
use rlx_gguf::blocks::{Affine, BlockFormat, Fp8, ScaleType};

/// A deterministic stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    fn uniform(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / (1 << 24) as f32
    }
    fn normal(&mut self) -> f32 {
        let r = (-2.0 * (self.uniform() + 1e-7).ln()).sqrt();
        r * (std::f32::consts::TAU * self.uniform()).cos()
    }
    fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

const GGML: [BlockFormat; 5] = [BlockFormat::Q4_0, BlockFormat::Q8_0, BlockFormat::Q4K, BlockFormat::Q5K, BlockFormat::Q6K];

/// Formats with packed layouts: of the affine ones every number of bits with every group, and every type of scale.
fn fast() -> Vec<BlockFormat> {
    let affine = Affine::all().filter(|a| a.scale() == ScaleType::ALL[(a.bits() + a.group().ilog2() as usize) % 3]);
    GGML.into_iter().chain(affine.map(BlockFormat::Affine)).collect()
}

/// Elements that share a scale when activations are quantised, or `None`.
fn activation_block(form: ActForm) -> Option<usize> {
    match form {
        ActForm::F32 | ActForm::Tiles(..) => None,
        ActForm::Q8Block(len) => Some(len),
        ActForm::Q8Super256 => Some(256),
    }
}

/// A weight as in a file, and its values.
struct Weight {
    ty: WeightType,
    n: usize,
    k: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn weight(ty: WeightType, n: usize, k: usize, r: &mut Numbers) -> Weight {
    let values = r.normals(n * k);
    let (bytes, values): (Vec<u8>, Vec<f32>) = match ty {
        WeightType::F32 => (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values),
        WeightType::F16 => {
            let h: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            (h.iter().flat_map(|v| v.to_le_bytes()).collect(), h.iter().map(|v| v.to_f32()).collect())
        }
        WeightType::BF16 => {
            let h: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            (h.iter().flat_map(|v| v.to_le_bytes()).collect(), h.iter().map(|v| v.to_f32()).collect())
        }
        WeightType::Block(f) => {
            let mut bytes = vec![0; n * ty.row_bytes(k)];
            f.quantize(&values, &mut bytes).expect("whole blocks");
            let mut values = values;
            f.dequantize(&bytes, &mut values).expect("whole blocks");
            (bytes, values)
        }
    };
    Weight { ty, n, k, bytes, values }
}

impl Weight {
    /// Runs the product as two threads would, and returns `[m, n]`.
    fn product(&self, mode: Mode, level: Level, x: &[f32], m: usize) -> Vec<f32> {
        let mm = Matmul::new(self.ty, mode, level, self.n, self.k);
        let got = self.product_of(&mm, mm.activation_of(m), x, m);
        if mm.activation_of(m) != mm.activation() {
            let other = self.product_of(&mm, mm.activation(), x, m);
            assert!(got.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits()), "{:?} {level}: forms of activations differ", self.ty);
        }
        got
    }

    fn product_of(&self, mm: &Matmul, spec: ActSpec, x: &[f32], m: usize) -> Vec<f32> {
        let data = self.memory(mm);
        let mut act = Buffer::zeroed(spec.bytes(m));
        act.bytes_mut().fill(0xaa);
        let (stride, col) = (self.n + 3, 2);
        let mut y = vec![f32::NAN; m * stride];
        for ith in 0..2 {
            // SAFETY: `act` has the specification's size.
            unsafe { spec.prepare(x, m, act.ptr(), ith, 2) };
        }
        for ith in 0..2 {
            let out = Output { ptr: y.as_mut_ptr(), stride, col };
            // SAFETY: `y` holds `m` rows of `col + n` elements.
            unsafe { mm.run(&data, x, act.bytes(), m, mm.share(ith, 2), out) };
        }
        for row in y.chunks_exact(stride) {
            let outside = [row[0], row[1], row[stride - 1]];
            assert!(outside.iter().all(|v| v.is_nan()), "columns outside the product are written");
        }
        y.chunks_exact(stride).flat_map(|row| row[col..col + self.n].to_vec()).collect()
    }

    /// The weight in memory, packed in two shares where it is packed.
    fn memory(&self, mm: &Matmul) -> Vec<u8> {
        if mm.is_raw() {
            return self.bytes.clone();
        }
        let mut data = vec![0xaa; mm.bytes()];
        let (first, second) = data.split_at_mut(mm.share(0, 2).len() * mm.group_bytes());
        mm.pack(&self.bytes, mm.share(0, 2), first);
        mm.pack(&self.bytes, mm.share(1, 2), second);
        data
    }

    /// `(Σ w·x, Σ |w·x|)` for each element of the product, in f64, with each activation passed through `see`.
    fn reference(&self, x: &[f32], m: usize) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for x in x.chunks_exact(self.k).take(m) {
            for w in self.values.chunks_exact(self.k) {
                let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                out.push(terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs())));
            }
        }
        out
    }
}

fn check(what: &str, got: &[f32], want: &[(f64, f64)], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, (w, size))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs() / (size + 1e-30);
        assert!(error <= tolerance, "{what}: element {i} is {g}, not {w}: {error:e} of the terms");
    }
}

/// What the activations become when they are quantised in blocks of `len`.
fn quantised(x: &[f32], len: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for block in x.chunks(len) {
        let d = block.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
        out.extend(block.iter().map(|v| if d > 0.0 { (v * (1.0 / d)).round_ties_even() * d } else { 0.0 }));
    }
    out
}

fn sizes(block: usize) -> Vec<(usize, usize, usize)> {
    let mut all: Vec<_> = (1..18).map(|m| (m, 1 + (m * 29) % 70, block * (1 + m % 3))).collect();
    all.extend((1..70).step_by(3).map(|n| (1 + n % 5, n, block * (1 + n % 2))));
    all.push((37, 33, block * 1024 / block.min(1024)));
    all
}

#[test]
fn exact_products_are_f32_products() {
    let mut types = vec![WeightType::F32, WeightType::F16, WeightType::BF16];
    types.extend(GGML.map(WeightType::Block));
    let affine = Affine::all().filter(|a| a.group() == 64 && a.scale() == ScaleType::BF16);
    types.extend(affine.map(BlockFormat::Affine).chain(Fp8::all().map(BlockFormat::Fp8)).map(WeightType::Block));
    types.extend([BlockFormat::Q4_1, BlockFormat::Q5_0, BlockFormat::Q2K, BlockFormat::Q3K].map(WeightType::Block));
    let mut r = Numbers(7);
    for ty in types {
        let mut sizes = sizes(ty.block_len().max(32));
        if ty.block_len() == 1 {
            sizes.extend([(1, 5, 1), (3, 9, 7), (5, 4, 13), (4, 6, 1031), (2, 7, 33), (26, 10, 2049)]);
        }
        for (m, n, k) in sizes {
            let (w, x) = (weight(ty, n, k, &mut r), r.normals(m * k));
            let want = w.reference(&x, m);
            for level in levels() {
                let got = w.product(Mode::Exact, level, &x, m);
                check(&format!("{ty:?} {level} {m}x{n}x{k}"), &got, &want, 2e-6);
            }
        }
    }
}

#[test]
fn fast_products_round_nothing_but_the_activations() {
    let mut r = Numbers(11);
    for f in fast() {
        let ty = WeightType::Block(f);
        for (m, n, k) in sizes(f.block_len()) {
            let (w, x) = (weight(ty, n, k, &mut r), r.normals(m * k));
            for level in levels() {
                let form = Matmul::new(ty, Mode::Fast, level, n, k).activation().form();
                let len = activation_block(form).expect("a fast format");
                let got = w.product(Mode::Fast, level, &x, m);
                check(&format!("{f:?} {level} {m}x{n}x{k}"), &got, &w.reference(&quantised(&x, len), m), 2e-6);
                let (mut error, mut power) = (0.0, 0.0);
                for (g, (w, _)) in got.iter().zip(w.reference(&x, m)) {
                    error += (f64::from(*g) - w).powi(2);
                    power += w * w;
                }
                assert!(error < 5e-4 * power || m * n < 64, "{f:?} {level}: NMSE {:e}", error / power);
            }
        }
    }
}

#[test]
fn products_larger_than_every_cache_block_are_whole() {
    let mut r = Numbers(13);
    let (m, n, k) = (421, 150, 1024);
    for ty in
        [WeightType::Block(BlockFormat::Q8_0), WeightType::Block(BlockFormat::Q4K), WeightType::Block(BlockFormat::Q4_1), WeightType::BF16]
    {
        let (w, x) = (weight(ty, n, k, &mut r), r.normals(m * k));
        for level in levels() {
            let form = Matmul::new(ty, Mode::Fast, level, n, k).activation_of(m).form();
            let seen = match form {
                ActForm::Tiles(Words::Bf16, _) => rounded(&x),
                form => activation_block(form).map_or(x.clone(), |len| quantised(&x, len)),
            };
            let got = w.product(Mode::Fast, level, &x, m);
            check(&format!("{ty:?} {level}"), &got, &w.reference(&seen, m), 2e-6);
        }
    }
}

/// Activations as products of bfloat16 see them.
fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect()
}

#[test]
fn products_of_bfloat16_round_many_rows_to_bfloat16_and_few_not_at_all() {
    let mut r = Numbers(17);
    let with: Vec<Level> = levels().into_iter().filter(|l| l.dots_bf16()).collect();
    assert!(std::env::var("RLX_TEST_LEVEL").is_ok() || with.contains(&Level::ScalarWide));
    for (m, n, k) in [(1, 5, 64), (24, 33, 257), (25, 33, 257), (26, 1, 1), (31, 40, 16), (60, 70, 511), (97, 64, 768)] {
        let (w, mut x) = (weight(WeightType::BF16, n, k, &mut r), r.normals(m * k));
        // Ties between two bfloat16, and what rounds up to the next power of two.
        x.iter_mut().step_by(5).for_each(|v| *v = f32::from_bits(v.to_bits() & !0xffff | 0x8000));
        x.iter_mut().skip(1).step_by(7).for_each(|v| *v = f32::from_bits(v.to_bits() | 0x007f_ffff));
        for &level in &with {
            let seen = if m > 24 { rounded(&x) } else { x.clone() };
            let got = w.product(Mode::Fast, level, &x, m);
            check(&format!("{level} {m}x{n}x{k}"), &got, &w.reference(&seen, m), 2e-6);
        }
    }
}

#[test]
fn extreme_weights_and_activations_do_not_overflow() {
    let mut r = Numbers(5);
    for f in fast() {
        let ty = WeightType::Block(f);
        let (m, n, k) = (9, 19, 512);
        for pattern in 0..4 {
            let mut w = weight(ty, n, k, &mut r);
            // All code and scale bytes at an extreme; the float scales stay small and finite.
            let (codes, halves): (u8, &[usize]) = match f {
                BlockFormat::Q4K | BlockFormat::Q5K => (0xff, &[0, 2]),
                BlockFormat::Q6K => ([0xff, 0x80, 0x7f, 0x00][pattern], &[208]),
                BlockFormat::Q8_0 => ([0x80, 0x7f, 0xff, 0x81][pattern], &[0]),
                BlockFormat::Affine(_) => ([0xff, 0x00, 0x7f, 0x80][pattern], &[]),
                _ => (0xff, &[0]),
            };
            for block in w.bytes.chunks_exact_mut(f.block_bytes()) {
                let numbers = if let BlockFormat::Affine(a) = f { a.codes_at() } else { 0 };
                block[numbers..].fill(codes);
                for &at in halves {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
                }
            }
            f.dequantize(&w.bytes, &mut w.values).expect("whole blocks");
            let sign = |i: usize| {
                if pattern % 2 == 0 || i.is_multiple_of(3) { 1.0 } else { -1.0 }
            };
            let x: Vec<f32> = (0..m * k).map(|i| 3.0 * sign(i)).collect();
            let want = w.reference(&x, m);
            for level in levels() {
                check(&format!("{f:?} {level}"), &w.product(Mode::Fast, level, &x, m), &want, 1e-5);
            }
        }
    }
}

#[test]
fn unpacked_rows_are_the_files_rows() {
    let mut r = Numbers(3);
    for f in fast() {
        let (n, k) = (35, 3 * f.block_len());
        let ty = WeightType::Block(f);
        let mut w = weight(ty, n, k, &mut r);
        // Any bytes at all survive, but for NaN scales, which compare unequal.
        for (i, b) in w.bytes.iter_mut().enumerate() {
            let at = i % f.block_bytes();
            let first = if let BlockFormat::Affine(a) = f { a.codes_at() } else { 4 };
            let scale = !(first..208).contains(&at);
            *b = if scale { *b } else { r.next() as u8 };
        }
        f.dequantize(&w.bytes, &mut w.values).expect("whole blocks");
        for level in levels() {
            for mode in [Mode::Fast, Mode::Exact] {
                let mm = Matmul::new(ty, mode, level, n, k);
                let data = w.memory(&mm);
                let mut row = vec![0.0; k];
                for i in 0..n {
                    mm.unpack_row(&data, i, &mut row);
                    assert_eq!(row, w.values[i * k..(i + 1) * k], "{f:?} {mode:?} {level}, row {i}");
                }
            }
        }
    }
}

#[test]
fn packed_weights_are_at_most_four_percent_larger() {
    for level in levels() {
        for f in fast() {
            let ty = WeightType::Block(f);
            let mm = Matmul::new(ty, Mode::Fast, level, 1024, 1024);
            let file = 1024 * ty.row_bytes(1024);
            assert!(mm.bytes() * 100 <= file * 104, "{f:?} {level}: {} of {file}", mm.bytes());
            assert_eq!(mm.group_bytes() % 64, 0, "{f:?} {level}: groups keep cache lines");
        }
    }
}

#[test]
fn weights_of_one_family_share_activations() {
    let spec = |f| Matmul::new(WeightType::Block(f), Mode::Fast, Level::Scalar, 8, 256).activation();
    assert_eq!(spec(BlockFormat::Q4K), spec(BlockFormat::Q6K));
    assert_eq!(spec(BlockFormat::Q4_0), spec(BlockFormat::Q8_0));
    assert_ne!(spec(BlockFormat::Q4_0), spec(BlockFormat::Q4K));
}

#[test]
fn not_a_number_reaches_the_output() {
    let mut r = Numbers(9);
    for f in fast() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (w, mut x) = (weight(WeightType::Block(f), 9, 512, &mut r), r.normals(512));
            x[77] = bad;
            for level in levels() {
                let y = w.product(Mode::Fast, level, &x, 1);
                assert!(y.iter().all(|v| !v.is_finite()), "{f:?} {level}: {bad} is lost");
            }
        }
    }
    for bad in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY] {
        let (w, mut x) = (weight(WeightType::BF16, 9, 512, &mut r), r.normals(25 * 512));
        x[77] = bad;
        for level in levels() {
            let y = w.product(Mode::Fast, level, &x, 25);
            let (bad_row, others) = y.split_at(9);
            assert!(bad_row.iter().all(|v| !v.is_finite()) && others.iter().all(|v| v.is_finite()), "BF16 {level}: {bad}");
        }
    }
}
