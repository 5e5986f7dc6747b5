//! Quantised weights that files keep in parts: every method against recorded values, and what is refused.

mod common;

use common::{dir_with, fixture, oracle, safetensors};
use rlx_bounds::{Counting, bounded};
use rlx_core::weights::{WeightMap, open_map};
use rlx_core::{Checkpoint, LoadOpts, WeightsError};
use rlx_gguf::BlockFormat;
use rlx_gguf::blocks::{Affine, Fp8, ScaleType};
use rlx_ir::DType;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A tensor of a made-up checkpoint: name, type, shape.
type Tensor = (&'static str, &'static str, &'static [usize]);

fn opened(path: &Path) -> Checkpoint {
    rlx_core::weights::open_with(LoadOpts::map(), path).unwrap_or_else(|e| panic!("{e}"))
}

fn values(c: &Checkpoint, name: &str) -> Vec<f32> {
    let view = c.get(name).unwrap_or_else(|e| panic!("{e}"));
    let n: usize = view.shape.iter().product();
    let mut out = vec![0f32; n];
    match view.dtype {
        DType::Block(b) => b.dequantize(view.bytes(), &mut out).unwrap(),
        DType::F32 => out.iter_mut().zip(view.bytes().as_chunks().0).for_each(|(v, b)| *v = f32::from_le_bytes(*b)),
        DType::BF16 => out
            .iter_mut()
            .zip(view.bytes().as_chunks::<2>().0)
            .for_each(|(v, b)| *v = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
        other => panic!("{other}"),
    }
    out
}

/// Compares every recorded weight; `loose` says by how much a weight may be off, relative to its largest value.
fn compare(dir: &Path, loose: impl Fn(&str) -> f32) -> Checkpoint {
    let (c, expected) = (opened(dir), opened(&dir.join("expected.safetensors")));
    let names = |c: &Checkpoint| c.tensors().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&c), names(&expected), "the parts give way to the weights, and nothing is left over");
    for t in expected.tensors() {
        assert_eq!(c.find(&t.name).unwrap().shape, t.shape, "{}", t.name);
        let (found, want) = (values(&c, &t.name), values(&expected, &t.name));
        let most = want.iter().fold(0f32, |m, v| m.max(v.abs())) * loose(&t.name);
        for (i, (a, b)) in found.iter().zip(&want).enumerate() {
            assert!((a - b).abs() <= most, "{}[{i}]: {a} {b}", t.name);
        }
    }
    c
}

fn affine(bits: usize, group: usize, scale: ScaleType) -> Option<DType> {
    Some(DType::Block(BlockFormat::Affine(Affine::new(bits, group, scale).unwrap())))
}

fn fp8(group: usize) -> Option<DType> {
    Some(DType::Block(BlockFormat::Fp8(Fp8::new(group).unwrap())))
}

#[test]
fn what_mlx_writes_opens_and_means_what_mlx_says() {
    // MLX computes in the type of the scales: exact for f32, two roundings for the others.
    let c = compare(&fixture("packed/mlx"), |name| match name {
        "model.half.weight" => 1e-3,
        "model.brain.weight" | "model.rust.weight" | "model.switch_mlp.up_proj.weight" => 1e-2,
        _ => 0.0,
    });
    let dtype = |name: &str| c.find(name).unwrap().dtype();
    assert_eq!(dtype("model.b3g128.weight"), affine(3, 128, ScaleType::F32));
    assert_eq!(dtype("model.half.weight"), affine(4, 64, ScaleType::F16));
    assert_eq!(dtype("model.rust.weight"), affine(4, 64, ScaleType::BF16));
    assert_eq!(dtype("model.plain.weight"), Some(DType::BF16));
    assert_eq!(dtype("model.mxfp4.weight"), Some(DType::Block(BlockFormat::MXFP4)));
    assert_eq!(dtype("model.mxfp8.weight"), fp8(32));
    assert_eq!(dtype("model.nvfp4.weight"), Some(DType::Block(BlockFormat::NVFP4)));
    let q = c.quantization().unwrap();
    assert_eq!((q.method.as_str(), q.weights, &q.refused), ("mlx", 25, &None));
    let t = c.find("model.switch_mlp.up_proj.weight").unwrap();
    assert_eq!((t.shape.as_slice(), t.bytes), (&[3, 2, 64][..], 6 * 36));
}

