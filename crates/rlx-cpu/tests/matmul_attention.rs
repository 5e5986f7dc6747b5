//! Attention over paged keys and values against f64, at every instruction set of this machine.

mod levels;

use half::{bf16, f16};
use levels::levels;
use rlx_cpu::attention::{Attention, KvType, Segment, Stats};
use rlx_cpu::simd::Level;

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() & 0xffff) as f32 / 32768.0 - 1.0).collect()
    }
}

fn rounded(kv: KvType, x: f32) -> f64 {
    match kv {
        KvType::F32 => f64::from(x),
        KvType::F16 => f16::from_f32(x).to_f64(),
        KvType::BF16 => bf16::from_f32(x).to_f64(),
    }
}

/// One segment with its cache; blocks are full of NaN where nothing is stored.
struct Case {
    at: Attention,
    n_tokens: usize,
    n_keys: usize,
    sinks: Option<Vec<f32>>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    keys: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
}

impl Case {
    fn new(at: Attention, n_tokens: usize, n_keys: usize, sinks: bool, r: &mut Numbers) -> Self {
        let h = at.n_kv_heads;
        let n_blocks = n_keys.div_ceil(at.block_tokens);
        let mut case = Case {
            at,
            n_tokens,
            n_keys,
            sinks: sinks.then(|| r.floats(at.group)),
            q: r.floats(n_tokens * h * at.group * at.head_dim),
            k: r.floats(n_keys * h * at.head_dim),
            v: r.floats(n_keys * h * at.value_dim),
            keys: vec![vec![0xff; at.key_block_bytes()]; n_blocks],
            values: vec![vec![0xff; at.value_block_bytes()]; n_blocks],
        };
        let (kd, vd) = (at.head_dim, at.value_dim);
        for j in 0..n_keys {
            let (block, slot) = (j / at.block_tokens, j % at.block_tokens);
            for head in 0..h {
                let k = &case.k[(j * h + head) * kd..][..kd];
                let v = &case.v[(j * h + head) * vd..][..vd];
                let (kb, vb) = (case.keys[block].as_mut_ptr(), case.values[block].as_mut_ptr());
                // SAFETY: both blocks have their sizes.
                unsafe { at.store(kb, vb, head, slot, k, v) };
            }
        }
        case
    }

