//! The facade over every rlx model family.
