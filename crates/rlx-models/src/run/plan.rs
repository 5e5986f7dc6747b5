//! `rlx-run plan`: what running a model would take, without loading a weight.

use crate::families;
use clap::Parser;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::term::{human_bytes, human_count};
use rlx_core::weights::open_with;
use rlx_lm::{LmBuilder, LmPlan};
use rlx_runtime::Memory;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat
  $P model-Q4_K_M.gguf --max-seq 32768 --set kv=bf16
  $P weights/rlx-tiny-chat --graph         the compiled graph as text

Bytes are exact: they are what a run with the same flags holds.  `mapped file` is read in place and
can be dropped by the system at any time; the rest is held.
";

/// Say what running a model would take: memory per part and per context length, and what the device runs itself
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the compiled graph as text
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let args: Args = args::parse(program, EXAMPLES, args)?;
    let mut out = io::stdout().lock();
    if args.graph {
        let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
        writeln!(out, "{}", args.model.builder(entry.family)?.plan()?.graph)?;
        return Ok(0);
    }
    let plan = Planned::of(&args.model)?;
    if args.json {
        writeln!(out, "{:#}", plan.json())?
    } else {
        write!(out, "{}", plan.text())?
    }
    Ok(0)
}

/// A plan with what it is a plan of.
struct Planned {
    path: String,
    family: &'static str,
    parameters: u64,
    file_bytes: u64,
    trained: Option<usize>,
    plan: LmPlan,
    /// Context length and bytes.
    table: Vec<(usize, Memory)>,
}

impl Planned {
    fn of(model: &ModelArgs) -> anyhow::Result<Planned> {
        let checkpoint = open_with(model.load_opts(), model.weights()?)?;
        let entry = families::of(&checkpoint)?;
        let builder = model.builder(entry.family)?;
        let plan = builder.plan()?;
        let trained = plan.trained;
        let table = table(&builder, plan.max_seq, trained)?;
        Ok(Planned {
            path: checkpoint.path().display().to_string(),
            family: entry.family.name(),
            parameters: checkpoint.tensors().fold(0, |n, t| n.saturating_add(t.elements())),
            file_bytes: checkpoint.total_bytes(),
            trained,
            plan,
            table,
        })
    }

    fn json(&self) -> Value {
        let rows = rows_json(&self.table);
        let e = &self.plan.explain;
        json!({
            "path": self.path,
            "family": self.family,
            "device": e.device,
            "profile": e.profile,
            "weights": self.plan.params,
            "parameters": self.parameters,
            "file_bytes": self.file_bytes,
            "trained_context": self.trained,
            "max_seq": self.plan.max_seq,
            "memory": memory(&self.plan.memory),
            "by_context": rows,
            "ops": { "native": e.coverage.native, "decomposed": e.coverage.decomposed, "missing": e.coverage.missing },
        })
    }

    fn text(&self) -> String {
        let (m, e) = (&self.plan.memory, &self.plan.explain);
        let disk = human_bytes(self.file_bytes);
        let mut t = format!("{}\n", self.path);
        t += &format!("{}, {} weights, {} parameters, {disk}\n", self.family, self.plan.params, human_count(self.parameters));
        t += &format!("device {}, profile {}\n\nmemory for {} tokens\n", e.device, e.profile.name, self.plan.max_seq);
        let parts = [("weights", m.weights), ("mapped file", m.mapped), ("cache", m.states), ("activations", m.activations)];
        for (name, bytes) in parts.into_iter().chain([("total", m.total())]) {
            t += &format!("  {name:<12} {:>10} {bytes:>16} B\n", human_bytes(bytes));
        }
        t += &format!("\n{:>10} {:>12} {:>12} {:>12}\n", "tokens", "cache", "activations", "total");
        for (n, m) in &self.table {
            let mark = if Some(*n) == self.trained { "  (trained for)" } else { "" };
            let [cache, activations, total] = [m.states, m.activations, m.total()].map(human_bytes);
            t += &format!("{n:>10} {cache:>12} {activations:>12} {total:>12}{mark}\n");
        }
        t + &format!("\nops, {} phases\n{}", e.phases, e.coverage)
    }
}

/// Doubling context lengths up to what the model was trained for, that length, and the one asked for.
fn table(builder: &LmBuilder, max_seq: usize, trained: Option<usize>) -> anyhow::Result<Vec<(usize, Memory)>> {
    let most = trained.unwrap_or(max_seq).max(max_seq);
    let mut lengths: Vec<usize> = std::iter::successors(Some(512), |n| Some(n * 2)).take_while(|n| *n <= most).take(9).collect();
    lengths.extend(trained.into_iter().chain([max_seq]));
    lengths.sort_unstable();
    lengths.dedup();
    lengths.into_iter().map(|n| Ok((n, builder.clone().max_seq(n).plan()?.memory))).collect()
}

/// Exact memory at some context lengths.
pub(super) struct Contexts {
    device: String,
    profile: String,
    rows: Vec<(usize, Memory)>,
}

impl Contexts {
    /// The bytes that a run of each length with the same flags holds.
    pub fn of(model: &ModelArgs, lengths: &[u32]) -> anyhow::Result<Contexts> {
        let entry = families::at(model.weights()?, &model.load_opts())?;
        let builder = model.builder(entry.family)?;
        let mut found = Contexts { device: String::new(), profile: String::new(), rows: vec![] };
        for n in lengths.iter().map(|n| *n as usize) {
            let plan = builder.clone().max_seq(n).plan()?;
            (found.device, found.profile) = (plan.explain.device, plan.explain.profile.name);
            found.rows.push((n, plan.memory));
        }
        Ok(found)
    }

    pub fn json(&self) -> Value {
        json!({ "device": self.device, "profile": self.profile, "by_context": rows_json(&self.rows) })
    }

    /// A heading, and a table of bytes.
    pub fn text(&self) -> (String, Vec<String>) {
        let names = ["tokens", "weights", "mapped file", "cache", "activations", "total"];
        let line = |cells: [String; 6]| {
            let [tokens, rest @ ..] = cells;
            rest.iter().fold(format!("{tokens:>10}"), |line, cell| format!("{line} {cell:>15}"))
        };
        let bytes = |m: &Memory| [m.weights, m.mapped, m.states, m.activations, m.total()].map(|b| b.to_string());
        let rows = self.rows.iter().map(|(n, m)| {
            let [a, b, c, d, e] = bytes(m);
            line([n.to_string(), a, b, c, d, e])
        });
        let title = format!("memory in bytes, device {}, profile {}", self.device, self.profile);
        (title, std::iter::once(line(names.map(str::to_owned))).chain(rows).collect())
    }
}

fn rows_json(table: &[(usize, Memory)]) -> Vec<Value> {
    table.iter().map(|(n, m)| json!({ "tokens": n, "memory": memory(m) })).collect()
}

fn memory(m: &Memory) -> Value {
    json!({ "weights": m.weights, "mapped": m.mapped, "cache": m.states, "activations": m.activations, "total": m.total() })
}
