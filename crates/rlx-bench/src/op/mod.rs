//! `rlx-bench op`: one op at sizes of real models, and how far it is from what the machine could do.

mod graph;
pub mod linear;
pub mod shape;
mod timing;

use crate::capsule::{Better, Capsule, Figure, Output};
use crate::limits::{self, At, Limits};
use anyhow::Context;
use rlx_cli::Usage;
use rlx_cli::term::{Notes, rate};
use rlx_cpu::matmul::Mode;
use rlx_cpu::team::Team;
use rlx_cpu::{Cpu, Level, Options};
use serde_json::json;
use shape::Shape;
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  rlx-bench op --list
  rlx-bench op linear --format q4_k,bf16 --rows 1,128
  rlx-bench op linear --shape 2560x9728 --format q8_0 --rows 512 --threads 2 --out before.json
  rlx-bench op attention --shape qwen3-4b --rows 1,512 --context 8192
  rlx-bench op barrier --threads 2

linear m4 is a product with 4 rows of activations: 1 is decoding, many are a prompt.  GB/s are bytes of weights (of keys
and values) per second, as they are held in memory; GOP/s count a multiplication and an addition as two.  The share is
of the time that the machine takes at least, by the limits measured before: to read the bytes, or to do the operations
with the best instruction for the format, whichever is longer.  Small ops have no such limit: they are what calls and
barriers cost.
";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The op; --list names them
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Name the ops
    #[arg(long)]
    list: bool,
    /// Sizes: qwen3-0.6b, qwen3-4b, or one matrix of K elements to N; may be repeated
    #[arg(long, value_name = "MODEL|KxN", value_delimiter = ',', default_value = "qwen3-0.6b")]
    shape: Vec<Shape>,
    /// Weight formats of linear; the usual ones unless given
    #[arg(long, value_name = "NAME,…|all", value_delimiter = ',')]
    format: Vec<String>,
    /// Rows of activations: new tokens of one call
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1,4,16,128,512", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    rows: Vec<u32>,
    /// Tokens cached before, of attention
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "0,2048,8192", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    context: Vec<u32>,
    /// Numbers of threads; 1 and one per physical core unless given
    #[arg(long, short, value_name = "N,N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Vec<u32>,
    /// Instruction set; the best one unless given
    #[arg(long, value_name = "LEVEL")]
    simd: Option<Level>,
    /// Multiply as profile exact does: nothing is quantised
    #[arg(long)]
    exact: bool,
    /// Measurements of each
    #[arg(long, short, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Do not measure the machine's limits, and tell no shares of them
    #[arg(long)]
    no_limits: bool,
    #[command(flatten)]
    output: Output,
}

/// Which arithmetic an op is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peak {
    F32,
    Bf16,
    Int8,
}

/// What a call does at least.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Bytes it reads (and writes, of small ops).
    pub bytes: f64,
    /// Operations.
    pub ops: f64,
    /// What limits its arithmetic.
    pub peak: Option<Peak>,
    /// Whether the bytes come from memory, not from a cache.
    pub memory: bool,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub threads: usize,
    /// Seconds per call, of each round.
    pub seconds: Vec<f64>,
    pub work: Work,
}

impl Work {
    /// The least seconds it takes on a machine of these limits, and what they go to.
    fn least(&self, at: &At) -> Option<(f64, &'static str)> {
        let read = self.memory.then(|| (self.bytes / (at.read.median() * 1e9), "memory"));
        let arithmetic = self.peak.map(|p| {
            let (peak, name) = match p {
                Peak::F32 => (&at.f32, "f32"),
                Peak::Bf16 if at.bf16.is_some() => (at.bf16_or_f32(), "bf16"),
                Peak::Bf16 => (at.bf16_or_f32(), "f32"),
                Peak::Int8 => (&at.int8, "int8"),
            };
            (self.ops / (peak.median() * 1e9), name)
        });
        [read, arithmetic].into_iter().flatten().max_by(|a, b| a.0.total_cmp(&b.0))
    }
}

