//! What a JSON schema may hold, checked before it is compiled.
//!
//! The compiler ignores keywords it has never heard of, and recurses over references.  Here every keyword must
//! be one that constrains the output or an annotation without meaning for it, references must exist, lead
//! somewhere and be of bounded depth, and counts must be ones that an answer can have.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Schemas and references inside each other.
pub const MAX_DEPTH: usize = 64;
/// Schemas in all.
pub const MAX_SCHEMAS: usize = 20_000;
/// Values of one `enum`.
pub const MAX_ENUM: usize = 10_000;
/// Least items, characters or properties that can be demanded, and most that can be counted.
pub const MAX_COUNT: u64 = 100_000;
/// Bytes of one `pattern`.
pub const MAX_PATTERN: usize = 10_000;

/// Keywords whose value is one schema.
const ONE: &[&str] = &["items", "additionalItems", "additionalProperties"];
/// Keywords whose value is a list of schemas.
const MANY: &[&str] = &["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is a mapping of names to schemas.
const NAMED: &[&str] = &["properties", "patternProperties"];
/// Counts.
const COUNTS: &[&str] = &["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];
/// Other keywords that constrain.
const OTHER: &[&str] = &[
    "$ref",
    "const",
    "enum",
    "type",
    "required",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
/// Keywords that say nothing about which output is valid.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// Checks a schema.
///
/// # Errors
/// Says which keyword at which place is not supported or has too much of something.
pub fn check(schema: &Value) -> Result<(), String> {
    let mut checker = Checker { root: schema, seen: HashSet::new(), places: HashMap::new(), n: 0 };
    checker.schema(schema, "#", 0)?;
    checker.endless()
}

struct Checker<'s> {
    root: &'s Value,
    /// References that were followed.
    seen: HashSet<&'s str>,
    /// Where a schema refers to without a value in between: reference → references.
    places: HashMap<&'s str, Vec<&'s str>>,
    n: usize,
}

impl<'s> Checker<'s> {
    fn schema(&mut self, schema: &'s Value, at: &str, depth: usize) -> Result<(), String> {
        self.n += 1;
        if depth > MAX_DEPTH {
            return Err(format!("{}: schemas and references inside each other deeper than {MAX_DEPTH}", short(at)));
        }
        if self.n > MAX_SCHEMAS {
            return Err(format!("more than {MAX_SCHEMAS} schemas"));
        }
        let fields = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(fields) => fields,
            other => return Err(format!("{}: found {}, expected a schema (an object or a boolean)", short(at), kind(other))),
        };
        for (key, value) in fields {
            let place = format!("{at}/{key}");
            self.keyword(key, value, &place, depth)?;
        }
        Ok(())
    }

    fn keyword(&mut self, key: &str, value: &'s Value, at: &str, depth: usize) -> Result<(), String> {
        let wrong = |expected: &str| format!("{}: found {}, expected {expected}", short(at), kind(value));
        match key {
            _ if ONE.contains(&key) => return self.schema(value, at, depth + 1),
            _ if MANY.contains(&key) => {
                for (n, part) in value.as_array().ok_or_else(|| wrong("a list of schemas"))?.iter().enumerate() {
                    self.schema(part, &format!("{at}/{n}"), depth + 1)?;
                }
            }
            _ if NAMED.contains(&key) => {
                for (name, part) in value.as_object().ok_or_else(|| wrong("a mapping of names to schemas"))? {
                    if key == "patternProperties" && name.len() > MAX_PATTERN {
                        return Err(format!("{}: a pattern of {} bytes, expected at most {MAX_PATTERN}", short(at), name.len()));
                    }
                    self.schema(part, &format!("{at}/{name}"), depth + 1)?;
                }
            }
            _ if COUNTS.contains(&key) => {
                let count = value.as_u64().ok_or_else(|| wrong("a whole number, 0 or more"))?;
                if count > MAX_COUNT {
                    return Err(format!("{}: {count}, expected at most {MAX_COUNT}; leave it out where it is no real bound", short(at)));
                }
            }
            "$ref" => return self.reference(value.as_str().ok_or_else(|| wrong("a text"))?, at, depth),
            "enum" => match value.as_array().map(Vec::len) {
                Some(1..=MAX_ENUM) => {}
                Some(n) => return Err(format!("{}: {n} values, expected 1 to {MAX_ENUM}", short(at))),
                None => return Err(wrong("a list of values")),
            },
            "pattern" => match value.as_str().map(str::len) {
                Some(0..=MAX_PATTERN) => {}
                Some(n) => return Err(format!("{}: {n} bytes, expected at most {MAX_PATTERN}", short(at))),
                None => return Err(wrong("a regular expression")),
            },
            _ if OTHER.contains(&key) || ANNOTATIONS.contains(&key) => {}
            _ if key.starts_with("x-") && key != "x-guidance" => {}
            _ => return Err(unsupported(key, at)),
        }
        Ok(())
    }

    /// Follows a reference within the document.
    fn reference(&mut self, to: &'s str, at: &str, depth: usize) -> Result<(), String> {
        let target = resolve(self.root, to)
            .ok_or_else(|| format!("{}: `{}` is not in the schema; only references within it (#/…) are supported", short(at), short(to)))?;
        if !self.seen.insert(to) {
            return Ok(());
        }
        let mut found = Vec::new();
        in_place(target, &mut found, 0);
        self.places.insert(to, found);
        self.schema(target, to, depth + 1)
    }

    /// Finds references that lead back to themselves without a value in between.
    fn endless(&self) -> Result<(), String> {
        for &start in self.places.keys() {
            let (mut todo, mut met) = (vec![start], HashSet::new());
            while let Some(at) = todo.pop() {
                for &next in self.places.get(at).into_iter().flatten() {
                    if next == start {
                        return Err(format!("`{}` refers to itself without a value in between", short(start)));
                    }
                    if met.insert(next) {
                        todo.push(next);
                    }
                }
            }
        }
        Ok(())
    }
}

/// References that stand for the schema itself: `$ref`, and those in `anyOf`, `oneOf`, `allOf`.
fn in_place<'s>(schema: &'s Value, found: &mut Vec<&'s str>, depth: usize) {
    let Some(fields) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else { return };
    if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
        found.push(to);
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for part in fields.get(key).and_then(Value::as_array).into_iter().flatten() {
            in_place(part, found, depth + 1);
        }
    }
}

/// The schema that a reference names.
fn resolve<'s>(root: &'s Value, to: &str) -> Option<&'s Value> {
    if matches!(to, "#" | "#/") {
        return Some(root);
    }
    to.strip_prefix("#/")?.split('/').try_fold(root, |at, part| match at {
        Value::Array(list) => list.get(part.parse::<usize>().ok()?),
        Value::Object(map) => map.get(part),
        _ => None,
    })
}

fn unsupported(key: &str, at: &str) -> String {
    let all = [ONE, MANY, NAMED, COUNTS, OTHER].concat();
    format!("{}: the keyword `{}` is not supported; supported are {}", short(at), short(key), all.join(", "))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(Map { .. }) => "an object",
    }
}

/// A place or name of moderate length.
fn short(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
