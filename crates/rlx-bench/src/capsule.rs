//! Capsules: figures with everything that says what they are figures of, as one JSON file.
//!
//! A capsule holds every round of every figure, so that a reader can judge its noise.  Files come from anywhere:
//! whatever is wrong in one is an error that names the file and the field.

use crate::machine;
use anyhow::{Context, anyhow, bail};
use rlx_lm::bench::median;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The layout that this program writes and reads.
const LAYOUT: u64 = 1;
/// Larger files are no capsules.
const MAX_BYTES: u64 = 16 << 20;

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    Higher,
    Lower,
}

/// One thing measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// `tok/s`, `s`, `B`, …
    pub unit: String,
    pub better: Better,
    /// A count, not a measurement: any difference is one.
    pub exact: bool,
    /// The value of every round.
    pub rounds: Vec<f64>,
}

/// Figures of one run of one program.
#[derive(Clone, PartialEq, Debug)]
pub struct Capsule {
    /// Program and version.
    pub program: String,
    /// See [`machine::describe`].
    pub machine: Value,
    /// Version, `release` or `debug`, commit where the build was told it.
    pub build: Value,
    /// The profile in force; null where there was none.
    pub profile: Value,
    /// The command line, files by their last names.
    pub command: String,
    /// Figures by name, in the order in which they were measured.
    pub figures: Vec<(String, Figure)>,
    /// What else is worth knowing.
    pub notes: Map<String, Value>,
}

impl Figure {
    pub fn new(unit: &str, better: Better) -> Figure {
        Figure { unit: unit.into(), better, exact: false, rounds: vec![] }
    }

    /// A count that every run must find again.
    pub fn exact(unit: &str, better: Better, value: f64) -> Figure {
        Figure { exact: true, rounds: vec![value], ..Figure::new(unit, better) }
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// Lowest and highest round.
    pub fn range(&self) -> (f64, f64) {
        self.rounds.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)))
    }

    /// [`noise`] of the rounds.
    pub fn noise(&self) -> f64 {
        noise(&self.rounds)
    }
}

/// How far rounds scatter about their median: 1.4826 times the median of the distances, which for normal noise is its
/// standard deviation and does not mind a few rounds that something disturbed.
pub fn noise(rounds: &[f64]) -> f64 {
    let middle = median(rounds);
    1.4826 * median(&rounds.iter().map(|v| (v - middle).abs()).collect::<Vec<_>>())
}

/// Where the figures of a command go.
#[derive(clap::Args, Debug)]
pub struct Output {
    /// Write the figures as a capsule
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the capsule instead of a table
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Output {
    /// Writes the capsule where it is wanted, and prints it or the table.
    pub fn finish(&self, capsule: &Capsule, table: impl FnOnce() -> String) -> anyhow::Result<()> {
        self.out.iter().try_for_each(|path| capsule.write(path))?;
        let text = if self.json { capsule.text() } else { table() };
        write!(io::stdout().lock(), "{text}")?;
        Ok(())
    }
}

/// What this program was built as.
fn build() -> Value {
    let mode = if cfg!(debug_assertions) { "debug" } else { "release" };
    json!({ "version": env!("CARGO_PKG_VERSION"), "mode": mode, "commit": option_env!("RLX_COMMIT") })
}

/// The command line of this process, paths by their last parts: where files lie says nothing about figures.
fn command_line() -> String {
    let short = |word: String| match word.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') => format!("{flag}={}", last_part(value)),
        _ => last_part(&word).to_owned(),
    };
    std::env::args().map(short).collect::<Vec<_>>().join(" ")
}

fn last_part(word: &str) -> &str {
    word.trim_end_matches('/').rsplit('/').next().unwrap_or(word)
}

impl Capsule {
    /// An empty capsule of this process on this machine.
    pub fn new(command: &str) -> Capsule {
        Capsule {
            program: format!("rlx-bench {command}"),
            machine: machine::describe(),
            build: build(),
            profile: Value::Null,
            command: command_line(),
            figures: vec![],
            notes: Map::new(),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|f| f.0 == name).map(|f| &f.1)
    }

    /// Adds a round to a figure, which is new or of the same unit.
    pub fn push(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        match self.figures.iter_mut().find(|f| f.0 == name) {
            Some((_, f)) => f.rounds.push(value),
            None => self.figures.push((name.into(), Figure { rounds: vec![value], ..Figure::new(unit, better) })),
        }
    }

