//! The layers of the workspace, as ARCHITECTURE.md tells them: an arrow never points up, and no crate
//! names what it must not know.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every crate, lowest first: (layer, crates).  A crate may depend on crates of earlier lines only; crates
/// of one line do not know each other.
const LAYERS: &[(u32, &[&str])] = &[
    (0, &["rlx-bounds"]), // tests and fuzz targets alone
    (0, &["rlx-gguf"]),
    (0, &["rlx-ir"]), // on rlx-gguf: one meaning of every block format
    (1, &["rlx-compile"]),
    (1, &["rlx-conform"]), // on rlx-compile: a backend is what it tests
    (2, &["rlx-cpu", "rlx-text"]),
    (3, &["rlx-runtime", "rlx-core", "rlx-flow"]),
    (3, &["rlx-lm"]),
    (3, &["rlx-cli"]),
    (FAMILIES, &["rlx-qwen3"]),
    (5, &["rlx-models"]),
    (5, &["rlx-bench"]),
    (5, &["rlx-fuzz"]),
];

/// The layer of the model families.
const FAMILIES: u32 = 4;

/// Arrows that would point down and still must not exist: (crate, what it knows nothing of, why).
const NEVER: &[(&str, &[&str], &str)] = &[
    ("rlx-compile", &["rlx-gguf"], "the compiler knows types, not files"),
    ("rlx-cpu", &["rlx-text"], "backends know no text"),
    ("rlx-text", &["rlx-gguf", "rlx-ir", "rlx-compile"], "text knows slices, not tensors"),
    ("rlx-runtime", &["rlx-text", "rlx-gguf"], "the runtime runs graphs of any kind, from any source"),
    ("rlx-core", &["rlx-compile", "rlx-cpu", "rlx-text"], "checkpoints know no device and no text"),
    ("rlx-flow", &["rlx-gguf", "rlx-compile", "rlx-cpu", "rlx-text"], "building blocks know the IR alone"),
    ("rlx-lm", &["rlx-cpu"], "devices are chosen by name, in rlx-runtime"),
    ("rlx-cli", &["rlx-cpu"], "devices are chosen by name, in rlx-runtime"),
];

/// Crates that may name families: the facade, which registers them, measurements, and fuzz targets.
const NAME_FAMILIES: &[&str] = &["rlx-models", "rlx-bench", "rlx-fuzz"];

/// Position of a crate in [`LAYERS`], with its layer.
fn place(name: &str) -> Option<(usize, u32)> {
    LAYERS.iter().enumerate().find(|(_, l)| l.1.contains(&name)).map(|(i, l)| (i, l.0))
}

fn families() -> impl Iterator<Item = &'static str> {
    LAYERS.iter().filter(|l| l.0 == FAMILIES).flat_map(|l| l.1.iter().copied())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

struct Package {
    name: String,
    folder: PathBuf,
    /// Crates of this workspace that it depends on, for building, running or testing.
    uses: Vec<String>,
}

/// The packages of the workspace.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let out = Command::new(cargo).args(args).current_dir(root()).output().expect("cargo runs");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let all: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let list = |v: &Value| v.as_array().expect("a list").clone();
    list(&all["packages"])
        .iter()
        .map(|p| Package {
            name: text(&p["name"]),
            folder: Path::new(&text(&p["manifest_path"])).parent().expect("a manifest is in a folder").to_owned(),
            uses: list(&p["dependencies"]).iter().filter(|d| d["path"].is_string()).map(|d| text(&d["name"])).collect(),
        })
        .collect()
}

/// Why `name` must not depend on `on`, if it must not.
fn wrong_arrow(name: &str, on: &str) -> Option<String> {
    let ((at, layer), (on_at, on_layer)) = (place(name)?, place(on)?);
    if on_at >= at {
        return Some(format!("{name} (layer {layer}) depends on {on} (layer {on_layer}): an arrow never points up or sideways"));
    }
    let never = NEVER.iter().find(|n| n.0 == name && n.1.contains(&on));
    never.map(|n| format!("{name} depends on {on}: {}", n.2))
}

#[test]
fn no_dependency_points_up() {
    let mut bad = vec![];
    let packages = packages();
    assert!(packages.len() > 10, "only {} packages found", packages.len());
    for p in &packages {
        if place(&p.name).is_none() {
            bad.push(format!("{} has no layer: add it to LAYERS in {} and to the table in ARCHITECTURE.md", p.name, file!()));
        }
        bad.extend(p.uses.iter().filter_map(|on| wrong_arrow(&p.name, on)));
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn arrows_that_point_up_or_sideways_are_found() {
    for (name, on) in [
        ("rlx-gguf", "rlx-ir"),
        ("rlx-cpu", "rlx-runtime"),
        ("rlx-cpu", "rlx-text"),
        ("rlx-runtime", "rlx-core"),
        ("rlx-runtime", "rlx-text"),
        ("rlx-lm", "rlx-qwen3"),
        ("rlx-qwen3", "rlx-qwen3"),
        ("rlx-cli", "rlx-models"),
    ] {
        assert!(wrong_arrow(name, on).is_some(), "{name} -> {on}");
    }
    assert_eq!(wrong_arrow("rlx-ir", "rlx-gguf"), None);
    assert_eq!(wrong_arrow("rlx-qwen3", "rlx-cli"), None);
}

/// Every `.rs` file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![folder.to_owned()], vec![]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of a file that are code: comments and the test module at its end are not.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().take_while(|l| l.trim() != "#[cfg(test)]").enumerate();
    lines.map(|(i, l)| (i + 1, l.split_once("//").map_or(l, |(code, _)| code)))
}

/// The words of a line, lower case: `Qwen3Runner`, `rlx_qwen3` and `"qwen3"` all hold the word `qwen3`.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in line.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && !before.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

#[test]
fn words_are_told_apart() {
    for (line, found) in [
        ("use rlx_qwen3::Qwen3;", true),
        ("struct Qwen3Runner;", true),
        ("\"rlx-qwen3\"", true),
        ("const QWEN35: Split", false),
        ("let sample = same(1);", false),
    ] {
        let words = words(line);
        assert_eq!(words.iter().any(|w| w == "qwen3"), found, "{line}: {words:?}");
    }
    assert_eq!(code("a // qwen3\n#[cfg(test)]\nqwen3").collect::<Vec<_>>(), [(1, "a ")]);
}

#[test]
fn only_a_family_and_the_facade_name_it() {
    let mut bad = vec![];
    for family in families() {
        let word = family.trim_start_matches("rlx-").to_owned();
        for p in packages().iter().filter(|p| p.name != family && !NAME_FAMILIES.contains(&p.name.as_str())) {
            for path in sources(&p.folder.join("src")) {
                let text = std::fs::read_to_string(&path).expect("sources are text");
                let hits = code(&text).filter(|(_, l)| words(l).contains(&word));
                bad.extend(hits.map(|(n, l)| format!("{}:{n} names the family {word}: {}", path.display(), l.trim())));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn families_have_no_feature_switches() {
    let mut bad = vec![];
    for p in packages().iter().filter(|p| families().any(|f| f == p.name)) {
        let files = sources(&p.folder.join("src"));
        assert!(!files.is_empty(), "{} has no sources", p.name);
        for path in files {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            let hits = code(&text).filter(|(_, l)| l.contains("cfg") && l.contains("feature"));
            bad.extend(hits.map(|(n, _)| format!("{}:{n}: features belong to the facade", path.display())));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
