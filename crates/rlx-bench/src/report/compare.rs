//! Two capsules: what is better, what is worse, and what is noise.

use crate::capsule::{Better, Capsule, Figure};
use crate::peers::rows::value;

/// Fewer rounds do not tell their noise.
const ROUNDS: usize = 3;
/// How many times the noise of both sides a change must be.
const BEYOND: f64 = 2.0;

/// What a change is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    Regression,
    Improvement,
    /// Within the noise.
    Same,
    /// Too few rounds to know.
    Unknown,
    /// Only one capsule has it, or the units differ.
    Alone,
}

/// A figure of both capsules.
pub struct Change<'c> {
    pub name: &'c str,
    pub a: Option<&'c Figure>,
    pub b: Option<&'c Figure>,
    pub mark: Mark,
    /// Noise of both together, of A's median.
    pub noise: f64,
}

impl Mark {
    pub fn word(self) -> &'static str {
        match self {
            Mark::Regression => "regression",
            Mark::Improvement => "improvement",
            Mark::Same => "",
            Mark::Unknown => "too few rounds",
            Mark::Alone => "not in both",
        }
    }
}

impl Change<'_> {
    /// B / A of the medians.
    pub fn ratio(&self) -> Option<f64> {
        let (a, b) = (self.a?.median(), self.b?.median());
        (a != 0.0).then(|| b / a)
    }
}

/// What became of a figure; `floor` is a fraction of A's median.
pub fn judge(a: &Figure, b: &Figure, floor: f64) -> (Mark, f64) {
    if (&a.unit, a.better) != (&b.unit, b.better) {
        return (Mark::Alone, 0.0);
    }
    let (before, after) = (a.median(), b.median());
    let noise = a.noise().hypot(b.noise());
    let share = if before == 0.0 { 0.0 } else { noise / before };
    let worse = match a.better {
        Better::Higher => before - after,
        Better::Lower => after - before,
    };
    let exact = a.exact && b.exact;
    let beyond = if exact { 0.0 } else { (BEYOND * noise).max(floor * before) };
    let mark = match worse {
        w if w.abs() <= beyond => Mark::Same,
        _ if !exact && a.rounds.len().min(b.rounds.len()) < ROUNDS => Mark::Unknown,
        w if w > 0.0 => Mark::Regression,
        _ => Mark::Improvement,
    };
    (mark, share)
}

/// Every figure of either, A's order first.
pub fn compare<'c>(a: &'c Capsule, b: &'c Capsule, floor: f64) -> Vec<Change<'c>> {
    let mut all: Vec<Change<'c>> = vec![];
    for (name, x) in &a.figures {
        let y = b.get(name);
        let (mark, noise) = y.map_or((Mark::Alone, 0.0), |y| judge(x, y, floor));
        all.push(Change { name, a: Some(x), b: y, mark, noise });
    }
    for (name, y) in b.figures.iter().filter(|f| a.get(&f.0).is_none()) {
        all.push(Change { name, a: None, b: Some(y), mark: Mark::Alone, noise: 0.0 });
    }
    all
}

/// Name, A, B, ratio, noise, mark.
fn cells(c: &Change) -> [String; 6] {
    let median = |f: Option<&Figure>| f.map_or("-".into(), |f| value(&f.unit, f.median()));
    let ratio = c.ratio().map_or("-".into(), |r| format!("{r:.3}"));
    let noise = if c.mark == Mark::Alone { "-".into() } else { format!("{:.1} %", 100.0 * c.noise) };
    [c.name.into(), median(c.a), median(c.b), ratio, noise, c.mark.word().into()]
}

fn verdict(changes: &[Change]) -> String {
    let count = |m: Mark| changes.iter().filter(|c| c.mark == m).count();
    format!("{} regressions, {} improvements, {} figures\n", count(Mark::Regression), count(Mark::Improvement), changes.len())
}

const HEADINGS: [&str; 6] = ["figure", "A", "B", "B / A", "noise", ""];

