//! Opening real files, split sets and paths that are no files; reading back what the writer wrote.

mod common;

use common::fixture;
use rlx_bounds::{Counting, bounded};
use rlx_gguf::{Array, BlockFormat, Gguf, GgufError, GgufWriter, StringArray, TensorType, Value};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens a small file or set under the bounds of hostile ones: its own size is not counted.
fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
    bounded(0, || Gguf::open(path))
}

#[test]
fn a_model_opens_with_its_metadata_and_tensors() {
    let gguf = Gguf::open(fixture("qwen3-Q4_0.gguf")).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.architecture().unwrap()), (3, 32, "qwen3"));
    assert_eq!(gguf.path(), Some(fixture("qwen3-Q4_0.gguf").as_path()));
    let hidden = u64::from(gguf.get_u32("qwen3.embedding_length").unwrap());
    let embed = gguf.tensor("token_embd.weight").unwrap();
    let tokens = gguf.get_str_array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(embed.shape, [tokens.len() as u64, hidden]);
    assert_eq!(tokens.iter().count(), tokens.len());
    assert_eq!(tokens.iter().nth(5), tokens.get(5));
    assert!(gguf.get_f32("qwen3.attention.layer_norm_rms_epsilon").unwrap() > 0.0);
    let types = gguf.get_u32_array("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types.len(), tokens.len());
    let blocks = gguf.tensors().iter().filter(|t| t.ty == TensorType::Block(BlockFormat::Q4_0)).count();
    assert!(blocks > 0);
    for t in gguf.tensors() {
        assert_eq!(gguf.tensor_f32(t).unwrap().len() as u64, t.elements(), "{}", t.name);
        assert_eq!(gguf.tensor(&t.name).unwrap(), t);
    }
}

#[test]
fn every_oracle_file_opens() {
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    if !oracle.exists() {
        // To stderr itself: what macros print is shown for failing tests alone.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: {} is absent, so its files were not opened", oracle.display());
        return;
    }
    let (mut folders, mut files) = (vec![oracle], 0);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "gguf") {
                let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
                for t in gguf.tensors() {
                    assert_eq!(gguf.tensor_f32(t).unwrap().len() as u64, t.elements(), "{}", path.display());
                }
                files += 1;
            }
        }
    }
    assert!(files > 0, "the oracle has GGUF files");
}

