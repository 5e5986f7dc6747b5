//! Every Qwen3 oracle fixture, safetensors and GGUF: logits, intermediates and greedy tokens.

use rlx_lm::{Precision, parity};
use rlx_qwen3::Qwen3Runner;
use std::io::Write;
use std::path::Path;

fn check(dir: &Path) {
    let cases = parity::cases(dir).unwrap();
    for (weights, record) in cases {
        let builder = Qwen3Runner::builder().precision(Precision::Exact);
        let report = parity::run(builder, &weights, &record).unwrap_or_else(|e| panic!("{}: {e}", weights.display()));
        assert!(report.ok(), "{report}");
    }
}

#[test]
fn committed_fixture_is_within_tolerance() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen3"));
}

#[test]
fn oracle_fixtures_are_within_tolerance() {
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/lm/fixtures");
    if !oracle.is_dir() {
        // To stderr itself: what macros print is shown for failing tests alone.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: {} is absent; only the committed fixture was compared", oracle.display());
        return;
    }
    check(&oracle.join("qwen3"));
    check(&oracle.join("gguf/models/qwen3"));
}
