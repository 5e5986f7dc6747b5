//! How fast are matrix products of one decode step and of a prefill, per weight format, against the machine's limits?
//!
//! `cargo bench -p rlx-cpu --bench matmul -- [level=avx2] [threads=1,2] [m=1,128,512] [n=3072] [formats=q4_k,bf16]`
//! prints for each shape the best and the median time, GB/s of weights read, and GOP/s (two per weight and row).

use rlx_cpu::attention::{Attention, KvType, Segment};
use rlx_cpu::matmul::{Matmul, Mode, Output, WeightType};
use rlx_cpu::simd::{Kernel, Level, Simd, dispatch, dispatch_int8};
use rlx_gguf::blocks::BlockFormat;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SHAPES: [(usize, usize); 3] = [(3072, 1024), (1024, 3072), (151_936, 1024)];

const FLOATS: [(&str, WeightType); 3] = [("bf16", WeightType::BF16), ("f16", WeightType::F16), ("f32", WeightType::F32)];
/// Measured where nothing else is named; `formats=` takes any.
const BLOCKS: [&str; 8] = ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "affine4_g64_bf16", "affine8_g64_bf16", "fp8_g128"];

fn weight_type(name: &str) -> WeightType {
    let float = FLOATS.iter().find(|f| f.0 == name).map(|f| f.1);
    float.unwrap_or_else(|| WeightType::Block(BlockFormat::from_name(name).expect("a format")))
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// Bytes on a 64-byte boundary.
struct Aligned(Vec<Line>);

impl Aligned {
    fn new(bytes: usize) -> Self {
        Aligned(vec![Line([0; 64]); bytes.div_ceil(64)])
    }
    fn bytes(&self) -> &[u8] {
        // SAFETY: lines are bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: lines are bytes, and any bytes are lines.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 64) }
    }
}

/// Arrivals at a barrier of `n` threads that spin.
struct Spin {
    n: usize,
    arrived: AtomicUsize,
}

impl Spin {
    fn wait(&self) {
        let ticket = self.arrived.fetch_add(1, Ordering::AcqRel);
        let full = (ticket / self.n + 1) * self.n;
        while self.arrived.load(Ordering::Acquire) < full {
            std::hint::spin_loop();
        }
    }
}

/// Runs `step(ith)` on `n` threads again and again for `time`; returns the best and the median seconds.
fn measure(n: usize, time: Duration, step: impl Fn(usize, &Spin) + Sync) -> (f64, f64) {
    let spin = Spin { n, arrived: AtomicUsize::new(0) };
    let stop = AtomicUsize::new(0);
    let mut seconds = std::thread::scope(|scope| {
        for ith in 1..n {
            let (spin, stop, step) = (&spin, &stop, &step);
            scope.spawn(move || {
                loop {
                    spin.wait();
                    if stop.load(Ordering::Acquire) == 1 {
                        break;
                    }
                    step(ith, spin);
                    spin.wait();
                }
            });
        }
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < 3 || begin.elapsed() < time {
            spin.wait();
            let start = Instant::now();
            step(0, &spin);
            spin.wait();
            seconds.push(start.elapsed().as_secs_f64());
        }
        stop.store(1, Ordering::Release);
        spin.wait();
        seconds
    });
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[seconds.len() / 2])
}

/// Sums a buffer: the memory's read bandwidth.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.isplat(0); 8];
        let step = 8 * 4 * S::LANES;
        for chunk in self.0.chunks_exact(step) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: within the chunk.
                let ints = unsafe { s.load_ints(chunk.as_ptr().add(i * 4 * S::LANES)) };
                *sum = s.iadd(*sum, ints);
            }
        }
        sums.iter().map(|&v| s.sum(s.to_f(v))).sum()
    }
}

/// Reads a vector of integers.
trait LoadInts: Simd {
    /// # Safety
    /// `p` is readable for a vector.
    #[inline(always)]
    unsafe fn load_ints(self, p: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        self.to_i_bits(unsafe { self.load(p.cast()) })
    }
    /// The bits of floats as integers, good enough for a sum that nobody reads.
    #[inline(always)]
    fn to_i_bits(self, v: Self::F) -> Self::I {
        // SAFETY: F and I are vectors of the same size without invalid values.
        unsafe { std::mem::transmute_copy(&v) }
    }
}

impl<S: Simd> LoadInts for S {}

/// Fused multiply-adds, or int8 dots, in registers: the arithmetic peak.
struct Peak {
    int8: bool,
    rounds: usize,
}

