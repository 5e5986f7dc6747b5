//! From a path to the files of a checkpoint.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{ResolveWeightsOptions, ResolvedWeights, WeightFormat, WeightsError, custom, map};
use std::fs;
use std::path::{Path, PathBuf};

const EXPECTED: &str = "model.safetensors, model.safetensors.index.json, one .safetensors or .gguf files";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most directory entries looked at.
const MAX_ENTRIES: usize = 65_536;
/// Most files of a directory that registered formats are asked about.
const MAX_PROBED: usize = 256;

fn safetensors(file: PathBuf) -> Result<ResolvedWeights, WeightsError> {
    Ok(ResolvedWeights { format: WeightFormat::Safetensors, file })
}

fn gguf(file: PathBuf) -> Result<ResolvedWeights, WeightsError> {
    Ok(ResolvedWeights { format: WeightFormat::Gguf, file })
}

/// Whether a file is the index of a sharded checkpoint.
pub(crate) fn is_index(file: &Path) -> bool {
    file_name(file).ends_with(".index.json")
}

/// Which file to open for `path`, and its format: files go by name and content, directories by what they hold.
///
/// # Errors
/// [`WeightsError::NotFound`], [`WeightsError::Ambiguous`], [`WeightsError::NotAFile`], [`WeightsError::Io`].
pub fn resolve_weights(path: impl AsRef<Path>, opts: &ResolveWeightsOptions) -> Result<ResolvedWeights, WeightsError> {
    let path = path.as_ref();
    let metadata = fs::metadata(path).map_err(|source| WeightsError::Io { file: path.into(), source })?;
    if metadata.is_dir() {
        return directory(path, opts);
    }
    if !metadata.is_file() {
        let found = map::special(metadata.file_type());
        return Err(WeightsError::NotAFile { file: path.into(), found, expected: "a weights file or a directory" });
    }
    let name = file_name(path);
    if has_extension(&name, "gguf") {
        return gguf(path.into());
    }
    if is_index(path) || has_extension(&name, "safetensors") {
        return safetensors(path.into());
    }
    // Content-addressed caches drop the extension.
    let head = map::read_head(path, custom::PROBE_BYTES)?;
    if head.starts_with(b"GGUF") {
        return gguf(path.into());
    }
    match custom::reader_for(&name, &head) {
        Some(reader) => Ok(ResolvedWeights { format: WeightFormat::Custom(reader.name()), file: path.into() }),
        None => safetensors(path.into()),
    }
}

fn directory(dir: &Path, opts: &ResolveWeightsOptions) -> Result<ResolvedWeights, WeightsError> {
    let names = names(dir)?;
    match among(dir, &names, opts) {
        Err(WeightsError::NotFound { .. }) if custom::any() && !names.iter().any(|n| has_extension(n, "safetensors")) => {
            registered(dir, names)
        }
        found => found,
    }
}

/// Which of these files to open, by their names alone.  They lie in `dir`, which may be elsewhere; those in folders
/// below it have `/` in their names, and are taken when they are GGUF files.
pub(crate) fn among(dir: &Path, names: &[String], opts: &ResolveWeightsOptions) -> Result<ResolvedWeights, WeightsError> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let ggufs = ggufs(names);
    if opts.gguf_index.is_some() && !ggufs.is_empty() {
        return choose(dir, &ggufs, opts);
    }
    if has(SINGLE) {
        return safetensors(dir.join(SINGLE));
    }
    if has(INDEX) {
        return safetensors(dir.join(INDEX));
    }
    if !ggufs.is_empty() {
        return choose(dir, &ggufs, opts);
    }
    let single: Vec<&String> = names.iter().filter(|n| has_extension(n, "safetensors") && !n.contains('/')).collect();
    match single.as_slice() {
        [one] => safetensors(dir.join(one)),
        _ => Err(WeightsError::NotFound { path: dir.into(), expected: EXPECTED, found: names.to_vec() }),
    }
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Result<Vec<String>, WeightsError> {
    let io = |source| WeightsError::Io { file: dir.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)?.take(MAX_ENTRIES) {
        names.extend(entry.map_err(io)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

fn ggufs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).filter(|n| has_extension(n, "gguf")).collect()
}

/// The GGUF files of a directory as [`ResolveWeightsOptions::gguf_index`] counts them: sorted, split files by their
/// first part.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn gguf_files(dir: &Path) -> Result<Vec<String>, WeightsError> {
    let names = names(dir)?;
    Ok(first_parts(&ggufs(&names)).into_iter().map(str::to_owned).collect())
}

