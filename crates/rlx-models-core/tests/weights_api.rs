//! The one way from a path to weights: options, names, architectures, registered formats, drafting heads.

mod common;

use common::{dir_with, fixture, safetensors};
use rlx_bounds::{Counting, bounded};
use rlx_core::names::{HeadCounts, Heads};
use rlx_core::registry::{FamilyError, assert_family, assert_gguf_family, register};
use rlx_core::weights::{
    Access, FileTensor, ResolveWeightsOptions, WeightMap, WeightsReader, gguf_validate_arch, load_weight_map, open_map, open_map_with,
    open_with, register_format, register_gguf_tensor_resolver, resolve_weights,
};
use rlx_core::{Family, LoadOpts, NameTable, Rule, Transform, WeightFormat, WeightsError};
use rlx_gguf::{Gguf, GgufWriter, TensorType};
use rlx_ir::DType;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn gguf(arch: &str, tensors: &[(&str, &[u64], Vec<f32>)]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.put("general.architecture", arch).unwrap();
    if arch.len() < 100 {
        writer.put(&format!("{arch}.attention.head_count"), 1u32).unwrap();
    }
    for (name, shape, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(name, TensorType::F32, shape, bytes).unwrap();
    }
    writer.to_bytes()
}

fn floats(map: &WeightMap, name: &str) -> Vec<f32> {
    let view = map.get(name).unwrap_or_else(|e| panic!("{e}"));
    view.bytes().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn both_formats_open_as_one_map_by_checkpoint_names() {
    const TABLE: NameTable = NameTable {
        rules: &[
            Rule::new("model.norm.weight", "output_norm.weight"),
            Rule::with("q.weight", "attn_q.weight", Transform::LlamaRopeRows(Heads::Query)),
        ],
        tolerated: &[],
    };
    assert!(register_gguf_tensor_resolver("named", Arc::new(TABLE)).is_none());
    let tensors = [("output_norm.weight", &[2u64][..], vec![1f32, 2.0]), ("attn_q.weight", &[4, 1], vec![0f32, 2.0, 1.0, 3.0])];
    let dir = dir_with(&[("a.gguf", &gguf("named", &tensors)), ("b.gguf", &gguf("nameless", &tensors))]);
    let map = open_map(dir.path().join("a.gguf")).unwrap();
    assert_eq!(map.iter().map(|t| t.0).collect::<Vec<_>>(), ["q.weight", "model.norm.weight"]);
    assert_eq!(floats(&map, "model.norm.weight"), [1.0, 2.0]);
    assert_eq!(floats(&map, "q.weight"), [0.0, 1.0, 2.0, 3.0], "the metadata has the head count that the arrangement needs");
    // Where nobody translates, names are those of the file.
    let plain = open_map(dir.path().join("b.gguf")).unwrap();
    assert!(plain.has("output_norm.weight") && !plain.has("model.norm.weight"));
    let hf = open_map(fixture("qwen3")).unwrap();
    assert!(hf.has("model.norm.weight") && hf.get("model.norm.weight").unwrap().data.is_mapped());
}

#[test]
fn an_application_overrides_the_names_of_a_family() {
    const FAMILY: NameTable = NameTable { rules: &[Rule::new("a.weight", "A.weight"), Rule::new("b.weight", "B.weight")], tolerated: &[] };
    const OTHER: NameTable = NameTable { rules: &[Rule::new("a.weight", "odd.weight")], tolerated: &[] };
    register_gguf_tensor_resolver("overridden", Arc::new(OTHER));
    let dir = dir_with(&[("a.gguf", &gguf("overridden", &[("odd.weight", &[1], vec![1.0]), ("B.weight", &[1], vec![2.0])]))]);
    let map = WeightMap::new(open_with(LoadOpts::map(), dir.path()).unwrap(), &FAMILY, HeadCounts::default());
    assert_eq!((floats(&map, "a.weight"), floats(&map, "b.weight")), (vec![1.0], vec![2.0]));
    map.check(["a.weight", "b.weight"], &[]).unwrap();
}

#[test]
fn options_choose_the_file() {
    let one = gguf("toy", &[("a", &[1], vec![1.0])]);
    let dir = dir_with(&[("m-F16.gguf", &one), ("m-Q4_K_M.gguf", &one), ("m-Q8_0.gguf", &one)]);
    let name = |opts: LoadOpts| open_map_with(opts, dir.path()).unwrap().checkpoint().path().file_name().unwrap().to_owned();
    assert_eq!(name(LoadOpts::map().prefer_q4_k_m()), "m-Q4_K_M.gguf");
    assert_eq!(name(LoadOpts::map().prefer_quant("Q8_0").prefer_q4_k_m()), "m-Q4_K_M.gguf");
    assert_eq!(name(LoadOpts::loader().prefer_quant("F16")), "m-F16.gguf");
    let mut opts = ResolveWeightsOptions::default();
    opts.prefer_quant = None;
    assert!(matches!(resolve_weights(dir.path(), &opts), Err(WeightsError::Ambiguous { .. })));
    opts.gguf_index = Some(2);
    let found = resolve_weights(dir.path(), &opts).unwrap();
    assert_eq!((found.format, found.file), (WeightFormat::Gguf, dir.path().join("m-Q8_0.gguf")));
}

#[test]
fn a_map_is_of_the_architectures_that_were_asked_for() {
    assert!(load_weight_map(fixture("qwen3"), &["llama", "qwen3"]).is_ok());
    assert!(load_weight_map(fixture("qwen3"), &["Qwen3ForCausalLM"]).is_ok());
    let file = fixture("qwen3-gguf/Q4_0.gguf");
    assert!(load_weight_map(&file, &["qwen3"]).is_ok());
    for path in [fixture("qwen3"), file.clone()] {
        let message = load_weight_map(path, &["llama", "qwen2"]).unwrap_err().to_string();
        assert!(message.contains("\"qwen3\"") && message.contains("expected one of llama, qwen2; nearest: \"qwen2\""), "{message}");
    }
    let gguf = Gguf::open(file).unwrap();
    assert_eq!(gguf_validate_arch(&gguf, &["qwen3"]).unwrap(), "qwen3");
}

#[test]
fn gguf_08_an_architecture_in_another_case_is_another() {
    static QWEN: Toy = Toy("qwen3", "rlx-qwen3", &["qwen3"]);
    let of = |arch: &str| gguf(arch, &[("a", &[1], vec![1.0])]);
    let validate = |bytes: Vec<u8>| {
        let n = bytes.len();
        bounded(n, || gguf_validate_arch(&Gguf::from_bytes(bytes).unwrap(), &["qwen3"]).map(str::to_owned))
    };
    let family = |bytes: Vec<u8>| {
        let n = bytes.len();
        bounded(n, || assert_gguf_family(&Gguf::from_bytes(bytes).unwrap(), &QWEN)).map_err(|e| e.to_string())
    };
    assert_eq!(validate(of("qwen3")).unwrap(), "qwen3");
    family(of("qwen3")).unwrap();
    let message = validate(of("Qwen3")).unwrap_err().to_string();
    assert!(message.contains("\"Qwen3\"") && message.contains("nearest: \"qwen3\""), "{message}");
    let message = family(of("Qwen3")).unwrap_err();
    assert!(message.contains("GGUF architecture \"Qwen3\", which qwen3 does not run"), "{message}");
    let long = of(&"x".repeat(1 << 20));
    for message in [validate(long.clone()).unwrap_err().to_string(), family(long).unwrap_err()] {
        assert!(message.len() < 600, "{} bytes", message.len());
    }
    let none = GgufWriter::new().to_bytes();
    assert!(matches!(validate(none.clone()), Err(WeightsError::Gguf(_))));
    assert!(family(none).unwrap_err().contains("general.architecture"));
}

struct Toy(&'static str, &'static str, &'static [&'static str]);

