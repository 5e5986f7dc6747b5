//! Weights in memory: in place, copied, or packed for the kernels, at once or little by little.
//!
//! Packing a model takes as long as reading it several times, most of which the system spends on clearing fresh
//! memory. So matrices of a mapped file are not packed while loading: products pack the groups they multiply into
//! scratch memory as they go, which costs a prompt next to nothing, and each later run packs a share of the model for
//! good. The bits of results do not depend on how far that is.

use crate::matmul::{Matmul, Output};
use crate::memory::Buffer;
use crate::team::Team;
use memmap2::Mmap;
use rlx_compile::Weights;
use rlx_compile::backend::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Bytes that one thread packs before it takes the next piece.
const PIECE_BYTES: usize = 1 << 20;

/// Runs over which packing is spread: few, because a run with packed weights costs less by about as much as packing
/// a third of them costs; more than one, because nobody likes to wait for the second token either.
const RUNS: u64 = 4;

/// One parameter in memory.
pub(crate) enum Held {
    /// The source's bytes, in place.
    Mapped(Arc<dyn Bytes>),
    /// A copy, packed or not.
    Own(Buffer),
    /// Matrices of a mapped file, packed as far as time was.
    Packing(Packing),
    /// Packed matrices of a file of such.
    Kept(Kept),
}

/// Packed matrices in a mapped file.
pub(crate) struct Kept {
    pub map: Arc<Mmap>,
    /// Where they begin: inside the map.
    pub at: usize,
}

impl Held {
    /// First byte, as stored or packed.
    pub fn ptr(&self) -> *const u8 {
        match self {
            Held::Mapped(b) => b.bytes().as_ptr(),
            Held::Own(b) => b.ptr(),
            Held::Packing(p) => p.memory.ptr(),
            Held::Kept(k) => k.map[k.at..].as_ptr(),
        }
    }

    /// What is not packed yet of matrices.
    pub fn unpacked(&self) -> Option<Unpacked<'_>> {
        match self {
            Held::Packing(p) => p.unpacked(),
            _ => None,
        }
    }
}

/// Matrices of one shape on their way from a file to packed groups, front to back.
pub(crate) struct Packing {
    each: Matmul,
    count: usize,
    source: Arc<dyn Bytes>,
    memory: Buffer,
    /// Groups of all matrices that are packed, from the first on.
    ready: AtomicUsize,
}

impl Packing {
    pub fn new(each: Matmul, count: usize, source: Arc<dyn Bytes>) -> Packing {
        let memory = Buffer::zeroed(count * each.bytes());
        Packing { each, count, source, memory, ready: AtomicUsize::new(0) }
    }

    fn groups(&self) -> usize {
        self.count * self.each.n_groups()
    }

    fn unpacked(&self) -> Option<Unpacked<'_>> {
        let ready = self.ready.load(Ordering::Acquire);
        (ready < self.groups()).then(|| Unpacked { source: self.source.bytes(), ready })
    }

    /// Packs groups of at most `bytes` bytes in memory, but one at least, and returns the bytes packed. What has been
    /// packed is released at once, so that no matrix is ever held twice. The caller lets nobody else pack meanwhile.
    pub fn advance(&self, team: &mut Team, bytes: u64, done: &(dyn Fn(u64) + Sync)) -> u64 {
        let (each, size) = (&self.each, self.each.group_bytes().max(1));
        let start = self.ready.load(Ordering::Acquire);
        let count = usize::try_from(bytes / size as u64).unwrap_or(usize::MAX).max(1).min(self.groups() - start);
        let end = start + count;
        let (src, to) = (self.source.bytes(), AddressOf(self.memory.ptr()));
        let stored = src.len() / self.count.max(1);
        pieces(team, each, start..end, &|matrix, groups, first| {
            // SAFETY: pieces are disjoint and inside the memory; nobody reads groups that are not ready.
            let dst = unsafe { std::slice::from_raw_parts_mut(to.get().add(first * size), groups.len() * size) };
            each.pack(&src[matrix * stored..(matrix + 1) * stored], groups.clone(), dst);
            let rows = each.stored_range(groups);
            self.source.release(matrix * stored + rows.start..matrix * stored + rows.end);
            done(dst.len() as u64);
        });
        self.ready.store(end, Ordering::Release);
        (count * size) as u64
    }

    /// Packs everything and lets the source go.
    pub fn finish(self, team: &mut Team, done: &(dyn Fn(u64) + Sync)) -> Buffer {
        if self.unpacked().is_some() {
            self.advance(team, u64::MAX, done);
        }
        self.memory
    }
}

