//! Multi-token-prediction heads: extra layers that draft tokens and that plain decoding does not use.
//!
//! Released checkpoints keep them under `mtp.…` (Qwen3-Next, Qwen3.5, MiMo: `model.mtp_layers.…`), or as layers after
//! the last one, told by their `eh_proj` (DeepSeek-V3, GLM-4.5); GGUF files mark the latter with `blk.N.nextn.…`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

/// Which of the sorted `names` belong to multi-token-prediction heads.
pub(super) fn indices<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Vec<u32> {
    let layers: BTreeSet<&str> = names.clone().filter_map(marked_layer).collect();
    let is_mtp = |name: &str| named(name) || layer(name).is_some_and(|l| layers.contains(l));
    names.enumerate().filter(|(_, name)| is_mtp(name)).filter_map(|(i, _)| u32::try_from(i).ok()).collect()
}

/// Names that say it themselves.
fn named(name: &str) -> bool {
    name.split('.').any(|part| part == "mtp" || part == "nextn" || part.starts_with("mtp_"))
}

/// `model.layers.61` of `model.layers.61.mlp.….weight`, `blk.61` of `blk.61.….weight`.
fn layer(name: &str) -> Option<&str> {
    let start = ["layers.", "blk."].iter().find_map(|word| {
        let at = name.find(word)?;
        (at == 0 || name.get(..at)?.ends_with('.')).then_some(at + word.len())
    })?;
    let digits = name.get(start..)?.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 { None } else { name.get(..start + digits) }
}

/// The layer of a tensor that only drafting layers have: the projection of embedding and hidden state.
fn marked_layer(name: &str) -> Option<&str> {
    let layer = layer(name)?;
    let rest = name.get(layer.len()..)?;
    (rest.starts_with(".eh_proj.") || rest.starts_with(".nextn.")).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafting_layers_are_found_by_name_and_by_their_projection() {
        let names = [
            "blk.1.attn_q.weight",
            "blk.2.attn_q.weight",
            "blk.2.nextn.eh_proj.weight",
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.2.eh_proj.weight",
            "model.layers.2.mlp.up_proj.weight",
            "model.layers.20.mlp.up_proj.weight",
            "model.mtp_layers.0.mlp.up_proj.weight",
            "mtp.fc.weight",
            "smtp.fc.weight",
        ];
        assert_eq!(indices(names.into_iter()), [1, 2, 6, 7, 9, 10]);
    }
}