    fn reference(&self, token: usize, head: usize) -> Vec<f64> {
        let at = &self.at;
        let (h, kv_head) = (at.n_kv_heads, head / at.group);
        let q = &self.q[(token * h * at.group + head) * at.head_dim..][..at.head_dim];
        let position = self.n_keys - self.n_tokens + token;
        let mut terms: Vec<(f64, usize)> = Vec::new();
        for j in 0..self.n_keys {
            if at.causal && j > position || at.window.is_some_and(|w| j + w <= position) {
                continue;
            }
            let k = &self.k[(j * h + kv_head) * at.head_dim..][..at.head_dim];
            let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * rounded(at.kv, *b)).sum();
            let mut score = dot * f64::from(at.scale);
            if let Some(cap) = at.softcap {
                score = f64::from(cap) * (score / f64::from(cap)).tanh();
            }
            terms.push((score, j));
        }
        let mut total: f64 = terms.iter().map(|(s, _)| s.exp()).sum();
        if let Some(sinks) = &self.sinks {
            total += f64::from(sinks[head % at.group]).exp();
        }
        let mut out = vec![0.0; at.value_dim];
        for (s, j) in terms {
            let v = &self.v[(j * h + kv_head) * at.value_dim..][..at.value_dim];
            for (o, x) in out.iter_mut().zip(v) {
                *o += s.exp() / total * rounded(at.kv, *x);
            }
        }
        out
    }

    fn check(&self, level: Level) {
        let at = Attention { level, ..self.at };
        let (h, vd) = (at.n_kv_heads, at.value_dim);
        let stride = h * at.group * vd;
        let mut whole = vec![f32::NAN; self.n_tokens * stride];
        let mut split = whole.clone();
        let keys: Vec<*const u8> = self.keys.iter().map(|b| b.as_ptr()).collect();
        let values: Vec<*const u8> = self.values.iter().map(|b| b.as_ptr()).collect();
        for kv_head in 0..h {
            let seg = Segment {
                q: self.q[kv_head * at.group * at.head_dim..].as_ptr(),
                q_stride: h * at.group * at.head_dim,
                n_tokens: self.n_tokens,
                position: self.n_keys - self.n_tokens,
                n_keys: self.n_keys,
                kv_head,
                keys: &keys,
                values: &values,
            };
            let rows = at.n_rows(&seg);
            let out = whole[kv_head * at.group * vd..].as_mut_ptr();
            let sinks = self.sinks.as_deref();
            for part in [0..rows / 3, rows / 3..rows] {
                // SAFETY: all operands have the described sizes.
                unsafe { at.run(&seg, part, sinks, out, stride) };
            }
            let cuts = [0, self.n_keys / 3, self.n_keys / 2, self.n_keys];
            let parts: Vec<(Vec<f32>, Vec<Stats>)> = cuts
                .windows(2)
                .map(|c| {
                    let mut sums = vec![f32::NAN; rows * vd];
                    let mut stats = vec![Stats { max: 0.0, sum: 0.0 }; rows];
                    // SAFETY: all operands have the described sizes.
                    unsafe { at.partial(&seg, 0..rows, c[0]..c[1], &mut sums, &mut stats) };
                    (sums, stats)
                })
                .collect();
            for row in 0..rows {
                let of_row = parts.iter().map(|(a, s)| (&a[row * vd..(row + 1) * vd], s[row]));
                let place = row / at.group * stride + (kv_head * at.group + row % at.group) * vd;
                at.merge(row, of_row, sinks, &mut split[place..place + vd]);
            }
        }
        for token in 0..self.n_tokens {
            for head in 0..h * at.group {
                let want = self.reference(token, head);
                for (d, want) in want.iter().enumerate() {
                    let i = token * stride + head * vd + d;
                    for (what, got) in [("whole", whole[i]), ("split", split[i])] {
                        let error = (f64::from(got) - want).abs();
                        let case = (self.n_tokens, self.n_keys, at);
                        assert!(error < 2e-6, "{what} {token} {head} {d}: {got}, not {want}: {case:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn attention_is_the_f64_sum() {
    let mut r = Numbers(17);
    let base = Attention {
        level: Level::Scalar,
        kv: KvType::F32,
        n_kv_heads: 2,
        group: 2,
        head_dim: 32,
        value_dim: 32,
        block_tokens: 32,
        scale: 0.4,
        softcap: None,
        window: None,
        causal: true,
    };
    let mut cases = Vec::new();
    for (i, (n_tokens, n_keys)) in [(1, 1), (1, 17), (1, 200), (5, 5), (13, 70), (40, 129), (3, 64)].into_iter().enumerate() {
        for kv in [KvType::F32, KvType::F16, KvType::BF16] {
            for (group, head_dim, value_dim) in [(1, 64, 64), (2, 128, 128), (3, 33, 7), (7, 16, 80)] {
                let at = Attention {
                    kv,
                    group,
                    head_dim,
                    value_dim,
                    block_tokens: [16, 32, 48, 64][i % 4],
                    scale: (head_dim as f32).powf(-0.5) * 4.0,
                    ..base
                };
                cases.push(Case::new(at, n_tokens, n_keys, i % 2 == 1, &mut r));
            }
        }
        for window in [1, 8, 30] {
            let at = Attention { window: Some(window), ..base };
            cases.push(Case::new(at, n_tokens, n_keys, window == 8, &mut r));
        }
        let capped = Attention { softcap: Some(2.0), ..base };
        cases.push(Case::new(capped, n_tokens, n_keys, false, &mut r));
        let both = Attention { causal: false, ..base };
        cases.push(Case::new(both, n_tokens, n_keys, false, &mut r));
    }
    for case in cases {
        for level in levels() {
            case.check(level);
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut r = Numbers(23);
    let at = Attention {
        level: Level::Scalar,
        kv: KvType::F32,
        n_kv_heads: 1,
        group: 1,
        head_dim: 8,
        value_dim: 8,
        block_tokens: 16,
        scale: 1e4,
        softcap: None,
        window: None,
        causal: true,
    };
    let case = Case::new(at, 4, 90, false, &mut r);
    let keys: Vec<*const u8> = case.keys.iter().map(|b| b.as_ptr()).collect();
    let values: Vec<*const u8> = case.values.iter().map(|b| b.as_ptr()).collect();
    for level in levels() {
        let at = Attention { level, ..at };
        let mut out = vec![f32::NAN; 32];
        let seg =
            Segment { q: case.q.as_ptr(), q_stride: 8, n_tokens: 4, position: 86, n_keys: 90, kv_head: 0, keys: &keys, values: &values };
        // SAFETY: all operands have the described sizes.
        unsafe { at.run(&seg, 0..4, None, out.as_mut_ptr(), 8) };
        assert!(out.iter().all(|v| v.abs() <= 1.0), "{level}: {out:?}");
    }
}
