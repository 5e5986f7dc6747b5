//! `rlx-run bench`: loading, prefill and decoding, measured.

use crate::families;
use clap::Parser;
use rlx_cli::Usage;
use rlx_cli::args::{self, ModelArgs};
use rlx_cli::term::{Notes, human_bytes, rate};
use rlx_lm::LmRunner;
use rlx_lm::bench::{Rounds, Test, median, peak_memory};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  $P weights/rlx-tiny-chat
  $P model-Q4_K_M.gguf --threads 2 --prefill 128,512,4096 --decode 64 --rounds 7 --json
  $P model-Q4_K_M.gguf --prefill 0 --decode 64 --depth 0,8192 --streams 1,16

Prefill (pp512) feeds that many tokens to an empty cache; decoding (tg64) makes that many, after
--depth tokens that do not count (tg64@8192), in --streams sequences that are fed in one call
(tg64x16, tokens per second of all together).
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
    /// Tokens that are cached before decoding begins
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Sequences to decode at once
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: Vec<u16>,
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

/// One thing measured: tokens per second in every round.
struct Measured {
    test: Test,
    rates: Vec<f64>,
}

pub(super) fn command(program: &str) -> clap::Command {
    args::command::<Args>(program, EXAMPLES)
}

pub(super) fn main(program: &str, args: Vec<OsString>) -> anyhow::Result<u8> {
    let mut args: Args = args::parse(program, EXAMPLES, args)?;
    let tests = tests(&args)?;
    let longest = tests.iter().map(Test::context).max().unwrap_or(1);
    let streams = tests.iter().map(|t| t.streams).max().unwrap_or(1);
    args.model.max_seq = args.model.max_seq.or(u32::try_from(longest).ok());
    if !args.no_warmup {
        // In front, where what the command line says overrides it.
        args.model.device.set.insert(0, "packing=eager".into());
    }

    args.model.quiet = args.quiet;
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let started = Instant::now();
    let mut runner = args.model.builder(entry.family)?.sequences(streams).build()?;
    let load = started.elapsed().as_secs_f64();

    let bar = Notes::new(args.quiet).count_bar("measure");
    let rounds = Rounds { counted: args.rounds as usize, warmup: usize::from(!args.no_warmup) };
    let seconds = rlx_lm::bench::measure(&mut runner, &tests, rounds, &mut |done, all| {
        bar.at(done as u64, all as u64);
        true
    })?;
    let rates = |(test, seconds): (Test, Vec<f64>)| {
        let rates = seconds.iter().map(|s| test.counted() as f64 / s).collect();
        Measured { test, rates }
    };
    let tests: Vec<Measured> = tests.into_iter().zip(seconds).map(rates).collect();
    let report = report(&args, &runner, load, &tests);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{report:#}")?;
    } else {
        write!(out, "{}", text(&report, &tests))?;
    }
    Ok(0)
}

/// What was asked for: prompts, then every depth with every number of streams.
fn tests(args: &Args) -> anyhow::Result<Vec<Test>> {
    let mut tests: Vec<Test> = args.prefill.iter().map(|n| Test::prefill(*n)).collect();
    for streams in &args.streams {
        tests.extend(args.depth.iter().map(|depth| Test::decode(args.decode, *depth, usize::from(*streams))));
    }
    tests.retain(|t| t.tokens > 0);
    match tests.is_empty() {
        true => Err(Usage("nothing to measure: --prefill and --decode are all 0".into()).into()),
        false => Ok(tests),
    }
}

fn report(args: &Args, runner: &LmRunner, load: f64, tests: &[Measured]) -> Value {
    let of = |t: &Measured| json!({ "tokens_per_s": median(&t.rates), "rounds": t.rates });
    let (m, e) = (runner.memory(), runner.explain());
    json!({
        "program": concat!("rlx-run ", env!("CARGO_PKG_VERSION")),
        "model": args.model.weights().map(|p| p.display().to_string()).unwrap_or_default(),
        "device": e.device,
        "profile": e.profile,
        "load_s": load,
        "tests": tests.iter().map(|t| (t.test.name(), of(t))).collect::<serde_json::Map<_, _>>(),
        "memory": { "weights": m.weights, "mapped": m.mapped, "cache": m.states, "activations": m.activations },
        "peak_rss_bytes": peak_memory(),
    })
}

fn text(report: &Value, tests: &[Measured]) -> String {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut t = format!("{} on {}, profile {}\n", word(&report["model"]), word(&report["device"]), word(&report["profile"]["name"]));
    t += &format!("  {:<12} {:>9.2} s\n", "load", report["load_s"].as_f64().unwrap_or_default());
    for test in tests {
        let low = test.rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = test.rates.iter().copied().fold(0.0, f64::max);
        t += &format!("  {:<12} {:>9} tok/s   ({} to {})\n", test.test.name(), rate(median(&test.rates)), rate(low), rate(high));
    }
    if let Some(bytes) = report["peak_rss_bytes"].as_u64() {
        t += &format!("  {:<12} {:>9}\n", "peak", human_bytes(bytes));
    }
    t
}
