//! Op samples with tolerances that every backend runs against the interpreter.
