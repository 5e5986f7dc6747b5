//! `preprocessor_config.json`: how images are prepared for a vision model.
//!
//! What processors have in common, in the spellings of released files: `size` as one number, as `height` and `width`, or
//! as `shortest_edge`; mean and standard deviation per channel; the factor from bytes to numbers.  What a model does with
//! them is its family's matter.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{ConfigDoc, ConfigError};

/// Longest side of an image that a model takes.
pub const MAX_IMAGE_SIDE: usize = 16_384;
/// Largest `longest_edge`: some processors mean pixels of the whole image.
const MAX_LONGEST: usize = 1 << 24;
/// Most channels of an image.
const MAX_CHANNELS: usize = 4;

/// What an image is resized to, in pixels from 1 to [`MAX_IMAGE_SIDE`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ImageSize {
    /// To these sides.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// So that the shorter side has this length, and the longer one at most that.
    Shortest {
        /// Length of the shorter side.
        edge: usize,
        /// Limit of the longer side (of the number of pixels, with some processors).
        longest: Option<usize>,
    },
}

/// How images are prepared.
#[derive(Clone, PartialEq, Debug)]
pub struct ImageConfig {
    /// What an image is resized to, where the file says it.
    pub size: Option<ImageSize>,
    /// What is cut out of the middle afterwards, where the file says it.
    pub crop: Option<ImageSize>,
    /// Mean of each channel, 1 to 4 of them; empty when absent.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, above 0; as many as `mean`.
    pub std: Vec<f64>,
    /// What bytes are multiplied with before mean and deviation: 1/255 unless given.
    pub rescale: f64,
}

impl ImageConfig {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// The first setting of the wrong type or out of range.
    pub fn from_doc(doc: &ConfigDoc) -> Result<ImageConfig, ConfigError> {
        let mean = channels(doc, "image_mean")?;
        let std = channels(doc, "image_std")?;
        if !std.is_empty() && !mean.is_empty() && std.len() != mean.len() {
            return Err(doc.invalid("image_std", format_args!("as many as the {} of image_mean", mean.len())));
        }
        if std.iter().any(|v| *v <= 0.0) {
            return Err(doc.invalid("image_std", "numbers above 0: images are divided by them"));
        }
        let rescale = doc.opt_f64("rescale_factor")?.unwrap_or(1.0 / 255.0);
        if rescale <= 0.0 {
            return Err(doc.invalid("rescale_factor", "a number above 0"));
        }
        Ok(ImageConfig { size: size(doc, "size")?, crop: size(doc, "crop_size")?, mean, std, rescale })
    }
}

fn channels(doc: &ConfigDoc, name: &str) -> Result<Vec<f64>, ConfigError> {
    match doc.opt_f64s(name)? {
        None => Ok(vec![]),
        Some(v) if v.iter().any(|v| !v.is_finite()) => Err(doc.invalid(name, "finite numbers")),
        Some(v) if (1..=MAX_CHANNELS).contains(&v.len()) => Ok(v),
        Some(_) => Err(doc.invalid(name, format_args!("1 to {MAX_CHANNELS} numbers, one per channel"))),
    }
}

fn size(doc: &ConfigDoc, name: &str) -> Result<Option<ImageSize>, ConfigError> {
    match doc.raw(name) {
        None => return Ok(None),
        Some(raw) if !raw.starts_with('{') => {
            let n = side(doc, name)?;
            return Ok(Some(ImageSize::Exact { height: n, width: n }));
        }
        Some(_) => {}
    }
    let Some(inner) = doc.opt_object(name)? else { return Ok(None) };
    if inner.has("shortest_edge") {
        let edge = side(&inner, "shortest_edge")?;
        let longest = inner.opt_usize("longest_edge")?;
        if longest.is_some_and(|l| l < edge || l > MAX_LONGEST) {
            return Err(inner.invalid("longest_edge", format_args!("from the shortest_edge of {edge} to {MAX_LONGEST}")));
        }
        return Ok(Some(ImageSize::Shortest { edge, longest }));
    }
    if !inner.has("height") && !inner.has("width") {
        return Err(doc.invalid(name, "a number, height and width, or shortest_edge"));
    }
    Ok(Some(ImageSize::Exact { height: side(&inner, "height")?, width: side(&inner, "width")? }))
}

/// A length in pixels, present.
fn side(doc: &ConfigDoc, name: &str) -> Result<usize, ConfigError> {
    match doc.usize(name)? {
        n if (1..=MAX_IMAGE_SIDE).contains(&n) => Ok(n),
        _ => Err(doc.invalid(name, format_args!("from 1 to {MAX_IMAGE_SIDE} pixels"))),
    }
}
