//! Configs, checkpoints and the architecture registry.
