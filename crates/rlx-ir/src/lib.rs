//! The tensor graph IR: types, ops, builder, verifier, text form, reference interpreter.
