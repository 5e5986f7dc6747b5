//! Generated text → plain text and tool calls.
//!
//! A [`ToolConvention`] says how a model writes calls; [`ToolConvention::detect`] finds it by the chat template.
//! A [`ToolStream`] re-reads what it has gathered whenever text arrives and hands out what can no longer change,
//! so that any way of cutting the text gives the same parts as reading it whole.  White space next to a call
//! belongs to the convention and is dropped.  What is marked as a call and is none is handed out as
//! [`ToolPart::Malformed`], with its marks and what is wrong; the text of an answer keeps all of it.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod formats;
mod gemma;
mod python;

use serde_json::Value;

use formats::{Mark, Read, Reader};

/// A call that the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Its arguments, normally a JSON object.
    pub arguments: Value,
}

/// A part of generated text.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolPart {
    /// Plain text.
    Text(String),
    /// A tool call.
    Call(ToolCall),
    /// What was marked as a call and is none.
    Malformed {
        /// The text, marks included.
        raw: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A way of writing tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolConvention {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen2.5, Qwen3, Granite 4.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen3-Coder, Qwen3.5,
    /// Nemotron 3.  A value that is JSON other than a text is taken as such, anything else is a text.
    QwenXml,
    /// `{"name": …, "parameters": {…}}` as the whole answer, several with `;` between; the same or
    /// `NAME.call(key=value)` behind `<|python_tag|>`; `<function=NAME>{…}</function>`: Llama 3.
    Llama3,
    /// `call:NAME{key:value}` between `<|tool_call>` and `<tool_call|>` (Gemma 4) or `<start_function_call>` and
    /// `<end_function_call>` (FunctionGemma); Python calls in a block of `tool_code`; a JSON list of calls as the
    /// whole answer (Gemma 3).
    Gemma,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and `[TOOL_CALLS]NAME[ARGS]{…}`: Mistral.
    Mistral,
    /// `<|tool_call_start|>[name(key='value'), …]<|tool_call_end|>`: LFM2.
    Lfm2,
}

impl ToolConvention {
    /// Every convention.
    pub const ALL: &[Self] = &[Self::Hermes, Self::QwenXml, Self::Llama3, Self::Gemma, Self::Mistral, Self::Lfm2];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::QwenXml => "qwen-xml",
            Self::Llama3 => "llama3",
            Self::Gemma => "gemma",
            Self::Mistral => "mistral",
            Self::Lfm2 => "lfm2",
        }
    }

    /// The convention of this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == name)
    }

    /// The convention of a model, by the text of its chat template and, where that does not tell, by the tokens of
    /// its vocabulary.  `None` when neither shows one that is known.
    pub fn detect(template: &str, has_token: &dyn Fn(&str) -> bool) -> Option<Self> {
        let says = |mark: &str| template.contains(mark);
        // Calls within these marks have another shape.
        let foreign = ["<arg_key>", "<minimax:tool_call>", "<tool_calls>", "<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>"];
        if says("<|tool_call_start|>") || (has_token("<|tool_call_start|>") && !says("<tool_call>")) {
            return Some(Self::Lfm2);
        }
        if says("[TOOL_CALLS]") || (has_token("[TOOL_CALLS]") && !says("<tool_call>")) {
            return Some(Self::Mistral);
        }
        if foreign.iter().any(|mark| says(mark)) {
            return None;
        }
        if says("<tool_call>") && says("<function=") && says("<parameter=") {
            return Some(Self::QwenXml);
        }
        if says("<tool_call>") {
            return Some(Self::Hermes);
        }
        if says("<|python_tag|>") || says("<function=") || (says("<|start_header_id|>") && says("\"parameters\"")) {
            return Some(Self::Llama3);
        }
        let gemma = ["<|tool_call>", "<start_function_call>", "tool_code", "<start_of_turn>"];
        gemma.iter().any(|mark| says(mark)).then_some(Self::Gemma)
    }

    /// Reads a whole text.
    pub fn parse(self, text: &str) -> Vec<ToolPart> {
        let mut stream = ToolStream::new(self);
        let mut parts = stream.push(text);
        for part in stream.finish() {
            join(&mut parts, part);
        }
        parts
    }

    /// The calls in a whole text.
    pub fn calls(self, text: &str) -> Vec<ToolCall> {
        let call = |part| if let ToolPart::Call(call) = part { Some(call) } else { None };
        self.parse(text).into_iter().filter_map(call).collect()
    }

    fn marks(self) -> &'static [Mark] {
        match self {
            Self::Hermes | Self::QwenXml => formats::QWEN,
            Self::Llama3 => formats::LLAMA3,
            Self::Gemma => gemma::MARKS,
            Self::Mistral => formats::MISTRAL,
            Self::Lfm2 => formats::LFM2,
        }
    }

    /// How a call without marks is read, and what it begins with.
    fn bare(self) -> Option<(&'static str, Reader)> {
        match self {
            Self::Llama3 => Some(("{", formats::bare_object)),
            Self::Gemma => Some(("[{", formats::bare_object)),
            _ => None,
        }
    }
}

/// Reads a growing text.  Text may come in several [`ToolPart::Text`] pieces; everything else comes whole.
#[derive(Debug)]
pub struct ToolStream {
    convention: ToolConvention,
    /// What is not handed out yet.
    held: String,
    /// The last part was not text, so white space that follows is dropped.
    after_call: bool,
    /// No text was handed out so far: a call without marks may begin here.
    bare: bool,
}

