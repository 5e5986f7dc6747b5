//! GGUF files: bytes as they are when they begin with the magic, otherwise a recipe for a nearly valid file.

use crate::check_message;
use arbitrary::{Result, Unstructured};
use rlx_bounds::bounded;
use rlx_core::vocab::GgufVocab;
use rlx_gguf::{Gguf, GgufWriter, TensorType};

/// Opens a file and checks what a file that opens promises: tensors of the right size inside the file that share no
/// bytes, names that find their tensor, and a writer that gives back what was read.
pub fn gguf(data: &[u8]) {
    let bytes = if data.starts_with(b"GGUF") { data.to_vec() } else { recipe(&mut Unstructured::new(data)).unwrap_or_default() };
    let copy = bytes.clone();
    match bounded(bytes.len(), || Gguf::from_bytes(copy)) {
        Err(e) => check_message(&e.to_string()),
        Ok(gguf) => check(&gguf, &bytes),
    }
}

fn check(gguf: &Gguf, bytes: &[u8]) {
    assert!(matches!(gguf.version(), 2 | 3) && gguf.alignment().is_power_of_two());
    for (key, value) in gguf.metadata().iter() {
        assert!(gguf.get(key).is_some_and(|v| std::ptr::eq(v, value)), "{key:?} finds another value");
    }
    let mut ranges = Vec::new();
    for t in gguf.tensors() {
        assert!(gguf.find_tensor(&t.name).is_some_and(|found| std::ptr::eq(found, t)), "{:?} finds another tensor", t.name);
        assert!(t.offset % gguf.alignment() == 0 && !t.shape.contains(&0), "{t:?}");
        ranges.push((t.offset, t.offset + t.bytes));
        match (gguf.tensor_bytes(t), t.ty) {
            (Err(e), TensorType::Unknown(_)) => check_message(&e.to_string()),
            (Ok(data), ty) => {
                assert_eq!(data, &bytes[t.offset as usize..][..t.bytes as usize]);
                assert_eq!(ty.row_bytes(t.elements() as usize), Some(data.len()), "{t:?}");
                assert_eq!(gguf.tensor_f32(t).expect("data of a readable type").len() as u64, t.elements());
            }
            (Err(e), _) => panic!("{e}"),
        }
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0), "tensors share bytes: {ranges:?}");
    check_rewritten(gguf);
    let vocab = bounded(bytes.len(), || GgufVocab::read(gguf));
    if let Err(e) = vocab {
        check_message(&e.to_string());
    }
}

/// Written and read again, a file says the same; written once more it is the same bytes.
fn check_rewritten(gguf: &Gguf) {
    fn write(gguf: &Gguf) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        for (key, value) in gguf.metadata().iter() {
            writer.put(key, value.clone()).expect("a key that was read");
        }
        for t in gguf.tensors() {
            if let Ok(data) = gguf.tensor_bytes(t) {
                writer.tensor(&t.name, t.ty, &t.shape, data).expect("a tensor that was read");
            }
        }
        writer.to_bytes()
    }
    let written = write(gguf);
    let again = Gguf::from_bytes(written.clone()).expect("what was written opens");
    assert_eq!((again.metadata().len(), again.alignment()), (gguf.metadata().len(), gguf.alignment()));
    for t in again.tensors() {
        let first = gguf.tensor(&t.name).expect("the tensor was there");
        assert_eq!((first.ty, &first.shape), (t.ty, &t.shape));
        assert_eq!(gguf.tensor_bytes(first).ok(), again.tensor_bytes(t).ok());
    }
    assert!(write(&again) == written, "writing what was written gives other bytes");
}

const KEYS: &[&str] = &[
    "general.architecture",
    "general.alignment",
    "split.count",
    "split.no",
    "split.tensors.count",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.chat_template",
];

/// Numbers at which arithmetic on sizes goes wrong.
const EDGES: &[u64] = &[0, 1, 2, 31, 32, 255, 1 << 31, u32::MAX as u64, 1 << 32, (1 << 42) + 1, 1 << 61, 1 << 63, u64::MAX - 31, u64::MAX];

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// Bytes in the layout of a value of `kind`, mostly.
fn value(u: &mut Unstructured<'_>, kind: u32, depth: u32, out: &mut Vec<u8>) -> Result<()> {
    match kind {
        0 | 1 => out.push(u.arbitrary()?),
        7 => {
            let most = 1 + u8::from(u.ratio(1, 16)?);
            out.push(u.int_in_range(0..=most)?);
        }
        2 | 3 => out.extend(u.arbitrary::<[u8; 2]>()?),
        4..=6 => out.extend(u.arbitrary::<[u8; 4]>()?),
        8 => {
            let n = u.int_in_range(0..=8usize)?;
            let ascii: Vec<u8> = u.bytes(n.min(u.len()))?.iter().map(|b| b & 0x7F).collect();
            text(out, &ascii);
        }
        9 => {
            let kind = if depth > 9 { 0u32 } else { u.int_in_range(0..=12)? };
            let n = u.int_in_range(0..=5u64)?;
            out.extend(kind.to_le_bytes());
            out.extend((if u.ratio(1, 32)? { *u.choose(EDGES)? } else { n }).to_le_bytes());
            for _ in 0..n {
                value(u, kind, depth + 1, out)?;
            }
        }
        10..=12 => out.extend(u.arbitrary::<[u8; 8]>()?),
        _ => {}
    }
    Ok(())
}

