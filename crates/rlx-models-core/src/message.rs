//! Pieces of error messages: quoting names that come from files, lists, nearest names.

/// Longest name shown in full.
const LONGEST: usize = 96;
/// Most entries of a list shown.
const MOST: usize = 8;

/// A name from a file, quoted, escaped and shortened: one short line whatever the file contains.
pub(crate) fn quote(name: &str) -> String {
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}… ({} bytes)", name.get(..end).unwrap_or_default(), name.len()),
        None => format!("{name:?}"),
    }
}

/// The name of a field as it is when it is short and ordinary, else quoted.
pub(crate) fn plain(name: &str) -> String {
    let ordinary = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if ordinary && !name.is_empty() && name.len() <= LONGEST { name.to_owned() } else { quote(name) }
}

/// `a, b, c and 4 more`.
pub(crate) fn list<S: AsRef<str>>(items: &[S]) -> String {
    let mut text = items.iter().take(MOST).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if items.len() > MOST {
        text += &format!(" and {} more", items.len() - MOST);
    }
    text
}

/// `; did you mean …?`, or nothing.
pub(crate) fn hint(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        some => format!("; nearest: {}", some.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", ")),
    }
}

/// The up to three candidates that look most like `name`, best first.
///
/// Candidates are first ranked by what they share with the name at both ends, which is linear in their length; only
/// the best few are compared by edit distance.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut best: Vec<(usize, &str)> = Vec::new();
    for c in candidates {
        let shared = shared_ends(name, c);
        if shared * 2 < name.len().max(2) && c.len() > 12 {
            continue;
        }
        let at = best.partition_point(|b| b.0 >= shared);
        if at < MOST {
            best.insert(at, (shared, c));
            best.truncate(MOST);
        }
    }
    let mut ranked: Vec<(usize, &str)> = best.into_iter().map(|(_, c)| (distance(name, c), c)).collect();
    ranked.retain(|r| r.0 <= name.len().max(r.1.len()) / 2);
    ranked.sort();
    ranked.into_iter().take(3).map(|r| r.1.to_owned()).collect()
}

fn shared_ends(a: &str, b: &str) -> usize {
    let front = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let rest = a.len().min(b.len()) - front;
    front + a.bytes().rev().zip(b.bytes().rev()).take(rest).take_while(|(x, y)| x == y).count()
}

/// Levenshtein distance of the first 256 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(256).enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (diagonal + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, want) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn nearest_names_come_first() {
        let names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight", "lm_head.weight"];
        let found = nearest("model.layers.0.attn.q_proj.weight", names);
        assert_eq!(found.first().map(String::as_str), Some(names[0]));
        assert!(nearest("zzz", names).is_empty());
    }

    #[test]
    fn messages_stay_short() {
        let long = "x".repeat(1 << 20);
        assert!(quote(&long).len() < 200);
        assert_eq!(quote("a\0\n"), "\"a\\0\\n\"");
        assert_eq!(list(&["a"; 10]), "a, a, a, a, a, a, a, a and 2 more");
    }
}
