//! What this machine can do: bytes read from memory and arithmetic per second, with 1 and with all threads.
//!
//! Figures of `run` and `op` are fractions of these, measured in the same process.

pub mod kernels;
mod threads;

use crate::capsule::{Better, Capsule, Figure, Output};
use crate::machine;
use anyhow::bail;
use kernels::{PIECE, Peak};
use rlx_cli::Usage;
use rlx_cli::term::{Notes, human_bytes, rate};
use rlx_cpu::memory::Buffer;
use serde_json::json;
use std::time::Duration;
use threads::Gang;

const EXAMPLES: &str = "\
Examples:
  rlx-bench limits
  rlx-bench limits --threads 1,2,4 --out limits.json

Memory is a buffer much larger than the last cache, in pages of 2 MiB where the system grants them; every thread reads
its own part.  Arithmetic stays in registers: one multiply-add counts as 2 operations.  Threads are pinned to
processors.  Figures are medians of the repeats, with the highest in brackets; other work on the machine lowers them.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Numbers of threads; 1 and one per physical core unless given
    #[arg(long, short, value_name = "N,N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Vec<u32>,
    /// Measurements of each figure, after one that does not count
    #[arg(long, short, value_name = "N", default_value_t = REPEATS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    #[command(flatten)]
    output: Output,
}

/// How long one measurement of a kernel takes.
const SPAN: Duration = Duration::from_millis(60);
/// Least memory to read.
const LEAST: u64 = 512 << 20;
/// Repeats where nothing else is asked.
pub const REPEATS: u32 = 9;

/// What was measured with one number of threads.
#[derive(Clone, Debug)]
pub struct At {
    /// Threads.
    pub threads: usize,
    /// Whether each had a processor to itself.
    pub pinned: bool,
    /// Bytes read from memory, in GB/s.
    pub read: Figure,
    /// Multiply-adds of f32, in GFLOP/s.
    pub f32: Figure,
    /// Dot products of bf16, in GFLOP/s; `None` where the processor has no instruction for them.
    pub bf16: Option<Figure>,
    /// Dot products of bytes, in GOP/s.
    pub int8: Figure,
}

impl At {
    /// What bf16 products can reach: the dot product's peak, or the f32 peak where there is none.
    pub fn bf16_or_f32(&self) -> &Figure {
        self.bf16.as_ref().unwrap_or(&self.f32)
    }

