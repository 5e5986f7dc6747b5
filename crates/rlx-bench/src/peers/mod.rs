//! `rlx-bench peers`: this engine and llama.cpp, turn by turn on the same files.

mod engine;
mod read;
pub mod rows;

use crate::capsule::Capsule;
use crate::machine;
use anyhow::bail;
use engine::{Engine, Found, Job};
use rlx_cli::Usage;
use rlx_cli::term::Notes;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  rlx-bench peers --llama-bench build/bin/llama-bench --gguf Q4_K_M.gguf --gguf Q8_0.gguf --gguf BF16.gguf
  rlx-bench peers … --threads 1,2 --depth 0,8192 --first-token 128 --rounds 9 --out capsule.json
  rlx-bench peers … --streams 16 --llama-batched-bench build/bin/llama-batched-bench
  rlx-bench peers … --out capsule.json --resume              more rounds for the figures that are there
  rlx-bench peers … --require pp512=0.5 --require tg64=0.8   exit code 1 below these ratios

Each round runs rlx-run bench, then llama.cpp, on every file with every number of threads, each kind of
measurement in a process of its own, so that whatever else the machine does hits both:
  pp128, pp512   prompt tokens per second into an empty cache
  tg64           decoded tokens per second from an empty cache
  tg64@8192      the same with 8192 tokens cached before (--depth)
  tg64x16        tokens per second of 16 sequences decoded in one call (--streams)
  ft128          seconds from the start of a fresh process to the end of its first prompt (--first-token)
  peak, peak@8192, peakx16, peak-ft128   the most memory that the process had
llama.cpp is measured as it is by default and with --repack 0, and a row counts the better one.  A ratio is the
median over rounds of how many times better rlx is within the round: above 1, rlx is faster, or takes less
memory.  Build with --release, and llama.cpp with GGML_NATIVE=ON.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// llama.cpp's llama-bench
    #[arg(long, value_name = "PROGRAM")]
    llama_bench: PathBuf,
    /// llama.cpp's llama-batched-bench, for --streams
    #[arg(long, value_name = "PROGRAM")]
    llama_batched_bench: Option<PathBuf>,
    /// A model to measure; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    gguf: Vec<PathBuf>,
    /// A checkpoint that only this engine reads (a directory of MLX weights, say), measured in turn with the others;
    /// may be repeated
    #[arg(long, value_name = "WEIGHTS")]
    alone: Vec<PathBuf>,
    /// This engine's rlx-run; unless given, the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    rlx_run: Option<PathBuf>,
    /// Rounds
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measurements of each kind within a round; the round counts their mean
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Threads of both
    #[arg(long, short, value_name = "N,N,…", value_delimiter = ',', default_value = "2")]
    threads: Vec<usize>,
    /// Prompt lengths; 0 for none
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to decode; 0 for none
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Tokens that are cached before decoding begins
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Numbers of sequences to decode at once, from empty caches
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', requires = "llama_batched_bench")]
    streams: Vec<usize>,
    /// Lengths of first prompts: whole processes are timed that load the file and read one prompt
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    first_token: Vec<usize>,
    /// llama.cpp's settings: 1 arranges weights anew while loading, its default, 0 does not
    #[arg(long, value_name = "0|1,…", value_delimiter = ',', default_value = "1,0", value_parser = clap::value_parser!(u8).range(0..=1))]
    repack: Vec<u8>,
    /// Wait up to this many seconds before each run for the machine to be idle
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// More flags for rlx-run bench, such as --rlx-arg=--set=kv=f32; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    rlx_arg: Vec<String>,
    /// More flags for llama.cpp's programs; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    llama_arg: Vec<String>,
    /// Fail when a test's ratio is below this on any file; may be repeated
    #[arg(long, value_name = "TEST=RATIO", value_parser = requirement)]
    require: Vec<(String, f64)>,
    /// Write a capsule with every round; after each file of a round, so that an interrupted run keeps what it has
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Add rounds to the capsule that --out names
    #[arg(long, requires = "out")]
    resume: bool,
    /// Print the capsule instead of tables
    #[arg(long)]
    json: bool,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

fn requirement(text: &str) -> Result<(String, f64), String> {
    let parts = text.split_once('=').and_then(|(test, ratio)| Some((test.to_owned(), ratio.parse().ok()?)));
    parts.ok_or_else(|| "expected TEST=RATIO, such as tg64=0.8".into())
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let rlx = args.rlx_run.clone().map_or_else(beside, Ok)?;
    let jobs = Job::all(args);
    if jobs.is_empty() {
        return Err(Usage("nothing to measure: --prefill and --decode are 0 and there is no --first-token".into()).into());
    }
    check_names(args)?;
    let mut capsule = begin(args)?;
    let notes = Notes::new(args.quiet);
    for round in 1..=args.rounds {
        for file in args.gguf.iter().chain(&args.alone) {
            for threads in &args.threads {
                let mut tell = |engine: Engine, found: &[Found]| {
                    let figures: Vec<String> = found.iter().map(|(test, unit, _, v)| format!("{test} {}", rows::value(unit, *v))).collect();
                    let (name, engine) = (stem(file), engine.name());
                    notes.say(format_args!("round {round} of {}  {name}  {threads}t  {engine:<20} {}", args.rounds, figures.join("  ")));
                };
                pair(args, &rlx, &jobs, file, *threads, &mut capsule, &mut tell)?;
                args.out.iter().try_for_each(|path| capsule.write(path))?;
            }
        }
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => write!(out, "{}", capsule.text())?,
        false => write!(out, "{}", summary(&capsule))?,
    }
    required(args, &capsule)
}