fn every_value() -> Vec<(&'static str, Value)> {
    let words: StringArray = ["", "one", "zwei ü"].into_iter().collect();
    let inner = [Array::I8([-1, 2].into()), Array::String(words.clone())];
    vec![
        ("u8", 200u8.into()),
        ("i8", (-100i8).into()),
        ("u16", 60_000u16.into()),
        ("i16", (-30_000i16).into()),
        ("u32", 4_000_000_000u32.into()),
        ("i32", (-2_000_000_000i32).into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f32", 1.5f32.into()),
        ("f64", 1e300f64.into()),
        ("bool", true.into()),
        ("string", "grüße\0".into()),
        ("words", words.into()),
        ("a.u8", vec![1u8, 2].into()),
        ("a.i8", vec![-1i8].into()),
        ("a.u16", vec![1u16].into()),
        ("a.i16", vec![-1i16].into()),
        ("a.u32", vec![1u32, 70_000].into()),
        ("a.i32", vec![1i32, -1].into()),
        ("a.u64", vec![1u64].into()),
        ("a.i64", vec![-1i64].into()),
        ("a.f32", vec![0.5f32, 0.25].into()),
        ("a.f64", vec![0.5f64].into()),
        ("a.bool", vec![true, false].into()),
        ("a.empty", Vec::<f32>::new().into()),
        ("nested", Value::Array(Box::new(Array::Array(inner.into())))),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    for alignment in [8u32, 32, 4096] {
        let mut writer = GgufWriter::new();
        writer.put("general.alignment", alignment).unwrap();
        for (key, value) in every_value() {
            writer.put(key, value).unwrap();
        }
        let x: Vec<f32> = (0..64).map(|i| i as f32 - 31.5).collect();
        let mut blocks = vec![0; 68];
        BlockFormat::Q8_0.quantize(&x, &mut blocks).unwrap();
        let floats: Vec<u8> = [1.0f32, -2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor("w", TensorType::Block(BlockFormat::Q8_0), &[2, 32], &blocks[..]).unwrap();
        writer.tensor("bias", TensorType::F32, &[3], &floats[..]).unwrap();
        writer.tensor("scalar", TensorType::F32, &[], &floats[..4]).unwrap();
        let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        let mut expected = vec![("general.alignment", Value::U32(alignment))];
        expected.extend(every_value());
        let read: Vec<_> = gguf.metadata().iter().map(|(k, v)| (k, v.clone())).collect();
        assert_eq!(read, expected);
        for (key, value) in expected {
            assert_eq!(gguf.get(key), Some(&value));
        }
        assert_eq!(gguf.tensor("w").unwrap().shape, [2, 32]);
        assert_eq!(gguf.tensor_bytes(gguf.tensor("w").unwrap()).unwrap(), blocks);
        assert_eq!(gguf.tensor_f32(gguf.tensor("bias").unwrap()).unwrap(), [1.0, -2.0, 3.0]);
        assert_eq!(gguf.tensor_f32(gguf.tensor("scalar").unwrap()).unwrap(), [1.0]);
        assert!(gguf.tensors().iter().all(|t| t.offset % u64::from(alignment) == 0));
    }
}

#[test]
fn getters_convert_widths_and_name_what_is_wrong() {
    let mut writer = GgufWriter::new();
    for (key, value) in every_value() {
        writer.put(key, value).unwrap();
    }
    let gguf = Gguf::from_bytes(writer.to_bytes()).unwrap();
    assert_eq!(gguf.get_u32("u8").unwrap(), 200);
    assert_eq!(gguf.require::<u64>("u64").unwrap(), u64::MAX);
    assert_eq!(gguf.require::<i32>("i8").unwrap(), -100);
    assert_eq!(gguf.get_u32_array("a.u8").unwrap(), [1, 2]);
    assert_eq!(gguf.require::<Vec<i64>>("a.i32").unwrap(), [1, -1]);
    assert_eq!(gguf.require::<Vec<f32>>("a.f64").unwrap(), [0.5]);
    assert!(gguf.get_bool("bool").unwrap());
    assert_eq!(gguf.get_str("string").unwrap(), "grüße\0");
    assert_eq!(gguf.find::<u32>("absent").unwrap(), None);
    let message = |e: GgufError| e.to_string();
    let missing = message(gguf.get_u32("absent").unwrap_err());
    assert!(missing.contains("\"absent\" is missing, expected an integer in the range of u32 (in the metadata at byte 24)"), "{missing}");
    let range = message(gguf.get_u32("i8").unwrap_err());
    assert!(range.contains("\"i8\" at byte ") && range.contains("is i8 -100, expected an integer"), "{range}");
    let kind = message(gguf.get_f32("string").unwrap_err());
    assert!(kind.contains("\"string\" at byte ") && kind.contains("is string, expected a float"), "{kind}");
    let array = message(gguf.get_u32_array("a.i32").unwrap_err());
    assert!(array.contains("array of 2 i32"), "{array}");
    assert!(gguf.find::<bool>("u8").is_err() && gguf.get_str_array("a.u8").is_err());
    assert!(message(gguf.tensor("w").unwrap_err()).contains("no tensor named \"w\""));
}

/// Where the entry of a key begins: with the length of the key.
fn entry(bytes: &[u8], key: &str) -> u64 {
    let named = [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
    bytes.windows(named.len()).position(|w| w == named).unwrap() as u64
}

#[test]
fn entries_and_elements_have_their_place_in_the_file() {
    let mut writer = GgufWriter::new();
    for (key, value) in every_value() {
        writer.put(key, value).unwrap();
    }
    writer.put("listed", ["", "two", "grüße", "four"].into_iter().collect::<rlx_gguf::StringArray>()).unwrap();
    let bytes = writer.to_bytes();
    let gguf = Gguf::from_bytes(bytes.clone()).unwrap();
    for key in ["u8", "string", "a.f64", "listed"] {
        assert_eq!(gguf.offset_of(key), entry(&bytes, key), "{key}");
    }
    let word = |text: &str| entry(&bytes, text);
    assert_eq!([1, 2, 3].map(|n| gguf.offset_of_element("listed", n)), ["two", "grüße", "four"].map(word));
    // Key, type, type of elements, count: then numbers of four bytes.
    let numbers = entry(&bytes, "a.i32") + 8 + 5 + 4 + 4 + 8;
    assert_eq!([0, 1].map(|n| gguf.offset_of_element("a.i32", n)), [numbers, numbers + 4]);
    // What has no such element is pointed at as a whole, and what is absent is missed from all metadata.
    assert_eq!(gguf.offset_of_element("listed", 4), entry(&bytes, "listed"));
    assert_eq!(gguf.offset_of_element("u8", 0), entry(&bytes, "u8"));
    assert_eq!((gguf.offset_of("absent"), gguf.offset_of_element("absent", 1)), (24, 24));
}

#[test]
fn the_writer_refuses_what_could_not_be_read() {
    let mut w = GgufWriter::new();
    w.put("key", 1u32).unwrap();
    assert!(w.put("key", 2u32).is_err() && w.put("", 1u32).is_err());
    assert!(w.put("general.alignment", 12u32).is_err());
    let q4 = TensorType::Block(BlockFormat::Q4_0);
    assert!(w.tensor("w", q4, &[16, 2], vec![0; 18]).is_err());
    assert!(w.tensor("w", q4, &[32], vec![0; 17]).is_err());
    assert!(w.tensor("w", TensorType::F32, &[0], vec![]).is_err());
    assert!(w.tensor("w", TensorType::F32, &[1; 5], vec![0; 4]).is_err());
    w.tensor("w", q4, &[32], vec![0; 18]).unwrap();
    let again = w.tensor("w", q4, &[32], vec![0; 18]).unwrap_err().to_string();
    assert!(again.contains("\"w\""), "{again}");
    assert_eq!(Gguf::from_bytes(w.to_bytes()).unwrap().tensors().len(), 1);
}

/// One part of a split file with a tensor `t<no>`.
fn part(no: u16, count: u16, architecture: Option<&str>) -> GgufWriter<'static> {
    let mut w = GgufWriter::new();
    w.put("split.no", no).unwrap().put("split.count", count).unwrap();
    w.put("split.tensors.count", i32::from(count)).unwrap();
    if let Some(name) = architecture {
        w.put("general.architecture", name).unwrap();
    }
    let value = f32::from(no).to_le_bytes().to_vec();
    w.tensor(&format!("t{no}"), TensorType::F32, &[1], value).unwrap();
    w
}

fn save(folder: &Path, name: &str, w: &GgufWriter<'_>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, w.to_bytes()).unwrap();
    path
}

#[test]
fn gguf_16_split_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let first = save(dir, "m-00001-of-00003.gguf", &part(0, 3, Some("qwen3")));
    let second = save(dir, "m-00002-of-00003.gguf", &part(1, 3, None));
    let error = open(&second).unwrap_err();
    assert!(matches!(&error, GgufError::MissingParts { count: 3, missing, .. } if missing.len() == 1));
    assert!(error.to_string().contains("m-00003-of-00003.gguf"), "{error}");

    save(dir, "m-00003-of-00003.gguf", &part(2, 3, Some("qwen3")));
    for start in [&first, &second] {
        let gguf = open(start).unwrap();
        assert_eq!((gguf.architecture().unwrap(), gguf.paths().count()), ("qwen3", 3));
        assert_eq!(gguf.path(), Some(first.as_path()));
        for no in 0..3u16 {
            let t = gguf.tensor(&format!("t{no}")).unwrap();
            assert_eq!((t.part, gguf.tensor_f32(t).unwrap()), (u32::from(no), vec![f32::from(no)]));
        }
    }

    let broken = |w: &GgufWriter<'_>, needles: &[&str]| {
        save(dir, "m-00002-of-00003.gguf", w);
        let error = open(&first).unwrap_err().to_string();
        assert!(needles.iter().all(|n| error.contains(n)), "{needles:?} not all in: {error}");
        if let Some(key) = needles.get(1).and_then(|n| n.split(' ').next()).filter(|key| ["split.no", "split.count"].contains(key)) {
            let at = entry(&w.to_bytes(), key);
            assert!(error.ends_with(&format!("(at byte {at})")), "{at}: {error}");
        }
    };
    broken(&part(1, 3, Some("llama")), &["00002-of", "general.architecture", "llama", "qwen3"]);
    broken(&part(0, 3, None), &["00002-of", "split.no is 0", "expected 1"]);
    broken(&part(1, 2, None), &["00002-of", "split.count is 2", "expected 3"]);
    let mut same_tensor = GgufWriter::new();
    same_tensor.put("split.no", 1u16).unwrap().put("split.count", 3u16).unwrap();
    same_tensor.tensor("t2", TensorType::F32, &[1], vec![0; 4]).unwrap();
    broken(&same_tensor, &["duplicate tensor name \"t2\""]);
    let mut more_tensors = part(1, 3, None);
    more_tensors.tensor("extra", TensorType::F32, &[1], vec![0; 4]).unwrap();
    broken(&more_tensors, &["split.tensors.count is 3", "expected 4"]);
}

#[test]
fn gguf_16_split_counts_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let refused = |name: &str, w: &GgufWriter<'_>, needle: &str| {
        let error = open(save(dir, name, w)).unwrap_err().to_string();
        assert!(error.contains(needle), "{needle:?} is not in: {error}");
        if let Some(key) = needle.split(' ').next().filter(|key| key.starts_with("split.")) {
            let at = entry(&w.to_bytes(), key);
            assert!(error.ends_with(&format!("(at byte {at})")), "{at}: {error}");
        }
    };
    refused("n-00001-of-65535.gguf", &part(0, 65_535, None), "split.count is 65535, expected at most 1024");
    refused("n-00001-of-00002.gguf", &part(2, 2, None), "split.no is 2, expected less than");
    refused("renamed.gguf", &part(0, 2, None), "expected a name that ends in -00001-of-00002.gguf");
    refused("n-00002-of-00002.gguf", &part(0, 2, None), "expected a name that ends in -00001-of-00002.gguf");
    // Names in the metadata are not followed.
    let mut w = part(0, 2, None);
    w.put("split.names", "../other.gguf").unwrap();
    refused("..-00001-of-00002.gguf", &w, "\"..-00002-of-00002.gguf\"");
    // gguf-split writes 0 into merged files; a part in memory stands alone.
    for count in [0, 1] {
        open(save(dir, "merged.gguf", &part(0, count, Some("qwen3")))).unwrap();
    }
    assert_eq!(Gguf::from_bytes(part(1, 2, None).to_bytes()).unwrap().tensors().len(), 1);
}

