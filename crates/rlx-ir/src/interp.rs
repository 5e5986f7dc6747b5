//! The reference interpreter: every value in f64, one op after the other, slow and obvious.

use crate::graph::Def;
use crate::{Bindings, Builder, DType, Dim, DimError, Graph, Segments, Tensor, Type, Val};
use std::collections::HashMap;
use std::sync::Arc;

/// A value at run time.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// Segments.
    Segments(Arc<Segments>),
    /// A cache or state, by name; its contents live in the interpreter.
    State(Arc<str>),
}

/// Why a graph could not be evaluated.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A dimension has no value.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// An input or parameter is missing or has the wrong type.
    #[error("{0}")]
    Input(String),
    /// An op met values it cannot work on (an index out of range, say).
    #[error("{op}: {why}")]
    Op {
        /// Op name, with its scope when known.
        op: String,
        /// Reason.
        why: String,
    },
}

/// An error of op `op`.
pub fn op_error(op: &str, why: impl Into<String>) -> EvalError {
    EvalError::Op { op: op.into(), why: why.into() }
}

/// Contents of one state: the rows (cache) or tensor (recurrent state) of every slot.
#[derive(Clone, Debug)]
pub struct StateData {
    /// Element type.
    pub dtype: DType,
    /// Shape of one row (cache) or of the whole tensor (state).
    pub shape: Vec<usize>,
    /// Elements of one row (cache) or of the whole tensor (state).
    pub width: usize,
    /// Slot number → elements.
    pub slots: HashMap<u32, Vec<f64>>,
}

/// What ops see while they are evaluated.
pub struct EvalCx<'a> {
    /// Values of symbols.
    pub dims: &'a Bindings,
    /// Contents of caches and states by name.
    pub states: &'a mut HashMap<Arc<str>, StateData>,
}

impl Value {
    /// The tensor, or an error of `op`.
    pub fn tensor(&self, op: &str) -> Result<&Tensor, EvalError> {
        match self {
            Value::Tensor(t) => Ok(t),
            _ => Err(op_error(op, "an input is no tensor")),
        }
    }

    /// The segments, or an error of `op`.
    pub fn segments(&self, op: &str) -> Result<&Segments, EvalError> {
        match self {
            Value::Segments(s) => Ok(s),
            _ => Err(op_error(op, "an input is no segments")),
        }
    }

    /// The state's name, or an error of `op`.
    pub fn state(&self, op: &str) -> Result<&Arc<str>, EvalError> {
        match self {
            Value::State(s) => Ok(s),
            _ => Err(op_error(op, "an input is no state")),
        }
    }

    /// Its type, all dimensions constant.
    fn concrete_type(&self) -> Option<Type> {
        Some(match self {
            Value::Tensor(t) => Type::tensor(t.dtype, t.shape.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>()),
            Value::Segments(s) => Type::Segments { count: Dim::from(s.count()), tokens: Dim::from(s.tokens()) },
            Value::State(_) => return None,
        })
    }
}

impl EvalCx<'_> {
    /// Evaluates a composite by building its decomposition on the concrete input types.
    pub fn eval_decomposed(
        &mut self,
        op: &str,
        ins: &[&Value],
        f: impl for<'g> FnOnce(&[Val<'g>]) -> Option<Vec<Val<'g>>>,
    ) -> Result<Vec<Value>, EvalError> {
        let b = Builder::new(op);
        let built = {
            let mut vals = vec![];
            for (i, v) in ins.iter().enumerate() {
                let ty = v.concrete_type().ok_or_else(|| op_error(op, "has no decomposition on states"))?;
                vals.push(b.input(&i.to_string(), ty));
            }
            f(&vals).map(|r| r.iter().map(|v| v.id()).collect::<Vec<_>>())
        };
        let built = built.ok_or_else(|| op_error(op, "has no decomposition on these inputs"))?;
        let graph = b.finish_ids(&built).map_err(|d| op_error(op, d.to_string()))?;
        let args: Vec<Value> = ins.iter().map(|v| (*v).clone()).collect();
        run_graph(&graph, self, &args, &[])
    }
}

