//! The text form of a graph.  It prints and parses back; passes and family graphs are
//! snapshot-tested in it.
//!
//! ```text
//! func @qwen3(%0 tokens: u32[T], %1 seg: segments[S,T]) {
//!   param %2 model.norm.weight: bf16[64]
//!   state %3 model.layers.0.self_attn.k: cache f32[2,32]
//!   scope model.layers.0
//!   %4 = rms_norm %0, %2 {eps=1e-6} : f32[T,64]
//!   update %3 = %9
//!   return %12 logits
//!   tap %4 hidden.0
//! }
//! ```
//!
//! Attributes are the op's fields as JSON values.  One statement a line.

use crate::graph::{Graph, ValueId};
use crate::{Op, Type};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::sync::Arc;

/// A text that is not a graph.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, byte {offset}: {why}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// First byte of that line.
    pub offset: usize,
    /// Reason.
    pub why: String,
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Numbers in order of appearance, so that the text does not depend on how ids were handed out.
        let ids = self.inputs.iter().map(|i| i.1).chain(self.params.iter().map(|p| p.value)).chain(self.states.iter().map(|s| s.1));
        let ids = ids.chain(self.nodes.iter().flat_map(|n| n.outs.iter().copied()));
        let mut number = vec![u32::MAX; self.values.len()];
        ids.enumerate().for_each(|(i, v)| number[v.index()] = i as u32);
        let n = |v: &ValueId| number[v.index()];
        let list = |ids: &[ValueId]| ids.iter().map(|v| format!("%{}", n(v))).collect::<Vec<_>>().join(", ");

        write!(f, "func @{}(", self.name)?;
        for (i, (name, v)) in self.inputs.iter().enumerate() {
            write!(f, "{}%{} {name}: {}", if i > 0 { ", " } else { "" }, n(v), self.ty(*v))?;
        }
        f.write_str(") {\n")?;
        for p in &self.params {
            writeln!(f, "  param %{} {}: {}", n(&p.value), p.name, self.ty(p.value))?;
        }
        for (name, v) in &self.states {
            writeln!(f, "  state %{} {name}: {}", n(v), self.ty(*v))?;
        }
        let mut scope: &str = "";
        for node in &self.nodes {
            if &*node.scope != scope {
                scope = &node.scope;
                writeln!(f, "  scope {scope}")?;
            }
            write!(f, "  {} = {} {}", list(&node.outs), node.op.name(), list(&node.ins))?;
            f.write_str(&attributes(&node.op))?;
            let types: Vec<String> = node.outs.iter().map(|v| self.ty(*v).to_string()).collect();
            writeln!(f, " : {}", types.join("; "))?;
        }
        for (s, v) in &self.updates {
            writeln!(f, "  update %{} = %{}", n(&self.states[*s as usize].1), n(v))?;
        }
        for (word, named) in [("return", &self.outputs), ("tap", &self.taps)] {
            for (name, v) in named {
                writeln!(f, "  {word} %{} {name}", n(v))?;
            }
        }
        f.write_str("}\n")
    }
}

/// ` {eps=1e-6}`, or nothing for an op without attributes.
fn attributes(op: &Op) -> String {
    let serde_json::Value::Object(map) = op.attributes() else {
        return String::new();
    };
    if map.is_empty() {
        return String::new();
    }
    let mut s = String::from(" {");
    for (i, (k, v)) in map.iter().enumerate() {
        let _ = write!(s, "{}{k}={v}", if i > 0 { ", " } else { "" });
    }
    s + "}"
}

/// Most attributes are short; a list of constants is the longest.
const MAX_LINE: usize = 1 << 20;

/// Parses the text form.  The result is not verified: see [`crate::verify::verify`].
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut p = Parser { g: Graph::default(), ids: HashMap::new(), names: HashSet::new(), scope: "".into() };
    let (mut open, mut closed) = (false, false);
    let mut next = 0;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let offset = next;
        next += line.len();
        let at = |why: String| ParseError { line: i + 1, offset, why: shortened(why) };
        if line.len() > MAX_LINE {
            return Err(at(format!("is longer than {MAX_LINE} bytes")));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if closed {
            return Err(at("text after the closing `}`".into()));
        }
        if !open {
            p.header(line).map_err(at)?;
            open = true;
        } else if line == "}" {
            closed = true;
        } else {
            p.statement(line).map_err(at)?;
        }
    }
    let missing = || ParseError { line: text.lines().count(), offset: text.len(), why: "the closing `}` is missing".into() };
    closed.then_some(p.g).ok_or_else(missing)
}

/// A reason that may quote the text, as one short line.
fn shortened(mut why: String) -> String {
    const LONGEST: usize = 400;
    if let Some((end, _)) = why.char_indices().nth(LONGEST) {
        why.truncate(end);
        why.push('…');
    }
    why.replace(|c: char| c.is_control(), "?")
}

struct Parser {
    g: Graph,
    /// Printed number → value.
    ids: HashMap<u32, ValueId>,
    /// Names of parameters and states: looked up for each of them.
    names: HashSet<Arc<str>>,
    scope: Arc<str>,
}

