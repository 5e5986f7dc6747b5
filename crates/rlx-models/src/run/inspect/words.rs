//! Tokenizer and chat template of a checkpoint, each inspected whatever is wrong with the other.

use super::page::{Page, count, first_of};
use rlx_core::config::ConfigSource;
use rlx_core::vocab::GgufVocab;
use rlx_core::weights::Checkpoint;
use rlx_lm::{LmError, Text};
use rlx_text::chat::NamedSources;
use rlx_text::tokenizer::convert::split_rule;
use rlx_text::{ChatTemplate, SpecialToken, Tokenizer, ToolConvention};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Largest JSON file that is read for what it says of itself.
const MAX_JSON: u64 = 256 << 20;

/// A tokenizer and what it does.
pub(super) struct Words {
    pub tokenizer: Arc<Tokenizer>,
    place: &'static str,
    kind: String,
    pre: Option<String>,
    /// What encoding adds around a text.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Ids that end an answer.
    ends: Vec<u32>,
}

/// The chat templates and what they do.
pub(super) struct Template {
    place: String,
    /// Names and lengths.
    sources: Vec<(String, usize)>,
    convention: Option<ToolConvention>,
    /// The compiled one, or why it cannot be.
    pub compiled: Result<ChatTemplate, String>,
    /// Variables every rendering gets.
    pub variables: Map<String, Value>,
}

/// Tokenizer and template; `Ok(None)` where there is none.
pub(super) struct Both {
    pub words: Result<Option<Words>, String>,
    pub template: Result<Option<Template>, String>,
}

impl Both {
    /// What a checkpoint carries; of a directory whose weights cannot be opened, what its files carry.
    pub fn of(checkpoint: Option<&Checkpoint>, dir: &Path) -> Both {
        let vocab = checkpoint.and_then(|c| c.gguf()).and_then(|g| GgufVocab::read(g).transpose());
        let text = match checkpoint {
            Some(c) => match Text::open(c) {
                Ok(t) => Ok(Some(t)),
                Err(LmError::NoTokenizer { .. }) => Ok(None),
                Err(e) => Err(e.to_string()),
            },
            None => from_dir(dir).map_err(|e| e.to_string()),
        };
        let ends = checkpoint.and_then(|c| ConfigSource::open(c).ok()?.eos_token_ids().ok()).unwrap_or_default();
        let place = if vocab.is_some() { "GGUF metadata" } else { "tokenizer.json" };
        let (kind, pre) = match &vocab {
            Some(Ok(v)) => gguf_kind(v),
            Some(Err(_)) => Default::default(),
            None => json_kind(&dir.join("tokenizer.json")),
        };
        let sources = match &vocab {
            Some(Ok(v)) => Ok(Some(("GGUF metadata", v.templates())).filter(|s| !s.1.is_empty())),
            Some(Err(e)) => Err(e.to_string()),
            None => in_dir(dir),
        };
        let (tokenizer, compiled, variables) = match text {
            Ok(Some(t)) => (Ok(Some(t.tokenizer)), Some(t.template), t.variables),
            Ok(None) => (Ok(None), None, Map::new()),
            Err(e) => (Err(e), None, Map::new()),
        };
        let template = sources.map(|found| found.map(|found| Template::of(found, compiled, variables, tokenizer.as_ref().ok())));
        let words = tokenizer.map(|t| t.map(|tokenizer| Words::of(tokenizer, place, kind, pre, ends)));
        Both { words, template }
    }
}

/// As [`Text::open`] of a checkpoint without a vocabulary of its own.
fn from_dir(dir: &Path) -> Result<Option<Text>, rlx_text::TextError> {
    let file = dir.join("tokenizer.json");
    if !file.is_file() {
        return Ok(None);
    }
    let tokenizer = Arc::new(Tokenizer::from_file(&file)?);
    let config = small_json(&dir.join("tokenizer_config.json"));
    Ok(Some(Text { tokenizer, template: ChatTemplate::from_dir(dir, config.as_ref()), variables: Map::new() }))
}

/// The templates of a directory and their file.
fn in_dir(dir: &Path) -> Result<Option<(&'static str, NamedSources)>, String> {
    ChatTemplate::sources(dir, small_json(&dir.join("tokenizer_config.json")).as_ref()).map_err(|e| e.to_string())
}

