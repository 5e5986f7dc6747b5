//! `rlx-bench run`: one model on this machine, and how far it is from what the machine could do.

mod select;

use crate::capsule::{Better, Capsule, Figure, Output};
use crate::{limits, machine, report};
use rlx_cli::Usage;
use rlx_cli::args::ModelArgs;
use rlx_cli::term::Notes;
use rlx_lm::LmRunner;
use rlx_lm::bench::{self, Kind, Rounds, Test};
use rlx_models::families;
use select::{Room, figure};
use serde_json::json;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  rlx-bench run weights/rlx-tiny-chat
  rlx-bench run model-Q4_K_M.gguf --threads 2 --out before.json
  rlx-bench run model-Q4_K_M.gguf --prompts 128 --contexts 0,32768 --batch 1,8 --grid --set kv=bf16

Figures:
  load               seconds to open and load, as the profile says, with what the system has cached of the file
  load+ttft128       the same and the shortest prompt, in a fresh model
  ttft128            seconds from a prompt of that many tokens to the logits of the first new one, loaded before
  tg32@2048x4        decoded tokens per second of 4 sequences in one call, with 2048 tokens cached before
  touched tg32       bytes that each of these tokens takes to compute: matrices once a step (shared by a batch),
                     rows of the embedding, keys and values of the context, intermediate values.  A count from
                     the plan, not a measurement
  memory tg32        how much of the machine's read bandwidth (limit read) the weights and caches among them use; above
                     100 % where a model fits a processor's caches
  limit read t2      what `rlx-bench limits` measures in this process with the same threads, and so on
  peak, peakx4       the most memory while measuring one sequence, 4 sequences
All but load are measured with weights packed before (packing=eager), after one round that does not count.
Batches begin with the first of --contexts; --grid measures every batch behind every context.  What the model
was not trained for, or memory does not hold, is skipped and told.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Prompt lengths; 0 for none
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "128,512,2048,8192")]
    prompts: Vec<usize>,
    /// Tokens that are cached before decoding
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "0,2048,8192")]
    contexts: Vec<usize>,
    /// Numbers of sequences decoded in one call
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1,4,16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Measure every batch behind every context
    #[arg(long)]
    grid: bool,
    /// Tokens to decode; 0 for none
    #[arg(long, short = 'n', value_name = "N", default_value_t = 32)]
    decode: usize,
    /// How often to measure each
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    #[command(flatten)]
    output: Output,
}

pub fn run(mut args: Args) -> anyhow::Result<u8> {
    args.model.quiet = args.output.quiet;
    let notes = Notes::new(args.output.quiet);
    let batch: Vec<usize> = args.batch.iter().map(|n| usize::from(*n)).collect();
    let wanted = select::tests(&args.prompts, &args.contexts, &batch, args.decode, args.grid);
    let mut capsule = Capsule::new("run");
    let (tests, skipped) = possible(&args, wanted)?;
    skipped.iter().for_each(|why| notes.say(format_args!("skipped {why}")));
    capsule.notes.insert("skipped".into(), json!(skipped));

    loading(&args, &tests, &mut capsule, &notes)?;
    let mut streams: Vec<usize> = tests.iter().map(|t| t.streams).collect();
    streams.sort_unstable();
    streams.dedup();
    for n in streams {
        let of: Vec<Test> = tests.iter().filter(|t| t.streams == n).copied().collect();
        group(&args, n, &of, &mut capsule, &notes)?;
    }
    bandwidth(&tests, &mut capsule, &notes)?;
    args.output.finish(&capsule, || report::shown(&capsule))?;
    Ok(0)
}

/// What can be measured, and why the rest cannot.
fn possible(args: &Args, wanted: Vec<Test>) -> anyhow::Result<(Vec<Test>, Vec<String>)> {
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let builder = args.model.builder(entry.family)?;
    let free = machine::available_memory().map(|b| (b, "free are"));
    let allowed = args.model.max_memory_gb.map(|gb| ((gb * 1e9) as u64, "--max-memory-gb allows"));
    let room = Room {
        trained: builder.clone().max_seq(1).plan()?.trained,
        asked: args.model.max_seq.map(|n| n as usize),
        memory: [free, allowed].into_iter().flatten().min_by_key(|m| m.0),
    };
    let mut plan = |t: &Test| Ok(builder.clone().max_seq(t.context()).sequences(t.streams).plan()?.memory);
    let (mut tests, mut skipped) = (vec![], vec![]);
    for t in wanted {
        match select::refuse(&t, &room, &mut plan)? {
            Some(why) => skipped.push(why),
            None => tests.push(t),
        }
    }
    if tests.is_empty() {
        let why = if skipped.is_empty() { "--prompts and --decode are all 0".into() } else { skipped.join("; ") };
        return Err(Usage(format!("nothing to measure: {why}")).into());
    }
    Ok((tests, skipped))
}

