//! Qwen3's weights: checkpoint names and GGUF names.

use rlx_core::names::{NameTable, Rule};

/// All weights of dense Qwen3.
pub const NAMES: NameTable = NameTable {
    rules: &[
        Rule::new("model.embed_tokens.weight", "token_embd.weight"),
        Rule::new("model.norm.weight", "output_norm.weight"),
        Rule::new("lm_head.weight", "output.weight"),
        Rule::new("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight"),
        Rule::new("model.layers.{}.post_attention_layernorm.weight", "blk.{}.ffn_norm.weight"),
        Rule::new("model.layers.{}.self_attn.q_norm.weight", "blk.{}.attn_q_norm.weight"),
        Rule::new("model.layers.{}.self_attn.k_norm.weight", "blk.{}.attn_k_norm.weight"),
        Rule::new("model.layers.{}.self_attn.q_proj.weight", "blk.{}.attn_q.weight"),
        Rule::new("model.layers.{}.self_attn.k_proj.weight", "blk.{}.attn_k.weight"),
        Rule::new("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight"),
        Rule::new("model.layers.{}.self_attn.o_proj.weight", "blk.{}.attn_output.weight"),
        Rule::new("model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias"),
        Rule::new("model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias"),
        Rule::new("model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias"),
        Rule::new("model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias"),
        Rule::new("model.layers.{}.mlp.gate_proj.weight", "blk.{}.ffn_gate.weight"),
        Rule::new("model.layers.{}.mlp.up_proj.weight", "blk.{}.ffn_up.weight"),
        Rule::new("model.layers.{}.mlp.down_proj.weight", "blk.{}.ffn_down.weight"),
    ],
    tolerated: &["*.rotary_emb.inv_freq", "lm_head.weight"],
};
