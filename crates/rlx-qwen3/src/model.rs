//! The Qwen3 decoder (Qwen team 2025; `Qwen3ForCausalLM` in transformers).
//!
//! T new tokens of S sequences, E hidden, H query heads, K key and value heads, D head dimension.

use crate::Config;
use rlx_flow::{LmInputs, gated_mlp, lm_head};
use rlx_ir::ops::{Attention, UnaryOp};
use rlx_ir::{Scope, Val};

fn attention<'g>(w: &Scope<'g>, c: &Config, io: &LmInputs<'g>, layer: usize, x: Val<'g>) -> Val<'g> {
    let (s, bias) = (&c.sizes, c.attention_bias);
    let (h, k, d) = (s.num_attention_heads, s.num_key_value_heads, s.head_dim);
    let query = w.linear_bias("q_proj", x, h * d, bias).split_heads(h); // [T,H,D]
    let key = w.linear_bias("k_proj", x, k * d, bias).split_heads(k); // [T,K,D]
    let value = w.linear_bias("v_proj", x, k * d, bias).split_heads(k); // [T,K,D]
    // Norm per head, then rotate.
    let query = w.rms_norm("q_norm", query, s.rms_norm_eps).rope(&c.rope, io.positions);
    let key = w.rms_norm("k_norm", key, s.rms_norm_eps).rope(&c.rope, io.positions);
    let (key, value) = w.kv_cache(key, value, io.seg); // cached and new rows of each sequence
    let op = Attention { window: c.windows[layer], ..Attention::causal((d as f64).powf(-0.5)) };
    let out = query.attend(key, value, Some(io.seg), op); // [T,H,D]
    w.linear_bias("o_proj", out.merge_heads(), s.hidden_size, bias) // [T,E]
}

fn block<'g>(w: &Scope<'g>, c: &Config, io: &LmInputs<'g>, i: usize, x: Val<'g>) -> Val<'g> {
    let eps = c.sizes.rms_norm_eps;
    let normed = w.rms_norm("input_layernorm", x, eps);
    let x = x + attention(&w.at("self_attn"), c, io, i, normed).tap(format!("block.{i}.self_attn"));
    let normed = w.rms_norm("post_attention_layernorm", x, eps);
    let out = gated_mlp(&w.at("mlp"), normed, c.sizes.intermediate_size, UnaryOp::Silu);
    (x + out.tap(format!("block.{i}.mlp"))).tap(format!("hidden.{}", i + 1))
}

/// Tokens `[T]` → logits `[R,V]` of the rows asked for.
pub fn build<'g>(root: &Scope<'g>, c: &Config, io: &LmInputs<'g>) -> Val<'g> {
    let model = root.at("model");
    let embedding = model.param("embed_tokens.weight", [c.sizes.vocab_size, c.sizes.hidden_size]);
    let mut x = io.tokens.embed(embedding).tap("hidden.0"); // [T,E]
    for i in 0..c.sizes.num_hidden_layers {
        x = block(&model.at(format!("layers.{i}")), c, io, i, x);
    }
    let x = model.rms_norm("norm", x, c.sizes.rms_norm_eps).tap("hidden.final");
    lm_head(root, io, x, embedding, c.tied)
}