impl ToolStream {
    /// A stream at its beginning.
    pub fn new(convention: ToolConvention) -> Self {
        Self { convention, held: String::new(), after_call: false, bare: convention.bare().is_some() }
    }

    /// Takes more text; the parts that became certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolPart> {
        self.held.push_str(text);
        self.advance(false)
    }

    /// The parts that were held back; the stream is at its beginning again afterwards.
    pub fn finish(&mut self) -> Vec<ToolPart> {
        let parts = self.advance(true);
        *self = Self::new(self.convention);
        parts
    }

    fn advance(&mut self, last: bool) -> Vec<ToolPart> {
        let mut held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        let used = self.read(&held, last, &mut parts);
        held.drain(..used.min(held.len()));
        self.held = held;
        parts
    }

    /// Hands out what is certain in `held`; how much of it that is.
    fn read(&mut self, held: &str, last: bool, parts: &mut Vec<ToolPart>) -> usize {
        let marks = self.convention.marks();
        let mut ahead = Ahead { text: held, marks, at: vec![None; marks.len()] };
        // Everything before `at` is handed out; marks before `from` are text.
        let (mut at, mut from) = (0, 0);
        loop {
            let rest = held.get(at..).unwrap_or_default();
            if self.after_call {
                at += rest.len() - rest.trim_start().len();
            }
            if self.bare {
                match self.read_bare(held.get(at..).unwrap_or_default(), last) {
                    Read::Calls(len, calls) => {
                        parts.extend(calls.into_iter().map(ToolPart::Call));
                        at += len;
                        self.after_call = true;
                        continue;
                    }
                    Read::Unfinished => return at,
                    Read::Text | Read::Malformed(..) => self.bare = false,
                }
            }
            from = from.max(at);
            let Some((open, mark)) = ahead.first(from) else { break };
            let behind = held.get(open + mark.text.len()..).unwrap_or_default();
            let before = held.get(at..open).unwrap_or_default().trim_end();
            let (len, made) = match (mark.read)(behind, last) {
                Read::Calls(len, calls) => (len, calls.into_iter().map(ToolPart::Call).collect()),
                Read::Malformed(len, reason) => {
                    let raw = format!("{}{}", mark.text, behind.get(..len).unwrap_or_default());
                    (len, vec![ToolPart::Malformed { raw, reason }])
                }
                Read::Text => {
                    from = open + mark.text.len();
                    continue;
                }
                Read::Unfinished => {
                    // White space before the mark belongs to the call, if it is one.
                    self.after_call &= before.is_empty();
                    push_text(parts, before);
                    return at + before.len();
                }
            };
            push_text(parts, before);
            parts.extend(made);
            at = open + mark.text.len() + len;
            self.after_call = true;
        }
        let rest = held.get(at..).unwrap_or_default();
        let text = if last { rest } else { certain(rest, marks) };
        self.after_call &= text.is_empty();
        push_text(parts, text);
        at + text.len()
    }

    /// Reads a call without marks at the beginning of the answer, or behind another such call.
    fn read_bare(&self, text: &str, last: bool) -> Read {
        let Some((opens, read)) = self.convention.bare() else { return Read::Text };
        let body = text.trim_start();
        let body = match body.strip_prefix(';') {
            Some(behind) if self.after_call => behind.trim_start(),
            _ => body,
        };
        match body.chars().next() {
            None if last => Read::Text,
            None => Read::Unfinished,
            Some(c) if opens.contains(c) => match read(body, last) {
                Read::Calls(len, calls) => Read::Calls(text.len() - body.len() + len, calls),
                other => other,
            },
            Some(_) => Read::Text,
        }
    }
}

/// Finds marks in a text, each place once.
struct Ahead<'t> {
    text: &'t str,
    marks: &'static [Mark],
    /// Where each mark comes next, as far as it was looked for; the length of the text where it does not.
    at: Vec<Option<usize>>,
}

impl Ahead<'_> {
    /// The first mark from `from` on; of two at one place the longer.
    fn first(&mut self, from: usize) -> Option<(usize, &'static Mark)> {
        let end = self.text.len();
        for (mark, at) in self.marks.iter().zip(&mut self.at) {
            if at.is_none_or(|at| at < from) {
                let found = self.text.get(from..).and_then(|t| t.find(mark.text));
                *at = Some(found.map_or(end, |n| from + n));
            }
        }
        let places = self.marks.iter().zip(&self.at).filter_map(|(mark, at)| Some((at.filter(|&at| at < end)?, mark)));
        places.min_by_key(|(at, mark)| (*at, std::cmp::Reverse(mark.text.len())))
    }
}

/// What no call can claim of a text: not the beginning of a mark, nor white space before one.
fn certain<'t>(text: &'t str, marks: &[Mark]) -> &'t str {
    let partial = marks.iter().flat_map(|m| (1..m.text.len()).filter_map(|n| m.text.get(..n)));
    let held = partial.filter(|start| text.ends_with(start)).map(str::len).max().unwrap_or(0);
    text.get(..text.len() - held).unwrap_or_default().trim_end()
}

fn push_text(parts: &mut Vec<ToolPart>, text: &str) {
    if !text.is_empty() {
        join(parts, ToolPart::Text(text.to_owned()));
    }
}

/// Adds `part`, joining neighbouring text.
fn join(parts: &mut Vec<ToolPart>, part: ToolPart) {
    match (parts.last_mut(), part) {
        (Some(ToolPart::Text(text)), ToolPart::Text(more)) => text.push_str(&more),
        (_, part) => parts.push(part),
    }
}
