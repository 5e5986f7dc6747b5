//! `rlx-bench peers`: this engine and llama.cpp, turn by turn on the same files.

use crate::machine;
use anyhow::{Context, bail};
use rlx_cli::Usage;
use rlx_cli::term::{Notes, human_bytes, rate};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  rlx-bench peers --llama-bench build/bin/llama-bench --gguf Q4_K_M.gguf --gguf Q8_0.gguf --gguf BF16.gguf
  rlx-bench peers … --rounds 9 --json > capsule.json
  rlx-bench peers … --require pp512=0.5 --require tg64=0.8      exit code 1 below these ratios

Each round runs rlx-run bench, then llama-bench, on every file, so that whatever else the machine
does hits both.  pp128 and pp512 are prompt tokens per second into an empty cache, tg64 decoded
tokens per second from an empty cache, ft128 (--first-token 128) the seconds from the start of a fresh
process to the end of its first prompt of 128 tokens.  A ratio is the median over rounds of rlx / llama.cpp within
the round: above 1, rlx is faster.  Build with --release, and llama.cpp with GGML_NATIVE=ON.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// llama.cpp's llama-bench
    #[arg(long, value_name = "PROGRAM")]
    llama_bench: PathBuf,
    /// A model to measure; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    gguf: Vec<PathBuf>,
    /// This engine's rlx-run; unless given, the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    rlx_run: Option<PathBuf>,
    /// Rounds
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measurements of each kind within a round; the round counts their mean
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Threads of both
    #[arg(long, short, value_name = "N", default_value_t = 2)]
    threads: usize,
    /// Prompt lengths
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Lengths of first prompts: whole processes are timed that load the file and read one prompt
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    first_token: Vec<usize>,
    /// Wait up to this many seconds before each run for the machine to be idle
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// More flags for rlx-run bench, such as --rlx-arg=--set=kv=f32; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    rlx_arg: Vec<String>,
    /// More flags for llama-bench; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    llama_arg: Vec<String>,
    /// Fail when a test's ratio is below this; may be repeated
    #[arg(long, value_name = "TEST=RATIO", value_parser = requirement)]
    require: Vec<(String, f64)>,
    /// Print one JSON object: machine, commands, every figure
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

/// Tokens per second of one program by test, and its peak memory, round by round.
#[derive(Default)]
struct Figures {
    rates: BTreeMap<String, Vec<f64>>,
    peak: u64,
    busy: f64,
}

