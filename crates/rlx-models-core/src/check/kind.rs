//! Kinds of files, and which names stand for which.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::outline::{Container, Outline};
use crate::message::quote;
use std::fmt;

/// What a file or directory is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Continues text.
    LanguageModel,
    /// A language model that also sees or hears.
    Multimodal,
    /// Turns text into vectors.
    Embedding,
    /// Encoder and decoder of text.
    EncoderDecoder,
    /// A model with a head for classes or scores.
    Classifier,
    /// Images in, anything but text out.
    Vision,
    /// Speech in, text out.
    SpeechRecognition,
    /// Text in, sound out.
    SpeechSynthesis,
    /// Any other model of sound.
    Audio,
    /// Forecasts numbers.
    TimeSeries,
    /// Drafts tokens for another model to verify.
    Draft,
    /// The vision or audio part of a language model (`mmproj`).
    Projector,
    /// Changes to the weights of another model (LoRA).
    Adapter,
    /// Makes images, video or sound out of noise, or a part of a pipeline that does.
    Diffusion,
    /// A GGUF file with a vocabulary and no weights.
    VocabularyOnly,
    /// Importances of weights, for quantising.
    ImportanceMatrix,
    /// A tokenizer without a model.
    TokenizerOnly,
    /// Known, and none of these.
    Other,
    /// Not recognised.
    Unknown,
}

/// Kinds, their names in data, and what they are in words.
const KINDS: &[(Kind, &str, &str)] = &[
    (Kind::LanguageModel, "llm", "a language model"),
    (Kind::Multimodal, "multimodal", "a multimodal language model"),
    (Kind::Embedding, "embedding", "a text encoder (embeddings)"),
    (Kind::EncoderDecoder, "seq2seq", "an encoder-decoder text model"),
    (Kind::Classifier, "classifier", "a classifier or reward model"),
    (Kind::Vision, "vision", "a vision model"),
    (Kind::SpeechRecognition, "asr", "a speech recognition model"),
    (Kind::SpeechSynthesis, "tts", "a speech or music synthesis model"),
    (Kind::Audio, "audio", "an audio model"),
    (Kind::TimeSeries, "time-series", "a time series model"),
    (Kind::Draft, "draft", "a draft model for speculative decoding"),
    (Kind::Projector, "mmproj", "a multimodal projector (mmproj), a part of another model"),
    (Kind::Adapter, "adapter", "an adapter (LoRA) to another model"),
    (Kind::Diffusion, "diffusion", "a diffusion model, or a part of one"),
    (Kind::VocabularyOnly, "vocab-only", "a vocabulary without weights"),
    (Kind::ImportanceMatrix, "imatrix", "an importance matrix, for quantising"),
    (Kind::TokenizerOnly, "tokenizer", "a tokenizer without a model"),
    (Kind::Other, "other", "another kind of model"),
    (Kind::Unknown, "unknown", "not recognised"),
];

impl Kind {
    fn entry(self) -> (&'static str, &'static str) {
        KINDS.iter().find(|k| k.0 == self).map_or(("unknown", "not recognised"), |k| (k.1, k.2))
    }

    /// The short name: `llm`, `mmproj`, …
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// Every short name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|k| k.1)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().1)
    }
}

/// Where a name stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Namespace {
    /// `general.architecture`.
    Gguf,
    /// `model_type`.
    Hf,
}

/// Every known name.
pub(super) fn known() -> impl Iterator<Item = (Namespace, Kind, &'static str)> {
    include_str!("known.txt").lines().filter(|l| !l.starts_with('#')).flat_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let space = if words.next() == Some("gguf") { Namespace::Gguf } else { Namespace::Hf };
        let name = words.next().unwrap_or_default();
        let kind = KINDS.iter().find(|k| k.1 == name).map_or(Kind::Other, |k| k.0);
        words.map(move |w| (space, kind, w))
    })
}

fn lookup(space: Namespace, name: &str) -> Option<Kind> {
    known().find(|k| k.0 == space && k.2 == name).map(|k| k.1)
}

