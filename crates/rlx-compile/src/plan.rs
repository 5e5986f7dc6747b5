//! The memory plan: where every value lives, in which order nodes run, and exact bytes per binding
//! of the symbols.
//!
//! Nodes are grouped into *phases*: nodes of one phase do not depend on each other, so a device
//! needs one synchronisation per phase.  Values are views (reshape, slice, permute, broadcast of
//! another value) where every consumer can read them so, and get their own bytes otherwise.  Two
//! values share bytes when their phases do not overlap.

use crate::backend::{Backend, BackendError, Pool};
use rlx_ir::graph::Def;
use rlx_ir::ops::Op;
use rlx_ir::{Bindings, DType, Dim, Graph, NodeId, Type, ValueId};
use smallvec::{SmallVec, smallvec};

/// Alignment of every buffer in the arena, in bytes.
pub const ALIGN: u64 = 64;

/// The memory a value's bytes are in.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Root {
    /// Argument number of the call.
    Input(u32),
    /// Parameter number.
    Param(u32),
    /// State number.
    State(u32),
    /// The arena, at an offset that each binding chooses.
    Arena,
}

/// Elements between neighbours along each dimension; up to two need no memory of their own.
pub type Strides = SmallVec<[Dim; 2]>;

/// How a value is laid out in its root: element strides and offset.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    /// Which memory.
    pub root: Root,
    /// The value that owns the bytes (itself, unless it is a view).
    pub owner: ValueId,
    /// Elements from the owner's first element to this value's.
    pub offset: Dim,
    /// Elements between neighbours along each dimension.
    pub strides: Strides,
}

/// A graph with its schedule and places.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The lowered graph.
    pub graph: Graph,
    /// One per value; `None` for values nobody stores (segments).
    pub places: Vec<Option<Place>>,
    /// Nodes that do work, by phase; most phases are short.
    pub phases: Vec<SmallVec<[NodeId; 4]>>,
    /// Value → first and last phase in which its bytes are in use (owners in the arena only).
    live: Vec<Option<(usize, usize)>>,
    /// Node → phase, for nodes that do work.
    phase_of: Vec<Option<usize>>,
}

/// Whole numbers, one for each dimension; up to four need no memory of their own.
pub type Sizes = SmallVec<[usize; 4]>;

/// A value under a binding.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Slot {
    /// Bytes from the start of the root.
    pub offset: usize,
    /// Dense size in bytes.
    pub bytes: usize,
    /// Sizes.
    pub shape: Sizes,
    /// Element strides.
    pub strides: Sizes,
}

/// All values under a binding.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Layout {
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// One per value.
    pub values: Vec<Slot>,
    /// Node → (offset, length) of its scratch in the arena.
    pub scratch: Vec<(usize, usize)>,
}

/// Row-major strides.
fn dense_strides(shape: &[Dim]) -> Strides {
    let mut s: Strides = smallvec![Dim::from(1); shape.len()];
    for i in (1..shape.len()).rev() {
        s[i - 1] = s[i].clone() * &shape[i];
    }
    s
}

fn shape_of(g: &Graph, v: ValueId) -> &[Dim] {
    match g.ty(v) {
        Type::Tensor(_, s) => &s.0,
        _ => &[],
    }
}

/// True when these strides are row-major for this shape (dimensions of size 1 do not matter).
fn is_dense(shape: &[Dim], strides: &[Dim]) -> bool {
    let one = Dim::from(1);
    shape.iter().zip(strides).zip(dense_strides(shape)).all(|((n, s), d)| *n == one || *s == d)
}

/// Strides of `from` (with `strides`) seen as shape `to`, when no copy is needed.
fn reshape_strides(from: &[Dim], strides: &[Dim], to: &[Dim]) -> Option<Strides> {
    let one = Dim::from(1);
    // Runs of input dimensions that are contiguous with each other: (elements, stride of the last).
    let mut runs: Vec<(Dim, Dim)> = vec![];
    for (n, s) in from.iter().zip(strides).filter(|(n, _)| **n != one) {
        match runs.last_mut() {
            Some((size, inner)) if *inner == s.clone() * n => {
                *size = size.clone() * n;
                *inner = s.clone();
            }
            _ => runs.push((n.clone(), s.clone())),
        }
    }
    let mut out: Strides = smallvec![one.clone(); to.len()];
    let (mut run, mut taken) = (runs.len(), Dim::from(0));
    for i in (0..to.len()).rev().filter(|i| to[*i] != one) {
        if taken == Dim::from(0) || taken == runs.get(run)?.0 {
            run = run.checked_sub(1)?;
            taken = one.clone();
        }
        out[i] = runs[run].1.clone() * &taken;
        taken = taken * &to[i];
        // A run must be used up exactly before the next one starts.
        if let (Some(t), Some(n)) = (taken.as_const(), runs[run].0.as_const())
            && (t > n || n % t.max(1) != 0)
        {
            return None;
        }
    }
    let done = run == 0 && runs.first().is_none_or(|r| r.0 == taken);
    (done || runs.is_empty()).then_some(out)
}

