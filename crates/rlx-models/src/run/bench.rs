//! `rlx-run bench`: loading, prefill and decoding, measured.

use crate::families;
use clap::Parser;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::term::{Notes, human_bytes, rate};
use rlx_lm::LmRunner;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat
  $P model-Q4_K_M.gguf --threads 2 --prefill 128,512,4096 --decode 64 --rounds 7 --json

Prefill feeds that many tokens to an empty cache; decoding makes that many from an empty cache.
Figures are medians over the rounds, after one round that does not count; tokens are arbitrary and
nothing is sampled.  Load time is one load, with whatever the system has cached of the file.  Weights
are packed while loading (packing=eager), so that every round finds them alike; --no-warmup measures
what a first prompt meets instead.
";

/// Measure load time, prefill and decode tokens per second, and peak memory
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt lengths to measure
    #[arg(long, short, value_name = "N,N,…", value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to decode; 0 skips it
    #[arg(long, short = 'n', value_name = "N", default_value_t = 64)]
    decode: usize,
    /// How often to measure each
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Count the first round too, and pack weights when the profile says
    #[arg(long)]
    no_warmup: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

/// One thing measured: name, tokens per second in every round.
struct Test {
    name: String,
    tokens: usize,
    prefill: bool,
    rates: Vec<f64>,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let mut args: Args = args::parse(program, EXAMPLES, args)?;
    let test = |prefill: bool, tokens: usize| Test {
        name: format!("{}{tokens}", if prefill { "pp" } else { "tg" }),
        tokens,
        prefill,
        rates: vec![],
    };
    let mut tests: Vec<Test> = args.prefill.iter().map(|n| test(true, *n)).collect();
    tests.push(test(false, args.decode));
    tests.retain(|t| t.tokens > 0);
    let longest = tests.iter().map(|t| t.tokens).max().unwrap_or(1);
    args.model.max_seq = args.model.max_seq.or(u32::try_from(longest).ok());
    if !args.no_warmup {
        // In front, where what the command line says overrides it.
        args.model.device.set.insert(0, "packing=eager".into());
    }

    args.model.quiet = args.quiet;
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let started = Instant::now();
    let mut runner = args.model.builder(entry.family)?.build()?;
    let load = started.elapsed().as_secs_f64();

    let notes = Notes::new(args.quiet);
    let bar = notes.tokens_bar("measure");
    let uncounted = u64::from(!args.no_warmup);
    let rounds = u64::from(args.rounds) + uncounted;
    for round in 0..rounds {
        for t in &mut tests {
            let seconds = measure(&mut runner, t)?;
            if round >= uncounted {
                t.rates.push(t.tokens as f64 / seconds);
            }
        }
        bar.at(round + 1, rounds);
    }
    let report = report(&args, &runner, load, &tests);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{report:#}")?;
    } else {
        write!(out, "{}", text(&report, &tests))?;
    }
    Ok(0)
}

/// Seconds one test takes on an empty cache.
fn measure(runner: &mut LmRunner, t: &Test) -> anyhow::Result<f64> {
    let vocab = runner.vocab_size().max(1) as u64;
    let ids: Vec<u32> = (0..t.tokens as u64).map(|i| ((i * 2_654_435_761 + 12_345) % vocab) as u32).collect();
    let seq = runner.open()?;
    let started = Instant::now();
    if t.prefill {
        runner.prefill(seq, &ids, |_, _| {})?;
    } else {
        for id in &ids {
            runner.step(&[(seq, &[*id])])?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    runner.close(seq)?;
    Ok(seconds.max(1e-9))
}

fn report(args: &Args, runner: &LmRunner, load: f64, tests: &[Test]) -> Value {
    let of = |t: &Test| json!({ "tokens_per_s": median(&t.rates), "rounds": t.rates });
    let (m, e) = (runner.memory(), runner.explain());
    json!({
        "program": concat!("rlx-run ", env!("CARGO_PKG_VERSION")),
        "model": args.model.weights().map(|p| p.display().to_string()).unwrap_or_default(),
        "device": e.device,
        "profile": e.profile,
        "load_s": load,
        "tests": tests.iter().map(|t| (t.name.clone(), of(t))).collect::<serde_json::Map<_, _>>(),
        "memory": { "weights": m.weights, "mapped": m.mapped, "cache": m.states, "activations": m.activations },
        "peak_rss_bytes": peak_rss(),
    })
}

fn text(report: &Value, tests: &[Test]) -> String {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut t = format!("{} on {}, profile {}\n", word(&report["model"]), word(&report["device"]), word(&report["profile"]["name"]));
    t += &format!("  {:<8} {:>9.2} s\n", "load", report["load_s"].as_f64().unwrap_or_default());
    for test in tests {
        let low = test.rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = test.rates.iter().copied().fold(0.0, f64::max);
        t += &format!("  {:<8} {:>9} tok/s   ({} to {})\n", test.name, rate(median(&test.rates)), rate(low), rate(high));
    }
    if let Some(bytes) = report["peak_rss_bytes"].as_u64() {
        t += &format!("  {:<8} {:>9}\n", "peak", human_bytes(bytes));
    }
    t
}

fn median(v: &[f64]) -> f64 {
    let mut v = v.to_vec();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n if n % 2 == 1 => v[n / 2],
        n => (v[n / 2 - 1] + v[n / 2]) / 2.0,
    }
}

/// The most memory this process ever had, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
