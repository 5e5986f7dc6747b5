//! Tables of capsules as Markdown, and their place in a document.

use super::spread;
use crate::capsule::Capsule;
use crate::peers::{BUSY, rows};
use anyhow::{Context, anyhow, bail};
use std::path::Path;

const BEGIN: &str = "<!-- results -->";
const END: &str = "<!-- /results -->";

/// Replaces what stands between the markers of a file by tables of the capsules.
pub fn write(file: &Path, capsules: &[Capsule]) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let tables: Vec<String> = capsules.iter().map(tables).collect();
    let new = replaced(&old, &tables.join("\n")).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    std::fs::write(file, new).with_context(|| format!("{}: cannot be written", file.display()))
}

/// The document with another text between its markers.
fn replaced(document: &str, text: &str) -> anyhow::Result<String> {
    let at = |marker: &str| match document.match_indices(marker).map(|m| m.0).collect::<Vec<_>>()[..] {
        [one] => Ok(one),
        ref all => Err(anyhow!("found {marker} {} times, expected it once", all.len())),
    };
    let (begin, end) = (at(BEGIN)? + BEGIN.len(), at(END)?);
    if begin > end {
        bail!("{END} stands before {BEGIN}");
    }
    Ok(format!("{}\n\n{}\n{}", &document[..begin], text.trim_end(), &document[end..]))
}

/// A capsule as Markdown: where it is from, then its tables.
pub fn tables(c: &Capsule) -> String {
    let mut t = format!("`{}`: {}; {}", c.command, c.machine_line(), c.build_line());
    if let Some(profile) = c.profile["name"].as_str() {
        t += &format!("; profile `{profile}`");
    }
    if let Some(busy) = c.notes.get(BUSY).and_then(serde_json::Value::as_f64) {
        t += &format!("; at most {busy:.1} processors busy with other work before a process");
    }
    t += ".\n\n";
    let (rows, alone) = (rows::rows(c), rows::alone(c));
    if rows.is_empty() && alone.is_empty() {
        t += "| figure | median (lowest to highest) | rounds |\n|---|---|---|\n";
        for (name, f) in &c.figures {
            t += &format!("| {name} | {} | {} |\n", spread(f), f.rounds.len());
        }
        return t;
    }
    let mut threads: Vec<&str> = rows.iter().map(|r| r.threads).collect();
    threads.sort_by_key(|n| std::cmp::Reverse(n.parse::<usize>().unwrap_or(0)));
    threads.dedup();
    for n in threads {
        let of: Vec<&rows::Row> = rows.iter().filter(|r| r.threads == n).collect();
        let s = if n == "1" { "" } else { "s" };
        t += &format!("{n} thread{s}, ratios:\n\n{}\n", ratios(&of));
        t += &format!("{n} thread{s}, medians and what they are ratios of:\n\n{}\n", medians(&of));
    }
    if !alone.is_empty() {
        t += "rlx alone:\n\n| model | threads | test | median (lowest to highest) | rounds |\n|---|---|---|---|---|\n";
        for (model, threads, test, f) in alone {
            t += &format!("| {model} | {threads} | {test} | {} | {} |\n", spread(f), f.rounds.len());
        }
    }
    t
}

/// Each once, in order.
fn distinct<'s>(all: impl Iterator<Item = &'s str>) -> Vec<&'s str> {
    let mut seen = vec![];
    all.for_each(|s| {
        if !seen.contains(&s) {
            seen.push(s);
        }
    });
    seen
}

/// Tests by models.
fn ratios(rows: &[&rows::Row]) -> String {
    let (models, tests) = (distinct(rows.iter().map(|r| r.model)), distinct(rows.iter().map(|r| r.test)));
    let mut t = format!("| | {} |\n|---|{}\n", models.join(" | "), "---|".repeat(models.len()));
    for test in tests {
        let cell = |model: &&str| match rows.iter().find(|r| (r.test, r.model) == (test, *model)) {
            Some(r) => format!("{:.2}", r.ratio),
            None => String::new(),
        };
        t += &format!("| {test} | {} |\n", models.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    t
}

fn medians(rows: &[&rows::Row]) -> String {
    let mut t =
        "| model | test | rlx | llama.cpp | its setting | ratio (lowest to highest) | rounds |\n|---|---|---|---|---|---|---|\n".to_owned();
    for r in rows {
        let (rlx, peer) = (rows::value(&r.rlx.unit, r.rlx.median()), rows::value(&r.peer.unit, r.peer.median()));
        let setting =
            r.setting.strip_prefix("llama.cpp").map(str::trim).filter(|s| !s.is_empty()).map_or("default".into(), |s| format!("`{s}`"));
        let ratio = format!("{:.2} ({})", r.ratio, r.spread_text());
        t += &format!("| {} | {} | {rlx} | {peer} | {setting} | {ratio} | {} |\n", r.model, r.test, r.rlx.rounds.len());
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capsule::Better;

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let document = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n";
        let new = replaced(document, "| a |\n").unwrap();
        assert_eq!(new, "before\n<!-- results -->\n\n| a |\n<!-- /results -->\nafter\n");
        assert_eq!(replaced(&new, "| a |\n").unwrap(), new);
        for (broken, words) in [
            ("nothing", "found <!-- results --> 0 times"),
            ("<!-- results --> <!-- results --> <!-- /results -->", "found <!-- results --> 2 times"),
            ("<!-- /results --> <!-- results -->", "<!-- /results --> stands before"),
        ] {
            let e = replaced(broken, "x").unwrap_err().to_string();
            assert!(e.starts_with(words), "{e}");
        }
    }

    #[test]
    fn tables_have_a_column_per_model_and_say_the_setting() {
        let mut c = Capsule::new("peers");
        for (model, scale) in [("q4", 2.0), ("bf16", 1.5)] {
            for (engine, v) in [("rlx", 10.0 * scale), ("llama.cpp", 8.0), ("llama.cpp --repack 0", 10.0)] {
                for _ in 0..3 {
                    c.push(&rows::figure_name(model, 2, "tg64", engine), "tok/s", Better::Higher, v);
                }
            }
        }
        c.push(&rows::figure_name("mlx", 2, "tg64", "rlx"), "tok/s", Better::Higher, 12.0);
        let t = tables(&c);
        assert!(t.ends_with("| mlx | 2 | tg64 | 12.0 tok/s | 1 |\n"), "{t}");
        assert!(t.contains("| | q4 | bf16 |\n|---|---|---|\n| tg64 | 2.00 | 1.50 |\n"), "{t}");
        assert!(t.contains("| bf16 | tg64 | 15.0 tok/s | 10.0 tok/s | `--repack 0` | 1.50 (1.50 to 1.50) | 3 |\n"), "{t}");
        let mut c = Capsule::new("run");
        c.push("load", "s", Better::Lower, 0.5);
        assert!(tables(&c).ends_with("| load | 0.500 s | 1 |\n"), "{}", tables(&c));
    }
}
