//! Split files: `NAME-00001-of-0000N.gguf` and its siblings.
//!
//! Every part is a complete GGUF file with `split.no` (from 0) and `split.count`; the first part has the metadata of
//! the model.  Part names are made from the name that the user gave, never from metadata.  Reference: llama.cpp's
//! `gguf-split`, which also writes `split.count` = 0 into files that it merges: 0 and 1 mean "not split".
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use crate::error::{GgufError, Origin, quote};
use crate::file::Part;
use crate::header::{Header, offset_of_key};
use crate::value::FromValue;
use std::path::{Path, PathBuf};

/// Most parts of a split file.
pub const MAX_PARTS: u64 = 1024;

/// What a part's metadata says about its place.
struct Place {
    no: u64,
    count: u64,
}

/// An optional integer of the `split.` family.
fn integer(header: &Header, key: &'static str, part: &Part) -> Result<Option<u64>, GgufError> {
    let Some(value) = header.metadata.get(key) else {
        return Ok(None);
    };
    match u64::from_value(value) {
        Some(v) => Ok(Some(v)),
        None => {
            let found = value.as_integer().map_or_else(|| value.type_name(), |v| v.to_string());
            Err(split_error(part, header, key, found, "an integer that is not negative"))
        }
    }
}

fn split_error(part: &Part, header: &Header, field: &'static str, found: impl ToString, expected: impl ToString) -> GgufError {
    let (found, expected) = (found.to_string(), expected.to_string());
    let offset = offset_of_key(part.bytes(), &header.metadata, field);
    GgufError::Split { file: part.origin.clone(), field, offset, found, expected }
}

impl Place {
    fn of(header: &Header, part: &Part) -> Result<Self, GgufError> {
        let count = integer(header, "split.count", part)?.unwrap_or(0);
        let no = integer(header, "split.no", part)?.unwrap_or(0);
        if count > MAX_PARTS {
            return Err(split_error(part, header, "split.count", count, format_args!("at most {MAX_PARTS}")));
        }
        if no >= count.max(1) {
            return Err(split_error(part, header, "split.no", no, format_args!("less than split.count ({})", count.max(1))));
        }
        Ok(Self { no, count })
    }
}

fn part_name(prefix: &str, no: u64, count: u64) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)
}

/// Returns the header and the parts of the whole file that `part`, opened from `path`, belongs to.
pub(crate) fn complete(path: &Path, part: Part, header: Header) -> Result<(Header, Vec<Part>), GgufError> {
    let place = Place::of(&header, &part)?;
    if place.count <= 1 {
        return Ok((header, vec![part]));
    }
    let siblings = siblings(path, &place, &part, &header)?;
    let missing: Vec<String> = siblings.iter().filter(|p| !p.exists()).map(|p| quote(&file_name(p))).collect();
    if !missing.is_empty() {
        return Err(GgufError::MissingParts { file: part.origin, count: place.count, missing });
    }
    let mut opened = Some((part, header));
    let mut whole: Option<Header> = None;
    let mut parts = Vec::with_capacity(siblings.len());
    for (no, sibling) in siblings.iter().enumerate() {
        let (part, header) = match opened.take_if(|_| no as u64 == place.no) {
            Some(opened) => opened,
            None => {
                let part = Part::open(sibling)?;
                let header = Header::parse(part.bytes(), part.bytes().len() as u64, &part.origin)?;
                (part, header)
            }
        };
        check_place(&header, no as u64, place.count, &part)?;
        whole = Some(match whole {
            None => header,
            Some(whole) => append(whole, header, no as u32, &part)?,
        });
        parts.push(part);
    }
    let (Some(whole), Some(first)) = (whole, parts.first()) else {
        return Err(GgufError::MissingParts { file: Origin::file(path), count: place.count, missing: vec![] });
    };
    if let Some(total) = integer(&whole, "split.tensors.count", first)?
        && total != whole.tensors.len() as u64
    {
        let found = format_args!("{total}").to_string();
        let expected = format_args!("{}, the number of tensors in all parts", whole.tensors.len()).to_string();
        return Err(split_error(first, &whole, "split.tensors.count", found, expected));
    }
    Ok((whole, parts))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The paths of all parts, from the path of one of them.
fn siblings(path: &Path, place: &Place, part: &Part, header: &Header) -> Result<Vec<PathBuf>, GgufError> {
    let name = file_name(path);
    let suffix = part_name("", place.no, place.count);
    let Some(prefix) = name.strip_suffix(&suffix) else {
        return Err(split_error(
            part,
            header,
            "the file name",
            quote(&name),
            format_args!("a name that ends in {suffix}, as its metadata says"),
        ));
    };
    Ok((0..place.count).map(|no| path.with_file_name(part_name(prefix, no, place.count))).collect())
}

fn check_place(header: &Header, no: u64, count: u64, part: &Part) -> Result<(), GgufError> {
    let place = Place::of(header, part)?;
    if place.count != count {
        return Err(split_error(part, header, "split.count", place.count, format_args!("{count}, as in the other parts")));
    }
    if place.no != no {
        return Err(split_error(part, header, "split.no", place.no, format_args!("{no}, as the file name says")));
    }
    Ok(())
}

/// Adds the tensors of part `no`.  Later parts may leave out the model's metadata, but may not contradict it.
fn append(mut whole: Header, header: Header, no: u32, part: &Part) -> Result<Header, GgufError> {
    const KEY: &str = "general.architecture";
    if let Some(found) = header.metadata.get(KEY)
        && Some(found) != whole.metadata.get(KEY)
    {
        let describe = |value: Option<&_>| value.and_then(<&str>::from_value).map_or("absent".into(), quote);
        let expected = format!("{}, as in the first part", describe(whole.metadata.get(KEY)));
        return Err(split_error(part, &header, KEY, describe(Some(found)), expected));
    }
    whole.tensors.extend(header.tensors.into_iter().map(|t| crate::TensorInfo { part: no, ..t }));
    Ok(whole)
}
