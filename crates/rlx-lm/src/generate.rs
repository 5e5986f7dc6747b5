//! Generation: prompt in, tokens and text out.

use crate::runner::Rows;
use crate::{LmError, LmRunner, Result};
use rlx_runtime::SeqId;
use rlx_text::{Grammar, Sampler, SamplerParams, StopMatcher, TextStream, ToolCall, ToolConvention};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most new tokens.
    pub max_tokens: usize,
    /// How tokens are drawn; greedy by default.
    pub sampling: SamplerParams,
    /// Texts that end the answer; not part of it.
    pub stop: Vec<String>,
    /// Go on after end-of-text tokens.
    pub ignore_eos: bool,
    /// Leave special tokens out of the text.  Off by default: some checkpoints mark `<tool_call>` and the like
    /// as special; tokens that end the answer are never part of it.
    pub skip_special: bool,
    /// What the answer must look like.
    pub grammar: Option<Arc<Grammar>>,
    /// How the model writes tool calls; none looks for no calls.
    pub tools: Option<ToolConvention>,
    /// Set to true by anyone, it ends the answer: between chunks of the prompt, or before the next token.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl GenerateOptions {
    fn cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed))
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 512,
            sampling: SamplerParams::default(),
            stop: vec![],
            ignore_eos: false,
            skip_special: false,
            grammar: None,
            tools: None,
            cancel: None,
        }
    }
}

/// Why generation ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Finish {
    /// An end-of-text token.
    Eos,
    /// A stop text.
    Stop,
    /// The grammar is complete: nothing can follow.
    Complete,
    /// The limit of new tokens.
    MaxTokens,
    /// The context is full.
    Context,
    /// The caller said so.
    Cancelled,
}

/// What was generated, and how long it took.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The text (empty when only tokens were asked for).
    pub text: String,
    /// Tool calls in the text, when a convention was given.
    pub calls: Vec<ToolCall>,
    /// New tokens, an end-of-text token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache already.
    pub cached_tokens: usize,
    /// Time to the first token.
    pub prefill: Duration,
    /// Time for all further tokens.
    pub decode: Duration,
}

impl Generation {
    /// New prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        (self.prompt_tokens - self.cached_tokens) as f64 / self.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens per second after the first.
    pub fn decode_rate(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.decode.as_secs_f64().max(1e-9)
    }
}

impl LmRunner {
    /// Greedy tokens after a prompt: at most `n`, ending after an end-of-text token.  `on_token` hears
    /// each; returning false ends it.
    pub fn generate(&mut self, ids: &[u32], n: usize, mut on_token: impl FnMut(u32) -> bool) -> Result<Vec<u32>> {
        let options = GenerateOptions { max_tokens: n, ..GenerateOptions::default() };
        let mut sampler = Sampler::new(options.sampling.clone())?;
        Ok(self.run(ids, &options, &mut sampler, &mut |_, _| {}, &mut |t| Ok(on_token(t)))?.tokens)
    }

    /// Tokens after a prompt of tokens, without text: stop texts do not count.  `on_token` hears each;
    /// returning false ends it.
    pub fn generate_tokens(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize, usize),
        on_token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Generation> {
        let mut sampler = Sampler::new(options.sampling.clone())?;
        self.run(ids, options, &mut sampler, progress, &mut |t| Ok(on_token(t)))
    }

    /// Text after a prompt of tokens.  `on_text` hears pieces of whole characters as they are made;
    /// returning false ends it.
    pub fn generate_text(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        progress: &mut dyn FnMut(usize, usize),
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let tokenizer = self.tokenizer()?;
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let mut stream = TextStream::new(tokenizer, options.skip_special);
        let mut stops = StopMatcher::new(options.stop.iter().cloned());
        let (mut text, mut piece, streaming) = (String::new(), String::new(), self.stream);
        let mut stopped = false;
        let eos = self.eos.clone();
        let mut done = self.run(ids, options, &mut sampler, progress, &mut |token| {
            if eos.contains(&token) && !options.ignore_eos {
                return Ok(true); // ends anyway; its text is not part of the answer
            }
            piece.clear();
            stream.push_into(token, &mut piece)?;
            let out = stops.push(&piece);
            let go_on = !streaming || out.is_empty() || on_text(&out);
            text.push_str(&out);
            stopped = stops.stopped().is_some();
            Ok(go_on && !stopped)
        })?;
        if !stopped {
            let rest = stream.finish()?;
            let mut tail = stops.push(&rest);
            tail.push_str(&stops.finish());
            if streaming && !tail.is_empty() {
                on_text(&tail);
            }
            text.push_str(&tail);
        } else {
            done.finish = Finish::Stop;
        }
        if !streaming && !text.is_empty() {
            on_text(&text);
        }
        if let Some(convention) = options.tools {
            done.calls = convention.calls(&text);
        }
        done.text = text;
        Ok(done)
    }

