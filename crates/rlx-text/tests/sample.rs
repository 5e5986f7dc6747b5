//! Distribution, determinism and limits of the sampler.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rlx_text::{Sampler, SamplerParams};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged; the counter is a plain thread-local cell without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System.alloc` above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn params(f: impl FnOnce(&mut SamplerParams)) -> SamplerParams {
    let mut p = SamplerParams { temperature: 1.0, ..SamplerParams::default() };
    f(&mut p);
    p
}

fn sampler(f: impl FnOnce(&mut SamplerParams)) -> Sampler {
    Sampler::new(params(f)).expect("parameters in range")
}

fn counts(s: &mut Sampler, logits: &[f32], n: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    for _ in 0..n {
        counts[s.sample(&mut logits.to_vec()).expect("drawn") as usize] += 1;
    }
    counts
}

const PROBABILITIES: [f32; 6] = [0.05, 0.4, 0.1, 0.25, 0.15, 0.05];

fn logits() -> Vec<f32> {
    PROBABILITIES.iter().map(|p| p.ln() + 3.0).collect()
}

/// Ids that are ever drawn.
fn support(f: impl FnOnce(&mut SamplerParams)) -> Vec<usize> {
    let counts = counts(&mut sampler(f), &logits(), 4000);
    (0..counts.len()).filter(|&i| counts[i] > 0).collect()
}

#[test]
fn draws_follow_the_distribution() {
    for (temperature, seed) in [(1.0f32, 1), (0.7, 2), (2.5, 3)] {
        let n = 60_000;
        let found = counts(&mut sampler(|p| (p.temperature, p.seed) = (temperature, seed)), &logits(), n);
        let powered: Vec<f64> = PROBABILITIES.iter().map(|&p| f64::from(p).powf(1.0 / f64::from(temperature))).collect();
        let total: f64 = powered.iter().sum();
        let chi: f64 = found.iter().zip(&powered).map(|(&o, w)| (o as f64 - n as f64 * w / total).powi(2) / (n as f64 * w / total)).sum();
        // 5 degrees of freedom: 20.5 is exceeded once in a thousand.
        assert!(chi < 20.5, "chi² {chi} at temperature {temperature}: {found:?}");
    }
}

