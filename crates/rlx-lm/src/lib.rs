//! The language-model engine: from a checkpoint to tokens and text, for every family.
//!
//! A family implements [`LmFamily`] and [`LmModel`]; [`LmRunner`] loads its checkpoints, runs them on
//! a device, generates, scores and chats.  [`parity`] compares a checkpoint with recorded
//! reference outputs, [`mod@bench`] measures.

pub mod bench;
mod chat;
pub mod compare;
pub mod convert;
mod error;
mod generate;
pub mod greedy;
mod load;
mod model;
pub mod parity;
pub mod perplexity;
mod runner;
mod source;
mod text;

pub use chat::Chat;
pub use error::{LmError, Result};
pub use generate::{Finish, GenerateOptions, Generation};
pub use load::{LmBuilder, LmPlan, Precision, resolve_profile};
pub use model::{LmFamily, LmModel};
pub use rlx_text::SamplerParams;
pub use runner::LmRunner;
pub use text::Text;
