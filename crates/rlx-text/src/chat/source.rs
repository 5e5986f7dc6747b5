//! Where a checkpoint keeps its chat templates, and which of them counts.
//!
//! As transformers reads them: `chat_template.jinja` and `additional_chat_templates/NAME.jinja` come before
//! the legacy `chat_template.json`, and that before the entry of `tokenizer_config.json`.  GGUF metadata have
//! `tokenizer.chat_template` and `tokenizer.chat_template.NAME`.

use std::path::Path;

use serde_json::Value;

use super::{ChatTemplate, DEFAULT, MAX_SOURCE};
use crate::{Result, TextError};

/// Templates by name, as they were found.
pub type NamedSources = Vec<(String, String)>;

impl ChatTemplate {
    /// From a parsed `tokenizer_config.json`: its `chat_template` (text, or a list of named ones) and the
    /// special tokens that templates refer to.  `None` when there is no template.
    ///
    /// # Errors
    /// The entry has another shape or does not parse.
    pub fn from_tokenizer_config(config: &Value) -> Result<Option<Self>> {
        let sources = entry(config.get("chat_template"), "tokenizer_config.json")?;
        Ok(Self::compile(sources)?.map(|t| t.with_special_tokens(config)))
    }

    /// From the files of a checkpoint's directory; `config` is its parsed `tokenizer_config.json`, where there
    /// is one.  `None` when there is no template.
    ///
    /// # Errors
    /// A file cannot be read, has another shape, or does not parse.
    pub fn from_dir(dir: &Path, config: Option<&Value>) -> Result<Option<Self>> {
        let sources = Self::sources(dir, config)?.map(|found| found.1).unwrap_or_default();
        let template = Self::compile(sources)?;
        Ok(match config {
            Some(config) => template.map(|t| t.with_special_tokens(config)),
            None => template,
        })
    }

    /// The templates of a checkpoint's directory by name, not compiled, with the file that has them; `config` is its
    /// parsed `tokenizer_config.json`, where there is one.  `None` when there is no template.
    ///
    /// # Errors
    /// A file cannot be read or has another shape.
    pub fn sources(dir: &Path, config: Option<&Value>) -> Result<Option<(&'static str, NamedSources)>> {
        const FILE: &str = "chat_template.jinja";
        const LEGACY: &str = "chat_template.json";
        const CONFIG: &str = "tokenizer_config.json";
        let mut found = (FILE, files(dir)?);
        if found.1.is_empty()
            && let Some(text) = read(&dir.join(LEGACY))?
        {
            let json: Value = serde_json::from_str(&text).map_err(|e| TextError::syntax(LEGACY, text.as_bytes(), &e))?;
            found = (LEGACY, entry(json.get("chat_template"), LEGACY)?);
        }
        if found.1.is_empty() {
            found = (CONFIG, entry(config.and_then(|c| c.get("chat_template")), CONFIG)?);
        }
        Ok(Some(found).filter(|f| !f.1.is_empty()))
    }

    /// From the text of a file that the user names: a template, or a `tokenizer_config.json` or
    /// `chat_template.json` that holds one.
    ///
    /// # Errors
    /// It cannot be read or does not parse.
    pub fn from_file(path: &Path) -> Result<Self> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let text = read(path)?.ok_or_else(|| TextError::Io { path: path.into(), source: missing() })?;
        if path.extension().is_none_or(|e| e != "json") {
            return Self::new(&text);
        }
        let name = path.display().to_string();
        let json: Value = serde_json::from_str(&text).map_err(|e| TextError::syntax(&name, text.as_bytes(), &e))?;
        let template = Self::compile(entry(json.get("chat_template"), &name)?)?;
        template.map(|t| t.with_special_tokens(&json)).ok_or_else(|| TextError::json(name, "no `chat_template` in it"))
    }

    /// Compiles what was found; `None` when nothing was.
    ///
    /// # Errors
    /// One does not parse, or two have one name.
    pub fn compile(sources: NamedSources) -> Result<Option<Self>> {
        if sources.is_empty() {
            return Ok(None);
        }
        Self::named(sources.iter().map(|(name, source)| (name.clone(), source.as_str()))).map(Some)
    }

    /// With the special tokens that a `tokenizer_config.json` names.
    fn with_special_tokens(mut self, config: &Value) -> Self {
        for key in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
            let entry = config.get(key);
            if let Some(text) = entry.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str())) {
                self = self.with_variable(key, text);
            }
        }
        self
    }
}

/// The entry `chat_template` of a JSON file: a text, or a list of named ones.
fn entry(value: Option<&Value>, file: &str) -> Result<NamedSources> {
    let shape = |reason: String| TextError::json(format!("{file}, chat_template"), reason);
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(n, e)| {
                let field = |key: &str| e.get(key).and_then(Value::as_str).map(str::to_owned);
                match (field("name"), field("template")) {
                    (Some(name), Some(template)) => Ok((name, template)),
                    _ => Err(shape(format!("entry {n} of the list lacks `name` or `template`"))),
                }
            })
            .collect(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, v)| v.as_str().map(|s| (name.clone(), s.to_owned())).ok_or_else(|| shape(format!("`{name}` is not a text"))))
            .collect(),
        Some(_) => Err(shape("expected a text or a list of {name, template}".into())),
    }
}

/// The template files of a directory, in the order of their names.
fn files(dir: &Path) -> Result<NamedSources> {
    let mut sources = Vec::new();
    if let Some(text) = read(&dir.join("chat_template.jinja"))? {
        sources.push((DEFAULT.to_owned(), text));
    }
    let Ok(entries) = std::fs::read_dir(dir.join("additional_chat_templates")) else { return Ok(sources) };
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "jinja")).collect();
    paths.sort();
    for path in paths {
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(text) = read(&path)? {
            sources.push((name, text));
        }
    }
    Ok(sources)
}

/// The text of a file, `None` when there is none.
fn read(path: &Path) -> Result<Option<String>> {
    let io = |source| TextError::Io { path: path.into(), source };
    let Ok(about) = std::fs::metadata(path) else { return Ok(None) };
    if !about.is_file() {
        return Ok(None);
    }
    // A JSON file has other things beside the templates.
    if about.len() > 16 * MAX_SOURCE as u64 {
        let reason = format!("{} bytes, expected at most {}", about.len(), 16 * MAX_SOURCE);
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)));
    }
    std::fs::read_to_string(path).map(Some).map_err(io)
}