/// Whole files and the first parts of split ones; of later parts alone the first, whose reader says which are missing.
fn first_parts<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let whole: Vec<&str> = names.iter().copied().filter(|n| part_number(n).is_none_or(|p| p == 1)).collect();
    if whole.is_empty() { names.iter().copied().take(1).collect() } else { whole }
}

/// The one file of a directory that a registered format takes.
fn registered(dir: &Path, names: Vec<String>) -> Result<ResolvedWeights, WeightsError> {
    let mut found: Vec<(&String, &'static str)> = Vec::new();
    for name in names.iter().filter(|n| dir.join(n).is_file()).take(MAX_PROBED) {
        let head = map::read_head(&dir.join(name), custom::PROBE_BYTES)?;
        found.extend(custom::reader_for(name, &head).map(|r| (name, r.name())));
    }
    match found.as_slice() {
        [(name, format)] => Ok(ResolvedWeights { format: WeightFormat::Custom(format), file: dir.join(name) }),
        [] => Err(WeightsError::NotFound { path: dir.into(), expected: EXPECTED, found: names }),
        several => {
            let (why, candidates) =
                (format!("{} weights files; name one of them", several.len()), several.iter().map(|f| f.0.clone()).collect());
            Err(WeightsError::Ambiguous { dir: dir.into(), why, candidates })
        }
    }
}

/// Chooses among the GGUF files of a directory.  The parts of a split file count as one, by their first; projector
/// files (`mmproj…`) are taken only by index or when alone.
fn choose(dir: &Path, names: &[&str], opts: &ResolveWeightsOptions) -> Result<ResolvedWeights, WeightsError> {
    let whole = first_parts(names);
    let ambiguous = |why: String| {
        let candidates = whole.iter().map(|n| (*n).to_owned()).collect();
        Err(WeightsError::Ambiguous { dir: dir.into(), why, candidates })
    };
    let found = |name: &str| gguf(dir.join(name));
    if let Some(i) = opts.gguf_index {
        return whole.get(i).map_or_else(|| ambiguous(format!("no GGUF file number {i}")), |n| found(n));
    }
    if let [one] = whole.as_slice() {
        return found(one);
    }
    let models: Vec<&str> = whole.iter().copied().filter(|n| !is_projector(n)).collect();
    if let [one] = models.as_slice() {
        return found(one);
    }
    let Some(quant) = &opts.prefer_quant else {
        return ambiguous(format!("{} GGUF files", whole.len()));
    };
    let matching: Vec<&str> = models.iter().copied().filter(|n| names_quant(n, quant)).collect();
    match matching.as_slice() {
        [one] => found(one),
        [] => ambiguous(format!("{} GGUF files, none of them {quant}", whole.len())),
        _ => ambiguous(format!("{} GGUF files are {quant}", matching.len())),
    }
}

/// Whether a file is the projector of a multimodal model.
pub(crate) fn is_projector(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|n| n.to_ascii_lowercase().starts_with("mmproj"))
}

/// Whether a file name mentions the quantisation as a whole word: `x-Q4_K_M.gguf`, not `x-IQ4_K_M_L.gguf`.
pub(crate) fn names_quant(name: &str, quant: &str) -> bool {
    let (name, quant) = (name.to_ascii_lowercase(), quant.to_ascii_lowercase());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !quant.is_empty()
        && name.match_indices(&quant).any(|(at, _)| {
            let before = name.get(..at).and_then(|s| s.chars().next_back());
            let after = name.get(at + quant.len()..).and_then(|s| s.chars().next());
            !before.is_some_and(word) && !after.is_some_and(word)
        })
}

/// The number of a part `NAME-00002-of-00005.gguf`.
pub(crate) fn part_number(name: &str) -> Option<u32> {
    let (rest, count) = name.get(..name.len().checked_sub(5)?)?.rsplit_once("-of-")?;
    let (_, part) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if digits(part) && digits(count) { part.parse().ok() } else { None }
}

pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, e)| !stem.is_empty() && e.eq_ignore_ascii_case(extension))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantisations_are_whole_words() {
        assert!(names_quant("model-Q4_K_M.gguf", "q4_k_m"));
        assert!(names_quant("Q4_0.gguf", "Q4_0"));
        assert!(names_quant("model.Q4_K_M-00001-of-00002.gguf", "Q4_K_M"));
        assert!(!names_quant("model-Q4_K_M_L.gguf", "Q4_K_M"));
        assert!(!names_quant("model-IQ4_XS.gguf", "Q4_XS"));
        assert!(!names_quant("model.gguf", ""));
    }

    #[test]
    fn parts_are_recognised() {
        assert_eq!(part_number("a-00002-of-00005.gguf"), Some(2));
        assert_eq!(part_number("a-2-of-5.gguf"), None);
        assert_eq!(part_number("gguf"), None);
    }
}