fn entry(u: &mut Unstructured<'_>, i: usize, out: &mut Vec<u8>) -> Result<()> {
    match u.int_in_range(0..=3u8)? {
        0 => text(out, format!("k{}", if u.ratio(1, 32)? { 0 } else { i }).as_bytes()),
        1 if i == 0 => {
            text(out, b"general.architecture");
            out.extend(8u32.to_le_bytes());
            text(out, b"qwen3");
            return Ok(());
        }
        2 => {
            text(out, b"general.alignment");
            out.extend(4u32.to_le_bytes());
            out.extend((1u32 << u.int_in_range(0..=13)?).to_le_bytes());
            return Ok(());
        }
        _ => text(out, u.choose(KEYS)?.as_bytes()),
    }
    let kind = u.int_in_range(0..=13u32)?;
    out.extend(kind.to_le_bytes());
    value(u, kind, 1, out)
}

/// A tensor description and the bytes it needs; `at` is where its data would go.
fn tensor(u: &mut Unstructured<'_>, i: usize, at: u64, out: &mut Vec<u8>) -> Result<u64> {
    text(out, format!("t{}", if u.ratio(1, 32)? { 0 } else { i }).as_bytes());
    let number = u.int_in_range(0..=42u32)?;
    let ty = TensorType::from_ggml_type(number);
    let n_dims = u.int_in_range(0..=4u32)?;
    out.extend(n_dims.to_le_bytes());
    let mut elements = 1u64;
    for d in 0..n_dims {
        let step = if d == 0 { ty.block_len().unwrap_or(1) as u64 } else { 1 };
        let dim = if u.ratio(1, 24)? { *u.choose(EDGES)? } else { step * u.int_in_range(1..=3)? };
        elements = elements.saturating_mul(dim);
        out.extend(dim.to_le_bytes());
    }
    out.extend((if u.ratio(1, 32)? { u.arbitrary()? } else { number }).to_le_bytes());
    let offset = if u.ratio(1, 16)? { *u.choose(EDGES)? } else { at };
    out.extend(offset.to_le_bytes());
    let bytes = usize::try_from(elements).ok().and_then(|n| ty.row_bytes(n)).unwrap_or(8) as u64;
    Ok(bytes.min(8192))
}

/// A file that is valid but for a few choices.
fn recipe(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (n_entries, n_tensors) = (u.int_in_range(0..=8usize)?, u.int_in_range(0..=6usize)?);
    let alignment: u64 = if u.ratio(1, 4)? { *u.choose(&[8, 64, 4096])? } else { 32 };
    let mut file = b"GGUF".to_vec();
    file.extend(u.int_in_range(2..=3u32)?.to_le_bytes());
    file.extend((n_tensors as u64).to_le_bytes());
    file.extend((n_entries as u64 + u64::from(alignment != 32)).to_le_bytes());
    if alignment != 32 {
        text(&mut file, b"general.alignment");
        file.extend(4u32.to_le_bytes());
        file.extend((alignment as u32).to_le_bytes());
    }
    for i in 0..n_entries {
        entry(u, i, &mut file)?;
    }
    let mut end = 0u64;
    for i in 0..n_tensors {
        let at = end.next_multiple_of(alignment);
        end = at + tensor(u, i, at, &mut file)?;
    }
    file.resize(file.len().next_multiple_of(alignment as usize), 0);
    let start = file.len();
    file.resize(start + end as usize, 0x3C);
    for _ in 0..u.int_in_range(0..=2u8)? {
        let at = u.choose_index(file.len())?;
        let patch = if u.arbitrary()? { u.choose(EDGES)?.to_le_bytes() } else { u.arbitrary::<[u8; 8]>()? };
        file.iter_mut().skip(at).zip(patch).for_each(|(b, p)| *b = p);
    }
    // What is left of the input becomes tensor data: scales of every kind.
    let rest = u.bytes(u.len())?;
    file.iter_mut().skip(start).zip(rest).for_each(|(b, r)| *b = *r);
    Ok(file)
}
