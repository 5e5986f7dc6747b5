//! `rlx-bench tune`: block sizes and threads that suit this machine better than what the CPU backend would take.

use crate::capsule::noise;
use crate::limits;
use crate::machine;
use crate::op::linear::{Bench, Format, formats};
use crate::op::shape::{Matrix, Shape};
use anyhow::Context;
use rlx_cli::Usage;
use rlx_cli::term::Notes;
use rlx_cpu::Level;
use rlx_cpu::matmul::Mode;
use rlx_cpu::tuning::{self, Blocks};
use rlx_lm::bench::median;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  rlx-bench tune --out tuned.toml
  rlx-run auto WEIGHTS --prompt Hi --profile tuned.toml --explain

Measures products of a dense and of a quantised weight at sizes of a model: a prompt in blocks of other sizes than the
default, then decoding and a prompt with other numbers of threads.  Each candidate takes turns with the best so far,
A B A B.  One that wins by less than twice the noise of the turns, or by less than 2 %, changes nothing; what won is
measured once more against the defaults and written as a profile.  With --out the profile goes to a file, else to
stdout.  The machine should be idle.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Sizes: qwen3-0.6b, qwen3-4b, or one matrix of K elements to N
    #[arg(long, value_name = "MODEL|KxN", default_value = "qwen3-0.6b")]
    shape: Shape,
    /// Weight formats, a dense one and a quantised one
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "bf16,q4_k")]
    format: Vec<String>,
    /// Rows of a prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 16))]
    rows: u32,
    /// Numbers of threads to try; 1, 2, 4, … up to all processors unless given
    #[arg(long, short, value_name = "N,N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Vec<u32>,
    /// Turns of each comparison
    #[arg(long, short, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Write the profile
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Nothing on stderr but errors
    #[arg(long, short)]
    quiet: bool,
}

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    blocks: Blocks,
    threads: usize,
}

/// The least gain that counts.
const FLOOR: f64 = 0.02;

/// Times of a candidate over times of what it competes with, turn by turn.
#[derive(Clone, Debug)]
struct Ratios(Vec<f64>);

impl Ratios {
    fn median(&self) -> f64 {
        median(&self.0)
    }

    /// How far turns scatter about their median, as a standard deviation.
    fn noise(&self) -> f64 {
        noise(&self.0)
    }

    fn wins(&self) -> bool {
        1.0 - self.median() > FLOOR.max(2.0 * self.noise())
    }

    fn told(&self) -> String {
        format!("{:.3} of the time, noise {:.3}", self.median(), self.noise())
    }
}

/// A product that is measured.
#[derive(Clone, Copy)]
struct Load {
    bench: usize,
    rows: usize,
}

struct Tuner<'a> {
    benches: Vec<Bench>,
    rounds: u32,
    notes: &'a Notes,
}

impl Tuner<'_> {
    /// `b` against `a`: each turn's geometric mean over the products.
    fn compare(&self, loads: &[Load], a: Choice, b: Choice) -> anyhow::Result<Ratios> {
        let time = |l: &Load, c: Choice| -> anyhow::Result<f64> {
            let seconds = self.benches[l.bench].seconds(c.threads, l.rows, Some(c.blocks), 1)?;
            seconds.first().copied().context("no round was measured")
        };
        let turn = |i: u32| -> anyhow::Result<f64> {
            let mut log = 0.0;
            for l in loads {
                // Who goes first takes turns, too.
                let (ta, tb) = if i.is_multiple_of(2) {
                    let ta = time(l, a)?;
                    (ta, time(l, b)?)
                } else {
                    let tb = time(l, b)?;
                    (time(l, a)?, tb)
                };
                log += (tb / ta).ln();
            }
            Ok((log / loads.len().max(1) as f64).exp())
        };
        Ok(Ratios((0..self.rounds).map(turn).collect::<anyhow::Result<_>>()?))
    }

    /// The best of `now` and the candidates.
    fn best(&self, what: &str, loads: &[Load], now: Choice, candidates: &[(String, Choice)]) -> anyhow::Result<Choice> {
        let mut best = now;
        for (name, c) in candidates.iter().filter(|c| c.1 != now) {
            let ratios = self.compare(loads, best, *c)?;
            let verdict = if ratios.wins() { "better" } else { "no better" };
            self.notes.say(format_args!("{what} {name}: {}: {verdict}", ratios.told()));
            if ratios.wins() {
                best = *c;
            }
        }
        Ok(best)
    }
}

