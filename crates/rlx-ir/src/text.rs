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

mod attributes;

use crate::graph::{Def, Graph, ValueId};
use crate::{Op, Type};
use attributes::Attributes;
use smallvec::SmallVec;
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
///
/// The graph takes less than four times the memory of the text where that is nodes of a few attributes, and up to 16 times
/// where it is long lists of one-digit constants, which are 8 bytes each.  A million nodes take less than a second.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut p = Parser::with_room(text);
    let (mut open, mut closed) = (false, false);
    let mut next = 0;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let offset = next;
        next += line.len();
        let at = |why: String| ParseError { line: i + 1, offset, why: shortened(why) };
        if line.len() > MAX_LINE {
            return Err(at(format!("is longer than {MAX_LINE} bytes")));
        }
        let line = line.trim_ascii();
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

/// Values by the numbers that a text gives them: a table for numbers as they are printed, in order from 0, and a map
/// for those that lie far outside.
struct Numbers {
    table: Vec<ValueId>,
    /// Numbers that the table may hold.
    dense: usize,
    sparse: HashMap<u32, ValueId>,
}

impl Numbers {
    const NONE: ValueId = ValueId(u32::MAX);

    fn get(&self, number: u32) -> Option<ValueId> {
        match self.table.get(number as usize) {
            Some(v) => Some(*v).filter(|v| *v != Self::NONE),
            None => self.sparse.get(&number).copied(),
        }
    }

    fn define(&mut self, number: u32, v: ValueId) -> Result<(), String> {
        if self.get(number).is_some() {
            return Err(format!("%{number} is defined twice"));
        }
        let at = number as usize;
        if at >= self.dense {
            self.sparse.insert(number, v);
            return Ok(());
        }
        if at >= self.table.len() {
            self.table.resize(at + 1, Self::NONE);
        }
        self.table[at] = v;
        Ok(())
    }
}

/// What was parsed before, by its text: graphs repeat few ops and types many times.
struct Seen<K, T> {
    all: HashMap<K, T>,
    last: Option<(K, T)>,
}

impl<K: std::hash::Hash + Eq + Copy, T: Clone> Seen<K, T> {
    /// A text of ever new ones is not remembered whole.
    const MOST: usize = 128;

    fn new() -> Self {
        Seen { all: HashMap::new(), last: None }
    }

    fn get(&mut self, key: K, parse: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        match &self.last {
            Some((k, known)) if *k == key => return Ok(known.clone()),
            _ => {}
        }
        let value = match self.all.get(&key) {
            Some(known) => known.clone(),
            None => {
                let new = parse()?;
                if self.all.len() < Self::MOST {
                    self.all.insert(key, new.clone());
                }
                new
            }
        };
        self.last = Some((key, value.clone()));
        Ok(value)
    }
}

struct Parser<'t> {
    g: Graph,
    ids: Numbers,
    /// Names of parameters and states: looked up for each of them.
    names: HashSet<Arc<str>>,
    scope: Arc<str>,
    /// By name and attributes.
    ops: Seen<(&'t str, &'t str), Op>,
    types: Seen<&'t str, Arc<Type>>,
}

impl<'t> Parser<'t> {
    /// A parser with as much room as the statements of `text` can need: lists that double while they grow would hold
    /// three times that.
    fn with_room(text: &str) -> Self {
        /// The shortest line that defines something, such as `%1 = sort %0 : f32[]`, in whole tens.
        const SHORTEST: usize = 20;
        let (mut inputs, mut nodes, mut params, mut states) = (0, 0, 0, 0);
        for line in text.split('\n').filter(|l| l.len() >= SHORTEST) {
            match line.trim_ascii_start().as_bytes() {
                [b'f', header @ ..] => inputs += header.iter().filter(|c| **c == b'%').count(),
                [b'%', ..] => nodes += 1,
                [b'p', ..] => params += 1,
                [b's', b't', ..] => states += 1,
                _ => {}
            }
        }
        let values = inputs + nodes + params + states;
        let mut g = Graph::default();
        g.nodes.reserve_exact(nodes);
        g.params.reserve_exact(params);
        g.states.reserve_exact(states);
        g.values.reserve_exact(values);
        // Room for numbers beyond that: nodes with several results have more of them than lines.
        let ids = Numbers { table: Vec::with_capacity(values), dense: values + text.len() / 16, sparse: HashMap::new() };
        let names = HashSet::with_capacity(params + states);
        Parser { g, ids, names, scope: "".into(), ops: Seen::new(), types: Seen::new() }
    }

    fn header(&mut self, line: &'t str) -> Result<(), String> {
        let rest = line.strip_prefix("func @").and_then(|l| l.strip_suffix(") {"));
        let (name, mut args) = rest.and_then(|r| r.split_once('(')).ok_or("expected `func @name(…) {`")?;
        self.g.name = name.into();
        while !args.trim().is_empty() {
            let (number, after) = number(args.trim_start())?;
            let (name, after) = after.split_once(':').ok_or("expected `%n name: type`")?;
            let end = after.find(']').ok_or("expected a type")? + 1;
            let ty = self.ty(&after[..end])?;
            let v = self.g.add_input(name.trim(), ty);
            self.ids.define(number, v)?;
            args = after[end..].trim_start().strip_prefix(',').unwrap_or(&after[end..]);
            if args.trim() == after.trim() {
                return Err("expected `,` or `)`".into());
            }
        }
        Ok(())
    }

