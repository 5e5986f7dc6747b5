//! Graph building blocks that model families share.