/// Half to four times a size, within what can be asked for.
fn around(bytes: usize) -> impl Iterator<Item = usize> {
    [bytes / 2, bytes * 2, bytes * 4].into_iter().filter(|b| Blocks::BYTES.contains(b))
}

/// Powers of two, and all.
fn thread_candidates(asked: &[u32]) -> anyhow::Result<Vec<usize>> {
    if !asked.is_empty() {
        return limits::thread_counts(asked);
    }
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<usize> = std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < most).chain([most]).collect();
    all.push(tuning::threads(Level::detect()));
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The largest matrix of a layer.
fn largest(shape: &Shape) -> Option<Matrix> {
    shape.matrices().into_iter().filter(|m| !m.head).max_by_key(|m| m.k * m.n)
}

/// The profile of what differs from the defaults, with what it gained.
fn profile(usual: Choice, best: Choice, gained: Option<&Ratios>, machine: &str) -> String {
    let mut t = format!("# Written by rlx-bench tune on {machine}.\n");
    match gained {
        Some(r) => t += &format!("# Takes {} of the defaults.\n", r.told()),
        None => t += "# Nothing was better than the defaults by more than the noise.\n",
    }
    let all = [
        ("threads", usual.threads, best.threads),
        ("act_block_kib", usual.blocks.act >> 10, best.blocks.act >> 10),
        ("weight_block_kib", usual.blocks.weight >> 10, best.blocks.weight >> 10),
    ];
    for (key, usual, best) in all.into_iter().filter(|(_, usual, best)| usual != best) {
        t += &format!("{key} = {best} # {usual} otherwise\n");
    }
    t
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let notes = Notes::new(args.quiet);
    let formats = formats(&args.format)?;
    let matrix = largest(&args.shape).context("the shape has no matrix")?;
    if let Some(f) = formats.iter().find(|f| !matrix.k.is_multiple_of(f.block_len())) {
        return Err(Usage(format!("--shape: rows of {} are no whole blocks of {}", matrix.k, f.name())).into());
    }
    let candidates = thread_candidates(&args.threads)?;
    let level = Level::detect();
    let usual = Choice { blocks: Blocks::of(level), threads: tuning::threads(Level::detect()) };
    let bench = |f: &Format| Bench::new(*f, matrix, level, Mode::Fast, usual.threads);
    let tuner = Tuner { benches: formats.iter().map(bench).collect::<anyhow::Result<_>>()?, rounds: args.rounds, notes: &notes };
    let (best, gained) = search(&tuner, usual, &candidates, args.rows as usize)?;

    let cpu = machine::describe();
    let text = profile(usual, best, gained.as_ref(), cpu["cpu"].as_str().unwrap_or("an unknown processor"));
    match &args.out {
        None => write!(io::stdout().lock(), "{text}")?,
        Some(path) => {
            std::fs::write(path, &text).with_context(|| format!("{}: cannot be written", path.display()))?;
            let told = gained.map_or("nothing was better than the defaults".into(), |r| format!("{} of the defaults", r.told()));
            writeln!(io::stdout().lock(), "{}: {told}", path.display())?;
        }
    }
    Ok(0)
}

