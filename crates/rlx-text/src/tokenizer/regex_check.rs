//! Whether a regular expression from a file can be run on any text in reasonable time.
//!
//! Expressions without look-around, back references and atomic groups run on an automaton in linear time,
//! whatever they are.  The others backtrack: an alternative that needs that may repeat without limit only once,
//! which keeps the number of ways to match linear; `\s+(?!\S)`, as published tokenizers have it, does.

/// Longest pattern; published ones have less than a tenth of it.
const MAX_BYTES: usize = 1 << 14;
/// Largest number in a counted repetition, and largest product of nested ones.
const MAX_COUNT: u64 = 4096;

/// What is wrong with a pattern.
pub(super) fn check(pattern: &str, is_regex: bool) -> Result<(), String> {
    if pattern.len() > MAX_BYTES {
        return Err(format!("{} bytes, expected at most {MAX_BYTES}", pattern.len()));
    }
    if !is_regex {
        return Ok(());
    }
    let mut scan = Scan { bytes: pattern.as_bytes(), at: 0, alternative: Alternative::default(), counts: vec![1] };
    scan.run()
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
        let byte = self.peek(0).unwrap_or_default();
        self.alternative.backtracks |= matches!(byte, b'1'..=b'9' | b'k' | b'K' | b'G' | b'g');
        self.at += 1;
        if matches!(byte, b'p' | b'P' | b'x' | b'u' | b'k' | b'g') && matches!(self.peek(0), Some(b'{' | b'<')) {
            let close = if self.peek(0) == Some(b'{') { b'}' } else { b'>' };
            while self.peek(0).is_some_and(|b| b != close) {
                self.at += 1;
            }
            self.at += 1;
        }
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
            self.alternative.backtracks |= matches!(second, Some(b'=' | b'!' | b'>' | b'(')) || behind;
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
                self.alternative.backtracks = true;
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

    #[test]
    fn published_patterns_pass() {
        for split in TABLE.iter().flat_map(|row| row.splits) {
            assert_eq!(check(split.pattern, true), Ok(()), "{}", split.pattern);
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
