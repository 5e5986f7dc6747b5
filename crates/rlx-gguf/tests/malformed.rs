//! Hostile and broken files.  Each case is refused (or, where said, read) within 64 KiB + 4 × its size of memory and a
//! second, with a short message, and has a valid twin that differs only in what is wrong.

mod common;

use common::*;
use rlx_bounds::{Counting, bounded};
use rlx_gguf::{Gguf, GgufError, TensorType};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens the bytes and checks time, memory and message.
fn outcome(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    let result = bounded(bytes.len(), || Gguf::from_bytes(bytes));
    if let Err(e) = &result {
        let message = e.to_string();
        assert!(message.len() < 500 && !message.contains('\n'), "{message}");
    }
    result
}

/// Refused, with a message that has all of `needles`.
#[track_caller]
fn refused(bytes: Vec<u8>, needles: &[&str]) -> GgufError {
    let error = match outcome(bytes) {
        Ok(_) => panic!("accepted; expected an error about {needles:?}"),
        Err(e) => e,
    };
    let message = error.to_string();
    for needle in needles {
        assert!(message.contains(needle), "{needle:?} is not in: {message}");
    }
    error
}

#[track_caller]
fn accepted(bytes: Vec<u8>) -> Gguf {
    match outcome(bytes) {
        Ok(gguf) => gguf,
        Err(e) => panic!("refused: {e}"),
    }
}

#[test]
fn gguf_01_empty_and_prefixes() {
    refused(vec![], &["magic", "byte 0"]);
    refused(b"GGU".to_vec(), &["magic"]);
    refused(b"GGUF".to_vec(), &["version", "byte 4"]);
    refused(b"PK\x03\x04aaaa".to_vec(), &["not a GGUF file", "PK"]);
    let rich = Raw::default()
        .entry(b"numbers", ARRAY, &array(U16, 3, &[0; 6]))
        .entry(b"words", ARRAY, &array(STRING, 2, &[text(b"one"), text(b"two")].concat()))
        .entry(b"nested", ARRAY, &array(ARRAY, 1, &array(BOOL, 2, &[0, 1])));
    let whole = rich.build();
    for n in 0..whole.len() {
        refused(whole[..n].to_vec(), &[]);
    }
    accepted(whole);
}

#[test]
fn gguf_01_prefixes_of_a_model() {
    let whole = std::fs::read(fixture("qwen3-Q4_0.gguf")).unwrap();
    // Every prefix of the header, and of the data those that end at odd places.
    let header = Gguf::from_bytes(whole.clone()).unwrap().tensors().iter().map(|t| t.offset).min().unwrap();
    for n in (0..header as usize).step_by(7).chain((header as usize..whole.len()).step_by(997)) {
        refused(whole[..n].to_vec(), &[]);
    }
    accepted(whole);
}

#[test]
fn gguf_02_magic_and_version() {
    for magic in [*b"FUGG", *b"gguf", *b"GGML", *b"\0\0\0\0"] {
        let error = refused(Raw { magic, ..Raw::default() }.build(), &[]);
        assert_eq!(matches!(error, GgufError::BigEndian { .. }), magic == *b"FUGG", "{error}");
    }
    for version in [2u32, 3] {
        refused(Raw { version: version.swap_bytes(), ..Raw::default() }.build(), &["big-endian", "convert"]);
        assert_eq!(accepted(Raw { version, ..Raw::default() }.build()).version(), version);
    }
    for version in [0, 1, 4, u32::MAX] {
        refused(Raw { version, ..Raw::default() }.build(), &[&version.to_string(), "expected 2 or 3"]);
    }
}

#[test]
fn gguf_03_counts_larger_than_the_file() {
    for count in [1 << 63, u64::MAX, 1 << 32, 1000, 20] {
        let n_tensors = Some(count);
        refused(Raw { n_tensors, ..Raw::default() }.build(), &["tensor count", "byte 8"]);
        let n_entries = Some(count);
        refused(Raw { n_entries, ..Raw::default() }.build(), &["metadata count", "byte 16"]);
    }
    // Small enough to pass the first look, but not there.
    refused(Raw { n_entries: Some(3), ..Raw::default() }.build(), &[]);
    refused(Raw { n_tensors: Some(3), ..Raw::default() }.build(), &[]);
    accepted(Raw { n_tensors: Some(2), n_entries: Some(1), ..Raw::default() }.build());
}

