//! Whether a regular expression from a file can be built in little memory and run on any text in reasonable time.
//!
//! Expressions without look-around, back references and atomic groups run on an automaton in linear time,
//! whatever they are.  The others backtrack: an alternative that needs that may repeat without limit only once,
//! which keeps the number of ways to match linear; `\s+(?!\S)`, as published tokenizers have it, does.

use fancy_regex::{Error, RegexBuilder};

/// Longest pattern; published ones have less than half of it.
const MAX_BYTES: usize = 1 << 10;
/// Bytes of the automata of all patterns together: building them takes about six times as much.  Published tokenizers
/// have half of it at most.
const MAX_AUTOMATA: usize = 1 << 20;
/// What the smallest automaton counts as.
const MIN_AUTOMATON: usize = 1 << 12;
/// Most look-arounds, back references and possessive repetitions of all patterns together: each is tried at every
/// character of a text.  Published tokenizers have 9 at most.
const MAX_LOOKS: usize = 12;
/// Largest number in a counted repetition, and largest product of nested ones.
const MAX_COUNT: u64 = 4096;

/// What the patterns of a file may still need.
pub(super) struct Budget {
    automata: usize,
    looks: usize,
    /// Patterns that are to be built, and what their automata are made of.
    seen: Vec<(String, String)>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { automata: MAX_AUTOMATA, looks: MAX_LOOKS, seen: Vec::new() }
    }

    /// Takes a pattern, or says what is wrong with how it is written.
    pub(super) fn take(&mut self, pattern: &str, is_regex: bool) -> Result<(), String> {
        if pattern.len() > MAX_BYTES {
            return Err(format!("{} bytes, expected at most {MAX_BYTES}", pattern.len()));
        }
        if !is_regex {
            self.seen.push((pattern.to_owned(), fancy_regex::escape(pattern).into_owned()));
            return Ok(());
        }
        let mut scan =
            Scan { bytes: pattern.as_bytes(), at: 0, alternative: Alternative::default(), counts: vec![1], looks: 0, cuts: Vec::new() };
        scan.run()?;
        self.looks = self.looks.checked_sub(scan.looks).ok_or_else(|| {
            format!("look-around, back references or atomic groups beyond the {MAX_LOOKS} that a tokenizer may have: encoding could take forever")
        })?;
        self.seen.push((pattern.to_owned(), scan.plain(pattern)));
        Ok(())
    }

    /// Builds the automata of all patterns under limits.  This takes more memory than a file otherwise may, so it comes
    /// when nothing else is wrong.
    ///
    /// # Errors
    /// The pattern, and what is wrong with it.
    pub(super) fn build(self) -> Result<(), (String, String)> {
        let mut left = self.automata;
        for (pattern, plain) in self.seen {
            left = match automaton(&plain, left) {
                Ok(size) => left - size,
                Err(why) => return Err((pattern, why)),
            };
        }
        Ok(())
    }
}

/// About how large the automaton of a pattern is, which grows with how often classes of characters are repeated.
fn automaton(pattern: &str, most: usize) -> Result<usize, String> {
    let mut limit = MIN_AUTOMATON;
    while limit <= most {
        match RegexBuilder::new(pattern).delegate_size_limit(limit).build() {
            Ok(_) => return Ok(limit),
            Err(Error::CompileError(_)) => limit *= 2,
            Err(e) => return Err(e.to_string()),
        }
    }
    Err(format!(
        "an automaton of more than {most} bytes, expected at most {MAX_AUTOMATA} for all patterns together: repeat classes of characters \
         less often"
    ))
}

/// What an alternative at the top level contains.
#[derive(Default)]
struct Alternative {
    backtracks: bool,
    unbounded: usize,
}

impl Alternative {
    fn check(&self) -> Result<(), String> {
        if self.backtracks && self.unbounded > 1 {
            return Err(format!(
                "an alternative with look-around, back references or atomic groups repeats {} parts without limit, expected one at most: \
                 matching could take forever",
                self.unbounded
            ));
        }
        Ok(())
    }
}

