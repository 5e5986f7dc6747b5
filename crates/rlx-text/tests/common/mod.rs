//! Fixtures: the committed copies, and the larger collection beside the workspace where it is checked out.
#![allow(dead_code)]

use std::io::Write;
use std::path::PathBuf;

use rlx_text::GgufVocab;
use serde_json::Value;

/// A file or folder of the committed fixtures.
pub fn committed(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// A file or folder of the shared collection; says so on stderr when it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !found.exists() {
        // To stderr itself: what macros print is shown for failing tests alone.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: {} is absent; only the committed fixtures are covered", found.display());
        return None;
    }
    Some(found)
}

pub fn json(path: PathBuf) -> Value {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn ids(v: &Value) -> Vec<u32> {
    v.as_array().expect("a list of ids").iter().map(|x| x.as_u64().expect("an id") as u32).collect()
}

/// The vocabulary of a little-endian GGUF v3 file: a reader for trusted fixtures only, so that this crate
/// is tested without the crate that reads GGUF for users.
pub fn gguf_vocab(path: PathBuf) -> GgufVocab {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut r = Reader(&bytes);
    assert_eq!(r.take(4), b"GGUF");
    r.take(4 + 8);
    let n = r.u64();
    let mut vocab = GgufVocab::default();
    for _ in 0..n {
        let key = r.string();
        let kind = r.u32();
        let id = |v: &Item| Some(v.number() as u32);
        let value = r.value(kind);
        match key.strip_prefix("tokenizer.ggml.").unwrap_or_default() {
            "model" => vocab.model = value.text(),
            "pre" => vocab.pre = Some(value.text()),
            "tokens" => vocab.tokens = value.list().iter().map(Item::text).collect(),
            "merges" => vocab.merges = value.list().iter().map(Item::text).collect(),
            "token_type" => vocab.token_types = Some(value.list().iter().map(|v| v.number() as i32).collect()),
            "scores" => vocab.scores = Some(value.list().iter().map(|v| f32::from_bits(v.number() as u32)).collect()),
            "precompiled_charsmap" => vocab.precompiled_charsmap = Some(value.list().iter().map(|v| v.number() as u8).collect()),
            "seperator_token_id" => vocab.sep_id = id(&value),
            "cls_token_id" => vocab.cls_id = id(&value),
            "mask_token_id" => vocab.mask_id = id(&value),
            "add_space_prefix" => vocab.add_space_prefix = Some(value.number() != 0),
            "remove_extra_whitespaces" => vocab.remove_extra_whitespaces = Some(value.number() != 0),
            "bos_token_id" => vocab.bos_id = id(&value),
            "eos_token_id" => vocab.eos_id = id(&value),
            "unknown_token_id" => vocab.unk_id = id(&value),
            "padding_token_id" => vocab.pad_id = id(&value),
            "add_bos_token" => vocab.add_bos = Some(value.number() != 0),
            "add_eos_token" => vocab.add_eos = Some(value.number() != 0),
            _ => {}
        }
    }
    vocab
}

enum Item {
    Number(i64),
    Text(String),
    List(Vec<Item>),
}

impl Item {
    fn number(&self) -> i64 {
        if let Self::Number(n) = self { *n } else { panic!("not a number") }
    }
    fn text(&self) -> String {
        if let Self::Text(s) = self { s.clone() } else { panic!("not a string") }
    }
    fn list(&self) -> &[Item] {
        if let Self::List(l) = self { l } else { panic!("not a list") }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        head
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("4 bytes"))
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("8 bytes"))
    }
    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8(self.take(n).to_vec()).expect("UTF-8")
    }
    fn value(&mut self, kind: u32) -> Item {
        match kind {
            0 | 1 | 7 => Item::Number(self.take(1)[0].into()),
            2 | 3 => Item::Number(i16::from_le_bytes(self.take(2).try_into().expect("2 bytes")).into()),
            4..=6 => Item::Number((self.u32() as i32).into()),
            8 => Item::Text(self.string()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                Item::List((0..n).map(|_| self.value(kind)).collect())
            }
            _ => Item::Number(self.u64() as i64),
        }
    }
}
