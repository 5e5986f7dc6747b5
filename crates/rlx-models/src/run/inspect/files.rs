//! Which files there are, what each is, and which parts of the weights are missing.

use super::page::{Page, count, first_of};
use rlx_cli::term::human_bytes;
use rlx_core::weights::{Checkpoint, WeightFormat, WeightsError, gguf_files};
use rlx_gguf::quantize::FileType;
use rlx_gguf::{Gguf, GgufError};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most files of a directory that are listed.
const MOST: usize = 4096;
/// Most GGUF files whose headers are read for the listing.
const MOST_HEADERS: usize = 64;

/// Files that say something about the weights beside them, and what.
const BESIDE: &[(&str, &str)] = &[
    ("config.json", "settings of the model"),
    ("generation_config.json", "settings of generation"),
    ("tokenizer.json", "tokenizer"),
    ("tokenizer_config.json", "settings of the tokenizer"),
    ("chat_template.jinja", "chat template"),
    ("chat_template.json", "chat template"),
    ("tokenizer.model", "SentencePiece tokenizer, not read"),
    ("special_tokens_map.json", "tokenizer, older layout, not read"),
    ("added_tokens.json", "tokenizer, older layout, not read"),
    ("vocab.json", "tokenizer, older layout, not read"),
    ("merges.txt", "tokenizer, older layout, not read"),
    ("preprocessor_config.json", "settings of images or sound"),
    ("processor_config.json", "settings of images or sound"),
    ("adapter_config.json", "settings of an adapter (LoRA)"),
    ("model_index.json", "parts of a diffusion pipeline"),
];

/// A file, or a directory in the directory.
struct Entry {
    name: String,
    bytes: Option<u64>,
    what: String,
    /// As `--gguf-index` counts.
    index: Option<usize>,
    /// It holds the weights that are reported.
    opened: bool,
}

/// The files of a checkpoint.
pub(super) struct Files {
    entries: Vec<Entry>,
    /// Parts that the weights consist of.
    parts: u64,
    missing: Vec<String>,
}

impl Files {
    /// The files of a directory; of a file, those that belong to it.
    pub fn of(path: &Path, weights: &Result<Checkpoint, WeightsError>) -> io::Result<Files> {
        let opened: Vec<PathBuf> = match weights {
            Ok(c) => c.files().map(Path::to_owned).chain([c.path().to_owned()]).collect(),
            Err(_) => vec![],
        };
        let (dir, names) = if path.is_dir() { (path, in_directory(path)?) } else { beside(path, weights, &opened) };
        let ggufs = if path.is_dir() { gguf_files(path).unwrap_or_default() } else { vec![] };
        let mut headers = 0;
        let entries = names.into_iter().map(|name| {
            let (file, index) = (dir.join(&name), ggufs.iter().position(|n| *n == name).filter(|_| ggufs.len() > 1));
            let metadata = fs::metadata(&file).ok();
            let bytes = metadata.as_ref().filter(|m| m.is_file()).map(fs::Metadata::len);
            let is_dir = metadata.is_some_and(|m| m.is_dir());
            let mut header = || {
                headers += 1;
                (headers <= MOST_HEADERS).then(|| gguf_header(&file)).flatten()
            };
            let what = if is_dir { "directory".into() } else { what(&name, bytes, &mut header) };
            Entry { index, bytes, what, opened: opened.contains(&file), name }
        });
        let entries = entries.collect();
        let (parts, missing) = parts(weights);
        Ok(Files { entries, parts, missing })
    }

    pub fn json(&self) -> Value {
        let file = |e: &Entry| json!({ "name": e.name, "bytes": e.bytes, "what": e.what, "gguf_index": e.index, "opened": e.opened });
        self.entries.iter().map(file).collect()
    }

    pub fn parts_json(&self) -> Value {
        json!({ "count": self.parts, "missing": self.missing })
    }

    /// There is a choice between GGUF files.
    pub fn several_ggufs(&self) -> bool {
        self.entries.iter().any(|e| e.index.is_some())
    }

    /// `1 file`, `3 files`, `1 of 3 parts`.
    pub fn summary(&self) -> String {
        match (self.parts, self.missing.len() as u64) {
            (1, 0) => "1 file".into(),
            (n, 0) => format!("{n} files"),
            (n, m) => format!("{} of {n} parts", n.saturating_sub(m)),
        }
    }

    pub fn text(&self, page: &mut Page) {
        if !self.missing.is_empty() {
            page.line("parts", &format!("{}; missing: {}", self.summary(), first_of(&self.missing, 64)));
        }
        if self.entries.is_empty() {
            return;
        }
        page.section("files");
        let width = self.entries.iter().map(|e| e.name.chars().count()).max().unwrap_or(0).min(48);
        for e in &self.entries {
            let size = e.bytes.map(human_bytes).unwrap_or_default();
            let index = e.index.map(|i| format!(", --gguf-index {i}")).unwrap_or_default();
            let opened = if e.opened { ", opened" } else { "" };
            let name = crate::run::check::one_line(&e.name);
            page.raw(&format!("  {name:<width$} {size:>9}  {}{index}{opened}", e.what));
        }
    }
}

