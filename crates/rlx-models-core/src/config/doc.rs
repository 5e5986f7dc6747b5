//! A JSON configuration file, read field by field.
//!
//! The text is checked once (size, depth, syntax, duplicate keys) and stays text: a document is an index of where
//! each member's value lies, so memory is bounded by the file whatever it contains.  Values are parsed when asked
//! for, and every error names file, field, what was found and what was expected.
//!
//! Accepted beyond JSON: a byte order mark, and `Infinity` and `-Infinity` as Python writes them.  `NaN` and comments
//! are errors.  `null` counts as absent.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::ConfigError;
use crate::message::quote;
use crate::weights::{position, read_small};
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Largest configuration file.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Deepest nesting of objects and lists.
pub const MAX_DEPTH: usize = 64;
/// Most entries of a list; none has more than a model has layers.
pub const MAX_LIST: usize = super::MAX_LAYERS;
/// Largest value of a size.
pub const MAX_SIZE: usize = 1 << 31;

/// `Infinity` is replaced by a number of the same length that only it can have become.
const INFINITY: &str = "1E999999";

/// An object of a JSON configuration file.
#[derive(Clone, Debug)]
pub struct ConfigDoc {
    file: Arc<Path>,
    text: Arc<str>,
    /// Names of the objects around this one, each with a dot after it.
    prefix: Arc<str>,
    /// Where the object begins.
    start: u32,
    /// Sorted by key.
    members: Arc<Vec<Member>>,
}

/// Byte ranges of a member; keys are kept in their escaped form, which is almost always the key itself.
#[derive(Clone, Copy, Debug)]
struct Member {
    key: (u32, u32),
    value: (u32, u32),
}

impl ConfigDoc {
    /// Reads the file at `path`, which must hold one JSON object.
    ///
    /// # Errors
    /// [`ConfigError::File`], [`ConfigError::Syntax`], [`ConfigError::Duplicate`].
    pub fn open(path: impl AsRef<Path>) -> Result<ConfigDoc, ConfigError> {
        let path = path.as_ref();
        Self::from_bytes(path, read_small(path, MAX_CONFIG_BYTES)?)
    }

