//! Messages → prompt text, by the checkpoint's Jinja template, as transformers' `apply_chat_template` does.
//!
//! Templates are files from strangers: each rendering is bounded in steps, recursion and bytes handled, and
//! nothing outside the given values is reachable (no files, no imports, no attributes of the host).
//! `strftime_now` is in UTC; Python's is in local time.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod budget;
mod expression;
mod filters;
mod json;
mod python;
mod rewrite;
mod source;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub use source::NamedSources;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::{Map, Value};

use crate::{Result, TextError};

/// Interpreter steps of any rendering, and for each byte of the conversation: templates take some hundred steps
/// per message, a few look at all messages for each.
const BASE_STEPS: u64 = 2_000_000;
const STEPS_PER_BYTE: u64 = 256;
const MAX_STEPS: u64 = 500_000_000;
/// Nesting of macros, loops and blocks of any rendering.  A call of a macro counts five, and the engine holds 4.7 KB for
/// it; released templates reach 20 before there are tools.
const BASE_RECURSION: usize = 30;
/// The same for each level of lists and objects in the conversation beyond those of messages with parts: templates
/// that write a tool's schema follow it down.
const RECURSION_PER_LEVEL: usize = 8;
const PLAIN_DEPTH: usize = 4;
/// And one for so many bytes of template and conversation.
const BYTES_PER_RECURSION: usize = 256;
const MAX_RECURSION: usize = 400;
/// Bytes of a template's source.
const MAX_SOURCE: usize = 512 << 10;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// What one rendering may take.
struct Limits {
    steps: u64,
    recursion: usize,
    bytes: budget::Bounds,
}

impl Limits {
    /// Before anything is rendered.
    const NONE: Self = Self { steps: 0, recursion: 0, bytes: budget::Bounds { work: 0, text: 0 } };

    /// # Errors
    /// The conversation is nested too deep.
    fn of(source: usize, context: &BTreeMap<&str, &Value>, messages: &[Fields]) -> Result<Self> {
        let (mut input, mut depth) = (0, 0);
        let others = context.iter().map(|(name, value)| (*name, *value, 0));
        for (name, value, outer) in others.chain(messages.iter().flatten().map(|(name, value)| (*name, *value, 2))) {
            let size = json::size(value, outer + 1).ok_or_else(|| {
                let reason = format!("messages, tools or variables are nested deeper than {}", json::MAX_DEPTH);
                TextError::Template { line: None, reason }
            })?;
            input += name.len() + 4 + size;
            depth = depth.max(outer + json::depth(value));
        }
        let nested = RECURSION_PER_LEVEL * depth.saturating_sub(PLAIN_DEPTH);
        let recursion = BASE_RECURSION + nested + (source + input) / BYTES_PER_RECURSION;
        let items = ["tools", "documents"].map(|n| context.get(n).and_then(|v| v.as_array()).map_or(0, Vec::len));
        Ok(Self {
            steps: (BASE_STEPS + STEPS_PER_BYTE * input as u64).min(MAX_STEPS),
            recursion: recursion.min(MAX_RECURSION),
            bytes: budget::Bounds::of(source, input, messages.len() + items.iter().sum::<usize>(), depth),
        })
    }
}

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

/// One template of a checkpoint.
#[derive(Debug)]
struct Named {
    name: String,
    source: String,
    /// The engine with this template alone: templates cannot reach each other.
    env: Environment<'static>,
}