#[test]
fn gptq_of_both_formats_means_what_it_was_packed_from() {
    for dir in ["packed/gptq", "packed/gptq_v2"] {
        let c = compare(&fixture(dir), |_| 0.0);
        assert_eq!(c.find("model.b4a.weight").unwrap().dtype(), affine(4, 32, ScaleType::F32));
        assert_eq!(c.quantization().unwrap().method, "gptq");
    }
    assert_eq!(opened(&fixture("packed/gptq")).find("model.b3a.weight").unwrap().dtype(), affine(3, 32, ScaleType::F32));
}

#[test]
fn awq_means_what_it_was_packed_from() {
    let c = compare(&fixture("packed/awq"), |_| 0.0);
    assert_eq!(c.find("model.b.weight").unwrap().dtype(), affine(4, 64, ScaleType::F32));
}

#[test]
fn compressed_tensors_mean_what_they_were_packed_from() {
    let c = compare(&fixture("packed/compressed"), |_| 0.0);
    let dtype = |name: &str| c.find(name).unwrap().dtype();
    assert_eq!(dtype("model.s4.weight"), affine(4, 32, ScaleType::F32));
    assert_eq!(dtype("model.a3.weight"), affine(3, 32, ScaleType::F32));
    assert_eq!(
        (dtype("model.channel8.weight"), dtype("model.int8.weight")),
        (affine(8, 64, ScaleType::F32), affine(8, 64, ScaleType::F32))
    );
    assert_eq!(dtype("model.float8.weight"), fp8(64));
}

#[test]
fn fp8_with_whole_and_partial_blocks_means_what_it_says() {
    let c = compare(&fixture("packed/fp8"), |_| 0.0);
    let dtype = |name: &str| c.find(name).unwrap().dtype();
    assert_eq!((dtype("model.even.weight"), dtype("model.edge.weight"), dtype("model.tensor.weight")), (fp8(64), fp8(32), fp8(32)));
    // Rows that are no whole groups are decoded.
    assert_eq!(dtype("model.ragged.weight"), Some(DType::F32));
}

/// The reference checkpoint in the released fp8 layout, against a decoder that looks each element up.
#[test]
fn the_reference_fp8_checkpoint_decodes_element_by_element() {
    let Some(oracle) = oracle() else { return };
    let dir = oracle.join("minimax_m2_fp8");
    let file = std::fs::read(dir.join("model.safetensors")).unwrap();
    let raw = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    let c = opened(&dir);
    let mut count = 0;
    for (name, t) in raw.iter().filter(|(_, t)| t.dtype() == ::safetensors::Dtype::F8_E4M3) {
        let scale = raw.tensor(&format!("{name}_scale_inv")).unwrap();
        let scale_at = |i: usize| f32::from_le_bytes(scale.data()[4 * i..][..4].try_into().unwrap());
        let (columns, across) = (t.shape()[1], scale.shape()[1]);
        let found = values(&c, name);
        for (i, code) in t.data().iter().enumerate() {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
            let size = if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
            let value = if *code > 127 { -size } else { size };
            let want = scale_at(i / columns / 32 * across + i % columns / 32) * value;
            assert_eq!(found[i], want, "{name}[{i}]");
        }
        assert!(c.find(&format!("{name}_scale_inv")).is_none());
        count += 1;
    }
    assert!(count >= 60, "{count} weights");
}

#[test]
fn the_reference_mxfp4_checkpoint_has_its_experts_as_one_tensor_each() {
    let Some(oracle) = oracle() else { return };
    let c = opened(&oracle.join("gpt_oss_mxfp4"));
    let t = c.find("model.layers.0.mlp.experts.gate_up_proj").unwrap();
    assert_eq!((t.dtype(), t.shape.len()), (Some(DType::Block(BlockFormat::MXFP4)), 3));
    assert!(values(&c, &t.name).iter().all(|v| v.is_finite()));
    assert!(c.tensors().all(|t| !t.name.ends_with("_blocks") && !t.name.ends_with("_scales")));
}

/// A checkpoint of tensors of zeros: (name, dtype, shape).
fn checkpoint(config: &str, tensors: &[Tensor]) -> (tempfile::TempDir, Result<WeightMap, WeightsError>) {
    let file = zeros(tensors);
    let dir = dir_with(&[("model.safetensors", &file), ("config.json", config.as_bytes())]);
    let opened = bounded(file.len() + config.len(), || open_map(dir.path()));
    (dir, opened)
}

