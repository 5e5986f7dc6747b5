//! What one rendering may cost in bytes, and the filters that charge it.
//!
//! [`super::rewrite`] puts the filters into the template.  Each charges what an operand, a product or a stretch
//! of literal text weighs.  What is read costs time, what is made costs memory as well: each has its budget, so that
//! no chain of steps can make more text than the budget, however it doubles.  Both grow with the conversation, see
//! [`Bounds::of`].

use std::cell::{Cell, RefCell};
use std::fmt;

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::python;

/// Charges the reading of an operand.
pub(super) const CHARGE: &str = "_c";
/// Charges an operand that a call, a filter or a slice made.
pub(super) const MADE: &str = "_m";
/// Charges an operand of `+`, which goes into something new.
pub(super) const JOINED: &str = "_j";
/// Charges an operand of `~`: its text goes into a new one.
pub(super) const CONCATENATED: &str = "_o";
/// Charges the text of a list or mapping that the engine may write.
pub(super) const WRITTEN: &str = "_w";
/// Charges a list or mapping with all that is in it, and refuses a namespace inside.
pub(super) const DEEP: &str = "_d";
/// The same for one that is written out.
pub(super) const LITERAL: &str = "_l";
/// Notes the left side of `*`.
pub(super) const FACTOR: &str = "_f";
/// The same where the left side is itself a product.
pub(super) const FACTOR_CHAIN: &str = "_g";
/// Charges the product with the right side.
pub(super) const PRODUCT: &str = "_p";
/// Refuses to run over none.
pub(super) const ITERATE: &str = "_i";
/// The same for a loop with a condition, for which the engine gathers the elements first.
pub(super) const GATHER: &str = "_n";
/// A slice with Python's bounds.
pub(super) const SLICE: &str = "_s";
/// Charges literal text.
pub(super) const TEXT: &str = "_t";

/// Bytes any rendering may read, and for each byte of the conversation: templates look at a message often.
const BASE_WORK: u64 = 2 << 20;
const WORK_PER_BYTE: u64 = 512;
/// Most bytes that one rendering reads.
const MAX_WORK: u64 = 4 << 30;
/// Bytes of text and lists that any rendering may make, all steps together.  While a text grows its old and new
/// block are held, at most three times its length: with the 30 KB that the engine holds for a small template, and the
/// macros of [`super::BASE_RECURSION`], this is within 64 KiB.
const BASE_TEXT: u64 = 8 << 10;
/// Where that is more, bytes for each byte of the template: the longest released ones gather a prompt of their own
/// of twice their size before anything is said.
const TEXT_PER_SOURCE: u64 = 4;
/// And for each byte of the conversation, of which released templates make up to 8 in one message, ...
const TEXT_PER_BYTE: u64 = 32;
/// ... with as much again for each message, tool and document, where all text is gathered in one variable turn by
/// turn, and for each level of nesting, where a macro that calls itself hands its text from level to level: released
/// templates make up to 1.5 and 1.3.
const TEXT_PER_ITEM: u64 = 4;
const TEXT_PER_LEVEL: u64 = 4;
/// Most bytes that one rendering makes.
const MAX_TEXT: u64 = 256 << 20;
/// What an element of a list weighs.
pub(super) const ELEMENT: u64 = 64;
/// What a mapping weighs beside its elements.
const MAPPING: u64 = 256;
/// Deeper values are refused.
const MAX_DEPTH: usize = 100;
/// Products that wait for their right side.
const MAX_PENDING: usize = 4096;

thread_local! {
    static LEFT: Cell<Bounds> = const { Cell::new(Bounds { work: 0, text: 0 }) };
    static FACTORS: RefCell<(Vec<f64>, f64)> = const { RefCell::new((Vec::new(), 0.0)) };
}

/// Bytes that a rendering may read and make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) work: u64,
    pub(super) text: u64,
}