/// What is best, and how it compares with the defaults where it is not these.
fn search(tuner: &Tuner<'_>, usual: Choice, threads: &[usize], rows: usize) -> anyhow::Result<(Choice, Option<Ratios>)> {
    let of = |rows: usize| (0..tuner.benches.len()).map(move |bench| Load { bench, rows });
    let prompt: Vec<Load> = of(rows).collect();
    let both: Vec<Load> = of(1).chain(of(rows)).collect();
    let named = |kib: usize, blocks: Blocks, from: Choice| (format!("{} KiB", kib >> 10), Choice { blocks, ..from });
    let mut best = usual;
    let acts: Vec<_> = around(best.blocks.act).map(|act| named(act, Blocks { act, ..best.blocks }, best)).collect();
    best = tuner.best("blocks of activations of", &prompt, best, &acts)?;
    let weights: Vec<_> = around(best.blocks.weight).map(|weight| named(weight, Blocks { weight, ..best.blocks }, best)).collect();
    best = tuner.best("blocks of weights of", &prompt, best, &weights)?;
    let counts: Vec<_> = threads.iter().map(|&threads| (threads.to_string(), Choice { threads, ..best })).collect();
    best = tuner.best("threads:", &both, best, &counts)?;
    if best == usual {
        return Ok((usual, None));
    }
    let ratios = tuner.compare(&both, usual, best)?;
    tuner.notes.say(format_args!("all together, against the defaults: {}", ratios.told()));
    // A prompt alone may have gained what both together do not show.
    let kept = ratios.wins() || best.threads == usual.threads && tuner.compare(&prompt, usual, best)?.wins();
    Ok(if kept { (best, Some(ratios)) } else { (usual, None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlx_compile::Profile;
    use std::path::Path;

    const USUAL: Choice = Choice { blocks: Blocks { act: 256 << 10, weight: 128 << 10 }, threads: 2 };

    #[test]
    fn a_candidate_wins_only_beyond_the_noise() {
        assert!(Ratios(vec![0.95, 0.951, 0.949]).wins());
        assert!(!Ratios(vec![0.985, 0.986, 0.984]).wins(), "less than 2 %");
        assert!(!Ratios(vec![0.9, 0.99, 0.8, 1.1, 0.94]).wins(), "noisy");
        assert!(!Ratios(vec![1.2, 1.2, 1.2]).wins());
    }

    #[test]
    fn a_written_profile_loads_and_says_what_changed() {
        let best = Choice { blocks: Blocks { act: 1 << 20, ..USUAL.blocks }, threads: 1 };
        let text = profile(USUAL, best, Some(&Ratios(vec![0.9; 3])), "a processor");
        let p = Profile::from_toml_over(Profile::default(), &text, Path::new("tuned.toml")).unwrap();
        assert_eq!((p.threads, p.act_block_kib, p.weight_block_kib), (1, 1024, 0), "{text}");
        let none = profile(USUAL, USUAL, None, "a processor");
        assert_eq!(Profile::from_toml_over(Profile::default(), &none, Path::new("x")).unwrap(), Profile::default());
    }

    #[test]
    fn every_candidate_is_one_that_a_profile_takes() {
        let ends = [*Blocks::BYTES.start(), *Blocks::BYTES.end(), 256 << 10];
        for bytes in ends.into_iter().flat_map(around) {
            let best = Choice { blocks: Blocks { act: bytes, weight: bytes }, threads: 1 };
            let text = profile(USUAL, best, None, "");
            assert!(Profile::from_toml_over(Profile::default(), &text, Path::new("x")).is_ok(), "{text}");
        }
        assert_eq!(thread_candidates(&[1]).unwrap(), [1]);
        assert!(thread_candidates(&[]).unwrap().contains(&tuning::threads(Level::detect())));
    }

    #[test]
    fn a_search_at_small_sizes_ends_with_something_valid() {
        let format = formats(&["q8_0".into()]).unwrap()[0];
        let matrix = Matrix { k: 64, n: 40, head: false };
        let usual = Choice { threads: 1, ..USUAL };
        let notes = Notes::new(true);
        let benches = vec![Bench::new(format, matrix, Level::detect(), Mode::Fast, 1).unwrap()];
        let tuner = Tuner { benches, rounds: 3, notes: &notes };
        let (best, gained) = search(&tuner, usual, &[1], 4).unwrap();
        assert_eq!(best == usual, gained.is_none());
        assert!(Blocks::BYTES.contains(&best.blocks.act) && Blocks::BYTES.contains(&best.blocks.weight));
    }
}