    pub fn json(&self) -> Value {
        let figure = |f: &Figure| {
            let better = if f.better == Better::Higher { "higher" } else { "lower" };
            let mut v = json!({ "unit": f.unit, "better": better, "rounds": f.rounds });
            if f.exact {
                v["exact"] = true.into();
            }
            v
        };
        let figures: Map<String, Value> = self.figures.iter().map(|(name, f)| (name.clone(), figure(f))).collect();
        json!({
            "capsule": LAYOUT,
            "program": self.program,
            "machine": self.machine,
            "build": self.build,
            "profile": self.profile,
            "command": self.command,
            "notes": self.notes,
            "figures": figures,
        })
    }

    /// One line a figure, so that versions of a capsule can be compared by eye.
    pub fn text(&self) -> String {
        let Value::Object(all) = self.json() else { return String::new() };
        let line = |(k, v): (&String, &Value)| format!("  {}: {v}", Value::from(k.as_str()));
        let entry = |(k, v): (&String, &Value)| match v {
            Value::Object(m) if k == "figures" && !m.is_empty() => {
                format!("  \"figures\": {{\n  {}\n  }}", m.iter().map(line).collect::<Vec<_>>().join(",\n  "))
            }
            _ => line((k, v)),
        };
        format!("{{\n{}\n}}\n", all.iter().map(entry).collect::<Vec<_>>().join(",\n"))
    }

    /// Writes the file anew; an interruption leaves the old one.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let beside = path.with_extension("json.part");
        let put = || {
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(self.text().as_bytes())?;
            std::fs::rename(&beside, path)
        };
        put().with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> anyhow::Result<Capsule> {
        let open = || -> anyhow::Result<Capsule> {
            let bytes = std::fs::metadata(path)?.len();
            if bytes > MAX_BYTES {
                bail!("{bytes} bytes, expected a capsule of at most {MAX_BYTES}");
            }
            Capsule::parse(&std::fs::read_to_string(path)?)
        };
        open().map_err(|e| anyhow!("{}: {e}", path.display()))
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> anyhow::Result<Capsule> {
        let v: Value = serde_json::from_str(text).map_err(|e| anyhow!("no JSON: {e}"))?;
        match field(&v, "", "capsule")?.as_u64() {
            Some(LAYOUT) => {}
            _ => bail!("capsule: found {}, expected {LAYOUT}; this version reads no other layout", v["capsule"]),
        }
        let object = |key: &str| match field(&v, "", key)? {
            Value::Object(m) => Ok(m.clone()),
            other => Err(wrong(key, other, "an object")),
        };
        let figures = object("figures")?.into_iter().map(|(name, f)| Ok((name.clone(), figure(&name, &f)?)));
        Ok(Capsule {
            program: word(&v, "", "program")?,
            machine: object("machine")?.into(),
            build: object("build")?.into(),
            profile: v["profile"].clone(),
            command: word(&v, "", "command")?,
            figures: figures.collect::<anyhow::Result<_>>()?,
            notes: object("notes")?,
        })
    }

    /// The machine in a line.
    pub fn machine_line(&self) -> String {
        let cpu = self.machine["cpu"].as_str().unwrap_or("unknown processor");
        format!("{cpu}, {} processors, {}", self.machine["cpus"], self.machine["os"].as_str().unwrap_or("unknown system"))
    }

    /// The build in a line.
    pub fn build_line(&self) -> String {
        let word = |key: &str| self.build[key].as_str().unwrap_or_default().to_owned();
        let commit = self.build["commit"].as_str().map(|c| format!(", commit {c}")).unwrap_or_default();
        format!("{} {}, {}{commit}", self.program, word("version"), word("mode"))
    }
}

fn wrong(at: &str, found: &Value, expected: &str) -> anyhow::Error {
    let text = found.to_string();
    let short: String = text.chars().take(60).collect();
    anyhow!("{at}: found {short}, expected {expected}")
}

fn field<'v>(v: &'v Value, at: &str, key: &str) -> anyhow::Result<&'v Value> {
    v.get(key).ok_or_else(|| anyhow!("{at}{key}: missing"))
}

