//! `rlx-bench report`: capsules, shown, compared, and written into documentation.

mod compare;
mod docs;

use crate::capsule::{Capsule, Figure};
use crate::peers::rows;
use anyhow::bail;
use compare::{Change, Mark};
use rlx_cli::Usage;
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  rlx-bench report before.json                         print one capsule
  rlx-bench report before.json after.json              compare; exit code 1 when something is worse
  rlx-bench report before.json after.json --markdown
  rlx-bench report --docs docs/benchmarks.md docs/benchmarks/*.json

Figures of the same name are compared by their medians.  Each has its own noise, 1.4826 times the median
distance of its rounds from their median.  A change is a regression or an improvement when the medians are
further apart than twice the noise of both together, and than --floor; with fewer than three rounds on a side
the noise is not known and nothing is marked.  Counts have no noise: any difference is marked.

--docs replaces the text between the lines <!-- results --> and <!-- /results --> of a file by tables of
the capsules.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// One capsule to print, or two to compare; with --docs any number
    #[arg(value_name = "CAPSULE", required = true)]
    capsules: Vec<PathBuf>,
    /// Compare capsules of different machines
    #[arg(long)]
    any_machine: bool,
    /// Changes below this many percent are never marked, counts excepted
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    floor: f64,
    /// Tables as Markdown
    #[arg(long)]
    markdown: bool,
    /// Write tables of the capsules into this file
    #[arg(long, value_name = "FILE")]
    docs: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let capsules = args.capsules.iter().map(|p| Capsule::read(p)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut out = io::stdout().lock();
    if let Some(file) = &args.docs {
        docs::write(file, &capsules)?;
        writeln!(out, "{}: tables of {} capsules", file.display(), capsules.len())?;
        return Ok(0);
    }
    match capsules.as_slice() {
        [one] => {
            let text = if args.markdown { docs::tables(one) } else { shown(one) };
            write!(out, "{text}")?;
            Ok(0)
        }
        [a, b] => {
            if a.machine != b.machine && !args.any_machine {
                let [a, b] = [a, b].map(Capsule::machine_line);
                bail!(
                    "the capsules are of different machines, so their figures say nothing about a change: {a}; {b}; --any-machine compares them all the same"
                );
            }
            let changes = compare::compare(a, b, args.floor / 100.0);
            let text = if args.markdown { compare::markdown(a, b, &changes) } else { compare::text(a, b, &changes) };
            write!(out, "{text}")?;
            Ok(u8::from(changes.iter().any(|c: &Change| c.mark == Mark::Regression)))
        }
        more => Err(Usage(format!("{} capsules: expected one to print or two to compare; --docs takes more", more.len())).into()),
    }
}

/// `median (low to high)`.
fn spread(f: &Figure) -> String {
    let (low, high) = f.range();
    match f.rounds.len() {
        1 => rows::value(&f.unit, f.median()),
        _ => format!("{} ({} to {})", rows::value(&f.unit, f.median()), rows::value(&f.unit, low), rows::value(&f.unit, high)),
    }
}

/// A value as one would write it.
fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Object(m) => m.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A capsule as text.
pub fn shown(c: &Capsule) -> String {
    let mut t = format!("{}\n{}\n{}\n", c.build_line(), c.machine_line(), c.command);
    if let Some(name) = c.profile["name"].as_str() {
        t += &format!("profile {name}\n");
    }
    for (key, note) in &c.notes {
        match note {
            Value::Array(list) => list.iter().for_each(|n| t += &format!("{key}: {}\n", plain(n))),
            Value::Object(m) if m.values().any(Value::is_object) => {
                m.iter().for_each(|(k, n)| t += &format!("{key} of {k}: {}\n", plain(n)))
            }
            other => t += &format!("{key}: {}\n", plain(other)),
        }
    }
    t += "\n";
    let peers = rows::table(c);
    if !peers.is_empty() {
        return t + &peers;
    }
    let width = c.figures.iter().map(|f| f.0.chars().count()).max().unwrap_or(0);
    for (name, f) in &c.figures {
        t += &format!("{name:<width$}  {}\n", spread(f));
    }
    t
}
