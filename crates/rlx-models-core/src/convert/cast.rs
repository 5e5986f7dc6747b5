//! Elements of one type as elements of another, a run at a time.

use super::ConvertError;
use rlx_gguf::BlockFormat;
use rlx_ir::DType;

/// Elements converted at once; whole blocks of every format.
const RUN: usize = 1 << 16;

/// Converts elements from one type to another through f32, which holds every value of the 16-bit and 8-bit floats
/// and of the block formats exactly.
#[derive(Clone, Copy, Debug)]
pub struct Caster {
    from: DType,
    to: DType,
}

impl Caster {
    /// From one type to another: floats and block formats.
    ///
    /// # Errors
    /// [`ConvertError::Cast`] for integers (unless the types are the same), f64 to anything narrower than f32, and
    /// block formats that have no quantiser.
    pub fn new(from: DType, to: DType) -> Result<Caster, ConvertError> {
        let refuse = |why: &str| Err(ConvertError::Cast { from, to, why: why.into() });
        if from == to {
            return Ok(Caster { from, to });
        }
        match (from, to) {
            (DType::F32 | DType::F16 | DType::BF16 | DType::F64 | DType::Block(_), DType::F32 | DType::F16 | DType::BF16) => {}
            (DType::F32 | DType::F16 | DType::BF16 | DType::Block(_), DType::Block(b)) if b.has_quantizer() => {}
            (_, DType::Block(_)) => return refuse("there is no quantiser between them"),
            _ => return refuse("expected floating-point types"),
        }
        Ok(Caster { from, to })
    }

    /// Bytes of `elements` elements of a row after conversion; `None` for partial blocks.
    pub fn bytes(&self, elements: usize) -> Option<usize> {
        self.to.row_bytes(elements)
    }

    /// Converts a tensor with rows of `columns` elements, handing out the bytes a piece at a time.
    ///
    /// # Errors
    /// Those of `write`, and bytes that are no whole rows.
    pub fn run(&self, data: &[u8], columns: usize, write: &mut dyn FnMut(&[u8]) -> Result<(), ConvertError>) -> Result<(), ConvertError> {
        if self.from == self.to {
            return data.chunks(RUN * 4).try_for_each(write);
        }
        let why = |why: &str| ConvertError::Cast { from: self.from, to: self.to, why: why.into() };
        let row = self.from.row_bytes(columns).filter(|n| *n > 0).ok_or_else(|| why("rows are no whole blocks"))?;
        if !data.len().is_multiple_of(row) || self.to.row_bytes(columns).is_none() {
            return Err(why("rows are no whole blocks"));
        }
        // Runs are whole rows where rows are short, and whole blocks of both formats where they are long.
        let rows = (RUN / columns.max(1)).max(1);
        let (mut values, mut out) = (vec![], vec![]);
        for chunk in data.chunks(rows.saturating_mul(row)) {
            values.clear();
            values.resize(chunk.len() / row * columns, 0.0f32);
            self.decode(chunk, &mut values).map_err(|e| why(&e))?;
            out.clear();
            self.encode(&values, &mut out).map_err(|e| why(&e))?;
            write(&out)?;
        }
        Ok(())
    }

    /// Whether every value survives being stored in the target type and back.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn is_exact(&self, data: &[u8], columns: usize) -> Result<bool, ConvertError> {
        let back = Caster { from: self.to, to: DType::F32 };
        let (there, mut values, mut narrow) = (Caster { from: self.from, to: DType::F32 }, vec![], vec![]);
        there.run(data, columns, &mut |b| {
            values.extend_from_slice(b);
            Ok(())
        })?;
        self.run(data, columns, &mut |b| {
            narrow.extend_from_slice(b);
            Ok(())
        })?;
        let mut again = vec![];
        back.run(&narrow, columns, &mut |b| {
            again.extend_from_slice(b);
            Ok(())
        })?;
        Ok(values == again)
    }

    fn decode(&self, src: &[u8], dst: &mut [f32]) -> Result<(), String> {
        fn each<const N: usize>(src: &[u8], dst: &mut [f32], f: impl Fn([u8; N]) -> f32) {
            src.as_chunks::<N>().0.iter().zip(dst).for_each(|(b, y)| *y = f(*b));
        }
        match self.from {
            DType::F64 => each(src, dst, |b| f64::from_le_bytes(b) as f32),
            DType::F32 => each(src, dst, f32::from_le_bytes),
            DType::F16 => each(src, dst, |b| half::f16::from_le_bytes(b).to_f32()),
            DType::BF16 => each(src, dst, |b| half::bf16::from_le_bytes(b).to_f32()),
            DType::Block(b) => b.dequantize(src, dst).map_err(|e| e.to_string())?,
            other => return Err(format!("{other} is no floating-point type")),
        }
        Ok(())
    }

    fn encode(&self, src: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
        match self.to {
            DType::F32 => src.iter().for_each(|v| out.extend(v.to_le_bytes())),
            DType::F16 => src.iter().for_each(|v| out.extend(half::f16::from_f32(*v).to_le_bytes())),
            DType::BF16 => src.iter().for_each(|v| out.extend(half::bf16::from_f32(*v).to_le_bytes())),
            DType::Block(b) => quantize(b, src, out)?,
            other => return Err(format!("{other} is no floating-point type")),
        }
        Ok(())
    }
}

fn quantize(format: BlockFormat, src: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
    let bytes = format.row_bytes(src.len()).ok_or_else(|| format!("{} elements are no whole blocks of {format}", src.len()))?;
    let at = out.len();
    out.resize(at + bytes, 0);
    format.quantize(src, out.get_mut(at..).unwrap_or_default()).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn cast(from: DType, to: DType, data: &[u8], columns: usize) -> Vec<u8> {
        let mut out = vec![];
        let c = Caster::new(from, to).unwrap();
        c.run(data, columns, &mut |b| {
            out.extend_from_slice(b);
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn narrow_floats_survive_the_way_through_f32() {
        for t in [DType::F16, DType::BF16] {
            // Every finite pattern, in rows that do not divide the run.
            let finite =
                |v: &u16| if t == DType::F16 { half::f16::from_bits(*v).is_finite() } else { half::bf16::from_bits(*v).is_finite() };
            let bits: Vec<u8> = (0..=u16::MAX).filter(finite).flat_map(u16::to_le_bytes).collect();
            let columns = bits.len() / 2;
            let wide = cast(t, DType::F32, &bits, columns);
            assert_eq!(cast(DType::F32, t, &wide, columns), bits, "{t}");
            assert!(Caster::new(DType::F32, t).unwrap().is_exact(&wide, columns).unwrap());
        }
        let third = (1.0f32 / 3.0).to_le_bytes();
        assert!(!Caster::new(DType::F32, DType::BF16).unwrap().is_exact(&third, 1).unwrap());
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert!(Caster::new(DType::I32, DType::F32).is_err());
        assert!(Caster::new(DType::I32, DType::I32).is_ok());
        let partial = Caster::new(DType::F32, DType::Block(BlockFormat::Q8_0)).unwrap();
        assert!(partial.run(&[0; 40 * 4], 40, &mut |_| Ok(())).is_err());
        assert!(partial.run(&[0; 64 * 4], 32, &mut |_| Ok(())).is_ok());
    }
}