pub fn text(a: &Capsule, b: &Capsule, changes: &[Change]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(changes.iter().map(cells));
    let width = |i: usize| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut t = format!("A  {}\n   {}\nB  {}\n   {}\n\n", a.build_line(), a.command, b.build_line(), b.command);
    for [name, rest @ .., mark] in &lines {
        let mut line = format!("{name:<0$}", widths[0]);
        for (cell, width) in rest.iter().zip(&widths[1..]) {
            line += &format!("  {cell:>width$}");
        }
        t += &format!("{}\n", format!("{line}  {mark}").trim_end());
    }
    t + "\n" + &verdict(changes)
}

pub fn markdown(a: &Capsule, b: &Capsule, changes: &[Change]) -> String {
    let mut t = format!("A: {}, `{}`\nB: {}, `{}`\n\n", a.build_line(), a.command, b.build_line(), b.command);
    t += &format!("| {} |\n|---|---|---|---|---|---|\n", HEADINGS.join(" | "));
    for c in changes {
        t += &format!("| {} |\n", cells(c).join(" | "));
    }
    t + "\n" + &verdict(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, rounds: &[f64]) -> Figure {
        Figure { rounds: rounds.to_vec(), ..Figure::new("x", better) }
    }

    #[test]
    fn a_regression_is_one_only_beyond_the_noise() {
        use Better::{Higher, Lower};
        use Mark::{Improvement, Regression, Same, Unknown};
        let steady = [100.0, 101.0, 99.0, 100.0, 100.5];
        let wild = [80.0, 120.0, 100.0, 70.0, 130.0];
        for (better, a, b, want) in [
            (Higher, &steady[..], &[90.0, 91.0, 90.5, 89.5, 90.0][..], Regression),
            (Higher, &steady, &[110.0, 111.0, 110.5, 109.5, 110.0], Improvement),
            (Lower, &steady, &[90.0, 91.0, 90.5, 89.5, 90.0], Improvement),
            (Lower, &steady, &[110.0, 111.0, 110.5, 109.5, 110.0], Regression),
            // The same change in figures that scatter.
            (Higher, &wild, &[90.0, 91.0, 90.5, 89.5, 90.0], Same),
            (Higher, &steady, &[72.0, 108.0, 90.0, 63.0, 117.0], Same),
            // Below the floor of 1 %, however steady.
            (Higher, &[100.0, 100.0, 100.0], &[99.5, 99.5, 99.5], Same),
            (Higher, &[100.0, 100.0, 100.0], &[98.5, 98.5, 98.5], Regression),
            // Two rounds tell no noise.
            (Higher, &[100.0, 100.0], &[50.0, 50.0], Unknown),
        ] {
            assert_eq!(judge(&figure(better, a), &figure(better, b), 0.01).0, want, "{better:?} {a:?} {b:?}");
        }
        let (_, noise) = judge(&figure(Higher, &steady), &figure(Higher, &steady), 0.01);
        assert!((noise - 0.7413 * 2f64.sqrt() / 100.0).abs() < 1e-6, "{noise}");
    }

    #[test]
    fn counts_differ_or_do_not() {
        let count = |v| Figure::exact("B", Better::Lower, v);
        assert_eq!(judge(&count(1000.0), &count(1001.0), 0.01).0, Mark::Regression);
        assert_eq!(judge(&count(1000.0), &count(999.0), 0.01).0, Mark::Improvement);
        assert_eq!(judge(&count(1000.0), &count(1000.0), 0.01).0, Mark::Same);
    }

    #[test]
    fn figures_of_one_side_are_shown() {
        let (mut a, mut b) = (Capsule::new("run"), Capsule::new("run"));
        for v in [10.0, 10.1, 10.0] {
            a.push("tg64", "tok/s", Better::Higher, v);
            b.push("tg64", "tok/s", Better::Higher, v / 2.0);
        }
        a.push("gone", "s", Better::Lower, 1.0);
        b.push("new", "s", Better::Lower, 1.0);
        let changes = compare(&a, &b, 0.01);
        let marks: Vec<(&str, Mark)> = changes.iter().map(|c| (c.name, c.mark)).collect();
        assert_eq!(marks, [("tg64", Mark::Regression), ("gone", Mark::Alone), ("new", Mark::Alone)]);
        for t in [text(&a, &b, &changes), markdown(&a, &b, &changes)] {
            assert!(t.contains("0.500") && t.contains("regression") && t.contains("not in both"), "{t}");
            assert!(t.ends_with("1 regressions, 0 improvements, 3 figures\n"), "{t}");
        }
    }
}
