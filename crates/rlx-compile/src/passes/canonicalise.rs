//! One way to write each thing: operations that do nothing disappear, chains of data movement
//! become one step, constants stand on the right, and common compositions get their own op.
//!
//! Later passes look for one form only because of this one.

use super::rewrite::Rewrite;
use rlx_ir::graph::ValueId;
use rlx_ir::ops::{Binary, BinaryOp, Cast, Constant, Permute, Select, Slice, Unary, UnaryOp};
use rlx_ir::{DType, Dim, Graph, Op};

/// What a rule makes of a node.
enum Rule {
    /// The node's result is this value.
    Is(ValueId),
    /// The node is this op on these values.
    Becomes(Op, Vec<ValueId>),
}

/// Applies the rules to every node, in order, until none fires.  What a rule bypasses stays for
/// [`super::dce`] to remove.
pub fn run(graph: Graph) -> Graph {
    let mut r = Rewrite::new(graph);
    for i in 0..r.len() {
        r.resolve_inputs(i);
        // Every rule makes the node simpler, so a few rounds reach the end.
        for _ in 0..8 {
            let out = r.graph.nodes[i].outs[0];
            match rule(&r, i) {
                Some(Rule::Is(v)) if r.graph.ty(v) == r.graph.ty(out) => {
                    r.replace(out, v);
                    r.kill(i);
                    break;
                }
                Some(Rule::Becomes(op, ins)) if fits(&r, &op, &ins, out) => r.set(i, op, &ins),
                _ => break,
            }
        }
    }
    r.finish()
}

/// True when `op` on `ins` has the type of `out`.
fn fits(r: &Rewrite, op: &Op, ins: &[ValueId], out: ValueId) -> bool {
    let types: Vec<_> = ins.iter().map(|v| r.graph.ty(*v)).collect();
    op.infer(&types).is_ok_and(|t| t.first() == Some(r.graph.ty(out)))
}

fn rule(r: &Rewrite, i: usize) -> Option<Rule> {
    let node = &r.graph.nodes[i];
    let ins = &node.ins;
    match &node.op {
        Op::Reshape(to) => movement(r, ins[0], &to.shape, |inner| matches!(inner, Op::Reshape(_)), &node.op),
        Op::Broadcast(to) => movement(r, ins[0], &to.shape, |inner| matches!(inner, Op::Broadcast(_)), &node.op),
        Op::Permute(p) => permute(r, ins[0], p),
        Op::Slice(s) => slice(r, ins[0], s),
        Op::Concat(_) if ins.len() == 1 => Some(Rule::Is(ins[0])),
        Op::Cast(c) => cast(r, ins[0], c.to),
        Op::Unary(u) => unary(r, ins[0], u.op),
        Op::Binary(b) => binary(r, ins[0], ins[1], b.op).or_else(|| operands(r, i)),
        Op::Select(_) => select(r, [ins[0], ins[1], ins[2]]).or_else(|| operands(r, i)),
        _ => None,
    }
}

/// The op that defines a value, with its inputs.
fn def(r: &Rewrite, v: ValueId) -> Option<(&Op, &[ValueId])> {
    r.producer(v).map(|(_, n)| (&n.op, &n.ins[..]))
}

/// Reshapes and broadcasts: no-ops go, and of two in a row the last one does it alone.
fn movement(r: &Rewrite, x: ValueId, shape: &[Dim], same: impl Fn(&Op) -> bool, op: &Op) -> Option<Rule> {
    if r.shape(x) == shape {
        return Some(Rule::Is(x));
    }
    let (inner, from) = def(r, x)?;
    same(inner).then(|| Rule::Becomes(op.clone(), vec![from[0]]))
}

fn permute(r: &Rewrite, x: ValueId, p: &Permute) -> Option<Rule> {
    if p.axes.iter().enumerate().all(|(i, a)| i == *a) {
        return Some(Rule::Is(x));
    }
    let (Op::Permute(inner), from) = def(r, x)? else { return None };
    let axes = p.axes.iter().map(|a| inner.axes[*a]).collect();
    Some(Rule::Becomes(Permute { axes }.into(), vec![from[0]]))
}

fn slice(r: &Rewrite, x: ValueId, s: &Slice) -> Option<Rule> {
    if s.start.as_const() == Some(0) && r.shape(x).get(s.axis) == Some(&s.len) {
        return Some(Rule::Is(x));
    }
    let (Op::Slice(inner), from) = def(r, x)? else { return None };
    let start = inner.start.clone() + &s.start;
    (inner.axis == s.axis).then(|| Rule::Becomes(Slice { axis: s.axis, start, len: s.len.clone() }.into(), vec![from[0]]))
}

fn cast(r: &Rewrite, x: ValueId, to: DType) -> Option<Rule> {
    if r.dtype(x) == Some(to) {
        return Some(Rule::Is(x));
    }
    let (Op::Cast(inner), from) = def(r, x)? else { return None };
    let keeps = r.dtype(from[0]).is_some_and(|d| lossless(d, inner.to));
    keeps.then(|| Rule::Becomes(Cast { to }.into(), vec![from[0]]))
}