/// The view `op` makes of its input, when it is one: (offset, strides).
fn view(g: &Graph, op: &Op, input: ValueId, place: &Place, out: &[Dim]) -> Option<(Dim, Strides)> {
    let shape = shape_of(g, input);
    match op {
        Op::Reshape(_) => Some((place.offset.clone(), reshape_strides(shape, &place.strides, out)?)),
        Op::Slice(s) => Some((place.offset.clone() + place.strides[s.axis].clone() * &s.start, place.strides.clone())),
        Op::Permute(p) => Some((place.offset.clone(), p.axes.iter().map(|a| place.strides[*a].clone()).collect())),
        Op::Broadcast(_) => {
            let lead = out.len() - shape.len();
            let strides = (0..out.len()).map(|i| match i.checked_sub(lead) {
                Some(j) if shape[j] == out[i] => place.strides[j].clone(),
                _ => Dim::from(0),
            });
            Some((place.offset.clone(), strides.collect()))
        }
        _ => None,
    }
}

impl Plan {
    /// Plans a lowered graph for `backend`.
    pub fn new(graph: Graph, backend: &dyn Backend) -> Plan {
        let mut plan = Plan { places: vec![], phases: vec![], live: vec![], phase_of: vec![], graph };
        plan.place(backend);
        plan.schedule();
        plan.liveness();
        plan
    }

    fn own(&self, v: ValueId, root: Root) -> Option<Place> {
        match self.graph.ty(v) {
            Type::Tensor(_, s) => Some(Place { root, owner: v, offset: Dim::from(0), strides: dense_strides(&s.0) }),
            Type::Cache(..) | Type::State(..) => Some(Place { root, owner: v, offset: Dim::from(0), strides: Strides::new() }),
            _ => None,
        }
    }

    fn place(&mut self, backend: &dyn Backend) {
        let g = &self.graph;
        let is_view_op = |op: &Op| matches!(op, Op::Reshape(_) | Op::Slice(_) | Op::Permute(_) | Op::Broadcast(_));
        // Who reads what may become a view: value, node, number of the input.
        let mut uses: Vec<(ValueId, usize, usize)> = vec![];
        for (i, n) in g.nodes.iter().enumerate() {
            let views = n.ins.iter().enumerate().filter(|(_, v)| g.producer(**v).is_some_and(|n| is_view_op(&n.op)));
            uses.extend(views.map(|(k, v)| (*v, i, k)));
        }
        uses.sort_unstable();
        let uses_of = |v: ValueId| uses[uses.partition_point(|u| u.0 < v)..].iter().take_while(move |u| u.0 == v);
        let mut is_output = vec![false; g.values.len()];
        g.outputs.iter().for_each(|o| is_output[o.1.index()] = true);
        let mut places: Vec<Option<Place>> = vec![None; g.values.len()];
        for (i, v) in g.values.iter().enumerate() {
            let id = ValueId(i as u32);
            places[i] = match v.def {
                Def::Input(n) => self.own(id, Root::Input(n)),
                Def::Param(n) => self.own(id, Root::Param(n)),
                Def::State(n) => self.own(id, Root::State(n)),
                Def::Node(..) => None,
            };
        }
        for n in &g.nodes {
            for v in &n.outs {
                let state = matches!(g.ty(*v), Type::Cache(..) | Type::State(..));
                let at = n.ins.first().and_then(|i| places[i.index()].as_ref()).filter(|_| state || is_view_op(&n.op)).cloned();
                let made = at.and_then(|p| {
                    if state {
                        return Some(Place { owner: *v, ..p });
                    }
                    // Parameters may be repacked by the device, and arguments are gone after the call: views of the
                    // former, and results that view the latter, are copied.
                    let free = p.root == Root::Arena || matches!(p.root, Root::Input(_)) && !is_output[v.index()];
                    let (offset, strides) = view(g, &n.op, n.ins[0], &p, shape_of(g, *v)).filter(|_| free)?;
                    let dense = is_dense(shape_of(g, *v), &strides);
                    let tail = *strides.last().unwrap_or(&Dim::from(1)) == Dim::from(1) || shape_of(g, *v).last() == Some(&Dim::from(1));
                    let readable = dense
                        || tail
                            && !is_output[v.index()]
                            && uses_of(*v).all(|(_, i, k)| {
                                let op = &g.nodes[*i].op;
                                is_view_op(op) || backend.accepts_strided(op, *k)
                            });
                    readable.then_some(Place { root: p.root, owner: p.owner, offset, strides })
                });
                places[v.index()] = made.or_else(|| self.own(*v, Root::Arena));
            }
        }
        self.places = places;
    }