    /// Takes the bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<ConfigDoc, ConfigError> {
        let syntax = |offset: usize, found: String, expected: &str| ConfigError::Syntax {
            file: path.into(),
            offset: offset as u64,
            found,
            expected: expected.into(),
        };
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(syntax(0, format!("{} bytes", bytes.len()), "at most 16 MiB"));
        }
        let mut text =
            String::from_utf8(bytes).map_err(|e| syntax(e.utf8_error().valid_up_to(), "bytes that are not UTF-8".into(), "UTF-8"))?;
        if text.starts_with('\u{feff}') {
            text.replace_range(..3, "   ");
        }
        let infinities = scan(&text).map_err(|(at, found)| syntax(at, found.into(), "JSON, nested at most 64 deep"))?;
        for at in infinities {
            text.replace_range(at..at + INFINITY.len(), INFINITY);
        }
        let all = (0, text.len() as u32);
        Self::index(path.into(), text.into(), "".into(), all)
    }

    fn index(file: Arc<Path>, text: Arc<str>, prefix: Arc<str>, range: (u32, u32)) -> Result<ConfigDoc, ConfigError> {
        let object = slice(&text, range);
        let walked = (|| {
            let mut count = 0;
            let mut d = serde_json::Deserializer::from_str(object);
            d.deserialize_map(Members(&mut |_, _| count += 1))?;
            d.end()?;
            let mut members = Vec::with_capacity(count);
            let place = |s: &str| {
                let at = range.0 + (s.as_ptr() as usize).wrapping_sub(object.as_ptr() as usize) as u32;
                (at, at + s.len() as u32)
            };
            serde_json::Deserializer::from_str(object)
                .deserialize_map(Members(&mut |k, v| members.push(Member { key: place(k), value: place(v) })))?;
            Ok(members)
        })();
        let mut members: Vec<Member> = walked.map_err(|e: serde_json::Error| ConfigError::Syntax {
            file: file.to_path_buf(),
            offset: u64::from(range.0) + position(object, &e),
            found: e.to_string(),
            expected: "a JSON object".into(),
        })?;
        members.sort_unstable_by(|a, b| key(&text, a).cmp(&key(&text, b)));
        for pair in members.windows(2) {
            if let [a, b] = pair
                && key(&text, a) == key(&text, b)
            {
                let (field, offset) = (format!("{prefix}{}", key(&text, a)), u64::from(a.key.0.max(b.key.0)));
                return Err(ConfigError::Duplicate { file: file.to_path_buf(), field, offset });
            }
        }
        let start = range.0 + (object.len() - object.trim_start().len()) as u32;
        Ok(ConfigDoc { file, text, prefix, start, members: Arc::new(members) })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The full name of a member, for messages: `text_config.rope_scaling.factor`.
    pub fn field(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The names of all members, sorted.
    pub fn keys(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.members.iter().map(|m| key(&self.text, m))
    }

    /// The JSON text of a member; `None` when it is absent or null.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let raw = slice(&self.text, self.member(name)?.value);
        (raw != "null").then_some(raw)
    }

    fn member(&self, name: &str) -> Option<&Member> {
        let at = self.members.binary_search_by(|m| key(&self.text, m).as_ref().cmp(name)).ok()?;
        self.members.get(at)
    }

    /// The byte at which the object begins.
    pub(super) fn start(&self) -> u64 {
        u64::from(self.start)
    }

    /// Whether a member is there, if only as null.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    /// The byte at which the value of a member begins; when it is absent, the object that lacks it.
    pub fn offset(&self, name: &str) -> u64 {
        u64::from(self.member(name).map_or(self.start, |m| m.value.0))
    }

    /// Whether a member is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// An error about a member that is absent.
    pub fn missing(&self, name: &str, expected: impl fmt::Display) -> ConfigError {
        let (file, field, offset) = (self.file.to_path_buf(), self.field(name), self.offset(name));
        ConfigError::Missing { file, field, offset, expected: expected.to_string() }
    }

    /// An error about a member's value.
    pub fn invalid(&self, name: &str, expected: impl fmt::Display) -> ConfigError {
        let found = match self.raw(name) {
            Some(raw) if raw == INFINITY => "Infinity".into(),
            Some(raw) if raw.len() > 96 => quote(raw),
            // Lines may end between the parts of a value; a message is one line.
            Some(raw) => raw.replace(char::is_control, " "),
            None => "absent".into(),
        };
        let (file, field, offset) = (self.file.to_path_buf(), self.field(name), self.offset(name));
        ConfigError::Invalid { file, field, offset, found, expected: expected.to_string() }
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, ConfigError> {
        self.raw(name).map(|raw| serde_json::from_str(raw).map_err(|_| self.invalid(name, expected))).transpose()
    }

    fn need<T>(&self, name: &str, value: Option<T>, expected: &str) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.missing(name, expected))
    }

    /// A count or size from 0 to 2^31.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for anything but such an integer.  So for the other `opt_*`.
    pub fn opt_usize(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        // Some writers store whole numbers as floats.
        let whole = raw.strip_suffix(".0").unwrap_or(raw);
        match serde_json::from_str::<usize>(whole) {
            Ok(v) if v <= MAX_SIZE => Ok(Some(v)),
            _ => Err(self.invalid(name, SIZE)),
        }
    }

    /// As [`opt_usize`](Self::opt_usize), present.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Invalid`].  So for the others.
    pub fn usize(&self, name: &str) -> Result<usize, ConfigError> {
        let value = self.opt_usize(name)?;
        self.need(name, value, SIZE)
    }

    /// A finite number.
    pub fn opt_f64(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        match self.opt_f64_or_infinite(name)? {
            Some(v) if !v.is_finite() => Err(self.invalid(name, FINITE)),
            v => Ok(v),
        }
    }

    /// A finite number, present.
    pub fn f64(&self, name: &str) -> Result<f64, ConfigError> {
        let value = self.opt_f64(name)?;
        self.need(name, value, FINITE)
    }

    /// A number, or `Infinity` or `-Infinity` spelled out.
    pub fn opt_f64_or_infinite(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        self.raw(name).map(|raw| number(raw).ok_or_else(|| self.invalid(name, FINITE))).transpose()
    }

    /// A list of numbers, `Infinity` included.
    pub fn opt_f64s(&self, name: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.list(name, "a list of numbers", number)
    }

    /// A list of at most [`MAX_LIST`] entries.  They are looked at first: one of two bytes becomes a value of up to 24.
    fn list<T>(&self, name: &str, expected: &str, item: impl Fn(&str) -> Option<T>) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        let each = |f: &mut dyn FnMut(&str) -> bool| {
            let walked = serde_json::Deserializer::from_str(raw).deserialize_seq(Items(f));
            walked.map_err(|_| self.invalid(name, expected))
        };
        let mut n = 0;
        let counted = each(&mut |raw| {
            n += 1;
            n <= MAX_LIST && item(raw).is_some()
        });
        if n > MAX_LIST {
            return Err(self.invalid(name, format_args!("{expected}, at most {MAX_LIST}")));
        }
        counted?;
        let mut out = Vec::with_capacity(n);
        each(&mut |raw| item(raw).map(|value| out.push(value)).is_some())?;
        Ok(Some(out))
    }

    /// A list of counts.
    pub fn opt_usizes(&self, name: &str) -> Result<Option<Vec<usize>>, ConfigError> {
        let list = self.list(name, "a list of whole numbers", json::<usize>)?;
        match list {
            Some(l) if l.iter().any(|v| *v > MAX_SIZE) => Err(self.invalid(name, "numbers up to 2^31")),
            l => Ok(l),
        }
    }

    /// `true` or `false`.
    pub fn opt_bool(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.parse(name, "true or false")
    }

    /// `true` or `false`, present.
    pub fn bool(&self, name: &str) -> Result<bool, ConfigError> {
        let value = self.opt_bool(name)?;
        self.need(name, value, "true or false")
    }

    /// A string.
    pub fn opt_string(&self, name: &str) -> Result<Option<String>, ConfigError> {
        self.parse(name, "a string")
    }

    /// A string, present.
    pub fn string(&self, name: &str) -> Result<String, ConfigError> {
        let value = self.opt_string(name)?;
        self.need(name, value, "a string")
    }

    /// A list of strings.
    pub fn opt_strings(&self, name: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.list(name, "a list of strings", json::<String>)
    }

    /// A token id or a list of them, as lists.
    pub fn opt_ids(&self, name: &str) -> Result<Option<Vec<u32>>, ConfigError> {
        const EXPECTED: &str = "a token id, or a list of them";
        match self.raw(name) {
            Some(raw) if !raw.starts_with('[') => self.parse::<u32>(name, EXPECTED).map(|id| id.map(|id| vec![id])),
            _ => self.list(name, EXPECTED, json::<u32>),
        }
    }

    /// A nested object.
    pub fn opt_object(&self, name: &str) -> Result<Option<ConfigDoc>, ConfigError> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        if !raw.starts_with('{') {
            return Err(self.invalid(name, "an object"));
        }
        let start = (raw.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize) as u32;
        let range = (start, start + raw.len() as u32);
        let prefix = format!("{}{name}.", self.prefix).into();
        Self::index(self.file.clone(), self.text.clone(), prefix, range).map(Some)
    }

    /// The configuration of the language model: this document, or the nested object that multimodal checkpoints have.
    ///
    /// # Errors
    /// Text configurations inside text configurations are refused.
    pub fn text_config(&self) -> Result<ConfigDoc, ConfigError> {
        const NESTED: [&str; 3] = ["text_config", "llm_config", "language_config"];
        for name in NESTED {
            if let Some(text) = self.opt_object(name)? {
                if let Some(again) = NESTED.iter().find(|n| text.has(n)) {
                    return Err(text.invalid(again, "no further text configuration inside"));
                }
                return Ok(text);
            }
        }
        Ok(self.clone())
    }

    /// `model_type`.
    pub fn model_type(&self) -> Result<Option<String>, ConfigError> {
        self.opt_string("model_type")
    }

    /// `architectures`; empty when absent.
    pub fn architectures(&self) -> Result<Vec<String>, ConfigError> {
        Ok(self.opt_strings("architectures")?.unwrap_or_default())
    }

    /// `dtype`, or `torch_dtype` in older files, without the prefix `torch.`.
    pub fn dtype(&self) -> Result<Option<rlx_ir::DType>, ConfigError> {
        const KNOWN: [(&str, rlx_ir::DType); 6] = [
            ("float64", rlx_ir::DType::F64),
            ("float32", rlx_ir::DType::F32),
            ("float16", rlx_ir::DType::F16),
            ("bfloat16", rlx_ir::DType::BF16),
            ("float8_e4m3fn", rlx_ir::DType::F8E4M3),
            ("float8_e5m2", rlx_ir::DType::F8E5M2),
        ];
        for field in ["dtype", "torch_dtype"] {
            let Some(found) = self.opt_string(field)? else {
                continue;
            };
            let name = found.strip_prefix("torch.").unwrap_or(&found);
            return match KNOWN.iter().find(|k| k.0 == name) {
                Some(k) => Ok(Some(k.1)),
                None => Err(self.unknown(field, found, KNOWN.iter().map(|k| k.0))),
            };
        }
        Ok(None)
    }

    /// An error about a member that names something not known here.
    pub fn unknown<'k>(&self, name: &str, found: impl Into<String>, known: impl IntoIterator<Item = &'k str>) -> ConfigError {
        let known = known.into_iter().map(str::to_owned).collect();
        let (file, field, offset) = (self.file.to_path_buf(), self.field(name), self.offset(name));
        ConfigError::Unknown { file, field, offset, found: found.into(), known }
    }
}