impl Bounds {
    /// For a template of `source` bytes, and a conversation of `input` bytes in so many messages, tools and documents,
    /// nested so deep.
    pub(super) fn of(source: usize, input: usize, items: usize, depth: usize) -> Self {
        let (source, input, items, depth) = (source as u64, input as u64, items as u64, depth as u64);
        let per_byte = TEXT_PER_BYTE + TEXT_PER_ITEM * items + TEXT_PER_LEVEL * depth;
        Self {
            work: (BASE_WORK + WORK_PER_BYTE * input).min(MAX_WORK),
            text: (TEXT_PER_SOURCE * source + input.saturating_mul(per_byte)).clamp(BASE_TEXT, MAX_TEXT),
        }
    }
}

/// The budget of the rendering that runs on this thread, until it is dropped.
pub(super) struct Budget {
    before: Bounds,
}

impl Budget {
    pub(super) fn start(bounds: Bounds) -> Self {
        let before = LEFT.replace(bounds);
        FACTORS.with_borrow_mut(|f| *f = (Vec::new(), 0.0));
        Self { before }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.set(self.before);
    }
}

/// A budget is spent; carried through the engine's own errors.
#[derive(Debug, thiserror::Error)]
pub(super) enum Spent {
    #[error("the template reads too much")]
    Work,
    #[error("the template makes too much text")]
    Text,
}

fn spent(what: Spent) -> Error {
    Error::new(ErrorKind::InvalidOperation, "too much").with_source(what)
}

/// Takes `bytes` that are read from the budget.
fn work(bytes: u64) -> Result<(), Error> {
    let left = LEFT.get();
    let work = left.work.checked_sub(bytes);
    LEFT.set(Bounds { work: work.unwrap_or(0), ..left });
    work.map(drop).ok_or_else(|| spent(Spent::Work))
}

/// Takes `bytes` that are made from the budget.
pub(super) fn charge(bytes: u64) -> Result<(), Error> {
    let left = LEFT.get();
    let text = left.text.checked_sub(bytes);
    LEFT.set(Bounds { text: text.unwrap_or(0), ..left });
    text.map(drop).ok_or_else(|| spent(Spent::Text))
}

/// An error of a template that does what cannot be done.
pub(super) fn refuse(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// What a value weighs without what is inside it.
fn weight(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len) as u64,
        ValueKind::Bytes => value.as_bytes().map_or(0, <[u8]>::len) as u64,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => value.len().map_or(0, |n| (n as u64).saturating_mul(ELEMENT)),
        _ => 0,
    }
}

fn deep(value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refuse(format!("a value is nested deeper than {MAX_DEPTH}")));
    }
    work(ELEMENT)?;
    if value.as_object().is_some_and(|o| o.type_name().ends_with("Namespace")) {
        return Err(refuse("a namespace inside another value, which could contain itself"));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                deep(&item, depth + 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                deep(&value.get_item(&key)?, depth + 1)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Charges what a call, a filter or a slice made: text, or a list with the texts in it.  What is computed on demand,
/// as a range, takes no memory.
fn made(value: &Value) -> Result<(), Error> {
    work(weight(value))?;
    match value.kind() {
        ValueKind::Iterable => Ok(()),
        ValueKind::Seq => {
            charge(weight(value))?;
            value.try_iter()?.try_for_each(|item| charge(item.as_str().map_or(0, str::len) as u64))
        }
        ValueKind::Map => charge(MAPPING + weight(value)),
        _ => charge(weight(value)),
    }
}

/// Charges a list or mapping that is written out, whose elements are there already.
fn literal(value: &Value) -> Result<(), Error> {
    charge(if value.kind() == ValueKind::Map { MAPPING + weight(value) } else { weight(value) })?;
    deep(value, 0)
}

/// Charges the text that Python's `str` makes of a list or mapping; its parts may be one text many times over.
pub(super) fn written(value: &Value) -> Result<u64, Error> {
    use fmt::Write as _;
    struct Length(u64, Option<Error>);
    impl fmt::Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len() as u64;
            self.1 = charge(text.len() as u64).err();
            if self.1.is_some() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut length = Length(0, None);
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => match (write!(length, "{value}"), length.1) {
            (_, Some(e)) => Err(e),
            (done, None) => done.map(|()| length.0).map_err(Error::from),
        },
        _ => Ok(value.as_str().map_or(ELEMENT, |t| t.len() as u64)),
    }
}

/// Charges the elements that a filter is about to make of a text, or of what is computed on demand.
pub(super) fn elements(value: &Value) -> Result<(), Error> {
    charge(match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len) as u64 * ELEMENT,
        ValueKind::Iterable => value.len().map_or(0, |n| (n as u64).saturating_mul(ELEMENT)),
        _ => 0,
    })
}

