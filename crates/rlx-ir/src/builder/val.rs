//! Methods of value handles: one line per elementwise, data-movement and sequence op, and the
//! operators.

use super::{Builder, Val};
use crate::graph::ValueId;
use crate::ops::*;
use crate::{DType, Dim, Op, Shape, Type};
use std::sync::Arc;

/// `x.exp()` and friends: one elementwise op each.
macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident => $op:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[allow(clippy::should_implement_trait)] // `neg` chains like the others, beside the operator
            pub fn $name(self) -> Val<'g> { self.un(Unary { op: UnaryOp::$op }) }
        )*
    };
}
/// `x.max(y)` and friends.
macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident => $op:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(self, rhs: Val<'g>) -> Val<'g> { self.with(Binary { op: BinaryOp::$op }, &[rhs]) })*
    };
}

impl<'g> Val<'g> {
    /// Id in the graph.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The builder.
    pub fn builder(self) -> &'g Builder<'g> {
        self.b
    }

    /// The handle of value `id` of builder `b`.
    pub fn from_id(b: &'g Builder<'g>, id: ValueId) -> Val<'g> {
        Val { b, id }
    }

    /// Its type.
    pub fn ty(self) -> Type {
        self.b.inner.borrow().graph.ty(self.id).clone()
    }

    /// Dimensions of a tensor; empty for anything else.
    pub fn shape(self) -> Vec<Dim> {
        match self.ty() {
            Type::Tensor(_, s) => s.0,
            _ => vec![],
        }
    }

    /// Dimension `axis`, or 0 when there is none.
    pub fn dim(self, axis: usize) -> Dim {
        self.shape().get(axis).cloned().unwrap_or(Dim::from(0))
    }

    /// Last dimension, or 0 for a scalar.
    pub fn last_dim(self) -> Dim {
        self.shape().last().cloned().unwrap_or(Dim::from(0))
    }

    /// Number of dimensions.
    pub fn rank(self) -> usize {
        self.shape().len()
    }

    /// Element type (f32 for a value that is no tensor).
    pub fn dtype(self) -> DType {
        match self.ty() {
            Type::Tensor(d, _) => d,
            _ => DType::F32,
        }
    }

    fn scope(self) -> Arc<str> {
        self.b.inner.borrow().graph.producer(self.id).map(|n| n.scope.clone()).unwrap_or_else(|| "".into())
    }

    /// `op` on this value and more; first output.
    pub fn with(self, op: impl Into<Op>, more: &[Val<'g>]) -> Val<'g> {
        self.with_all(op, more)[0]
    }

    /// `op` on this value and more; all outputs.
    pub fn with_all(self, op: impl Into<Op>, more: &[Val<'g>]) -> Vec<Val<'g>> {
        let mut ins = vec![self];
        ins.extend_from_slice(more);
        self.b.emit(&self.scope(), op, &ins)
    }

    fn un(self, op: impl Into<Op>) -> Val<'g> {
        self.with(op, &[])
    }

    /// Gives the value a name under which it can be observed (see [`crate::Graph::promote_taps`]).
    pub fn tap(self, name: impl Into<String>) -> Val<'g> {
        self.b.inner.borrow_mut().graph.taps.push((name.into().into(), self.id));
        self
    }

    unary_methods! {
        /// `-x`
        neg => Neg,
        /// `|x|`
        abs => Abs,
        /// `eˣ`
        exp => Exp,
        /// natural logarithm
        log => Log,
        /// `√x`
        sqrt => Sqrt,
        /// `1/√x`
        rsqrt => Rsqrt,
        /// `1/x`
        recip => Recip,
        /// `x²`
        square => Square,
        /// sine, radians
        sin => Sin,
        /// cosine, radians
        cos => Cos,
        /// hyperbolic tangent
        tanh => Tanh,
        /// error function
        erf => Erf,
        /// `1/(1+e⁻ˣ)`
        sigmoid => Sigmoid,
        /// `x·sigmoid(x)`
        silu => Silu,
        /// `x·Φ(x)`, exact
        gelu => Gelu,
        /// GELU by the tanh approximation
        gelu_tanh => GeluTanh,
        /// `max(x, 0)`
        relu => Relu,
        /// `log(1+eˣ)`
        softplus => Softplus,
        /// largest whole number ≤ x
        floor => Floor,
    }
    binary_methods! {
        /// elementwise maximum
        maximum => Max,
        /// elementwise minimum
        minimum => Min,
        /// `selfʳʰˢ`
        pow => Pow,
        /// `self < rhs`, bool
        lt => Lt,
        /// `self <= rhs`, bool
        le => Le,
        /// `self == rhs`, bool
        eq => Eq,
        /// logical and of bools
        and => And,
        /// logical or of bools
        or => Or,
    }

    /// A constant of this value's type that broadcasts against it.
    pub fn scalar(self, v: f64) -> Val<'g> {
        self.b.constant(self.dtype(), &[], vec![v])
    }

    /// Converts elements.
    pub fn cast(self, to: DType) -> Val<'g> {
        if self.dtype() == to { self } else { self.un(Cast { to }) }
    }

    /// Picks `a` where this bool value is true, else `b`.
    pub fn select(self, a: Val<'g>, b: Val<'g>) -> Val<'g> {
        self.with(Select {}, &[a, b])
    }

    /// Same elements, other shape; the number of elements must be the same expression.
    pub fn reshape(self, shape: impl Into<Shape>) -> Val<'g> {
        self.un(Reshape { shape: shape.into().0 })
    }

    /// Dimension `i` of the result is dimension `axes[i]` of this.
    pub fn permute(self, axes: &[usize]) -> Val<'g> {
        self.un(Permute { axes: axes.to_vec() })
    }

    /// Repeats dimensions of size 1 (right-aligned) to reach `shape`.
    pub fn broadcast_to(self, shape: impl Into<Shape>) -> Val<'g> {
        let shape = shape.into();
        if shape.0 == self.shape() { self } else { self.un(Broadcast { shape: shape.0 }) }
    }

    /// Elements `start .. start+len` along `axis`.
    pub fn slice(self, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>) -> Val<'g> {
        self.un(Slice { axis, start: start.into(), len: len.into() })
    }

    /// This, then `more`, along `axis`.
    pub fn concat(self, axis: usize, more: &[Val<'g>]) -> Val<'g> {
        self.with(Concat { axis }, more)
    }

    /// Rows of this table: `[V, …]` at indices `[…i]` → `[…i, …]`, in type `to` (block formats
    /// dequantise).
    pub fn gather(self, index: Val<'g>, to: DType) -> Val<'g> {
        self.with(Gather { to }, &[index])
    }

    /// Sum over `axes`, keeping them with size 1.
    pub fn sum(self, axes: &[usize]) -> Val<'g> {
        self.un(Reduce { op: ReduceOp::Sum, axes: axes.to_vec() })
    }

    /// Mean over `axes`, keeping them with size 1.
    pub fn mean(self, axes: &[usize]) -> Val<'g> {
        self.un(Reduce { op: ReduceOp::Mean, axes: axes.to_vec() })
    }

    /// Maximum over `axes`, keeping them with size 1.
    pub fn max(self, axes: &[usize]) -> Val<'g> {
        self.un(Reduce { op: ReduceOp::Max, axes: axes.to_vec() })
    }

    /// Mean over the last axis, kept with size 1.
    pub fn mean_last(self) -> Val<'g> {
        self.mean(&[self.rank().saturating_sub(1)])
    }

    /// Batched matrix product `[…,M,K] · […,K,N]`, leading dimensions broadcast.
    pub fn matmul(self, rhs: Val<'g>) -> Val<'g> {
        self.with(Matmul {}, &[rhs])
    }

    /// `self · wᵀ` with `w` of shape `[N,K]` in any weight type.
    pub fn matmul_t(self, w: Val<'g>) -> Val<'g> {
        self.with(Linear::plain(1), &[w])
    }

    /// Softmax over the last dimension.
    pub fn softmax(self) -> Val<'g> {
        self.un(Softmax {})
    }

    /// Table row of every token: `self` is tokens `[T]`, the result `[T,E]` in the compute type.
    pub fn embed(self, table: Val<'g>) -> Val<'g> {
        table.gather(self, self.b.options.compute)
    }

    /// `[…, H·D]` → `[…, H, D]`.
    pub fn split_heads(self, heads: usize) -> Val<'g> {
        let mut s = self.shape();
        let last = s.pop().unwrap_or(Dim::from(0));
        s.extend([Dim::from(heads), last.floor_div(heads.max(1) as u64)]);
        self.reshape(s)
    }

    /// `[…, H, D]` → `[…, H·D]`.
    pub fn merge_heads(self) -> Val<'g> {
        let mut s = self.shape();
        let (d, h) = (s.pop().unwrap_or(Dim::from(1)), s.pop().unwrap_or(Dim::from(1)));
        s.push(h * d);
        self.reshape(s)
    }

    /// Rotary embedding at `positions`; see [`Rope`].
    pub fn rope(self, rope: &Rope, positions: Val<'g>) -> Val<'g> {
        self.with(rope.clone(), &[positions])
    }

    /// Position of every token of these segments, u32 `[T]`.
    pub fn positions(self) -> Val<'g> {
        self.un(Positions {})
    }

    /// Attention of this query; see [`Attention`] for shapes.  `seg` for ragged sequences.
    pub fn attend(self, key: Val<'g>, value: Val<'g>, seg: Option<Val<'g>>, op: Attention) -> Val<'g> {
        let mut more = vec![key, value];
        more.extend(seg);
        self.with(op, &more)
    }
}

macro_rules! operator {
    ($($tr:ident $method:ident),*) => {$(
        impl<'g> std::ops::$tr for Val<'g> {
            type Output = Val<'g>;
            fn $method(self, rhs: Val<'g>) -> Val<'g> { self.with(Binary { op: BinaryOp::$tr }, &[rhs]) }
        }
        impl<'g> std::ops::$tr<f64> for Val<'g> {
            type Output = Val<'g>;
            fn $method(self, rhs: f64) -> Val<'g> { self.with(Binary { op: BinaryOp::$tr }, &[self.scalar(rhs)]) }
        }
    )*};
}
operator!(Add add, Sub sub, Mul mul, Div div);
impl<'g> std::ops::Neg for Val<'g> {
    type Output = Val<'g>;
    fn neg(self) -> Val<'g> {
        self.un(Unary { op: UnaryOp::Neg })
    }
}
