//! Messages → prompt text, by the checkpoint's Jinja template, as transformers' `apply_chat_template` does.
//!
//! Templates are files from strangers: each rendering is bounded in steps, recursion and output bytes, and
//! nothing outside the given values is reachable (no files, no imports, no attributes of the host).
//! `strftime_now` is in UTC; Python's is in local time.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod json;
mod prepare;
mod time;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use crate::{Result, TextError};

/// Interpreter steps of one rendering; a long conversation needs some hundred per message.
const MAX_STEPS: u64 = 20_000_000;
/// Nesting of macros, loops and blocks.
const MAX_RECURSION: usize = 200;
/// Bytes of one rendering.
const MAX_OUTPUT: u64 = 64 << 20;
/// Bytes of a template's source.
const MAX_SOURCE: usize = 4 << 20;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// One message: any JSON object, keys in their order (`role`, `content` as text, parts or null, `tool_calls`,
/// `tool_call_id`, `reasoning_content`, …).
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Message(pub Map<String, Value>);

impl Message {
    /// A message of text.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self(Map::from_iter([("role".into(), role.into()), ("content".into(), content.into().into())]))
    }

    /// Instructions to the model.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// What a tool answered.
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new("tool", content)
    }

    /// With one more key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Who speaks; empty when the object does not say.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The content, when it is plain text.
    pub fn text(&self) -> Option<&str> {
        self.0.get("content").and_then(Value::as_str)
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    names: Vec<String>,
    /// `bos_token` and the like.
    tokens: Map<String, Value>,
    /// Seconds since 1970, or `i64::MIN` for the system's clock.
    clock: Arc<AtomicI64>,
}

impl ChatTemplate {
    /// Compiles one template.
    ///
    /// # Errors
    /// It does not parse.
    pub fn new(source: &str) -> Result<Self> {
        Self::named([(DEFAULT.to_owned(), source)])
    }

    /// From a parsed `tokenizer_config.json`: its `chat_template` (text, or a list of named ones) and the
    /// special tokens that templates refer to.  `None` when there is no template.
    ///
    /// # Errors
    /// The entry has another shape or does not parse.
    pub fn from_tokenizer_config(config: &Value) -> Result<Option<Self>> {
        let shape = |reason: String| TextError::json("tokenizer_config.json, chat_template", reason);
        let mut template = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => Self::new(source)?,
            Some(Value::Array(list)) => {
                let entry = |e: &Value| Some((e.get("name")?.as_str()?.to_owned(), e.get("template")?.as_str()?.to_owned()));
                let parsed: Option<Vec<_>> = list.iter().map(entry).collect();
                let parsed = parsed.ok_or_else(|| shape("an entry of the list lacks `name` or `template`".into()))?;
                Self::named(parsed.iter().map(|(name, source)| (name.clone(), source.as_str())))?
            }
            Some(_) => return Err(shape("expected a text or a list of {name, template}".into())),
        };
        for key in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
            let entry = config.get(key);
            if let Some(text) = entry.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str())) {
                template.tokens.insert(key.into(), text.into());
            }
        }
        Ok(Some(template))
    }

    fn named<'s>(sources: impl IntoIterator<Item = (String, &'s str)>) -> Result<Self> {
        let clock = Arc::new(AtomicI64::new(i64::MIN));
        let mut env = environment(&clock)?;
        let mut names = Vec::new();
        for (name, source) in sources {
            let wrong = |reason: String| TextError::Template { line: None, reason };
            if source.len() > MAX_SOURCE {
                return Err(wrong(format!("`{name}` has {} bytes, expected at most {MAX_SOURCE}", source.len())));
            }
            if names.contains(&name) {
                return Err(wrong(format!("two templates are named `{name}`, expected one")));
            }
            env.add_template_owned(name.clone(), prepare::generation_tags(source)).map_err(|e| explain(&e))?;
            names.push(name);
        }
        Ok(Self { env, names, tokens: Map::new(), clock })
    }

    /// Sets a variable for every rendering, such as `bos_token` read from elsewhere.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.tokens.insert(name.into(), value.into());
        self
    }

    /// Fixes what `strftime_now` takes for now, in seconds since 1970.
    #[must_use]
    pub fn with_clock(self, unix_seconds: i64) -> Self {
        self.clock.store(unix_seconds, Ordering::Relaxed);
        self
    }

    /// The prompt for `messages`.  `tools` is a JSON list of tool definitions; `variables` (`enable_thinking`,
    /// `bos_token`, …) are seen by the template beside `messages`, `tools`, `documents` and
    /// `add_generation_prompt`.  Of several named templates, `tool_use` serves calls with tools.
    ///
    /// # Errors
    /// The template refuses the conversation, fails, or runs past a bound.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        variables: &Map<String, Value>,
    ) -> Result<String> {
        let name = self.pick(tools.is_some())?;
        let mut context = self.tokens.clone();
        context.insert("documents".into(), Value::Null);
        context.extend(variables.clone());
        let messages = messages.iter().map(|m| Value::Object(m.0.clone())).collect();
        context.insert("messages".into(), Value::Array(messages));
        context.insert("tools".into(), tools.cloned().unwrap_or(Value::Null));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let context = to_engine(&Value::Object(context));

        let mut out = Bounded { bytes: Vec::new(), overflow: false };
        let template = self.env.get_template(name).map_err(|e| explain(&e))?;
        let rendered = template.render_captured_to(context, &mut out).map(|_| ());
        if out.overflow {
            return Err(TextError::TemplateBound { what: "output in bytes", bound: MAX_OUTPUT });
        }
        rendered.map_err(|e| explain(&e))?;
        String::from_utf8(out.bytes).map_err(|e| TextError::Template { line: None, reason: e.to_string() })
    }

    fn pick(&self, with_tools: bool) -> Result<&str> {
        let has = |name: &str| self.names.iter().any(|n| n == name);
        match self.names.as_slice() {
            _ if with_tools && has(TOOL_USE) => Ok(TOOL_USE),
            _ if has(DEFAULT) => Ok(DEFAULT),
            [only] => Ok(only),
            names => {
                let reason = format!("the checkpoint names [{}], expected `{DEFAULT}` among them", names.join(", "));
                Err(TextError::Template { line: None, reason })
            }
        }
    }
}

