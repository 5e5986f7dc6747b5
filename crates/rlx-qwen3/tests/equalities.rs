//! What must hold without any recorded number: batch = single, chunked prefill = whole, prefill(n) =
//! n × decode, cache rollback = fresh, fused = plain, packed = unpacked within the format's error, and
//! the plan counts what is really held.

use rlx_compile::Profile;
use rlx_compile::passes::FusionSwitches;
use rlx_lm::{LmRunner, Precision};
use rlx_qwen3::Qwen3Runner;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counts what is allocated.
struct Counting;
static LIVE: AtomicI64 = AtomicI64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(l.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(l) }
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(l.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        LIVE.fetch_sub(l.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(p, l) }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(n as i64 - l.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(p, l, n) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are of the whole process: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

fn one() -> std::sync::MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3")
}

fn exact() -> Profile {
    Profile::preset("exact").unwrap()
}

/// The profile `exact`, changed.
fn exactly(change: impl FnOnce(&mut Profile)) -> Profile {
    let mut p = exact();
    change(&mut p);
    p
}

fn runner(profile: Profile, sequences: usize) -> LmRunner {
    Qwen3Runner::builder().weights(fixture()).profile(profile).max_seq(128).sequences(sequences).build().unwrap()
}

fn ids(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + seed * 101 + i * i) % 320).collect()
}

/// Logits of every token of one prompt fed at once.
fn whole(r: &mut LmRunner, ids: &[u32]) -> Vec<f32> {
    let s = r.open().unwrap();
    let out = r.score(&[(s, ids)]).unwrap().to_vec();
    r.close(s).unwrap();
    out
}

fn close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
    assert!(worst <= tolerance * scale, "{what}: {worst} of {scale}");
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let _one = one();
    let mut r = runner(exact(), 3);
    let prompts = [ids(1, 19), ids(2, 1), ids(3, 33)];
    let alone: Vec<Vec<f32>> = prompts.iter().map(|p| whole(&mut r, p)).collect();
    let seqs: Vec<_> = prompts.iter().map(|_| r.open().unwrap()).collect();
    let parts: Vec<_> = seqs.iter().copied().zip(prompts.iter().map(Vec::as_slice)).collect();
    let together = r.score(&parts).unwrap().to_vec();
    // One token and many take different kernels, which sum in different orders.
    close(&together, &alone.concat(), 2e-6, "batch and single");
}

#[test]
fn chunks_and_single_tokens_equal_the_whole_prompt() {
    let _one = one();
    let mut r = runner(exact(), 1);
    let prompt = ids(4, 40);
    let want = whole(&mut r, &prompt);
    let vocab = r.vocab_size();
    for cuts in [vec![40], vec![7, 33], vec![16, 16, 8], vec![1; 40]] {
        let s = r.open().unwrap();
        let (mut at, mut got) = (0, vec![]);
        for n in &cuts {
            got.extend_from_slice(r.score(&[(s, &prompt[at..at + n])]).unwrap());
            at += n;
        }
        r.close(s).unwrap();
        close(&got, &want, 1e-5, &format!("{cuts:?}"));
    }
    let mut chunked = runner(exactly(|p| p.prefill_chunk = 9), 1);
    let s = chunked.open().unwrap();
    close(chunked.prefill(s, &prompt, |_, _| {}).unwrap(), &want[39 * vocab..], 1e-5, "chunked prefill");
}

#[test]
fn a_sequence_that_rolls_back_continues_as_a_fresh_one() {
    let _one = one();
    let mut r = runner(exact(), 2);
    let (prompt, other) = (ids(5, 30), ids(6, 9));
    let s = r.open().unwrap();
    r.step(&[(s, &prompt)]).unwrap();
    r.truncate(s, 11).unwrap();
    let back = r.step(&[(s, &other)]).unwrap().to_vec();
    let fresh = r.predict_logits(&[&prompt[..11], &other].concat()).unwrap();
    close(&back, &fresh, 1e-5, "rollback");
}

#[test]
fn every_fusion_alone_and_all_together_equal_the_plain_graph() {
    let _one = one();
    let prompt = ids(7, 24);
    let mut plain = runner(exactly(|p| p.fusion = FusionSwitches::all(false)), 1);
    let want = whole(&mut plain, &prompt);
    let off = FusionSwitches::all(false);
    let variants = [
        FusionSwitches::default(),
        FusionSwitches { merge_linear: true, ..off },
        FusionSwitches { merge_linear: true, swiglu: true, ..off },
        FusionSwitches { epilogue: true, ..off },
        FusionSwitches { norm_residual: true, ..off },
        FusionSwitches { rope_append: true, ..off },
        FusionSwitches { elementwise: true, ..off },
        FusionSwitches { norm_residual_first: true, ..FusionSwitches::default() },
    ];
    for fusion in variants {
        let mut r = runner(exactly(|p| p.fusion = fusion), 1);
        close(&whole(&mut r, &prompt), &want, 1e-5, &format!("{fusion:?}"));
    }
}