    /// The figures by name.
    fn figures(&self) -> impl Iterator<Item = (&'static str, &Figure)> {
        let all = [("read", Some(&self.read)), ("f32", Some(&self.f32)), ("bf16", self.bf16.as_ref()), ("int8", Some(&self.int8))];
        all.into_iter().filter_map(|(name, f)| Some((name, f?)))
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Limits {
    /// By number of threads, as asked.
    pub at: Vec<At>,
    /// Bytes of the memory that was read.
    pub buffer_bytes: u64,
    /// How many of them were in 2 MiB pages, where the system tells.
    pub huge_bytes: Option<u64>,
}

impl Limits {
    /// The figures of so many threads.
    pub fn at(&self, threads: usize) -> Option<&At> {
        self.at.iter().find(|a| a.threads == threads)
    }

    /// Adds every figure to a capsule, as `limit read t2` and the like, and what they were measured with to its notes.
    pub fn record(&self, capsule: &mut Capsule) {
        for a in &self.at {
            let named = a.figures().map(|(name, f)| (format!("limit {name} t{}", a.threads), f.clone()));
            capsule.figures.extend(named);
        }
        let notes = json!({
            "read": kernels::read().name,
            "f32": kernels::f32().name,
            "bf16": kernels::bf16().map(|k| k.name),
            "int8": kernels::int8().name,
            "buffer_bytes": self.buffer_bytes,
            "huge_page_bytes": self.huge_bytes,
            "pinned": self.at.iter().all(|a| a.pinned),
        });
        capsule.notes.insert("limits".into(), notes);
    }

    /// A line per figure, a column per number of threads.
    pub fn table(&self) -> String {
        let mut t = format!("{:<24}", "threads");
        self.at.iter().for_each(|a| t += &format!("{:>18}", a.threads));
        t += "\n";
        let mut row = |name: &str, figure: &dyn Fn(&At) -> Option<Figure>, note: &str| {
            t += &format!("{name:<24}");
            for a in &self.at {
                let shown = figure(a).map_or("-".into(), |f| format!("{} ({})", rate(f.median()), rate(f.range().1)));
                t += &format!("{shown:>18}");
            }
            t += &format!("   {note}\n");
        };
        let pages = self.huge_bytes.map_or(String::new(), |b| format!(", {} of them in 2 MiB pages", human_bytes(b)));
        let memory = format!("{} of {}{pages}", kernels::read().name, human_bytes(self.buffer_bytes));
        row("memory read, GB/s", &|a| Some(a.read.clone()), &memory);
        row("f32, GFLOP/s", &|a| Some(a.f32.clone()), kernels::f32().name);
        let none = "this processor has no bf16 dot product: bf16 runs at the f32 peak";
        row("bf16 dot, GFLOP/s", &|a| a.bf16.clone(), kernels::bf16().map_or(none, |k| k.name));
        row("int8 dot, GOP/s", &|a| Some(a.int8.clone()), kernels::int8().name);
        if self.at.iter().any(|a| !a.pinned) {
            t += "threads were not pinned to processors: the system does not offer it, or has fewer processors\n";
        }
        t
    }
}

/// Measures with each of these numbers of threads, `repeats` times after a warm-up: some 0.3 seconds for each repeat.
///
/// # Errors
/// When threads cannot be started, or memory for a buffer that no cache holds is not free.
pub fn measure(threads: &[usize], repeats: u32, notes: &Notes) -> anyhow::Result<Limits> {
    let bytes = buffer_bytes(last_cache(), machine::available_memory())?;
    let mut limits = Limits { at: vec![], buffer_bytes: bytes, huge_bytes: None };
    for &n in threads {
        notes.say(format_args!("measuring the machine's limits with {n} thread{}", if n == 1 { "" } else { "s" }));
        let (at, huge) = Gang::with(n, |gang| all(gang, bytes as usize, repeats))?;
        limits.at.push(at);
        limits.huge_bytes = huge.map(|h| limits.huge_bytes.map_or(h, |before| before.min(h)));
    }
    Ok(limits)
}

/// A buffer that the last cache (of so many bytes) holds at most an eighth of, if half of the free memory suffices.
fn buffer_bytes(cache: Option<u64>, free: Option<u64>) -> anyhow::Result<u64> {
    let piece = 2 << 20;
    let cache = cache.unwrap_or(32 << 20);
    let want = LEAST.max(8 * cache);
    let size = free.map_or(want, |free| want.min(free / 2)) / piece * piece;
    if size < 4 * cache {
        bail!(
            "measuring memory takes a buffer of four times the last cache, {}, but only {} are free",
            human_bytes(4 * cache),
            human_bytes(free.unwrap_or(0))
        );
    }
    Ok(size)
}

/// The figures of a gang, and how many bytes of the buffer were in 2 MiB pages.
fn all(gang: &mut Gang, bytes: usize, repeats: u32) -> (At, Option<u64>) {
    let (read, huge) = memory(gang, bytes, repeats);
    let f32 = arithmetic(gang, kernels::f32(), "GFLOP/s", repeats);
    let bf16 = kernels::bf16().map(|k| arithmetic(gang, k, "GFLOP/s", repeats));
    let int8 = arithmetic(gang, kernels::int8(), "GOP/s", repeats);
    (At { threads: gang.threads(), pinned: gang.pinned, read, f32, bf16, int8 }, huge)
}

fn memory(gang: &mut Gang, bytes: usize, repeats: u32) -> (Figure, Option<u64>) {
    let before = machine::huge_pages();
    let buffer = Buffer::zeroed(bytes);
    let (kernel, n) = (kernels::read(), gang.threads());
    let share = |i: usize| bytes / PIECE * i / n * PIECE..bytes / PIECE * (i + 1) / n * PIECE;
    // The thread that reads a part writes it first, so that its pages are near.
    gang.time(|i| {
        // SAFETY: the shares are disjoint parts of the buffer, which nobody else uses.
        unsafe { std::ptr::write_bytes(buffer.ptr().add(share(i).start), 1, share(i).len()) };
    });
    let huge = machine::huge_pages().zip(before).map(|(after, before)| after.saturating_sub(before).min(bytes as u64));
    let mut pass = |passes: u32| {
        gang.time(|i| {
            for _ in 0..passes {
                std::hint::black_box(kernel.run(&buffer.bytes()[share(i)]));
            }
        })
    };
    let passes = rounds_for(SPAN, pass(1), 1) as u32;
    let rounds = (0..repeats).map(|_| f64::from(passes) * bytes as f64 / pass(passes).as_secs_f64() * 1e-9).collect();
    (Figure { rounds, ..Figure::new("GB/s", Better::Higher) }, huge)
}

fn arithmetic(gang: &mut Gang, kernel: Peak, unit: &str, repeats: u32) -> Figure {
    let threads = gang.threads() as f64;
    let mut time = |rounds: u64| {
        gang.time(|_| {
            std::hint::black_box(kernel.run(rounds));
        })
    };
    // Long enough for the clock to settle, and for a first guess of the speed.
    let mut rounds = 1 << 16;
    let mut took = time(rounds);
    while took < SPAN / 4 {
        rounds *= 2;
        took = time(rounds);
    }
    let rounds = rounds_for(SPAN, took, rounds);
    time(rounds);
    let values = (0..repeats).map(|_| threads * kernel.ops(rounds) / time(rounds).as_secs_f64() * 1e-9).collect();
    Figure { rounds: values, ..Figure::new(unit, Better::Higher) }
}

/// How many rounds fill `span`, when `rounds` of them took so long.
fn rounds_for(span: Duration, took: Duration, rounds: u64) -> u64 {
    ((span.as_secs_f64() / took.as_secs_f64().max(1e-9) * rounds as f64).ceil() as u64).max(1)
}

/// Bytes of the last cache, where the system tells.
pub fn last_cache() -> Option<u64> {
    let dir = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |d: std::fs::DirEntry| cache_size(&std::fs::read_to_string(d.path().join("size")).ok()?);
    dir.filter_map(|d| size(d.ok()?)).max()
}

/// `32768K` and the like.
fn cache_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1u64 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// 1 and what a team has of itself, or what was asked for.
///
/// # Errors
/// When there are not so many processors.
pub fn thread_counts(asked: &[u32]) -> anyhow::Result<Vec<usize>> {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts: Vec<usize> = asked.iter().map(|&n| n as usize).collect();
    if counts.is_empty() {
        counts = vec![1, rlx_cpu::tuning::threads(rlx_cpu::Level::detect())];
    }
    counts.sort_unstable();
    counts.dedup();
    match counts.last() {
        Some(&n) if n > most => Err(Usage(format!("--threads {n}: this process may use {most} processors")).into()),
        _ => Ok(counts),
    }
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let counts = thread_counts(&args.threads)?;
    let limits = measure(&counts, args.repeat, &Notes::new(args.output.quiet))?;
    let mut capsule = Capsule::new("limits");
    limits.record(&mut capsule);
    args.output.finish(&capsule, || limits.table())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_much_larger_than_the_last_cache_or_refused() {
        assert_eq!(buffer_bytes(Some(32 << 20), None).unwrap(), 512 << 20);
        assert_eq!(buffer_bytes(Some(256 << 20), Some(64 << 30)).unwrap(), 2 << 30);
        assert_eq!(buffer_bytes(Some(32 << 20), Some(600 << 20)).unwrap(), 300 << 20);
        let why = buffer_bytes(Some(256 << 20), Some(1 << 30)).unwrap_err().to_string();
        assert!(why.contains("1.0 GiB") && why.contains("four times the last cache"), "{why}");
    }

    #[test]
    fn sizes_of_caches_are_read() {
        assert_eq!(["32768K\n", "8M", "64", "1G"].map(cache_size), [Some(32 << 20), Some(8 << 20), Some(64), Some(1 << 30)]);
        assert_eq!(["", "K", "12X", "99999999999999999999K"].map(cache_size), [None; 4]);
    }

    #[test]
    fn threads_beyond_the_processors_are_refused() {
        assert!(thread_counts(&[4096]).unwrap_err().to_string().contains("processors"));
        assert_eq!(thread_counts(&[1, 1]).unwrap(), [1]);
        assert_eq!(thread_counts(&[]).unwrap()[0], 1);
    }

    #[test]
    fn figures_are_measured_and_shown() {
        let (at, _) = Gang::with(1, |gang| all(gang, 4 << 20, 3)).unwrap();
        assert_eq!(at.figures().filter(|(_, f)| f.rounds.len() == 3 && f.range().0 > 0.0).count(), at.figures().count());
        assert_eq!(at.bf16.is_some(), kernels::bf16().is_some());
        let limits = Limits { at: vec![at], buffer_bytes: 4 << 20, huge_bytes: Some(2 << 20) };
        assert!(limits.at(1).is_some() && limits.at(2).is_none());
        let table = limits.table();
        assert!(table.contains("4.0 MiB, 2.0 MiB of them in 2 MiB pages") && table.lines().count() >= 5, "{table}");
        let mut capsule = Capsule::new("limits");
        limits.record(&mut capsule);
        assert!(["read", "f32", "int8"].iter().all(|n| capsule.get(&format!("limit {n} t1")).is_some()), "{}", capsule.text());
        assert_eq!(capsule.notes["limits"]["buffer_bytes"], 4 << 20);
    }
}
