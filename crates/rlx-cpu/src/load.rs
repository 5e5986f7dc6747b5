//! Weights on their way into memory.

use crate::matmul::{Matmul, Mode};
use crate::memory::Buffer;
use crate::packed_file::{Entry, Partial, Table};
use crate::steps::{self, Kernels, ParamUse};
use crate::team::Team;
use crate::weights::{CpuWeights, Held, Kept, Packing, pieces};
use memmap2::Mmap;
use rlx_compile::backend::{Progress, stored_bytes};
use rlx_compile::{BackendError, WeightData, WeightSource};
use rlx_ir::{Graph, Type};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Which weights, from where, and how they are held.
pub(crate) struct Loading<'a> {
    pub graph: &'a Graph,
    pub source: &'a dyn WeightSource,
    pub kernels: Kernels,
    pub eager: bool,
    pub meter: Meter<'a>,
}

/// Counts bytes of weights as they are stored.
pub(crate) struct Meter<'a> {
    progress: Progress<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Meter<'a> {
    pub fn new(graph: &Graph, progress: Progress<'a>) -> Result<Meter<'a>, BackendError> {
        let total = (0..graph.params.len()).map(|i| stored_bytes(graph, i)).sum::<Result<u64, _>>()?;
        Ok(Meter { progress, done: AtomicU64::new(0), total })
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(done.min(self.total), self.total);
    }

    fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
        self.add(0);
    }

    fn get(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Loading<'_> {
    /// Loads every parameter.
    pub fn run(self, team: &mut Team) -> Result<CpuWeights, BackendError> {
        let g = self.graph;
        let uses: Vec<ParamUse> = (0..g.params.len()).map(|i| steps::param_use(g, i, self.kernels)).collect();
        let mut w = CpuWeights::default();
        let kept = self.kept(&uses, team, &mut w.notes)?;
        self.meter.set(0);
        for (i, (p, param_use)) in g.params.iter().zip(uses).enumerate() {
            let (before, want) = (self.meter.get(), stored_bytes(g, i)?);
            let at = kept.as_ref().and_then(|(table, map)| Some((map, table.place(i)?)));
            let held = match (at, param_use) {
                (Some((map, at)), ParamUse::Matrices(count, m)) => {
                    w.mapped += (count * m.bytes()) as u64;
                    Held::Kept(Kept { map: Arc::clone(map), at })
                }
                (_, param_use) => self.hold(i, param_use, team, &mut w)?,
            };
            self.meter.set(before + want);
            w.params.push((p.name.clone(), held));
        }
        Ok(w)
    }

    /// A parameter as its uses want it.
    fn hold(&self, i: usize, param_use: ParamUse, team: &mut Team, w: &mut CpuWeights) -> Result<Held, BackendError> {
        let data = self.fetch(i)?;
        let bytes = data.bytes.bytes();
        Ok(match param_use {
            ParamUse::Widened(ty, n) => {
                let own = Buffer::zeroed(4 * n);
                // SAFETY: the buffer is aligned and holds n floats, and nobody else has it yet.
                let wide = unsafe { std::slice::from_raw_parts_mut(own.ptr().cast::<f32>(), n) };
                Matmul::new(ty, Mode::Exact, self.kernels.level, 1, n).unpack_row(bytes, 0, wide);
                w.held += own.len() as u64;
                Held::Own(own)
            }
            ParamUse::Matrices(count, m) if !m.is_raw() => {
                let packed = (count * m.bytes()) as u64;
                w.held += packed;
                let packing = Packing::new(m, count, data.bytes.clone());
                // Memory that only this copy keeps alive is freed by packing.
                if self.eager || !data.bytes.is_mapped() {
                    let want = bytes.len() as u64;
                    Held::Own(packing.finish(team, &|n| self.meter.add(n * want / packed.max(1))))
                } else {
                    w.later += packed;
                    Held::Packing(packing)
                }
            }
            _ if (bytes.as_ptr() as usize).is_multiple_of(data.dtype.size().unwrap_or(2)) => {
                w.mapped += bytes.len() as u64;
                Held::Mapped(data.bytes.clone())
            }
            // Storage that starts at an odd address cannot be read in place.
            _ => {
                let mut own = Buffer::zeroed(bytes.len());
                own.bytes_mut().copy_from_slice(bytes);
                data.bytes.release(0..bytes.len());
                w.held += bytes.len() as u64;
                Held::Own(own)
            }
        })
    }

    /// A weight from the source, which has to be what the graph says.
    fn fetch(&self, i: usize) -> Result<WeightData, BackendError> {
        let p = &self.graph.params[i];
        let bad = |why: String| BackendError::Weight { name: p.name.to_string(), why };
        let data = self.source.weight(&p.name).map_err(bad)?;
        let ty = Type::tensor(data.dtype, data.shape.iter().map(|d| (*d).into()).collect::<Vec<_>>());
        let (found, want) = (data.bytes.bytes().len() as u64, stored_bytes(self.graph, i)?);
        if ty != *self.graph.ty(p.value) || found != want {
            return Err(bad(format!("is {ty} of {found} bytes, the model takes {} of {want}", self.graph.ty(p.value))));
        }
        Ok(data)
    }

    /// The file of packed weights, where one is wanted: the one that is there, or a new one.  What keeps it from being
    /// used goes into `notes`; without it weights are packed in memory.
    fn kept(&self, uses: &[ParamUse], team: &mut Team, notes: &mut Vec<String>) -> Result<Option<(Table, Arc<Mmap>)>, BackendError> {
        let Some(cache) = self.source.packed_cache() else { return Ok(None) };
        let g = self.graph;
        let entry = |(i, u): (usize, &ParamUse)| match u {
            ParamUse::Matrices(count, m) if !m.is_raw() => {
                let what = format!("{} {}", g.params[i].name, g.ty(g.params[i].value));
                Some(Entry { param: i, what, count: *count, each: m.clone() })
            }
            _ => None,
        };
        let table = Table::new(cache, self.kernels.level, uses.iter().enumerate().filter_map(entry).collect());
        if table.entries.is_empty() {
            notes.push("no packed cache: this model has no weights that are packed under this profile".into());
            return Ok(None);
        }
        let name = table.path.display().to_string();
        match table.open() {
            Ok(Some(map)) => return Ok(Some((table, Arc::new(map)))),
            Ok(None) => {}
            Err(why) => notes.push(format!("packed cache {name} {why}; it is written anew")),
        }
        match self.write(&table, team)? {
            Ok(map) => Ok(Some((table, Arc::new(map)))),
            Err(e) => {
                notes.push(format!("packed cache {name} cannot be written: {e}; going on without"));
                Ok(None)
            }
        }
    }

    /// Packs the weights of `table` into a new file.  The outer error is the source's.
    fn write(&self, table: &Table, team: &mut Team) -> Result<io::Result<Mmap>, BackendError> {
        let partial = match table.create() {
            Ok(partial) => partial,
            Err(e) => return Ok(Err(e)),
        };
        for (n, entry) in table.entries.iter().enumerate() {
            let data = self.fetch(entry.param)?;
            if let Err(e) = self.write_one(entry, &data, &partial, partial.place(n), team) {
                return Ok(Err(e));
            }
        }
        Ok(partial.finish())
    }

    fn write_one(&self, entry: &Entry, data: &WeightData, to: &Partial<'_>, at: u64, team: &mut Team) -> io::Result<()> {
        let (each, size, src) = (&entry.each, entry.each.group_bytes(), data.bytes.bytes());
        let (stored, packed) = (src.len() / entry.count.max(1), (entry.count * each.bytes()) as u64);
        let failed = Mutex::new(None);
        let is_ok = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        pieces(team, each, 0..entry.count * each.n_groups(), &|matrix, groups, first| {
            if !is_ok() {
                return;
            }
            let mut out = vec![0; groups.len() * size];
            each.pack(&src[matrix * stored..(matrix + 1) * stored], groups.clone(), &mut out);
            if let Err(e) = to.write(at + (first * size) as u64, &out) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
            let rows = each.stored_range(groups);
            data.bytes.release(matrix * stored + rows.start..matrix * stored + rows.end);
            self.meter.add(out.len() as u64 * src.len() as u64 / packed.max(1));
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
