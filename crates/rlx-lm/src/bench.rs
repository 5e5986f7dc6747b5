//! What a loaded model does per second: prompts, decoding behind a context, several sequences at once.
//!
//! Tokens are arbitrary and nothing is sampled, so that a figure is of the model alone.  What figures mean, and
//! what they are compared with, is the caller's.

use crate::{LmRunner, Result};
use rlx_runtime::SeqId;
use std::time::Instant;

/// What to feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A prompt, in chunks of the profile's size.
    Prefill,
    /// One token a call and sequence.
    Decode,
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Test {
    /// What is fed while the clock runs.
    pub kind: Kind,
    /// Tokens of each sequence while the clock runs.
    pub tokens: usize,
    /// Tokens of each sequence that are cached before it starts.
    pub depth: usize,
    /// Sequences, all in one call.
    pub streams: usize,
}

impl Test {
    /// A prompt into an empty cache.
    pub fn prefill(tokens: usize) -> Test {
        Test { kind: Kind::Prefill, tokens, depth: 0, streams: 1 }
    }

    /// Decoding behind `depth` tokens, `streams` sequences at once.
    pub fn decode(tokens: usize, depth: usize, streams: usize) -> Test {
        Test { kind: Kind::Decode, tokens, depth, streams: streams.max(1) }
    }

    /// `pp512`, `tg64`; with what is cached before, `tg64@8192`; with several sequences, `tg64x16`; both, `tg64x16@2048`.
    pub fn name(&self) -> String {
        let kind = if self.kind == Kind::Prefill { "pp" } else { "tg" };
        let streams = if self.streams > 1 { format!("x{}", self.streams) } else { String::new() };
        let depth = if self.depth > 0 { format!("@{}", self.depth) } else { String::new() };
        format!("{kind}{}{streams}{depth}", self.tokens)
    }

    /// Most tokens of a sequence.
    pub fn context(&self) -> usize {
        self.depth + self.tokens
    }

    /// Tokens of all sequences while the clock runs.
    pub fn counted(&self) -> usize {
        self.tokens * self.streams
    }
}

/// How often to measure, and what not to count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rounds {
    /// Rounds that count.
    pub counted: usize,
    /// Rounds before them that do not.
    pub warmup: usize,
}

/// Seconds of every counted round of every test, in their order.  Tests that begin with an empty cache go round in
/// turn; then each deep one fills the cache once and is measured in all rounds.  `progress` hears measurements done
/// and in all; returning false ends it with the rounds so far.
///
/// # Errors
/// Whatever running says; more sequences or tokens than the model was built for.
pub fn measure(
    runner: &mut LmRunner,
    tests: &[Test],
    rounds: Rounds,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![vec![]; tests.len()];
    let per_test = rounds.counted + rounds.warmup;
    let (mut done, all) = (0, tests.len() * per_test);
    let mut order: Vec<usize> = vec![];
    let (shallow, deep): (Vec<usize>, Vec<usize>) = (0..tests.len()).partition(|i| tests[*i].depth == 0);
    for _ in 0..per_test {
        order.extend(&shallow);
    }
    for i in deep {
        order.extend(std::iter::repeat_n(i, per_test));
    }
    let mut seen = vec![0; tests.len()];
    let mut open: Option<(usize, Vec<SeqId>)> = None;
    for i in order {
        if open.as_ref().is_some_and(|o| o.0 != i || tests[i].depth == 0) {
            close(runner, &mut open)?;
        }
        let ids = match &open {
            Some((_, ids)) => ids.clone(),
            None => open.insert((i, filled(runner, &tests[i])?)).1.clone(),
        };
        let took = once(runner, &tests[i], &ids)?;
        if seen[i] >= rounds.warmup {
            seconds[i].push(took);
        }
        seen[i] += 1;
        done += 1;
        if !progress(done, all) {
            break;
        }
    }
    close(runner, &mut open)?;
    Ok(seconds)
}

fn close(runner: &mut LmRunner, open: &mut Option<(usize, Vec<SeqId>)>) -> Result<()> {
    open.take().into_iter().flat_map(|o| o.1).try_for_each(|id| runner.close(id))
}

/// Sequences with `depth` tokens each.
fn filled(runner: &mut LmRunner, t: &Test) -> Result<Vec<SeqId>> {
    let ids = (0..t.streams).map(|_| runner.open()).collect::<Result<Vec<_>>>()?;
    if t.depth > 0 {
        let tokens = arbitrary(runner, 0, t.depth);
        for id in &ids {
            runner.prefill(*id, &tokens, |_, _| {})?;
        }
    }
    Ok(ids)
}

/// Seconds of one measurement; the sequences are as before afterwards.
fn once(runner: &mut LmRunner, t: &Test, ids: &[SeqId]) -> Result<f64> {
    let tokens = arbitrary(runner, t.depth, t.tokens);
    let started = Instant::now();
    match t.kind {
        Kind::Prefill => {
            for id in ids {
                runner.prefill(*id, &tokens, |_, _| {})?;
            }
        }
        Kind::Decode => {
            for token in &tokens {
                let parts: Vec<(SeqId, &[u32])> = ids.iter().map(|id| (*id, std::slice::from_ref(token))).collect();
                runner.step(&parts)?;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    ids.iter().try_for_each(|id| runner.truncate(*id, t.depth))?;
    Ok(seconds)
}

/// `n` ids of the vocabulary, from the `from`th on.
fn arbitrary(runner: &LmRunner, from: usize, n: usize) -> Vec<u32> {
    let vocab = runner.vocab_size().max(1) as u64;
    (from as u64..(from + n) as u64).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(12_345) % vocab) as u32).collect()
}

/// The middle of the values, or the mean of the two in the middle; 0 of none.
pub fn median(v: &[f64]) -> f64 {
    let mut v = v.to_vec();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n if n % 2 == 1 => v[n / 2],
        n => (v[n / 2 - 1] + v[n / 2]) / 2.0,
    }
}

/// Counts [`peak_memory`] afresh from what this process has now; false where the system does not do that.
pub fn forget_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory this process ever had, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn names_say_what_is_measured() {
        let names = [Test::prefill(512), Test::decode(64, 0, 1), Test::decode(64, 8192, 1), Test::decode(64, 2048, 16)].map(|t| t.name());
        assert_eq!(names, ["pp512", "tg64", "tg64@8192", "tg64x16@2048"]);
        assert_eq!((Test::decode(64, 2048, 16).context(), Test::decode(64, 2048, 16).counted()), (2112, 1024));
    }
}
