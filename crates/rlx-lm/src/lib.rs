//! The language-model engine: runner, generation, chat, parity.