/// Hands out the groups `range` of matrices of one shape, counted through all of them, to the threads of a team: calls
/// `f` with a matrix, a few of its groups, and the number of the first of these among all.
pub(crate) fn pieces(team: &mut Team, each: &Matmul, range: Range<usize>, f: &(dyn Fn(usize, Range<usize>, usize) + Sync)) {
    let (end, piece) = (range.end, (PIECE_BYTES / each.group_bytes().max(1)).max(1));
    let next = AtomicUsize::new(range.start);
    team.run(&|_, _| {
        loop {
            let first = next.fetch_add(piece, Ordering::Relaxed);
            if first >= end {
                return;
            }
            // A piece may reach into the next matrix.
            let mut at = first;
            while at < (first + piece).min(end) {
                let (matrix, group) = (at / each.n_groups(), at % each.n_groups());
                let groups = group..(group + first + piece - at).min(group + end - at).min(each.n_groups());
                let n = groups.len();
                f(matrix, groups, at);
                at += n;
            }
        }
    });
}

#[derive(Clone, Copy)]
struct AddressOf(*mut u8);
// SAFETY: only disjoint ranges are written through it.
unsafe impl Sync for AddressOf {}
impl AddressOf {
    fn get(self) -> *mut u8 {
        self.0
    }
}

/// Matrices of one shape as a step reads them.
#[derive(Clone, Copy)]
pub(crate) struct Matrices<'a> {
    /// First byte, as stored (what kernels use in place) or packed.
    pub ptr: *const u8,
    pub unpacked: Option<Unpacked<'a>>,
}

/// What is not packed yet.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<'a> {
    /// All matrices as stored.
    source: &'a [u8],
    /// Groups of all matrices that are packed, from the first on.
    ready: usize,
}

impl Matrices<'_> {
    /// How many groups of matrix number `i` are packed, and the matrix as stored where some are not.
    fn split(&self, each: &Matmul, i: usize) -> (usize, &[u8]) {
        let all = each.n_groups();
        match self.unpacked {
            None => (all, &[]),
            Some(u) => {
                let stored = each.n() * each.weight_type().row_bytes(each.k());
                (u.ready.saturating_sub(i * all).min(all), &u.source[i * stored..(i + 1) * stored])
            }
        }
    }

    /// [`Matmul::run`] with matrix number `i`. `room` has [`Matmul::room_bytes`] bytes.
    ///
    /// # Safety
    /// As there; and the memory holds the matrices of this shape, ready for reading.
    #[expect(clippy::too_many_arguments, reason = "a product's operands")]
    pub unsafe fn multiply(
        &self,
        each: &Matmul,
        i: usize,
        x: &[f32],
        act: &[u8],
        m: usize,
        groups: Range<usize>,
        y: Output,
        room: &mut [u8],
    ) {
        let (ready, stored) = self.split(each, i);
        let middle = ready.clamp(groups.start, groups.end);
        // SAFETY: the caller's promise.
        unsafe {
            if middle > groups.start {
                let data = std::slice::from_raw_parts(self.ptr.add(i * each.bytes()), each.bytes());
                each.run(data, x, act, m, groups.start..middle, y);
            }
            if middle < groups.end {
                each.run_stored(stored, act, m, middle..groups.end, y, room);
            }
        }
    }

    /// [`Matmul::unpack_row`] of the first matrix.
    ///
    /// # Safety
    /// The memory holds a matrix of this shape, ready for reading.
    pub unsafe fn row(&self, each: &Matmul, row: usize, out: &mut [f32]) {
        let (ready, stored) = self.split(each, 0);
        if row / each.group_rows() < ready {
            // SAFETY: the caller's promise.
            let data = unsafe { std::slice::from_raw_parts(self.ptr, each.bytes()) };
            each.unpack_row(data, row, out);
        } else {
            each.widen_row(stored, row, out);
        }
    }
}