impl Family for Toy {
    fn name(&self) -> &'static str {
        self.0
    }
    fn model_types(&self) -> &'static [&'static str] {
        self.2
    }
    fn architectures(&self) -> &'static [&'static str] {
        &[]
    }
    fn gguf_architectures(&self) -> &'static [&'static str] {
        self.2
    }
    fn program(&self) -> &'static str {
        self.1
    }
}

#[test]
fn a_file_of_another_family_is_sent_to_its_program() {
    static QWEN: Toy = Toy("qwen3", "rlx-qwen3", &["qwen3"]);
    static LLAMA: Toy = Toy("llama32", "rlx-llama32", &["llama"]);
    let of = |arch: &str| Gguf::from_bytes(gguf(arch, &[("a", &[1], vec![1.0])])).unwrap();
    register(&QWEN);
    let alone = assert_gguf_family(&of("llama"), &QWEN).unwrap_err().to_string();
    assert!(alone.contains("run rlx-run auto"), "{alone}");
    register(&LLAMA);
    assert_gguf_family(&of("qwen3"), &QWEN).unwrap();
    let e = assert_gguf_family(&of("llama"), &QWEN).unwrap_err();
    assert!(matches!(&e, FamilyError::Wrong { .. }));
    let message = e.to_string();
    assert!(message.contains("GGUF architecture \"llama\"") && message.contains("qwen3 does not run"), "{message}");
    assert!(message.contains("run rlx-llama32 ") && message.contains("rlx-run auto "), "{message}");
    let unknown = assert_gguf_family(&of("qwen9"), &QWEN).unwrap_err().to_string();
    assert!(unknown.contains("no family for") && unknown.contains("nearest: \"qwen3\""), "{unknown}");
    let hf = open_with(LoadOpts::map(), fixture("qwen3")).unwrap();
    assert_family(&hf, &QWEN).unwrap();
    let message = assert_family(&hf, &LLAMA).unwrap_err().to_string();
    assert!(message.contains("model_type \"qwen3\"") && message.contains("run rlx-qwen3 "), "{message}");
}

