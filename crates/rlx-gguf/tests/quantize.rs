//! Quantising files: types, metadata, order, refusals.  That bytes are llama-quantize's is tested per format in
//! `quantize_rows.rs`; the types of mixes in `quantize_types.rs`.

use rlx_gguf::quantize::{FileType, ImportanceMatrix, Options, Plan, QuantizeError, TypeRule};
use rlx_gguf::{BlockFormat, Gguf, GgufWriter, TensorType, Value};

const COLUMNS: usize = 256;

/// A fixed noise.
fn noise(n: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next() * next()).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Two layers with an up projection of three experts, in an order that is not the one that is written.
fn model() -> GgufWriter<'static> {
    let mut w = GgufWriter::new();
    w.put("general.architecture", Value::String("llama".into())).unwrap();
    w.put("general.file_type", Value::U32(0)).unwrap();
    w.put("llama.block_count", Value::U32(2)).unwrap();
    w.put("llama.attention.head_count", Value::U32(4)).unwrap();
    w.put("llama.attention.head_count_kv", Value::U32(2)).unwrap();
    w.put("general.name", Value::String("small".into())).unwrap();
    let mut add = |name: &str, shape: &[u64]| {
        let n = shape.iter().product::<u64>() as usize;
        w.tensor(name, TensorType::F32, shape, bytes_of(&noise(n, name.len() as u64))).unwrap();
    };
    for layer in [1, 0] {
        add(&format!("blk.{layer}.ffn_up_exps.weight"), &[3, 2, COLUMNS as u64]);
        add(&format!("blk.{layer}.attn_norm.weight"), &[COLUMNS as u64]);
        add(&format!("blk.{layer}.attn_v.weight"), &[4, COLUMNS as u64]);
    }
    add("output.weight", &[8, COLUMNS as u64]);
    add("token_embd.weight", &[8, COLUMNS as u64]);
    w
}

fn open(w: &GgufWriter<'_>) -> Gguf {
    Gguf::from_bytes(w.to_bytes()).unwrap()
}

fn quantize(gguf: &Gguf, ty: FileType, options: &Options) -> Result<Gguf, QuantizeError> {
    let mut out = vec![];
    Plan::new(gguf, ty, options)?.write(&mut out, |_| true)?;
    Ok(Gguf::from_bytes(out).unwrap())
}

fn types(gguf: &Gguf) -> Vec<(String, String)> {
    gguf.tensors().iter().map(|t| (t.name.clone(), t.ty.to_string())).collect()
}

/// One entry per tensor, of the older layout.
fn importance(entries: &[(&str, Vec<f32>)]) -> Option<ImportanceMatrix> {
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, values) in entries {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(1i32.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        out.extend(bytes_of(values));
    }
    out.extend(5i32.to_le_bytes());
    Some(ImportanceMatrix::from_bytes(&out).unwrap())
}

#[test]
fn tensors_are_written_by_layer_with_the_types_of_the_mix() {
    let out = quantize(&open(&model()), FileType::Q4KM, &Options::default()).unwrap();
    let expected = [
        ("output.weight", "Q6_K"),
        ("token_embd.weight", "Q4_K"),
        ("blk.0.attn_norm.weight", "F32"),
        ("blk.0.attn_v.weight", "Q4_K"),
        ("blk.0.ffn_up_exps.weight", "Q4_K"),
        ("blk.1.attn_norm.weight", "F32"),
        ("blk.1.attn_v.weight", "Q6_K"),
        ("blk.1.ffn_up_exps.weight", "Q4_K"),
    ];
    let expected: Vec<_> = expected.map(|(n, t)| (n.to_owned(), t.to_owned())).into();
    assert_eq!(types(&out), expected);
    assert_eq!(out.get("general.file_type"), Some(&Value::U32(15)));
    assert_eq!(out.get("general.quantization_version"), Some(&Value::U32(2)));
    assert_eq!(out.get("general.name"), Some(&Value::String("small".into())));
    assert!(out.get("quantize.imatrix.file").is_none());
}

#[test]
fn data_is_that_of_the_block_quantiser_whatever_the_number_of_threads() {
    let source = open(&model());
    let one = quantize(&source, FileType::Q5KS, &Options { threads: 1, ..Options::default() }).unwrap();
    let many = quantize(&source, FileType::Q5KS, &Options { threads: 7, ..Options::default() }).unwrap();
    for t in one.tensors() {
        assert_eq!(one.tensor_bytes(t).unwrap(), many.tensor_bytes(many.tensor(&t.name).unwrap()).unwrap(), "{}", t.name);
    }
    let t = one.tensor("token_embd.weight").unwrap();
    let x = source.tensor_f32(source.tensor(&t.name).unwrap()).unwrap();
    let mut expected = vec![0; t.bytes as usize];
    BlockFormat::Q5K.quantize(&x, &mut expected).unwrap();
    assert_eq!(one.tensor_bytes(t).unwrap(), expected);
}

