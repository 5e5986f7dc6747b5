//! What the engine's own filters and functions may make, charged before they make it.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{ELEMENT, charge, elements, refuse, written};

/// What is looked at before a filter of the engine runs.
type Before = fn(&[Value]) -> Result<(), Error>;

/// Filters of the engine that make more than they are given, with what bounds them.
pub(super) fn engine_filters() -> Vec<(&'static str, Value, Before)> {
    use minijinja::filters as engine;
    vec![
        ("batch", Value::from_function(engine::batch), before_columns),
        ("slice", Value::from_function(engine::slice), before_columns),
        ("format", Value::from_function(engine::format), before_format),
        ("list", Value::from_function(engine::list), before_list),
        ("sort", Value::from_function(engine::sort), before_list),
        ("unique", Value::from_function(engine::unique), before_list),
        ("map", Value::from_function(engine::map), before_list),
        ("select", Value::from_function(engine::select), before_list),
        ("reject", Value::from_function(engine::reject), before_list),
        ("groupby", Value::from_function(engine::groupby), before_list),
        ("split", Value::from_function(engine::split), before_split),
        ("lines", Value::from_function(engine::lines), before_lines),
        ("escape", Value::from_function(engine::escape), before_escape),
        ("e", Value::from_function(engine::escape), before_escape),
    ]
}

/// Most columns of `batch` and `slice`.
const MAX_COLUMNS: i64 = 4096;

/// Before the engine's `batch` and `slice`, which make as many items as they are asked for.
fn before_columns(args: &[Value]) -> Result<(), Error> {
    if args.get(1).and_then(Value::as_i64).is_some_and(|n| n > MAX_COLUMNS) {
        return Err(refuse(format!("batch, slice: expected at most {MAX_COLUMNS} columns")));
    }
    let fill = args.get(2).is_some_and(|v| matches!(v.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable));
    if fill {
        return Err(refuse("batch, slice: cannot fill with a list or mapping"));
    }
    charge(args.get(1).and_then(Value::as_i64).map_or(0, |n| n.unsigned_abs() * ELEMENT))?;
    before_list(args)
}

/// Before the engine's `format`: no fields of any width.
fn before_format(args: &[Value]) -> Result<(), Error> {
    charge_format(args.first().and_then(Value::as_str).unwrap_or_default(), args.get(1..).unwrap_or_default())
}

/// Before the engine makes a list of what it is given.
fn before_list(args: &[Value]) -> Result<(), Error> {
    args.first().map_or(Ok(()), elements)
}

/// Before the engine's `split`.
fn before_split(args: &[Value]) -> Result<(), Error> {
    let text = args.first().and_then(Value::as_str).unwrap_or_default();
    charge_pieces(text, args.get(1).and_then(Value::as_str))
}

/// Before the engine's `lines`.
fn before_lines(args: &[Value]) -> Result<(), Error> {
    charge_pieces(args.first().and_then(Value::as_str).unwrap_or_default(), Some("\n"))
}

/// Before the engine replaces characters by longer ones.
fn before_escape(args: &[Value]) -> Result<(), Error> {
    let bytes = args.first().map_or(Ok(0), written)?;
    charge(bytes.saturating_mul(6))
}

/// Charges what a format string may make: each field may take the longest argument, and as many columns as it names.
pub(super) fn charge_format(format: &str, args: &[Value]) -> Result<(), Error> {
    let Some(columns) = columns(format) else {
        return Err(refuse("format: field widths of more than four digits, or taken from a value, are refused"));
    };
    let mut longest = 0;
    for arg in args {
        longest = longest.max(written(arg)?);
    }
    let fields = format.bytes().filter(|b| matches!(b, b'%' | b'{')).count() as u64;
    charge(format.len() as u64 + columns + fields.saturating_mul(longest))
}

/// Charges the pieces that a text is cut into.
pub(super) fn charge_pieces(text: &str, separator: Option<&str>) -> Result<(), Error> {
    let pieces = match separator.filter(|s| !s.is_empty()) {
        Some(separator) => text.matches(separator).count() + 1,
        None => text.split(char::is_whitespace).count(),
    };
    charge(text.len() as u64 + ELEMENT * pieces as u64)
}

/// The function `range`, whose numbers a filter may put into a list.
pub(super) fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let narrow = |n: i64| isize::try_from(n).map_err(|_| refuse("range: the number is too large"));
    let range = minijinja::functions::range(narrow(lower)?, upper.map(narrow).transpose()?, step.map(narrow).transpose()?)?;
    charge(range.len().map_or(0, |n| n as u64).saturating_mul(PER_NUMBER))?;
    Ok(range)
}

/// What a number of a range weighs.
const PER_NUMBER: u64 = 8;

/// The sum of the numbers in a format string; `None` with a number of five digits or more, or a field inside a field.
fn columns(format: &str) -> Option<u64> {
    let nested = format.split('{').skip(1).any(|field| !field.contains('}') && !field.is_empty());
    if nested || format.contains('*') {
        return None;
    }
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
    numbers.map(|n| if n.len() > 4 { None } else { n.parse::<u64>().ok() }).sum()
}