#[test]
fn thread_counts_and_instruction_sets_agree() {
    let _one = one();
    let prompt = ids(8, 21);
    let want = whole(&mut runner(exactly(|p| p.threads = 1), 1), &prompt);
    for threads in [2, 3] {
        let got = whole(&mut runner(exactly(|p| p.threads = threads), 1), &prompt);
        assert!(got == want, "{threads} threads: to the last bit");
    }
    let mut scalar = exact();
    scalar.set("simd=scalar").unwrap();
    close(&whole(&mut runner(scalar, 1), &prompt), &want, 1e-5, "scalar");
}

#[test]
fn decoding_allocates_nothing_after_warm_up() {
    let _one = one();
    for profile in [exact(), Profile::preset("lm").unwrap()] {
        let mut r = runner(profile, 1);
        let s = r.open().unwrap();
        r.step(&[(s, &ids(9, 5))]).unwrap();
        for t in 0..3 {
            r.step(&[(s, &[t])]).unwrap();
        }
        let before = CALLS.load(Ordering::Relaxed);
        for t in 0..60 {
            r.step(&[(s, &[t])]).unwrap();
        }
        assert_eq!(CALLS.load(Ordering::Relaxed) - before, 0, "allocations in 60 tokens");
    }
}

#[test]
fn the_plan_says_what_is_really_held() {
    let _one = one();
    for precision in [Precision::Fast, Precision::Exact] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/Q8_0.gguf");
        for weights in [fixture(), file] {
            let builder = || Qwen3Runner::builder().weights(&weights).precision(precision).max_seq(128);
            let planned = builder().plan().unwrap().memory;
            let before = LIVE.load(Ordering::Relaxed);
            let mut r = builder().build().unwrap();
            assert_eq!(r.memory(), planned);
            // The largest planned call makes the arena as large as it gets.
            let s = r.open().unwrap();
            r.step(&[(s, &ids(1, 128))]).unwrap();
            assert_eq!(r.held_bytes(), planned.states + planned.activations, "states and activations");
            let held = (LIVE.load(Ordering::Relaxed) - before) as u64;
            // Beside the planned bytes: the graph, the tokenizer, one row of logits, 64 bytes of slack per buffer.
            assert!(held >= planned.held(), "{held} held, {} planned", planned.held());
            assert!(held < planned.held() + (2 << 20), "{held} held, {} planned", planned.held());
        }
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_loading() {
    let _one = one();
    let before = LIVE.load(Ordering::Relaxed);
    let e = Qwen3Runner::builder().weights(fixture()).max_memory_gb(1e-6).build().err().unwrap().to_string();
    assert!(e.contains("needs") && e.contains("--max-seq"), "{e}");
    assert!(LIVE.load(Ordering::Relaxed) - before < 1 << 20);
}

#[test]
fn unpacked_weights_give_what_the_quantised_file_says() {
    let _one = one();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/Q8_0.gguf");
    let build =
        |packed| Qwen3Runner::builder().weights(&file).precision(Precision::Exact).packed_weights(packed).max_seq(64).build().unwrap();
    let prompt = ids(3, 12);
    let (mut packed, mut unpacked) = (build(true), build(false));
    close(&whole(&mut packed, &prompt), &whole(&mut unpacked, &prompt), 1e-5, "dequantised");
    let mut fast = Qwen3Runner::builder().weights(&file).max_seq(64).build().unwrap();
    close(&whole(&mut fast, &prompt), &whole(&mut unpacked, &prompt), 0.1, "8-bit activations");
}

#[test]
fn mistakes_are_named() {
    let _one = one();
    let mut r = runner(exact(), 1);
    let s = r.open().unwrap();
    let e = r.step(&[(s, &[5, 320])]).unwrap_err().to_string();
    assert!(e.contains("320") && e.contains("vocabulary"), "{e}");
    let e = r.step(&[(s, &ids(1, 129))]).unwrap_err().to_string();
    assert!(e.contains("129") && e.contains("--max-seq"), "{e}");
    assert!(r.generate(&[], 3, |_| true).unwrap_err().to_string().contains("empty"));
    assert!(Qwen3Runner::builder().build().err().unwrap().to_string().contains("no weights"));
}
