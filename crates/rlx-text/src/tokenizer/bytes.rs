//! The byte ↔ character table of byte-level BPE (GPT-2): each byte has a printable stand-in character.

use std::sync::LazyLock;

/// Character that stands for each byte.
static CHAR_OF: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|i| match u8::try_from(i) {
        Ok(b @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)) => char::from(b),
        _ => {
            let c = char::from_u32(next).unwrap_or('\u{FFFD}');
            next += 1;
            c
        }
    })
});

/// Stand-in characters lie below this code point.
const LIMIT: usize = 0x144;

static BYTE_OF: LazyLock<[Option<u8>; LIMIT]> = LazyLock::new(|| {
    let mut table = [None; LIMIT];
    for (byte, c) in (0u8..=255).zip(CHAR_OF.iter()) {
        if let Some(slot) = table.get_mut(*c as usize) {
            *slot = Some(byte);
        }
    }
    table
});

/// The character that stands for `byte`.
pub(super) fn char_of(byte: u8) -> char {
    CHAR_OF.get(usize::from(byte)).copied().unwrap_or('\u{FFFD}')
}

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTE_OF.get(c as usize).copied().flatten()
}

/// Appends the bytes of a token spelled in stand-in characters; a token with any other character is taken
/// literally, as the reference decoder does.
pub(super) fn push_token(out: &mut Vec<u8>, token: &str) {
    let start = out.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(b) => out.push(b),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte of a `<0xNN>` token.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let well_formed = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    well_formed.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_a_bijection_with_the_published_corners() {
        for b in 0u8..=255 {
            assert_eq!(byte_of(char_of(b)), Some(b));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD), char_of(b'A')), ('Ġ', 'Ċ', 'Ń', 'A'));
        assert_eq!(byte_of('你'), None);
    }

    #[test]
    fn byte_tokens_need_two_hex_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        for bad in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x001>", "0x01", "<0x01"] {
            assert_eq!(byte_token(bad), None, "{bad}");
        }
    }
}
