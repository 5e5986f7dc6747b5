//! One model run in two ways, greedily: the same tokens, or where they part and by how much.

use crate::compare::{kl, top};
use crate::{LmError, LmRunner, Result};

/// Where two greedy runs part: after the same tokens they take different next ones.
#[derive(Clone, PartialEq, Debug)]
pub struct Parting {
    /// New tokens before it, which are the same.
    pub at: usize,
    /// What the reference takes, and what the other takes.
    pub tokens: [u32; 2],
    /// Logits of both tokens in the reference.
    pub reference: [f32; 2],
    /// Logits of both tokens in the other.
    pub other: [f32; 2],
    /// How far the reference's first choice is ahead of its second.
    pub margin: f32,
}

impl Parting {
    /// How much the reference prefers its own token to the other's, in logits.
    pub fn gap(&self) -> f32 {
        self.reference[0] - self.reference[1]
    }

    /// How much the other prefers its own token to the reference's.
    pub fn other_gap(&self) -> f32 {
        self.other[1] - self.other[0]
    }
}

/// A greedy run of the reference, and the other beside it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Path {
    /// The reference's new tokens.
    pub tokens: Vec<u32>,
    /// The first place where the other would have taken another.
    pub parting: Option<Parting>,
    /// Kullback-Leibler divergence of the other's predictions from the reference's before each new token, in nats.
    pub kl: Vec<f64>,
    /// Smallest lead of the reference's first choice over its second, in logits.
    pub least_margin: f32,
}

/// Feeds `prompt` to both and then the reference's most likely tokens, at most `n`, up to an end-of-text token.
/// Because both read the same tokens, what the other would have written alone is known up to the parting.
/// `each` hears new tokens done and in all; returning false ends it.
///
/// # Errors
/// Vocabularies of different sizes, an empty prompt, and whatever running says.
pub fn greedy(
    reference: &mut LmRunner,
    other: &mut LmRunner,
    prompt: &[u32],
    n: usize,
    each: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Path> {
    let (a, b) = (reference.vocab_size(), other.vocab_size());
    if a != b {
        return Err(LmError::Vocabularies { a, b });
    }
    reference.forget()?;
    other.forget()?;
    let (x, y) = (reference.open()?, other.open()?);
    let mut path = Path { least_margin: f32::INFINITY, ..Path::default() };
    let mut left = reference.prefill(x, prompt, |_, _| {})?.to_vec();
    let mut right = other.prefill(y, prompt, |_, _| {})?.to_vec();
    while path.tokens.len() < n {
        let next = path.add(&left, &right);
        if !each(path.tokens.len(), n) || reference.eos().contains(&next) || path.tokens.len() == n {
            break;
        }
        left.copy_from_slice(reference.step(&[(x, &[next])])?);
        right.copy_from_slice(other.step(&[(y, &[next])])?);
    }
    reference.close(x)?;
    other.close(y)?;
    Ok(path)
}

impl Path {
    /// Adds the reference's next token by the logits of both.
    fn add(&mut self, left: &[f32], right: &[f32]) -> u32 {
        let (first, taken) = (top(left), top(right));
        let second = left.iter().enumerate().filter(|(i, _)| *i != first).fold(f32::NEG_INFINITY, |m, (_, v)| m.max(*v));
        let margin = left[first] - second;
        if first != taken && self.parting.is_none() {
            self.parting = Some(Parting {
                at: self.tokens.len(),
                tokens: [first as u32, taken as u32],
                reference: [left[first], left[taken]],
                other: [right[first], right[taken]],
                margin,
            });
        }
        self.least_margin = self.least_margin.min(margin);
        self.kl.push(kl(left, right));
        self.tokens.push(first as u32);
        first as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parting_is_kept_with_both_opinions() {
        let mut path = Path { least_margin: f32::INFINITY, ..Path::default() };
        assert_eq!(path.add(&[1.0, 3.0, 0.0], &[1.0, 2.5, 0.0]), 1);
        assert_eq!(path.add(&[2.0, 1.75, 1.0], &[1.5, 1.0, 2.0]), 0);
        assert_eq!(path.add(&[0.0, 1.0, 5.0], &[0.0, 5.0, 1.0]), 2);
        assert_eq!(path.tokens, [1, 0, 2]);
        let p = path.parting.as_ref().unwrap();
        assert_eq!((p.at, p.tokens, p.reference, p.other), (1, [0, 2], [2.0, 1.0], [1.5, 2.0]));
        assert_eq!((p.gap(), p.other_gap(), p.margin, path.least_margin), (1.0, 0.5, 0.25, 0.25));
        assert!(path.kl.len() == 3 && path.kl[2] > path.kl[0]);
    }
}