#[cfg(unix)]
#[test]
fn gguf_16_a_part_that_is_another_part() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let first = save(dir, "m-00001-of-00002.gguf", &part(0, 2, Some("qwen3")));
    let second = dir.join("m-00002-of-00002.gguf");
    std::os::unix::fs::symlink(&first, &second).unwrap();
    for start in [&first, &second] {
        let error = open(start).unwrap_err().to_string();
        assert!(error.contains("00002-of-00002") && error.contains("split"), "{error}");
    }
    fs::remove_file(&second).unwrap();
    save(dir, "m-00002-of-00002.gguf", &part(1, 2, None));
    assert_eq!(open(&first).unwrap().tensors().len(), 2);
}

#[test]
fn gguf_17_file_shrunk_after_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), "m.gguf", &part(0, 0, None));
    let gguf = open(&path).unwrap();
    let tensor = gguf.tensor("t0").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len();
    // A file that grew still has what it had.
    for length in [whole, whole + 100] {
        file.set_len(length).unwrap();
        assert_eq!(bounded(0, || gguf.tensor_bytes(tensor)).unwrap(), [0; 4]);
        assert_eq!(bounded(0, || gguf.tensor_f32(tensor)).unwrap(), [0.0]);
    }
    for length in [100, whole - 1, 0] {
        file.set_len(length).unwrap();
        for error in [bounded(0, || gguf.tensor_bytes(tensor).map(drop)), bounded(0, || gguf.tensor_f32(tensor).map(drop))] {
            let error = error.unwrap_err();
            assert!(matches!(error, GgufError::Shrunk { found, .. } if found == length), "{error}");
        }
    }
}

