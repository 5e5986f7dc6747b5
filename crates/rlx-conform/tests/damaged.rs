//! The report must catch runners that are wrong.

use rlx_conform::{Options, Reference, RunError, Runner, Running, conform, conform_with, deviation};
use rlx_ir::interp::Value;
use rlx_ir::{Bindings, Case, DType, Graph, Tensor, Weight};

/// The interpreter, with a mistake in the last output of every call.
struct Damaged(fn(f64) -> f64);
struct DamagedRun(Box<dyn Running>, fn(f64) -> f64);

impl Runner for Damaged {
    fn name(&self) -> String {
        "damaged".into()
    }
    fn prepare(&mut self, graph: &Graph, params: &[Weight]) -> Result<Box<dyn Running>, RunError> {
        Ok(Box::new(DamagedRun(Reference.prepare(graph, params)?, self.0)))
    }
}
impl Running for DamagedRun {
    fn run(&mut self, dims: &Bindings, inputs: &[Value]) -> Result<Vec<Tensor>, RunError> {
        let mut out = self.0.run(dims, inputs)?;
        if let Some(t) = out.last_mut() {
            let mut data = t.data.to_vec();
            data[0] = (self.1)(data[0]);
            *t = Tensor::new(t.dtype, t.shape.clone(), data);
        }
        Ok(out)
    }
}

#[test]
fn the_interpreter_conforms_to_itself() {
    let report = conform(&mut Reference, 3);
    report.assert_ok();
    assert!(report.to_string().contains("rms_norm/0"), "{report}");
}

#[test]
fn an_offset_of_a_thousandth_in_one_element_is_caught() {
    // Cases of quantised weights allow more than that, or have elements above 100.
    let only = |c: &Case| c.tol.max < 1e-4 && !["linear", "gather"].iter().any(|op| c.name.starts_with(op));
    let options = Options { only: &only, ..Options::all(3) };
    let report = conform_with(&mut Damaged(|x| x + 1e-3), &options);
    assert!(report.passed() * 10 < report.cases.len(), "{report}");
    let caught = report.failures.iter().find(|f| f.case == "rms_norm/0");
    assert!(caught.is_some_and(|f| f.max > 1e-4 && f.why.contains("above")), "{report}");
}

#[test]
fn a_nan_is_caught_by_every_tolerance() {
    let report = conform(&mut Damaged(|_| f64::NAN), 3);
    assert_eq!(report.passed(), 0, "{report}");
}

/// Lacks one op.
struct Without(&'static str);
impl Runner for Without {
    fn name(&self) -> String {
        "without".into()
    }
    fn prepare(&mut self, graph: &Graph, params: &[Weight]) -> Result<Box<dyn Running>, RunError> {
        if graph.nodes.iter().any(|n| n.op.name() == self.0) {
            return Err(RunError::Missing(self.0.into()));
        }
        Reference.prepare(graph, params)
    }
}

#[test]
fn a_missing_op_fails_unless_it_was_allowed() {
    let report = conform(&mut Without("softmax"), 3);
    assert!(!report.failures.is_empty() && report.failures.iter().all(|f| f.why == "op `softmax` is missing"), "{report}");
    let may_miss = |_: &Case, op: &str| op == "softmax";
    let report = conform_with(&mut Without("softmax"), &Options { may_miss: &may_miss, ..Options::all(3) });
    report.assert_ok();
    assert!(!report.skipped.is_empty());
}

#[test]
fn deviation_compares_kinds_of_non_finite_values() {
    let t = |v: &[f64]| Tensor::new(DType::F32, [v.len()], v.to_vec());
    let inf = f64::INFINITY;
    assert_eq!(deviation(&t(&[f64::NAN, inf, 1.0]), &t(&[f64::NAN, inf, 1.0])), (0.0, 0.0));
    for (a, b) in [(f64::NAN, inf), (inf, -inf), (1.0, f64::NAN), (inf, 1.0)] {
        assert_eq!(deviation(&t(&[a]), &t(&[b])), (inf, inf));
    }
    assert_eq!(deviation(&t(&[3.0, 4.5]), &t(&[3.0, 4.0])), (0.01, 0.125));
    assert_eq!(deviation(&t(&[0.5, 0.0]), &t(&[0.0, 0.0])), (0.125, 0.5));
}