    /// Whether a node does nothing at run time: its result is a view.
    pub fn is_view(&self, n: NodeId) -> bool {
        let node = &self.graph.nodes[n.index()];
        let tensor = node.outs.first().is_some_and(|v| matches!(self.graph.ty(*v), Type::Tensor(..)));
        tensor && node.outs.iter().all(|v| self.places[v.index()].as_ref().is_some_and(|p| p.owner != *v))
    }

    fn schedule(&mut self) {
        let g = &self.graph;
        // First phase in which each value is complete.
        let mut ready = vec![0usize; g.values.len()];
        // Last phase in which each state's bytes were read or written so far.
        let mut touched = vec![0usize; g.states.len()];
        let mut phase_of = vec![None; g.nodes.len()];
        for (i, n) in g.nodes.iter().enumerate() {
            let mut phase = n.ins.iter().map(|v| ready[v.index()]).max().unwrap_or(0);
            if self.is_view(NodeId(i as u32)) {
                n.outs.iter().for_each(|v| ready[v.index()] = phase);
                continue;
            }
            let state = |v: &ValueId| match &self.places[v.index()] {
                Some(Place { root: Root::State(s), .. }) => Some(*s as usize),
                _ => None,
            };
            // A writer of a state waits for whoever used it before.
            for s in n.outs.iter().filter_map(state) {
                phase = phase.max(touched[s]);
            }
            for s in n.ins.iter().chain(&n.outs).filter_map(state) {
                touched[s] = touched[s].max(phase + 1);
            }
            phase_of[i] = Some(phase);
            n.outs.iter().for_each(|v| ready[v.index()] = phase + 1);
        }
        let count = phase_of.iter().flatten().max().map_or(0, |p| p + 1);
        let mut phases = vec![SmallVec::new(); count];
        for (i, p) in phase_of.iter().enumerate() {
            if let Some(p) = p {
                phases[*p].push(NodeId(i as u32));
            }
        }
        self.phases = phases;
        self.phase_of = phase_of;
    }

    fn liveness(&mut self) {
        let g = &self.graph;
        let mut live: Vec<Option<(usize, usize)>> = vec![None; g.values.len()];
        let last = self.phases.len();
        let owner = |v: ValueId| self.places[v.index()].as_ref().filter(|p| p.root == Root::Arena).map(|p| p.owner.index());
        for (n, phase) in g.nodes.iter().zip(&self.phase_of) {
            let Some(phase) = *phase else { continue };
            for o in n.outs.iter().chain(&n.ins).filter_map(|v| owner(*v)) {
                let l = live[o].get_or_insert((phase, phase));
                *l = (l.0.min(phase), l.1.max(phase));
            }
        }
        for o in g.outputs.iter().filter_map(|o| owner(o.1)) {
            if let Some(l) = &mut live[o] {
                l.1 = last;
            }
        }
        self.live = live;
    }

    /// The ranges of slices lie inside their inputs, which nobody can say of symbols: a type has only the length.
    fn check_slices(&self, dims: &Bindings) -> Result<(), BackendError> {
        let g = &self.graph;
        for n in &g.nodes {
            let Op::Slice(s) = &n.op else { continue };
            let Type::Tensor(_, shape) = g.ty(n.ins[0]) else { continue };
            let (start, len, size) = (s.start.eval(dims)?, s.len.eval(dims)?, shape.0[s.axis].eval(dims)?);
            if start.checked_add(len).is_none_or(|end| end > size) {
                let why = format!("elements {start}+{len} are beyond the size {size} of axis {}", s.axis);
                return Err(BackendError::Value { op: format!("slice {}", n.scope), why });
            }
        }
        Ok(())
    }

