//! A loaded model: feeds tokens, keeps sequences, hands out logits.

use crate::load::LmBuilder;
use crate::text::Text;
use crate::{LmError, LmFamily, LmModel, Result};
use rlx_compile::{Arg, Pool};
use rlx_ir::Bindings;
use rlx_runtime::{Batch, Cache, CompiledGraph, Explain, Memory, SeqId, Sequences, Session, Traffic, bytes_of_u32};
use rlx_text::{ChatTemplate, Constraint, Grammar, TokenTrie, Tokenizer, ToolConvention};
use std::path::PathBuf;
use std::sync::Arc;

/// A language model on a device.
pub struct LmRunner {
    model: Box<dyn LmModel>,
    session: Session,
    graph: CompiledGraph,
    cache: Cache,
    batch: Batch,
    dims: Bindings,
    tokens: Vec<u32>,
    rows: Vec<u32>,
    logits: Vec<f32>,
    pub(crate) max_seq: usize,
    pub(crate) eos: Vec<u32>,
    pub(crate) text: Result<Text>,
    pub(crate) stream: bool,
    explain: Explain,
    memory: Memory,
    path: PathBuf,
    /// The vocabulary as grammars need it, made when the first is used.
    trie: Option<TokenTrie>,
    /// The sequence of [`LmRunner::generate`] and chat, with the tokens it has cached.
    pub(crate) live: Option<(SeqId, Vec<u32>)>,
}

/// Which rows of a batch logits are wanted for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Rows {
    /// The last token of every sequence.
    Last,
    /// Every token.
    All,
    /// None: the batch only fills the cache.
    None,
}

impl LmRunner {
    /// Says what to load.
    pub fn builder(family: &'static dyn LmFamily) -> LmBuilder {
        LmBuilder::new(family)
    }

