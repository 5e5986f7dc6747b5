//! Logits `[V]` → one id.
//!
//! Steps, in this order: repetition, frequency and presence penalties; then, at temperature 0, the largest
//! logit (lowest id among equals); otherwise temperature, top-k, top-p, min-p and a draw from what is left.
//! That is the order of Hugging Face's `generate`; llama.cpp cuts first and applies the temperature last.
//!
//! The same seed, parameters and logits give the same ids on every machine whose `exp` is the same; the
//! generator is xoshiro256++ (Blackman and Vigna, 2019) seeded through SplitMix64.
//!
//! After the first call nothing is allocated as long as the number of logits stays the same.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::{Result, TextError};

/// What to do with logits.  The default is greedy.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerParams {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this fraction of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens seen before are divided (positive) or multiplied (negative) by it; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token seen before.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token once for each time it was seen.
    pub frequency_penalty: f32,
    /// How many of the latest tokens the penalties look at; 0 looks at all.
    pub penalty_window: usize,
    /// Start of the random sequence.
    pub seed: u64,
}

impl Default for SamplerParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            seed: 0,
        }
    }
}

impl SamplerParams {
    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// Names the first one outside, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let check = |name, value: f32, ok: bool, expected| {
            let found = value.to_string();
            if ok { Ok(()) } else { Err(TextError::Parameter { name, found, expected }) }
        };
        let Self { temperature: t, top_p, min_p, repetition_penalty: r, presence_penalty: p, frequency_penalty: f, .. } = *self;
        check("temperature", t, t.is_finite() && t >= 0.0, "a finite number, 0 (greedy) or more")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "more than 0 and at most 1 (1 keeps all)")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 (keeps all) to 1")?;
        check("repetition_penalty", r, r.is_finite() && r > 0.0, "a finite number above 0 (1 does nothing)")?;
        check("presence_penalty", p, p.is_finite(), "a finite number")?;
        check("frequency_penalty", f, f.is_finite(), "a finite number")
    }

    fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Draws ids from logits.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplerParams,
    rng: Xoshiro256,
    candidates: Vec<Candidate>,
    history: History,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    /// Logit, later its exponential relative to the largest.
    weight: f32,
}

/// Likeliest first; equals by id.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

impl Sampler {
    /// A sampler at the beginning of its random sequence.
    ///
    /// # Errors
    /// A parameter is out of range.
    pub fn new(params: SamplerParams) -> Result<Self> {
        params.validate()?;
        let (rng, history) = (Xoshiro256::new(params.seed), History::new(params.penalty_window));
        Ok(Self { params, rng, candidates: Vec::new(), history })
    }

    /// The parameters in force.
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// Lets the penalties know of a token that was not drawn here, such as one of the prompt.
    pub fn accept(&mut self, id: u32) {
        if self.params.has_penalties() {
            self.history.push(id);
        }
    }

    /// Draws one id and remembers it for the penalties.  `logits` `[V]` are changed by the penalties;
    /// minus infinity forbids a token.
    ///
    /// # Errors
    /// There are no logits, some are NaN or plus infinity, or all are forbidden.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        check_logits(logits)?;
        if self.params.has_penalties() {
            self.history.reserve(logits.len());
            self.penalise(logits);
        }
        let id = if self.params.temperature == 0.0 { argmax(logits) } else { self.draw(logits) };
        self.accept(id);
        Ok(id)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let p = &self.params;
        for (id, count) in self.history.counts() {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            *logit -= p.presence_penalty + p.frequency_penalty * count as f32;
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        self.cut(logits);
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.weight)).sum();
        let mut left = self.rng.uniform() * total;
        for c in &self.candidates {
            left -= f64::from(c.weight);
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding can leave a remainder; the last candidate with any weight takes it.
        let last = self.candidates.iter().rev().find(|c| c.weight > 0.0);
        last.map_or_else(|| argmax(logits), |c| c.id)
    }

    /// Fills `candidates` with the ids that may be drawn and their unnormalised probabilities.
    fn cut(&mut self, logits: &[f32]) {
        let all = (0u32..).zip(logits).map(|(id, &weight)| Candidate { id, weight });
        self.candidates.clear();
        self.candidates.extend(all.filter(|c| c.weight > f32::NEG_INFINITY));
        let k = self.params.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, likelier);
            self.candidates.truncate(k);
        }
        let max = self.candidates.iter().map(|c| c.weight).fold(f32::NEG_INFINITY, f32::max);
        for c in &mut self.candidates {
            // A temperature near 0 sends differences to infinity: exp of it is 0, and of the largest 1.
            c.weight = if c.weight == max { 1.0 } else { ((c.weight - max) / self.params.temperature).exp() };
        }
        if self.params.top_p < 1.0 {
            self.cut_top_p();
        }
        let floor = self.params.min_p;
        self.candidates.retain(|c| c.weight >= floor);
    }

    /// Sorts only as far as the sum needs.
    fn cut_top_p(&mut self) {
        let c = &mut self.candidates;
        let total: f64 = c.iter().map(|c| f64::from(c.weight)).sum();
        let wanted = total * f64::from(self.params.top_p);
        let (mut sum, mut sorted, mut chunk) = (0.0, 0, 64);
        while sorted < c.len() {
            let end = c.len().min(sorted + chunk);
            let rest = &mut c[sorted..];
            if end - sorted < rest.len() {
                rest.select_nth_unstable_by(end - sorted, likelier);
            }
            c[sorted..end].sort_unstable_by(likelier);
            for at in sorted..end {
                sum += f64::from(c[at].weight);
                if sum >= wanted {
                    c.truncate(at + 1);
                    return;
                }
            }
            sorted = end;
            chunk *= 4;
        }
    }
}

