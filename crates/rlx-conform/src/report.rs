//! What a conformance run found.

use rlx_ir::{Tensor, Tol};
use std::fmt;

/// How one case went.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Within tolerance; the worst deviations of all outputs and steps.
    Passed {
        /// `Σ(a−b)² / Σb²`.
        nmse: f64,
        /// `max |a−b| / max(1, max |b|)`.
        max: f64,
    },
    /// Outside, or not run.
    Failed {
        /// As in `Passed`; NaN when nothing could be compared.
        nmse: f64,
        /// As in `Passed`; NaN when nothing could be compared.
        max: f64,
        /// Output name, with the step where there are several; empty when preparing failed.
        output: String,
        /// Reason.
        why: String,
    },
    /// The runner lacks this op and the caller allowed that.
    Skipped(String),
}

/// A case that did not pass.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// Case name.
    pub case: String,
    /// Output name; empty when preparing failed.
    pub output: String,
    /// Deviation; NaN when nothing could be compared.
    pub nmse: f64,
    /// Deviation; NaN when nothing could be compared.
    pub max: f64,
    /// What was allowed.
    pub tol: Tol,
    /// Reason.
    pub why: String,
}

/// Every case of a run, in order.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Name of the runner.
    pub runner: String,
    /// Case name, its tolerance, how it went.
    pub cases: Vec<(String, Tol, Outcome)>,
    /// The cases that did not pass.
    pub failures: Vec<Failure>,
    /// Cases left out with leave: case name, missing op.
    pub skipped: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn add(&mut self, case: &str, tol: Tol, outcome: Outcome) {
        match &outcome {
            Outcome::Passed { .. } => {}
            Outcome::Skipped(op) => self.skipped.push((case.into(), op.clone())),
            Outcome::Failed { nmse, max, output, why } => {
                let (output, why) = (output.clone(), why.clone());
                self.failures.push(Failure { case: case.into(), output, nmse: *nmse, max: *max, tol, why });
            }
        }
        self.cases.push((case.into(), tol, outcome));
    }

    /// Number of cases that ran and passed.
    pub fn passed(&self) -> usize {
        self.cases.len() - self.failures.len() - self.skipped.len()
    }

    /// Panics with the list of failures if there are any, or if no case ran at all.
    pub fn assert_ok(&self) {
        assert!(self.passed() > 0, "{}: no case ran", self.runner);
        let lines: Vec<String> = self.failures.iter().map(|f| f.to_string()).collect();
        assert!(lines.is_empty(), "{}: {} of {} cases fail\n{}", self.runner, lines.len(), self.cases.len(), lines.join("\n"));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.case)?;
        if !self.output.is_empty() {
            write!(f, ", {}", self.output)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// A table with one line per case.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:>9} {:>9} {:>9} {:>9}  {}", "case", "nmse", "allowed", "max", "allowed", self.runner)?;
        for (case, tol, outcome) in &self.cases {
            let (nmse, max, verdict) = match outcome {
                Outcome::Passed { nmse, max } => (*nmse, *max, "ok".to_owned()),
                Outcome::Skipped(op) => (f64::NAN, f64::NAN, format!("left out: {op}")),
                Outcome::Failed { nmse, max, output, why } => (*nmse, *max, format!("FAIL {output} {why}")),
            };
            writeln!(f, "{case:<28} {nmse:>9.1e} {:>9.1e} {max:>9.1e} {:>9.1e}  {verdict}", tol.nmse, tol.max)?;
        }
        writeln!(f, "{} passed, {} failed, {} left out", self.passed(), self.failures.len(), self.skipped.len())
    }
}

/// How far `a` is from the reference `b`: `(Σ(a−b)² / Σb², max |a−b| / max(1, max |b|))`, over the
/// elements that are finite in both.  A reference of zeros counts as having magnitude 1.
///
/// Both are infinite when the shapes differ, or when one has a NaN or an infinity where the other
/// has something else.
pub fn deviation(a: &Tensor, b: &Tensor) -> (f64, f64) {
    let (mut error, mut power, mut max, mut peak) = (0f64, 0f64, 0f64, 0f64);
    if a.shape != b.shape {
        return (f64::INFINITY, f64::INFINITY);
    }
    for (x, y) in a.data.iter().zip(b.data.iter()) {
        if !x.is_finite() || !y.is_finite() {
            if x == y || x.is_nan() && y.is_nan() {
                continue;
            }
            return (f64::INFINITY, f64::INFINITY);
        }
        let d = (x - y).abs();
        error += d * d;
        power += y * y;
        max = max.max(d);
        peak = peak.max(y.abs());
    }
    let scale = if power > 0.0 { power } else { b.numel().max(1) as f64 };
    (error / scale, max / peak.max(1.0))
}