fn iterable(value: &Value) -> Result<(), Error> {
    if value.is_none() { Err(refuse("none is not iterable")) } else { Ok(()) }
}

fn joined(value: &Value) -> Result<(), Error> {
    let bytes = weight(value);
    work(bytes)?;
    charge(bytes)
}

fn factor(size: f64) -> Result<(), Error> {
    FACTORS.with_borrow_mut(|(pending, _)| {
        if pending.len() >= MAX_PENDING {
            return Err(refuse("too many products"));
        }
        pending.push(size);
        Ok(())
    })
}

/// A number's own size, or minus what it repeats.
fn size_as_factor(value: &Value) -> f64 {
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => f64::try_from(value.clone()).map_or(0.0, f64::abs),
        _ => -(weight(value).max(1) as f64),
    }
}

fn product(value: &Value) -> Result<(), Error> {
    let right = size_as_factor(value);
    let size = FACTORS.with_borrow_mut(|(pending, last)| {
        let left = pending.pop().unwrap_or(0.0);
        // Text or lists are negative: so is what they are repeated to.
        *last = if left < 0.0 || right < 0.0 { -(left * right).abs() } else { 0.0 };
        *last
    });
    if size < 0.0 { charge(-size as u64) } else { Ok(()) }
}

/// Counts what is written.
struct Counted<'o, 'a> {
    out: &'o mut Output<'a>,
    spent: Option<Error>,
}

impl fmt::Write for Counted<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Err(e) = charge(text.len() as u64) {
            self.spent = Some(e);
            return Err(fmt::Error);
        }
        self.out.write_str(text)
    }
}

/// Writes a value as Python's `str` does, charging it.
fn format(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    use fmt::Write as _;
    let mut counted = Counted { out, spent: None };
    let done = match value.as_str() {
        Some(text) => counted.write_str(text),
        None => write!(counted, "{value}"),
    };
    match (done, counted.spent) {
        (_, Some(e)) => Err(e),
        (done, None) => done.map_err(Error::from),
    }
}

/// Adds the charging filters and the bounded versions of the engine's own.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(format);
    env.add_filter(CHARGE, |value: Value| work(weight(&value)).map(|()| value));
    env.add_filter(MADE, |value: Value| made(&value).map(|()| value));
    env.add_filter(JOINED, |value: Value| joined(&value).map(|()| value));
    env.add_filter(CONCATENATED, |value: Value| written(&value).and_then(|_| joined(&value)).map(|()| value));
    env.add_filter(WRITTEN, |value: Value| written(&value).map(|_| value));
    env.add_filter(LITERAL, |value: Value| literal(&value).map(|()| value));
    env.add_filter(DEEP, |value: Value| deep(&value, 0).map(|()| value));
    env.add_filter(FACTOR, |value: Value| factor(size_as_factor(&value)).map(|()| value));
    env.add_filter(FACTOR_CHAIN, |value: Value| {
        let last = FACTORS.with_borrow(|(_, last)| *last);
        factor(if last < 0.0 { last } else { size_as_factor(&value) }).map(|()| value)
    });
    env.add_filter(PRODUCT, |value: Value| product(&value).map(|()| value));
    env.add_filter(ITERATE, |value: Value| iterable(&value).map(|()| value));
    env.add_filter(GATHER, |value: Value| {
        iterable(&value)?;
        charge(value.as_str().map_or_else(|| weight(&value), |t| t.len() as u64 * ELEMENT)).map(|()| value)
    });
    env.add_filter(SLICE, |value: Value, bounds: Rest<Value>| python::slice(&value, &bounds));
    env.add_filter(TEXT, |value: Value, bytes: u64| charge(bytes).map(|()| value));
}
