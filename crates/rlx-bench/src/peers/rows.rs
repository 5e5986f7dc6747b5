//! Rows of a capsule of peers: one test of one file at one number of threads, all engines.

use crate::capsule::{Better, Capsule, Figure};
use rlx_cli::term::{human_bytes, rate};
use rlx_lm::bench::median;

/// The figure of one engine is named by model, threads, test and engine.
pub fn figure_name(model: &str, threads: usize, test: &str, engine: &str) -> String {
    format!("{model}/{threads}t/{test}/{engine}")
}

/// This engine and the peer's better setting.
pub struct Row<'c> {
    pub model: &'c str,
    pub threads: &'c str,
    pub test: &'c str,
    pub rlx: &'c Figure,
    pub peer: &'c Figure,
    /// The peer's name and setting.
    pub setting: &'c str,
    /// Median over rounds of how many times better rlx is: above 1 it is faster, or smaller.
    pub ratio: f64,
    /// Lowest and highest round.
    pub spread: (f64, f64),
}

/// Model, threads, test, engine.
fn parts(name: &str) -> Option<[&str; 4]> {
    let mut parts = name.rsplitn(4, '/');
    let (engine, test, threads, model) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some([model, threads.strip_suffix('t')?, test, engine])
}

/// True when `a` is the better of two medians.
fn beats(a: &Figure, b: &Figure) -> bool {
    match a.better {
        Better::Higher => a.median() > b.median(),
        Better::Lower => a.median() < b.median(),
    }
}

/// Every row that both engines have, in the order of the capsule.
pub fn rows(c: &Capsule) -> Vec<Row<'_>> {
    let mut rows = vec![];
    for (name, rlx) in &c.figures {
        let Some([model, threads, test, "rlx"]) = parts(name) else { continue };
        let mut best: Option<(&str, &Figure)> = None;
        for (other, figure) in &c.figures {
            let Some([m, t, k, engine]) = parts(other) else { continue };
            if (m, t, k) == (model, threads, test) && engine != "rlx" && best.is_none_or(|b| beats(figure, b.1)) {
                best = Some((engine, figure));
            }
        }
        let Some((setting, peer)) = best else { continue };
        // Rounds belong together unless they were added with other settings.
        let ratios: Vec<f64> = match rlx.rounds.len() == peer.rounds.len() {
            true => rlx.rounds.iter().zip(&peer.rounds).map(|(a, b)| ratio(rlx.better, *a, *b)).collect(),
            false => vec![ratio(rlx.better, rlx.median(), peer.median())],
        };
        let spread = ratios.iter().fold((f64::INFINITY, 0.0f64), |(l, h), r| (l.min(*r), h.max(*r)));
        rows.push(Row { model, threads, test, rlx, peer, setting, ratio: median(&ratios), spread });
    }
    rows
}

/// Figures of this engine that no peer has: model, threads, test, figure.
pub fn alone(c: &Capsule) -> Vec<(&str, &str, &str, &Figure)> {
    let with_peer = rows(c);
    let mut found = vec![];
    for (name, figure) in &c.figures {
        let Some([model, threads, test, "rlx"]) = parts(name) else { continue };
        if !with_peer.iter().any(|r| (r.model, r.threads, r.test) == (model, threads, test)) {
            found.push((model, threads, test, figure));
        }
    }
    found
}

fn ratio(better: Better, rlx: f64, peer: f64) -> f64 {
    match better {
        Better::Higher => rlx / peer,
        Better::Lower => peer / rlx,
    }
}

/// A value with its unit, short.
pub fn value(unit: &str, v: f64) -> String {
    match unit {
        "tok/s" => format!("{} tok/s", rate(v)),
        "s" => format!("{} s", digits(v)),
        "B" => human_bytes(v as u64),
        _ => format!("{} {unit}", digits(v)),
    }
}

/// Three digits.
pub fn digits(v: f64) -> String {
    match v.abs() {
        a if a >= 99.95 => format!("{v:.0}"),
        a if a >= 9.995 => format!("{v:.1}"),
        a if a >= 0.9995 || a == 0.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

impl Row<'_> {
    pub fn spread_text(&self) -> String {
        format!("{:.2} to {:.2}", self.spread.0, self.spread.1)
    }
}

/// A table per file and number of threads.
pub fn table(c: &Capsule) -> String {
    let (mut t, mut of) = (String::new(), ("", ""));
    for r in rows(c) {
        if (r.model, r.threads) != of {
            of = (r.model, r.threads);
            let s = if r.threads == "1" { "" } else { "s" };
            t += &format!("{}, {} thread{s}, {} rounds\n", r.model, r.threads, r.rlx.rounds.len());
            t += &format!("  {:<12} {:>14} {:>14} {:>7}   {:<14} llama.cpp as\n", "", "rlx", "llama.cpp", "ratio", "");
        }
        let (rlx, peer) = (value(&r.rlx.unit, r.rlx.median()), value(&r.peer.unit, r.peer.median()));
        t += &format!("  {:<12} {rlx:>14} {peer:>14} {:>7.2}   {:<14} {}\n", r.test, r.ratio, r.spread_text(), r.setting);
    }
    of = ("", "");
    for (model, threads, test, f) in alone(c) {
        if (model, threads) != of {
            of = (model, threads);
            let s = if threads == "1" { "" } else { "s" };
            t += &format!("{model}, {threads} thread{s}, {} rounds, rlx alone\n", f.rounds.len());
        }
        t += &format!("  {test:<12} {:>14}\n", value(&f.unit, f.median()));
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capsule() -> Capsule {
        let mut c = Capsule::new("peers");
        for (engine, rates) in [("rlx", [10.0, 20.0, 30.0]), ("llama.cpp", [8.0, 8.0, 8.0]), ("llama.cpp --repack 0", [10.0, 10.0, 10.0])] {
            for r in rates {
                c.push(&figure_name("m", 2, "tg64", engine), "tok/s", Better::Higher, r);
                c.push(&figure_name("m", 2, "ft128", engine), "s", Better::Lower, 1.0 / r);
            }
        }
        c.push("m/2t/pp1/rlx", "tok/s", Better::Higher, 1.0);
        c
    }

    #[test]
    fn ratios_are_medians_of_rounds_against_the_better_setting() {
        let c = capsule();
        let rows = rows(&c);
        assert_eq!(rows.iter().map(|r| r.test).collect::<Vec<_>>(), ["tg64", "ft128"], "what one alone has is no row");
        for r in &rows {
            assert_eq!((r.model, r.threads, r.setting), ("m", "2", "llama.cpp --repack 0"));
            assert!((r.ratio - 2.0).abs() < 1e-12 && (r.spread.0 - 1.0).abs() < 1e-12 && (r.spread.1 - 3.0).abs() < 1e-12);
        }
        let alone: Vec<&str> = alone(&c).iter().map(|a| a.2).collect();
        assert_eq!(alone, ["pp1"]);
        let text = table(&c);
        assert!(text.starts_with("m, 2 threads, 3 rounds\n") && text.contains("20.0 tok/s"), "{text}");
    }

    #[test]
    fn names_come_apart() {
        assert_eq!(parts("a/b/2t/tg64/rlx"), Some(["a/b", "2", "tg64", "rlx"]));
        assert_eq!(parts("tg64"), None);
        assert_eq!([0.0123, 1.234, 12.34, 123.4].map(digits), ["0.012", "1.23", "12.3", "123"]);
    }
}
