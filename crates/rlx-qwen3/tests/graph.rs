//! The graph of a two-layer model as text, as built and as compiled; and how long the family's code is.

use rlx_compile::{NullBackend, Profile};
use rlx_core::config::{ConfigDoc, ConfigSource};
use rlx_flow::LmInputs;
use rlx_ir::{Builder, DType, Graph, Options, text, verify::verify};
use rlx_lm::LmFamily;
use rlx_qwen3::Qwen3;
use rlx_runtime::Session;
use std::path::Path;
use std::sync::Arc;

const CONFIG: &str = r#"{"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 320, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "tie_word_embeddings": true, "max_position_embeddings": 4096}"#;

fn graph() -> Graph {
    let doc = ConfigDoc::from_bytes(Path::new("config.json"), CONFIG.into()).unwrap();
    let model = Qwen3.load(&ConfigSource::from_doc(doc, None).unwrap(), &|_| false, 4096).unwrap();
    let b = Builder::with("qwen3", Options { compute: DType::F32, kv: DType::F16 }, Box::new(|_, _| Ok(DType::BF16)));
    let logits = model.build(&b.root(), &LmInputs::declare(&b)).id();
    b.finish(&[("logits", logits)]).unwrap()
}

#[test]
fn the_graph_as_built() {
    let g = graph();
    verify(&g).unwrap();
    let printed = g.to_string();
    assert_eq!(text::parse(&printed).unwrap().to_string(), printed);
    insta::assert_snapshot!(printed);
}

#[test]
fn the_graph_as_compiled() {
    let session = Session::on(Arc::new(NullBackend), Profile::preset("lm").unwrap());
    let (plan, explain) = session.plan(graph()).unwrap();
    verify(&plan.graph).unwrap();
    // Per layer: norm, qkv, 2 head norms, rope, 2 appends, attention, o, norm, gate/up, swiglu, down.
    assert_eq!(explain.coverage.native["linear"], 2 * 4 + 1);
    insta::assert_snapshot!(plan.graph.to_string());
}

#[test]
fn the_family_stays_small() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lines = |p: &Path| std::fs::read_to_string(p).unwrap().lines().count();
    let files = std::fs::read_dir(&src).unwrap().chain(std::fs::read_dir(src.join("bin")).unwrap());
    let total: usize = files.map(|f| f.unwrap().path()).filter(|p| p.is_file()).map(|p| lines(&p)).sum();
    let builder = lines(&src.join("model.rs"));
    println!("rlx-qwen3: {total} lines, {builder} of them the graph builder");
    assert!(total < 500, "{total} lines");
    assert!(builder < 60, "{builder} lines");
}
