//! What a checkpoint's files are, in a few lines that change when the files do.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{Checkpoint, Mapping, WeightFormat, WeightsError, map};
use std::time::UNIX_EPOCH;

/// Headers are summed up to here; those of released files are smaller.
const MAX_HEADER: usize = 32 << 20;

/// How much of the rest is summed: so many samples of so many bytes, evenly apart, and the end.
const SAMPLES: usize = 64;
const SAMPLE_BYTES: usize = 4096;

/// Most bytes of a `config.json`.
const MAX_CONFIG: u64 = 16 << 20;

impl Checkpoint {
    /// A line for each file of the checkpoint: its name, its size, when it was changed, and a sum over its header and
    /// samples of the rest.  Beside weights that is `config.json`, where settings are in one.
    ///
    /// Files that were edited, replaced or written anew give other lines; files that were moved with their directory
    /// give the same.  It is cheap, and no defence against somebody who wants two checkpoints to look alike.
    ///
    /// # Errors
    /// [`WeightsError::Io`], and [`WeightsError::Shrunk`] when a file became shorter since it was opened.
    pub fn fingerprint(&self) -> Result<Vec<String>, WeightsError> {
        let mut lines = Vec::new();
        for (i, file) in self.maps.iter().enumerate() {
            file.check_length()?;
            let header = self.tensors.iter().filter(|t| t.file as usize == i).map(|t| t.offset).min();
            let header = header.and_then(|n| usize::try_from(n).ok()).unwrap_or(MAX_HEADER).min(MAX_HEADER);
            lines.push(line(file, header)?);
        }
        let config = self.dir().join("config.json");
        if self.format != WeightFormat::Gguf && config.is_file() {
            let bytes = map::read_small(&config, MAX_CONFIG)?;
            let mut sum = Sum::default();
            sum.add(&bytes);
            lines.push(format!("config.json: {} bytes, sum {:016x}", bytes.len(), sum.0));
        }
        Ok(lines)
    }
}

fn line(file: &Mapping, header: usize) -> Result<String, WeightsError> {
    let bytes = file.bytes();
    let (head, rest) = bytes.split_at_checked(header).unwrap_or((bytes, &[]));
    let mut sum = Sum::default();
    sum.add(head);
    let step = (rest.len() / SAMPLES).max(SAMPLE_BYTES);
    for sample in rest.chunks(step) {
        sum.add(sample.get(..SAMPLE_BYTES).unwrap_or(sample));
    }
    sum.add(rest.get(rest.len().saturating_sub(SAMPLE_BYTES)..).unwrap_or_default());
    let changed = file.metadata()?.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let changed = changed.map_or_else(|| "unknown".to_owned(), |t| format!("{}.{:09}", t.as_secs(), t.subsec_nanos()));
    let name = file.path().file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name:?}: {} bytes, changed {changed}, sum {:016x}", bytes.len(), sum.0))
}

/// A sum by folded multiplication, eight bytes at a time: any change of a byte changes half of its bits.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
            self.mix(u64::from_le_bytes(padded));
        }
    }

    fn mix(&mut self, word: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word ^ 0x6a09_e667_f3bc_c908) * u128::from(ODD);
        self.0 = ((product as u64) ^ (product >> 64) as u64).rotate_left(29).wrapping_add(ODD);
    }
}