    /// The model of the Hugging Face Hub that `name` means, with everything as it is by default: see
    /// [`LmBuilder::pretrained`].
    ///
    /// # Errors
    /// Everything that downloading and loading may say.
    pub fn from_pretrained(family: &'static dyn LmFamily, name: &str) -> Result<LmRunner> {
        LmRunner::builder(family).pretrained(name)?.build()
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        model: Box<dyn LmModel>,
        session: Session,
        graph: CompiledGraph,
        pool: Pool,
        max_seq: usize,
        eos: Vec<u32>,
        text: Result<Text>,
        explain: Explain,
        memory: Memory,
        stream: bool,
        path: PathBuf,
    ) -> LmRunner {
        let chunk = session.profile().prefill_chunk.max(1).min(max_seq.max(1));
        LmRunner {
            cache: Cache::new(pool),
            batch: Batch::new(),
            dims: Bindings::new(),
            tokens: Vec::with_capacity(chunk),
            rows: Vec::with_capacity(chunk),
            logits: vec![],
            live: None,
            trie: None,
            model,
            session,
            graph,
            max_seq,
            eos,
            text,
            explain,
            memory,
            stream,
            path,
        }
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Most tokens of a sequence.
    pub fn max_seq(&self) -> usize {
        self.max_seq
    }

    /// Token ids that end an answer.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// What compiling did.
    pub fn explain(&self) -> &Explain {
        &self.explain
    }

    /// What was planned to be held.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Bytes held now for activations and caches.
    pub fn held_bytes(&self) -> u64 {
        self.graph.held_bytes()
    }

    /// The bytes that one decoding step moves: a token of each of `streams` sequences, behind `context` cached ones.
    ///
    /// # Errors
    /// What the plan says of its dimensions.
    pub fn traffic(&self, streams: usize, context: usize) -> Result<Traffic> {
        let n = streams as u64;
        let dims = Bindings::new().with("T", n).with("S", n).with("R", n);
        Ok(self.session.traffic(self.graph.plan(), &dims, Sequences { count: n, past: context as u64, new: 1 })?)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Arc<Tokenizer>> {
        match &self.text {
            Ok(t) => Ok(Arc::clone(&t.tokenizer)),
            Err(e) => Err(self.text_error(e)),
        }
    }

    /// The chat template.
    pub fn template(&self) -> Result<(&ChatTemplate, &serde_json::Map<String, serde_json::Value>)> {
        match &self.text {
            Ok(t) => match &t.template {
                Ok(Some(template)) => Ok((template, &t.variables)),
                Ok(None) => Err(LmError::NoTemplate { path: self.path.clone() }),
                Err(e) => Err(LmError::Template { source: e.again() }),
            },
            Err(e) => Err(self.text_error(e)),
        }
    }

    /// Writes prompts by another template than the checkpoint's.
    pub fn set_template(&mut self, template: ChatTemplate) -> Result<()> {
        match &mut self.text {
            Ok(t) => {
                t.template = Ok(Some(template));
                Ok(())
            }
            Err(_) => self.tokenizer().map(drop),
        }
    }

    /// Renders the checkpoint's template of this name from now on.
    pub fn choose_template(&mut self, name: &str) -> Result<()> {
        self.template()?;
        let Ok(Text { template: Ok(slot), .. }) = &mut self.text else { return Ok(()) };
        if let Some(template) = slot.take() {
            // A wrong name leaves the template that was there.
            let known = template.names().any(|n| n == name);
            let chosen = if known { template.choose(name) } else { Ok(template) };
            *slot = Some(chosen?);
            if !known {
                let names: Vec<String> = slot.iter().flat_map(|t| t.names()).map(str::to_owned).collect();
                return Err(LmError::NoSuchTemplate { name: name.into(), names: names.join(", ") });
            }
        }
        Ok(())
    }

    /// How the model writes tool calls, as its chat template and vocabulary tell.
    pub fn tool_convention(&self) -> Result<Option<ToolConvention>> {
        let (template, _) = self.template()?;
        let tokenizer = self.tokenizer()?;
        let source = template.source(true).map_err(|source| LmError::Template { source })?;
        Ok(ToolConvention::detect(source, &|token| tokenizer.id(token).is_some()))
    }

    /// The constraint that a grammar puts on an answer.
    pub(crate) fn constraint(&mut self, grammar: &Grammar) -> Result<Constraint> {
        let trie = match &self.trie {
            Some(trie) => trie.clone(),
            None => self.trie.insert(TokenTrie::new(&*self.tokenizer()?, &self.eos)?).clone(),
        };
        Ok(Constraint::new(&trie, grammar)?)
    }

    /// A second copy of the error that opening the tokenizer gave.
    fn text_error(&self, e: &LmError) -> LmError {
        match e {
            LmError::NoTokenizer { path } => LmError::NoTokenizer { path: path.clone() },
            other => LmError::Io { file: self.path.clone(), source: std::io::Error::other(other.to_string()) },
        }
    }

    /// The cache of sequences.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Opens a sequence.
    pub fn open(&mut self) -> Result<SeqId> {
        Ok(self.cache.open()?)
    }

    /// Frees a sequence.
    pub fn close(&mut self, id: SeqId) -> Result<()> {
        Ok(self.cache.close(id)?)
    }

    /// Forgets all but the first `len` tokens of a sequence.
    pub fn truncate(&mut self, id: SeqId, len: usize) -> Result<()> {
        Ok(self.cache.truncate(id, len)?)
    }

    /// Feeds new tokens of several sequences in one call; returns the logits of the last token of
    /// each, `[S,V]`.
    pub fn step(&mut self, parts: &[(SeqId, &[u32])]) -> Result<&[f32]> {
        self.forward(parts, Rows::Last)
    }

    /// Feeds new tokens; returns the logits of every token, `[T,V]`.
    pub fn score(&mut self, parts: &[(SeqId, &[u32])]) -> Result<&[f32]> {
        self.forward(parts, Rows::All)
    }

    pub(crate) fn forward(&mut self, parts: &[(SeqId, &[u32])], want: Rows) -> Result<&[f32]> {
        let vocab = self.model.vocab_size();
        for (id, new) in parts {
            let tokens = self.cache.len(*id)? + new.len();
            if tokens > self.max_seq {
                return Err(LmError::TooLong { tokens, max_seq: self.max_seq });
            }
            if let Some(id) = new.iter().find(|t| **t as usize >= vocab) {
                return Err(LmError::TokenId { id: *id, vocab });
            }
        }
        self.batch.clear();
        self.tokens.clear();
        self.rows.clear();
        for (id, new) in parts {
            self.cache.reserve(*id, new.len())?;
            self.batch.push(&self.cache, *id, new.len())?;
            let start = self.tokens.len() as u32;
            self.tokens.extend_from_slice(new);
            match want {
                Rows::Last if !new.is_empty() => self.rows.push(self.tokens.len() as u32 - 1),
                Rows::All => self.rows.extend(start..self.tokens.len() as u32),
                _ => {}
            }
        }
        self.dims.set("T", self.tokens.len() as u64);
        self.dims.set("S", parts.len() as u64);
        self.dims.set("R", self.rows.len() as u64);
        let args = [Arg::Tensor(bytes_of_u32(&self.tokens)), Arg::Segments(self.batch.ragged()), Arg::Tensor(bytes_of_u32(&self.rows))];
        self.graph.run(&self.dims, &args)?;
        for (id, new) in parts {
            self.cache.advance(*id, new.len())?;
        }
        self.graph.read_f32(0, &self.dims, &mut self.logits)?;
        Ok(&self.logits)
    }

    /// Named outputs of the last call beside the logits (see [`LmBuilder::taps`]).
    pub fn tapped(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let names = self.graph.graph().outputs.iter().enumerate().skip(1);
        names
            .map(|(i, (name, _))| {
                let mut v = vec![];
                self.graph.read_f32(i, &self.dims, &mut v)?;
                Ok((name.to_string(), v))
            })
            .collect()
    }

    /// Feeds a long run of tokens of one sequence in chunks of the profile's size; returns the logits
    /// of the last token, `[V]`.  `progress` hears tokens done and in all.
    pub fn prefill(&mut self, id: SeqId, tokens: &[u32], mut progress: impl FnMut(usize, usize)) -> Result<&[f32]> {
        self.feed(id, tokens, &mut |done, all| {
            progress(done, all);
            true
        })?;
        Ok(&self.logits)
    }

    /// As [`LmRunner::prefill`], until `go_on` returns false; tells whether all tokens were fed.
    pub(crate) fn feed(&mut self, id: SeqId, tokens: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<bool> {
        if tokens.is_empty() {
            return Err(LmError::EmptyPrompt);
        }
        let chunk = match self.session.profile().prefill_chunk {
            0 => tokens.len(),
            n => n,
        };
        let mut at = 0;
        while tokens.len() - at > chunk {
            self.forward(&[(id, &tokens[at..at + chunk])], Rows::None)?;
            at += chunk;
            if !go_on(at, tokens.len()) {
                return Ok(false);
            }
        }
        self.forward(&[(id, &tokens[at..])], Rows::Last)?;
        go_on(tokens.len(), tokens.len());
        Ok(true)
    }

    /// The logits of the last call, to sample from in place.
    pub(crate) fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    /// Logits after a prompt, `[V]`: what the next token may be.  Uses a sequence of its own.
    pub fn predict_logits(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.forget()?;
        let id = self.open()?;
        let out = self.prefill(id, ids, |_, _| {}).map(<[f32]>::to_vec);
        self.close(id)?;
        out
    }

    /// Drops the conversation that is cached.
    pub fn forget(&mut self) -> Result<()> {
        if let Some((id, _)) = self.live.take() {
            self.cache.close(id)?;
        }
        Ok(())
    }
}
