//! Builder methods for norms, convolutions, experts, recurrences and signals.  See each op for
//! shapes and meaning.

use super::{Scope, Val};
use crate::ops::*;
use crate::{DType, Dim, Shape, Type};

fn pair<'g>(v: Vec<Val<'g>>) -> (Val<'g>, Val<'g>) {
    (v[0], v[1])
}

impl<'g> Val<'g> {
    /// This value and the extras that are there.
    fn with_some(self, op: impl Into<crate::Op>, more: &[Val<'g>], extras: &[Option<Val<'g>>]) -> Vec<Val<'g>> {
        let all: Vec<Val<'g>> = more.iter().copied().chain(extras.iter().flatten().copied()).collect();
        self.with_all(op, &all)
    }

    /// `value` before and after the elements of every dimension.
    pub fn pad(self, lo: &[usize], hi: &[usize], value: f64) -> Val<'g> {
        self.with(Pad { lo: lo.to_vec(), hi: hi.to_vec(), interior: vec![], value }, &[])
    }

    /// Convolution of `[B,C,…]` with `w` `[O,C/groups,…]`; [`Conv::bias`] follows from `bias`.
    pub fn conv(self, w: Val<'g>, bias: Option<Val<'g>>, op: Conv) -> Val<'g> {
        self.with_some(Conv { bias: bias.is_some(), ..op }, &[w], &[bias])[0]
    }

    /// Transposed convolution of `[B,C,…]` with `w` `[C,O/groups,…]`.
    pub fn conv_transpose(self, w: Val<'g>, bias: Option<Val<'g>>, op: ConvTranspose) -> Val<'g> {
        self.with_some(ConvTranspose { bias: bias.is_some(), ..op }, &[w], &[bias])[0]
    }

    /// Layer norm over the last dimension.
    pub fn layer_norm(self, w: Option<Val<'g>>, b: Option<Val<'g>>, eps: f64) -> Val<'g> {
        self.with_some(LayerNorm { eps, weight: w.is_some(), bias: b.is_some() }, &[], &[w, b])[0]
    }

    /// Group norm of `[B,C,…]`.
    pub fn group_norm(self, groups: usize, w: Option<Val<'g>>, b: Option<Val<'g>>, eps: f64) -> Val<'g> {
        self.with_some(GroupNorm { groups, eps, weight: w.is_some(), bias: b.is_some() }, &[], &[w, b])[0]
    }

    /// `x / sqrt(Σx² + eps)` over the last dimension.
    pub fn l2_norm(self, eps: f64) -> Val<'g> {
        self.with(L2Norm { eps, clamp: false }, &[])
    }

    /// This table with the rows `index` replaced by, or added to, `rows`.
    pub fn scatter(self, mode: ScatterMode, index: Val<'g>, rows: Val<'g>) -> Val<'g> {
        self.with(Scatter { mode }, &[index, rows])
    }

    /// Elements at `index` along `axis`, one index per result.
    pub fn gather_axis(self, axis: usize, index: Val<'g>) -> Val<'g> {
        self.with(GatherAxis { axis }, &[index])
    }

    /// Running sum along `axis`.
    pub fn cumsum(self, axis: usize) -> Val<'g> {
        self.with(Cumsum { axis, exclusive: false, reverse: false }, &[])
    }

    /// The last dimension sorted: (values, indices).
    pub fn sort(self, descending: bool) -> (Val<'g>, Val<'g>) {
        pair(self.with_all(Sort { descending }, &[]))
    }

    /// The k largest of the last dimension: (values, indices).
    pub fn top_k(self, k: usize) -> (Val<'g>, Val<'g>) {
        pair(self.with_all(TopK { k }, &[]))
    }

    /// Experts for router logits `[T,E]`: (weights `[T,k]`, ids `[T,k]`).
    pub fn route(self, bias: Option<Val<'g>>, op: Route) -> (Val<'g>, Val<'g>) {
        pair(self.with_some(Route { bias: bias.is_some(), ..op }, &[], &[bias]))
    }

    /// Products of `[T,K]` or `[T,k,K]` with the matrices `ids` `[T,k]` of `w` `[E,N,K]` → `[T,k,N]`.
    pub fn expert_linear(self, w: Val<'g>, ids: Val<'g>, bias: Option<Val<'g>>) -> Val<'g> {
        self.with_some(ExpertLinear { bias: bias.is_some() }, &[w, ids], &[bias])[0]
    }

    /// Causal convolution of `[T,C]` per sequence: (result, final state).  See [`Scope::recurrent`].
    pub fn short_conv(self, w: Val<'g>, bias: Option<Val<'g>>, seg: Val<'g>, state: Val<'g>) -> (Val<'g>, Val<'g>) {
        pair(self.with_some(ShortConv { bias: bias.is_some() }, &[w, seg, state], &[bias]))
    }

    /// The real transform over the last dimension: […,n] → […,n/2+1,2].
    pub fn rfft(self) -> Val<'g> {
        self.with(Fft { kind: FftKind::Real }, &[])
    }

    /// Short-time transform: […,L] → […,F,n/2+1,2].
    pub fn stft(self, window: Val<'g>, hop: usize, center: bool) -> Val<'g> {
        self.with(Stft { hop, center }, &[window])
    }

    /// The last `size.len()` dimensions resampled, half-pixel centres, no antialiasing.
    pub fn resize(self, size: impl Into<Shape>, mode: ResizeMode) -> Val<'g> {
        self.with(Resize::plain(size.into().0, mode), &[])
    }
}