/// Runs the nodes; returns the outputs.
fn run_graph(graph: &Graph, cx: &mut EvalCx<'_>, args: &[Value], params: &[Value]) -> Result<Vec<Value>, EvalError> {
    let mut env: Vec<Option<Value>> = graph
        .values
        .iter()
        .map(|v| match v.def {
            Def::Input(i) => args.get(i as usize).cloned(),
            Def::Param(i) => params.get(i as usize).cloned(),
            Def::State(i) => Some(Value::State(graph.states[i as usize].0.clone())),
            Def::Node(..) => None,
        })
        .collect();
    let mut last_use = vec![0usize; graph.values.len()];
    for (i, n) in graph.nodes.iter().enumerate() {
        n.ins.iter().for_each(|v| last_use[v.index()] = i);
    }
    for o in &graph.outputs {
        last_use[o.1.index()] = usize::MAX;
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let at = |e: EvalError| match e {
            EvalError::Op { op, why } if !node.scope.is_empty() => op_error(&format!("{}: {op}", node.scope), why),
            other => other,
        };
        let missing = || op_error(node.op.name(), "an input has no value");
        let ins: Vec<&Value> = node.ins.iter().map(|v| env[v.index()].as_ref().ok_or_else(missing)).collect::<Result<_, _>>()?;
        let outs = node.op.eval(cx, &ins).map_err(at)?;
        for (v, value) in node.outs.iter().zip(outs) {
            env[v.index()] = Some(value);
        }
        for v in node.ins.iter().filter(|v| last_use[v.index()] == i) {
            env[v.index()] = None;
        }
    }
    graph.outputs.iter().map(|o| env[o.1.index()].clone().ok_or_else(|| EvalError::Input(format!("output {} has no value", o.0)))).collect()
}

/// Runs a graph, keeping its states from call to call.
pub struct Interpreter {
    graph: Graph,
    params: Vec<Value>,
    states: HashMap<Arc<str>, StateData>,
}

impl Interpreter {
    /// An interpreter of `graph`; `param` supplies each parameter by name.
    pub fn new(graph: Graph, mut param: impl FnMut(&str) -> Option<Tensor>) -> Result<Interpreter, EvalError> {
        let params = graph
            .params
            .iter()
            .map(|p| {
                let t = param(&p.name).ok_or_else(|| EvalError::Input(format!("parameter {} is missing", p.name)))?;
                check_tensor(&p.name, graph.ty(p.value), &t, &Bindings::new())?;
                Ok(Value::Tensor(t))
            })
            .collect::<Result<_, EvalError>>()?;
        let mut states = HashMap::new();
        for (name, v) in &graph.states {
            if let Type::Cache(dtype, shape) | Type::State(dtype, shape) = graph.ty(*v) {
                let shape = shape.0.iter().map(|d| d.eval(&Bindings::new())).collect::<Result<Vec<_>, _>>()?;
                let width = shape.iter().product();
                states.insert(name.clone(), StateData { dtype: *dtype, shape, width, slots: HashMap::new() });
            }
        }
        Ok(Interpreter { graph, params, states })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Runs once; `inputs` in the order of [`Graph::inputs`].  Returns the outputs.
    pub fn run(&mut self, dims: &Bindings, inputs: &[Value]) -> Result<Vec<Tensor>, EvalError> {
        if inputs.len() != self.graph.inputs.len() {
            return Err(EvalError::Input(format!("{} inputs given, the graph takes {}", inputs.len(), self.graph.inputs.len())));
        }
        for ((name, v), value) in self.graph.inputs.iter().zip(inputs) {
            match (self.graph.ty(*v), value) {
                (Type::Segments { count, tokens }, Value::Segments(s)) => {
                    s.check().map_err(EvalError::Input)?;
                    if count.eval(dims)? != s.count() || tokens.eval(dims)? != s.tokens() {
                        return Err(EvalError::Input(format!(
                            "{name}: {} segments of {} tokens do not match the bindings",
                            s.count(),
                            s.tokens()
                        )));
                    }
                }
                (ty @ Type::Tensor(..), Value::Tensor(t)) => check_tensor(name, ty, t, dims)?,
                (ty, _) => return Err(EvalError::Input(format!("{name}: expected {ty}"))),
            }
        }
        let mut cx = EvalCx { dims, states: &mut self.states };
        run_graph(&self.graph, &mut cx, inputs, &self.params)?.into_iter().map(|v| v.tensor("output").cloned()).collect()
    }
}

/// `t` must have the type and, under `dims`, the shape of `ty`.
fn check_tensor(name: &str, ty: &Type, t: &Tensor, dims: &Bindings) -> Result<(), EvalError> {
    let Type::Tensor(dtype, shape) = ty else {
        return Err(EvalError::Input(format!("{name}: expected {ty}, got a tensor")));
    };
    let want = shape.0.iter().map(|d| d.eval(dims)).collect::<Result<Vec<_>, _>>()?;
    if *dtype != t.dtype || want != t.shape {
        return Err(EvalError::Input(format!("{name}: expected {dtype}{want:?}, got {}{:?}", t.dtype, t.shape)));
    }
    Ok(())
}