impl Kernel for Peak {
    /// Operations done.
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let lines = black_box([Line([3; 64]); 10]);
        let bytes = &lines[0].0;
        // SAFETY: 64 bytes hold the widest vector.
        let w = unsafe { s.load_b(bytes.as_ptr()) };
        if self.int8 {
            let mut parts = [s.part(); 10];
            for _ in 0..self.rounds {
                let a: *const u8 = black_box(lines.as_ptr().cast());
                for (i, p) in parts.iter_mut().enumerate() {
                    // SAFETY: ten of the widest vectors.
                    *p = s.dot(*p, w, unsafe { s.load_b(a.add(64 * i)) });
                }
            }
            black_box(parts.map(|p| s.sum(s.to_f(s.part_to_i(p)))));
            (self.rounds * 10 * S::LANES * 8) as f64
        } else {
            let (x, y) = (s.splat(black_box(0.5)), s.splat(black_box(0.25)));
            let mut sums = [s.splat(0.0); 10];
            for _ in 0..self.rounds {
                for v in &mut sums {
                    *v = s.fma(*v, x, y);
                }
            }
            black_box(sums.map(|v| s.sum(v)));
            (self.rounds * 10 * S::LANES * 2) as f64
        }
    }
}

fn limits(level: Level, threads: &[usize]) {
    let mut big = Aligned::new(256 << 20);
    for (i, b) in big.bytes_mut().iter_mut().step_by(512).enumerate() {
        *b = i as u8;
    }
    for &n in threads {
        let part = big.bytes().len() / n;
        let (read, _) = measure(n, Duration::from_millis(400), |ith, _| {
            black_box(dispatch(level, Read(&big.bytes()[ith * part..(ith + 1) * part])));
        });
        let rounds = 100_000;
        let peak = |int8| {
            let ops = dispatch_int8(level, Peak { int8, rounds });
            let (t, _) = measure(n, Duration::from_millis(200), |_, _| {
                black_box(dispatch_int8(level, Peak { int8, rounds }));
            });
            ops * n as f64 / t * 1e-9
        };
        println!(
            "limits {level} {n} threads: read {:.1} GB/s, f32 {:.0} GFLOP/s, int8 dot {:.0} GOP/s",
            big.bytes().len() as f64 / read * 1e-9,
            peak(false),
            peak(true)
        );
    }
}

/// Random codes with scales of a sensible size.
fn fill(ty: WeightType, bytes: &mut [u8]) {
    let mut x = 0x1234_5678_9abc_def1u64;
    for c in bytes.chunks_exact_mut(8) {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        c.copy_from_slice(&(x >> 3).to_le_bytes());
    }
    let (step, halves): (usize, &[usize]) = match ty {
        WeightType::Block(f @ BlockFormat::Affine(_)) => (f.block_bytes(), &[0, 2]),
        WeightType::Block(f @ BlockFormat::Fp8(_)) => (f.block_bytes(), &[2]),
        WeightType::Block(f @ BlockFormat::Q6K) => (f.block_bytes(), &[208]),
        WeightType::Block(f @ (BlockFormat::Q4K | BlockFormat::Q5K)) => (f.block_bytes(), &[0, 2]),
        WeightType::Block(f) => (f.block_bytes(), &[0]),
        WeightType::F32 => (4, &[2]),
        _ => (2, &[0]),
    };
    for block in bytes.chunks_exact_mut(step) {
        for &at in halves {
            block[at + 1] = (block[at + 1] & 0x83) | 0x2c;
        }
    }
}

