//! Malformed safetensors files and indices, each beside a valid twin, under bounds on time and memory.

mod common;

use common::{dir_with, safetensors, safetensors_bytes};
use rlx_bounds::{Counting, bounded};
use rlx_core::weights::{MAX_HEADER_BYTES, open_with};
use rlx_core::{Checkpoint, LoadOpts, WeightsError};
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open_at(path: &Path) -> Result<Checkpoint, WeightsError> {
    open_with(LoadOpts::map(), path)
}

fn parse(bytes: &[u8]) -> Result<Checkpoint, WeightsError> {
    let dir = dir_with(&[("model.safetensors", bytes)]);
    let path = dir.path().join("model.safetensors");
    bounded(bytes.len(), || open_at(&path))
}

#[track_caller]
fn refused(bytes: &[u8], part: &str) {
    let message = parse(bytes).expect_err("must be refused").to_string();
    assert!(message.contains("model.safetensors") && message.contains(part), "{message}");
    assert!(message.len() < 1000, "{} bytes of message", message.len());
}

#[track_caller]
fn accepted(bytes: &[u8]) -> Checkpoint {
    parse(bytes).unwrap_or_else(|e| panic!("{e}"))
}

/// Whether the reference implementation takes the file.
fn reference(bytes: &[u8]) -> bool {
    safetensors::SafeTensors::deserialize(bytes).is_ok()
}

const ONE: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn safetensors_19_header_length() {
    accepted(&safetensors(ONE, &[0; 8]));
    let valid = safetensors(ONE, &[0; 8]);
    for n in 0..valid.len() {
        assert!(parse(&valid[..n]).is_err(), "prefix of {n} bytes");
    }
    for length in [1u64 << 63, u64::MAX, MAX_HEADER_BYTES + 1, valid.len() as u64 - 7] {
        let mut bytes = valid.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused(&bytes, "header length at byte 0");
    }
    refused(&safetensors("", &[0; 8]), "header at byte 8: found nothing");
    refused(&[1, 2, 3], "found a file of 3 bytes");
}

#[test]
fn safetensors_20_header_text() {
    accepted(&safetensors(&format!("{ONE}   "), &[0; 8]));
    refused(&safetensors(&format!(" {ONE}"), &[0; 8]), "expected `{`");
    refused(&safetensors_bytes(b"{\"a\xff\":1}", &[]), "at byte 11");
    refused(&safetensors("{not json}", &[]), "header at byte");
    refused(&safetensors("[1]", &[]), "expected `{`");
    refused(&safetensors(&format!("{ONE}{ONE}"), &[0; 8]), "header at byte");
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    refused(&safetensors(&deep, &[]), "\"a\"");
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    let file = safetensors(twice, &[0; 2]);
    refused(&file, &format!("tensor \"a\", data at byte {}, is also in", file.len() - 1));
    accepted(&safetensors(&twice.replacen("\"a\"", "\"b\"", 1), &[0; 2]));
    // The same name in two spellings.
    refused(&safetensors(&twice.replacen("\"a\"", "\"\\u0061\"", 1), &[0; 2]), "is also in");
}

