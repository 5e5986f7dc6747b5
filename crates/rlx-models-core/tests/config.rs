//! Configurations: both Hugging Face layouts, GGUF metadata, rotary embeddings, malformed input with valid twins.

mod common;

use common::fixture;
use rlx_bounds::{Counting, bounded};
use rlx_core::config::{DecoderConfig, Experts, ImageConfig, ImageSize, RopeArgs, rope};
use rlx_core::{ConfigDoc, ConfigError, ConfigSource, Key};
use rlx_gguf::{Gguf, GgufWriter, TensorType, Value};
use rlx_ir::ops::rope::{Rope, RopeScaling};
use std::path::Path;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn parsed(text: &str) -> Result<ConfigDoc, ConfigError> {
    ConfigDoc::from_bytes(Path::new("config.json"), text.as_bytes().to_vec())
}

fn doc(text: &str) -> Result<ConfigDoc, ConfigError> {
    bounded(text.len(), || parsed(text))
}

/// Something in a configuration, under the bounds of its text.
fn value<T>(text: &str, read: impl FnOnce(&ConfigDoc) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    bounded(text.len(), || read(&parsed(text)?))
}

fn source(text: &str) -> Result<ConfigSource, ConfigError> {
    bounded(text.len(), || ConfigSource::from_doc(parsed(text)?, None))
}

/// A setting of a configuration, under the bounds of its text.
fn setting<T>(text: &str, read: impl FnOnce(&ConfigSource) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    bounded(text.len(), || read(&ConfigSource::from_doc(parsed(text)?, None)?))
}

/// A valid configuration with fields replaced, added or (`-name`) removed.
fn qwen3(changes: &[(&str, &str)]) -> String {
    let base = std::fs::read_to_string(fixture("qwen3/config.json")).unwrap();
    let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&base).unwrap();
    map.remove("rope_scaling");
    let mut raw = String::new();
    for (name, value) in changes {
        match name.strip_prefix('-') {
            Some(name) => assert!(map.remove(name).is_some(), "{name}"),
            None => {
                map.remove(*name);
                raw += &format!("\"{name}\":{value},");
            }
        }
    }
    format!("{{{raw}{}", &serde_json::to_string(&map).unwrap()[1..])
}

fn decoder(changes: &[(&str, &str)]) -> Result<DecoderConfig, ConfigError> {
    setting(&qwen3(changes), DecoderConfig::from_source)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ConfigError>, parts: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(message.len() < 600 && !message.contains('\n'), "{} bytes of message: {message}", message.len());
}

#[test]
fn the_committed_checkpoint_reads() {
    let c = decoder(&[]).unwrap();
    let want = DecoderConfig {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        vocab_size: 320,
        rms_norm_eps: 1e-6,
        max_position_embeddings: Some(40960),
        experts: None,
        tie_word_embeddings: Some(true),
    };
    assert_eq!(c, want);
    let d = doc(&qwen3(&[])).unwrap();
    assert_eq!(d.model_type().unwrap().as_deref(), Some("qwen3"));
    assert_eq!(d.architectures().unwrap(), ["Qwen3ForCausalLM"]);
    assert_eq!(d.dtype().unwrap(), Some(rlx_ir::DType::BF16));
}

#[test]
fn gguf_metadata_reads_as_the_same_struct() {
    let gguf = Arc::new(Gguf::open(fixture("qwen3-gguf/Q4_0.gguf")).unwrap());
    let from_gguf = DecoderConfig::from_source(&ConfigSource::from_gguf(gguf.clone()).unwrap()).unwrap();
    let src = ConfigSource::from_dir(&fixture("qwen3-gguf")).unwrap();
    let from_json = DecoderConfig::from_source(&src).unwrap();
    assert_eq!(DecoderConfig { tie_word_embeddings: Some(true), ..from_gguf }, from_json);
    let args = RopeArgs::new(32);
    assert_eq!(rope(&ConfigSource::from_gguf(gguf).unwrap(), &args).unwrap(), rope(&src, &args).unwrap());
}

#[test]
fn config_25_missing_and_mistyped_fields() {
    for field in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "rms_norm_eps"] {
        refused(decoder(&[(&format!("-{field}"), "")]), &["config.json", field, "is missing"]);
        refused(decoder(&[(field, "null")]), &["config.json", field, "is missing"]);
        for bad in ["\"64\"", "[64]", "{}", "true", "-1", "1e30", "0", "1.5e400"] {
            refused(decoder(&[(field, bad)]), &["config.json", field]);
        }
    }
    assert_eq!(decoder(&[("hidden_size", "128.0")]).unwrap().hidden_size, 128);
    refused(decoder(&[("num_hidden_layers", "4097")]), &["from 1 to 4096"]);
    assert_eq!(decoder(&[("num_hidden_layers", "4096")]).unwrap().num_hidden_layers, 4096);
    refused(decoder(&[("num_key_value_heads", "3")]), &["3", "a divisor of the 4 attention heads"]);
    assert_eq!(decoder(&[("-num_key_value_heads", "")]).unwrap().num_key_value_heads, 4);
    refused(decoder(&[("rms_norm_eps", "Infinity")]), &["rms_norm_eps", "Infinity", "finite"]);
    refused(decoder(&[("tie_word_embeddings", "\"yes\"")]), &["true or false"]);
}

