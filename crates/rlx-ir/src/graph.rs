//! The graph: values, nodes in topological order, parameters, states, outputs and taps.

use crate::{Op, Type};
use smallvec::SmallVec;
use std::sync::Arc;

/// Index of a value in [`Graph::values`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a node in [`Graph::nodes`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
impl NodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Def {
    /// Graph input, by position in [`Graph::inputs`].
    Input(u32),
    /// Parameter, by position in [`Graph::params`].
    Param(u32),
    /// State before any update of this run, by position in [`Graph::states`].
    State(u32),
    /// Output number `.1` of a node.
    Node(NodeId, u32),
}

/// A value: its definition and type.
#[derive(Clone, PartialEq, Debug)]
pub struct ValueInfo {
    /// Where it comes from.
    pub def: Def,
    /// Its type, shared with other values of it where that is known.
    pub ty: Arc<Type>,
}

/// An op applied to values.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// The op with its attributes.
    pub op: Op,
    /// Inputs, in the op's order.
    pub ins: SmallVec<[ValueId; 4]>,
    /// Outputs, in the op's order.
    pub outs: SmallVec<[ValueId; 2]>,
    /// Scope path of the model code that made it, e.g. `model.layers.0.mlp`.
    pub scope: Arc<str>,
}

/// A weight by its checkpoint name.
#[derive(Clone, PartialEq, Debug)]
pub struct Param {
    /// Checkpoint name.
    pub name: Arc<str>,
    /// The value.
    pub value: ValueId,
}

/// A named value: input, state, output or tap.
pub type Named = (Arc<str>, ValueId);

/// A computation over named inputs, parameters and states.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// Name, for messages.
    pub name: String,
    /// All values; ids are indices.
    pub values: Vec<ValueInfo>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Inputs in call order.
    pub inputs: Vec<Named>,
    /// Parameters in order of discovery.
    pub params: Vec<Param>,
    /// States in order of discovery.
    pub states: Vec<Named>,
    /// State number → the value it has after the run.
    pub updates: Vec<(u32, ValueId)>,
    /// Results.
    pub outputs: Vec<Named>,
    /// Named intermediates; computed only when promoted to outputs (see [`Graph::promote_taps`]).
    pub taps: Vec<Named>,
}

impl Graph {
    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.values[v.index()].ty
    }

    /// The node that defines a value, if one does.
    pub fn producer(&self, v: ValueId) -> Option<&Node> {
        match self.values[v.index()].def {
            Def::Node(n, _) => Some(&self.nodes[n.index()]),
            _ => None,
        }
    }

    /// Adds a value.
    pub fn add_value(&mut self, def: Def, ty: impl Into<Arc<Type>>) -> ValueId {
        self.values.push(ValueInfo { def, ty: ty.into() });
        ValueId(self.values.len() as u32 - 1)
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<Arc<str>>, ty: impl Into<Arc<Type>>) -> ValueId {
        let v = self.add_value(Def::Input(self.inputs.len() as u32), ty);
        self.inputs.push((name.into(), v));
        v
    }

    /// Adds a parameter, or returns the one of that name.
    pub fn add_param(&mut self, name: &str, ty: impl Into<Arc<Type>>) -> ValueId {
        if let Some(p) = self.params.iter().find(|p| &*p.name == name) {
            return p.value;
        }
        self.push_param(name.into(), ty)
    }

    /// Adds a parameter whose name is known to be new.
    pub(crate) fn push_param(&mut self, name: Arc<str>, ty: impl Into<Arc<Type>>) -> ValueId {
        let value = self.add_value(Def::Param(self.params.len() as u32), ty);
        self.params.push(Param { name, value });
        value
    }

    /// Adds a state, or returns the one of that name.
    pub fn add_state(&mut self, name: &str, ty: impl Into<Arc<Type>>) -> ValueId {
        if let Some(s) = self.states.iter().find(|s| &*s.0 == name) {
            return s.1;
        }
        self.push_state(name.into(), ty)
    }

    /// Adds a state whose name is known to be new.
    pub(crate) fn push_state(&mut self, name: Arc<str>, ty: impl Into<Arc<Type>>) -> ValueId {
        let v = self.add_value(Def::State(self.states.len() as u32), ty);
        self.states.push((name, v));
        v
    }

    /// Adds a node whose output types are known; returns its outputs.
    pub fn add_node<T: Into<Arc<Type>>>(
        &mut self,
        op: Op,
        ins: &[ValueId],
        types: impl IntoIterator<Item = T>,
        scope: Arc<str>,
    ) -> SmallVec<[ValueId; 2]> {
        let id = NodeId(self.nodes.len() as u32);
        let outs: SmallVec<[ValueId; 2]> =
            types.into_iter().enumerate().map(|(i, ty)| self.add_value(Def::Node(id, i as u32), ty)).collect();
        self.nodes.push(Node { op, ins: ins.into(), outs: outs.clone(), scope });
        outs
    }

    /// Infers the types of `op` on `ins` and adds the node.
    pub fn apply(&mut self, op: Op, ins: &[ValueId], scope: Arc<str>) -> Result<SmallVec<[ValueId; 2]>, crate::TypeError> {
        let tys: Vec<&Type> = ins.iter().map(|v| self.ty(*v)).collect();
        let types = op.infer(&tys)?;
        Ok(self.add_node(op, ins, types, scope))
    }

    /// Number of uses of every value, outputs and state updates included (taps not).
    pub fn use_counts(&self) -> Vec<u32> {
        let mut n = vec![0u32; self.values.len()];
        let ins = self.nodes.iter().flat_map(|n| n.ins.iter().copied());
        let ends = self.outputs.iter().map(|o| o.1).chain(self.updates.iter().map(|u| u.1));
        for v in ins.chain(ends) {
            n[v.index()] += 1;
        }
        n
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.inputs.iter().find(|i| &*i.0 == name).map(|i| i.1)
    }

    /// Turns the taps that `keep` accepts into outputs, after the existing ones.
    pub fn promote_taps(mut self, keep: impl Fn(&str) -> bool) -> Graph {
        let (up, rest) = std::mem::take(&mut self.taps).into_iter().partition(|t| keep(&t.0));
        self.taps = rest;
        let up: Vec<Named> = up;
        self.outputs.extend(up);
        self
    }
}