/// A hundred thousand tensors of one number each, as close as an alignment allows.
#[test]
fn gguf_03_as_many_tensors_as_fit() {
    let with = |n: u32, claimed: u32| {
        let tensors = vec![(0..n).flat_map(|i| tensor(format!("{i:x}").as_bytes(), &[], F32, u64::from(i) * 8)).collect()];
        let raw = Raw::default().entry(b"general.alignment", U32, &8u32.to_le_bytes()).tensors(tensors, n as usize * 8);
        Raw { alignment: 8, n_tensors: Some(u64::from(claimed)), ..raw }.build()
    };
    assert_eq!(accepted(with(100_000, 100_000)).tensors().len(), 100_000);
    refused(with(100_000, 100_001), &["tensor 100000"]);
}

#[test]
fn gguf_04_keys() {
    let with_key = |key: &[u8]| Raw::default().entry(key, U8, &[7]).build();
    refused(with_key(b""), &["metadata key 1", "1 to 65535 bytes"]);
    refused(with_key(b"caf\xE9"), &["metadata key 1", "0xE9", "UTF-8"]);
    refused(with_key(b"a\0b"), &["without NUL"]);
    refused(with_key(&[b'k'; 65_536]), &["65536 bytes"]);
    accepted(with_key(&[b'k'; 65_535]));
    assert!(accepted(with_key("café".as_bytes())).get("café").is_some());
    for length in [u64::MAX, 1 << 63, 10_000] {
        let mut raw = Raw::default();
        raw.entries.push([&length.to_le_bytes()[..], b"key", &[0; 32]].concat());
        refused(raw.build(), &["metadata key 1", "ends inside"]);
    }
}

#[test]
fn gguf_04_a_million_tiny_keys() {
    let n = 1_000_000u32;
    let alphabet: Vec<u8> = (1..=127).collect();
    let key = |i: u32| [i % 127, i / 127 % 127, i / 127 / 127].map(|d| alphabet[d as usize]);
    let entries = vec![(0..n).flat_map(|i| entry(&key(i), U8, &[1])).collect()];
    let mut raw = Raw { entries, n_entries: Some(u64::from(n)), ..Raw::default() };
    let gguf = accepted(raw.build());
    assert_eq!(gguf.metadata().len(), n as usize);
    assert!(gguf.get(std::str::from_utf8(&key(999_999)).unwrap()).is_some());
    // The twin: the last key repeats the first.
    let last = entry(&key(n - 1), U8, &[1]).len();
    raw.entries[0].truncate(last * (n as usize - 1));
    raw.entries.push(entry(&key(0), U8, &[1]));
    refused(raw.build(), &["duplicate metadata key"]);
}

#[test]
fn gguf_05_duplicates_and_names() {
    let raw = Raw::default().entry(b"key", U8, &[1]);
    refused(raw.clone().entry(b"key", U32, &[1, 0, 0, 0]).build(), &["duplicate metadata key", "\"key\""]);
    accepted(raw.entry(b"kez", U32, &[1, 0, 0, 0]).build());

    let named = |a: &[u8], b: &[u8]| {
        let both = vec![tensor(a, &[8], F32, 0), tensor(b, &[8], F32, 32)];
        Raw::default().tensors(both, 64).build()
    };
    refused(named(b"w", b"w"), &["duplicate tensor name", "\"w\""]);
    refused(named(b"w", b""), &["name of tensor 1", "0 bytes"]);
    refused(named(b"w", b"v\0"), &["without NUL"]);
    refused(named(b"w", &[b'v'; 65_536]), &["65536 bytes", "1 to 1024"]);
    accepted(named(b"w", &[b'v'; 64]));
    accepted(named(b"w", b"v"));
}

