//! Profiles: presets, files over presets, single overrides, and what the messages say.

use rlx_compile::profile::{Activations, KvType, Origin, Profile, ProfileError, Simd};
use std::path::Path;

fn file(text: &str) -> Result<Profile, ProfileError> {
    Profile::from_toml_over(Profile::default(), text, Path::new("w/qwen3.rlx.toml"))
}

#[test]
fn every_preset_exists_and_round_trips_through_toml() {
    for name in Profile::PRESETS {
        let p = Profile::preset(name).unwrap();
        assert_eq!(p.name, name);
        let back = Profile::from_toml_over(Profile::default(), &p.to_toml(), Path::new("p.toml")).unwrap();
        assert_eq!(back, p, "{name}\n{}", p.to_toml());
    }
    let e = Profile::preset("lmm").unwrap_err().to_string();
    assert!(e.contains("`lmm`") && e.contains("diffusion"), "{e}");
}

#[test]
fn exact_reduces_no_precision_and_lm_is_the_default() {
    let exact = Profile::preset("exact").unwrap();
    assert_eq!((exact.kv, exact.activations), (KvType::F32, Activations::Exact));
    assert_eq!(Profile::default(), Profile::preset("lm").unwrap());
    assert_eq!(Profile::default().options().kv, rlx_ir::DType::F16);
}

#[test]
fn a_file_overrides_the_preset_it_names_and_says_so() {
    let p = file("preset = \"exact\"\nkv = \"bf16\"\nthreads = 3\n[fusion]\nepilogue = false\n").unwrap();
    assert_eq!((p.kv, p.threads, p.activations, p.fusion.epilogue), (KvType::Bf16, 3, Activations::Exact, false));
    assert!(p.fusion.merge_linear);
    assert_eq!(p.origin("kv"), Origin::File("w/qwen3.rlx.toml".into()));
    assert_eq!(p.origin("simd"), Origin::Preset("exact".into()));
    assert_eq!(file("").unwrap(), Profile::default());
    assert_eq!(file("[fusion]\n").unwrap(), Profile::default());
}

#[test]
fn a_file_without_a_preset_changes_the_profile_it_is_given() {
    let base = Profile::preset("sam").unwrap();
    let p = Profile::from_toml_over(base, "name = \"mine\"\nsimd = \"avx2\"", Path::new("f")).unwrap();
    assert_eq!((p.name.as_str(), p.simd, p.activations), ("mine", Simd::Avx2, Activations::Exact));
    assert_eq!(p.origin("activations"), Origin::Preset("sam".into()));
}

#[test]
fn single_settings_override_files() {
    let mut p = file("kv = \"bf16\"").unwrap();
    for s in ["kv=f32", "fusion.epilogue=false", "threads = 2", "simd=\"scalar\"", "prefill_chunk=0", "name=x"] {
        p.set(s).unwrap();
    }
    assert_eq!((p.kv, p.fusion.epilogue, p.threads, p.simd, p.prefill_chunk), (KvType::F32, false, 2, Simd::Scalar, 0));
    assert_eq!(p.origin("kv"), Origin::Set);
    assert_eq!(p.name, "x");
}

#[test]
fn unknown_keys_name_the_key_the_file_and_the_nearest_known_one() {
    let e = file("[fusion]\nepilog = false").unwrap_err();
    assert!(matches!(&e, ProfileError::UnknownKey { key, .. } if key == "fusion.epilog"));
    insta::assert_snapshot!(e.to_string(), @"w/qwen3.rlx.toml: unknown key `fusion.epilog` (did you mean `fusion.epilogue`?); known keys: name, compute, kv, activations, packing, packed_cache, threads, simd, kv_block_tokens, prefill_chunk, act_block_kib, weight_block_kib, fusion.canonicalise, fusion.constant_fold, fusion.cse, fusion.dce, fusion.early_rows, fusion.merge_linear, fusion.swiglu, fusion.epilogue, fusion.norm_residual, fusion.norm_residual_first, fusion.rope_append, fusion.elementwise");
    for text in ["[fuzion]", "fusion = true", "kv = {a = 1}", "\"fusion/epilogue\" = false", "x = []", "[fusion.epilogue]\na = 1"] {
        assert!(matches!(file(text), Err(ProfileError::UnknownKey { .. })), "{text}");
    }
    let mut p = Profile::default();
    let e = p.set("thread=3").unwrap_err().to_string();
    assert!(e.starts_with("--set: unknown key `thread` (did you mean `threads`?)"), "{e}");
    assert!(!p.set("zzz=3").unwrap_err().to_string().contains("did you mean"));
    assert_eq!(p, Profile::default());
}

#[test]
fn wrong_values_name_the_key_the_value_and_what_would_do() {
    let mut p = Profile::default();
    insta::assert_snapshot!(p.set("kv=f31").unwrap_err(), @"--set: `kv` = \"f31\": unknown variant `f31`, expected one of `f32`, `f16`, `bf16`");
    insta::assert_snapshot!(p.set("fusion.cse=maybe").unwrap_err(), @r#"--set: `fusion.cse` = "maybe": invalid type: string "maybe", expected a boolean"#);
    insta::assert_snapshot!(p.set("kv_block_tokens=48").unwrap_err(), @"--set: `kv_block_tokens` = 48: expected a power of two, at most 65536");
    insta::assert_snapshot!(p.set("threads=-1").unwrap_err(), @"--set: `threads` = -1: invalid value: integer `-1`, expected usize");
    for bad in ["threads", "=3", ""] {
        assert!(matches!(p.set(bad), Err(ProfileError::Set { .. })), "{bad}");
    }
    for bad in ["threads=99999", "threads=1.5", "prefill_chunk=999999999999", "kv_block_tokens=0", "compute=f16", "kv=[1]", "threads="] {
        assert!(matches!(p.set(bad), Err(ProfileError::Value { .. })), "{bad}");
    }
    assert_eq!(p, Profile::default());
    for bad in ["kv = ", "kv = 3", "preset = 3", "preset = \"x\"", "threads = 1979-05-27", "kv = \"f16\"\nkv = \"f16\"", "threads = nan"] {
        let e = file(bad).unwrap_err().to_string();
        assert!(e.starts_with("w/qwen3.rlx.toml: "), "{e}");
    }
}

#[test]
fn explain_prints_every_value_and_its_origin() {
    let mut p = file("threads = 4").unwrap();
    p.set("kv=f32").unwrap();
    insta::assert_snapshot!("explain", p);
}
