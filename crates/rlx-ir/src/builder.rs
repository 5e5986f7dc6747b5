//! The builder: `Copy` value handles, scopes that follow checkpoint names, and diagnostics that
//! are collected and returned all at once, so that model code has no `?` per line.

mod nn;
mod val;

use crate::graph::{Graph, ValueId};
use crate::ops::*;
use crate::{DType, Dim, Op, Shape, Type};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// What went wrong while building, and where.
#[derive(Clone, PartialEq, Debug)]
pub struct Diag {
    /// Scope path of the model code.
    pub scope: String,
    /// The op or declaration.
    pub what: String,
    /// Types of its inputs.
    pub ins: Vec<Type>,
    /// The reason.
    pub why: String,
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The full name of a parameter says its scope.
        if !self.scope.is_empty() && !self.what.starts_with(&self.scope) {
            write!(f, "{}: ", self.scope)?;
        }
        f.write_str(&self.what)?;
        if !self.ins.is_empty() {
            let ins: Vec<String> = self.ins.iter().map(|t| t.to_string()).collect();
            write!(f, "({})", ins.join(", "))?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Every mistake of one build.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub struct Diags(pub Vec<Diag>);

/// Most mistakes of a build that its message tells.
const MOST: usize = 16;

impl fmt::Display for Diags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.0.iter().take(MOST).enumerate() {
            write!(f, "{}{d}", if i > 0 { "\n" } else { "" })?;
        }
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// The types a model is built with; weights have the types they have on disk.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Type of activations.
    pub compute: DType,
    /// Type of cached keys and values.
    pub kv: DType,
}

impl Default for Options {
    fn default() -> Self {
        Options { compute: DType::F32, kv: DType::F32 }
    }
}

/// Looks up the type a parameter has on disk; an `Err` says why there is none.
pub type ParamTypes<'a> = Box<dyn Fn(&str, &[Dim]) -> Result<DType, String> + 'a>;

/// Builds a [`Graph`].
pub struct Builder<'a> {
    inner: RefCell<Inner>,
    options: Options,
    param_types: ParamTypes<'a>,
}

#[derive(Default)]
struct Inner {
    graph: Graph,
    diags: Vec<Diag>,
}

/// A handle to a value under construction.
#[derive(Clone, Copy)]
pub struct Val<'g> {
    b: &'g Builder<'g>,
    id: ValueId,
}

/// A path of checkpoint names under which parameters are made.
#[derive(Clone)]
pub struct Scope<'g> {
    b: &'g Builder<'g>,
    path: String,
}

impl fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}: {}", self.id.0, self.ty())
    }
}