#[test]
fn the_seed_alone_decides() {
    let run = |seed| -> Vec<u32> {
        let mut s = sampler(|p| p.seed = seed);
        (0..64).map(|_| s.sample(&mut logits()).expect("drawn")).collect()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn cuts_keep_exactly_their_sets() {
    assert_eq!(support(|_| ()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(support(|p| p.top_k = 3), [1, 3, 4]);
    assert_eq!(support(|p| p.top_k = 5), [0, 1, 2, 3, 4], "of equals the lower id stays");
    assert_eq!(support(|p| p.top_k = 100), [0, 1, 2, 3, 4, 5]);
    assert_eq!(support(|p| p.top_p = 0.3), [1]);
    assert_eq!(support(|p| p.top_p = 0.6), [1, 3]);
    assert_eq!(support(|p| p.top_p = 0.7), [1, 3, 4]);
    assert_eq!(support(|p| p.min_p = 0.3), [1, 3, 4]);
    assert_eq!(support(|p| p.min_p = 1.0), [1]);
    assert_eq!(support(|p| (p.top_k, p.top_p) = (2, 0.63)), [1, 3], "top-p counts within what top-k kept");
    assert_eq!(support(|p| (p.temperature, p.min_p) = (0.5, 0.3)), [1, 3], "temperature comes before the cuts");
}

#[test]
fn top_p_over_a_large_vocabulary_is_the_sorted_prefix() {
    let n = 3000;
    let logits: Vec<f32> = (0..n).map(|i| ((i * 7919) % n) as f32 / 700.0).collect();
    let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let kept = order
        .iter()
        .take_while(|&&i| {
            let more = sum < 0.5 * total;
            sum += weights[i];
            more
        })
        .count();
    assert!(kept > 64 + 256, "the case reaches past two chunks: {kept}");
    let drawn = counts(&mut sampler(|p| p.top_p = 0.5), &logits, 60_000);
    assert!(order[kept..].iter().all(|&i| drawn[i] == 0));
    let missed = order[..kept].iter().filter(|&&i| drawn[i] == 0).count();
    assert_eq!(missed, 0, "60000 draws reach each of {kept} tokens");
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let mut s = Sampler::new(SamplerParams::default()).expect("in range");
    assert_eq!(s.sample(&mut [1.0, 3.0, 3.0, -1.0]).expect("drawn"), 1);
    assert_eq!(s.sample(&mut [f32::NEG_INFINITY, f32::MIN]).expect("drawn"), 1);
    let mut tiny = sampler(|p| p.temperature = 1e-30);
    assert_eq!(tiny.sample(&mut [0.0, 5.0, 4.999]).expect("drawn"), 1);
}

#[test]
fn forbidden_tokens_are_never_drawn() {
    let mut l = logits();
    l[1] = f32::NEG_INFINITY;
    assert_eq!(counts(&mut sampler(|p| p.temperature = 100.0), &l, 2000)[1], 0);
}

#[test]
fn penalties_change_logits_as_published() {
    let mut s = Sampler::new(SamplerParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        penalty_window: 3,
        ..SamplerParams::default()
    })
    .expect("in range");
    for id in [3, 0, 0, 1] {
        s.accept(id);
    }
    let mut l = [4.0, -1.0, 1.0, 1.0];
    assert_eq!(s.sample(&mut l).expect("drawn"), 0);
    assert_eq!(l, [4.0 / 2.0 - 0.5 - 0.5, -2.0 - 0.75, 1.0, 1.0], "token 3 has left the window");
    let mut l = [4.0, 0.0, 1.3, 1.0];
    assert_eq!(s.sample(&mut l).expect("drawn"), 2, "window now holds 0, 1, 0");
}

#[test]
fn bad_parameters_are_named_with_value_and_range() {
    let message = |f: &dyn Fn(&mut SamplerParams)| Sampler::new(params(f)).expect_err("refused").to_string();
    let cases = [
        (message(&|p| p.temperature = f32::NAN), ["temperature", "NaN", "0 (greedy) or more"]),
        (message(&|p| p.temperature = -1.0), ["temperature", "-1", "0 (greedy) or more"]),
        (message(&|p| p.temperature = f32::INFINITY), ["temperature", "inf", "finite"]),
        (message(&|p| p.top_p = 0.0), ["top_p", "is 0", "at most 1"]),
        (message(&|p| p.top_p = 2.0), ["top_p", "is 2", "at most 1"]),
        (message(&|p| p.top_p = f32::NAN), ["top_p", "NaN", "at most 1"]),
        (message(&|p| p.min_p = -0.1), ["min_p", "-0.1", "0 (keeps all) to 1"]),
        (message(&|p| p.min_p = 1.5), ["min_p", "1.5", "0 (keeps all) to 1"]),
        (message(&|p| p.repetition_penalty = 0.0), ["repetition_penalty", "is 0", "above 0"]),
        (message(&|p| p.presence_penalty = f32::NAN), ["presence_penalty", "NaN", "finite"]),
        (message(&|p| p.frequency_penalty = f32::INFINITY), ["frequency_penalty", "inf", "finite"]),
    ];
    for (message, parts) in cases {
        assert!(parts.iter().all(|p| message.contains(p)), "{message:?} lacks one of {parts:?}");
    }
}

#[test]
fn damaged_logits_are_counted() {
    for temperature in [0.0, 1.0] {
        let mut s = sampler(|p| p.temperature = temperature);
        let message = s.sample(&mut [1.0, f32::NAN, f32::NAN, f32::INFINITY]).expect_err("refused").to_string();
        assert!(message.contains("2 of 4 are NaN") && message.contains("1 are +inf"), "{message}");
        assert!(s.sample(&mut [f32::NEG_INFINITY; 3]).expect_err("refused").to_string().contains("all 3 are -inf"));
        assert!(s.sample(&mut []).is_err());
    }
}

#[test]
fn nothing_is_allocated_after_the_first_token() {
    let source: Vec<f32> = (0..5000).map(|i| ((i * 31) % 997) as f32 / 100.0).collect();
    let all = |p: &mut SamplerParams| {
        (p.top_k, p.top_p, p.min_p) = (900, 0.9, 0.001);
        (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) = (1.1, 0.1, 0.1);
    };
    for mut s in [
        sampler(all),
        sampler(|p| {
            all(p);
            p.penalty_window = 0;
        }),
        sampler(|p| p.top_p = 0.95),
        sampler(|p| p.temperature = 0.0),
    ] {
        let mut logits = source.clone();
        s.sample(&mut logits).expect("drawn");
        let before = ALLOCATIONS.with(Cell::get);
        for _ in 0..200 {
            logits.copy_from_slice(&source);
            s.sample(&mut logits).expect("drawn");
        }
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0, "{:?}", s.params());
    }
    assert!(ALLOCATIONS.with(Cell::get) > 0, "the counter counts");
}
