//! Two models, or one model run in two ways, on the same tokens: how far apart, and from where.

use crate::{LmError, LmRunner, Result};

/// Tokens run at once; their logits and intermediates are held twice.
const ROWS: usize = 32;

/// Differences of one named value over all tokens.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Difference {
    /// Name of the value: `logits`, or an intermediate.
    pub name: String,
    /// Largest `|a - b|`; infinite when one is not finite.
    pub max: f64,
    /// Root of the mean of `(a - b)²`.
    pub rms: f64,
    /// Root of the mean of `a²`, to judge the others by.
    pub scale: f64,
    n: f64,
}

/// What a comparison found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Comparison {
    /// Tokens compared.
    pub tokens: usize,
    /// Logits.
    pub logits: Difference,
    /// Mean over tokens of the Kullback-Leibler divergence of B's predictions from A's, in nats.
    pub kl_mean: f64,
    /// The largest of them.
    pub kl_max: f64,
    /// Tokens for which both find the same next token most likely.
    pub same_top: usize,
    /// Intermediates in the order in which the model computes them.
    pub layers: Vec<Difference>,
    /// Intermediates that only one has.
    pub unmatched: Vec<String>,
}

impl Difference {
    fn new(name: &str) -> Difference {
        Difference { name: name.into(), ..Difference::default() }
    }

    fn add(&mut self, a: &[f32], b: &[f32]) {
        let (mut squares, mut scale) = (self.rms, self.scale);
        for (a, b) in a.iter().zip(b) {
            let (a, d) = (f64::from(*a), f64::from(*a) - f64::from(*b));
            self.max = if d.is_finite() { self.max.max(d.abs()) } else { f64::INFINITY };
            squares += d * d;
            scale += a * a;
        }
        if a.len() != b.len() {
            self.max = f64::INFINITY;
        }
        (self.rms, self.scale, self.n) = (squares, scale, self.n + a.len() as f64);
    }

    /// From sums to roots of means.
    fn finish(mut self) -> Difference {
        let n = self.n.max(1.0);
        (self.rms, self.scale) = ((self.rms / n).sqrt(), (self.scale / n).sqrt());
        self
    }

    /// `rms` of the difference over `rms` of A's values.
    pub fn relative(&self) -> f64 {
        if self.scale > 0.0 { self.rms / self.scale } else { self.rms }
    }
}

/// Runs both on `ids`, one sequence from an empty cache.  Build the runners with
/// [`taps`](crate::LmBuilder::taps) for differences by layer.
///
/// # Errors
/// Vocabularies of different sizes, and whatever running says.
pub fn compare(a: &mut LmRunner, b: &mut LmRunner, ids: &[u32], each: &mut dyn FnMut(usize, usize) -> bool) -> Result<Comparison> {
    let vocab = a.vocab_size();
    if vocab != b.vocab_size() {
        return Err(LmError::Vocabularies { a: vocab, b: b.vocab_size() });
    }
    if ids.is_empty() {
        return Err(LmError::EmptyPrompt);
    }
    a.forget()?;
    b.forget()?;
    let (x, y) = (a.open()?, b.open()?);
    let mut found = Comparison { logits: Difference::new("logits"), ..Comparison::default() };
    for (i, piece) in ids.chunks(ROWS).enumerate() {
        let left = a.score(&[(x, piece)])?.to_vec();
        let right = b.score(&[(y, piece)])?;
        found.logits.add(&left, right);
        for (p, q) in left.chunks_exact(vocab).zip(right.chunks_exact(vocab)) {
            found.prediction(p, q);
        }
        found.intermediates(a.tapped()?, b.tapped()?);
        if !each((i * ROWS + piece.len()).min(ids.len()), ids.len()) {
            break;
        }
    }
    a.close(x)?;
    b.close(y)?;
    found.logits = found.logits.finish();
    found.layers = found.layers.into_iter().map(Difference::finish).collect();
    found.kl_mean /= found.tokens.max(1) as f64;
    Ok(found)
}

impl Comparison {
    /// The predictions of both after one token.
    fn prediction(&mut self, p: &[f32], q: &[f32]) {
        let kl = kl(p, q);
        self.tokens += 1;
        self.kl_mean += kl;
        self.kl_max = self.kl_max.max(kl);
        self.same_top += usize::from(top(p) == top(q));
    }

    fn intermediates(&mut self, a: Vec<(String, Vec<f32>)>, mut b: Vec<(String, Vec<f32>)>) {
        let mut missing = vec![];
        for (name, values) in a {
            let Some(at) = b.iter().position(|o| o.0 == name) else {
                missing.push(name);
                continue;
            };
            let (_, other) = b.remove(at);
            match self.layers.iter_mut().find(|l| l.name == name) {
                Some(l) => l.add(&values, &other),
                None => {
                    let mut l = Difference::new(&name);
                    l.add(&values, &other);
                    self.layers.push(l);
                }
            }
        }
        self.unmatched = missing.into_iter().chain(b.into_iter().map(|o| o.0)).collect();
    }
}

/// The first of the most likely tokens.
pub(crate) fn top(logits: &[f32]) -> usize {
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, v)| if *v > b.1 { (i, *v) } else { b }).0
}

/// `Σ p log(p / q)` of the softmaxes of two rows of logits, in nats; never below 0.
pub(crate) fn kl(p: &[f32], q: &[f32]) -> f64 {
    let log_sum = |v: &[f32]| {
        let most = v.iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
        most + v.iter().map(|x| (f64::from(*x) - most).exp()).sum::<f64>().ln()
    };
    let (a, b) = (log_sum(p), log_sum(q));
    let terms = p.iter().zip(q).map(|(x, y)| {
        let (x, y) = (f64::from(*x) - a, f64::from(*y) - b);
        if x == f64::NEG_INFINITY { 0.0 } else { x.exp() * (x - y) }
    });
    terms.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_are_those_of_the_softmaxes() {
        assert_eq!(kl(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]), 0.0);
        // Three quarters and one quarter, against halves.
        let got = kl(&[3f32.ln(), 0.0], &[0.0, 0.0]);
        let want = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((got - want).abs() < 1e-7, "{got} {want}");
    }

    #[test]
    fn differences_are_of_all_that_was_added() {
        let mut d = Difference::new("x");
        d.add(&[3.0, 0.0], &[3.0, 1.0]);
        d.add(&[4.0, 0.0], &[4.0, -1.0]);
        let d = d.finish();
        assert_eq!((d.max, d.rms, d.scale), (1.0, 0.5f64.sqrt(), 2.5));
        let mut d = Difference::new("x");
        d.add(&[1.0], &[f32::NAN]);
        assert_eq!(d.max, f64::INFINITY);
    }
}