#[test]
fn safetensors_21_offsets() {
    let two = |a: &str, b: &str| {
        format!(r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#)
    };
    accepted(&safetensors(&two("[0,4]", "[4,8]"), &[0; 8]));
    accepted(&safetensors(&two("[4,8]", "[0,4]"), &[0; 8]));
    for (a, b, why) in [
        ("[4,0]", "[4,8]", "ascending"),
        ("[0,4]", "[3,7]", "overlaps"),
        ("[0,4]", "[0,4]", "overlaps"),
        ("[4,8]", "[4,8]", "gap"),
        ("[0,4]", "[4,9999]", "within the 8 bytes"),
        ("[0,4]", "[4,18446744073709551615]", "within the 8 bytes"),
        ("[-1,4]", "[4,8]", "\"a\""),
        ("[0.0,4]", "[4,8]", "\"a\""),
        ("[0,1e400]", "[4,8]", "\"a\""),
        ("[0]", "[4,8]", "\"a\""),
        ("[0,4,8]", "[4,8]", "header at byte"),
    ] {
        refused(&safetensors(&two(a, b), &[0; 8]), why);
    }
    refused(&safetensors(&two("[0,4]", "[5,9]"), &[0; 9]), "gap");
    for (a, b, wrong) in
        [("[4,0]", "[4,8]", "[4,0]"), ("[0,4]", "[3,7]", "[3,7]"), ("[1,4]", "[4,8]", "[1,4]"), ("[0,3]", "[3,8]", "[0,3]")]
    {
        let header = two(a, b);
        refused(&safetensors(&header, &[0; 8]), &format!("data_offsets at byte {} is {}", 8 + header.find(wrong).unwrap(), &wrong[..2]));
    }
    // Of two entries with one name, the wrong one.
    let header = two("[0,4]", "[4,9]").replace("\"b\"", "\"\\u0061\"");
    refused(&safetensors(&header, &[0; 8]), &format!("data_offsets at byte {}", 8 + header.find("[4,9]").unwrap()));
    refused(&safetensors(&two("[0,4]", "[4,8]"), &[0; 9]), "1 more bytes");
    refused(&safetensors(&two("[0,4]", "[4,8]"), &[0; 7]), "within the 7 bytes");
}

#[test]
fn safetensors_22_shapes_and_types() {
    let t = |dtype: &str, shape: &str, end: usize| {
        safetensors(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#), &vec![0; end])
    };
    let c = accepted(&t("F32", "[2,3]", 24));
    assert_eq!(c.get("a").unwrap().shape, [2, 3]);
    refused(&t("F32", "[2,3]", 20), "24 bytes for f32");
    refused(&t("F32", "[9223372036854775808]", 8), "whole number of bytes");
    refused(&t("U8", "[4294967296,4294967296]", 8), "whole number of bytes");
    let header = r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
    refused(&safetensors(header, &[0; 8]), &format!("shape at byte {} is [4294967296", 8 + header.find("[429").unwrap()));
    refused(&t("U8", "[18446744073709551616]", 8), "\"a\"");
    refused(&t("U8", "[-1]", 1), "\"a\"");
    refused(&t("U8", &format!("[{}1]", "1,".repeat(69)), 1), "more than 16 dimensions");
    accepted(&t("U8", &format!("[{}1]", "1,".repeat(15)), 1));
    assert_eq!(accepted(&t("F32", "[]", 4)).get("a").unwrap().bytes().len(), 4);
    assert!(accepted(&t("F32", "[0,7]", 0)).get("a").unwrap().bytes().is_empty());
    refused(&t("F4", "[3]", 2), "whole number of bytes");
    // Whole bytes of a type without meaning here: opens, and is refused at use.
    let opaque = t("F4", "[4]", 2);
    let (n, checkpoint) = (opaque.len(), accepted(&opaque));
    let message = bounded(n, || checkpoint.get("a")).unwrap_err().to_string();
    assert!(message.contains(&format!("\"a\", data at byte {}", n - 2)) && message.contains("F4") && message.contains("bf16"), "{message}");
    refused(&t("F31", "[1]", 4), "\"a\": unknown variant `F31`");
}

#[test]
fn safetensors_23_metadata_and_names() {
    let with = |more: &str| safetensors(&format!(r#"{{{more},{}"#, &ONE[1..]), &[0; 8]);
    accepted(&with(r#""__metadata__":{"format":"pt"}"#));
    accepted(&with(r#""__metadata__":null"#));
    refused(&with(r#""__metadata__":{"format":1}"#), "expected a string");
    refused(&with(r#""__metadata__":[]"#), "object of strings");
    refused(&with(r#""__metadata__":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#), "expected a string");
    refused(&with(r#""__metadata__":{},"__metadata__":{}"#), "twice");
    let named = |name: &str| with(&format!(r#""{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#));
    refused(&named(""), "1 to 4096 bytes");
    refused(&named("a\\u0000b"), "without NUL");
    refused(&named(&"x".repeat(1 << 20)), "1 to 4096 bytes");
    accepted(&named(&"x".repeat(4096)));
    // Names never become paths.
    assert!(accepted(&named("a/../../b")).find("a/../../b").is_some());
}

#[test]
fn safetensors_many_tensors_stay_within_the_bounds() {
    let mut header = String::from("{");
    for i in 0..20_000 {
        header += &format!(r#"{}"{i:x}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, if i > 0 { "," } else { "" }, i + 1);
    }
    header += "}";
    assert_eq!(accepted(&safetensors(&header, &vec![0; 20_000])).tensors().len(), 20_000);
}

fn shard(name: &str) -> Vec<u8> {
    safetensors(&ONE.replace("\"a\"", &format!("\"{name}\"")), &[0; 8])
}

fn sharded(index: &str, files: &[(&str, &[u8])]) -> Result<Checkpoint, WeightsError> {
    let mut all = vec![("model.safetensors.index.json", index.as_bytes())];
    all.extend_from_slice(files);
    let dir = dir_with(&all);
    let input = all.iter().map(|f| f.1.len()).sum();
    bounded(input, || open_at(dir.path()))
}

#[test]
fn safetensors_24_index() {
    let (a, b) = (shard("a"), shard("b"));
    let files: [(&str, &[u8]); 2] = [("m-1.safetensors", &a), ("m-2.safetensors", &b)];
    let index = |map: &str| format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{{{map}}}}}"#);
    let valid = index(r#""a":"m-1.safetensors","b":"m-2.safetensors""#);
    let c = sharded(&valid, &files).unwrap();
    assert_eq!((c.tensors().len(), c.files().len(), c.total_bytes()), (2, 2, 16));
    for (map, why) in [
        (r#""a":"/etc/m.safetensors""#, "without directories"),
        (r#""a":"../m-1.safetensors""#, "without directories"),
        (r#""a":"x/m-1.safetensors""#, "without directories"),
        (r#""a":"x\\m-1.safetensors""#, "without directories"),
        (r#""a":"m.bin""#, "without directories"),
        (r#""a":"","b":"m-2.safetensors""#, "without directories"),
        (r#""a":"m-2.safetensors","b":"m-2.safetensors""#, "\"a\" in no shard"),
        (r#""a":"m-2.safetensors","b":"m-1.safetensors""#, "\"a\" in \"m-1.safetensors\""),
        (r#""a":"m-1.safetensors","a":"m-2.safetensors""#, "\"a\" in \"m-1.safetensors\""),
        (r#""a":"m-1.safetensors","c":"m-2.safetensors""#, "\"c\" in no shard"),
        (
            r#""a":"m-1.safetensors","b":"m-3.safetensors","c":"m-4.safetensors""#,
            "2 of 3 shards are missing: m-3.safetensors, m-4.safetensors",
        ),
        ("", "no tensors"),
        (r#""a":7"#, "index at byte"),
    ] {
        let message = sharded(&index(map), &files).expect_err(map).to_string();
        assert!(message.contains(why), "{map}: {message}");
        assert!(why.contains("missing") || message.contains(" at byte "), "{map}: {message}");
    }
    for (map, wrong, nth) in [
        (r#""a":"../m-1.safetensors""#, "\"..", 0),
        (r#""a":"m-1.safetensors","c":"m-2.safetensors""#, "\"m-2", 0),
        (r#""a":"m-1.safetensors","a":"m-2.safetensors""#, "\"m-2", 0),
        ("", "{", 2),
    ] {
        let text = index(map);
        let at = text.match_indices(wrong).nth(nth).unwrap().0;
        let message = sharded(&text, &files).expect_err(map).to_string();
        assert!(message.contains("index.json: ") && message.contains(&format!(" at byte {at}: found ")), "{at}: {message}");
    }
    for bad in ["", "[]", "{}", "{\"weight_map\":3}", "{\"weight_map\":{\"a\":\"m-1.safetensors\"}", "\u{1}"] {
        assert!(sharded(bad, &files).is_err(), "{bad}");
    }
    let message = sharded(&valid, &[("m-1.safetensors", &a), ("m-2.safetensors", &a)]).unwrap_err().to_string();
    assert!(
        message.contains(&format!("\"a\", data at byte {}, is also in", a.len() - 8)) && message.contains("m-1.safetensors"),
        "{message}"
    );
    let many: Vec<String> = (0..1_000_000).map(|i| format!(r#""t{i}":"m-{i}.safetensors""#)).collect();
    let message = sharded(&index(&many.join(",")), &files).unwrap_err().to_string();
    assert!(message.contains("at most 4096 shards"), "{message}");
}

#[test]
fn safetensors_17_paths_that_are_no_files() {
    let dir = dir_with(&[]);
    let open_at = |path: &Path| bounded(0, || open_at(path));
    assert!(matches!(open_at(dir.path()), Err(WeightsError::NotFound { .. })));
    assert!(matches!(open_at(&dir.path().join("absent")), Err(WeightsError::Io { .. })));
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(open_at(dir.path()), Err(WeightsError::NotAFile { found: "a directory", .. })));
    #[cfg(unix)]
    {
        assert!(matches!(open_at(Path::new("/dev/null")), Err(WeightsError::NotAFile { found: "a device", .. })));
        let fifo = dir.path().join("x.safetensors");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert!(matches!(open_at(&fifo), Err(WeightsError::NotAFile { found: "a FIFO", .. })));
        let at = dir.path().join("loop.safetensors");
        std::os::unix::fs::symlink(&at, &at).unwrap();
        assert!(matches!(open_at(&at), Err(WeightsError::Io { .. })));
        // The twin: a link to a file.
        let (link, file) = (dir.path().join("link.safetensors"), dir.path().join("file.safetensors"));
        std::fs::write(&file, safetensors(ONE, &[0; 8])).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(open_at(&link).unwrap().tensors().len(), 1);
    }
}

#[test]
fn safetensors_17_a_file_that_shrinks_after_opening_is_an_error_at_use() {
    let dir = dir_with(&[("model.safetensors", &safetensors(ONE, &[7; 8]))]);
    let c = open_at(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let kept = c.get("a").unwrap().data;
    assert!(kept.is_mapped() && *kept == [7; 8]);
    let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, b"x").unwrap();
    assert_eq!(bounded(0, || c.get("a").map(|v| v.data)).unwrap().to_vec(), [7; 8]);
    file.set_len(20).unwrap();
    assert!(matches!(bounded(0, || c.get("a")), Err(WeightsError::Shrunk { found: 20, .. })));
}

#[test]
fn tensor_data_outlives_the_checkpoint_and_crosses_threads() {
    let dir = dir_with(&[("model.safetensors", &safetensors(ONE, &[1, 2, 3, 4, 5, 6, 7, 8]))]);
    let data = open_at(dir.path()).unwrap().get("a").unwrap().data;
    let sum = std::thread::spawn(move || data.iter().map(|b| u32::from(*b)).sum::<u32>());
    assert_eq!(sum.join().unwrap(), 36);
}

mod against_the_reference {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = (String, String, Vec<usize>)> {
        let dtype = prop::sample::select(vec!["U8", "F16", "BF16", "F32", "I64", "F8_E4M3", "BOOL"]);
        ("[a-z.]{1,12}", dtype.prop_map(str::to_owned), prop::collection::vec(0usize..4, 0..4))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        /// Files that the reference writes open, with the same tensors.
        #[test]
        fn what_the_reference_writes_opens(entries in prop::collection::vec(entry(), 0..6)) {
            let mut by_name = std::collections::BTreeMap::new();
            for (name, dtype, shape) in entries {
                let dtype: safetensors::Dtype = serde_json::from_value(dtype.into()).unwrap();
                let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                by_name.insert(name, (dtype, shape, vec![3u8; bytes]));
            }
            let views = by_name.iter().map(|(n, (d, s, b))| (n.clone(), safetensors::tensor::TensorView::new(*d, s.clone(), b).unwrap()));
            let bytes = safetensors::serialize(views, None).unwrap();
            let c = accepted(&bytes);
            prop_assert_eq!(c.tensors().len(), by_name.len());
            for (name, (_, shape, data)) in &by_name {
                let view = c.get(name).unwrap();
                prop_assert_eq!(view.shape, &shape[..]);
                prop_assert_eq!(view.bytes(), &data[..]);
            }
        }

        /// One changed byte: never a panic, and nothing opens that the reference refuses.
        #[test]
        fn nothing_opens_that_the_reference_refuses(at in 0usize..120, to in any::<u8>()) {
            let mut bytes = safetensors(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1,2],"data_offsets":[8,10]}}"#, &[0; 10]);
            bytes[at] = to;
            if parse(&bytes).is_ok() {
                prop_assert!(reference(&bytes));
            }
        }
    }
}