    fn ty(&mut self, text: &'t str) -> Result<Arc<Type>, String> {
        let text = text.trim_ascii();
        self.types.get(text, || text.parse::<Type>().map(Arc::new))
    }

    fn value(&self, n: u32) -> Result<ValueId, String> {
        self.ids.get(n).ok_or_else(|| format!("%{n} is used before it is defined"))
    }

    /// `%12` and nothing else.
    fn lone_value(&self, s: &str) -> Result<ValueId, String> {
        match numbers(s)?.as_slice() {
            [n] => self.value(*n),
            other => Err(format!("{} values, expected one", other.len())),
        }
    }

    fn statement(&mut self, line: &'t str) -> Result<(), String> {
        if line.starts_with('%') {
            return self.node(line);
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "scope" => self.scope = rest.trim().into(),
            "param" | "state" => {
                let (n, after) = number(rest)?;
                let (name, ty) = after.split_once(": ").ok_or("expected `%n name: type`")?;
                let (name, ty) = (Arc::<str>::from(name.trim()), self.ty(ty)?);
                if !self.names.insert(name.clone()) {
                    return Err(format!("{name} is declared twice"));
                }
                let v = if word == "param" { self.g.push_param(name, ty) } else { self.g.push_state(name, ty) };
                self.ids.define(n, v)?;
            }
            "update" => {
                let (s, v) = rest.split_once('=').ok_or("expected `update %state = %value`")?;
                let (state, v) = (self.lone_value(s)?, self.lone_value(v)?);
                let Def::State(n) = self.g.values[state.index()].def else { return Err("update of a value that is no state".into()) };
                self.g.updates.push((n, v));
            }
            "return" | "tap" => {
                let (n, name) = number(rest.trim_ascii_start())?;
                let v = self.value(n)?;
                let list = if word == "return" { &mut self.g.outputs } else { &mut self.g.taps };
                list.push((name.trim().into(), v));
            }
            _ => return Err("expected `%n = …`, scope, param, state, update, return or tap".into()),
        }
        Ok(())
    }

    fn node(&mut self, line: &'t str) -> Result<(), String> {
        let (outs, rest) = cut(line, b'=').ok_or("expected `%n = op %a, %b {attributes} : type`")?;
        let (rest, types) = rest.rsplit_once(':').ok_or("expected ` : type` at the end")?;
        let rest = rest.trim_ascii();
        let (name, rest) = cut(rest, b' ').unwrap_or((rest, ""));
        let (ins, attrs) = match cut(rest, b'{') {
            Some((ins, a)) => (ins, a.trim_ascii().strip_suffix('}').ok_or("expected `}` after the attributes")?),
            None => (rest, ""),
        };
        let op = self.ops.get((name, attrs), || Op::from_attributes(name, Attributes::new(attrs)))?;
        let mut operands: SmallVec<[ValueId; 4]> = SmallVec::new();
        for n in numbers(ins)? {
            operands.push(self.value(n)?);
        }
        let mut results: SmallVec<[Arc<Type>; 2]> = SmallVec::new();
        let mut rest = Some(types);
        while let Some(types) = rest {
            let (ty, more) = cut(types, b';').map_or((types, None), |(ty, more)| (ty, Some(more)));
            results.push(self.ty(ty)?);
            rest = more;
        }
        let outs = numbers(outs)?;
        if outs.len() != results.len() {
            return Err(format!("{} results and {} types", outs.len(), results.len()));
        }
        let made = self.g.add_node(op, &operands, results, self.scope.clone());
        outs.into_iter().zip(made).try_for_each(|(n, v)| self.ids.define(n, v))
    }
}

/// The text before and after the first `at`, an ASCII character.  Faster on short texts than the search of `str`.
fn cut(s: &str, at: u8) -> Option<(&str, &str)> {
    let i = s.bytes().position(|b| b == at)?;
    Some((&s[..i], &s[i + 1..]))
}

/// `%12, %13` → [12, 13].
fn numbers(list: &str) -> Result<SmallVec<[u32; 4]>, String> {
    let mut found = SmallVec::new();
    let mut rest = list.trim_ascii();
    while !rest.is_empty() {
        let (n, after) = number(rest)?;
        found.push(n);
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_ascii_start(),
            None if after.is_empty() => after,
            None => return Err(format!("expected `,` before `{}`", after.chars().take(20).collect::<String>())),
        };
    }
    Ok(found)
}

/// `%12 rest` → (12, "rest").
fn number(s: &str) -> Result<(u32, &str), String> {
    let digits = s.strip_prefix('%').ok_or_else(|| format!("expected `%number`, found `{}`", s.chars().take(20).collect::<String>()))?;
    let end = digits.bytes().position(|c| !c.is_ascii_digit()).unwrap_or(digits.len());
    let n = digits[..end].parse().map_err(|_| format!("`%{}` is not a value number", &digits[..end]))?;
    Ok((n, digits[end..].trim_ascii_start()))
}