#[test]
fn gguf_17_paths_that_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let error = |path: &Path| open(path).unwrap_err().to_string();
    assert!(error(dir).contains("found a directory"));
    assert!(error(&dir.join("absent.gguf")).contains("absent.gguf"));
    fs::write(dir.join("empty.gguf"), b"").unwrap();
    assert!(error(&dir.join("empty.gguf")).contains("empty.gguf: the file ends inside the magic"));
    open(save(dir, "m.gguf", &part(0, 0, None))).unwrap();
}

#[cfg(unix)]
#[test]
fn gguf_17_fifos_devices_and_symlinks() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let error = |path: &Path| open(path).unwrap_err().to_string();
    let fifo = dir.join("fifo.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(error(&fifo).contains("found a FIFO"), "and does not wait for a writer");
    assert!(error(Path::new("/dev/zero")).contains("found a device"));
    let _socket = UnixListener::bind(dir.join("s.gguf")).unwrap();
    assert!(error(&dir.join("s.gguf")).contains("found a socket"));
    symlink(dir.join("loop.gguf"), dir.join("loop.gguf")).unwrap();
    assert!(error(&dir.join("loop.gguf")).contains("loop.gguf: "));
    // The twin: a link to a file, as in the cache of a hub.
    symlink(save(dir, "m.gguf", &part(0, 0, None)), dir.join("link.gguf")).unwrap();
    open(dir.join("link.gguf")).unwrap();
}