/// The note of what was asked of the engines beyond what names of figures tell.
const SETTINGS: &str = "settings";

/// The capsule to add to.
fn begin(args: &Args) -> anyhow::Result<Capsule> {
    let mut fresh = Capsule::new("peers");
    let settings = json!({ "repeat": args.repeat, "rlx_args": args.rlx_arg, "llama_args": args.llama_arg });
    fresh.notes.insert(SETTINGS.into(), settings.clone());
    let Some(path) = args.out.as_deref().filter(|p| p.exists()) else { return Ok(fresh) };
    let at = path.display();
    if !args.resume {
        return Err(Usage(format!("{at} is there already: --resume adds rounds to it; or name another file")).into());
    }
    let old = Capsule::read(path)?;
    let (program, null) = ([&old, &fresh].map(|c| Value::from(c.program.as_str())), Value::Null);
    for (what, found, expected) in [
        ("program", &program[0], &program[1]),
        ("machine", &old.machine, &fresh.machine),
        ("build", &old.build, &fresh.build),
        (SETTINGS, old.notes.get(SETTINGS).unwrap_or(&null), &settings),
    ] {
        if found != expected {
            bail!("{at}: {what}: found {found}, expected {expected}: such rounds do not belong together; name another file");
        }
    }
    Ok(old)
}

/// One round of one file: every job by every engine in turn.  All of it is added, or nothing.
fn pair(
    args: &Args,
    rlx: &Path,
    jobs: &[Job],
    file: &Path,
    threads: usize,
    capsule: &mut Capsule,
    tell: &mut dyn FnMut(Engine, &[Found]),
) -> anyhow::Result<()> {
    let settings = if args.alone.iter().any(|f| f == file) { &[] } else { &args.repack[..] };
    let engines: Vec<Engine> = std::iter::once(Engine::Rlx).chain(settings.iter().map(|r| Engine::Llama { repack: *r == 1 })).collect();
    let (mut all, mut busiest) = (vec![], 0.0f64);
    for (job, engine) in jobs.iter().flat_map(|j| engines.iter().map(move |e| (*j, *e))) {
        busiest = busiest.max(machine::quiet(Duration::from_secs(args.wait)).unwrap_or(0.0));
        let (found, profile) = engine::measure(args, rlx, job, engine, file, threads)?;
        tell(engine, &found);
        if let Some(Value::Object(mut profile)) = profile.filter(|_| capsule.profile.is_null()) {
            profile.shift_remove("threads"); // figures name theirs
            capsule.profile = profile.into();
        }
        all.extend(found.into_iter().map(|f| (engine, f)));
    }
    for (engine, (test, unit, better, value)) in all {
        capsule.push(&rows::figure_name(&stem(file), threads, &test, engine.name()), unit, better, value);
    }
    let before = capsule.notes.get(BUSY).and_then(Value::as_f64).unwrap_or(0.0);
    capsule.notes.insert(BUSY.into(), before.max(busiest).into());
    Ok(())
}

/// The note of how many processors other work kept busy before a process, at most.
pub const BUSY: &str = "busy_before";

fn summary(c: &Capsule) -> String {
    let busy = c.notes.get(BUSY).and_then(Value::as_f64).unwrap_or(0.0);
    format!("{}processors busy with other work before a process: at most {busy:.1}\n", rows::table(c))
}

/// The name of a checkpoint in figures: its last part, without `.gguf`.
fn stem(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    name.strip_suffix(".gguf").unwrap_or(&name).replace('/', "_")
}

/// Figures of different files have different names.
fn check_names(args: &Args) -> anyhow::Result<()> {
    let mut names: Vec<String> = args.gguf.iter().chain(&args.alone).map(|f| stem(f)).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(Usage(format!("two checkpoints are called {}: rename one, so that figures tell which", twice[0])).into()),
        None => Ok(()),
    }
}

/// The exit code by `--require`.
fn required(args: &Args, capsule: &Capsule) -> anyhow::Result<u8> {
    let (rows, mut low) = (rows::rows(capsule), 0);
    for (test, least) in &args.require {
        let of_test: Vec<_> = rows.iter().filter(|r| r.test == test).collect();
        if of_test.is_empty() {
            let mut known: Vec<&str> = rows.iter().map(|r| r.test).collect();
            known.dedup();
            return Err(Usage(format!("--require {test}: no such test; there are {}", known.join(", "))).into());
        }
        for r in of_test.into_iter().filter(|r| r.ratio < *least) {
            low += 1;
            let (model, threads, ratio) = (r.model, r.threads, r.ratio);
            writeln!(io::stderr(), "{model}, {threads} threads: {test} is {ratio:.2} of {}, required {least}", r.setting)?;
        }
    }
    Ok(u8::from(low > 0))
}

/// The `rlx-run` that was built with this program.
fn beside() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?.with_file_name(format!("rlx-run{}", std::env::consts::EXE_SUFFIX));
    if !here.is_file() {
        let why = format!("{} is not there: cargo build --release -p rlx-models, or name it with --rlx-run", here.display());
        return Err(Usage(why).into());
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_name_test_and_ratio() {
        assert_eq!(requirement("tg64=0.8"), Ok(("tg64".into(), 0.8)));
        assert!(requirement("tg64").is_err());
        assert_eq!(stem(Path::new("a/qwen3-0.6b-Q4_K_M.gguf")), "qwen3-0.6b-Q4_K_M");
        assert_eq!(stem(Path::new("models/qwen3-0.6b/")), "qwen3-0.6b");
    }
}
