//! Tokenizers, chat templates, sampling and streaming text.