/// What was recognised, and by what.
pub(super) struct Recognised {
    pub kind: Kind,
    /// The name is in the table.
    pub known: bool,
    pub reasons: Vec<String>,
}

/// Endings of class names of models with heads.
const CLASSES: &[(&str, Kind)] = &[
    ("ForSequenceClassification", Kind::Classifier),
    ("ForTokenClassification", Kind::Classifier),
    ("ForQuestionAnswering", Kind::Classifier),
    ("ForMultipleChoice", Kind::Classifier),
    ("ForRewardModel", Kind::Classifier),
    ("RewardModel", Kind::Classifier),
    ("ForSpeechSeq2Seq", Kind::SpeechRecognition),
    ("ForCTC", Kind::SpeechRecognition),
    ("ForImageClassification", Kind::Vision),
    ("ForObjectDetection", Kind::Vision),
];

/// Looks at an outline from the most telling sign to the least.
pub(super) fn recognise(o: &Outline) -> Recognised {
    let sure = |kind, why: String| Recognised { kind, known: true, reasons: vec![why] };
    if let Some((kind, why)) = by_structure(o) {
        return sure(kind, why);
    }
    if let Some(class) = o.architectures.iter().find(|a| ["Eagle", "Medusa", "DFlash"].iter().any(|d| a.contains(d))) {
        return sure(Kind::Draft, format!("architecture {}", quote(class)));
    }
    if let Some((class, (_, kind))) = o.architectures.iter().find_map(|a| CLASSES.iter().find(|c| a.ends_with(c.0)).map(|c| (a, c))) {
        return sure(*kind, format!("architecture {}", quote(class)));
    }
    let named = match (&o.gguf_arch, &o.model_type) {
        (Some(arch), _) => lookup(Namespace::Gguf, arch).map(|k| (k, format!("general.architecture {}", quote(arch)))),
        (None, Some(t)) => lookup(Namespace::Hf, t).map(|k| (k, format!("model_type {}", quote(t)))),
        (None, None) => None,
    };
    if let Some((kind, why)) = named {
        return sure(kind, why);
    }
    let guessed = by_class(&o.architectures).or_else(|| by_tensors(o));
    let (kind, why) = guessed.unwrap_or((Kind::Unknown, "nothing that is known".into()));
    Recognised { kind, known: false, reasons: vec![why] }
}

/// Signs that leave no doubt whatever the names say.
fn by_structure(o: &Outline) -> Option<(Kind, String)> {
    match o.general_type.as_deref() {
        Some("adapter") => return Some((Kind::Adapter, "general.type \"adapter\"".into())),
        Some("imatrix") => return Some((Kind::ImportanceMatrix, "general.type \"imatrix\"".into())),
        Some("mmproj") => return Some((Kind::Projector, "general.type \"mmproj\"".into())),
        _ => {}
    }
    if let Container::ImportanceMatrix = o.container {
        return Some((Kind::ImportanceMatrix, "a file of importances from before GGUF".into()));
    }
    if o.gguf_arch.is_some() && o.tensors.is_empty() && o.has_vocabulary {
        return Some((Kind::VocabularyOnly, "a GGUF file with a vocabulary and no tensors".into()));
    }
    let adapter_weights = !o.has_file("config.json") || o.files.iter().any(|f| f.name.starts_with("adapter_model."));
    if o.container != Container::Gguf && o.has_file("adapter_config.json") && adapter_weights {
        let base = o.adapter_of.as_ref().map(|b| format!(", for {}", quote(b))).unwrap_or_default();
        return Some((Kind::Adapter, format!("adapter_config.json{base}")));
    }
    if o.has_file("model_index.json") {
        let class = o.pipeline.as_ref().map(|c| format!(" of a {}", quote(c))).unwrap_or_default();
        return Some((Kind::Diffusion, format!("model_index.json{class}")));
    }
    if let Some(class) = &o.diffusers_class {
        return Some((Kind::Diffusion, format!("_class_name {} in config.json", quote(class))));
    }
    by_tensors(o).filter(|(kind, _)| matches!(kind, Kind::Adapter | Kind::Diffusion | Kind::Draft))
}