/// A compiled chat template, or several under names.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: Vec<Named>,
    /// The name to render, where the caller chose one.
    chosen: Option<String>,
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

    /// Compiles templates under names; `default` is rendered, `tool_use` in its place when there are tools.
    ///
    /// # Errors
    /// One does not parse, or two have one name.
    pub fn named<'s>(sources: impl IntoIterator<Item = (String, &'s str)>) -> Result<Self> {
        let clock = Arc::new(AtomicI64::new(i64::MIN));
        let base = environment(&clock)?;
        let mut templates: Vec<Named> = Vec::new();
        for (name, source) in sources {
            let wrong = |reason: String| TextError::Template { line: None, reason };
            if source.len() > MAX_SOURCE {
                return Err(wrong(format!("`{name}` has {} bytes, expected at most {MAX_SOURCE}", source.len())));
            }
            if templates.iter().any(|t| t.name == name) {
                return Err(wrong(format!("two templates are named `{name}`, expected one")));
            }
            let mut env = base.clone();
            let charged = rewrite::charged(source).map_err(wrong)?;
            env.add_template_owned(name.clone(), charged).map_err(|e| explain(&e, &Limits::NONE))?;
            templates.push(Named { name, source: source.to_owned(), env });
        }
        Ok(Self { templates, chosen: None, tokens: Map::new(), clock })
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

    /// Renders the template of this name from now on, with tools or without.
    ///
    /// # Errors
    /// There is none of this name; those that are there are listed.
    pub fn choose(mut self, name: &str) -> Result<Self> {
        if !self.names().any(|n| n == name) {
            let names: Vec<&str> = self.names().collect();
            let reason = format!("none is named `{name}`, there are [{}]", names.join(", "));
            return Err(TextError::Template { line: None, reason });
        }
        self.chosen = Some(name.to_owned());
        Ok(self)
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|t| t.name.as_str())
    }

    /// The text of the template that is rendered with tools, or without.
    ///
    /// # Errors
    /// There are several and none is the default.
    pub fn source(&self, with_tools: bool) -> Result<&str> {
        self.pick(with_tools).map(|t| t.source.as_str())
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
        let template = self.pick(tools.is_some())?;
        let messages: Vec<_> = messages.iter().map(with_reasoning).collect();
        let add_generation_prompt = Value::from(add_generation_prompt);
        let mut context: BTreeMap<&str, &Value> = self.tokens.iter().map(|(k, v)| (k.as_str(), v)).collect();
        context.insert("documents", &Value::Null);
        context.extend(variables.iter().map(|(k, v)| (k.as_str(), v)));
        context.insert("tools", tools.unwrap_or(&Value::Null));
        context.insert("add_generation_prompt", &add_generation_prompt);
        let limits = Limits::of(template.source.len(), &context, &messages)?;

        let mut env = template.env.clone();
        env.set_fuel(Some(limits.steps));
        env.set_recursion_limit(limits.recursion);
        let _budget = budget::Budget::start(limits.bytes);
        let compiled = env.get_template(&template.name).map_err(|e| explain(&e, &limits))?;
        let object = |fields: &[(&str, &Value)]| minijinja::Value::from_pairs(fields.iter().map(|(k, v)| (*k, to_engine(v))));
        let conversation = ("messages", messages.iter().map(|m| object(m)).collect::<Vec<_>>().into());
        let others = context.iter().filter(|(k, _)| **k != conversation.0).map(|(k, v)| (*k, to_engine(v)));
        let context = minijinja::Value::from_pairs(others.chain([conversation.clone()]));
        compiled.render(context).map_err(|e| explain(&e, &limits))
    }

    fn pick(&self, with_tools: bool) -> Result<&Named> {
        let find = |name: &str| self.templates.iter().find(|t| t.name == name);
        if let Some(chosen) = self.chosen.as_deref().and_then(find) {
            return Ok(chosen);
        }
        let found = if with_tools { find(TOOL_USE) } else { None };
        match (found.or_else(|| find(DEFAULT)), self.templates.as_slice()) {
            (Some(t), _) | (None, [t]) => Ok(t),
            (None, _) => {
                let names: Vec<&str> = self.names().collect();
                let reason = format!("the checkpoint names [{}], expected `{DEFAULT}` among them; choose one by name", names.join(", "));
                Err(TextError::Template { line: None, reason })
            }
        }
    }
}

/// Names and values of one object, in their order.
type Fields<'m> = Vec<(&'m str, &'m Value)>;

/// The message with its reasoning under every name that templates read, as transformers passes it.
fn with_reasoning(message: &Message) -> Fields<'_> {
    let get = |key: &str| message.0.get(key);
    let found = ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(|key| get(key).filter(|v| !v.is_null()));
    let all = message.0.iter().map(|(k, v)| (k.as_str(), v));
    let Some(reasoning) = found else { return all.collect() };
    let mut fields = vec![("thinking", get("thinking").unwrap_or(reasoning))];
    fields.extend(all.filter(|(k, _)| *k != "thinking"));
    match fields.iter_mut().find(|(k, _)| *k == "reasoning_content") {
        Some(field) => field.1 = reasoning,
        None => fields.push(("reasoning_content", reasoning)),
    }
    fields
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
    env.set_syntax(syntax.map_err(|e| explain(&e, &Limits::NONE))?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(python::method);
    env.add_filter("tojson", json::tojson);
    env.add_filter("join", python::join_filter);
    env.add_filter("replace", python::replace_filter);
    env.add_filter("string", python::string_filter);
    env.add_filter("indent", python::indent_filter);
    for (name, engine, before) in filters::engine_filters() {
        env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            before(&args)?;
            engine.call(state, &args)
        });
    }
    env.add_function("range", filters::range);
    env.add_test("iterable", python::is_iterable);
    env.add_test("sequence", python::is_sequence);
    // Not Jinja's, and ways to build values of any size.
    env.remove_global("debug");
    for name in ["zip", "chain", "pprint"] {
        env.remove_filter(name);
    }
    budget::install(&mut env);
    env.add_function("raise_exception", |reason: String| -> Result<minijinja::Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(reason)))
    });
    let clock = Arc::clone(clock);
    env.add_function("strftime_now", move |format: String| {
        let now = match clock.load(Ordering::Relaxed) {
            i64::MIN => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed()),
            fixed => fixed,
        };
        // `%c` is the longest for its length.
        budget::charge(format.len() as u64 * 12).map(|()| time::strftime(&format, now))
    });
    Ok(env)
}

/// The engine's error in this crate's words.
fn explain(error: &Error, limits: &Limits) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut reason = String::new();
    let mut line = None;
    while let Some(e) = cause {
        if let Some(Raised(words)) = e.downcast_ref() {
            return TextError::Refused { reason: words.clone() };
        }
        match e.downcast_ref() {
            Some(budget::Spent::Text) => return TextError::TemplateBound { what: "text in bytes", bound: limits.bytes.text },
            Some(budget::Spent::Work) => return TextError::TemplateBound { what: "work in bytes read", bound: limits.bytes.work },
            None => {}
        }
        if let Some(e) = e.downcast_ref::<Error>() {
            if e.kind() == ErrorKind::OutOfFuel {
                return TextError::TemplateBound { what: "work in steps", bound: limits.steps };
            }
            if e.detail().is_some_and(|d| d.contains("recursion limit")) {
                return TextError::TemplateBound { what: "recursion", bound: limits.recursion as u64 };
            }
            line = e.line().or(line);
            reason = e.detail().map_or_else(|| e.kind().to_string(), |d| format!("{}: {d}", e.kind()));
        }
        cause = e.source();
    }
    TextError::Template { line, reason }
}