/// Loads afresh each round, and reads the shortest prompt.
fn loading(args: &Args, tests: &[Test], capsule: &mut Capsule, notes: &Notes) -> anyhow::Result<()> {
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let first = tests.iter().filter(|t| t.kind == Kind::Prefill).min_by_key(|t| t.tokens);
    let bar = notes.count_bar("load");
    for round in 0..args.rounds {
        let builder = args.model.builder(entry.family)?.max_seq(first.map_or(1, Test::context));
        let started = Instant::now();
        let mut runner = builder.build()?;
        let load = started.elapsed().as_secs_f64();
        capsule.push("load", "s", Better::Lower, load);
        if let Some(t) = first {
            let took = bench::measure(&mut runner, &[*t], Rounds { counted: 1, warmup: 0 }, &mut |_, _| true)?;
            let prompt: f64 = took.iter().flatten().sum();
            capsule.push(&format!("load+{}", figure(t)), "s", Better::Lower, load + prompt);
        }
        bar.at(u64::from(round) + 1, u64::from(args.rounds));
    }
    Ok(())
}

/// Everything with so many sequences, in one model.
fn group(args: &Args, streams: usize, tests: &[Test], capsule: &mut Capsule, notes: &Notes) -> anyhow::Result<()> {
    let entry = families::at(args.model.weights()?, &args.model.load_opts())?;
    let mut model = args.model.clone();
    // In front, where what the command line says overrides it.
    model.device.set.insert(0, "packing=eager".into());
    let longest = tests.iter().map(Test::context).max().unwrap_or(1);
    let alone = bench::forget_peak_memory();
    let mut runner = model.builder(entry.family)?.max_seq(longest).sequences(streams).build()?;
    capsule.profile = json!(runner.explain().profile);
    capsule.notes.insert("device".into(), runner.explain().device.clone().into());

    let of = if streams == 1 { String::new() } else { format!("x{streams}") };
    let bar = notes.count_bar("measure");
    let rounds = Rounds { counted: args.rounds as usize, warmup: 1 };
    let seconds = bench::measure(&mut runner, tests, rounds, &mut |done, all| {
        bar.at(done as u64, all as u64);
        true
    })?;
    for (t, seconds) in tests.iter().zip(&seconds) {
        for s in seconds {
            match t.kind {
                Kind::Prefill => capsule.push(&figure(t), "s", Better::Lower, *s),
                Kind::Decode => capsule.push(&figure(t), "tok/s", Better::Higher, t.counted() as f64 / s),
            }
        }
        if t.kind == Kind::Decode {
            touched(&runner, t, capsule)?;
        }
    }
    if let Some(bytes) = bench::peak_memory() {
        capsule.push(&format!("peak{of}"), "B", Better::Lower, bytes as f64);
        if !alone {
            capsule.notes.insert("peak".into(), "the system does not count afresh: peaks are of all that was measured before, too".into());
        }
    }
    Ok(())
}

/// Bytes of one token in the middle of a decoding test.
fn touched(runner: &LmRunner, t: &Test, capsule: &mut Capsule) -> anyhow::Result<()> {
    let step = runner.traffic(t.streams, t.depth + t.tokens / 2)?;
    let of = |bytes: u64| bytes as f64 / t.streams as f64;
    let name = figure(t);
    capsule.figures.push((format!("touched {name}"), Figure::exact("B", Better::Lower, of(step.total()))));
    let parts = json!({ "weights": of(step.weights), "cache": of(step.cache), "activations": of(step.activations) });
    let all = capsule.notes.entry(TOUCHED).or_insert_with(|| json!({}));
    all[&name] = parts;
    Ok(())
}

/// The note of what the bytes of a token are.
const TOUCHED: &str = "bytes_per_token";

/// How much of the machine's read bandwidth decoding uses.
fn bandwidth(tests: &[Test], capsule: &mut Capsule, notes: &Notes) -> anyhow::Result<()> {
    let threads = match capsule.profile["threads"].as_u64().and_then(|n| usize::try_from(n).ok()) {
        None | Some(0) => rlx_cpu::tuning::threads(rlx_cpu::Level::detect()),
        Some(n) => n,
    };
    let measured = limits::measure(&[threads], limits::REPEATS, notes)?;
    let Some(at) = measured.at(threads) else { return Ok(()) };
    let limit = at.read.median();
    measured.record(capsule);
    for t in tests.iter().filter(|t| t.kind == Kind::Decode) {
        let name = figure(t);
        let part = |key: &str| capsule.notes[TOUCHED][&name][key].as_f64().unwrap_or(0.0);
        let bytes = part("weights") + part("cache");
        let rates: Vec<f64> = capsule.get(&name).map_or(vec![], |f| f.rounds.clone());
        for rate in rates {
            capsule.push(&format!("memory {name}"), "%", Better::Higher, 100.0 * rate * bytes / 1e9 / limit);
        }
    }
    Ok(())
}
