//! Graph building blocks that model families share.
//!
//! Each block takes a [`Scope`] at the place its weights have in the checkpoint and returns values;
//! none carries state.  Shapes: `T` tokens of all sequences, `E` hidden, `R` rows asked for, `V`
//! vocabulary.

use rlx_ir::ops::UnaryOp;
use rlx_ir::{Builder, DType, Dim, Scope, Type, Val};

/// The inputs of every language model, in call order.
#[derive(Clone, Copy)]
pub struct LmInputs<'g> {
    /// Token ids, u32 `[T]`.
    pub tokens: Val<'g>,
    /// How the tokens divide into sequences.
    pub seg: Val<'g>,
    /// Tokens whose logits are wanted, u32 `[R]`: the last of each sequence when generating, all
    /// when scoring, none for all but the last chunk of a long prompt.
    pub rows: Val<'g>,
    /// Position of every token in its sequence, u32 `[T]`.
    pub positions: Val<'g>,
}

impl<'g> LmInputs<'g> {
    /// Declares the inputs.
    pub fn declare(b: &'g Builder<'g>) -> LmInputs<'g> {
        let tokens = b.input("tokens", Type::tensor(DType::U32, [Dim::sym("T")]));
        let seg = b.segments();
        let rows = b.input("rows", Type::tensor(DType::U32, [Dim::sym("R")]));
        LmInputs { tokens, seg, rows, positions: seg.positions() }
    }
}

/// `down_proj(act(gate_proj(x)) · up_proj(x))`: the SwiGLU feed-forward block and its relatives
/// (Shazeer 2020).  x: `[T,E]` → `[T,E]`; `width` is the inner dimension.
pub fn gated_mlp<'g>(w: &Scope<'g>, x: Val<'g>, width: usize, act: UnaryOp) -> Val<'g> {
    let hidden = x.last_dim().as_const().unwrap_or(0);
    let gate = w.linear("gate_proj", x, width).with(rlx_ir::ops::Unary { op: act }, &[]);
    let up = w.linear("up_proj", x, width);
    w.linear("down_proj", gate * up, hidden)
}

/// Logits of the rows asked for.  x: `[T,E]`, normalised → `[R,V]`.  The projection is `lm_head`
/// at the root, or the embedding table where these are tied.
pub fn lm_head<'g>(root: &Scope<'g>, io: &LmInputs<'g>, x: Val<'g>, embedding: Val<'g>, tied: bool) -> Val<'g> {
    let picked = x.gather(io.rows, x.dtype()); // [R,E]
    if tied {
        return picked.matmul_t(embedding);
    }
    root.linear("lm_head", picked, embedding.dim(0).as_const().unwrap_or(0))
}