#[test]
fn drafting_heads_are_left_aside_and_told() {
    const TABLE: NameTable = NameTable { rules: &[Rule::new("model.layers.{}.w", "blk.{}.w")], tolerated: &[] };
    let names = ["blk.0.w", "blk.1.w", "blk.1.nextn.eh_proj.weight", "blk.2.w"];
    let tensors: Vec<(&str, &[u64], Vec<f32>)> = names.iter().map(|n| (*n, &[1u64][..], vec![0f32])).collect();
    let header = |names: &[&str]| {
        let entry = |(i, n): (usize, &&str)| format!(r#""{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
        format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","))
    };
    let hf = ["model.layers.0.w", "mtp.fc.w", "model.layers.1.w", "model.layers.1.eh_proj.weight", "model.layers.2.w"];
    let dir = dir_with(&[("m.gguf", &gguf("mtp", &tensors)), ("m.safetensors", &safetensors(&header(&hf), &[0; 5]))]);
    for (file, found) in [
        ("m.gguf", &["blk.1.nextn.eh_proj.weight", "blk.1.w"][..]),
        ("m.safetensors", &["model.layers.1.eh_proj.weight", "model.layers.1.w", "mtp.fc.w"]),
    ] {
        let c = Arc::new(open_with(LoadOpts::map(), dir.path().join(file)).unwrap());
        assert_eq!(c.mtp_tensors().map(|t| t.name.as_str()).collect::<Vec<_>>(), found);
        let map = WeightMap::new(c, &TABLE, HeadCounts::default());
        let report = map.report(["model.layers.0.w"], &[]);
        assert_eq!(report.mtp, found);
        // A layer that nothing marks as drafting is a mistake all the same.
        assert_eq!(report.extra.len(), 1, "{report}");
        assert!(report.to_string().contains(&format!("left aside: {} tensors", found.len())), "{report}");
        map.check(["model.layers.0.w", "model.layers.2.w"], &[]).unwrap();
    }
}

/// Files that begin with `TOY`, then one byte per element of a single tensor.
struct ToyFormat;

impl WeightsReader for ToyFormat {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn probe(&self, name: &str, head: &[u8]) -> bool {
        name.ends_with(".toy") && head.starts_with(b"TOY")
    }
    fn tensors(&self, bytes: &[u8]) -> Result<Vec<FileTensor>, String> {
        let n = *bytes.get(3).ok_or("found 3 bytes, expected a count at byte 3")?;
        let range = 4..4 + u64::from(n);
        Ok(vec![FileTensor { name: "t".into(), dtype: DType::U8, shape: vec![n.into()], range }])
    }
}