impl<'g> Scope<'g> {
    /// Layer norm over the last dimension with `name.weight` and, when `bias` says so, `name.bias`.
    pub fn layer_norm(&self, name: &str, x: Val<'g>, eps: f64, bias: bool) -> Val<'g> {
        let part = |what: &str| self.param(&format!("{name}.{what}"), [x.last_dim()]);
        let (w, b) = (part("weight"), bias.then(|| part("bias")));
        let ins: Vec<Val<'g>> = [x, w].into_iter().chain(b).collect();
        self.emit(LayerNorm { eps, weight: true, bias }, &ins)
    }

    /// Group norm of `[B,C,…]` with `name.weight` and `name.bias`.
    pub fn group_norm(&self, name: &str, x: Val<'g>, groups: usize, eps: f64) -> Val<'g> {
        let part = |what: &str| self.param(&format!("{name}.{what}"), [x.dim(1)]);
        self.emit(GroupNorm { groups, eps, weight: true, bias: true }, &[x, part("weight"), part("bias")])
    }

    /// Convolution of `[B,C,…]` with `name.weight` `[out,C/groups,kernel…]` and, when `op.bias`
    /// says so, `name.bias`.
    pub fn conv(&self, name: &str, x: Val<'g>, out: usize, kernel: &[usize], op: Conv) -> Val<'g> {
        let mut shape = vec![Dim::from(out), x.dim(1).floor_div(op.groups.max(1) as u64)];
        shape.extend(kernel.iter().map(|k| Dim::from(*k)));
        let w = self.param(&format!("{name}.weight"), shape);
        let b = op.bias.then(|| self.param(&format!("{name}.bias"), [out]));
        let ins: Vec<Val<'g>> = [x, w].into_iter().chain(b).collect();
        self.emit(op, &ins)
    }

    /// A recurrence whose f32 state of this shape is the resource `name` of this scope: `f` maps
    /// the state before the first token `[S, shape…]` to (result, state after the last token).
    pub fn recurrent(&self, name: &str, shape: impl Into<Shape>, seg: Val<'g>, f: impl FnOnce(Val<'g>) -> (Val<'g>, Val<'g>)) -> Val<'g> {
        let state = self.b.state(&self.join(name), Type::State(DType::F32, shape.into()));
        let (y, last) = f(self.emit(StateRead {}, &[state, seg]));
        self.b.update(state, self.emit(StateWrite {}, &[state, last, seg]));
        y
    }
}