fn by_class(architectures: &[String]) -> Option<(Kind, String)> {
    const ENDINGS: &[(&str, Kind)] = &[
        ("ForCausalLM", Kind::LanguageModel),
        ("LMHeadModel", Kind::LanguageModel),
        ("ForMaskedLM", Kind::Embedding),
        ("ForConditionalGeneration", Kind::Multimodal),
    ];
    let (class, kind) = architectures.iter().find_map(|a| ENDINGS.iter().find(|e| a.ends_with(e.0)).map(|e| (a, e.1)))?;
    Some((kind, format!("architecture {}", quote(class))))
}

/// Names of tensors that tell what a file is when nothing else does.
fn by_tensors(o: &Outline) -> Option<(Kind, String)> {
    const LORA: &[&str] = &[".lora_A.", ".lora_B.", ".lora_up.", ".lora_down.", "lora_unet_", "lora_te_", ".hada_w1_a", ".lokr_w1"];
    const DIFFUSION: &[&str] =
        &["model.diffusion_model.", "first_stage_model.", "double_blocks.0.img_attn", "joint_blocks.0.", "single_transformer_blocks.0."];
    const TEXT: &[&str] =
        &["token_embd.weight", "model.embed_tokens.weight", "blk.0.attn_q.weight", "transformer.wte.weight", "lm_head.weight"];
    let has = |marks: &'static [&'static str]| o.tensors.iter().find(|t| marks.iter().any(|m| t.name.contains(m)));
    let say = |kind, name: &str| Some((kind, format!("tensor {}", quote(name))));
    if let Some(t) = has(LORA) {
        return say(Kind::Adapter, &t.name);
    }
    if let Some(t) = has(DIFFUSION) {
        return say(Kind::Diffusion, &t.name);
    }
    let heads = |n: &str| n.starts_with("mtp.") || n.contains(".nextn.") || n.starts_with("medusa_head.");
    if let Some(t) = o.tensors.first()
        && o.tensors.iter().all(|t| heads(&t.name))
    {
        return say(Kind::Draft, &t.name);
    }
    if let Some(t) = o.tensors.iter().find(|t| t.name.starts_with("v.blk.") || t.name.starts_with("mm.0.")) {
        return say(Kind::Projector, &t.name);
    }
    if let Some(t) = has(TEXT) {
        return say(Kind::LanguageModel, &t.name);
    }
    let tokenizer = o.tensors.is_empty() && (o.has_file("tokenizer.json") || o.has_file("tokenizer.model"));
    let no_model = !o.has_file("config.json") && matches!(o.container, Container::None);
    (tokenizer && no_model).then(|| (Kind::TokenizerOnly, "a tokenizer and no weights".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_of_names_is_sound() {
        let mut seen = HashSet::new();
        for (space, kind, name) in known() {
            assert!(seen.insert((space == Namespace::Gguf, name)), "{name} occurs twice");
            assert_ne!(kind, Kind::Unknown, "{name}");
        }
        for line in include_str!("known.txt").lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split(' ');
            assert!(words.next().is_some_and(|w| ["gguf", "hf"].contains(&w)), "{line}");
            assert!(words.next().is_some_and(|w| Kind::names().any(|k| k == w)) && words.next().is_some(), "{line}");
        }
        assert!(seen.len() > 700, "{}", seen.len());
        assert_eq!(lookup(Namespace::Gguf, "clip"), Some(Kind::Projector));
        assert_eq!(lookup(Namespace::Hf, "clip"), Some(Kind::Vision));
        assert_eq!(lookup(Namespace::Hf, "whisper"), Some(Kind::SpeechRecognition));
        assert_eq!(lookup(Namespace::Gguf, "Llama"), None, "names are what they are, case included");
    }
}
