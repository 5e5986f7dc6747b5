//! Weights of a checkpoint as a device asks for them.

use rlx_compile::backend::Bytes;
use rlx_compile::{PackedCache, WeightData, WeightSource};
use rlx_core::weights::{TensorData, WeightMap};
use rlx_ir::DType;
use std::ops::Range;
use std::sync::Arc;

/// A checkpoint's weights by checkpoint name, optionally with block formats dequantised to f32.
pub(crate) struct Source {
    pub weights: WeightMap,
    pub unpack: bool,
    /// Where a device may keep them packed.
    pub cache: Option<PackedCache>,
}

/// The type a weight has in the graph when block formats are dequantised at load.
pub(crate) fn unpacked(d: DType) -> DType {
    if d.is_block() { DType::F32 } else { d }
}

struct Tensor(TensorData);

impl Bytes for Tensor {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn is_mapped(&self) -> bool {
        self.0.is_mapped()
    }
    fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

impl WeightSource for Source {
    fn packed_cache(&self) -> Option<&PackedCache> {
        self.cache.as_ref()
    }

    fn weight(&self, name: &str) -> Result<WeightData, String> {
        let view = self.weights.get(name).map_err(|e| e.to_string())?;
        let shape = view.shape.to_vec();
        match view.dtype {
            DType::Block(b) if self.unpack => {
                let mut wide = vec![0f32; shape.iter().product()];
                b.dequantize(view.bytes(), &mut wide).map_err(|e| e.to_string())?;
                let bytes: Vec<u8> = wide.iter().flat_map(|v| v.to_le_bytes()).collect();
                Ok(WeightData { dtype: DType::F32, shape, bytes: Arc::new(bytes) })
            }
            dtype => Ok(WeightData { dtype, shape, bytes: Arc::new(Tensor(view.data.clone())) }),
        }
    }
}
