//! Perplexity of a text: how surprised a model is by it.
//!
//! The method of llama.cpp's `perplexity` tool, so that figures compare: the text's tokens are cut into chunks of `ctx`
//! tokens, each starts from an empty cache, and of each only the second half is scored, so that every scored token has
//! at least `ctx / 2` tokens before it.  Where the tokenizer begins texts with a token of its own, it replaces the first
//! of each chunk.  With a stride, windows of `ctx` tokens begin every `stride` tokens and the last `stride` of each are
//! scored.  Perplexity is `exp` of the mean negative log likelihood; its error is that of the mean, to first order.

use crate::{LmError, LmRunner, Result};

/// Rows of logits held at once.
const ROWS: usize = 64;

/// How to cut a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// Tokens per chunk; at least 4.
    pub ctx: usize,
    /// Tokens from chunk to chunk, all of which are scored; `None` for whole chunks of which the second half is.
    pub stride: Option<usize>,
    /// Most chunks.
    pub limit: Option<usize>,
}

/// A running estimate.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Estimate {
    /// Chunks done.
    pub chunks: usize,
    /// Chunks in all.
    pub of: usize,
    /// Tokens scored.
    pub scored: usize,
    sum: f64,
    squares: f64,
}

impl Windows {
    /// First token, first token that is predicted, and end of every chunk of a text of `n` tokens.
    fn chunks(self, n: usize) -> Result<Vec<(usize, usize, usize)>> {
        let Windows { ctx, stride, limit } = self;
        let refuse = |why: String| Err(LmError::Windows { why });
        if ctx < 4 {
            return refuse(format!("chunks of {ctx} tokens, expected at least 4"));
        }
        if let Some(s) = stride.filter(|s| *s == 0 || *s >= ctx) {
            return refuse(format!("a stride of {s} tokens, expected from 1 to {}, less than a chunk", ctx - 1));
        }
        if n < ctx {
            return refuse(format!("a text of {n} tokens, expected at least one chunk of {ctx}; give a longer text or a smaller --ctx"));
        }
        let step = stride.unwrap_or(ctx);
        // The token after the first of the second half is the first that is predicted.
        let skip = stride.map_or(ctx / 2 + 1, |s| ctx - s);
        let starts = (0..).map(|i| i * step).take_while(|at| at + ctx <= n).take(limit.unwrap_or(usize::MAX));
        Ok(starts.map(|at| (at, at + skip, at + ctx)).collect())
    }
}

impl Estimate {
    fn add(&mut self, nll: f64) {
        self.scored += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }

    /// Mean negative log likelihood in nats.
    pub fn nll(&self) -> f64 {
        self.sum / self.scored.max(1) as f64
    }

    /// Perplexity.
    pub fn perplexity(&self) -> f64 {
        self.nll().exp()
    }

    /// One standard error of the perplexity; `None` with fewer than two tokens.
    pub fn error(&self) -> Option<f64> {
        let n = self.scored as f64;
        let variance = self.squares / n - self.nll().powi(2);
        (self.scored > 1 && variance >= 0.0).then(|| (variance / (n - 1.0)).sqrt() * self.perplexity())
    }
}

/// `-log softmax(logits)[token]`, in f64.
pub(crate) fn nll(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - most).exp()).sum();
    most + sum.ln() - f64::from(logits.get(token as usize).copied().unwrap_or(f32::NAN))
}

impl LmRunner {
    /// The perplexity of `ids`, a text as the tokenizer encodes it.  `each` hears the estimate after
    /// every chunk; false ends it there.
    ///
    /// # Errors
    /// Windows that do not fit the text or the runner's context length; whatever running says.
    pub fn perplexity(&mut self, ids: &[u32], windows: Windows, each: &mut dyn FnMut(&Estimate) -> bool) -> Result<Estimate> {
        let chunks = windows.chunks(ids.len())?;
        let bos = self.tokenizer().ok().filter(|t| t.encode("", true).is_ok_and(|e| e.first() == t.bos().as_ref() && !e.is_empty()));
        let bos = bos.and_then(|t| t.bos());
        let mut estimate = Estimate { of: chunks.len(), ..Estimate::default() };
        self.forget()?;
        for (start, first, end) in chunks {
            let mut chunk = ids[start..end].to_vec();
            if let Some(bos) = bos {
                chunk[0] = bos;
            }
            let seq = self.open()?;
            let scored = self.chunk(seq, &chunk, first - start, &mut estimate);
            self.close(seq)?;
            scored?;
            estimate.chunks += 1;
            if !each(&estimate) {
                break;
            }
        }
        Ok(estimate)
    }

    /// Scores the tokens of a chunk from `first` on.
    fn chunk(&mut self, seq: rlx_runtime::SeqId, chunk: &[u32], first: usize, estimate: &mut Estimate) -> Result<()> {
        let vocab = self.vocab_size();
        // The logits of a token predict the one after it.
        let from = first - 1;
        if from > 0 {
            self.prefill(seq, &chunk[..from], |_, _| {})?;
        }
        for at in (from..chunk.len() - 1).step_by(ROWS) {
            let end = (at + ROWS).min(chunk.len() - 1);
            let logits = self.score(&[(seq, &chunk[at..end])])?;
            for (row, next) in logits.chunks_exact(vocab).zip(&chunk[at + 1..=end]) {
                estimate.add(nll(row, *next));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_those_of_the_method() {
        let whole = |ctx, n| Windows { ctx, stride: None, limit: None }.chunks(n).unwrap();
        assert_eq!(whole(8, 20), [(0, 5, 8), (8, 13, 16)]);
        assert_eq!(whole(8, 8), [(0, 5, 8)]);
        let stride = Windows { ctx: 8, stride: Some(3), limit: Some(3) }.chunks(40).unwrap();
        assert_eq!(stride, [(0, 5, 8), (3, 8, 11), (6, 11, 14)], "every token once");
        for bad in [(2, None, 9), (8, Some(8), 20), (8, Some(0), 20), (8, None, 7)] {
            assert!(Windows { ctx: bad.0, stride: bad.1, limit: None }.chunks(bad.2).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn likelihoods_are_those_of_the_softmax() {
        assert!((nll(&[0.0, 0.0, 0.0, 0.0], 2) - 4f64.ln()).abs() < 1e-12);
        assert!((nll(&[1000.0, 999.0], 1) - (1.0 + (-1f64).exp()).ln() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut e = Estimate::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|v| e.add(v));
        assert!((e.perplexity() - 2f64.exp()).abs() < 1e-12);
        assert!((e.error().unwrap() - (2.0 / 3.0 / 2.0f64).sqrt() * 2f64.exp()).abs() < 1e-9);
        assert_eq!(Estimate::default().error(), None);
    }
}