#[test]
fn gguf_06_value_types() {
    let with = |kind, payload: &[u8]| Raw::default().entry(b"key", kind, payload).build();
    for kind in [13, 255, u32::MAX] {
        refused(with(kind, &[0; 16]), &["type of metadata key 1", &kind.to_string()]);
        refused(with(ARRAY, &array(kind, 1, &[0; 16])), &["metadata key 1", &kind.to_string()]);
    }
    accepted(with(12, &[0; 8]));
    refused(with(BOOL, &[2]), &["metadata key \"key\"", "found 2", "0 or 1"]);
    accepted(with(BOOL, &[1]));
    refused(with(ARRAY, &array(BOOL, 3, &[0, 1, 3])), &["found 3"]);
    refused(with(STRING, &text(b"\xFF")), &["metadata key \"key\"", "UTF-8"]);
    refused(with(ARRAY, &array(STRING, 2, &[text(b"ok"), text(b"\xC3")].concat())), &["string 1 of"]);
    accepted(with(ARRAY, &array(STRING, 2, &[text(b"ok"), text(b"\0")].concat())));
}

#[test]
fn gguf_06_arrays_that_do_not_fit() {
    let with = |kind, count| Raw::default().entry(b"key", ARRAY, &array(kind, count, &[])).build();
    // 2^61 × 8 wraps to 0, 2^62 × 4 too, (2^64 / 12) × 12 to something small.
    for (kind, count) in [(U64, 1 << 61), (U32, 1 << 62), (U8, u64::MAX), (STRING, 1 << 61)] {
        refused(with(kind, count), &["metadata key 1", &count.to_string(), "at most"]);
    }
    refused(with(ARRAY, 0x1555_5555_5555_5556), &["metadata key 1"]);
    accepted(with(U64, 0));
    accepted(with(ARRAY, 0));
}

#[test]
fn gguf_06_array_nesting() {
    let nested = |depth: usize| {
        let levels: Vec<u8> = (1..depth).flat_map(|_| array(ARRAY, 1, &[])).collect();
        let payload = [levels, array(U8, 1, &[5])].concat();
        Raw::default().entry(b"key", ARRAY, &payload).build()
    };
    accepted(nested(8));
    refused(nested(9), &["metadata key 1", "nested", "at most 8"]);
    refused(nested(10_000), &["nested"]);
    // Wide rather than deep: half a million empty arrays must not take more memory than allowed.
    for kind in [U8, STRING, ARRAY] {
        let wide: Vec<u8> = (0..500_000).flat_map(|_| array(kind, 0, &[])).collect();
        accepted(Raw::default().entry(b"key", ARRAY, &array(ARRAY, 500_000, &wide)).build());
    }
}

#[test]
fn gguf_07_alignment() {
    let with = |kind, payload: &[u8]| Raw::default().entry(b"general.alignment", kind, payload).build();
    let of = |alignment: u32| with(U32, &alignment.to_le_bytes());
    for alignment in [0, 1, 3, 48, 1 << 31] {
        refused(of(alignment), &["general.alignment", &alignment.to_string(), "power of two"]);
    }
    refused(with(I32, &(-32i32).to_le_bytes()), &["general.alignment", "-32"]);
    refused(with(U64, &(1u64 << 40).to_le_bytes()), &["general.alignment"]);
    refused(with(STRING, &text(b"32")), &["general.alignment", "string"]);
    refused(with(ARRAY, &array(U32, 1, &[32, 0, 0, 0])), &["general.alignment", "array"]);
    assert_eq!(accepted(of(32)).alignment(), 32);
    // Another width of the same number is understood.
    assert_eq!(accepted(with(U64, &32u64.to_le_bytes())).alignment(), 32);
    // 64 does not fit the second tensor, which is at 32.
    let raw = Raw::default().entry(b"general.alignment", U32, &64u32.to_le_bytes());
    refused(Raw { alignment: 64, ..raw }.build(), &["offset of tensor \"b.weight\"", "alignment 64"]);
}