#[test]
fn config_25_head_dim_defaults_to_hidden_by_heads() {
    assert_eq!(decoder(&[("-head_dim", "")]).unwrap().head_dim, 16);
    refused(decoder(&[("-head_dim", ""), ("hidden_size", "66")]), &["hidden_size is 66", "multiple of the 4 heads", "head_dim"]);
    assert_eq!(decoder(&[("hidden_size", "66")]).unwrap().head_dim, 32);
    refused(decoder(&[("head_dim", "0")]), &["head_dim is 0"]);
    refused(decoder(&[("head_dim", "2147483648")]), &["head_dim"]);
}

#[test]
fn config_25_text_of_the_file() {
    let valid = qwen3(&[]);
    assert!(doc(&valid).is_ok());
    assert!(doc(&format!("\u{feff}{valid}")).unwrap().has("hidden_size"));
    refused(doc(&valid.replacen('{', "{\"hidden_size\":64,", 1)), &["duplicate key hidden_size"]);
    refused(doc(&valid.replacen('{', "{\"hidden_siz\\u0065\":64,", 1)), &["duplicate key hidden_size"]);
    refused(doc(&valid.replacen('{', "{// sizes\n", 1)), &["byte 1", "a comment"]);
    refused(doc(&valid.replacen('{', "{\"x\":NaN,", 1)), &["byte 5", "NaN"]);
    for bad in ["", "[]", "7", "{", "{}{}", "{\"a\":}", "null"] {
        refused(doc(bad), &["config.json", "at byte"]);
    }
    let broken = b"{\"a\xff\":1}";
    assert!(bounded(broken.len(), || ConfigDoc::from_bytes(Path::new("c"), broken.to_vec())).is_err());
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    assert!(doc(&deep(63)).is_ok());
    refused(doc(&deep(64)), &["nesting"]);
    refused(doc(&deep(100_000)), &["nesting"]);
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(16 << 20));
    refused(doc(&big), &["16 MiB"]);
}

#[test]
fn config_25_many_members_stay_within_the_bounds() {
    let members: Vec<String> = (0..100_000).map(|i| format!("\"{i:x}\":0")).collect();
    let members = format!("{{{}}}", members.join(","));
    assert_eq!(value(&members, |d| d.usize("ff")).unwrap(), 0);
    let zeros = format!("{{\"a\":[0{}]}}", ",0".repeat(500_000));
    assert!(doc(&zeros).unwrap().has("a"));
}

/// A list entry of two bytes is a value of up to 24: lists have a most.
#[test]
fn config_25_long_lists() {
    let list = |n: usize, of: &str| format!("{{\"a\":[{of}{}]}}", format!(",{of}").repeat(n - 1));
    for n in [1, 4096] {
        assert_eq!(value(&list(n, "0"), |d| d.opt_usizes("a")).unwrap().unwrap(), vec![0; n]);
        assert_eq!(value(&list(n, "0"), |d| d.opt_f64s("a")).unwrap().unwrap(), vec![0.0; n]);
        assert_eq!(value(&list(n, "0"), |d| d.opt_ids("a")).unwrap().unwrap(), vec![0; n]);
        assert_eq!(value(&list(n, "\"\""), |d| d.opt_strings("a")).unwrap().unwrap(), vec![""; n]);
        refused(value(&list(n, "0"), |d| d.opt_strings("a")), &["a is", "a list of strings"]);
        refused(value(&list(n, "\"\""), |d| d.opt_usizes("a")), &["a is", "a list of whole numbers"]);
    }
    for n in [4097, 2_000_000] {
        refused(value(&list(n, "0"), |d| d.opt_usizes("a")), &["a is", "a list of whole numbers, at most 4096"]);
        refused(value(&list(n, "0"), |d| d.opt_f64s("a")), &["a list of numbers, at most 4096"]);
        refused(value(&list(n, "0"), |d| d.opt_ids("a")), &["a token id, or a list of them, at most 4096"]);
        refused(value(&list(n, "\"\""), |d| d.opt_strings("a")), &["a list of strings, at most 4096"]);
        refused(setting(&list(n, "0").replacen('a', "eos_token_id", 1), ConfigSource::eos_token_ids), &["eos_token_id is", "at most 4096"]);
    }
    // So have those of GGUF metadata, where an entry has one byte.
    const KEY: Key = Key::new("", "attention.head_count_kv");
    let per_layer = |n: usize| gguf(&[("toy.attention.head_count_kv", Some(vec![1u8; n].into()))], |src| src.per_layer(KEY, 2));
    assert_eq!(per_layer(2).unwrap().unwrap(), [1, 1]);
    refused(per_layer(1_000_000), &["toy.attention.head_count_kv is a list of 1000000", "2, one per layer"]);
    let sections = |n: usize| gguf(&[("toy.rope.dimension_sections", Some(vec![2u8; n].into()))], |src| rope(src, &RopeArgs::new(16)));
    assert_eq!(sections(4).unwrap().sections, [2; 4]);
    refused(sections(1_000_000), &["toy.rope.dimension_sections is a list of 1000000", "at most 4"]);
}

