//! The facade over every rlx model family.
//!
//! | module | is |
//! |---|---|
//! | `qwen3`, … | the families, each behind the feature of its name |
//! | [`lm`] | the engine that language models share: load, generate, chat, plan, compare |
//! | [`run`] | the programs `rlx-run` and `rlx-inspect`; [`run::register_cli`] adds runners |
//! | [`families`] | which families this build has, and which one answers to a checkpoint |
//! | [`weights`] | opening checkpoints; tensors as validated views of mapped files |
//! | [`weight_map`] | tables *checkpoint name ↔ GGUF name* |
//! | [`weight_loader`] | weights by checkpoint name, as a device asks for them |
//! | [`config`] | settings, from `config.json` or GGUF metadata |
//! | [`text`] | tokenizers, chat templates, sampling, tool calls |
//! | [`flow_util`] | graph building blocks that families share |
//!
//! ```no_run
//! use rlx_models::qwen3::Qwen3Runner;
//! use rlx_models::lm::Chat;
//!
//! let mut runner = Qwen3Runner::builder().weights("weights/rlx-tiny-chat").build()?;
//! let mut chat = Chat::new(None);
//! chat.say(&mut runner, "What is 7 times 8?", &Default::default(), &mut |_, _| {}, &mut |text| { print!("{text}"); true })?;
//! # Ok::<(), rlx_models::lm::LmError>(())
//! ```

pub mod families;
pub mod run;

pub use rlx_core::config;
pub use rlx_core::names as weight_map;
pub use rlx_core::weights;
pub use rlx_flow as flow_util;
pub use rlx_lm as lm;
#[cfg(feature = "qwen3")]
pub use rlx_qwen3 as qwen3;
pub use rlx_text as text;

/// Weights by checkpoint name, whatever the format, as a device asks for them.
pub mod weight_loader {
    pub use rlx_compile::{WeightData, WeightSource};
    pub use rlx_core::names::{HeadCounts, WeightMap};
    pub use rlx_core::weights::{Checkpoint, LoadOpts, open_with};
}

/// Compiles the library example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
