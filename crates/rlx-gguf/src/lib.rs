//! GGUF files and ggml block formats.