/// Position of the largest logit, the lowest among equals.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &x) in (0u32..).zip(logits) {
        if x > best.1 {
            best = (id, x);
        }
    }
    best.0
}

fn check_logits(logits: &[f32]) -> Result<()> {
    let refuse = |reason: String| Err(TextError::Logits { reason });
    let n = logits.len();
    // One pass that vectorises; the counting pass only runs when something is wrong.
    let fine = logits.iter().all(|&x| x < f32::INFINITY);
    if !fine {
        let nan = logits.iter().filter(|x| x.is_nan()).count();
        let infinite = logits.iter().filter(|&&x| x == f32::INFINITY).count();
        return refuse(format!(
            "{nan} of {n} are NaN and {infinite} are +inf, expected finite numbers or -inf; the weights or a kernel are damaged"
        ));
    }
    if !logits.iter().any(|&x| x > f32::NEG_INFINITY) {
        return refuse(format!("all {n} are -inf, so that no token is allowed"));
    }
    Ok(())
}

/// Which tokens were seen how often within the window.
#[derive(Debug, Clone)]
struct History {
    window: usize,
    recent: VecDeque<u32>,
    /// Times seen, by id.
    count: Vec<u32>,
    /// Ids ever seen, once each.
    seen: Vec<u32>,
    known: Vec<bool>,
}

impl History {
    fn new(window: usize) -> Self {
        let recent = VecDeque::with_capacity(window.min(1 << 16));
        Self { window, recent, count: Vec::new(), seen: Vec::new(), known: Vec::new() }
    }

    /// Room for every id below `n`, so that pushing allocates nothing.
    fn reserve(&mut self, n: usize) {
        if self.count.len() < n {
            self.count.resize(n, 0);
            self.known.resize(n, false);
        }
        self.seen.reserve(self.count.len() - self.seen.len());
    }

    fn push(&mut self, id: u32) {
        let at = id as usize;
        // Ids beyond any vocabulary would only cost memory.
        if at >= 1 << 24 {
            return;
        }
        self.reserve(at + 1);
        self.count[at] += 1;
        if !std::mem::replace(&mut self.known[at], true) {
            self.seen.push(id);
        }
        if self.window > 0 {
            if self.recent.len() == self.window
                && let Some(old) = self.recent.pop_front()
            {
                self.count[old as usize] -= 1;
            }
            self.recent.push_back(id);
        }
    }

    fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.seen.iter().map(|&id| (id, self.count[id as usize])).filter(|(_, n)| *n > 0)
    }
}

/// xoshiro256++ 1.0.
#[derive(Debug, Clone)]
struct Xoshiro256([u64; 4]);

impl Xoshiro256 {
    fn new(mut seed: u64) -> Self {
        Self(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let out = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        out
    }

    /// In [0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_gives_the_published_numbers() {
        let mut rng = Xoshiro256([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| rng.next()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
        assert_eq!(Xoshiro256::new(1_234_567).0[0], 6_457_827_717_110_365_317);
    }
}