#[test]
fn every_expert_has_the_importance_of_its_own_columns() {
    let source = open(&model());
    let name = "blk.0.ffn_up_exps.weight";
    let values: Vec<f32> = noise(3 * COLUMNS, 99).iter().map(|v| v.abs()).collect();
    let options = Options { importance: importance(&[(name, values.clone())]), ..Options::default() };
    let out = quantize(&source, FileType::IQ4XS, &options).unwrap();
    let t = out.tensor(name).unwrap();
    assert_eq!(t.ty, TensorType::Block(BlockFormat::IQ4XS));
    let x = source.tensor_f32(source.tensor(name).unwrap()).unwrap();
    let mut expected = vec![];
    for (x, importance) in x.chunks(2 * COLUMNS).zip(values.chunks(COLUMNS)) {
        let mut bytes = vec![0; BlockFormat::IQ4XS.row_bytes(2 * COLUMNS).unwrap()];
        BlockFormat::IQ4XS.quantize_rows(x, &mut bytes, COLUMNS, Some(importance)).unwrap();
        expected.extend(bytes);
    }
    assert_eq!(out.tensor_bytes(t).unwrap(), expected);
    assert_eq!(out.get("quantize.imatrix.entries_count"), Some(&Value::U32(1)));
    assert_eq!(out.get("quantize.imatrix.chunks_count"), Some(&Value::U32(5)));
}

#[test]
fn very_low_types_need_importance_for_every_tensor() {
    let source = open(&model());
    let text = quantize(&source, FileType::IQ2XXS, &Options::default()).unwrap_err().to_string();
    assert!(text.contains("blk.0.ffn_up_exps.weight") && text.contains("IQ2_XXS") && text.contains("--imatrix"), "{text}");
    let ones = |n| vec![1.0; n];
    let part = [("blk.0.ffn_up_exps.weight", ones(768))];
    let error = quantize(&source, FileType::IQ2XXS, &Options { importance: importance(&part), ..Options::default() }).unwrap_err();
    assert!(matches!(error, QuantizeError::NeedsImportance { given: true, .. }), "{error}");
    let all = [("blk.0.ffn_up_exps.weight", ones(768)), ("blk.1.ffn_up_exps.weight", ones(768))];
    quantize(&source, FileType::IQ2XXS, &Options { importance: importance(&all), ..Options::default() }).unwrap();
}

#[test]
fn importance_of_another_size_names_the_tensor() {
    let source = open(&model());
    let wrong = |name| Options { importance: importance(&[(name, vec![1.0; 128])]), ..Options::default() };
    let error = quantize(&source, FileType::Q4KM, &wrong("blk.1.attn_v.weight")).unwrap_err();
    assert!(matches!(&error, QuantizeError::ImportanceSize { found: 128, expected: 256, .. }), "{error}");
    assert!(error.to_string().contains("blk.1.attn_v.weight"));
    // Embeddings are looked up, not multiplied: what is recorded of them is passed over.
    quantize(&source, FileType::Q4KM, &wrong("token_embd.weight")).unwrap();
}

#[test]
fn quantising_twice_is_refused_unless_allowed() {
    let once = quantize(&open(&model()), FileType::Q8_0, &Options::default()).unwrap();
    let error = quantize(&once, FileType::Q4KS, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("Q8_0 already"), "{error}");
    quantize(&once, FileType::Q4KS, &Options { allow_requantize: true, ..Options::default() }).unwrap();
    // To the type that it has already, there is nothing to do.
    let same = quantize(&once, FileType::Q8_0, &Options::default()).unwrap();
    assert_eq!(types(&same), types(&once));
}

#[test]
fn types_can_be_chosen_by_hand() {
    let options = Options {
        rules: vec![
            TypeRule::new(TensorType::Block(BlockFormat::IQ4NL), |n| n.contains("blk.1")),
            TypeRule::new(TensorType::F16, |n| n.contains("attn_v")),
        ],
        output: Some(TensorType::BF16),
        token_embedding: Some(TensorType::Block(BlockFormat::Q5_0)),
        ..Options::default()
    };
    let out = quantize(&open(&model()), FileType::Q3KM, &options).unwrap();
    let ty = |name: &str| out.tensor(name).unwrap().ty.to_string();
    assert_eq!(ty("blk.1.attn_v.weight"), "IQ4_NL");
    assert_eq!(ty("blk.1.attn_norm.weight"), "F32");
    assert_eq!(ty("blk.0.attn_v.weight"), "F16");
    assert_eq!((ty("output.weight"), ty("token_embd.weight")), ("BF16".into(), "Q5_0".into()));
    let leave = Options { leave_output: true, pure: true, ..Options::default() };
    let out = quantize(&open(&model()), FileType::Q3KM, &leave).unwrap();
    let changed = types(&out).into_iter().filter(|(_, t)| t != "F32").map(|(_, t)| t).collect::<Vec<_>>();
    assert_eq!(changed, ["Q3_K"; 5]);
}