/// A JSON file where there is one; what is wrong with one, the readers of the libraries say.
fn small_json(file: &Path) -> Option<Value> {
    let size = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?.len();
    if size > MAX_JSON {
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn gguf_kind(v: &GgufVocab) -> (String, Option<String>) {
    let words = match v.model.as_str() {
        "gpt2" => "byte-level BPE",
        "gemma4" | "whitespace" => "BPE",
        "llama" => "SentencePiece BPE",
        "t5" => "unigram",
        "bert" => "WordPiece",
        "rwkv" => "longest token first",
        other => return (other.to_owned(), v.pre.clone()),
    };
    (format!("{words} ({})", v.model), v.pre.clone())
}

/// Kind of model and rule of splitting that a `tokenizer.json` tells.
fn json_kind(file: &Path) -> (String, Option<String>) {
    let Some(json) = small_json(file) else { return Default::default() };
    let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let steps: Vec<&str> = match json.pointer("/pre_tokenizer/pretokenizers").and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(|s| s.get("type")?.as_str()).collect(),
        None => json.pointer("/pre_tokenizer/type").and_then(Value::as_str).into_iter().collect(),
    };
    let kind = text("/model/type").unwrap_or_else(|| "unnamed".into());
    let kind = if kind == "BPE" && steps.contains(&"ByteLevel") { "byte-level BPE".into() } else { kind };
    let steps = steps.join(", ");
    let pre = match split_rule(&json) {
        Some(rule) => Some(format!("{rule} ({steps})")),
        None => Some(steps).filter(|s| !s.is_empty()),
    };
    (kind, pre)
}

impl Words {
    fn of(tokenizer: Arc<Tokenizer>, place: &'static str, kind: String, pre: Option<String>, ends: Vec<u32>) -> Words {
        let (before, after) = added(&tokenizer).unwrap_or_default();
        Words { tokenizer, place, kind, pre, before, after, ends }
    }

    fn named(&self) -> [(&'static str, Option<u32>); 7] {
        let t = &self.tokenizer;
        [("bos", t.bos()), ("eos", t.eos()), ("eot", t.eot()), ("eom", t.eom()), ("pad", t.pad()), ("unk", t.unk()), ("sep", t.sep())]
    }

    pub fn json(&self) -> Value {
        let t = &self.tokenizer;
        let token = |id: u32| json!({ "id": id, "text": t.token(id) });
        let special = |s: &SpecialToken| json!({ "id": s.id, "text": s.text, "control": s.control });
        let mut object = json!({
            "place": self.place,
            "kind": self.kind,
            "pre": self.pre,
            "tokens": t.vocab_size(),
            "adds_before": self.before,
            "adds_after": self.after,
            "ends_answers": self.ends,
            "special": t.special_tokens().iter().map(special).collect::<Vec<_>>(),
        });
        for (name, id) in self.named() {
            object[name] = id.map(token).into();
        }
        object
    }

    pub fn text(&self, page: &mut Page) {
        let t = &self.tokenizer;
        let token = |id: &u32| format!("{} ({id})", t.token(*id).unwrap_or("no token"));
        let tokens = |ids: &[u32]| ids.iter().map(token).collect::<Vec<_>>();
        page.section(&format!("tokenizer, {}", self.place));
        page.line("kind", &format!("{}, {} tokens", self.kind, t.vocab_size()));
        if let Some(pre) = &self.pre {
            page.line("splits as", pre);
        }
        let named: Vec<String> = self.named().iter().filter_map(|(n, id)| Some(format!("{n} {}", token(id.as_ref()?)))).collect();
        if !named.is_empty() {
            page.line("tokens", &named.join(", "));
        }
        let (before, after) = (tokens(&self.before).join(" "), tokens(&self.after).join(" "));
        let added = match (before.is_empty(), after.is_empty()) {
            (true, true) => "nothing".into(),
            (false, true) => format!("{before} before"),
            (true, false) => format!("{after} after"),
            (false, false) => format!("{before} before, {after} after"),
        };
        page.line("adds", &format!("{added} (to a raw text)"));
        if !self.ends.is_empty() {
            page.line("ends with", &tokens(&self.ends).join(", "));
        }
        let special: Vec<String> = t.special_tokens().iter().map(|s| s.text.clone()).collect();
        if !special.is_empty() {
            page.line("special", &format!("{}: {}", special.len(), first_of(&special, 12)));
        }
    }
}

/// What encoding puts around a text.
fn added(t: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let (plain, whole) = (t.encode("a", false).ok()?, t.encode("a", true).ok()?);
    let at = whole.windows(plain.len().max(1)).position(|w| w == plain)?;
    Some((whole[..at].to_vec(), whole[at + plain.len()..].to_vec()))
}

impl Template {
    fn of(
        (place, sources): (&str, NamedSources),
        compiled: Option<Result<Option<ChatTemplate>, rlx_text::TextError>>,
        variables: Map<String, Value>,
        tokenizer: Option<&Option<Arc<Tokenizer>>>,
    ) -> Template {
        let lengths = sources.iter().map(|(name, s)| (name.clone(), s.len())).collect();
        let all: String = sources.iter().map(|s| s.1.as_str()).collect();
        let has = |token: &str| matches!(tokenizer, Some(Some(t)) if t.id(token).is_some());
        let compiled = match compiled {
            Some(done) => done,
            None => ChatTemplate::compile(sources),
        };
        let compiled = match compiled {
            Ok(Some(t)) => Ok(t),
            Ok(None) => Err("there is none".into()),
            Err(e) => Err(e.to_string()),
        };
        Template { place: place.to_owned(), sources: lengths, convention: ToolConvention::detect(&all, &has), compiled, variables }
    }

    /// Whether tools that are offered are seen by the model; `None` when rendering fails either way.
    fn takes_tools(&self) -> Option<bool> {
        super::render::takes_tools(self)
    }

    pub fn json(&self) -> Value {
        let source = |(name, bytes): &(String, usize)| json!({ "name": name, "bytes": bytes });
        json!({
            "place": self.place,
            "templates": self.sources.iter().map(source).collect::<Vec<_>>(),
            "tools": self.takes_tools(),
            "convention": self.convention.map(ToolConvention::name),
            "error": self.compiled.as_ref().err(),
        })
    }

    pub fn text(&self, page: &mut Page) {
        page.section(&format!("chat template, {}", self.place));
        let listed: Vec<String> = self.sources.iter().map(|(name, bytes)| format!("{name} ({bytes} bytes)")).collect();
        page.line("templates", &first_of(&listed, 8));
        let tools = match (self.takes_tools(), self.convention) {
            (Some(true), Some(c)) => format!("taken; calls are written as {}", c.name()),
            (Some(true), None) => "taken; how calls are written is not known".into(),
            (Some(false), _) => "not taken".into(),
            (None, _) => "unknown: see --render".into(),
        };
        match &self.compiled {
            Ok(_) => page.line("tools", &tools),
            Err(why) => page.line("broken", &format!("{why}; --no-chat-template runs without it")),
        }
    }
}

/// `3 tokens` of ids.
pub(super) fn tokens(n: usize) -> String {
    count(n, "token")
}
