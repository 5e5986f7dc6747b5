//! Command-line flags and terminal behaviour shared by the programs.
//!
//! [`args`] has the flags, [`lm`] the program of a language model (one answer, or a chat at the
//! terminal), [`term`] notes, progress bars and figures, [`interrupt`] Ctrl-C.  A program is then
//! [`exit`]`(lm::run(&FAMILY, "rlx-family", args))`.  This crate knows no model family.

pub mod args;
mod chat;
mod exit;
pub mod interrupt;
pub mod lm;
pub mod term;

/// The flag parser that [`args`] is written with.
pub use clap;
pub use exit::{CANCELLED, EXIT_CODES, Usage, describe, exit};
