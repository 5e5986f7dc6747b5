//! Devices, sessions, compiled graphs, states and the paged KV cache.
