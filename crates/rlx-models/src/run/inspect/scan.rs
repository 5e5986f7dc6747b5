//! `--scan`: every value of every tensor is looked at.

use super::page::{Page, count};
use crate::run::check::one_line;
use rlx_cli::term::{Notes, human_bytes};
use rlx_core::weights::{Checkpoint, TensorMeta};
use rlx_gguf::BlockFormat;
use rlx_ir::DType;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes a thread looks at before it gives their pages back: what it holds of a mapped file.
const PIECE: usize = 4 << 20;
/// Elements of a block format dequantised at once.
const RUN: usize = 1 << 12;
/// Most tensors listed in text; JSON has them all.
const LISTED: usize = 64;

/// What the values of a tensor are.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Values {
    seen: u64,
    nan: u64,
    inf: u64,
    /// The first NaN or Inf, counted in elements.
    first: Option<u64>,
    /// Something is not zero.
    any: bool,
}

impl Values {
    /// Takes one value that is not finite.
    fn odd(&mut self, nan: bool, at: u64) {
        *(if nan { &mut self.nan } else { &mut self.inf }) += 1;
        self.first.get_or_insert(at);
    }

    /// Elements of `N` bytes: which bits are all set in NaN and Inf, which of the rest tell NaN, which is the sign.
    fn floats<const N: usize>(&mut self, data: &[u8], exponent: u64, mantissa: u64, sign: u64) {
        let read = |b: &[u8; N]| b.iter().rev().fold(0u64, |v, b| (v << 8) | u64::from(*b));
        let elements = data.as_chunks::<N>().0;
        let (mut odd, mut any) = (0usize, 0u64);
        for b in elements {
            let v = read(b);
            odd += usize::from(v & exponent == exponent);
            any |= v & !sign;
        }
        if odd > 0 {
            for (i, v) in elements.iter().map(read).enumerate().filter(|(_, v)| v & exponent == exponent) {
                self.odd(v & mantissa != 0, self.seen + i as u64);
            }
        }
        self.any |= any != 0;
        self.seen += elements.len() as u64;
    }

    fn blocks(&mut self, data: &[u8], format: BlockFormat, buffer: &mut Vec<f32>) -> Result<(), String> {
        let blocks = (RUN / format.block_len()).max(1);
        for run in data.chunks(blocks * format.block_bytes()) {
            buffer.resize(run.len() / format.block_bytes() * format.block_len(), 0.0);
            format.dequantize(run, buffer).map_err(|e| e.to_string())?;
            for (i, v) in buffer.iter().enumerate().filter(|(_, v)| !v.is_finite()) {
                self.odd(v.is_nan(), self.seen + i as u64);
            }
            self.any |= buffer.iter().any(|v| *v != 0.0);
            self.seen += buffer.len() as u64;
        }
        Ok(())
    }

    fn take(&mut self, data: &[u8], dtype: DType, buffer: &mut Vec<f32>) -> Result<(), String> {
        match dtype {
            DType::F64 => self.floats::<8>(data, 0x7ff << 52, (1 << 52) - 1, 1 << 63),
            DType::F32 => self.floats::<4>(data, 0xff << 23, (1 << 23) - 1, 1 << 31),
            DType::F16 => self.floats::<2>(data, 0x7c00, 0x3ff, 0x8000),
            DType::BF16 => self.floats::<2>(data, 0x7f80, 0x7f, 0x8000),
            DType::F8E5M2 => self.floats::<1>(data, 0x7c, 0x03, 0x80),
            // One NaN of either sign and no Inf.
            DType::F8E4M3 => self.floats::<1>(data, 0x7f, 0x7f, 0x80),
            DType::Block(format) => self.blocks(data, format, buffer)?,
            whole => {
                self.any |= data.iter().any(|b| *b != 0);
                self.seen += (data.len() / whole.size().unwrap_or(1)) as u64;
            }
        }
        Ok(())
    }
}

/// A tensor with something to tell.
struct Finding {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    values: Values,
}

impl Finding {
    fn is_bad(&self) -> bool {
        self.values.nan + self.values.inf > 0
    }

    /// The place of the first odd value, outermost dimension first.
    fn at(&self) -> Option<Vec<u64>> {
        let mut rest = self.values.first?;
        let mut at: Vec<u64> = self
            .shape
            .iter()
            .rev()
            .map(|d| {
                let d = (*d as u64).max(1);
                let here = rest % d;
                rest /= d;
                here
            })
            .collect();
        at.reverse();
        Some(at)
    }
}

/// What was found.
pub(super) struct Scan {
    tensors: usize,
    bytes: u64,
    findings: Vec<Finding>,
    /// Tensors that could not be read, and why.
    unread: Vec<(String, String)>,
}