const SIZE: &str = "a whole number from 0 to 2^31";
const FINITE: &str = "a finite number";

fn json<T: DeserializeOwned>(raw: &str) -> Option<T> {
    serde_json::from_str(raw).ok()
}

/// A JSON number; one too large for f64 is none, but a spelled-out infinity is.
fn number(raw: &str) -> Option<f64> {
    let spelled = raw.trim_start_matches('-') == INFINITY;
    let is_number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    raw.parse::<f64>().ok().filter(|v| is_number && (v.is_finite() || spelled))
}

fn slice(text: &str, range: (u32, u32)) -> &str {
    text.get(range.0 as usize..range.1 as usize).unwrap_or_default()
}

/// The key of a member, unescaped.
fn key<'t>(text: &'t str, m: &Member) -> Cow<'t, str> {
    let raw = slice(text, m.key);
    let plain = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if plain.contains('\\') { serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(plain), Cow::Owned) } else { Cow::Borrowed(plain) }
}

/// Looks at everything outside strings: where `Infinity` stands, and how deep it goes.
fn scan(text: &str) -> Result<Vec<usize>, (usize, &'static str)> {
    let (mut infinities, mut depth, mut in_string, mut escaped) = (Vec::new(), 0usize, false, false);
    for (i, b) in text.bytes().enumerate() {
        if in_string {
            in_string = escaped || b != b'"';
            escaped = !escaped && b == b'\\';
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'N' => return Err((i, "NaN or another bare word")),
            b'I' if text.get(i..i + INFINITY.len()) == Some("Infinity") => infinities.push(i),
            b'/' | b'#' => return Err((i, "a comment")),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err((i, "deeper nesting"));
        }
    }
    Ok(infinities)
}

/// Calls back with the raw value of every member of a JSON object that is called `name`, up to where the text is broken.
pub(crate) fn members_called<'t>(object: &'t str, name: &str, f: &mut dyn FnMut(&'t str)) {
    let each = &mut |raw: &'t str, value| {
        let all = Member { key: (0, raw.len() as u32), value: (0, 0) };
        if key(raw, &all) == name {
            f(value);
        }
    };
    let _ = serde_json::Deserializer::from_str(object).deserialize_map(Members(each));
}

/// Calls back with every entry of a list, until that says no.
struct Items<'f>(&'f mut dyn FnMut(&str) -> bool);

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            if !(self.0)(item.get()) {
                return Err(A::Error::custom("an entry of another kind"));
            }
        }
        Ok(())
    }
}

/// Calls back with the raw key and value of every member.
struct Members<'f, 'de>(&'f mut dyn FnMut(&'de str, &'de str));

impl<'de> Visitor<'de> for Members<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((k, v)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            (self.0)(k.get(), v.get());
        }
        Ok(())
    }
}