/// True when every value of `from` is one of `to`.
fn lossless(from: DType, to: DType) -> bool {
    use DType::*;
    match from {
        Bool => to.is_int() || matches!(to, F64 | F32 | F16 | BF16),
        F8E4M3 | F8E5M2 => matches!(to, F16 | BF16 | F32 | F64),
        F16 | BF16 => matches!(to, F32 | F64),
        U8 => matches!(to, U16 | U32 | U64 | I16 | I32 | I64 | F16 | BF16 | F32 | F64),
        I8 => matches!(to, I16 | I32 | I64 | F16 | BF16 | F32 | F64),
        U16 => matches!(to, U32 | U64 | I32 | I64 | F32 | F64),
        I16 => matches!(to, I32 | I64 | F32 | F64),
        U32 => matches!(to, U64 | I64 | F64),
        I32 => matches!(to, I64 | F64),
        F32 => to == F64,
        F64 | I64 | U64 | Block(_) => false,
    }
}

fn unary(r: &Rewrite, x: ValueId, op: UnaryOp) -> Option<Rule> {
    use UnaryOp::*;
    let (Op::Unary(inner), from) = def(r, x)? else { return None };
    match (op, inner.op) {
        (Neg, Neg) | (Not, Not) => Some(Rule::Is(from[0])),
        (Abs, Abs) | (Relu, Relu) | (Floor, Floor) | (Abs, Square | Exp | Sqrt | Sigmoid | Relu) | (Relu, Sigmoid | Exp) => {
            Some(Rule::Is(x))
        }
        (Abs | Square, Neg | Abs) => Some(Rule::Becomes(Unary { op }.into(), vec![from[0]])),
        (Recip, Sqrt) => Some(Rule::Becomes(Unary { op: Rsqrt }.into(), vec![from[0]])),
        _ => None,
    }
}

fn binary(r: &Rewrite, a: ValueId, b: ValueId, op: BinaryOp) -> Option<Rule> {
    use BinaryOp::*;
    let becomes = |op: BinaryOp, ins: [ValueId; 2]| Some(Rule::Becomes(Binary { op }.into(), ins.to_vec()));
    let un = |op: UnaryOp| Some(Rule::Becomes(Unary { op }.into(), vec![a]));
    if matches!(op, Add | Mul | Max | Min | Eq | And | Or) && is_constant(r, a) && !is_constant(r, b) {
        return becomes(op, [b, a]);
    }
    let real = r.dtype(a).is_some_and(DType::is_float);
    if let Some(c) = uniform(r, b) {
        return match op {
            Add | Sub | Or if c == 0.0 => Some(Rule::Is(a)),
            Mul | Div if c == 1.0 => Some(Rule::Is(a)),
            And if c != 0.0 => Some(Rule::Is(a)),
            Mul | Div if c == -1.0 => un(UnaryOp::Neg),
            Pow if real && c == 1.0 => Some(Rule::Is(a)),
            Pow if real && c == 2.0 => un(UnaryOp::Square),
            Max if real && c == 0.0 => un(UnaryOp::Relu),
            _ => None,
        };
    }
    let of = |v: ValueId, f: UnaryOp| match def(r, v)? {
        (Op::Unary(u), from) if u.op == f => Some(from[0]),
        _ => None,
    };
    match op {
        Mul if of(b, UnaryOp::Sigmoid) == Some(a) => un(UnaryOp::Silu),
        Mul if of(a, UnaryOp::Sigmoid) == Some(b) => Some(Rule::Becomes(Unary { op: UnaryOp::Silu }.into(), vec![b])),
        Mul if a == b => un(UnaryOp::Square),
        Max | Min | And | Or if a == b => Some(Rule::Is(a)),
        Add => match (of(a, UnaryOp::Neg), of(b, UnaryOp::Neg)) {
            (_, Some(y)) => becomes(Sub, [a, y]),
            (Some(x), None) => becomes(Sub, [b, x]),
            _ => None,
        },
        Sub => of(b, UnaryOp::Neg).and_then(|y| becomes(Add, [a, y])),
        _ => None,
    }
}

fn select(r: &Rewrite, [c, a, b]: [ValueId; 3]) -> Option<Rule> {
    if a == b {
        return Some(Rule::Is(a));
    }
    if let Some(c) = uniform(r, c) {
        return Some(Rule::Is(if c != 0.0 { a } else { b }));
    }
    match def(r, c)? {
        (Op::Unary(u), from) if u.op == UnaryOp::Not => Some(Rule::Becomes(Select {}.into(), vec![from[0], b, a])),
        _ => None,
    }
}

/// An elementwise op broadcasts by itself: it reads through a broadcast that adds nothing.
fn operands(r: &Rewrite, i: usize) -> Option<Rule> {
    let node = &r.graph.nodes[i];
    (0..node.ins.len()).find_map(|k| {
        let (Op::Broadcast(_), from) = def(r, node.ins[k])? else { return None };
        let mut ins = node.ins.to_vec();
        ins[k] = from[0];
        fits(r, &node.op, &ins, node.outs[0]).then(|| Rule::Becomes(node.op.clone(), ins))
    })
}

/// The constant behind reshapes and broadcasts, which `run` has merged to at most one of each.
fn constant(r: &Rewrite, mut v: ValueId) -> Option<&Constant> {
    for _ in 0..4 {
        match def(r, v)? {
            (Op::Constant(c), _) => return Some(c),
            (Op::Broadcast(_) | Op::Reshape(_), from) => v = from[0],
            _ => return None,
        }
    }
    None
}

fn is_constant(r: &Rewrite, v: ValueId) -> bool {
    constant(r, v).is_some()
}

/// The one number a constant consists of.
fn uniform(r: &Rewrite, v: ValueId) -> Option<f64> {
    let c = constant(r, v)?;
    let first = *c.data.first()?;
    c.data.iter().all(|d| *d == first).then(|| c.dtype.round(first))
}
