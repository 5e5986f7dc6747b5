//! The engines: how each is asked for each kind of measurement, in a process of its own.

use super::{Args, read};
use crate::capsule::Better;
use crate::process::{self, Ran};
use anyhow::Context;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What one process measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Prompts and decoding from an empty cache.
    Base,
    /// Decoding behind a context.
    Depth(usize),
    /// Several sequences at once.
    Streams(usize),
    /// A whole process to the end of its first prompt.
    First(usize),
}

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    Rlx,
    /// llama.cpp, with or without weights arranged anew for its kernels.
    Llama {
        repack: bool,
    },
}

/// A value of one round: test, unit, which way is better, value.
pub type Found = (String, &'static str, Better, f64);

impl Engine {
    /// As figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Rlx => "rlx",
            Engine::Llama { repack: true } => "llama.cpp",
            Engine::Llama { repack: false } => "llama.cpp --repack 0",
        }
    }
}

impl Job {
    /// What belongs to the arguments.
    pub fn all(a: &Args) -> Vec<Job> {
        let measures = a.decode > 0 && a.depth.contains(&0) || a.prefill.iter().any(|n| *n > 0);
        let deep = a.depth.iter().filter(|d| **d > 0 && a.decode > 0).map(|d| Job::Depth(*d));
        let streams = a.streams.iter().filter(|s| **s > 1 && a.decode > 0).map(|s| Job::Streams(*s));
        let first = a.first_token.iter().map(|n| Job::First(*n));
        measures.then_some(Job::Base).into_iter().chain(deep).chain(streams).chain(first).collect()
    }

    /// The test that tells the process's peak memory.
    fn peak(self) -> String {
        match self {
            Job::Base => "peak".into(),
            Job::Depth(n) => format!("peak@{n}"),
            Job::Streams(n) => format!("peakx{n}"),
            Job::First(n) => format!("peak-ft{n}"),
        }
    }

    /// Tokens that [`Job::Base`] decodes.
    fn base_decode(a: &Args) -> usize {
        if a.depth.contains(&0) { a.decode } else { 0 }
    }

    fn rlx(self, a: &Args) -> String {
        let (decode, repeat) = (a.decode, a.repeat);
        match self {
            Job::Base => format!("--prefill={} --decode={} --rounds={repeat}", list(&a.prefill), Job::base_decode(a)),
            Job::Depth(n) => format!("--prefill=0 --decode={decode} --depth={n} --rounds={repeat}"),
            Job::Streams(n) => format!("--prefill=0 --decode={decode} --streams={n} --rounds={repeat}"),
            Job::First(n) => format!("--prefill={n} --decode=0 --no-warmup --rounds=1"),
        }
    }

    fn llama(self, a: &Args, threads: usize, repack: bool) -> String {
        let (decode, repeat) = (a.decode, a.repeat);
        let plain = if repack { "" } else { " --repack 0" };
        match self {
            Job::Base => format!("-t {threads} -r {repeat} -p {} -n {} -o jsonl{plain}", list(&a.prefill), Job::base_decode(a)),
            Job::Depth(n) => format!("-t {threads} -r {repeat} -p 0 -n {decode} -d {n} -o jsonl{plain}"),
            Job::First(n) => format!("-t {threads} -r 1 -p {n} -n 0 --no-warmup -o jsonl{plain}"),
            Job::Streams(n) => {
                // Each sequence has its own part of the context, in multiples of 256.
                let context = n * (1 + decode).next_multiple_of(256);
                let again = vec![n; repeat as usize];
                let plain = if repack { "" } else { " --no-repack" };
                format!("-t {threads} -tb {threads} -c {context} -npp 1 -ntg {decode} -npl {} --output-format jsonl{plain}", list(&again))
            }
        }
    }
}

fn list(v: &[usize]) -> String {
    v.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Program and arguments.
fn command(a: &Args, rlx: &Path, job: Job, engine: Engine, file: &Path, threads: usize) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let words = |text: String| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
    let file = OsString::from(file);
    Ok(match engine {
        Engine::Rlx => {
            let text = format!("bench --json --quiet --threads={threads} {}", job.rlx(a));
            let more = a.rlx_arg.iter().map(OsString::from);
            (rlx.into(), words(text).into_iter().chain(more).chain(["--weights".into(), file]).collect())
        }
        Engine::Llama { repack } => {
            let program = match job {
                Job::Streams(_) => a.llama_batched_bench.clone().context("--streams needs --llama-batched-bench")?,
                _ => a.llama_bench.clone(),
            };
            let more = a.llama_arg.iter().map(OsString::from);
            (program, words(job.llama(a, threads, repack)).into_iter().chain(more).chain(["-m".into(), file]).collect())
        }
    })
}