impl<'a> Builder<'a> {
    /// A builder whose parameters all have type f32.
    pub fn new(name: &str) -> Builder<'a> {
        Builder::with(name, Options::default(), Box::new(|_, _| Ok(DType::F32)))
    }

    /// A builder with these options, asking `param_types` for the type of each parameter.
    pub fn with(name: &str, options: Options, param_types: ParamTypes<'a>) -> Builder<'a> {
        let graph = Graph { name: name.into(), ..Graph::default() };
        Builder { inner: RefCell::new(Inner { graph, diags: vec![] }), options, param_types }
    }

    /// The types the model is built with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The graph, or every mistake made on the way.  `outputs` are named results.
    pub fn finish(self, outputs: &[(&str, ValueId)]) -> Result<Graph, Diags> {
        let Inner { mut graph, diags } = self.inner.into_inner();
        if !diags.is_empty() {
            return Err(Diags(diags));
        }
        graph.outputs = outputs.iter().map(|(n, v)| (Arc::from(*n), *v)).collect();
        Ok(graph)
    }

    /// The graph with unnamed outputs `ids`.
    pub fn finish_ids(self, ids: &[ValueId]) -> Result<Graph, Diags> {
        let names: Vec<String> = (0..ids.len()).map(|i| i.to_string()).collect();
        let outs: Vec<(&str, ValueId)> = names.iter().map(String::as_str).zip(ids.iter().copied()).collect();
        self.finish(&outs)
    }

    /// The only place a node is born: infer, record, return handles.  A type error becomes a
    /// diagnostic and poison values that silence their consumers.
    pub fn emit<'g>(&'g self, scope: &str, op: impl Into<Op>, ins: &[Val<'g>]) -> Vec<Val<'g>> {
        let op = op.into();
        let mut inner = self.inner.borrow_mut();
        let Inner { graph, diags } = &mut *inner;
        let ids: Vec<ValueId> = ins.iter().map(|v| v.id).collect();
        let tys: Vec<&Type> = ids.iter().map(|v| graph.ty(*v)).collect();
        let types = if tys.contains(&&Type::Poison) {
            vec![Type::Poison; 2]
        } else {
            op.infer(&tys).unwrap_or_else(|why| {
                let ins = tys.iter().map(|t| (*t).clone()).collect();
                diags.push(Diag { scope: scope.into(), what: op.name().into(), ins, why: why.to_string() });
                vec![Type::Poison; 2]
            })
        };
        graph.add_node(op, &ids, types, scope.into()).into_iter().map(|id| Val { b: self, id }).collect()
    }

    /// Records a mistake found by model code itself.
    pub fn diag(&self, scope: &str, what: &str, why: impl Into<String>) {
        let d = Diag { scope: scope.into(), what: what.into(), ins: vec![], why: why.into() };
        self.inner.borrow_mut().diags.push(d);
    }
}

impl<'g> Builder<'g> {
    /// A graph input.
    pub fn input(&'g self, name: &str, ty: Type) -> Val<'g> {
        let id = self.inner.borrow_mut().graph.add_input(name, ty);
        Val { b: self, id }
    }

    /// A parameter of a given type, under its full name.
    pub fn param_value(&'g self, name: &str, ty: Type) -> Val<'g> {
        let id = self.inner.borrow_mut().graph.add_param(name, ty);
        Val { b: self, id }
    }

    /// False for the second output of an op that failed or has only one.
    pub(crate) fn has_value(&self, v: ValueId) -> bool {
        *self.inner.borrow().graph.ty(v) != Type::Poison
    }

    /// The segments input named `seg` over `S` sequences and `T` tokens.
    pub fn segments(&'g self) -> Val<'g> {
        self.input("seg", Type::Segments { count: Dim::sym("S"), tokens: Dim::sym("T") })
    }

    /// The scope with an empty path.
    pub fn root(&'g self) -> Scope<'g> {
        Scope { b: self, path: String::new() }
    }

    /// A value filled with one number, broadcast to `shape`.
    pub fn full(&'g self, dtype: DType, shape: impl Into<Shape>, value: f64) -> Val<'g> {
        let c = self.emit("", Constant { dtype, shape: vec![], data: vec![value] }, &[])[0];
        c.broadcast_to(shape)
    }

    /// A constant tensor.
    pub fn constant(&'g self, dtype: DType, shape: &[usize], data: Vec<f64>) -> Val<'g> {
        self.emit("", Constant { dtype, shape: shape.to_vec(), data }, &[])[0]
    }

    /// `0, 1, 2, …` along one dimension.
    pub fn iota(&'g self, dtype: DType, len: impl Into<Dim>) -> Val<'g> {
        self.emit("", Iota { dtype, len: len.into() }, &[])[0]
    }

    /// A state resource (a [`Type::Cache`] or [`Type::State`]).
    pub fn state(&'g self, name: &str, ty: Type) -> Val<'g> {
        let id = self.inner.borrow_mut().graph.add_state(name, ty);
        Val { b: self, id }
    }

    /// `new` is the value `state` has after the run.  A second writer is a mistake.
    pub fn update(&'g self, state: Val<'g>, new: Val<'g>) {
        let mut inner = self.inner.borrow_mut();
        let Inner { graph, diags } = &mut *inner;
        let Some(n) = graph.states.iter().position(|s| s.1 == state.id) else {
            diags.push(Diag { scope: String::new(), what: "update".into(), ins: vec![], why: "the value is no state".into() });
            return;
        };
        if graph.updates.iter().any(|u| u.0 == n as u32) {
            let (what, why) = (format!("state {}", graph.states[n].0), "is written twice".to_owned());
            diags.push(Diag { scope: String::new(), what, ins: vec![], why });
            return;
        }
        graph.updates.push((n as u32, new.id));
    }
}

impl<'g> Scope<'g> {
    /// The scope `name` under this one.
    pub fn at(&self, name: impl AsRef<str>) -> Scope<'g> {
        Scope { b: self.b, path: self.join(name.as_ref()) }
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The builder.
    pub fn builder(&self) -> &'g Builder<'g> {
        self.b
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A parameter of this shape, with the type it has on disk.
    pub fn param(&self, name: &str, shape: impl Into<Shape>) -> Val<'g> {
        let (path, shape) = (self.join(name), shape.into());
        let ty = (self.b.param_types)(&path, &shape.0).and_then(|dtype| {
            let ty = Type::Tensor(dtype, shape.clone());
            ty.check_blocks().map(|()| ty)
        });
        let known = self.b.inner.borrow().graph.params.iter().find(|p| *p.name == *path).map(|p| p.value);
        if let Some(id) = known {
            let v = Val { b: self.b, id };
            match ty {
                Ok(ty) if v.ty() != ty => self.b.diag(&self.path, &path, format!("is asked for as {ty} and was {} before", v.ty())),
                _ => {}
            }
            return v;
        }
        // One that cannot be had still has its shape, so that building goes on to the next mistake.
        let ty = ty.unwrap_or_else(|why| {
            self.b.diag(&self.path, &path, why);
            Type::Tensor(self.b.options.compute, shape)
        });
        let id = self.b.inner.borrow_mut().graph.add_param(&path, ty);
        Val { b: self.b, id }
    }

    /// An op on values, recorded under this scope; its first output.
    pub fn emit(&self, op: impl Into<Op>, ins: &[Val<'g>]) -> Val<'g> {
        self.b.emit(&self.path, op, ins)[0]
    }

    /// `x · Wᵀ` with `name.weight` of shape `[out, in]`.  x: […, in] → […, out].
    pub fn linear(&self, name: &str, x: Val<'g>, out: usize) -> Val<'g> {
        if x.ty() == Type::Poison {
            return x; // its width is not known
        }
        let w = self.param(&format!("{name}.weight"), [Dim::from(out), x.last_dim()]);
        self.emit(Linear::plain(1), &[x, w])
    }

    /// [`Scope::linear`], plus `name.bias` of shape `[out]` when `bias` says so.
    pub fn linear_bias(&self, name: &str, x: Val<'g>, out: usize, bias: bool) -> Val<'g> {
        let y = self.linear(name, x, out);
        if !bias {
            return y;
        }
        let b = self.param(&format!("{name}.bias"), [out]);
        self.emit(Binary { op: BinaryOp::Add }, &[y, b.cast(y.dtype())])
    }

    /// Root-mean-square norm over the last dimension with `name.weight`.
    pub fn rms_norm(&self, name: &str, x: Val<'g>, eps: f64) -> Val<'g> {
        if x.ty() == Type::Poison {
            return x; // its width is not known
        }
        let w = self.param(&format!("{name}.weight"), [x.last_dim()]);
        self.emit(RmsNorm { eps }, &[x, w])
    }

    /// Appends `[T,K,D]` keys and values to the caches `k` and `v` of this scope; returns what the
    /// caches then hold.
    pub fn kv_cache(&self, key: Val<'g>, value: Val<'g>, seg: Val<'g>) -> (Val<'g>, Val<'g>) {
        (self.cache("k", key, seg), self.cache("v", value, seg))
    }

    /// Appends rows to the cache `name` of this scope.
    pub fn cache(&self, name: &str, rows: Val<'g>, seg: Val<'g>) -> Val<'g> {
        let row = rows.shape().get(1..).unwrap_or_default().to_vec();
        let state = self.b.state(&self.join(name), Type::Cache(self.b.options.kv, Shape(row)));
        let new = self.emit(CacheAppend {}, &[state, rows, seg]);
        self.b.update(state, new);
        new
    }
}
