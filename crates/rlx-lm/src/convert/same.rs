//! Whether two sets of settings describe one model: by the graphs that the family builds from them.

use crate::{LmError, LmFamily, LmModel, Result};
use rlx_core::config::ConfigSource;
use rlx_flow::LmInputs;
use rlx_ir::builder::ParamTypes;
use rlx_ir::{Builder, DType, Graph, Options};
use std::path::Path;

/// GGUF stores numbers in single precision.
const RELATIVE: f64 = 1e-6;
/// Context length of models that do not say one.
const CONTEXT: usize = 4096;

/// The model that settings describe, at the length it was trained for.
pub(super) fn model(family: &dyn LmFamily, config: &ConfigSource, has: &dyn Fn(&str) -> bool) -> Result<Box<dyn LmModel>> {
    let context = family.load(config, has, CONTEXT)?.context_length().unwrap_or(CONTEXT);
    Ok(family.load(config, has, context)?)
}

/// The model's graph.
pub(super) fn graph(family: &dyn LmFamily, model: &dyn LmModel, path: &Path, types: ParamTypes<'_>) -> Result<Graph> {
    let b = Builder::with(family.name(), Options { compute: DType::F32, kv: DType::F32 }, types);
    let logits = {
        let io = LmInputs::declare(&b);
        model.build(&b.root(), &io).id()
    };
    b.finish(&[("logits", logits)]).map_err(|diags| LmError::Build { path: path.into(), diags })
}

/// The first lines that differ, of the first graph and of the second.
pub(super) fn difference(a: &Graph, b: &Graph) -> Option<(String, String)> {
    let (a, b) = (a.to_string(), b.to_string());
    let (mut x, mut y) = (a.lines(), b.lines());
    loop {
        match (x.next(), y.next()) {
            (None, None) => return None,
            (Some(l), Some(r)) if alike(l, r) => {}
            (l, r) => return Some([l, r].map(|s| s.unwrap_or("nothing").trim().to_owned()).into()),
        }
    }
}

/// Lines that are the same but for rounding of numbers.
fn alike(a: &str, b: &str) -> bool {
    let split = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    a == b || {
        let (mut x, mut y) = (a.split(split), b.split(split));
        loop {
            match (x.next(), y.next()) {
                (None, None) => return true,
                (Some(l), Some(r)) if l == r || close(l, r) => {}
                _ => return false,
            }
        }
    }
}

fn close(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        // Whole numbers are counts and must be the same.
        (Ok(x), Ok(y)) => a.contains(['.', 'e']) && b.contains(['.', 'e']) && (x - y).abs() <= RELATIVE * x.abs().max(y.abs()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_alike_and_nothing_else_is() {
        assert!(alike("x {eps=1e-6, n=3}", "x {eps=1.0000000117e-6, n=3}"));
        assert!(!alike("x {eps=1e-6}", "x {eps=1e-5}"));
        assert!(!alike("x {n=3000000}", "x {n=3000001}"));
        assert!(!alike("x {a}", "x {b}"));
        assert!(!alike("x {a}", "x {a, b}"));
    }
}