/// A safetensors file of these tensors.
fn zeros(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut end) = (String::new(), 0);
    for (name, dtype, shape) in tensors {
        let begin = end;
        let size = match *dtype {
            "U8" | "I8" | "F8_E4M3" => 1,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 4,
        };
        end += size * shape.iter().product::<usize>();
        header += &format!(
            r#"{}"{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#,
            if begin + header.len() > 0 { "," } else { "" }
        );
    }
    safetensors(&format!("{{{header}}}"), &vec![0; end])
}

#[track_caller]
fn refused(config: &str, tensors: &[Tensor], parts: &[&str]) {
    let message = checkpoint(config, tensors).1.expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(message.len() < 1000, "{} bytes of message", message.len());
}

/// Whether the weights of a checkpoint are quantised by a method that can be used.
fn check_quantization(config: &str, tensors: &[Tensor]) -> Result<(), String> {
    let dir = checkpoint(config, tensors).0;
    bounded(config.len(), || open_map(dir.path()).unwrap().checkpoint().check_quantization().map_err(|e| e.to_string()))
}

const MLX: &str = r#"{"quantization":{"group_size":64,"bits":4}}"#;

#[test]
fn mlx_parts_that_do_not_belong_together_are_refused_by_all_three_names() {
    let w: Tensor = ("x.weight", "U32", &[2, 16]);
    let (s, b): (Tensor, Tensor) = (("x.scales", "F16", &[2, 2]), ("x.biases", "F16", &[2, 2]));
    let map = checkpoint(MLX, &[w, s, b]).1.unwrap();
    assert_eq!(map.meta("x.weight").unwrap().shape, [2, 128]);
    let all = ["\"x.weight\" u32 [2, 16]", "\"x.scales\"", "\"x.biases\""];
    refused(MLX, &[w, s, ("x.biases", "F16", &[2, 3])], &[all[0], all[1], all[2], "scales and biases of shape [2, 2]"]);
    refused(MLX, &[w, ("x.scales", "F16", &[3, 2]), b], &[all[0], "[3, 2]", "scales and biases of shape [2, 2]"]);
    refused(MLX, &[w, s, ("x.biases", "BF16", &[2, 2])], &[all[1], "of one type: f16, bf16 or f32"]);
    refused(MLX, &[w, ("x.scales", "I32", &[2, 2]), ("x.biases", "I32", &[2, 2])], &["of one type: f16, bf16 or f32"]);
    refused(MLX, &[w, s], &[all[0], "without x.biases"]);
    // Where the data of the parts begins: behind one another, at the end of the file.
    let parts = [w, s, ("x.biases", "F16", &[2, 3][..])];
    let (dir, opened) = checkpoint(MLX, &parts);
    let (message, end) = (opened.unwrap_err().to_string(), std::fs::metadata(dir.path().join("model.safetensors")).unwrap().len());
    for (name, behind) in [("x.weight\" u32 [2, 16]", 128 + 8 + 12), ("x.scales\" f16 [2, 2]", 8 + 12), ("x.biases\" f16 [2, 3]", 12)] {
        assert!(message.contains(&format!("{name} at byte {}", end - behind)), "{message}");
    }
    refused(MLX, &[w, b], &[all[0], "without x.scales"]);
    refused(MLX, &[("x.weight", "U32", &[16]), s, b], &["at least two dimensions"]);
    // 100 inputs of 4 bits are 12.5 words; of 8 bits they are 25 and do not divide into groups of 64.
    let eight = MLX.replace("\"bits\":4", "\"bits\":8");
    let odd: &[Tensor] = &[("x.weight", "U32", &[2, 25]), ("x.scales", "F16", &[2, 1]), ("x.biases", "F16", &[2, 1])];
    refused(&eight, odd, &["\"x.weight\" u32 [2, 25]", "100 is not divisible by 64", "group size that divides it"]);
    let three = MLX.replace("\"bits\":4", "\"bits\":3");
    refused(&three, &[w, s, b], &["whole codes of 3 bits"]);
    refused(r#"{"quantization":{"group_size":64,"bits":4,"x":false}}"#, &[w, s, b], &["config.json says false for x"]);
    refused(r#"{"quantization":{"group_size":64}}"#, &[w, s, b], &["quantization.bits is missing"]);
    refused(r#"{"quantization":{"group_size":"64","bits":4}}"#, &[w, s, b], &["quantization.group_size is \"64\""]);
    refused(r#"{"quantization":{"group_size":0,"bits":4}}"#, &[w, s, b], &["not divisible by 0"]);
    refused(r#"{"quantization":{"group_size":64,"bits":0}}"#, &[w, s, b], &["whole codes of 0 bits"]);
}

#[test]
fn parts_in_several_shards_are_named_with_their_shard() {
    let shards = |biases: &'static [usize]| {
        let one = zeros(&[("x.weight", "U32", &[2, 16]), ("x.scales", "F16", &[2, 2])]);
        let two = zeros(&[("y", "F16", &[3]), ("x.biases", "F16", biases)]);
        let index =
            r#"{"weight_map":{"x.weight":"a.safetensors","x.scales":"a.safetensors","y":"b.safetensors","x.biases":"b.safetensors"}}"#;
        let name = "model.safetensors.index.json";
        let files = [("a.safetensors", &one[..]), ("b.safetensors", &two), (name, index.as_bytes()), ("config.json", MLX.as_bytes())];
        let dir = dir_with(&files);
        let opened = bounded(files.iter().map(|f| f.1.len()).sum(), || open_map(dir.path()).map(drop).map_err(|e| e.to_string()));
        (opened, two.len() - biases.iter().product::<usize>() * 2)
    };
    assert_eq!(shards(&[2, 2]).0, Ok(()));
    let (opened, at) = shards(&[2, 3]);
    let message = opened.unwrap_err();
    assert!(message.contains(&format!("\"x.biases\" f16 [2, 3] at byte {at} of b.safetensors")), "{message}");
    assert!(message.contains("of a.safetensors"), "{message}");
}

#[test]
fn mlx_layers_have_settings_of_their_own() {
    let config = r#"{"quantization":{"group_size":64,"bits":4,"x":{"bits":8},"y":{"group_size":32,"bits":2}}}"#;
    let map = checkpoint(
        config,
        &[
            ("x.biases", "F16", &[1, 1]),
            ("x.scales", "F16", &[1, 1]),
            ("x.weight", "U32", &[1, 16]),
            ("y.biases", "BF16", &[1, 2]),
            ("y.scales", "BF16", &[1, 2]),
            ("y.weight", "U32", &[1, 4]),
        ],
    );
    let map = map.1.unwrap();
    assert_eq!(map.meta("x.weight").unwrap().dtype(), affine(8, 64, ScaleType::F16));
    assert_eq!(map.meta("y.weight").unwrap().dtype(), affine(2, 32, ScaleType::BF16));
}

#[test]
fn formats_without_a_block_format_are_refused_at_use_by_name() {
    let seven = MLX.replace("\"bits\":4", "\"bits\":7").replace("64", "32");
    let parts: &[Tensor] = &[("x.weight", "U32", &[1, 7]), ("x.scales", "F16", &[1, 1]), ("x.biases", "F16", &[1, 1])];
    let (_dir, map) = checkpoint(&seven, parts);
    let map = map.unwrap();
    let message = map.param_type("x.weight", &[32.into()]).unwrap_err();
    assert!(message.contains("\"x.weight\" cannot be used") && message.contains("7 bits"), "{message}");
    assert_eq!(map.get("x.weight").unwrap_err().to_string(), message);
    let mode = r#"{"quantization":{"group_size":32,"bits":4,"mode":"int4e"}}"#;
    let parts: &[Tensor] = &[("x.weight", "U32", &[1, 4]), ("x.scales", "U8", &[1, 1])];
    let message = checkpoint(mode, parts).1.unwrap().get("x.weight").unwrap_err().to_string();
    assert!(message.contains("mode int4e") && message.contains("mxfp4 (4 bits, groups of 32)"), "{message}");
    // GPTQ groups that no block divides.
    let config = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":16}}"#;
    let parts: &[Tensor] = &[("x.qweight", "I32", &[8, 8]), ("x.qzeros", "I32", &[4, 1]), ("x.scales", "F16", &[4, 8])];
    let map = checkpoint(config, parts).1.unwrap();
    let message = map.param_type("x.weight", &[8.into(), 64.into()]).unwrap_err();
    assert!(message.contains("\"x.weight\"") && message.contains("64 inputs in groups of 16"), "{message}");
}

#[test]
fn gptq_with_sorted_inputs_is_refused_by_name() {
    let dir = dir_with(&[]);
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("packed/gptq").join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (at, size) = {
        let raw = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let order = raw.tensor("model.b4a.g_idx").unwrap();
        (order.data().as_ptr() as usize - bytes.as_ptr() as usize, order.data().len())
    };
    assert!(opened(dir.path()).get("model.b4a.weight").is_ok());
    bytes[at..at + size].rotate_left(4);
    std::fs::write(&path, &bytes).unwrap();
    let c = opened(dir.path());
    let message = c.get("model.b4a.weight").unwrap_err().to_string();
    assert!(message.contains("model.b4a.weight") && message.contains("desc_act"), "{message}");
    assert!(c.get("model.b4s.weight").is_ok());
}

#[test]
fn hugging_face_parts_that_do_not_belong_together_are_refused() {
    let gptq = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32}}"#;
    let (w, z): (Tensor, Tensor) = (("x.qweight", "I32", &[8, 8]), ("x.qzeros", "I32", &[2, 1]));
    let s: Tensor = ("x.scales", "F16", &[2, 8]);
    assert_eq!(checkpoint(gptq, &[w, z, s]).1.unwrap().meta("x.weight").unwrap().shape, [8, 64]);
    refused(gptq, &[w, z], &["\"x.qweight\" i32 [8, 8] at byte ", " without x.scales"]);
    refused(gptq, &[w, s], &["without x.qzeros"]);
    refused(gptq, &[w, z, ("x.scales", "F16", &[3, 8])], &["\"x.qweight\"", "\"x.qzeros\"", "\"x.scales\" f16 [3, 8]"]);
    refused(gptq, &[w, z, ("x.scales", "F16", &[2, 0])], &["scales [groups, out]"]);
    refused(gptq, &[w, z, ("x.scales", "I32", &[2, 8])], &["f32, f16 or bf16"]);
    refused(gptq, &[w, z, s, ("x.weight", "F16", &[8, 64])], &["x.weight beside"]);
    let awq = gptq.replace("gptq", "awq");
    refused(&awq, &[w, z, s], &["qweight [in, out / 8]"]);
    let fp8 = r#"{"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}"#;
    let f: Tensor = ("x.weight", "F8_E4M3", &[130, 256]);
    assert!(checkpoint(fp8, &[f, ("x.weight_scale_inv", "F32", &[2, 2])]).1.is_ok());
    refused(fp8, &[f], &["\"x.weight\" f8e4m3 [130, 256] at byte ", " without x.weight_scale_inv"]);
    refused(fp8, &[f, ("x.weight_scale_inv", "F32", &[1, 2])], &["\"x.weight_scale_inv\" f32 [1, 2]", "[2, 2] (per block of 128 by 128)"]);
    refused(fp8, &[f, ("x.weight_scale_inv", "U8", &[2, 2])], &["a scale of type f32, f16 or bf16"]);
    refused(&fp8.replace("[128,128]", "[0,128]"), &[f], &["weight_block_size is [0,128]"]);
    refused(&fp8.replace("[128,128]", "[128]"), &[f], &["two sizes"]);
    refused(&fp8.replace("\"weight_block_size\":[128,128]", "\"fmt\":\"e5m2\""), &[f], &["fmt is \"e5m2\""]);
    let ct = r#"{"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized"}}"#;
    let p: Tensor = ("x.weight_packed", "I32", &[2, 8]);
    let message = checkpoint(ct, &[p]).1.unwrap().param_type("x.weight", &[2.into(), 64.into()]).unwrap_err();
    assert!(message.contains("\"x.weight\" cannot be used") && message.contains("8 words"), "{message}");
    let four = ct.replace("\"format\"", "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":4}}},\"format\"");
    refused(&four, &[p], &["\"x.weight_packed\" i32 [2, 8] at byte ", " without x.weight_scale"]);
    assert_eq!(checkpoint(&four, &[p, ("x.weight_scale", "F16", &[2, 1])]).1.unwrap().meta("x.weight").unwrap().shape, [2, 64]);
    refused(ct, &[p, ("x.weight_scale", "F16", &[2, 1]), ("x.weight_shape", "I64", &[2])], &["says Some([0, 0])", "the first of them 2"]);
}

