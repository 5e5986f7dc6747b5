//! The types that mixes give to tensors, against what llama-quantize chooses for models of several shapes
//! (`tests/fixtures/quantize_types.py` records it).

use rlx_gguf::quantize::{FileType, ImportanceMatrix, Options, Plan};
use rlx_gguf::{Gguf, GgufWriter, TensorType, Value};
use std::collections::BTreeMap;

/// A shape of model: the line `model NUMBER KEY=VALUE …` of the record.
struct Model<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Model<'a> {
    fn of(line: &'a str) -> Self {
        Self(line.split(' ').filter_map(|w| w.split_once('=')).collect())
    }

    fn number(&self, key: &str) -> u32 {
        self.0[key].parse().unwrap()
    }

    /// The parts of a layer.
    fn parts(&self) -> Vec<String> {
        let text = match (self.0["arch"], self.number("experts")) {
            ("falcon", _) => "attn_qkv attn_output ffn_up ffn_down",
            (_, 0) => "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down",
            _ => "attn_q attn_k attn_v attn_output ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps",
        };
        text.split(' ').map(str::to_owned).collect()
    }

    fn gguf(&self) -> Gguf {
        let mut w = GgufWriter::new();
        let arch = self.0["arch"];
        w.put("general.architecture", Value::String(arch.into())).unwrap();
        for (key, value) in
            [("block_count", "layers"), ("attention.head_count", "heads"), ("attention.head_count_kv", "kv"), ("expert_count", "experts")]
        {
            w.put(&format!("{arch}.{key}"), Value::U32(self.number(value))).unwrap();
        }
        let columns = u64::from(self.number("columns"));
        let mut add = |name: String| {
            let shape = if name.ends_with("_exps.weight") { vec![2, 2, columns] } else { vec![2, columns] };
            let bytes = shape.iter().product::<u64>() as usize * 4;
            w.tensor(&name, TensorType::F32, &shape, vec![0; bytes]).unwrap();
        };
        add("token_embd.weight".into());
        if self.number("output") == 1 {
            add("output.weight".into());
        }
        for layer in 0..self.number("layers") {
            self.parts().iter().for_each(|part| add(format!("blk.{layer}.{part}.weight")));
        }
        Gguf::from_bytes(w.to_bytes()).unwrap()
    }

    /// Names of tensors per part.
    fn names(&self) -> Vec<(String, Vec<String>)> {
        let mut names = vec![("token_embd".to_owned(), vec!["token_embd.weight".to_owned()])];
        if self.number("output") == 1 {
            names.push(("output".into(), vec!["output.weight".into()]));
        }
        names.extend(self.parts().into_iter().map(|part| {
            let all = (0..self.number("layers")).map(|i| format!("blk.{i}.{part}.weight")).collect();
            (part, all)
        }));
        names
    }
}

/// `Q6_K*3,Q4_K*1` for a list of types.
fn runs(types: &[String]) -> String {
    types.chunk_by(|a, b| a == b).map(|run| format!("{}*{}", run[0], run.len())).collect::<Vec<_>>().join(",")
}

/// A matrix that has every tensor of the model, all columns equal.
fn importance(gguf: &Gguf) -> ImportanceMatrix {
    let mut out = (gguf.tensors().len() as i32).to_le_bytes().to_vec();
    for t in gguf.tensors() {
        out.extend((t.name.len() as i32).to_le_bytes());
        out.extend(t.name.as_bytes());
        out.extend(1i32.to_le_bytes());
        let n = t.shape.last().unwrap() * if t.shape.len() > 2 { t.shape[0] } else { 1 };
        out.extend((n as i32).to_le_bytes());
        (0..n).for_each(|_| out.extend(1f32.to_le_bytes()));
    }
    ImportanceMatrix::from_bytes(&out).unwrap()
}

#[test]
fn mixes_give_every_tensor_the_type_that_llama_quantize_gives_it() {
    let record = include_str!("fixtures/quantize_types.txt");
    let (mut model, mut seen, mut wrong) = (None, [0; 2], vec![]);
    for line in record.lines() {
        if line.starts_with("model ") {
            let m = Model::of(line);
            let gguf = m.gguf();
            let matrix = importance(&gguf);
            model = Some((line, m, gguf, matrix));
            seen[0] += 1;
            continue;
        }
        let (title, m, gguf, matrix) = model.as_ref().expect("a model comes first");
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, with_matrix) = first.strip_suffix('+').map_or((first, false), |n| (n, true));
        let file_type = FileType::from_name(name).unwrap();
        let options = Options { importance: with_matrix.then(|| matrix.clone()), ..Options::default() };
        seen[1] += 1;
        let plan = match Plan::new(gguf, file_type, &options) {
            Ok(plan) => plan,
            // llama-quantize says so only when it is not a dry run.
            Err(e) if !with_matrix && file_type.needs_importance() => {
                assert!(e.to_string().contains("importance matrix"), "{title}: {name}: {e}");
                continue;
            }
            Err(e) => panic!("{title}: {name}: {e}"),
        };
        let types: BTreeMap<&str, String> = plan.tensors().iter().map(|t| (t.source.name.as_str(), t.ty.to_string())).collect();
        let mut found = String::new();
        for (part, names) in m.names() {
            let types: Vec<String> = names.iter().map(|n| types[n.as_str()].clone()).collect();
            if runs(&types) != format!("{name}*{}", types.len()) {
                found += &format!(" {part}={}", runs(&types));
            }
        }
        if found.trim_start() != rest {
            wrong.push(format!("{title}\n  {first} found    {}\n  {first} expected {rest}", found.trim_start()));
        }
    }
    assert!(seen[0] >= 8 && seen[1] > 8 * 33, "{seen:?}");
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), seen[1], wrong.join("\n"));
}

/// The figures of `FileType::bits_per_weight` are those of Llama 3's 8B shape.
#[test]
fn bits_per_weight_are_those_of_an_8b_model() {
    // Rows × columns of 32 layers, embedding and output; declared, so that no data is needed.
    let parts = [
        ("attn_q", 4096, 4096),
        ("attn_k", 1024, 4096),
        ("attn_v", 1024, 4096),
        ("attn_output", 4096, 4096),
        ("ffn_gate", 14336, 4096),
        ("ffn_up", 14336, 4096),
        ("ffn_down", 4096, 14336),
    ];
    let model = Model::of("model - arch=llama layers=32 heads=32 kv=8 experts=0 output=1 columns=256");
    let gguf = model.gguf();
    let matrix = importance(&gguf);
    let mut wrong = vec![];
    for file_type in FileType::ALL.iter().copied() {
        let options = Options { importance: file_type.needs_importance().then(|| matrix.clone()), ..Options::default() };
        let plan = Plan::new(&gguf, file_type, &options).unwrap();
        let (mut bits, mut weights) = (0.0, 0.0);
        for t in plan.tensors() {
            let part = t.source.name.rsplit('.').nth(1).unwrap();
            let (_, rows, columns) = parts.iter().find(|p| p.0 == part).copied().unwrap_or(("", 128_256, 4096));
            bits += t.ty.row_bytes(columns).unwrap() as f64 * 8.0 * f64::from(rows);
            weights += columns as f64 * f64::from(rows);
        }
        let exact = bits / weights;
        if (exact - f64::from(file_type.bits_per_weight())).abs() > 0.006 {
            wrong.push(format!("{file_type}: {exact:.2}, not {:.2}", file_type.bits_per_weight()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