/// Names that come from the file are counted and cut, not listed.
#[test]
fn config_25_many_layer_types() {
    let types: Vec<String> =
        (0..100_000).map(|i| format!("\"{i}{}\":{{}}", if i == 0 { "x".repeat(1 << 20) } else { String::new() })).collect();
    let rope = |types: &[String], layer_type| {
        let text = qwen3(&[("rope_parameters", &format!("{{{}}}", types.join(",")))]);
        setting(&text, |src| rope(src, &RopeArgs { layer_type, ..RopeArgs::new(32) }))
    };
    assert!(rope(&types, Some("5")).is_ok());
    refused(rope(&types, Some("full")), &["rope_parameters", "\"full\"", "expected one of "]);
    refused(rope(&types, None), &["rope_parameters", "no layer type"]);
}

#[test]
fn config_25_nested_text_configurations_are_bounded() {
    let nested = |inner: &str| format!("{{\"model_type\":\"m\",\"eos_token_id\":[5,6],\"text_config\":{inner}}}");
    let valid = nested(&qwen3(&[("-eos_token_id", "")]));
    assert_eq!(setting(&valid, DecoderConfig::from_source).unwrap().hidden_size, 64);
    assert_eq!(setting(&valid, ConfigSource::eos_token_ids).unwrap(), [5, 6]);
    refused(source(&nested("{\"text_config\":{}}")), &["text_config.text_config", "no further"]);
    refused(source(&nested("7")), &["text_config is 7", "an object"]);
    refused(source(&nested("{\"a\":1,\"a\":2}")), &["duplicate key text_config.a"]);
    let negative = nested(&qwen3(&[("hidden_size", "-5")]));
    refused(setting(&negative, DecoderConfig::from_source), &["text_config.hidden_size is -5"]);
}

#[test]
fn config_25_types_and_ids() {
    let dtype = |text: &str| value(text, ConfigDoc::dtype);
    refused(dtype("{\"torch_dtype\":\"float128\"}"), &["torch_dtype", "float128", "bfloat16"]);
    assert_eq!(dtype("{\"torch_dtype\":\"torch.float16\"}").unwrap(), Some(rlx_ir::DType::F16));
    assert_eq!(dtype("{\"dtype\":\"float32\",\"torch_dtype\":\"x\"}").unwrap(), Some(rlx_ir::DType::F32));
    assert!(value("{\"architectures\":[]}", ConfigDoc::architectures).unwrap().is_empty());
    refused(value("{\"architectures\":[1]}", ConfigDoc::architectures), &["architectures"]);
    let eos = |v: &str| setting(&format!("{{\"eos_token_id\":{v}}}"), ConfigSource::eos_token_ids);
    assert_eq!(eos("3").unwrap(), [3]);
    assert_eq!(eos("[3,4]").unwrap(), [3, 4]);
    assert!(eos("null").unwrap().is_empty());
    for bad in ["-1", "\"3\"", "[3,-4]", "4294967296"] {
        refused(eos(bad), &["eos_token_id", "a token id"]);
    }
    let generation = doc("{\"eos_token_id\":[9]}").unwrap();
    let src = ConfigSource::from_doc(doc("{\"eos_token_id\":3}").unwrap(), Some(generation)).unwrap();
    assert_eq!(src.eos_token_ids().unwrap(), [9]);
}

