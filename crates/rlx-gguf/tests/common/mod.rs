//! Builds GGUF files byte by byte, including wrong ones.
#![allow(dead_code, reason = "every test binary uses another part")]

/// A file with every field under control.  `Default` is a valid file: one key, two F32 tensors of 8 and 4 elements.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_entries: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_entries: None,
            entries: vec![entry(b"general.architecture", STRING, &text(b"qwen3"))],
            tensors: vec![tensor(b"a.weight", &[4, 2], F32, 0), tensor(b"b.weight", &[4], F32, 32)],
            alignment: 32,
            data: vec![0; 48],
        }
    }
}

pub const F32: u32 = 0;
pub const Q4_K: u32 = 12;

pub const U8: u32 = 0;
pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Length-prefixed bytes.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// A metadata entry.
pub fn entry(key: &[u8], kind: u32, payload: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), payload].concat()
}

/// The payload of an array.
pub fn array(kind: u32, count: u64, payload: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), payload].concat()
}

/// A tensor description; `dims` as in the file, innermost first.
pub fn tensor(name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

impl Raw {
    pub fn build(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_entries.unwrap_or(self.entries.len() as u64).to_le_bytes());
        self.entries.iter().chain(&self.tensors).for_each(|e| out.extend(e));
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    /// With one more metadata entry.
    pub fn entry(mut self, key: &[u8], kind: u32, payload: &[u8]) -> Self {
        self.entries.push(entry(key, kind, payload));
        self
    }

    /// With exactly these tensors over `bytes` bytes of data.
    pub fn tensors(mut self, tensors: Vec<Vec<u8>>, bytes: usize) -> Self {
        self.tensors = tensors;
        self.data = vec![0; bytes];
        self
    }
}

/// The crate's fixtures.
pub fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