impl Row {
    fn figure(&self) -> Figure {
        Figure { rounds: self.seconds.clone(), ..Figure::new("s", Better::Lower) }
    }

    /// Share of the limit, from 0 to 1, and which it is.
    fn share(&self, limits: Option<&Limits>) -> Option<(f64, &'static str)> {
        let (least, what) = self.work.least(limits?.at(self.threads)?)?;
        Some((least / self.figure().median(), what))
    }

    /// Time, rates and share.
    fn line(&self, limits: Option<&Limits>) -> [String; 5] {
        let f = self.figure();
        let (median, (low, high)) = (f.median(), f.range());
        let per_second = |n: f64| if n > 0.0 { rate(n / median * 1e-9) } else { "-".into() };
        let share = self.share(limits).map_or("-".into(), |(s, what)| format!("{:.0} % of {what}", 100.0 * s));
        let time = format!("{} ({} to {})", time(median), time(low), time(high));
        [self.name.clone(), time, per_second(self.work.bytes), per_second(self.work.ops), share]
    }
}

/// `1.23 ms`.
fn time(seconds: f64) -> String {
    let (v, unit) = match seconds {
        s if s < 999.5e-9 => (s * 1e9, "ns"),
        s if s < 999.5e-6 => (s * 1e6, "us"),
        s if s < 0.9995 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    match v {
        v if v < 9.995 => format!("{v:.2} {unit}"),
        v if v < 99.95 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

const HEADINGS: [&str; 5] = ["op", "time per call", "GB/s", "GOP/s", "share of the limit"];

/// The ops and what they are.
fn list() -> String {
    let own = [
        ("linear", "products with weights of every format"),
        ("attention", "new tokens over themselves and a cache"),
        ("barrier", "threads that meet"),
    ];
    let all = own.into_iter().chain(graph::SMALL.iter().map(|s| (s.name, s.what)));
    all.map(|(name, what)| format!("{name:<14} {what}\n")).collect()
}

pub fn run(args: &Args) -> anyhow::Result<u8> {
    let Some(name) = args.name.as_deref().filter(|_| !args.list) else {
        write!(io::stdout().lock(), "{}", list())?;
        return Ok(0);
    };
    let notes = Notes::new(args.output.quiet);
    let threads = limits::thread_counts(&args.threads)?;
    let plan = Plan::new(name, args)?;
    let limits = match args.no_limits || name == "barrier" {
        true => None,
        false => Some(limits::measure(&threads, limits::REPEATS, &notes)?),
    };
    let mut capsule = Capsule::new("op");
    limits.iter().for_each(|l| l.record(&mut capsule));
    let mut lines = vec![];
    plan.measure(args, &threads, &notes, &mut |row| {
        let line = row.line(limits.as_ref());
        notes.say(format_args!("{}  {}  {}", line[0], line[1], line[4]));
        let of = row.share(limits.as_ref());
        let all = capsule.notes.entry("work").or_insert_with(|| json!({}));
        all[&row.name] = json!({ "bytes": row.work.bytes, "ops": row.work.ops, "share": of.map(|s| s.0), "limit": of.map(|s| s.1) });
        capsule.figures.push((row.name.clone(), row.figure()));
        lines.push(line);
    })?;
    args.output.finish(&capsule, || {
        let limits: String = limits.iter().map(|l| l.table() + "\n").collect();
        limits + &table(&lines)
    })?;
    Ok(0)
}

fn table(lines: &[[String; 5]]) -> String {
    let width = |i: usize| lines.iter().map(|l| l[i].len()).chain([HEADINGS[i].len()]).max().unwrap_or(0);
    let show = |l: [&str; 5]| {
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
        let text = format!("{:<a$}  {:>b$}  {:>c$}  {:>d$}  {:>e$}", l[0], l[1], l[2], l[3], l[4]);
        format!("{}\n", text.trim_end())
    };
    std::iter::once(show(HEADINGS)).chain(lines.iter().map(|l| show(l.each_ref().map(String::as_str)))).collect()
}

/// What is to be measured, of which everything exists.
enum Plan {
    Linear(Vec<linear::Format>),
    Attention(Vec<shape::Decoder>),
    Small(&'static graph::Small, Vec<shape::Decoder>),
    Barrier,
}

impl Plan {
    fn new(name: &str, args: &Args) -> anyhow::Result<Plan> {
        let decoders = || args.shape.iter().map(Shape::decoder).collect::<Option<Vec<_>>>();
        let decoders = || decoders().ok_or_else(|| Usage(format!("--shape: {name} takes the name of a model, not a matrix")));
        Ok(match name {
            "linear" => Plan::Linear(linear::formats(&args.format)?),
            "attention" => Plan::Attention(decoders()?),
            "barrier" => Plan::Barrier,
            _ => match graph::SMALL.iter().find(|s| s.name == name) {
                Some(small) => Plan::Small(small, decoders()?),
                None => return Err(Usage(format!("there is no op {name}; there are\n{}", list())).into()),
            },
        })
    }

    fn measure(&self, args: &Args, threads: &[usize], notes: &Notes, out: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
        let rows: Vec<usize> = args.rows.iter().map(|&n| n as usize).collect();
        match self {
            Plan::Linear(formats) => linears(formats, args, &rows, threads, notes, out),
            Plan::Barrier => threads.iter().try_for_each(|&n| barrier(n, args.rounds).map(&mut *out)),
            Plan::Attention(decoders) => on_cpus(args, threads, &mut |cpu| {
                for d in decoders {
                    for (past, m) in args.context.iter().flat_map(|c| rows.iter().map(move |m| (*c as usize, *m))) {
                        out(graph::attention(cpu, d, m, past, args.rounds)?);
                    }
                }
                Ok(())
            }),
            Plan::Small(op, decoders) => on_cpus(args, threads, &mut |cpu| {
                let all = decoders.iter().flat_map(|d| rows.iter().map(move |m| (d, *m)));
                all.into_iter().try_for_each(|(d, m)| graph::small(cpu, op, d, m, args.rounds).map(&mut *out))
            }),
        }
    }
}

/// Most rows that the output head is measured with.
const HEAD_ROWS: usize = 16;

fn linears(
    formats: &[linear::Format],
    args: &Args,
    rows: &[usize],
    threads: &[usize],
    notes: &Notes,
    out: &mut dyn FnMut(Row),
) -> anyhow::Result<()> {
    let level = available(args)?;
    let mode = if args.exact { Mode::Exact } else { Mode::Fast };
    let few: Vec<usize> = rows.iter().copied().filter(|m| *m <= HEAD_ROWS).collect();
    for format in formats {
        for m in args.shape.iter().flat_map(Shape::matrices) {
            if !m.k.is_multiple_of(format.block_len()) {
                notes.say(format_args!("skipped {} {}x{}: rows are no multiple of {}", format.name(), m.k, m.n, format.block_len()));
                continue;
            }
            let rows = if m.head { &few } else { rows };
            if !rows.is_empty() {
                let setting = linear::Setting { level, mode, rows, threads, rounds: args.rounds };
                linear::measure(*format, m, &setting, out)?;
            }
        }
    }
    Ok(())
}

/// The instruction set asked for.
fn available(args: &Args) -> anyhow::Result<Level> {
    let level = args.simd.unwrap_or_else(Level::detect);
    if !level.is_available() {
        return Err(Usage(format!("--simd {level}: this processor has {} at best", Level::detect())).into());
    }
    Ok(level)
}

fn on_cpus(args: &Args, threads: &[usize], each: &mut dyn FnMut(&Cpu) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let level = available(args)?;
    threads
        .iter()
        .try_for_each(|&threads| each(&Cpu::new(Options { threads, level: Some(level), exact: args.exact, eager: true, blocks: None })?))
}

/// The time of one barrier.
fn barrier(threads: usize, rounds: u32) -> anyhow::Result<Row> {
    let mut team = Team::new(threads).with_context(|| format!("cannot start {threads} threads"))?;
    let seconds = timing::usual(rounds, |calls| {
        team.run(&|_, b| (0..calls).for_each(|_| b.wait()));
        Ok(())
    })?;
    let work = Work { bytes: 0.0, ops: 0.0, peak: None, memory: false };
    Ok(Row { name: format!("barrier t{threads}"), threads, seconds, work })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    fn rows(words: &[&str]) -> anyhow::Result<Vec<Row>> {
        let always = ["op", "--rounds", "1", "--threads", "1"];
        let args = Alone::try_parse_from(always.iter().chain(words))?.args;
        let mut all = vec![];
        let plan = Plan::new(args.name.as_deref().unwrap_or_default(), &args)?;
        plan.measure(&args, &[1], &Notes::new(true), &mut |row| all.push(row))?;
        Ok(all)
    }

    #[test]
    fn every_kind_of_op_is_measured_at_small_sizes() {
        let linear = rows(&["linear", "--shape", "64x24", "--format", "q8_0,q4_k,f32", "--rows", "1,3"]).unwrap();
        let names: Vec<&str> = linear.iter().map(|r| r.name.as_str()).collect();
        // Rows of 64 are no whole blocks of Q4_K.
        assert_eq!(names, ["linear q8_0 64x24 m1 t1", "linear q8_0 64x24 m3 t1", "linear f32 64x24 m1 t1", "linear f32 64x24 m3 t1"]);
        assert_eq!((linear[3].work.bytes, linear[3].work.ops), (4.0 * 64.0 * 24.0, 2.0 * 64.0 * 24.0 * 3.0));
        let attention = rows(&["attention", "--rows", "2", "--context", "0,70"]).unwrap();
        assert_eq!(attention[1].work.ops, 4.0 * 143.0 * 2048.0);
        let small = rows(&["rms_norm", "--rows", "1"]).unwrap();
        let barrier = rows(&["barrier"]).unwrap();
        let all = [linear, attention, small, barrier].concat();
        assert!(all.iter().all(|r| r.seconds.len() == 1 && r.seconds[0] > 0.0), "{all:?}");
    }

    #[test]
    fn every_op_of_the_list_exists() {
        for line in list().lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            assert!(Plan::new(name, &Alone::try_parse_from(["op", name]).unwrap().args).is_ok(), "{name}");
        }
        assert!(rows(&["liner"]).unwrap_err().to_string().contains("linear"));
        assert!(rows(&["rope", "--shape", "8x8"]).unwrap_err().to_string().contains("model"));
        assert!(Alone::try_parse_from(["op"]).is_err() && Alone::try_parse_from(["op", "--list"]).is_ok());
    }

    #[test]
    fn the_limit_is_whatever_takes_longer() {
        let figure = |v: f64| Figure { rounds: vec![v], ..Figure::new("", Better::Higher) };
        let at = At { threads: 1, pinned: true, read: figure(10.0), f32: figure(100.0), bf16: None, int8: figure(200.0) };
        let work = |bytes, ops, peak| Work { bytes, ops, peak: Some(peak), memory: true };
        assert_eq!(work(1e9, 1e9, Peak::Int8).least(&at), Some((0.1, "memory")));
        assert_eq!(work(1e9, 40e9, Peak::Int8).least(&at), Some((0.2, "int8")));
        assert_eq!(work(1e9, 40e9, Peak::Bf16).least(&at), Some((0.4, "f32")));
        assert_eq!(Work { bytes: 1.0, ops: 1.0, peak: None, memory: false }.least(&at), None);
        let limits = Limits { at: vec![at], buffer_bytes: 1, huge_bytes: None };
        let row = Row { name: "x".into(), threads: 1, seconds: vec![0.2], work: work(1e9, 0.0, Peak::F32) };
        assert_eq!(row.line(Some(&limits)).map(|s| s.to_string()), ["x", "200 ms (200 ms to 200 ms)", "5.0", "-", "50 % of memory"]);
        let text = table(&[row.line(None)]);
        assert!(text.lines().count() == 2 && text.ends_with("-\n"), "{text}");
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        assert_eq!([5e-8, 1.234e-6, 99.99e-6, 0.5, 12.0].map(time), ["50.0 ns", "1.23 us", "100 us", "500 ms", "12.0 s"]);
    }
}