#[test]
fn infinities_are_numbers_only_where_asked_for() {
    let d = doc(r#"{"limit":[0.0,Infinity],"low":-Infinity,"big":1e400,"text":"Infinity and \"Infinity"}"#).unwrap();
    assert_eq!(d.opt_f64s("limit").unwrap().unwrap(), [0.0, f64::INFINITY]);
    assert_eq!(d.opt_f64_or_infinite("low").unwrap(), Some(f64::NEG_INFINITY));
    refused(d.f64("low"), &["low is"]);
    refused(d.opt_f64_or_infinite("big"), &["big is 1e400"]);
    assert_eq!(d.string("text").unwrap(), "Infinity and \"Infinity");
    refused(doc("{\"a\":Infinityy}"), &["at byte"]);
}

fn rope_of(changes: &[(&str, &str)], args: &RopeArgs<'_>) -> Result<Rope, ConfigError> {
    setting(&qwen3(changes), |src| rope(src, args))
}

#[test]
fn rope_in_the_old_and_the_new_layout() {
    let args = RopeArgs::new(32);
    let old = rope_of(&[], &args).unwrap();
    assert_eq!(old, Rope::new(32, 1e6));
    let new = [("-rope_theta", ""), ("rope_parameters", r#"{"rope_type":"default","rope_theta":1000000}"#)];
    assert_eq!(rope_of(&new, &args).unwrap(), old);
    for name in ["rope_type", "type"] {
        let r = rope_of(&[("rope_scaling", &format!(r#"{{"{name}":"linear","factor":4}}"#))], &args).unwrap();
        assert_eq!(r.scaling, RopeScaling::Linear { factor: 4.0 });
    }
    let per_type = r#"{"full_attention":{"rope_type":"proportional","rope_theta":1e6,"partial_rotary_factor":0.25},
        "sliding_attention":{"rope_type":"default","rope_theta":1e4}}"#;
    let at = |t| rope_of(&[("rope_parameters", per_type)], &RopeArgs { layer_type: t, ..args.clone() });
    assert_eq!(at(Some("sliding_attention")).unwrap(), Rope::new(32, 1e4));
    let full = at(Some("full_attention")).unwrap();
    assert_eq!((full.dim, &full.scaling), (32, &RopeScaling::Proportional { fraction: 0.25, factor: 1.0 }));
    refused(at(None), &["rope_parameters", "full_attention, sliding_attention"]);
    refused(at(Some("other")), &["other"]);
    let local = [("rope_local_base_freq", "10000"), ("rope_scaling", r#"{"rope_type":"linear","factor":8}"#)];
    let sliding = RopeArgs { layer_type: Some("sliding_attention"), ..args.clone() };
    assert_eq!(rope_of(&local, &sliding).unwrap(), Rope::new(32, 1e4));
    assert_eq!(rope_of(&local, &args).unwrap().scaling, RopeScaling::Linear { factor: 8.0 });
}

#[test]
fn rope_part_of_a_head_and_sections() {
    let args = RopeArgs::new(32);
    assert_eq!(rope_of(&[("partial_rotary_factor", "0.25")], &args).unwrap().dim, 8);
    assert_eq!(rope_of(&[("rotary_dim", "8")], &args).unwrap().dim, 8);
    let r = rope_of(
        &[("rope_parameters", r#"{"rope_type":"default","mrope_section":[2,1,1],"mrope_interleaved":true,"partial_rotary_factor":0.25}"#)],
        &args,
    )
    .unwrap();
    assert_eq!((r.dim, r.sections, r.interleave_sections, r.theta), (8, vec![2, 1, 1], true, 1e6));
    for (field, bad) in [
        ("partial_rotary_factor", "0"),
        ("partial_rotary_factor", "1.5"),
        ("partial_rotary_factor", "0.1"),
        ("rotary_dim", "34"),
        ("rotary_dim", "7"),
    ] {
        refused(rope_of(&[(field, bad)], &args), &[field]);
    }
    refused(rope_of(&[("rope_scaling", r#"{"type":"mrope","mrope_section":[2,1,1]}"#)], &args), &["mrope_section", "16 frequencies"]);
}

#[test]
fn rope_scalings_follow_transformers() {
    let args = RopeArgs::new(32);
    let at = |scaling: &str| rope_of(&[("rope_scaling", scaling)], &args).map(|r| r.scaling);
    let llama3 = r#"{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8192}"#;
    assert_eq!(at(llama3).unwrap(), RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 });
    refused(at(&llama3.replace("\"high_freq_factor\":4", "\"high_freq_factor\":1")), &["high_freq_factor is 1", "more than"]);
    refused(at(&llama3.replace("\"factor\":8,", "")), &["rope_scaling.factor is missing"]);
    let dynamic = RopeArgs { context: Some(81920), ..args.clone() };
    let r = rope_of(&[("rope_scaling", r#"{"rope_type":"dynamic","factor":2}"#)], &dynamic).unwrap();
    assert_eq!(r.scaling, RopeScaling::Dynamic { factor: 2.0, original: 40960, context: 81920 });
    for bad in ["0", "-1", "\"2\"", "Infinity"] {
        refused(at(&format!(r#"{{"rope_type":"linear","factor":{bad}}}"#)), &["rope_scaling.factor is"]);
    }
    refused(at(r#"{"rope_type":"spiral","factor":2}"#), &["rope_scaling.rope_type", "\"spiral\"", "llama3, yarn"]);
    refused(at("\"linear\""), &["rope_scaling", "an object"]);
}

#[test]
fn rope_yarn_attention_factor() {
    let yarn = |more: &str| {
        let text = format!(r#"{{"rope_type":"yarn","original_max_position_embeddings":4096{more}}}"#);
        match rope_of(&[("rope_scaling", &text)], &RopeArgs::new(32)).map(|r| r.scaling) {
            Ok(RopeScaling::Yarn { factor, original: 4096, beta_fast, beta_slow, truncate, attention_factor }) => {
                Ok((factor, beta_fast, beta_slow, truncate, attention_factor))
            }
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e),
        }
    };
    let plain = |f: f64| 0.1 * f.ln() + 1.0;
    // Without a factor: 40960 positions of a model trained on 4096.
    assert_eq!(yarn("").unwrap(), (10.0, 32.0, 1.0, true, plain(10.0)));
    assert_eq!(yarn(r#","factor":4,"truncate":false,"beta_fast":16,"beta_slow":2"#).unwrap(), (4.0, 16.0, 2.0, false, plain(4.0)));
    assert_eq!(yarn(r#","factor":4,"attention_factor":0.5"#).unwrap().4, 0.5);
    assert_eq!(yarn(r#","factor":40,"mscale":1.0,"mscale_all_dim":1.0"#).unwrap().4, 1.0);
    let m = |s: f64| 0.1 * s * 40f64.ln() + 1.0;
    assert_eq!(yarn(r#","factor":40,"mscale":0.707,"mscale_all_dim":0.5"#).unwrap().4, m(0.707) / m(0.5));
    assert_eq!(yarn(r#","factor":40,"mscale":0.707"#).unwrap().4, m(1.0));
    assert_eq!(yarn(r#","factor":0.5"#).unwrap().4, 1.0);
    refused(yarn(r#","factor":4,"beta_fast":1,"beta_slow":2"#), &["beta_fast is 1", "at least beta_slow"]);
    refused(yarn(r#","factor":4,"attention_factor":0"#), &["attention_factor is 0"]);
}

#[test]
fn rope_longrope_chooses_its_list_by_context() {
    let (short, long) = (format!("[{}1]", "1,".repeat(15)), format!("[{}2]", "2,".repeat(15)));
    let text = |more: &str| {
        format!(r#"{{"type":"longrope","short_factor":{short},"long_factor":{long},"original_max_position_embeddings":4096{more}}}"#)
    };
    let at = |context, more: &str| {
        let args = RopeArgs { context, ..RopeArgs::new(32) };
        rope_of(&[("rope_scaling", &text(more))], &args).map(|r| r.scaling)
    };
    let attention_factor = (1.0 + 10f64.ln() / 4096f64.ln()).sqrt();
    let want = |by: f64, attention_factor| RopeScaling::Longrope { factors: vec![by; 16], attention_factor };
    assert_eq!(at(Some(4096), "").unwrap(), want(1.0, attention_factor));
    assert_eq!(at(Some(4097), "").unwrap(), want(2.0, attention_factor));
    assert_eq!(at(None, "").unwrap(), want(2.0, attention_factor));
    assert_eq!(at(None, r#","attention_factor":1.25"#).unwrap(), want(2.0, 1.25));
    let args = RopeArgs::new(16);
    refused(rope_of(&[("rope_scaling", &text(""))], &args), &["long_factor", "8 finite numbers"]);
}

fn gguf_bytes(changes: &[(&str, Option<Value>)]) -> Vec<u8> {
    let mut all: Vec<(&str, Value)> = vec![
        ("general.architecture", "toy".into()),
        ("toy.block_count", 2u32.into()),
        ("toy.embedding_length", 64u32.into()),
        ("toy.feed_forward_length", 96u32.into()),
        ("toy.context_length", 40960u32.into()),
        ("toy.attention.head_count", 4u32.into()),
        ("toy.attention.head_count_kv", 2u32.into()),
        ("toy.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("toy.vocab_size", 320u32.into()),
    ];
    for (key, value) in changes {
        all.retain(|kv| kv.0 != *key);
        all.extend(value.clone().map(|v| (*key, v)));
    }
    let mut writer = GgufWriter::new();
    for (key, value) in all {
        writer.put(key, value).unwrap();
    }
    writer.to_bytes()
}

/// Something in the metadata of a file with these changes, under the bounds of the file.
fn gguf<T>(changes: &[(&str, Option<Value>)], read: impl FnOnce(&ConfigSource) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
    let bytes = gguf_bytes(changes);
    let n = bytes.len();
    bounded(n, || read(&ConfigSource::from_gguf(Arc::new(Gguf::from_bytes(bytes).unwrap()))?))
}

#[test]
fn gguf_14_sizes() {
    let read = |changes: &[(&str, Option<Value>)]| gguf(changes, DecoderConfig::from_source);
    let c = read(&[]).unwrap();
    assert_eq!((c.head_dim, c.rms_norm_eps, c.num_key_value_heads), (16, 1e-6, 2));
    let with = |key: &str, v: Value| read(&[(&format!("toy.{key}"), Some(v))]);
    refused(with("block_count", 0u32.into()), &["toy.block_count is 0", "from 1 to 4096"]);
    refused(with("block_count", (1u32 << 31).into()), &["toy.block_count", "from 1 to 4096"]);
    assert_eq!(with("block_count", 513u32.into()).unwrap().num_hidden_layers, 513);
    refused(with("block_count", u64::MAX.into()), &["toy.block_count"]);
    refused(with("block_count", (-1i32).into()), &["toy.block_count"]);
    refused(with("block_count", "2".into()), &["toy.block_count", "string"]);
    refused(read(&[("toy.block_count", None)]), &["toy.block_count is missing"]);
    refused(with("attention.head_count", 0u32.into()), &["toy.attention.head_count is 0"]);
    refused(with("attention.head_count_kv", 3u32.into()), &["toy.attention.head_count_kv is 3", "a divisor of the 4"]);
    refused(with("attention.head_count_kv", 0u32.into()), &["toy.attention.head_count_kv is 0"]);
    refused(with("embedding_length", 66u32.into()), &["toy.embedding_length is 66", "multiple of the 4 heads"]);
    for eps in [0.0f32, -1e-6, f32::NAN, f32::INFINITY] {
        refused(with("attention.layer_norm_rms_epsilon", eps.into()), &["toy.attention.layer_norm_rms_epsilon", "finite number"]);
    }
    refused(with("attention.value_length", 8u32.into()), &["toy.attention.value_length is 8"]);
    // Drafting blocks come after the others and are counted among them.
    assert_eq!(with("nextn_predict_layers", 1u32.into()).unwrap().num_hidden_layers, 1);
    refused(with("nextn_predict_layers", 2u32.into()), &["toy.nextn_predict_layers is 2", "fewer than the 2 blocks"]);
}

#[test]
fn gguf_14_experts() {
    let read = |total: u32, used: Option<u32>| {
        let used = used.map(Value::from);
        gguf(&[("toy.expert_count", Some(total.into())), ("toy.expert_used_count", used)], DecoderConfig::from_source).map(|c| c.experts)
    };
    assert_eq!(read(4, Some(4)).unwrap(), Some(Experts { total: 4, used: 4 }));
    assert_eq!(read(0, None).unwrap(), None);
    refused(read(4, Some(5)), &["toy.expert_used_count is 5", "from 1 to 4"]);
    refused(read(4, Some(0)), &["toy.expert_used_count is 0", "from 1 to 4"]);
    refused(read(4, None), &["toy.expert_used_count is missing"]);
    let json = |used: &str| decoder(&[("num_experts", "8"), ("num_experts_per_tok", used)]).map(|c| c.experts);
    assert_eq!(json("2").unwrap(), Some(Experts { total: 8, used: 2 }));
    refused(json("9"), &["num_experts_per_tok is 9", "from 1 to 8"]);
}

#[test]
fn gguf_14_embedding_length_must_agree_with_the_tensor() {
    let good = Gguf::open(fixture("qwen3-gguf/Q4_0.gguf")).unwrap();
    let mut bytes = std::fs::read(good.path().unwrap()).unwrap();
    let key = b"qwen3.embedding_length";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    assert_eq!(bytes[at..at + 4], 64u32.to_le_bytes());
    let read = |bytes: Vec<u8>| {
        let n = bytes.len();
        bounded(n, || DecoderConfig::from_source(&ConfigSource::from_gguf(Arc::new(Gguf::from_bytes(bytes).unwrap()))?))
    };
    assert_eq!(read(bytes.clone()).unwrap().hidden_size, 64);
    bytes[at..at + 4].copy_from_slice(&128u32.to_le_bytes());
    refused(read(bytes), &["qwen3.embedding_length is 128", "token_embd.weight"]);
}

/// Files that count their embeddings in up to three places, with `rows` of them: the setting, the tokens, the tensor.
#[test]
fn gguf_15_vocab_size_against_embedding_rows() {
    let vocab_size = |setting: Option<u32>, tokens: Option<usize>, rows: u64| {
        let mut writer = GgufWriter::new();
        writer.put("general.architecture", "toy").unwrap();
        if let Some(n) = setting {
            writer.put("toy.vocab_size", n).unwrap();
        }
        if let Some(n) = tokens {
            let tokens: rlx_gguf::StringArray = (0..n).map(|i| format!("t{i}")).collect();
            writer.put("tokenizer.ggml.tokens", tokens).unwrap();
        }
        writer.tensor("token_embd.weight", TensorType::F32, &[rows, 8], vec![0; rows as usize * 32]).unwrap();
        let bytes = writer.to_bytes();
        let n = bytes.len();
        bounded(n, || ConfigSource::from_gguf(Arc::new(Gguf::from_bytes(bytes).unwrap()))?.vocab_size())
    };
    assert_eq!(vocab_size(None, Some(6), 6).unwrap(), 6);
    assert_eq!(vocab_size(Some(6), None, 6).unwrap(), 6);
    // More embeddings than tokens are padding.
    assert_eq!(vocab_size(Some(8), Some(6), 8).unwrap(), 8);
    refused(vocab_size(None, Some(7), 6), &["tokenizer.ggml.tokens is 7", "the 6 rows of token_embd.weight", "at byte"]);
    refused(vocab_size(None, Some(5), 6), &["tokenizer.ggml.tokens is 5", "the 6 rows of token_embd.weight"]);
    refused(vocab_size(Some(5), None, 6), &["toy.vocab_size is 5", "the 6 rows of token_embd.weight", "at byte"]);
    refused(vocab_size(Some(6), Some(7), 6), &["tokenizer.ggml.tokens is 7", "at most the 6 embeddings"]);
    refused(vocab_size(None, Some(0), 6), &["tokenizer.ggml.tokens is 0", "at least one token"]);
}

/// The words for where a text has a part for the `n`th time, from 0.
fn at(text: &str, part: &str, n: usize) -> String {
    format!("at byte {})", text.match_indices(part).nth(n).unwrap().0)
}

/// What is wrong with a value is said with the place of the value.
#[test]
fn config_25_errors_say_at_which_byte() {
    let text = qwen3(&[("num_hidden_layers", "1e30")]);
    refused(decoder(&[("num_hidden_layers", "1e30")]), &["num_hidden_layers is 1e30", &at(&text, "1e30", 0)]);
    assert!(decoder(&[("num_hidden_layers", "1")]).is_ok());
    // A message is one line, whatever the value is written over.
    refused(decoder(&[("num_hidden_layers", "[\n1,\r\n2]")]), &["num_hidden_layers is [ 1,  2]"]);
    // What is absent is missed from the object that should hold it; null stands somewhere itself.
    refused(decoder(&[("-hidden_size", "")]), &["hidden_size is missing", "(in what begins at byte 0)"]);
    let null = qwen3(&[("hidden_size", "null")]).find("null").unwrap();
    refused(decoder(&[("hidden_size", "null")]), &["hidden_size is missing", &format!("(in what begins at byte {null})")]);
    let inner = format!("\u{feff} {{\"text_config\":{}}}", qwen3(&[("-hidden_size", "")]));
    let read = DecoderConfig::from_source(&source(&inner).unwrap());
    refused(read, &["hidden_size is missing", &at(&inner, "{\"", 1)]);
    for (name, value) in [("num_attention_heads", "0"), ("num_key_value_heads", "3"), ("head_dim", "0"), ("rms_norm_eps", "-1.5")] {
        let text = qwen3(&[(name, value)]);
        refused(decoder(&[(name, value)]), &[name, &at(&text, &format!("{value},"), 0)]);
    }
    let scaling = r#"{"rope_type":"linear","factr":2}"#;
    let text = qwen3(&[("rope_scaling", scaling)]);
    refused(rope_of(&[("rope_scaling", scaling)], &RopeArgs::new(32)), &["rope_scaling.factor is missing", &at(&text, scaling, 0)]);
    let part = r#"{"rope_type":"default","partial_rotary_factor":1.5}"#;
    let text = qwen3(&[("rope_parameters", part)]);
    let expected = ["rope_parameters.partial_rotary_factor is 1.5", &at(&text, "1.5}", 0)];
    refused(rope_of(&[("rope_parameters", part)], &RopeArgs::new(32)), &expected);
    let nested = r#"{"a":0,"text_config":{"b":1,"b":2}}"#;
    refused(source(nested), &["duplicate key text_config.b", &at(nested, "\"b\"", 1)]);
    let dtype = r#"{"torch_dtype":"float128"}"#;
    refused(value(dtype, ConfigDoc::dtype), &["float128", &at(dtype, "\"float128", 0)]);
    let absent = gguf(&[("toy.block_count", None)], DecoderConfig::from_source);
    refused(absent, &["toy.block_count is missing", "(in what begins at byte 24)"]);
    let zero = [("toy.block_count", Some(0u32.into()))];
    let at = Gguf::from_bytes(gguf_bytes(&zero)).unwrap().offset_of("toy.block_count");
    let message = gguf(&zero, DecoderConfig::from_source).unwrap_err().to_string();
    assert!(at > 24 && message.ends_with(&format!("(at byte {at})")), "{message}");
}

#[test]
fn gguf_14_rope() {
    let args = RopeArgs::new(16);
    let at = |changes: &[(&str, Option<Value>)]| gguf(changes, |src| rope(src, &args));
    assert_eq!(at(&[]).unwrap(), Rope::new(16, 1e4));
    assert_eq!(at(&[("toy.rope.freq_base", Some(1e6f32.into()))]).unwrap(), Rope::new(16, 1e6));
    assert_eq!(at(&[("toy.rope.dimension_count", Some(8u32.into()))]).unwrap().dim, 8);
    for bad in [0u32, 7, 18, u32::MAX] {
        refused(at(&[("toy.rope.dimension_count", Some(bad.into()))]), &["toy.rope.dimension_count"]);
    }
    for bad in [0.0f32, -1.0, f32::NAN] {
        refused(at(&[("toy.rope.freq_base", Some(bad.into()))]), &["toy.rope.freq_base"]);
    }
    let kind = |k: &str| ("toy.rope.scaling.type", Some(k.into()));
    let factor = ("toy.rope.scaling.factor", Some(4f32.into()));
    assert_eq!(at(&[kind("linear"), factor.clone()]).unwrap().scaling, RopeScaling::Linear { factor: 4.0 });
    let original = ("toy.rope.scaling.original_context_length", Some(64u32.into()));
    let attention_factor = 1.0 + 0.1 * 4f64.ln();
    let yarn = RopeScaling::Yarn { factor: 4.0, original: 64, beta_fast: 32.0, beta_slow: 1.0, truncate: true, attention_factor };
    assert_eq!(at(&[kind("yarn"), factor, original]).unwrap().scaling, yarn);
    refused(at(&[kind("spiral")]), &["toy.rope.scaling.type", "\"spiral\"", "yarn"]);
    let sections = Value::from(vec![4i32, 2, 2, 0]);
    assert_eq!(at(&[("toy.rope.dimension_sections", Some(sections))]).unwrap().sections, [4, 2, 2]);
    refused(at(&[("toy.rope.dimension_sections", Some(vec![4i32, 2].into()))]), &["toy.rope.dimension_sections", "8 frequencies"]);
}

#[test]
fn counts_per_layer_are_lists_or_one_number() {
    const KEY: Key = Key::new("kv", "attention.head_count_kv");
    let list = |layers| gguf(&[("toy.attention.head_count_kv", Some(vec![0u32, 2].into()))], |src| src.per_layer(KEY, layers));
    assert_eq!(list(2).unwrap().unwrap(), [0, 2]);
    refused(list(3), &["toy.attention.head_count_kv", "3, one per layer"]);
    assert_eq!(gguf(&[], |src| src.per_layer(KEY, 3)).unwrap().unwrap(), [2, 2, 2]);
    let json = |text: &str| setting(text, |src| src.per_layer(KEY, 2));
    assert_eq!(json("{\"kv\":[1,2]}").unwrap().unwrap(), [1, 2]);
    assert_eq!(json("{\"kv\":7}").unwrap().unwrap(), [7, 7]);
    assert_eq!(json("{}").unwrap(), None);
}

/// A file of a gigabyte is refused by its length; nothing of it is read.
#[test]
fn config_25_a_file_of_a_gigabyte() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json", "preprocessor_config.json"] {
        std::fs::write(dir.path().join(name), if name.starts_with("config") { qwen3(&[]) } else { "{}".into() }).unwrap();
        assert!(ConfigDoc::open(dir.path().join(name)).is_ok());
        std::fs::File::options().write(true).open(dir.path().join(name)).unwrap().set_len(1 << 30).unwrap();
        refused(bounded(0, || ConfigDoc::open(dir.path().join(name))), &[name, "1073741824 bytes, expected at most"]);
    }
}

#[test]
fn config_25_generation_config_beside_the_model() {
    let with = |generation: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), qwen3(&[])).unwrap();
        std::fs::write(dir.path().join("generation_config.json"), generation).unwrap();
        let n = generation.len() + qwen3(&[]).len();
        bounded(n, || ConfigSource::from_dir(dir.path()).and_then(|c| c.eos_token_ids()))
    };
    assert_eq!(with(r#"{"eos_token_id":[7,8]}"#).unwrap(), [7, 8]);
    assert_eq!(with("{}").unwrap(), with(r#"{"eos_token_id":null}"#).unwrap());
    for bad in ["", "[]", "{\"eos_token_id\":1,\"eos_token_id\":2}", r#"{"eos_token_id":"</s>"}"#, r#"{"eos_token_id":-1}"#, "{/*x*/}"] {
        refused(with(bad), &["generation_config.json"]);
    }
}

#[test]
fn config_25_rope_scaling_of_unknown_type() {
    let at = |kind: &str| rope_of(&[("rope_scaling", &format!(r#"{{"rope_type":"{kind}","factor":2}}"#))], &RopeArgs::new(32));
    assert!(at("linear").is_ok());
    refused(at("spiral"), &["config.json", "rope_scaling.rope_type", "\"spiral\"", "llama3, yarn"]);
}

fn image(text: &str) -> Result<ImageConfig, ConfigError> {
    let doc = || ConfigDoc::from_bytes(Path::new("preprocessor_config.json"), text.as_bytes().to_vec());
    bounded(text.len(), || ImageConfig::from_doc(&doc()?))
}

#[test]
fn config_25_images() {
    let text = |size: &str, std: &str| {
        format!(r#"{{"size":{size},"image_mean":[0.5,0.5,0.5],"image_std":{std},"rescale_factor":0.00392156862745098}}"#)
    };
    let std = "[0.25,0.5,1]";
    let square = ImageSize::Exact { height: 224, width: 224 };
    let c = image(&text("224", std)).unwrap();
    assert_eq!((c.size, c.mean.as_slice(), c.std.as_slice()), (Some(square), &[0.5; 3][..], &[0.25, 0.5, 1.0][..]));
    assert_eq!(image(&text(r#"{"height":224,"width":224}"#, std)).unwrap().size, Some(square));
    let short = image(&text(r#"{"shortest_edge":448,"longest_edge":1344}"#, std)).unwrap().size;
    assert_eq!(short, Some(ImageSize::Shortest { edge: 448, longest: Some(1344) }));
    assert_eq!(image("{}").unwrap().size, None);
    for (size, part) in [
        ("0", "size is 0"),
        ("1000000000", "size is 1000000000"),
        ("-1", "size is -1"),
        ("\"224\"", "size is \"224\""),
        ("1e9", "size is 1e9"),
        (r#"{"height":0,"width":224}"#, "size.height is 0"),
        (r#"{"height":224,"width":1000000000}"#, "size.width is 1000000000"),
        (r#"{"height":224}"#, "size.width is missing"),
        (r#"{"shortest_edge":0}"#, "size.shortest_edge is 0"),
        (r#"{"shortest_edge":448,"longest_edge":447}"#, "size.longest_edge is 447"),
        ("{}", "size is {}"),
    ] {
        refused(image(&text(size, std)), &["preprocessor_config.json", part]);
    }
    for (std, part) in [
        ("[0.5,0,0.5]", "above 0"),
        ("[0.5,-1,0.5]", "above 0"),
        ("[0.5,Infinity,1]", "finite"),
        ("[]", "1 to 4"),
        ("[1,1]", "as many"),
        ("0.5", "a list"),
    ] {
        refused(image(&text("224", std)), &["preprocessor_config.json", "image_std is", part]);
    }
    refused(image(r#"{"rescale_factor":0}"#), &["rescale_factor is 0"]);
    refused(image(r#"{"image_mean":["a"]}"#), &["image_mean"]);
}

mod any_bytes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

        /// A changed configuration is read or refused, and what is accepted is in range.
        #[test]
        fn a_changed_byte_never_panics(at in 0usize..700, to in 32u8..127) {
            let mut bytes = qwen3(&[("rope_scaling", r#"{"rope_type":"yarn","factor":4.0}"#)]).into_bytes();
            let n = bytes.len();
            bytes[at % n] = to;
            if let Ok(d) = ConfigDoc::from_bytes(Path::new("config.json"), bytes)
                && let Ok(src) = ConfigSource::from_doc(d, None)
                && let Ok(c) = DecoderConfig::from_source(&src)
            {
                prop_assert!(c.num_hidden_layers <= 4096 && c.num_attention_heads % c.num_key_value_heads == 0 && c.rms_norm_eps > 0.0);
                if let Ok(r) = rope(&src, &RopeArgs::new(c.head_dim)) {
                    prop_assert!(r.dim <= c.head_dim && r.theta > 0.0);
                }
            }
        }
    }
}