    /// Offsets and sizes under `dims`.
    pub fn bind(&self, dims: &Bindings, backend: &dyn Backend) -> Result<Layout, BackendError> {
        let g = &self.graph;
        self.check_slices(dims)?;
        let mut layout = Layout { arena_bytes: 0, values: Vec::with_capacity(g.values.len()), scratch: vec![(0, 0); g.nodes.len()] };
        for (info, place) in g.values.iter().zip(&self.places) {
            let (Type::Tensor(d, s), Some(p)) = (&*info.ty, place) else {
                layout.values.push(Slot::default());
                continue;
            };
            let eval = |dims_of: &[Dim]| dims_of.iter().map(|d| d.eval(dims)).collect::<Result<Sizes, _>>();
            let shape = eval(&s.0)?;
            let bytes = rlx_ir::tensor::tensor_bytes(*d, &shape).map_err(|e| BackendError::Call(e.to_string()))?;
            let offset = p.offset.eval(dims)? * d.size().unwrap_or(0);
            layout.values.push(Slot { offset, bytes, shape, strides: eval(&p.strides)? });
        }
        // First fit in order of first use; longer-lived first within a phase.
        struct Item {
            live: (usize, usize),
            bytes: u64,
            to: Result<usize, usize>,
        }
        let mut items = Vec::with_capacity(self.live.iter().flatten().count());
        for (i, l) in self.live.iter().enumerate() {
            if let Some(live) = *l {
                items.push(Item { live, bytes: layout.values[i].bytes as u64, to: Ok(i) });
            }
        }
        for (i, n) in g.nodes.iter().enumerate() {
            let Some(phase) = self.phase_of[i] else { continue };
            let bytes = backend.scratch_bytes(g, n, dims)?;
            if bytes > 0 {
                items.push(Item { live: (phase, phase), bytes, to: Err(i) });
            }
        }
        items.sort_by_key(|i| (i.live.0, std::cmp::Reverse(i.live.1)));
        let mut placed: Vec<(u64, u64, usize)> = vec![]; // offset, end, last phase
        let mut owner_offset = vec![0usize; g.values.len()];
        for item in items {
            placed.retain(|p| p.2 >= item.live.0);
            let size = item.bytes.div_ceil(ALIGN) * ALIGN;
            placed.sort_unstable();
            let mut at = 0;
            for p in &placed {
                if p.0 >= at + size {
                    break;
                }
                at = at.max(p.1);
            }
            placed.push((at, at + size, item.live.1));
            layout.arena_bytes = layout.arena_bytes.max(at + size);
            match item.to {
                Ok(v) => owner_offset[v] = at as usize,
                Err(n) => layout.scratch[n] = (at as usize, item.bytes as usize),
            }
        }
        for (slot, place) in layout.values.iter_mut().zip(&self.places) {
            if let Some(p) = place.as_ref().filter(|p| p.root == Root::Arena) {
                slot.offset += owner_offset[p.owner.index()];
            }
        }
        Ok(layout)
    }

    /// Bytes of one row of cache number `state` (a whole tensor for a recurrent state).
    pub fn state_row_bytes(&self, state: usize) -> Result<u64, BackendError> {
        let (name, v) = &self.graph.states[state];
        let (Type::Cache(d, s) | Type::State(d, s)) = self.graph.ty(*v) else {
            return Err(BackendError::Call(format!("{name} is no state")));
        };
        Ok((s.numel().eval(&Bindings::new())? * d.size().unwrap_or(0)) as u64)
    }

    /// Bytes of all states for this pool.
    pub fn state_bytes(&self, pool: &Pool) -> Result<u64, BackendError> {
        let count = |i: usize| match self.graph.ty(self.graph.states[i].1) {
            Type::Cache(..) => pool.blocks * pool.block_tokens,
            _ => pool.slots,
        };
        (0..self.graph.states.len()).map(|i| Ok(self.state_row_bytes(i)? * count(i) as u64)).sum()
    }

    /// The element type of a tensor value.
    pub fn dtype(&self, v: ValueId) -> Option<DType> {
        match self.graph.ty(v) {
            Type::Tensor(d, _) => Some(*d),
            _ => None,
        }
    }
}