    /// The sequence of the conversation, holding a prefix of `ids`, and how long that prefix is.
    fn resume(&mut self, ids: &[u32]) -> Result<(SeqId, usize)> {
        let Some((id, cached)) = &mut self.live else {
            let id = self.open()?;
            self.live = Some((id, vec![]));
            return Ok((id, 0));
        };
        let same = cached.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The last token is fed again: its logits are wanted.
        let keep = same.min(ids.len().saturating_sub(1));
        cached.truncate(keep);
        let id = *id;
        self.truncate(id, keep)?;
        Ok((id, keep))
    }

    /// Feeds the prompt, then draws tokens until something ends it.
    fn run(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        sampler: &mut Sampler,
        progress: &mut dyn FnMut(usize, usize),
        on_token: &mut dyn FnMut(u32) -> Result<bool>,
    ) -> Result<Generation> {
        if ids.is_empty() {
            return Err(LmError::EmptyPrompt);
        }
        if ids.len() > self.max_seq {
            return Err(LmError::TooLong { tokens: ids.len(), max_seq: self.max_seq });
        }
        let started = Instant::now();
        let mut constraint = options.grammar.as_ref().map(|g| self.constraint(g)).transpose()?;
        let (id, cached_tokens) = self.resume(ids)?;
        ids.iter().for_each(|t| sampler.accept(*t));
        let mut out = Generation {
            text: String::new(),
            calls: Vec::new(),
            tokens: Vec::with_capacity(options.max_tokens.min(self.max_seq)),
            finish: Finish::MaxTokens,
            prompt_tokens: ids.len(),
            cached_tokens,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let fed = self.feed(id, &ids[cached_tokens..], &mut |done, all| {
            progress(cached_tokens + done, cached_tokens + all);
            !options.cancelled()
        });
        self.remember(ids)?;
        let whole = fed?;
        let mut first = None;
        while out.tokens.len() < options.max_tokens {
            if !whole || options.cancelled() {
                out.finish = Finish::Cancelled;
                break;
            }
            if let Some(constraint) = &mut constraint {
                constraint.mask(self.logits_mut())?;
            }
            let token = sampler.sample(self.logits_mut())?;
            first.get_or_insert_with(Instant::now);
            out.tokens.push(token);
            let go_on = on_token(token)?;
            // A grammar allows the end only where it may end: nothing goes on behind that.
            if self.eos.contains(&token) && (!options.ignore_eos || constraint.is_some()) {
                out.finish = Finish::Eos;
                break;
            }
            if let Some(constraint) = &mut constraint {
                constraint.accept(token)?;
                if constraint.is_done() {
                    out.finish = Finish::Complete;
                    break;
                }
            }
            if !go_on {
                out.finish = Finish::Cancelled;
                break;
            }
            if ids.len() + out.tokens.len() > self.max_seq {
                out.finish = Finish::Context;
                break;
            }
            if out.tokens.len() < options.max_tokens {
                self.forward(&[(id, &[token])], Rows::Last)?;
                if let Some((_, cached)) = &mut self.live {
                    cached.push(token);
                }
            }
        }
        let first = first.unwrap_or_else(Instant::now);
        out.prefill = first - started;
        out.decode = first.elapsed();
        Ok(out)
    }

    /// Notes which tokens the live sequence holds after a prompt was fed (or partly, when it failed).
    fn remember(&mut self, ids: &[u32]) -> Result<()> {
        let Some((id, mut cached)) = self.live.take() else { return Ok(()) };
        let held = self.cache().len(id)?;
        cached.clear();
        cached.reserve(self.max_seq);
        cached.extend_from_slice(&ids[..held.min(ids.len())]);
        self.live = Some((id, cached));
        Ok(())
    }
}