struct Scan<'p> {
    bytes: &'p [u8],
    at: usize,
    alternative: Alternative,
    /// Product of the counted repetitions inside each open group.
    counts: Vec<u64>,
    /// How many parts need backtracking.
    looks: usize,
    /// Where they are, and what to write there instead.
    cuts: Vec<(usize, usize, &'static str)>,
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\\' => self.escape(),
                b'[' => self.class(),
                b'(' => self.open()?,
                b')' => {
                    let inner = self.counts.pop().unwrap_or(1);
                    if self.counts.is_empty() {
                        return Err("a group is closed that was never opened".into());
                    }
                    self.repeated(inner)?;
                    continue;
                }
                b'|' if self.counts.len() == 1 => {
                    self.alternative.check()?;
                    self.alternative = Alternative::default();
                    continue;
                }
                _ => {}
            }
            if byte != b'(' {
                self.repeated(1)?;
            }
        }
        self.alternative.check()
    }

    /// Behind a backslash.
    fn escape(&mut self) {
        let (from, byte) = (self.at - 1, self.peek(0).unwrap_or_default());
        self.at += 1;
        if matches!(byte, b'p' | b'P' | b'x' | b'u' | b'k' | b'g') && matches!(self.peek(0), Some(b'{' | b'<')) {
            let close = if self.peek(0) == Some(b'{') { b'}' } else { b'>' };
            while self.peek(0).is_some_and(|b| b != close) {
                self.at += 1;
            }
            self.at += 1;
        }
        if matches!(byte, b'1'..=b'9' | b'k' | b'K' | b'G' | b'g') {
            self.backtracks(from, self.at, "(?:)");
        }
    }

    /// Notes what needs backtracking, and what stands for it where the pattern has none.
    fn backtracks(&mut self, from: usize, to: usize, plain: &'static str) {
        self.alternative.backtracks = true;
        self.looks += 1;
        self.cuts.push((from, to, plain));
    }

    /// The pattern with look-arounds as plain groups and without back references: one automaton, as large as those of
    /// all parts together.
    fn plain(&self, pattern: &str) -> String {
        let (mut out, mut at) = (String::new(), 0);
        for &(from, to, plain) in &self.cuts {
            out += pattern.get(at..from).unwrap_or_default();
            out += plain;
            at = to;
        }
        out + pattern.get(at..).unwrap_or_default()
    }

    /// Behind an opening bracket, up to the one that closes it.
    fn class(&mut self) {
        let mut depth = 1;
        if self.peek(0) == Some(b'^') {
            self.at += 1;
        }
        // A bracket that comes first is a member.
        if self.peek(0) == Some(b']') {
            self.at += 1;
        }
        while let Some(byte) = self.peek(0).filter(|_| depth > 0) {
            self.at += 1;
            match byte {
                b'\\' => self.at += 1,
                b'[' => depth += 1,
                b']' => depth -= 1,
                _ => {}
            }
        }
    }

    /// Behind an opening parenthesis.
    fn open(&mut self) -> Result<(), String> {
        if self.counts.len() > 100 {
            return Err("more than 100 groups inside each other".into());
        }
        self.counts.push(1);
        let (first, second) = (self.peek(0), self.peek(1));
        if first == Some(b'?') {
            let behind = second == Some(b'<') && matches!(self.peek(2), Some(b'=' | b'!'));
            match second {
                Some(b'=' | b'!' | b'>') => self.backtracks(self.at - 1, self.at + 2, "(?:"),
                Some(b'<') if behind => self.backtracks(self.at - 1, self.at + 3, "(?:"),
                Some(b'(') => return Err("a condition, expected an expression without".into()),
                _ => {}
            }
            // The question mark is no repetition.
            self.at += 1;
        }
        Ok(())
    }

    /// Behind something that may be repeated; `inner` is what is repeated in it already.
    fn repeated(&mut self, inner: u64) -> Result<(), String> {
        let mut count = inner;
        let mut unbounded = false;
        match self.peek(0) {
            Some(b'*' | b'+') => {
                self.at += 1;
                unbounded = true;
            }
            Some(b'?') => self.at += 1,
            Some(b'{') => {
                let rest = self.bytes.get(self.at..).unwrap_or_default();
                let Some(end) = rest.iter().position(|&b| b == b'}') else { return Ok(()) };
                let inside = rest.get(1..end).and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default();
                let (low, high) = inside.split_once(',').map_or((inside, Some(inside)), |(low, high)| (low, Some(high)));
                let number = |t: &str| t.trim().parse::<u64>().ok();
                if number(low).is_none() && high.and_then(number).is_none() {
                    return Ok(());
                }
                self.at += end + 1;
                unbounded = high.is_some_and(|t| t.trim().is_empty());
                count = count.saturating_mul(high.and_then(number).or(number(low)).unwrap_or(1).max(1));
            }
            _ => return self.raise(count),
        }
        match self.peek(0) {
            // Possessive: gives nothing back, so nothing multiplies.
            Some(b'+') => {
                self.at += 1;
                self.backtracks(self.at - 1, self.at, "");
            }
            Some(b'?') => {
                self.at += 1;
                self.alternative.unbounded += usize::from(unbounded);
            }
            _ => self.alternative.unbounded += usize::from(unbounded),
        }
        self.raise(count)
    }

    /// Notes that something is repeated `count` times in the open group.
    fn raise(&mut self, count: u64) -> Result<(), String> {
        if count > MAX_COUNT {
            return Err(format!("counted repetitions of {count}, expected at most {MAX_COUNT}"));
        }
        if let Some(most) = self.counts.last_mut() {
            *most = count.max(*most);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pretokenizers::TABLE;
    use super::*;

    fn check(pattern: &str, is_regex: bool) -> Result<(), String> {
        built(&[(pattern, is_regex)])
    }

    fn built(patterns: &[(&str, bool)]) -> Result<(), String> {
        let mut budget = Budget::new();
        patterns.iter().try_for_each(|(p, is_regex)| budget.take(p, *is_regex))?;
        budget.build().map_err(|(_, why)| why)
    }

    #[test]
    fn what_needs_backtracking_is_written_without() {
        for (pattern, plain) in [
            (r"a(?=b)|(?<!c)d(?>e)", "a(?:b)|(?:c)d(?:e)"),
            (r"x++[^+]*+(y)\1{1,3}+", "x+[^+]*(y)(?:){1,3}"),
            (r"(?<n>a)\k<n>\(?=", r"(?<n>a)(?:)\(?="),
            ("é(?!è)", "é(?:è)"),
        ] {
            let mut scan =
                Scan { bytes: pattern.as_bytes(), at: 0, alternative: Alternative::default(), counts: vec![1], looks: 0, cuts: Vec::new() };
            scan.run().unwrap();
            assert_eq!(scan.plain(pattern), plain);
        }
    }

    #[test]
    fn patterns_are_bounded_together() {
        assert_eq!(built(&[(r"\p{L}{10}", true), (r"a", true)]), Ok(()));
        assert!(built(&[(r"\p{L}{10}", true), (r"\p{L}{10}", true), (r"(?=a)x", true)]).unwrap_err().contains("automaton of more than 0"));
        assert!(check(r"\p{L}{100}", true).unwrap_err().contains("automaton of more than 1048576 bytes"));
        assert!(check(r"(?=\p{L}{50})|(?=\p{L}{50})", true).is_err());
        assert_eq!(built(&[("a(?=b)", true); 12]), Ok(()));
        assert!(built(&[("a(?=b)", true); 13]).unwrap_err().contains("beyond the 12"));
        assert_eq!(built(&[("a(?=b)", false); 13]), Ok(()), "no expression at all");
    }

    #[test]
    fn published_patterns_pass() {
        for split in TABLE.iter().flat_map(|row| row.splits) {
            assert_eq!(check(split.pattern, true), Ok(()), "{}", split.pattern);
        }
        for row in TABLE {
            let patterns: Vec<_> = row.splits.iter().map(|s| (s.pattern, true)).collect();
            assert_eq!(built(&patterns), Ok(()), "{:?}", row.names);
        }
        for fine in ["(a+)+", "(a+)+b", "(?:(?i)x*)*$", r"[]()*+?\]]+(?=x)", r"\p{L}+(?<!a)", r"\((?!a)a*", "a{2,5}{3}", "(?<n>a+)"] {
            assert_eq!(check(fine, true), Ok(()), "{fine}");
        }
        assert_eq!(check("(a+)+(?!b)", false), Ok(()), "no expression at all");
    }

    #[test]
    fn patterns_that_could_take_forever_do_not() {
        for bad in ["(a+)+(?!b)", "(?=(a*)*b)", r"(x+x+)+y\1", "(?:a{2,})+(?<=b)", "(?>a)(a*)*b", "(?:(?:a{100}){100}){100}", "a)"] {
            assert!(check(bad, true).is_err(), "{bad}");
        }
        assert!(check(&"^".repeat(1 << 20), true).is_err());
        assert!(check(&"(".repeat(1 << 13), true).is_err());
    }
}