fn word(v: &Value, at: &str, key: &str) -> anyhow::Result<String> {
    let found = field(v, at, key)?;
    found.as_str().map(str::to_owned).ok_or_else(|| wrong(&format!("{at}{key}"), found, "a text"))
}

fn figure(name: &str, v: &Value) -> anyhow::Result<Figure> {
    let at = format!("figures.{name}.");
    let better = match word(v, &at, "better")?.as_str() {
        "higher" => Better::Higher,
        "lower" => Better::Lower,
        _ => return Err(wrong(&format!("{at}better"), &v["better"], "\"higher\" or \"lower\"")),
    };
    let list = field(v, &at, "rounds")?;
    let rounds = list.as_array().ok_or_else(|| wrong(&format!("{at}rounds"), list, "a list of numbers"))?;
    let number = |(i, r): (usize, &Value)| match r.as_f64() {
        Some(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => Err(wrong(&format!("{at}rounds[{i}]"), r, "a number that is not negative")),
    };
    let rounds = rounds.iter().enumerate().map(number).collect::<anyhow::Result<Vec<_>>>()?;
    if rounds.is_empty() {
        bail!("{at}rounds: empty, expected at least one number");
    }
    let exact = match v.get("exact") {
        None => false,
        Some(Value::Bool(b)) => *b,
        Some(other) => return Err(wrong(&format!("{at}exact"), other, "true or false")),
    };
    Ok(Figure { unit: word(v, &at, "unit")?, better, exact, rounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Capsule {
        let mut c = Capsule::new("run");
        for v in [10.0, 12.5, 11.0] {
            c.push("tg64", "tok/s", Better::Higher, v);
        }
        c.figures.push(("touched".into(), Figure::exact("B", Better::Lower, 1e9)));
        c.notes.insert("skipped".into(), json!(["ttft8192: too long"]));
        c
    }

    #[test]
    fn capsules_come_back_as_they_were_written() {
        let c = sample();
        assert_eq!(Capsule::parse(&c.text()).unwrap(), c);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        c.write(&path).unwrap();
        assert_eq!(Capsule::read(&path).unwrap(), c);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let good = sample().json();
        let broken = |change: &dyn Fn(&mut Value)| {
            let mut v = good.clone();
            change(&mut v);
            Capsule::parse(&v.to_string()).unwrap_err().to_string()
        };
        let tg = |v: &mut Value, key: &str, to: Value| v["figures"]["tg64"][key] = to;
        for (found, words) in [
            (broken(&|v| v["capsule"] = 7.into()), "capsule: found 7, expected 1"),
            (broken(&|v| v["machine"] = "x".into()), "machine: found \"x\", expected an object"),
            (broken(&|v| drop(v.as_object_mut().unwrap().remove("command"))), "command: missing"),
            (broken(&|v| tg(v, "unit", 3.into())), "figures.tg64.unit: found 3, expected a text"),
            (broken(&|v| tg(v, "better", "best".into())), "figures.tg64.better: found \"best\""),
            (broken(&|v| tg(v, "rounds", json!([1, "2"]))), "figures.tg64.rounds[1]: found \"2\""),
            (broken(&|v| tg(v, "rounds", json!([]))), "figures.tg64.rounds: empty"),
            (broken(&|v| v["figures"] = json!({ "x": 1 })), "figures.x.better: missing"),
        ] {
            assert!(found.starts_with(words), "{found}");
        }
        assert!(Capsule::parse("[").unwrap_err().to_string().starts_with("no JSON"));
        let missing = Capsule::read(Path::new("no/such.json")).unwrap_err().to_string();
        assert!(missing.starts_with("no/such.json: "), "{missing}");
    }

    #[test]
    fn noise_is_that_of_most_rounds() {
        let f = Figure { rounds: vec![10.0, 10.1, 9.9, 10.0, 3.0], ..Figure::new("s", Better::Lower) };
        assert!((f.noise() - 0.148_26).abs() < 1e-9, "{}", f.noise());
        assert_eq!(f.range(), (3.0, 10.1));
    }

    #[test]
    fn commands_name_files_by_their_last_parts() {
        assert_eq!(last_part("/a/b/model.gguf"), "model.gguf");
        assert_eq!(last_part("weights/tiny/"), "tiny");
        assert_eq!(last_part("--rounds"), "--rounds");
    }
}
