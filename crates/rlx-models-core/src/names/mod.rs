//! Checkpoint names and GGUF names of the same weights, as data.
//!
//! A model asks for weights by the name they have in its Hugging Face checkpoint.  [`NameTable`] says what each is
//! called in GGUF files and how its elements are arranged there; [`WeightMap`] answers by checkpoint name whatever the
//! format, and reports what is missing and what is left over.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod map;
mod resolver;
mod transform;

pub use map::{Missing, NamesError, Report, WeightMap};
pub use resolver::{GgufTensorResolver, gguf_tensor_resolver, register_gguf_tensor_resolver};
pub use transform::{HeadCounts, Heads, Transform, TransformError};

/// One weight: `{}` stands for a number (layer, expert); both names have as many.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The name in a Hugging Face checkpoint.
    pub hf: &'static str,
    /// The name in GGUF files.
    pub gguf: &'static str,
    /// How to get the checkpoint's arrangement from the GGUF file's.
    pub transform: Transform,
}

impl Rule {
    /// A weight that is stored alike.
    pub const fn new(hf: &'static str, gguf: &'static str) -> Rule {
        Rule { hf, gguf, transform: Transform::None }
    }

    /// A weight that is arranged differently in GGUF files.
    pub const fn with(hf: &'static str, gguf: &'static str, transform: Transform) -> Rule {
        Rule { hf, gguf, transform }
    }
}

/// The weights of a family.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct NameTable {
    /// The weights; the first rule that matches decides.
    pub rules: &'static [Rule],
    /// Checkpoint names that a model need not use, `*` standing for any text: buffers, tied heads.
    pub tolerated: &'static [&'static str],
}

impl NameTable {
    /// The GGUF name of a checkpoint name, and how it is arranged there.
    pub fn to_gguf(&self, hf: &str) -> Option<(String, Transform)> {
        self.rules.iter().find_map(|r| Some((fill(r.gguf, &capture(r.hf, hf)?), r.transform)))
    }

    /// The checkpoint name of a GGUF name.
    pub fn to_hf(&self, gguf: &str) -> Option<(String, Transform)> {
        self.rules.iter().find_map(|r| Some((fill(r.hf, &capture(r.gguf, gguf)?), r.transform)))
    }
}

/// The numbers at the placeholders of `template`, if `name` is made from it.
fn capture<'n>(template: &str, name: &'n str) -> Option<Vec<&'n str>> {
    let mut pieces = template.split("{}");
    let mut rest = name.strip_prefix(pieces.next()?)?;
    let mut numbers = Vec::new();
    for piece in pieces {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        // One spelling per number, so that names and rules correspond one to one.
        if number.is_empty() || number.len() > 9 || (number.len() > 1 && number.starts_with('0')) {
            return None;
        }
        numbers.push(number);
        rest = after.strip_prefix(piece)?;
    }
    rest.is_empty().then_some(numbers)
}

fn fill(template: &str, numbers: &[&str]) -> String {
    let mut text = String::with_capacity(template.len() + 4);
    let mut numbers = numbers.iter();
    for (i, piece) in template.split("{}").enumerate() {
        if i > 0 {
            text += numbers.next().unwrap_or(&"");
        }
        text += piece;
    }
    text
}

/// Whether `name` is made from `pattern`, where `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|p| name.strip_prefix(p)) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TABLE: NameTable = NameTable {
        rules: &[
            Rule::new("model.embed_tokens.weight", "token_embd.weight"),
            Rule::with("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight", Transform::LlamaRopeRows(Heads::Query)),
            Rule::new("model.layers.{}.mlp.experts.{}.up_proj.weight", "blk.{}.ffn_up.{}.weight"),
        ],
        tolerated: &[],
    };

    #[test]
    fn names_translate_both_ways() {
        for hf in ["model.embed_tokens.weight", "model.layers.12.self_attn.q_proj.weight", "model.layers.0.mlp.experts.7.up_proj.weight"] {
            let (gguf, _) = TABLE.to_gguf(hf).unwrap();
            assert_eq!(TABLE.to_hf(&gguf).unwrap().0, hf);
        }
        assert_eq!(TABLE.to_gguf("model.layers.3.mlp.experts.4.up_proj.weight").unwrap().0, "blk.3.ffn_up.4.weight");
    }

    #[test]
    fn only_canonical_numbers_match() {
        for bad in
            ["blk..attn_q.weight", "blk.01.attn_q.weight", "blk.-1.attn_q.weight", "blk.1.attn_q.weightx", "blk.9999999999.attn_q.weight"]
        {
            assert_eq!(TABLE.to_hf(bad), None, "{bad}");
        }
        assert!(TABLE.to_hf("blk.0.attn_q.weight").is_some());
    }

    #[test]
    fn patterns_match_any_text() {
        for (p, n, want) in [
            ("*.inv_freq", "a.b.inv_freq", true),
            ("*.inv_freq", "inv_freq", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("lm_head.weight", "lm_head.weight", true),
            ("lm_head.weight", "lm_head.weight2", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(p, n), want, "{p} {n}");
        }
    }
}