/// Both programs on one file.
struct Pair {
    file: PathBuf,
    rlx: Figures,
    llama: Figures,
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let rlx = args.rlx_run.clone().map_or_else(beside, Ok)?;
    let notes = Notes::new(args.quiet);
    let mut pairs: Vec<Pair> =
        args.gguf.iter().map(|f| Pair { file: f.clone(), rlx: Figures::default(), llama: Figures::default() }).collect();
    for round in 1..=args.rounds {
        for pair in &mut pairs {
            let name = pair.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            one(args, &rlx, rlx_args(args, &pair.file), read_rlx, &mut pair.rlx)?;
            for n in &args.first_token {
                first(args, &rlx, rlx_first(args, &pair.file, *n), *n, &mut pair.rlx)?;
            }
            notes.say(format_args!("round {round} of {}  {name}  rlx        {}", args.rounds, pair.rlx.latest()));
            one(args, &args.llama_bench, llama_args(args, &pair.file), read_llama, &mut pair.llama)?;
            for n in &args.first_token {
                first(args, &args.llama_bench, llama_first(args, &pair.file, *n), *n, &mut pair.llama)?;
            }
            notes.say(format_args!("round {round} of {}  {name}  llama.cpp  {}", args.rounds, pair.llama.latest()));
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", json(args, &pairs))?;
    } else {
        pairs.iter().try_for_each(|p| write!(out, "{}", p.table(args)))?;
    }
    let mut low = 0;
    for (pair, (test, least)) in pairs.iter().flat_map(|p| args.require.iter().map(move |r| (p, r))) {
        let Some(ratio) = pair.ratio(test) else {
            return Err(Usage(format!("--require {test}: no such test; there are {}", pair.tests().join(", "))).into());
        };
        if ratio < *least {
            low += 1;
            writeln!(io::stderr(), "{}: {test} is {ratio:.2} of llama.cpp, required {least}", pair.file.display())?;
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

fn list(v: &[usize]) -> String {
    v.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn rlx_args(a: &Args, file: &Path) -> Vec<OsString> {
    let words =
        ["bench".into(), "--json".into(), "--quiet".into(), format!("--threads={}", a.threads), format!("--prefill={}", list(&a.prefill))];
    let more = [format!("--decode={}", a.decode), format!("--rounds={}", a.repeat)];
    let all = words.into_iter().chain(more).chain(a.rlx_arg.iter().cloned()).map(OsString::from);
    all.chain(["--weights".into(), file.into()]).collect()
}

fn llama_args(a: &Args, file: &Path) -> Vec<OsString> {
    let (threads, repeat, prefill, decode) = (a.threads.to_string(), a.repeat.to_string(), list(&a.prefill), a.decode.to_string());
    let words = ["-t", &threads, "-r", &repeat, "-p", &prefill, "-n", &decode, "-o", "jsonl"];
    let all = words.into_iter().map(OsString::from).chain(a.llama_arg.iter().map(OsString::from));
    all.chain(["-m".into(), file.into()]).collect()
}

fn rlx_first(a: &Args, file: &Path, prompt: usize) -> Vec<OsString> {
    let words = ["bench", "--json", "--quiet", "--no-warmup", "--decode=0", "--rounds=1"].into_iter().map(OsString::from);
    let more = [format!("--threads={}", a.threads), format!("--prefill={prompt}")].into_iter().chain(a.rlx_arg.iter().cloned());
    words.chain(more.map(OsString::from)).chain(["--weights".into(), file.into()]).collect()
}

fn llama_first(a: &Args, file: &Path, prompt: usize) -> Vec<OsString> {
    let (threads, prompt) = (a.threads.to_string(), prompt.to_string());
    let words = ["-t", &threads, "-r", "1", "-p", &prompt, "-n", "0", "--no-warmup"];
    let all = words.into_iter().map(OsString::from).chain(a.llama_arg.iter().map(OsString::from));
    all.chain(["-m".into(), file.into()]).collect()
}

/// Times a whole process up to the end of its first prompt; the figure is how many of them a second would hold.
fn first(a: &Args, program: &Path, args: Vec<OsString>, prompt: usize, into: &mut Figures) -> anyhow::Result<()> {
    let started = Instant::now();
    output(a, program, &args, into)?;
    into.rates.entry(format!("ft{prompt}")).or_default().push(1.0 / started.elapsed().as_secs_f64().max(1e-9));
    Ok(())
}

/// From what a program printed to tokens per second by test; `peak` is bytes of memory.
type Reader = fn(&str) -> anyhow::Result<Vec<(String, f64)>>;

/// Runs a program once; what it printed.
fn output(a: &Args, program: &Path, args: &[OsString], into: &mut Figures) -> anyhow::Result<String> {
    let busy = machine::quiet(Duration::from_secs(a.wait)).unwrap_or(0.0);
    into.busy = into.busy.max(busy);
    let child = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let done = child.with_context(|| format!("cannot run {}", program.display()))?;
    if !done.status.success() {
        let err = String::from_utf8_lossy(&done.stderr);
        let tail: Vec<&str> = err.lines().rev().take(4).collect();
        bail!("{}: {}: {}", shown(program, args), done.status, tail.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn shown(program: &Path, args: &[OsString]) -> String {
    format!("{} {}", program.display(), args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

/// Runs a program once and notes its figures.
fn one(a: &Args, program: &Path, args: Vec<OsString>, read: Reader, into: &mut Figures) -> anyhow::Result<()> {
    let text = output(a, program, &args, into)?;
    for (test, value) in read(&text).with_context(|| format!("cannot understand what {} printed", shown(program, &args)))? {
        if test == "peak" {
            into.peak = into.peak.max(value as u64);
        } else {
            into.rates.entry(test).or_default().push(value);
        }
    }
    Ok(())
}

fn read_rlx(text: &str) -> anyhow::Result<Vec<(String, f64)>> {
    let v: Value = serde_json::from_str(text)?;
    let tests = v["tests"].as_object().context("no tests")?;
    let mut all: Vec<(String, f64)> = tests.iter().filter_map(|(k, t)| Some((k.clone(), mean(&t["rounds"])?))).collect();
    all.extend(v["peak_rss_bytes"].as_f64().map(|b| ("peak".into(), b)));
    Ok(all)
}

fn mean(v: &Value) -> Option<f64> {
    let all: Vec<f64> = v.as_array()?.iter().filter_map(Value::as_f64).collect();
    (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
}

fn read_llama(text: &str) -> anyhow::Result<Vec<(String, f64)>> {
    let mut all = vec![];
    for line in text.lines().filter(|l| l.starts_with('{')) {
        let v: Value = serde_json::from_str(line)?;
        let count = |key: &str| v[key].as_u64().unwrap_or(0);
        let name = if count("n_prompt") > 0 { format!("pp{}", count("n_prompt")) } else { format!("tg{}", count("n_gen")) };
        all.push((name, v["avg_ts"].as_f64().context("no avg_ts")?));
    }
    if all.is_empty() {
        bail!("no JSON lines");
    }
    Ok(all)
}

impl Figures {
    fn latest(&self) -> String {
        let one = |k: &str, v: f64| if k.starts_with("ft") { format!("{k} {:.2} s", 1.0 / v) } else { format!("{k} {}", rate(v)) };
        self.rates.iter().filter_map(|(k, v)| Some(one(k, *v.last()?))).collect::<Vec<_>>().join("  ")
    }

    fn json(&self) -> Value {
        let of = |v: &Vec<f64>| json!({ "median": median(v), "rounds": v });
        let rates: serde_json::Map<String, Value> = self.rates.iter().map(|(k, v)| (k.clone(), of(v))).collect();
        json!({ "per_s": rates, "peak_rss_bytes": (self.peak > 0).then_some(self.peak), "most_busy_before": self.busy })
    }
}

impl Pair {
    fn tests(&self) -> Vec<String> {
        let mut tests: Vec<String> = self.rlx.rates.keys().filter(|k| self.llama.rates.contains_key(*k)).cloned().collect();
        tests.sort_by_key(|t| (!t.starts_with("pp"), t.len(), t.clone()));
        tests
    }

    /// Median over rounds of rlx / llama.cpp.
    fn ratio(&self, test: &str) -> Option<f64> {
        let (a, b) = (self.rlx.rates.get(test)?, self.llama.rates.get(test)?);
        Some(median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>()))
    }

    fn table(&self, a: &Args) -> String {
        let mut t = format!("{}, {} threads, {} rounds\n", self.file.display(), a.threads, a.rounds);
        t += &format!("  {:<8} {:>28} {:>28} {:>8}\n", "tok/s", "rlx", "llama.cpp", "ratio");
        let spread = |test: &str, v: &Vec<f64>| {
            let (low, high) = v.iter().fold((f64::INFINITY, 0.0f64), |(l, h), x| (l.min(*x), h.max(*x)));
            if test.starts_with("ft") {
                return format!("{:.2} s ({:.2} to {:.2})", 1.0 / median(v), 1.0 / high, 1.0 / low);
            }
            format!("{} ({} to {})", rate(median(v)), rate(low), rate(high))
        };
        for test in self.tests() {
            let (rlx, llama) = (&self.rlx.rates[&test], &self.llama.rates[&test]);
            t +=
                &format!("  {test:<8} {:>28} {:>28} {:>8.2}\n", spread(&test, rlx), spread(&test, llama), self.ratio(&test).unwrap_or(0.0));
        }
        if self.rlx.peak > 0 {
            t += &format!("  rlx peak memory {}\n", human_bytes(self.rlx.peak));
        }
        t + &format!("  processors busy with other work before a run: at most {:.1}\n", self.rlx.busy.max(self.llama.busy))
    }
}

fn json(args: &Args, pairs: &[Pair]) -> Value {
    let of = |p: &Pair| {
        let ratios: serde_json::Map<String, Value> = p.tests().into_iter().map(|t| (t.clone(), json!(p.ratio(&t)))).collect();
        json!({ "model": p.file, "rlx": p.rlx.json(), "llama.cpp": p.llama.json(), "ratio": ratios })
    };
    json!({
        "program": concat!("rlx-bench ", env!("CARGO_PKG_VERSION")),
        "machine": machine::describe(),
        "threads": args.threads,
        "rounds": args.rounds,
        "repeat": args.repeat,
        "rlx_args": args.rlx_arg,
        "llama_args": args.llama_arg,
        "models": pairs.iter().map(of).collect::<Vec<_>>(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let rlx = r#"{"tests": {"pp128": {"tokens_per_s": 2.0, "rounds": [1.0, 3.0]}}, "peak_rss_bytes": 7}"#;
        assert_eq!(read_rlx(rlx).unwrap(), [("pp128".into(), 2.0), ("peak".into(), 7.0)]);
        let llama = "noise\n{\"n_prompt\": 128, \"n_gen\": 0, \"avg_ts\": 4.5}\n{\"n_prompt\": 0, \"n_gen\": 64, \"avg_ts\": 2}\n";
        assert_eq!(read_llama(llama).unwrap(), [("pp128".into(), 4.5), ("tg64".into(), 2.0)]);
        assert!(read_llama("").is_err() && read_rlx("{}").is_err());
    }

    #[test]
    fn ratios_are_medians_of_rounds() {
        let figures = |v: &[f64]| Figures { rates: BTreeMap::from([("tg64".into(), v.to_vec())]), ..Figures::default() };
        let pair = Pair { file: "x".into(), rlx: figures(&[10.0, 20.0, 30.0]), llama: figures(&[10.0, 10.0, 10.0]) };
        assert_eq!(pair.ratio("tg64"), Some(2.0));
        assert_eq!(pair.ratio("pp1"), None);
        assert_eq!(requirement("tg64=0.8"), Ok(("tg64".into(), 0.8)));
        assert!(requirement("tg64").is_err());
    }
}