/// A JSON value as the engine's, objects in their order.
fn to_engine(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (_, Some(n)) => n.into(),
            _ => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(list) => list.iter().map(to_engine).collect::<Vec<_>>().into(),
        Value::Object(map) => minijinja::Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), to_engine(v)))),
    }
}

/// The words of `raise_exception`, carried through the engine's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn environment(clock: &Arc<AtomicI64>) -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| explain(&e))?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(MAX_STEPS));
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", |reason: String| -> Result<minijinja::Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(reason)))
    });
    let clock = Arc::clone(clock);
    env.add_function("strftime_now", move |format: String| {
        let now = match clock.load(Ordering::Relaxed) {
            i64::MIN => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed()),
            fixed => fixed,
        };
        time::strftime(&format, now)
    });
    Ok(env)
}

/// The engine's error in this crate's words.
fn explain(error: &Error) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut reason = String::new();
    let mut line = None;
    while let Some(e) = cause {
        if let Some(Raised(words)) = e.downcast_ref() {
            return TextError::Refused { reason: words.clone() };
        }
        if let Some(e) = e.downcast_ref::<Error>() {
            if e.kind() == ErrorKind::OutOfFuel {
                return TextError::TemplateBound { what: "work in steps", bound: MAX_STEPS };
            }
            if e.detail().is_some_and(|d| d.contains("recursion limit")) {
                return TextError::TemplateBound { what: "recursion", bound: MAX_RECURSION as u64 };
            }
            line = e.line().or(line);
            reason = e.detail().map_or_else(|| e.kind().to_string(), |d| format!("{}: {d}", e.kind()));
        }
        cause = e.source();
    }
    TextError::Template { line, reason }
}

/// Collects output up to [`MAX_OUTPUT`].
struct Bounded {
    bytes: Vec<u8>,
    overflow: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + data.len()) as u64 > MAX_OUTPUT {
            self.overflow = true;
            return Err(io::Error::other("the rendering is too long"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
