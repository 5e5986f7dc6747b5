//! Structured output: a grammar → which tokens may come next.
//!
//! A [`TokenTrie`] is made once from a tokenizer; a [`Constraint`] follows one answer.  Before a token is drawn
//! [`Constraint::mask`] sets the logits of all tokens that the grammar cannot continue with to minus infinity;
//! [`Constraint::accept`] moves on.  End-of-text tokens are allowed exactly where the grammar may end, and
//! control tokens only where a grammar names them.
//!
//! Parsing is llguidance's (Earley over regular-expression derivatives, <https://github.com/guidance-ai/llguidance>).
//! Schemas are checked first ([`schema`]): what the parser would ignore is refused by name, and depth, size and
//! counts are bounded.  Everything here is deterministic: equal answers give equal masks.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod gbnf;
pub mod schema;
mod trie;

use std::path::Path;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory, TokenParser, panic_utils};
use serde_json::{Value, json};

use crate::{Result, TextError};
pub use trie::TokenTrie;

/// Bytes of a schema or grammar.
pub const MAX_SOURCE: usize = 1 << 20;
/// Sum of the highest numbers of all repetitions `{m,n}` of a grammar: each costs time to compile.
pub const MAX_REPEATS: u64 = 1_000_000;
/// Stack for compiling: the compiler recurses over references and nested rules.
const STACK: usize = 256 << 20;
/// White space between the parts of a JSON value: one space, or a line break with indentation.  Without a bound a
/// model may write blanks for ever.
const JSON_SPACE: &str = r" |\n[ \t]{0,32}";

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that satisfies a schema.
    JsonSchema(Value),
    /// A grammar in llguidance's dialect of Lark, from `start`.
    Lark(String),
}

impl Grammar {
    /// A JSON schema as text.
    ///
    /// # Errors
    /// It is too long, is no JSON, or has a keyword that is not supported.
    pub fn json_schema(text: &str) -> Result<Self> {
        if text.len() > MAX_SOURCE {
            return Err(bad(SCHEMA, format!("{} bytes, expected at most {MAX_SOURCE}", text.len())));
        }
        let value: Value = serde_json::from_str(text).map_err(|e| bad(SCHEMA, e.to_string()))?;
        Self::schema(value)
    }

    /// A JSON schema.
    ///
    /// # Errors
    /// It has a keyword that is not supported, or too much of something.
    pub fn schema(value: Value) -> Result<Self> {
        schema::check(&value).map_err(|reason| bad(SCHEMA, reason))?;
        Ok(Self::JsonSchema(value))
    }

    /// A grammar as text: GBNF (with `::=`) or Lark.
    ///
    /// # Errors
    /// It is too long, or is GBNF that cannot be read.
    pub fn text(text: &str) -> Result<Self> {
        if text.len() > MAX_SOURCE {
            return Err(bad(GRAMMAR, format!("{} bytes, expected at most {MAX_SOURCE}", text.len())));
        }
        let repeats = repeats(text);
        if repeats > MAX_REPEATS {
            return Err(bad(GRAMMAR, format!("its repetitions {{m,n}} sum up to {repeats}, expected at most {MAX_REPEATS}")));
        }
        if gbnf::looks_like(text) {
            return gbnf::to_lark(text).map(Self::Lark).map_err(|reason| bad(GRAMMAR, reason));
        }
        Ok(Self::Lark(text.to_owned()))
    }

    /// The schema in `given`, which is JSON or names a file of it.
    ///
    /// # Errors
    /// The file cannot be read; as [`json_schema`](Self::json_schema).
    pub fn json_schema_or_file(given: &str) -> Result<Self> {
        if given.trim_start().starts_with(['{', '[', '"']) || matches!(given.trim(), "true" | "false") {
            return Self::json_schema(given);
        }
        Self::json_schema(&read(Path::new(given))?)
    }