#[test]
fn config_25_methods_that_are_not_read_fail_by_name() {
    let tensor: Tensor = ("x.weight", "U8", &[16, 1]);
    for (config, wrong, parts) in [
        (
            r#"{"quant_method":"bitsandbytes","load_in_4bit":true}"#,
            "\"bitsandbytes",
            &["\"bitsandbytes\"", "not known", "GGUF or MLX release", "quantization_config.quant_method at byte "][..],
        ),
        (r#"{"quant_method":"hqq"}"#, "\"hqq", &["\"hqq\""]),
        (r#"{"quant_method":"awq","bits":4,"group_size":128,"version":"gemv"}"#, "\"gemv", &["\"awq\"", "version \"gemv\": expected gemm"]),
        (
            r#"{"quant_method":"gptq","bits":4,"group_size":128,"checkpoint_format":"marlin"}"#,
            "\"marlin",
            &["checkpoint_format \"marlin\""],
        ),
        (r#"{"quant_method":"compressed-tensors","format":"marlin-24"}"#, "\"marlin", &["format \"marlin-24\"", "pack-quantized"]),
        (
            r#"{"quant_method":"compressed-tensors","config_groups":{"a":{"format":"int-quantized"},"b":{"format":"odd"}}}"#,
            "\"odd",
            &["format \"odd\"", "config_groups.b.format at byte "],
        ),
        (r#"{"quant_algo":"NVFP4"}"#, "\"NVFP4", &["\"modelopt\"", "NVFP4"]),
    ] {
        // The checkpoint opens, to be looked at; running it says why it cannot.
        let config = format!(r#"{{"quantization_config":{config}}}"#);
        let message = check_quantization(&config, &[tensor]).unwrap_err();
        assert!(message.contains(&format!(" at byte {} of config.json", config.find(wrong).unwrap())), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
    let plain = checkpoint("{}", &[tensor]).1.unwrap();
    assert!(plain.checkpoint().quantization().is_none());
    check_quantization("{}", &[tensor]).unwrap();
    // A method of a megabyte, and a hundred thousand groups.
    let long = format!(r#"{{"quantization_config":{{"quant_method":"{}"}}}}"#, "x".repeat(1 << 20));
    let message = check_quantization(&long, &[tensor]).unwrap_err();
    assert!(message.contains("not known") && message.len() < 1000, "{} bytes of message", message.len());
    let groups = |format: &str| {
        let group = |i: usize| format!(r#""{i}":{{"format":"{format}","weights":{{"num_bits":4}}}}"#);
        let groups: Vec<String> = (0..20_000).map(group).collect();
        let config = format!(r#"{{"quant_method":"compressed-tensors","config_groups":{{{}}}}}"#, groups.join(","));
        check_quantization(&format!(r#"{{"quantization_config":{config}}}"#), &[tensor])
    };
    groups("pack-quantized").unwrap();
    assert!(groups("marlin-24").unwrap_err().contains("format \"marlin-24\""));
    let message = check_quantization("{}", &[("x.weight", "U32", &[1, 1])]).unwrap_err();
    assert!(message.contains("\"x.weight\"") && message.contains("take the config.json of the release"), "{message}");
    refused(r#"{"quantization_config":{"quant_method":7}}"#, &[("x.weight", "U32", &[1, 1])], &["quantization_config.quant_method is 7"]);
    refused(r#"{"quantization_config":"fp8"}"#, &[("x.qweight", "I32", &[1, 1])], &["quantization_config is \"fp8\", expected an object"]);
}

#[test]
fn many_weights_in_parts_stay_within_the_bounds() {
    let (mut header, mut at) = (String::new(), 0);
    for i in 0..5000 {
        for (part, dtype, shape, size) in [("biases", "F16", "[1,1]", 2), ("scales", "F16", "[1,1]", 2), ("weight", "U32", "[1,4]", 16)] {
            let comma = if header.is_empty() { "" } else { "," };
            header += &format!(r#"{comma}"{i:x}.{part}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{at},{}]}}"#, at + size);
            at += size;
        }
    }
    let file = safetensors(&format!("{{{header}}}"), &vec![0; at]);
    let config = r#"{"quantization":{"group_size":32,"bits":4}}"#;
    let dir = dir_with(&[("model.safetensors", &file), ("config.json", config.as_bytes())]);
    let c = bounded(file.len() + config.len(), || opened(dir.path()));
    assert_eq!((c.tensors().len(), c.quantization().unwrap().weights), (5000, 5000));
}
