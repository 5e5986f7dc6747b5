//! Generated text with tool calls.
//!
//! Input: one byte that picks the convention, one byte that seeds the cuts, text.

use rlx_bounds::within;
use rlx_text::tools::{ToolConvention, ToolPart, ToolStream};
use std::time::Duration;

/// Reads a text whole and in pieces: both give the same parts, whatever the pieces.
pub fn tool_calls(data: &[u8]) {
    let [pick, seed, text @ ..] = data else { return };
    let convention = ToolConvention::ALL[usize::from(*pick) % ToolConvention::ALL.len()];
    let text = String::from_utf8_lossy(text);
    within((1 << 20) + 64 * text.len(), Duration::from_secs(1), || {
        let whole = joined(convention.parse(&text));
        check_parts(&whole, &text);
        for step in [1, 2 + usize::from(*seed % 16), text.len() / 2 + 1] {
            assert_eq!(joined(in_pieces(convention, &text, step)), whole, "{} in pieces of {step}: {text:?}", convention.name());
        }
        let at = (0..=text.len()).cycle().skip(usize::from(*seed)).find(|i| text.is_char_boundary(*i)).unwrap_or_default();
        let mut stream = ToolStream::new(convention);
        let mut parts = stream.push(&text[..at]);
        parts.extend(stream.push(&text[at..]));
        parts.extend(stream.finish());
        assert_eq!(joined(parts), whole, "{} cut at {at}: {text:?}", convention.name());
        // A stream that has finished begins anew.
        let mut again = stream.push(&text);
        again.extend(stream.finish());
        assert_eq!(joined(again), whole, "{} a second time: {text:?}", convention.name());
    });
}

fn in_pieces(convention: ToolConvention, text: &str, step: usize) -> Vec<ToolPart> {
    let mut stream = ToolStream::new(convention);
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = (step.min(rest.len())..=rest.len()).find(|i| rest.is_char_boundary(*i)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(at);
        parts.extend(stream.push(piece));
        rest = after;
    }
    parts.extend(stream.finish());
    parts
}

/// Neighbouring pieces of text made one.
fn joined(parts: Vec<ToolPart>) -> Vec<ToolPart> {
    let mut out: Vec<ToolPart> = Vec::new();
    for part in parts {
        match (out.last_mut(), part) {
            (Some(ToolPart::Text(before)), ToolPart::Text(more)) => before.push_str(&more),
            (_, part) => out.push(part),
        }
    }
    out
}

/// Text and what is no call are found in the input, in order.
fn check_parts(parts: &[ToolPart], text: &str) {
    let mut rest = text;
    for part in parts {
        let (ToolPart::Text(piece) | ToolPart::Malformed { raw: piece, .. }) = part else { continue };
        let at = rest.find(piece.as_str()).unwrap_or_else(|| panic!("{piece:?} is not in the rest of {text:?}"));
        rest = &rest[at + piece.len()..];
    }
}