impl Scan {
    /// Looks at every tensor, several at a time, in the order of the file.
    pub fn of(c: &Checkpoint, threads: Option<usize>, notes: Notes) -> Scan {
        let mut order: Vec<&TensorMeta> = c.tensors().collect();
        order.sort_by_key(|t| (t.file, t.offset));
        let all: u64 = order.iter().fold(0, |n, t| n.saturating_add(t.bytes));
        let (bar, next, done) = (notes.bytes_bar("scanning"), AtomicUsize::new(0), AtomicU64::new(0));
        let found = Mutex::new(Scan { tensors: order.len(), bytes: 0, findings: vec![], unread: vec![] });
        let work = || {
            let mut buffer = vec![];
            while let Some(t) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut tell = |n: usize| bar.at(done.fetch_add(n as u64, Ordering::Relaxed) + n as u64, all);
                let values = scan(c, t, &mut buffer, &mut tell);
                found.lock().unwrap_or_else(PoisonError::into_inner).take(t, values);
            }
        };
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|s| {
            for _ in 1..threads.unwrap_or(most).clamp(1, 64).min(order.len()) {
                s.spawn(work);
            }
            work();
        });
        bar.clear();
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.findings.sort_by(|a, b| a.name.cmp(&b.name));
        found.unread.sort();
        found
    }

    fn take(&mut self, t: &TensorMeta, values: Result<Values, String>) {
        match values {
            Err(why) => self.unread.push((t.name.clone(), why)),
            Ok(values) => {
                self.bytes += t.bytes;
                if values.first.is_some() || (values.seen > 0 && !values.any) {
                    let (name, dtype, shape) = (t.name.clone(), t.stored.to_string(), t.shape.clone());
                    self.findings.push(Finding { name, dtype, shape, values });
                }
            }
        }
    }

    /// Tensors with NaN or Inf were found.
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(Finding::is_bad)
    }

    pub fn json(&self) -> Value {
        let of = |bad: bool| self.findings.iter().filter(move |f| f.is_bad() == bad);
        let odd = |f: &Finding| {
            json!({ "name": f.name, "type": f.dtype, "shape": f.shape, "nan": f.values.nan, "inf": f.values.inf,
                "elements": f.values.seen, "first": f.values.first, "at": f.at() })
        };
        let zero = |f: &Finding| json!({ "name": f.name, "type": f.dtype, "shape": f.shape, "elements": f.values.seen });
        let unread = |(name, why): &(String, String)| json!({ "name": name, "error": why });
        json!({
            "tensors": self.tensors,
            "bytes": self.bytes,
            "not_finite": of(true).map(odd).collect::<Vec<_>>(),
            "all_zero": of(false).map(zero).collect::<Vec<_>>(),
            "unread": self.unread.iter().map(unread).collect::<Vec<_>>(),
        })
    }

    pub fn text(&self, page: &mut Page) {
        page.section(&format!("scan of {}, {}", count(self.tensors, "tensor"), human_bytes(self.bytes)));
        let (bad, zero): (Vec<&Finding>, Vec<&Finding>) = self.findings.iter().partition(|f| f.is_bad());
        if bad.is_empty() && zero.is_empty() && self.unread.is_empty() {
            return page.line("clean", "no NaN, no Inf, no tensor of zeros alone");
        }
        let head = |page: &mut Page, name: &str, n: usize| page.line(name, &count(n, "tensor"));
        if !bad.is_empty() {
            head(page, "NaN or Inf", bad.len());
        }
        for f in bad.iter().take(LISTED) {
            let v = &f.values;
            let at = f.at().unwrap_or_default();
            page.raw(&format!("    {}  {} {:?}", one_line(&f.name), f.dtype, f.shape));
            page.raw(&format!("      {} NaN, {} Inf of {} values, first at {at:?}", v.nan, v.inf, v.seen));
        }
        if !zero.is_empty() {
            head(page, "all zero", zero.len());
        }
        for f in zero.iter().take(LISTED) {
            page.raw(&format!("    {}  {} {:?}", one_line(&f.name), f.dtype, f.shape));
        }
        if !self.unread.is_empty() {
            head(page, "not read", self.unread.len());
        }
        for (name, why) in self.unread.iter().take(LISTED) {
            page.raw(&format!("    {}: {}", one_line(name), one_line(why)));
        }
        let left = [bad.len(), zero.len(), self.unread.len()].map(|n| n.saturating_sub(LISTED)).iter().sum::<usize>();
        if left > 0 {
            page.line("", &format!("and {left} more, which --json lists"));
        }
    }
}

