//! `config.json` with an optional `generation_config.json` behind a NUL byte.

use crate::check_message;
use rlx_bounds::{bounded, within};
use rlx_core::config::{ConfigDoc, ConfigError, ConfigSource, DecoderConfig, MAX_LAYERS, RopeArgs, rope};
use rlx_flow::LmInputs;
use rlx_ir::{Builder, DType, Options, verify::verify};
use rlx_lm::{LmFamily, LmModel};
use std::path::Path;
use std::time::Duration;

const FAMILIES: &[&dyn LmFamily] = &[&rlx_qwen3::Qwen3];

/// Reads a configuration in every way there is and checks that what is accepted can be built: sizes in range, and a
/// graph without a mistake.
pub fn config_json(data: &[u8]) {
    let mut parts = data.splitn(2, |b| *b == 0).map(<[u8]>::to_vec);
    let (config, generation) = (parts.next().unwrap_or_default(), parts.next());
    let n = data.len();
    let source = bounded(n, || {
        let doc = ConfigDoc::from_bytes(Path::new("config.json"), config)?;
        let generation = generation.map(|g| ConfigDoc::from_bytes(Path::new("generation_config.json"), g)).transpose()?;
        ConfigSource::from_doc(doc, generation)
    });
    let Some(source) = accepted(source) else { return };
    bounded(n, || {
        accepted(source.eos_token_ids());
        accepted(source.vocab_size());
        if let Some(doc) = source.hf() {
            accepted(doc.model_type());
            accepted(doc.architectures());
            accepted(doc.dtype());
            for key in doc.keys() {
                assert_eq!(doc.has(&key), doc.raw(&key).is_some(), "{key:?}");
                accepted(doc.opt_usizes(&key));
                accepted(doc.opt_f64s(&key));
                accepted(doc.opt_object(&key));
            }
        }
    });
    bounded(n, || {
        if let Some(sizes) = accepted(DecoderConfig::from_source(&source)) {
            check_sizes(&sizes);
            let args = RopeArgs { context: Some(4096), ..RopeArgs::new(sizes.head_dim) };
            accepted(rope(&source, &args));
        }
    });
    for family in FAMILIES {
        for tensors in [false, true] {
            let model = bounded(n, || family.load(&source, &|_| tensors, 4096));
            if let Some(model) = accepted(model) {
                build(&*model, &source);
            }
        }
    }
}

fn accepted<T>(result: Result<T, ConfigError>) -> Option<T> {
    result.map_err(|e| check_message(&e.to_string())).ok()
}

fn check_sizes(c: &DecoderConfig) {
    assert!((1..=MAX_LAYERS).contains(&c.num_hidden_layers), "{c:?}");
    let sizes = [c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.vocab_size, c.intermediate_size];
    assert!(!sizes.contains(&0), "{c:?}");
    assert!(c.num_attention_heads.is_multiple_of(c.num_key_value_heads), "{c:?}");
    assert!(c.rms_norm_eps.is_finite() && c.rms_norm_eps >= 0.0, "{c:?}");
}

fn build(model: &dyn LmModel, source: &ConfigSource) {
    let layers = DecoderConfig::from_source(source).map_or(1, |c| c.num_hidden_layers);
    if layers > 4 {
        return; // more of the same
    }
    assert!(model.vocab_size() > 0);
    // Sizes without any relation may be refused, but in words.
    within(16 << 20, Duration::from_secs(1), || {
        let b = Builder::with("model", Options { compute: DType::F32, kv: DType::F16 }, Box::new(|_, _| Ok(DType::BF16)));
        let logits = model.build(&b.root(), &LmInputs::declare(&b)).id();
        let graph = b.finish(&[("logits", logits)]).unwrap_or_else(|e| panic!("a model that loads does not build: {e}"));
        verify(&graph).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    });
}