/// The weights of a model.
#[derive(Default)]
pub(crate) struct CpuWeights {
    pub params: Vec<(Arc<str>, Held)>,
    pub held: u64,
    pub mapped: u64,
    /// Bytes that are packed while the model is in use.
    pub later: u64,
    pub notes: Vec<String>,
    /// Whether a program has run.
    used: AtomicBool,
    /// Parameters that need no more packing, from the first on. Programs hold it while they run, packing changes it.
    done: RwLock<usize>,
}

impl CpuWeights {
    /// What a program holds while it runs. Before that, a share of the weights is packed: not for the first run, whose
    /// result somebody waits for, nor while another program runs.
    pub fn use_in_run(&self, team: &mut Team) -> RwLockReadGuard<'_, usize> {
        if self.later > 0 && self.used.swap(true, Ordering::Relaxed) {
            self.pack_share(team);
        }
        self.done.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack_share(&self, team: &mut Team) {
        let Ok(mut done) = self.done.try_write() else { return };
        let mut left = self.later.div_ceil(RUNS);
        while let Some((_, held)) = self.params.get(*done) {
            match held {
                Held::Packing(p) if p.unpacked().is_some() => {
                    if left == 0 {
                        return;
                    }
                    left = left.saturating_sub(p.advance(team, left, &|_| {}));
                }
                _ => *done += 1,
            }
        }
    }
}

impl Weights for CpuWeights {
    fn held_bytes(&self) -> u64 {
        self.held
    }
    fn mapped_bytes(&self) -> u64 {
        self.mapped
    }
    fn notes(&self) -> &[String] {
        &self.notes
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{Mode, WeightType};
    use crate::simd::Level;
    use rlx_gguf::blocks::BlockFormat;
    use std::sync::Mutex;

    struct View(Vec<u8>, Mutex<Vec<Range<usize>>>);

    impl Bytes for View {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn is_mapped(&self) -> bool {
            true
        }
        fn release(&self, range: Range<usize>) {
            self.1.lock().unwrap().push(range);
        }
    }

    #[test]
    fn packing_goes_on_by_shares_and_releases_each_byte_once() {
        let (n, k, count) = (100, 256, 3);
        let each = Matmul::new(WeightType::Block(BlockFormat::Q8_0), Mode::Fast, Level::detect(), n, k);
        let stored = n * each.weight_type().row_bytes(k);
        let source = Arc::new(View((0..count * stored).map(|i| (i * 7 + i / 100) as u8).collect(), Mutex::default()));
        let whole: Vec<u8> = (0..count)
            .flat_map(|i| {
                let mut one = vec![0; each.bytes()];
                each.pack(&source.0[i * stored..(i + 1) * stored], 0..each.n_groups(), &mut one);
                one
            })
            .collect();
        let mut team = Team::new(2).unwrap();
        let w = CpuWeights {
            params: vec![("w".into(), Held::Packing(Packing::new(each.clone(), count, source.clone())))],
            later: (count * each.bytes()) as u64,
            ..CpuWeights::default()
        };
        let mut ready = vec![];
        for _ in 0..=RUNS {
            drop(w.use_in_run(&mut team));
            ready.push(w.params[0].1.unpacked().map_or(count * each.n_groups(), |u| u.ready));
        }
        assert_eq!(ready[0], 0, "the first run packs nothing");
        assert!(ready.is_sorted() && ready[1] > 0 && ready[2] < count * each.n_groups(), "{ready:?}");
        assert_eq!(ready.last(), Some(&(count * each.n_groups())));
        let Held::Packing(p) = &w.params[0].1 else { unreachable!("it was made above") };
        assert!(p.memory.bytes() == whole);
        let mut released = source.1.lock().unwrap().clone();
        released.sort_by_key(|r| r.start);
        assert!(released.windows(2).all(|w| w[0].end == w[1].start), "{released:?}");
        assert_eq!(released.iter().map(Range::len).sum::<usize>(), source.0.len());
    }
}