    /// The grammar in a file.
    ///
    /// # Errors
    /// The file cannot be read; as [`text`](Self::text).
    pub fn file(path: &Path) -> Result<Self> {
        Self::text(&read(path)?)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => SCHEMA,
            Self::Lark(_) => GRAMMAR,
        }
    }

    fn compile(&self, factory: &ParserFactory) -> Result<TokenParser, String> {
        let grammar = match self {
            Self::JsonSchema(Value::Object(fields)) => {
                let mut fields = fields.clone();
                fields.insert("x-guidance".into(), json!({ "whitespace_pattern": JSON_SPACE }));
                TopLevelGrammar::from_json_schema(Value::Object(fields))
            }
            Self::JsonSchema(other) => TopLevelGrammar::from_json_schema(other.clone()),
            Self::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| factory.create_parser(grammar))).map_err(|e| e.to_string())
    }
}

/// The sum of the highest numbers of what looks like a repetition.
fn repeats(text: &str) -> u64 {
    let numbers = |inside: &str| -> Option<u64> {
        let mut highest = inside.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse::<u64>().ok());
        highest.try_fold(0, |most, n| Some(most.max(n?)))
    };
    let braces = text.split('{').skip(1).filter_map(|behind| behind.get(..behind.find('}')?.min(64)));
    braces.filter_map(numbers).fold(0, u64::saturating_add)
}

const SCHEMA: &str = "JSON schema";
const GRAMMAR: &str = "grammar";

fn bad(what: &'static str, reason: impl Into<String>) -> TextError {
    TextError::Grammar { what, reason: reason.into() }
}

fn read(path: &Path) -> Result<String> {
    let io = |source| TextError::Io { path: path.into(), source };
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() || about.len() > MAX_SOURCE as u64 {
        let reason = format!("{} bytes, expected a file of at most {MAX_SOURCE}", about.len());
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)));
    }
    std::fs::read_to_string(path).map_err(io)
}

/// One answer on its way through a grammar.
pub struct Constraint {
    what: &'static str,
    matcher: Matcher,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Constraint {
    /// At the beginning of an answer.
    ///
    /// # Errors
    /// The grammar is not sound, uses what is not supported, or is too large to be compiled within bounds.
    pub fn new(trie: &TokenTrie, grammar: &Grammar) -> Result<Self> {
        let what = grammar.name();
        let compile = || -> Result<TokenParser, String> {
            let mut factory = trie.factory()?;
            *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
            grammar.compile(factory.quiet())
        };
        let compiled = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let thread = builder.spawn_scoped(scope, compile).map_err(|e| e.to_string())?;
            thread.join().unwrap_or_else(|_| Err("the compiler failed".into()))
        });
        let parser = compiled.map_err(|reason| bad(what, plain(&reason)))?;
        Ok(Self { what, matcher: Matcher::new(Ok(parser)) })
    }

    /// Forbids every token that cannot come next: its logit becomes minus infinity.  `logits` `[V]`; ids beyond
    /// the vocabulary are forbidden.
    ///
    /// # Errors
    /// No token can come next, or computing the mask ran past a bound.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| bad(self.what, plain(&e.to_string())))?;
        let words = allowed.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (chunk, word) in logits.chunks_mut(32).zip(words) {
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in chunk.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// Takes the token that was drawn.
    ///
    /// # Errors
    /// The grammar does not allow it.
    pub fn accept(&mut self, id: u32) -> Result<()> {
        self.matcher.consume_token(id).map_err(|e| bad(self.what, plain(&e.to_string())))
    }

    /// Whether the answer is complete and nothing can follow.
    pub fn is_done(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Whether the answer may end here.
    ///
    /// # Errors
    /// The parser failed before.
    pub fn may_end(&mut self) -> Result<bool> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|e| bad(self.what, plain(&e.to_string())))
    }
}

/// The parser's words without traces and state dumps, in one line of moderate length.
fn plain(reason: &str) -> String {
    let text = reason.split("\n<").next().unwrap_or_default();
    let line = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ");
    match line.char_indices().nth(400) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line,
    }
}