/// The values of one tensor; the file's pages are given back as it goes.
fn scan(c: &Checkpoint, t: &TensorMeta, buffer: &mut Vec<f32>, tell: &mut dyn FnMut(usize)) -> Result<Values, String> {
    let view = c.view(t).map_err(|e| e.to_string())?;
    let unit = match view.dtype {
        DType::Block(b) => b.block_bytes(),
        plain => plain.size().unwrap_or(1),
    };
    let piece = (PIECE / unit).max(1) * unit;
    let (mut values, mut at) = (Values::default(), 0);
    for part in view.bytes().chunks(piece) {
        values.take(part, view.dtype, buffer)?;
        view.data.release(at..at + part.len());
        at += part.len();
        tell(part.len());
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlx_bounds::{Counting, bounded};
    use rlx_core::weights::{LoadOpts, open_with};
    use rlx_gguf::{GgufWriter, TensorType};

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    /// Opens a file and scans it with one thread, which is the one that is measured.
    fn scanned(writer: &GgufWriter<'_>) -> (Value, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, bytes) = (dir.path().join("m.gguf"), writer.to_bytes());
        std::fs::write(&file, &bytes).expect("written");
        bounded(bytes.len(), || {
            let checkpoint = open_with(LoadOpts::map(), &file).expect("opens");
            let scan = Scan::of(&checkpoint, Some(1), Notes::new(true));
            let mut page = Page::default();
            scan.text(&mut page);
            (scan.json(), page.finish())
        })
    }

    #[test]
    fn weights_18_scanning_stays_within_the_bounds() {
        let with = |norm: f32, scale: u16| {
            let q8 = TensorType::Block(BlockFormat::Q8_0);
            let blocks: Vec<u8> = (0..512).flat_map(|_| [&scale.to_le_bytes()[..], &[1; 32]].concat()).collect();
            let mut w = GgufWriter::new();
            w.tensor("norm", TensorType::F32, &[64], [norm.to_le_bytes(); 64].concat()).expect("fits");
            w.tensor("w", q8, &[512, 32], blocks).expect("fits");
            scanned(&w)
        };
        let clean = with(1.0, 0x3c00);
        assert_eq!((&clean.0["not_finite"], &clean.0["all_zero"]), (&json!([]), &json!([])));
        assert!(clean.1.contains("clean"), "{}", clean.1);
        let nan = with(f32::NAN, 0x7e00);
        assert_eq!((&nan.0["not_finite"][0]["nan"], &nan.0["not_finite"][1]["nan"]), (&64.into(), &(512 * 32).into()));
        let inf = with(f32::INFINITY, 0x7c00);
        assert_eq!((&inf.0["not_finite"][0]["inf"], &inf.0["not_finite"][1]["inf"]), (&64.into(), &(512 * 32).into()));
        let zero = with(-0.0, 0);
        assert_eq!((zero.0["all_zero"][0]["name"].as_str(), zero.0["all_zero"][1]["name"].as_str()), (Some("norm"), Some("w")));
        assert!(zero.1.contains("all zero    2 tensors"), "{}", zero.1);
    }

    fn of(dtype: DType, data: &[u8]) -> Values {
        let mut v = Values::default();
        v.take(data, dtype, &mut vec![]).expect("whole elements");
        v
    }

    #[test]
    fn nan_and_inf_are_told_apart_in_every_float_type() {
        let odd = |nan, inf, first| Values { seen: 4, nan, inf, first: Some(first), any: true };
        let f32s: Vec<u8> = [0.0, f32::NAN, f32::NEG_INFINITY, f32::MAX].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        assert_eq!(of(DType::F32, &f32s), odd(1, 1, 1));
        let f64s: Vec<u8> = [1e300, 0.0, -f64::NAN, f64::INFINITY].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        assert_eq!(of(DType::F64, &f64s), odd(1, 1, 2));
        let words = |w: [u16; 4]| w.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(of(DType::F16, &words([0x7bff, 0x7c00, 0xfe00, 0x0001])), odd(1, 1, 1));
        assert_eq!(of(DType::BF16, &words([0x7f7f, 0xff80, 0x7fc0, 0x8000])), odd(1, 1, 1));
        assert_eq!(of(DType::F8E4M3, &[0x7e, 0xff, 0x7f, 0x00]), odd(2, 0, 1));
        assert_eq!(of(DType::F8E5M2, &[0x7b, 0x7c, 0xfd, 0x00]), odd(1, 1, 1));
        assert_eq!(of(DType::I32, &[0xff; 8]), Values { seen: 2, any: true, ..Values::default() });
    }

    #[test]
    fn zeros_of_either_sign_are_zeros() {
        for (dtype, data) in [(DType::F32, vec![0, 0, 0, 0x80, 0, 0, 0, 0]), (DType::BF16, vec![0, 0x80]), (DType::I8, vec![0; 3])] {
            assert!(!of(dtype, &data).any, "{dtype}");
        }
        assert!(of(DType::F32, &[1, 0, 0, 0]).any, "a denormal is not zero");
    }

    #[test]
    fn a_scale_that_is_not_finite_is_found_in_its_block() {
        let format = BlockFormat::from_name("Q8_0").expect("known");
        let mut data = vec![1u8; format.block_bytes() * 3];
        for block in data.chunks_mut(format.block_bytes()) {
            block[..2].copy_from_slice(&0x3c00u16.to_le_bytes());
        }
        assert_eq!(of(DType::Block(format), &data).first, None);
        data[format.block_bytes() * 2..][..2].copy_from_slice(&0x7c00u16.to_le_bytes());
        let v = of(DType::Block(format), &data);
        assert_eq!((v.inf, v.nan, v.first, v.seen), (32, 0, Some(64), 96));
    }
}