#[test]
fn gguf_04_to_10_errors_say_at_which_byte() {
    let at = |bytes: Vec<u8>, needle: &[u8], message: String| {
        let offset = bytes.windows(needle.len()).rposition(|w| w == needle).unwrap();
        assert!(message.contains(&format!("at byte {offset}")), "{message}");
    };
    let twice = Raw::default().entry(b"key", U8, &[1]).entry(b"key", U8, &[2]).build();
    at(twice.clone(), &text(b"key"), refused(twice, &["duplicate metadata key"]).to_string());
    let both = vec![tensor(b"w", &[8], F32, 0), tensor(b"w", &[8], F32, 32)];
    let twice = Raw::default().tensors(both, 64).build();
    at(twice.clone(), &text(b"w"), refused(twice, &["duplicate tensor name"]).to_string());
    let row = Raw::default().tensors(vec![tensor(b"row", &[255], Q4_K, 0)], 288).build();
    at(row.clone(), &text(b"row"), refused(row, &["rows of 255"]).to_string());
    let wrong = Raw::default().entry(b"n", U8, &[1]).entry(b"general.alignment", U8, &[3]).build();
    at(wrong.clone(), &text(b"general.alignment"), refused(wrong, &["alignment"]).to_string());
    let typed = Raw::default().entry(b"typed", U8, &[1]).build();
    let wrong = bounded(typed.len(), || Gguf::from_bytes(typed.clone())?.get_str("typed").map(str::to_owned));
    at(typed, &text(b"typed"), wrong.unwrap_err().to_string());
}

#[test]
fn gguf_08_architecture() {
    let with = |entries| {
        let bytes = Raw { entries, ..Raw::default() }.build();
        bounded(bytes.len(), || Gguf::from_bytes(bytes).expect("opens").architecture().map(str::to_owned)).map_err(|e| e.to_string())
    };
    let named = |kind, payload: &[u8]| with(vec![entry(b"general.architecture", kind, payload)]);
    let message = with(vec![]).unwrap_err();
    assert!(message.contains("\"general.architecture\" is missing") && message.contains("(in the metadata at byte 24)"), "{message}");
    assert!(named(STRING, &text(b"")).unwrap_err().contains("is empty"));
    assert!(named(U32, &[1, 0, 0, 0]).unwrap_err().contains("is u32 1, expected a string"));
    assert_eq!(named(STRING, &text(&vec![b'x'; 1 << 20])).unwrap().len(), 1 << 20);
    assert_eq!(named(STRING, &text(b"Qwen3")).unwrap(), "Qwen3");
    assert_eq!(named(STRING, &text(b"qwen3")).unwrap(), "qwen3");
}