#[test]
fn registered_formats_open_like_any_other() {
    let dir = dir_with(&[("m.toy", b"TOY\x02ab"), ("notes.txt", b"TOY")]);
    let file = dir.path().join("m.toy");
    assert!(matches!(open_map(dir.path()), Err(WeightsError::NotFound { .. })));
    register_format(ToyFormat).unwrap();
    assert!(matches!(register_format(ToyFormat), Err(WeightsError::FormatTaken { .. })));
    for path in [dir.path(), &file] {
        let map = open_map(path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((map.checkpoint().format(), map.get("t").unwrap().bytes()), (WeightFormat::Custom("toy"), &b"ab"[..]));
        assert_eq!(map.checkpoint().format().to_string(), "toy");
    }
    for (bytes, part) in [(&b"TOY\x03ab"[..], "range at byte 4 is 4 to 7"), (b"TOY", "not a toy file: found 3 bytes")] {
        std::fs::write(&file, bytes).unwrap();
        let message = open_map(&file).unwrap_err().to_string();
        assert!(message.contains("m.toy") && message.contains(part), "{message}");
    }
    std::fs::write(dir.path().join("n.toy"), b"TOY\x01a").unwrap();
    let message = open_map(dir.path()).unwrap_err().to_string();
    assert!(message.contains("2 weights files") && message.contains("n.toy"), "{message}");
}

/// Bytes of a mapped file that are in memory.
#[cfg(target_os = "linux")]
fn resident(file: &std::path::Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut of_file = false;
    let mut kib = 0;
    for line in maps.lines() {
        match line.strip_prefix("Rss:") {
            Some(rss) if of_file => kib += rss.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap(),
            Some(_) => {}
            None if line.split('-').next().is_some_and(|a| a.len() >= 8 && a.bytes().all(|b| b.is_ascii_hexdigit())) => {
                of_file = line.ends_with(file.to_str().unwrap());
            }
            None => {}
        }
    }
    kib * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn a_loader_gives_pages_back_and_a_map_keeps_them() {
    const N: usize = 8 << 20;
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{N}],"data_offsets":[0,{N}]}}}}"#);
    let dir = dir_with(&[("m.safetensors", &safetensors(&header, &vec![1; N]))]);
    let file = dir.path().join("m.safetensors");
    for (opts, kept) in [(LoadOpts::map(), true), (LoadOpts::loader(), false)] {
        assert_eq!(opts.access == Access::Map, kept);
        let map = open_map_with(opts, &file).unwrap();
        let view = map.get("a").unwrap();
        let second = view.data.clone();
        assert_eq!(view.bytes().iter().map(|b| usize::from(*b)).sum::<usize>(), N);
        drop(view);
        assert!(resident(&file) >= N as u64, "a view is still there");
        drop(second);
        let left = resident(&file);
        assert_eq!(left >= N as u64, kept, "{left} bytes");
        assert!(kept || left < 1 << 20, "{left} bytes");
        assert_eq!(map.get("a").unwrap().bytes()[N - 1], 1);
    }
}

#[test]
fn a_fingerprint_tells_files_that_were_changed_and_not_where_they_are() {
    let change = |path: &std::path::Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        let changed = std::fs::metadata(path).unwrap().modified().unwrap();
        std::fs::write(path, bytes).unwrap();
        std::fs::File::options().write(true).open(path).unwrap().set_modified(changed).unwrap();
    };
    let of = |path: &std::path::Path| open_with(LoadOpts::map(), path).unwrap().fingerprint().unwrap();
    // The architecture, the first and the last byte of the data, each changed as nobody should: without a trace in the
    // file's times.
    let values: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
    let dir = dir_with(&[("m.gguf", &gguf("toy", &[("a", &[100_000], values)]))]);
    let path = dir.path().join("m.gguf");
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    let before = of(&path);
    assert_eq!(before.len(), 1);
    assert!(before[0].starts_with(&format!("\"m.gguf\": {length} bytes, changed ")), "{before:?}");
    let name = std::fs::read(&path).unwrap().windows(3).position(|w| w == b"toy").unwrap();
    for at in [name, length - 400_000, length - 1] {
        change(&path, at);
        assert_ne!(of(&path), before, "byte {at} of {length}");
        change(&path, at);
        assert_eq!(of(&path), before);
    }
    // Moved, it is the same; changed later, it is not.
    let to = dir.path().join("elsewhere");
    std::fs::create_dir(&to).unwrap();
    std::fs::rename(&path, to.join("m.gguf")).unwrap();
    assert_eq!(of(&to.join("m.gguf")), before);
    let file = std::fs::File::options().write(true).open(to.join("m.gguf")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500)).unwrap();
    let later = of(&to.join("m.gguf"));
    assert!(later != before && later[0].contains("changed 1.500000000,"), "{later:?}");
    file.set_len(length as u64 - 1).unwrap();
    assert!(open_with(LoadOpts::map(), to.join("m.gguf")).is_err());
}

#[test]
fn a_fingerprint_covers_every_shard_and_the_settings() {
    let one = safetensors(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, b"abcd");
    let two = safetensors(r#"{"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, b"efgh");
    let index = br#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    let files = |config: &'static [u8]| {
        let files: [(&str, &[u8]); 4] =
            [("model.safetensors.index.json", index), ("m-1.safetensors", &one), ("m-2.safetensors", &two), ("config.json", config)];
        let dir = dir_with(&files);
        let lines = open_with(LoadOpts::map(), dir.path()).unwrap().fingerprint().unwrap();
        assert_eq!(lines.len(), 3, "{lines:?}");
        lines
    };
    let (a, b) = (files(b"{}"), files(b"[]"));
    assert!(a[1].contains("m-2.safetensors"), "{a:?}");
    assert!(a[2].starts_with("config.json: 2 bytes, sum ") && a[2] != b[2], "{a:?} {b:?}");
}
