//! What one rendering may cost in bytes, and the filters that charge it.
//!
//! [`super::rewrite`] puts the filters into the template.  Each charges what an operand, a product or a stretch
//! of literal text weighs against the rendering's budget, so that no chain of steps can make more text than
//! the budget, however it doubles.  The budget grows with the conversation: [`BASE`] and [`PER_BYTE`].

use std::cell::{Cell, RefCell};
use std::fmt;

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::python;

/// Charges the size of an operand.
pub(super) const CHARGE: &str = "_c";
/// Charges a list or mapping with all that is in it, and refuses a namespace inside.
pub(super) const DEEP: &str = "_d";
/// Notes the left side of `*`.
pub(super) const FACTOR: &str = "_f";
/// The same where the left side is itself a product.
pub(super) const FACTOR_CHAIN: &str = "_g";
/// Charges the product with the right side.
pub(super) const PRODUCT: &str = "_p";
/// Refuses to run over none.
pub(super) const ITERATE: &str = "_i";
/// A slice with Python's bounds.
pub(super) const SLICE: &str = "_s";
/// Charges literal text.
pub(super) const TEXT: &str = "_t";

/// Bytes any rendering may handle.
const BASE: u64 = 2 << 20;
/// Bytes it may handle for each byte of messages, tools and variables: templates read a message often, and
/// some gather all text turn by turn.
const PER_BYTE: u64 = 512;
/// Most bytes of one rendering.
const MOST: u64 = 4 << 30;
/// What an element of a list weighs.
const ELEMENT: u64 = 64;
/// Deeper values are refused.
const MAX_DEPTH: usize = 100;
/// Products that wait for their right side.
const MAX_PENDING: usize = 4096;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static BOUND: Cell<u64> = const { Cell::new(0) };
    static FACTORS: RefCell<(Vec<f64>, f64)> = const { RefCell::new((Vec::new(), 0.0)) };
}

/// The budget of the rendering that runs on this thread, until it is dropped.
pub(super) struct Budget {
    before: (u64, u64),
}

impl Budget {
    /// For a conversation of so many bytes.
    pub(super) fn start(input: usize) -> Self {
        let bound = (BASE + PER_BYTE * input as u64).min(MOST);
        let before = (LEFT.get(), BOUND.get());
        LEFT.set(bound);
        BOUND.set(bound);
        FACTORS.with_borrow_mut(|f| *f = (Vec::new(), 0.0));
        Self { before }
    }

    /// The bound in force.
    pub(super) fn bound() -> u64 {
        BOUND.get()
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.set(self.before.0);
        BOUND.set(self.before.1);
    }
}

/// The budget is spent; carried through the engine's own errors.
#[derive(Debug, thiserror::Error)]
#[error("the template handles too much text")]
pub(super) struct Spent;

/// Takes `bytes` from the budget.
pub(super) fn charge(bytes: u64) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes);
    LEFT.set(left.unwrap_or(0));
    left.map(drop).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "too much text").with_source(Spent))
}

fn refuse(reason: impl Into<String>) -> Error {
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
    charge(ELEMENT)?;
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
    env.add_filter(CHARGE, |value: Value| charge(weight(&value)).map(|()| value));
    env.add_filter(DEEP, |value: Value| deep(&value, 0).map(|()| value));
    env.add_filter(FACTOR, |value: Value| factor(size_as_factor(&value)).map(|()| value));
    env.add_filter(FACTOR_CHAIN, |value: Value| {
        let last = FACTORS.with_borrow(|(_, last)| *last);
        factor(if last < 0.0 { last } else { size_as_factor(&value) }).map(|()| value)
    });
    env.add_filter(PRODUCT, |value: Value| product(&value).map(|()| value));
    env.add_filter(ITERATE, |value: Value| if value.is_none() { Err(refuse("none is not iterable")) } else { Ok(value) });
    env.add_filter(SLICE, |value: Value, bounds: Rest<Value>| python::slice(&value, &bounds));
    env.add_filter(TEXT, |value: Value, bytes: u64| charge(bytes).map(|()| value));
}