#[test]
fn gguf_09_dimensions() {
    let with = |dims: &[u64]| Raw::default().tensors(vec![tensor(b"w", dims, F32, 0)], 64).build();
    for n in [5, 9] {
        refused(with(&vec![1; n]), &["dimensions of tensor 0", &format!("found {n}"), "at most 4"]);
    }
    let mut raw = Raw::default().tensors(vec![tensor(b"w", &[4], F32, 0)], 64);
    raw.tensors[0][9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(raw.build(), &["dimensions of tensor 0", "4294967295"]);
    refused(with(&[4, 0]), &["tensor \"w\"", "dimension 0"]);
    refused(with(&[u64::MAX]), &["tensor \"w\"", "dimension 18446744073709551615"]);
    refused(with(&[1 << 32, 1 << 32]), &["tensor \"w\"", "4294967296"]);
    refused(with(&[1 << 62]), &["tensor \"w\""]);
    refused(with(&[(1 << 42) + 1, 1 << 20]), &["tensor \"w\""]);
    refused(with(&[(1 << 42) + 1]), &["tensor \"w\"", "expected to end"]);
    assert_eq!(accepted(with(&[4, 2, 1, 2])).tensors()[0].shape, [2, 1, 2, 4]);
    // No dimensions: a scalar.
    let scalar = accepted(with(&[]));
    assert_eq!((scalar.tensors()[0].elements(), scalar.tensors()[0].bytes), (1, 4));
}

#[test]
fn gguf_10_row_not_multiple_of_block() {
    let with = |dims: &[u64]| Raw::default().tensors(vec![tensor(b"w", dims, Q4_K, 0)], 288).build();
    refused(with(&[255, 2]), &["tensor \"w\"", "rows of 255", "multiple of 256", "Q4_K"]);
    // 512 elements, but not in whole rows.
    refused(with(&[128, 4]), &["rows of 128"]);
    assert_eq!(accepted(with(&[256, 2])).tensors()[0].bytes, 288);
}

#[test]
fn gguf_11_tensor_types() {
    for number in [4, 5, 31, 32, 33, 36, 41, 1000, u32::MAX] {
        let both = vec![tensor(b"odd", &[7, 3], number, 0), tensor(b"w", &[8], F32, 64)];
        let bytes = Raw::default().tensors(both, 96).build();
        let n = bytes.len();
        let gguf = accepted(bytes);
        let odd = gguf.tensor("odd").unwrap();
        assert_eq!((odd.ty, odd.bytes), (TensorType::Unknown(number), 64));
        let error = bounded(n, || gguf.tensor_bytes(odd)).unwrap_err().to_string();
        for needle in [&format!("\"odd\", data at byte {}, is of ggml type {number}", odd.offset), "Q4_K", "BF16"] {
            assert!(error.contains(needle), "{needle:?} is not in: {error}");
        }
        assert!(bounded(n, || gguf.tensor_f32(odd)).is_err());
        assert_eq!(bounded(n, || gguf.tensor_f32(gguf.tensor("w")?)).unwrap(), [0.0; 8]);
    }
    // An opaque tensor still has a place of its own.
    let both = vec![tensor(b"odd", &[8], 1000, 0), tensor(b"w", &[8], F32, 0)];
    refused(Raw::default().tensors(both, 64).build(), &["overlaps"]);
    let outside = vec![tensor(b"odd", &[8], 1000, 64)];
    refused(Raw::default().tensors(outside, 64).build(), &["\"odd\""]);
}

#[test]
fn gguf_12_offsets() {
    let with = |a: u64, b: u64| {
        let both = vec![tensor(b"a", &[16], F32, a), tensor(b"b", &[16], F32, b)];
        Raw::default().tensors(both, 128).build()
    };
    refused(with(0, 65), &["offset of tensor \"b\"", "found 65", "alignment 32"]);
    refused(with(0, 32), &["tensor \"b\"", "overlaps tensor \"a\""]);
    refused(with(32, 0), &["tensor \"a\"", "overlaps tensor \"b\""]);
    refused(with(64, 64), &["overlaps"]);
    refused(with(0, 96), &["tensor \"b\"", "expected to end"]);
    refused(with(0, 1 << 40), &["tensor \"b\"", "expected to end"]);
    refused(with(0, u64::MAX - 31), &["tensor \"b\"", "expected to end"]);
    accepted(with(0, 64));
    let swapped = accepted(with(64, 0));
    let [a, b] = [&swapped.tensors()[0], &swapped.tensors()[1]];
    assert_eq!((a.offset - b.offset, a.name.as_str()), (64, "a"));
}

#[test]
fn gguf_13_data_section() {
    let whole = Raw::default().build();
    refused(whole[..whole.len() - 1].to_vec(), &["tensor \"b.weight\"", "expected to end"]);
    accepted(whole.clone());
    // Bytes after the last tensor and holes between tensors are read past.
    accepted([&whole[..], b"trailing garbage"].concat());
    let apart = vec![tensor(b"a", &[8], F32, 0), tensor(b"b", &[8], F32, 96)];
    accepted(Raw::default().tensors(apart, 128).build());
    // Without tensors there is no data section, not even its padding.
    let mut bare = Raw::default().tensors(vec![], 0);
    bare.alignment = 1;
    accepted(bare.build());
}

#[test]
fn gguf_18_nan_and_zero_weights_load() {
    let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    let mut raw = Raw::default().tensors(vec![tensor(b"norm", &[4], F32, 0)], 0);
    raw.data = specials.iter().flat_map(|v| v.to_le_bytes()).collect();
    let read = |raw: &Raw, name: &str| {
        let bytes = raw.build();
        let file = bytes.len();
        bounded(file, || {
            let gguf = Gguf::from_bytes(bytes)?;
            gguf.tensor_f32(gguf.tensor(name)?)
        })
    };
    let values = read(&raw, "norm").unwrap();
    assert!(values[0].is_nan());
    assert_eq!(values[1..], specials[1..]);
    raw.data.fill(0);
    assert_eq!(read(&raw, "norm").unwrap(), [0.0; 4]);
    // A NaN scale of a block makes the block NaN and nothing else.
    let mut raw = Raw::default().tensors(vec![tensor(b"w", &[64], 8, 0)], 68);
    raw.data[..2].copy_from_slice(&0x7E00u16.to_le_bytes());
    let values = read(&raw, "w").unwrap();
    assert!(values[..32].iter().all(|v| v.is_nan()) && values[32..].iter().all(|v| *v == 0.0));
    raw.data[..2].fill(0);
    assert_eq!(read(&raw, "w").unwrap(), [0.0; 64]);
}