impl Parser {
    fn header(&mut self, line: &str) -> Result<(), String> {
        let rest = line.strip_prefix("func @").and_then(|l| l.strip_suffix(") {"));
        let (name, mut args) = rest.and_then(|r| r.split_once('(')).ok_or("expected `func @name(…) {`")?;
        self.g.name = name.into();
        while !args.trim().is_empty() {
            let (number, after) = number(args.trim_start())?;
            let (name, after) = after.split_once(':').ok_or("expected `%n name: type`")?;
            let end = after.find(']').ok_or("expected a type")? + 1;
            let v = self.g.add_input(name.trim(), after[..end].trim().parse()?);
            self.define(number, v)?;
            args = after[end..].trim_start().strip_prefix(',').unwrap_or(&after[end..]);
            if args.trim() == after.trim() {
                return Err("expected `,` or `)`".into());
            }
        }
        Ok(())
    }

    fn define(&mut self, number: u32, v: ValueId) -> Result<(), String> {
        match self.ids.insert(number, v) {
            None => Ok(()),
            Some(_) => Err(format!("%{number} is defined twice")),
        }
    }

    fn value(&self, s: &str) -> Result<(ValueId, String), String> {
        let (n, rest) = number(s.trim())?;
        let v = self.ids.get(&n).ok_or_else(|| format!("%{n} is used before it is defined"))?;
        Ok((*v, rest.trim().to_owned()))
    }

    fn statement(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "scope" => self.scope = rest.trim().into(),
            "param" | "state" => {
                let (n, after) = number(rest)?;
                let (name, ty) = after.split_once(": ").ok_or("expected `%n name: type`")?;
                let (name, ty) = (name.trim(), ty.parse::<Type>()?);
                let name: Arc<str> = name.into();
                if !self.names.insert(name.clone()) {
                    return Err(format!("{name} is declared twice"));
                }
                let v = if word == "param" { self.g.push_param(name, ty) } else { self.g.push_state(name, ty) };
                self.define(n, v)?;
            }
            "update" => {
                let (s, v) = rest.split_once('=').ok_or("expected `update %state = %value`")?;
                let (state, v) = (self.value(s)?.0, self.value(v)?.0);
                let n = self.g.states.iter().position(|s| s.1 == state).ok_or("update of a value that is no state")?;
                self.g.updates.push((n as u32, v));
            }
            "return" | "tap" => {
                let (v, name) = self.value(rest)?;
                let list = if word == "return" { &mut self.g.outputs } else { &mut self.g.taps };
                list.push((name.into(), v));
            }
            _ => self.node(line)?,
        }
        Ok(())
    }

    fn node(&mut self, line: &str) -> Result<(), String> {
        let (outs, rest) = line.split_once(" = ").ok_or("expected `%n = op %a, %b {attributes} : type`")?;
        let (rest, types) = rest.rsplit_once(" : ").ok_or("expected ` : type` at the end")?;
        let (name, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let (ins, attrs) = match rest.split_once('{') {
            Some((ins, a)) => (ins, a.trim().strip_suffix('}').ok_or("expected `}` after the attributes")?),
            None => (rest, ""),
        };
        let op = Op::from_attributes(name, json_attributes(attrs)?)?;
        let ins = ins.split(',').map(str::trim).filter(|s| !s.is_empty());
        let ins = ins.map(|s| self.value(s).map(|v| v.0)).collect::<Result<Vec<_>, _>>()?;
        let types = types.split(';').map(|t| t.parse::<Type>()).collect::<Result<Vec<_>, _>>()?;
        let numbers = outs.split(',').map(|s| number(s.trim()).map(|n| n.0)).collect::<Result<Vec<_>, _>>()?;
        if numbers.len() != types.len() {
            return Err(format!("{} results and {} types", numbers.len(), types.len()));
        }
        let made = self.g.add_node(op, &ins, types, self.scope.clone());
        numbers.into_iter().zip(made).try_for_each(|(n, v)| self.define(n, v))
    }
}

/// `%12 rest` → (12, "rest").
fn number(s: &str) -> Result<(u32, &str), String> {
    let digits = s.strip_prefix('%').ok_or_else(|| format!("expected `%number`, found `{}`", s.chars().take(20).collect::<String>()))?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let n = digits[..end].parse().map_err(|_| format!("`%{}` is not a value number", &digits[..end]))?;
    Ok((n, digits[end..].trim_start()))
}

/// `a=1, b="x"` → a JSON object.  Values are JSON; keys are words.
fn json_attributes(mut s: &str) -> Result<serde_json::Value, String> {
    let mut map = serde_json::Map::new();
    while !s.trim().is_empty() {
        let (key, rest) = s.split_once('=').ok_or("expected `key=value` in the attributes")?;
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<serde_json::Value>();
        let value = match stream.next() {
            Some(Ok(v)) => v,
            Some(Err(e)) => return Err(format!("attribute {}: {e}", key.trim())),
            None => return Err(format!("attribute {} has no value", key.trim())),
        };
        let rest = rest[stream.byte_offset()..].trim_start();
        if map.insert(key.trim().into(), value).is_some() {
            return Err(format!("attribute {} is given twice", key.trim()));
        }
        s = match rest.strip_prefix(',') {
            Some(r) => r,
            None if rest.is_empty() => rest,
            None => return Err("expected `,` between attributes".into()),
        };
    }
    Ok(serde_json::Value::Object(map))
}