/// Attention of Qwen3-0.6B's shape (16 query heads, 8 key-value heads of 128): one new token at a long context, and
/// prompts from their start. `GB/s` of keys and values, `GFLOP/s` of both products.
fn attention(level: Level, threads: &[usize], time: Duration) {
    const HEADS: usize = 8;
    let (group, dim, block) = (2, 128, 32);
    for (kv, new, context) in
        [(KvType::BF16, 1, 8192), (KvType::F16, 1, 8192), (KvType::BF16, 512, 512), (KvType::F32, 512, 512), (KvType::BF16, 128, 2048)]
    {
        let at = Attention {
            level,
            kv,
            n_kv_heads: HEADS,
            group,
            head_dim: dim,
            value_dim: dim,
            block_tokens: block,
            scale: 0.09,
            softcap: None,
            window: None,
            causal: true,
        };
        let n_blocks = context / block;
        let mut keys = Aligned::new(n_blocks * at.key_block_bytes());
        let mut values = Aligned::new(n_blocks * at.value_block_bytes());
        fill(WeightType::F32, keys.bytes_mut());
        fill(WeightType::F32, values.bytes_mut());
        for v in [&mut keys, &mut values] {
            v.bytes_mut().chunks_exact_mut(2).for_each(|b| b[1] &= 0x3b);
        }
        let starts = |a: &Aligned, n: usize| -> Vec<usize> { a.bytes().chunks_exact(n).map(|b| b.as_ptr() as usize).collect() };
        let (ks, vs) = (starts(&keys, at.key_block_bytes()), starts(&values, at.value_block_bytes()));
        let stride = HEADS * group * dim;
        let q: Vec<f32> = (0..new * stride).map(|i| (i * 7919 % 2003) as f32 * 1e-3 - 1.0).collect();
        let mut out = vec![0f32; new * stride];
        let (q_ptr, out_ptr) = (q.as_ptr() as usize, out.as_mut_ptr() as usize);
        for &n in threads {
            let (best, median) = measure(n, time, |ith, _| {
                let ks: Vec<*const u8> = ks.iter().map(|&p| p as *const u8).collect();
                let vs: Vec<*const u8> = vs.iter().map(|&p| p as *const u8).collect();
                for head in HEADS * ith / n..HEADS * (ith + 1) / n {
                    let at_head = head * group * dim;
                    let seg = Segment {
                        q: (q_ptr as *const f32).wrapping_add(at_head),
                        q_stride: stride,
                        n_tokens: new,
                        position: context - new,
                        n_keys: context,
                        kv_head: head,
                        keys: &ks,
                        values: &vs,
                    };
                    let out = (out_ptr as *mut f32).wrapping_add(at_head);
                    // SAFETY: all operands have the described sizes, and heads are disjoint.
                    unsafe { at.run(&seg, 0..at.n_rows(&seg), None, out, stride) };
                }
            });
            let pairs: usize = (context - new + 1..=context).sum();
            println!(
                "attention {kv:?} {new} new of {context} threads={n} best {:9.1} us median {:9.1} us {:6.1} GB/s {:6.1} GFLOP/s",
                best * 1e6,
                median * 1e6,
                (keys.bytes().len() + values.bytes().len()) as f64 / best * 1e-9,
                (4 * pairs * HEADS * group * dim) as f64 / best * 1e-9
            );
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |name: &str| args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
    let numbers = |name: &str, default: &[usize]| match arg(name) {
        Some(list) => list.split(',').map(|v| v.parse().expect("numbers")).collect(),
        None => default.to_vec(),
    };
    let level = arg("level").map_or(Level::detect(), |l| l.parse().expect("a level"));
    let mode = if arg("mode") == Some("exact") { Mode::Exact } else { Mode::Fast };
    let (threads, ms, ns) = (numbers("threads", &[1, 2]), numbers("m", &[1, 128, 512]), numbers("n", &[]));
    let time = Duration::from_millis(numbers("ms", &[300])[0] as u64);
    if args.iter().all(|a| !a.starts_with("limits=no")) {
        limits(level, &threads);
    }
    if arg("formats").is_none_or(|f| f.split(',').any(|f| f == "attention")) {
        attention(level, &threads, time);
    }
    let named: Vec<&str> = arg("formats").map_or(BLOCKS.into_iter().chain(FLOATS.map(|f| f.0)).collect(), |f| f.split(',').collect());
    for name in named.into_iter().filter(|n| *n != "attention") {
        let ty = weight_type(name);
        for (n, k) in SHAPES {
            if !ns.is_empty() && !ns.contains(&n) || n > 100_000 && ty == WeightType::F32 {
                continue;
            }
            let mm = Matmul::new(ty, mode, level, n, k);
            let mut file = Aligned::new(n * ty.row_bytes(k));
            fill(ty, file.bytes_mut());
            let file_bytes = n * ty.row_bytes(k);
            let mut packed = Aligned::new(if mm.is_raw() { 0 } else { mm.bytes() });
            let start = Instant::now();
            if !mm.is_raw() {
                let bytes = mm.bytes();
                mm.pack(&file.bytes()[..file_bytes], 0..mm.n_groups(), &mut packed.bytes_mut()[..bytes]);
            }
            let pack = start.elapsed().as_secs_f64();
            let w = if mm.is_raw() { file.bytes() } else { packed.bytes() };
            for &m in &ms {
                let spec = mm.activation_of(m);
                if n > 100_000 && m > 128 {
                    continue;
                }
                let x: Vec<f32> = (0..m * k).map(|i| (i * 7919 % 2003) as f32 * 1e-3 - 1.0).collect();
                let mut act = Aligned::new(spec.bytes(m));
                let mut y = vec![0f32; m * n];
                for &t in &threads {
                    let act_ptr = act.bytes_mut().as_mut_ptr() as usize;
                    let y_ptr = y.as_mut_ptr() as usize;
                    let (best, median) = measure(t, time, |ith, spin| {
                        // SAFETY: the threads' shares are disjoint, and the barrier parts writing from reading.
                        unsafe {
                            spec.prepare(&x, m, act_ptr as *mut u8, ith, t);
                            spin.wait();
                            let act = std::slice::from_raw_parts(act_ptr as *const u8, spec.bytes(m));
                            let out = Output { ptr: y_ptr as *mut f32, stride: n, col: 0 };
                            mm.run(w, &x, act, m, mm.share(ith, t), out);
                        }
                    });
                    println!(
                        "{name:5} {n:6}x{k:<5} m={m:<4} threads={t} best {:9.1} us median {:9.1} us {:6.1} GB/s {:7.1} GOP/s",
                        best * 1e6,
                        median * 1e6,
                        mm.bytes() as f64 / best * 1e-9,
                        2.0 * (m * n * k) as f64 / best * 1e-9
                    );
                }
            }
            if !mm.is_raw() && n > 100_000 {
                println!("{name:5} packed at {:.2} GB/s", file_bytes as f64 / pack * 1e-9);
            }
        }
    }
}