/// Runs one process; its figures, and the profile where it tells one.
pub fn measure(a: &Args, rlx: &Path, job: Job, engine: Engine, file: &Path, threads: usize) -> anyhow::Result<(Vec<Found>, Option<Value>)> {
    let (program, args) = command(a, rlx, job, engine, file, threads)?;
    let ran = process::run(&program, &args)?;
    read(job, engine, &ran).with_context(|| format!("cannot understand what {} printed", process::shown(&program, &args)))
}

fn read(job: Job, engine: Engine, ran: &Ran) -> anyhow::Result<(Vec<Found>, Option<Value>)> {
    let (rates, profile) = match engine {
        Engine::Rlx => read::rlx(&ran.out).map(|(rates, profile)| (rates, Some(profile)))?,
        Engine::Llama { .. } if matches!(job, Job::Streams(_)) => (read::llama_batched(&ran.out)?, None),
        Engine::Llama { .. } => (read::llama_bench(&ran.out)?, None),
    };
    let mut found: Vec<Found> = match job {
        Job::First(n) => vec![(format!("ft{n}"), "s", Better::Lower, ran.seconds)],
        _ => rates.into_iter().map(|(test, v)| (test, "tok/s", Better::Higher, v)).collect(),
    };
    found.extend(ran.peak.map(|bytes| (job.peak(), "B", Better::Lower, bytes as f64)));
    Ok((found, profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(list: &str) -> Args {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            args: Args,
        }
        let words = format!("x --llama-bench lb --gguf m.gguf {list}");
        <Program as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap_or_else(|e| panic!("{e}")).args
    }

    fn line(a: &Args, job: Job, engine: Engine) -> String {
        let (program, args) = command(a, Path::new("rlx-run"), job, engine, Path::new("m.gguf"), 2).unwrap();
        process::shown(&program, &args)
    }

    #[test]
    fn a_process_measures_one_kind() {
        let a = args("--depth 0,8192 --streams 16 --first-token 128 --llama-batched-bench bb --repeat 2");
        assert_eq!(Job::all(&a), [Job::Base, Job::Depth(8192), Job::Streams(16), Job::First(128)]);
        assert_eq!(Job::all(&args("--prefill 0 --depth 8192")), [Job::Depth(8192)]);
        let (llama, plain) = (Engine::Llama { repack: true }, Engine::Llama { repack: false });
        for (job, engine, want) in [
            (Job::Base, Engine::Rlx, "rlx-run bench --json --quiet --threads=2 --prefill=128,512 --decode=64 --rounds=2 --weights m.gguf"),
            (Job::Base, llama, "lb -t 2 -r 2 -p 128,512 -n 64 -o jsonl -m m.gguf"),
            (Job::Depth(8192), plain, "lb -t 2 -r 2 -p 0 -n 64 -d 8192 -o jsonl --repack 0 -m m.gguf"),
            (Job::Streams(16), plain, "bb -t 2 -tb 2 -c 4096 -npp 1 -ntg 64 -npl 16,16 --output-format jsonl --no-repack -m m.gguf"),
            (Job::First(128), llama, "lb -t 2 -r 1 -p 128 -n 0 --no-warmup -o jsonl -m m.gguf"),
        ] {
            assert_eq!(line(&a, job, engine), want);
        }
    }

    #[test]
    fn a_first_token_is_the_time_of_the_process() {
        let out = r#"{"n_prompt": 128, "n_gen": 0, "avg_ts": 400}"#.into();
        let ran = Ran { out, seconds: 1.5, peak: Some(7) };
        let (found, _) = read(Job::First(128), Engine::Llama { repack: true }, &ran).unwrap();
        assert_eq!(found, [("ft128".into(), "s", Better::Lower, 1.5), ("peak-ft128".into(), "B", Better::Lower, 7.0)]);
    }
}