#[test]
fn copies_change_nothing_but_the_order() {
    let source = open(&model());
    let out = quantize(&source, FileType::F32, &Options { copy: true, ..Options::default() }).unwrap();
    assert_eq!(out.tensors().len(), source.tensors().len());
    for t in source.tensors() {
        assert_eq!(source.tensor_bytes(t).unwrap(), out.tensor_bytes(out.tensor(&t.name).unwrap()).unwrap());
    }
    assert_eq!(out.get("general.file_type"), Some(&Value::U32(0)));
}

#[test]
fn values_that_cannot_be_stored_name_tensor_and_row() {
    let with = |value: f32| {
        let mut w = model();
        let mut values = noise(4 * COLUMNS, 1);
        values[2 * COLUMNS + 7] = value;
        w.tensor("blk.0.attn_k.weight", TensorType::F32, &[4, COLUMNS as u64], bytes_of(&values)).unwrap();
        open(&w)
    };
    for ty in [FileType::Q4KM, FileType::F16] {
        let error = quantize(&with(f32::NAN), ty, &Options::default()).unwrap_err();
        assert!(matches!(error, QuantizeError::NotFinite { row: 2, column: 7, .. }), "{error}");
        let error = quantize(&with(1e9), ty, &Options::default()).unwrap_err();
        assert!(matches!(error, QuantizeError::Range { row: 2, .. }), "{error}");
        assert!(error.to_string().contains("blk.0.attn_k.weight"), "{error}");
        quantize(&with(1.0), ty, &Options::default()).unwrap();
    }
    quantize(&with(1e9), FileType::BF16, &Options::default()).unwrap();
}

#[test]
fn the_caller_can_stop_it() {
    let source = open(&model());
    let options = Options::default();
    let plan = Plan::new(&source, FileType::Q8_0, &options).unwrap();
    let mut seen = vec![];
    let error = plan.write(std::io::sink(), |n| {
        seen.push(n);
        seen.len() < 3
    });
    assert!(matches!(error, Err(QuantizeError::Cancelled)));
    assert!(seen.len() == 3 && seen.is_sorted(), "{seen:?}");
}

#[test]
fn split_files_are_joined_or_keep_their_parts() {
    let dir = tempfile::tempdir().unwrap();
    for part in 0..2u16 {
        let mut w = GgufWriter::new();
        if part == 0 {
            w.put("general.architecture", Value::String("llama".into())).unwrap();
            w.put("llama.block_count", Value::U32(2)).unwrap();
        }
        w.put("split.no", Value::U16(part)).unwrap();
        w.put("split.count", Value::U16(2)).unwrap();
        w.put("split.tensors.count", Value::I32(2)).unwrap();
        w.tensor(&format!("blk.{part}.ffn_up.weight"), TensorType::F32, &[2, 256], bytes_of(&noise(512, 3))).unwrap();
        std::fs::write(dir.path().join(format!("m-{:05}-of-00002.gguf", part + 1)), w.to_bytes()).unwrap();
    }
    let source = Gguf::open(dir.path().join("m-00002-of-00002.gguf")).unwrap();
    let joined = quantize(&source, FileType::Q8_0, &Options::default()).unwrap();
    assert_eq!(joined.tensors().len(), 2);
    assert!(joined.metadata().iter().all(|(k, _)| !k.starts_with("split.")));
    let options = Options::default();
    let plan = Plan::new(&source, FileType::Q8_0, &options).unwrap();
    assert_eq!(plan.parts(), 2);
    for part in 0..2 {
        let file = std::fs::File::create(dir.path().join(format!("q-{:05}-of-00002.gguf", part + 1))).unwrap();
        plan.write_part(part, file, |_| true).unwrap();
    }
    let split = Gguf::open(dir.path().join("q-00001-of-00002.gguf")).unwrap();
    assert_eq!(types(&split), types(&joined));
    assert_eq!(split.get("general.file_type"), Some(&Value::U32(7)));
}