/// The names in a directory, sorted, sub-directories last.
fn in_directory(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)?.take(MOST) {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push((entry.path().is_dir(), name));
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|n| n.1).collect())
}

/// The weights files that belong to `path`, and for safetensors what lies beside them.
fn beside<'p>(path: &'p Path, weights: &Result<Checkpoint, WeightsError>, opened: &[PathBuf]) -> (&'p Path, Vec<String>) {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> = vec![];
    for file in opened.iter().map(PathBuf::as_path).chain([path]) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    if weights.as_ref().is_ok_and(|c| c.format() == WeightFormat::Safetensors) {
        names.extend(BESIDE.iter().map(|b| b.0.to_owned()).filter(|n| dir.join(n).is_file()));
    }
    (dir, names)
}

/// How many parts the weights have, and which are not there.
fn parts(weights: &Result<Checkpoint, WeightsError>) -> (u64, Vec<String>) {
    match weights {
        Ok(c) => (c.files().len() as u64, vec![]),
        Err(WeightsError::MissingShards { count, missing, .. }) => (*count as u64, missing.clone()),
        Err(WeightsError::Gguf(GgufError::MissingParts { count, missing, .. })) => {
            // Quoted for messages.
            (*count, missing.iter().map(|m| m.trim_matches('"').to_owned()).collect())
        }
        Err(_) => (0, vec![]),
    }
}

/// What a file is, by its name; of GGUF files, by what `header` says.
fn what(name: &str, bytes: Option<u64>, header: &mut dyn FnMut() -> Option<String>) -> String {
    if let Some((_, what)) = BESIDE.iter().find(|b| b.0 == name) {
        return (*what).into();
    }
    let lower = name.to_ascii_lowercase();
    let ends = |e: &[&str]| e.iter().any(|e| lower.ends_with(e));
    let part = || part_of(&lower).map(|(i, n)| format!(", part {i} of {n}")).unwrap_or_default();
    if ends(&[".gguf"]) {
        let part = part();
        // Opening a part opens them all; the first speaks for the others.
        let told = if part.is_empty() || part.starts_with(", part 1 ") { header() } else { None };
        return format!("GGUF{}{part}", told.map(|t| format!(", {t}")).unwrap_or_default());
    }
    match () {
        () if ends(&[".safetensors.index.json"]) => "index of the parts".into(),
        () if ends(&[".safetensors"]) => format!("safetensors{}", part()),
        () if ends(&[".rlx.toml"]) => "profile: how to run it".into(),
        () if ends(&[".bin", ".pt", ".pth", ".ckpt"]) => "PyTorch weights, not read".into(),
        () if ends(&[".onnx", ".h5", ".msgpack", ".tflite"]) => "weights of another program, not read".into(),
        () if ends(&[".jinja"]) => "chat template".into(),
        () if ends(&[".md", ".txt"]) || lower.starts_with("license") => "text".into(),
        () if ends(&[".json"]) => "JSON".into(),
        () if bytes.is_none() => "not a file".into(),
        () => String::new(),
    }
}

/// `(2, 5)` of `name-00002-of-00005.gguf`.
fn part_of(name: &str) -> Option<(u32, u32)> {
    let (rest, count) = name.rsplit_once('.')?.0.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    Some((part.parse().ok()?, count.parse().ok()?))
}

/// Architecture and quantisation of a GGUF file.
fn gguf_header(file: &Path) -> Option<String> {
    let gguf = match Gguf::open(file) {
        Ok(gguf) => gguf,
        Err(GgufError::MissingParts { missing, .. }) => return Some(format!("{} missing", count(missing.len(), "part"))),
        Err(_) => return Some("cannot be read".into()),
    };
    let text =
        |key: &str| gguf.find::<&str>(key).ok().flatten().map(|t| crate::run::check::one_line(t).chars().take(32).collect::<String>());
    let number = gguf.find::<u32>("general.file_type").ok().flatten();
    let ty = number.and_then(|n| FileType::ALL.iter().find(|t| t.number() == n)).map(|t| t.name().to_owned());
    let kind = text("general.type").filter(|t| t != "model");
    let told: Vec<String> = [text("general.architecture"), kind, ty].into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_names() {
        let what = |name: &str| what(name, Some(1), &mut || Some("qwen3, Q8_0".into()));
        assert_eq!(what("config.json"), "settings of the model");
        assert_eq!(what("m-00002-of-00003.safetensors"), "safetensors, part 2 of 3");
        assert_eq!(what("m-00001-of-00003.gguf"), "GGUF, qwen3, Q8_0, part 1 of 3");
        assert_eq!(what("m-00002-of-00003.gguf"), "GGUF, part 2 of 3");
        assert_eq!(what("pytorch_model.bin"), "PyTorch weights, not read");
        assert_eq!(what("qwen3.rlx.toml"), "profile: how to run it");
    }
}
