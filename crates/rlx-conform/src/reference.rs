//! The interpreter as a runner: what every backend is compared with, and the way to test this crate.

use crate::{RunError, Runner, Running};
use rlx_ir::interp::Value;
use rlx_ir::{Bindings, Graph, Interpreter, Tensor, Weight};

/// Runs graphs in the interpreter.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reference;

impl Runner for Reference {
    fn name(&self) -> String {
        "interpreter".into()
    }

    fn prepare(&mut self, graph: &Graph, params: &[Weight]) -> Result<Box<dyn Running>, RunError> {
        let by_name = |n: &str| params.iter().find(|p| &*p.name == n).map(|p| p.tensor.clone());
        let it = Interpreter::new(graph.clone(), by_name).map_err(|e| RunError::Failed(e.to_string()))?;
        Ok(Box::new(it))
    }
}

impl Running for Interpreter {
    fn run(&mut self, dims: &Bindings, inputs: &[Value]) -> Result<Vec<Tensor>, RunError> {
        Interpreter::run(self, dims, inputs).map_err(|e| RunError::Failed(e.to_string()))
    }
}