/// Data that is streamed in arbitrary pieces makes the same file as data given at once; too little and too much are refused.
#[test]
fn streamed_data_makes_the_same_file() {
    let data: [Vec<u8>; 3] = [(0..20).collect(), (0..34).collect(), (0..64).collect()];
    let shapes: [(TensorType, &[u64]); 3] =
        [(TensorType::F32, &[5]), (TensorType::Block(BlockFormat::Q8_0), &[1, 32]), (TensorType::F16, &[2, 16])];
    let (mut whole, mut declared) = (GgufWriter::new(), GgufWriter::new());
    for w in [&mut whole, &mut declared] {
        w.put("general.architecture", "x").unwrap();
    }
    for (i, ((ty, shape), bytes)) in shapes.iter().zip(&data).enumerate() {
        whole.tensor(&format!("t{i}"), *ty, shape, bytes.clone()).unwrap();
        declared.declare(&format!("t{i}"), *ty, shape).unwrap();
    }
    let all = data.concat();
    for piece in [1, 7, 1000] {
        let mut out = Vec::new();
        let mut stream = declared.stream(&mut out).unwrap();
        all.chunks(piece).for_each(|c| stream.write_all(c).unwrap());
        stream.finish().unwrap();
        assert_eq!(out, whole.to_bytes(), "in pieces of {piece}");
    }
    let mut stream = declared.stream(Vec::new()).unwrap();
    stream.write_all(&all[..60]).unwrap();
    assert!(stream.finish().unwrap_err().to_string().contains("1 tensors is missing"));
    let mut stream = declared.stream(Vec::new()).unwrap();
    stream.write_all(&all).unwrap();
    assert!(stream.write_all(&[0]).unwrap_err().to_string().contains("more data"));
    assert!(declared.write_to(&mut Vec::new()).unwrap_err().to_string().contains("\"t0\" has no data"));
}

/// Looking at a file from afar: every beginning either says that the header goes on, and how far at least, or is enough.
#[test]
fn a_header_is_read_from_the_beginning_of_a_file() {
    let path = fixture("qwen3-Q4_0.gguf");
    let (bytes, whole) = (fs::read(&path).unwrap(), Gguf::open(&path).unwrap());
    let (mut have, mut steps) = (0, 0);
    let gguf = loop {
        match Gguf::from_prefix(&bytes[..have], bytes.len() as u64, &path) {
            Ok(gguf) => break gguf,
            Err(GgufError::Prefix { found, expected, .. }) => {
                assert!(found == have as u64 && expected > found && expected <= bytes.len() as u64, "{found} {expected}");
                have = expected as usize;
                steps += 1;
            }
            Err(e) => panic!("{e}"),
        }
    };
    assert!(steps > 10 && have < bytes.len());
    assert_eq!((gguf.tensors(), gguf.metadata().len()), (whole.tensors(), whole.metadata().len()));
    let last = gguf.tensors().last().unwrap();
    assert!(matches!(gguf.tensor_bytes(last), Err(GgufError::OutOfFile { .. })));
    let short = Gguf::from_prefix(&bytes[..have], have as u64, &path);
    assert!(matches!(short, Err(GgufError::OutOfFile { .. })), "{short:?}");
}
