//! Conformance of backends: every sample case of every op, run by a [`Runner`] and compared with
//! the float64 interpreter under the case's own tolerance.
//!
//! A backend's test is one line: `rlx_conform::conform(&mut runner, 1).assert_ok()`.
//!
//! An op that a runner lacks is a failure, unless the caller says beforehand which cases may go
//! unanswered (see [`Options::may_miss`]).  The crate knows no device.

mod backend;
mod reference;
mod report;

pub use backend::OnBackend;
pub use reference::Reference;
pub use report::{Failure, Outcome, Report, deviation};

use rlx_ir::interp::Value;
use rlx_ir::sample::Rng;
use rlx_ir::{Bindings, Case, DType, Graph, Interpreter, Op, Tensor, Tol, Weight};

/// Something that runs graphs on one backend.
pub trait Runner {
    /// For the report: backend and variant, e.g. `cpu avx2`.
    fn name(&self) -> String;

    /// Compiles `graph` with these parameters, one per graph parameter and in its order.  Backends
    /// load [`Weight::bytes`].
    fn prepare(&mut self, graph: &Graph, params: &[Weight]) -> Result<Box<dyn Running>, RunError>;
}

/// A compiled graph with its states.
pub trait Running {
    /// Runs once; `inputs` in the order of the graph's inputs.  States carry over to the next call.
    fn run(&mut self, dims: &Bindings, inputs: &[Value]) -> Result<Vec<Tensor>, RunError>;
}

/// Why a runner gives no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The backend has no kernel for an op on these types, and the op has no decomposition.
    #[error("op `{0}` is missing")]
    Missing(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What to run and what may be left out.
pub struct Options<'a> {
    /// Seed of all inputs and parameters.  A case draws the same values whichever others run.
    pub seed: u64,
    /// Cases to run.
    pub only: &'a dyn Fn(&Case) -> bool,
    /// True where the runner may answer [`RunError::Missing`] with this op.
    pub may_miss: &'a dyn Fn(&Case, &str) -> bool,
}

impl Options<'_> {
    /// Every case, nothing missing.
    pub fn all(seed: u64) -> Options<'static> {
        Options { seed, only: &|_| true, may_miss: &|_, _| false }
    }
}

/// Runs every case of every op.
pub fn conform(runner: &mut dyn Runner, seed: u64) -> Report {
    conform_with(runner, &Options::all(seed))
}

/// Runs the cases that `options` choose.
pub fn conform_with(runner: &mut dyn Runner, options: &Options<'_>) -> Report {
    let mut report = Report { runner: runner.name(), ..Report::default() };
    for case in Op::all_samples().cases.iter().filter(|c| (options.only)(c)) {
        let outcome = run_case(runner, case, options);
        report.add(&case.name, case.tol, outcome);
    }
    report
}

/// Worst deviation of a case that ran, or why it did not pass.
fn run_case(runner: &mut dyn Runner, case: &Case, options: &Options<'_>) -> Outcome {
    let failed = |output: &str, why: String| Outcome::Failed { nmse: f64::NAN, max: f64::NAN, output: output.into(), why };
    let refused = |e: RunError| match e {
        RunError::Missing(op) if (options.may_miss)(case, &op) => Outcome::Skipped(op),
        other => failed("", other.to_string()),
    };
    let seed = case.name.bytes().fold(options.seed, |h, b| h.wrapping_mul(0x100_0000_01b3) ^ u64::from(b));
    let mut rng = Rng(seed);
    let params = match case.draw_params(&mut rng) {
        Ok(p) => p,
        Err(e) => return failed("", format!("drawing parameters: {e}")),
    };
    let by_name = |n: &str| params.iter().find(|p| &*p.name == n).map(|p| p.tensor.clone());
    let mut oracle = match Interpreter::new(case.graph.clone(), by_name) {
        Ok(i) => i,
        Err(e) => return failed("", format!("interpreter: {e}")),
    };
    let mut running = match runner.prepare(&case.graph, &params) {
        Ok(r) => r,
        Err(e) => return refused(e),
    };
    let (mut worst_nmse, mut worst_max) = (0f64, 0f64);
    for (i, step) in case.steps.iter().enumerate() {
        let at = |what: &str| if case.steps.len() > 1 { format!("{what} of step {i}") } else { what.to_owned() };
        let inputs = match case.draw_inputs(i, &mut rng) {
            Ok(v) => v,
            Err(e) => return failed(&at("inputs"), format!("drawing: {e}")),
        };
        let want = match oracle.run(&step.dims, &inputs) {
            Ok(v) => v,
            Err(e) => return failed(&at("interpreter"), e.to_string()),
        };
        let got = match running.run(&step.dims, &inputs) {
            Ok(v) => v,
            Err(e) => return refused(e),
        };
        if got.len() != want.len() {
            return failed(&at("outputs"), format!("{} outputs, expected {}", got.len(), want.len()));
        }
        for ((name, _), (a, b)) in case.graph.outputs.iter().zip(got.iter().zip(&want)) {
            let output = at(name);
            if a.dtype != b.dtype || a.shape != b.shape {
                return failed(&output, format!("is {}{:?}, expected {}{:?}", a.dtype, a.shape, b.dtype, b.shape));
            }
            let (nmse, max) = if case.tol == Tol::EXACT { deviation(a, &rounded(b)) } else { deviation(a, b) };
            if let Some(why) = outside(nmse, max, case.tol) {
                return Outcome::Failed { nmse, max, output, why };
            }
            (worst_nmse, worst_max) = (worst_nmse.max(nmse), worst_max.max(max));
        }
    }
    Outcome::Passed { nmse: worst_nmse, max: worst_max }
}

/// The reference as its own type stores it: what an exact result must equal.
fn rounded(t: &Tensor) -> Tensor {
    match t.dtype {
        DType::Block(_) => t.clone(),
        d => Tensor::new(d, t.shape.clone(), t.data.iter().map(|v| d.round(*v)).collect()),
    }
}

/// Which bound is broken, if one is.  Infinite deviations break every tolerance.
fn outside(nmse: f64, max: f64, tol: Tol) -> Option<String> {
    if nmse.is_infinite() || max.is_infinite() {
        return Some("shapes differ, or NaN and infinities are not where the reference has them".into());
    }
    if nmse > tol.nmse {
        return Some(format!("nmse {nmse:.2e} is above {:.2e}", tol.nmse));
    }
    (max > tol.max).then(|| format!("largest deviation {max:.2e} is above {:.2e}", tol.max))
}
