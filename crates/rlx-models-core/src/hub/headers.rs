//! Repositories from headers alone.
//!
//! Headers are laid out in a directory as files of their full length whose tensor data are a hole, which takes no room
//! on disk.  What looks at checkpoints without reading their data then says the same of them as it would of the whole.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::cache::{io, make_parent};
use super::client::Hub;
use super::listing::Listing;
use super::{Headers, HubError, Spec};
use crate::config::MAX_CONFIG_BYTES;
use crate::message::quote;
use crate::weights::{
    MAX_HEADER_BYTES, MAX_INDEX_BYTES, ResolveWeightsOptions, WeightsError, has_extension, is_index, parse_safetensors, shards_in,
};
use rlx_gguf::{Gguf, GgufError};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// What is asked for first: most headers without a vocabulary fit.
const FIRST_BYTES: u64 = 64 << 10;
/// Longest header of a GGUF file that is looked at: vocabularies are tens of MB at most.
const MAX_GGUF_HEADER_BYTES: u64 = 128 << 20;
/// Longest file that is laid out, whatever a listing says: 16 TiB are more than file systems take.
const MAX_FILE_BYTES: u64 = 4 << 40;
/// Most files that are laid out.
const MAX_FILES: usize = 4096;
/// Most tensors whose data are asked for.
const MAX_SHAPES: usize = 4096;
/// Settings that checkpoints in safetensors are judged by.
const SETTINGS: [&str; 4] = ["config.json", "generation_config.json", "adapter_config.json", "model_index.json"];

/// A repository that is being laid out.
struct Layout<'h> {
    hub: &'h Hub,
    spec: &'h Spec,
    listing: Listing,
    dir: &'h Path,
}

impl Hub {
    /// Lays out in `dir`, an empty directory, what the headers of a repository tell: files with their names and lengths,
    /// settings, and the headers of the weights that `spec` means.  Tensor data, tokenizers and all other files are
    /// zeros.  The cache is not used.
    ///
    /// # Errors
    /// Every [`HubError`] but those of the cache; offline there is nothing to ask.
    pub fn headers(&self, spec: &Spec, opts: &ResolveWeightsOptions, dir: &Path) -> Result<Headers, HubError> {
        self.may_ask(spec, vec!["the whole of it".into()])?;
        let before = self.client.traffic();
        let layout = Layout { hub: self, spec, listing: self.listing(spec)?, dir };
        layout.outlines()?;
        let path = match layout.listing.choose(spec, opts) {
            Ok(file) => {
                layout.weights(&file)?;
                // A directory makes the same choice by itself.
                if spec.pick.is_some() || file.contains('/') { dir.join(&file) } else { dir.to_owned() }
            }
            // Weights of another kind are a finding.
            Err(HubError::Weights(WeightsError::NotFound { .. })) => {
                layout.settings()?;
                dir.to_owned()
            }
            Err(e) => return Err(e),
        };
        let after = self.client.traffic();
        Ok(Headers { path, read: after.0 - before.0, requests: after.1 - before.1 })
    }
}

impl Layout<'_> {
    /// Every file beside the weights as a hole of its length.
    fn outlines(&self) -> Result<(), HubError> {
        for f in self.listing.siblings.iter().filter(|f| !f.rfilename.contains('/')).take(MAX_FILES) {
            self.lay(&f.rfilename, &[], f.size.unwrap_or(0))?;
        }
        Ok(())
    }

    /// A file of this length that begins with these bytes.
    fn lay(&self, name: &str, start: &[u8], bytes: u64) -> Result<File, HubError> {
        let path = self.dir.join(name);
        make_parent(&path)?;
        let mut file = File::create(&path).map_err(io(&path))?;
        let length = bytes.min(MAX_FILE_BYTES);
        file.write_all(start).and_then(|()| file.set_len(length)).map_err(io(&path))?;
        Ok(file)
    }

    fn url(&self, name: &str) -> String {
        self.hub.url(self.spec, &self.listing.sha, name)
    }

    /// A small file as it is.
    fn whole(&self, name: &str, limit: u64) -> Result<(), HubError> {
        let bytes = self.hub.client.small(&self.url(name), limit)?;
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(io(&path))
    }

    fn settings(&self) -> Result<(), HubError> {
        SETTINGS.into_iter().filter(|n| self.listing.has(n)).try_for_each(|name| self.whole(name, MAX_CONFIG_BYTES))
    }

    fn weights(&self, file: &str) -> Result<(), HubError> {
        for name in self.listing.beside(file).iter().filter(|n| n.ends_with(".toml")) {
            self.whole(name, MAX_CONFIG_BYTES)?;
        }
        if has_extension(file, "gguf") {
            return self.listing.parts(self.spec, file)?.iter().try_for_each(|name| self.gguf(name));
        }
        self.settings()?;
        if !is_index(Path::new(file)) {
            return self.safetensors(file);
        }
        self.whole(file, MAX_INDEX_BYTES)?;
        let path = self.dir.join(file);
        let bytes = fs::read(&path).map_err(io(&path))?;
        for name in shards_in(bytes, &path)? {
            if !self.listing.has(&name) {
                return Err(HubError::Incomplete { repo: self.spec.to_string(), missing: vec![quote(&name)] });
            }
            self.safetensors(&name)?;
        }
        Ok(())
    }

    fn gguf(&self, name: &str) -> Result<(), HubError> {
        let (url, client) = (self.url(name), &self.hub.client);
        let (mut bytes, total) = client.part(&url, 0, FIRST_BYTES)?;
        loop {
            let have = bytes.len() as u64;
            // The parser takes what it is given, so each attempt gets a copy; lengths double, so that is one header more.
            match Gguf::from_prefix(bytes.clone(), total, Path::new(&url)) {
                Err(GgufError::Prefix { expected, .. }) if have < MAX_GGUF_HEADER_BYTES.min(total) => {
                    let to = expected.max(have * 2).min(MAX_GGUF_HEADER_BYTES).min(total);
                    let (more, now) = client.part(&url, have, to)?;
                    if more.is_empty() || now != total {
                        return Err(HubError::Transport { url, why: "the file changed while its header was read".into() });
                    }
                    bytes.extend(more);
                }
                Err(e) => return Err(WeightsError::from(e).into()),
                Ok(_) => break,
            }
        }
        self.lay(name, &bytes, total).map(drop)
    }

    fn safetensors(&self, name: &str) -> Result<(), HubError> {
        let (url, client) = (self.url(name), &self.hub.client);
        let (mut bytes, total) = client.part(&url, 0, FIRST_BYTES)?;
        let header = bytes.first_chunk::<8>().map_or(0, |n| u64::from_le_bytes(*n));
        let end = header.saturating_add(8).min(total);
        // A length that no header has is for the parser to refuse.
        if end > bytes.len() as u64 && header <= MAX_HEADER_BYTES {
            bytes.extend(client.part(&url, bytes.len() as u64, end)?.0);
        }
        let tensors = parse_safetensors(&bytes, total, Path::new(&url), 0)?;
        let mut file = self.lay(name, &bytes, total)?;
        // The layout of compressed-tensors' weights depends on the values of these.
        let shapes = tensors.iter().filter(|t| t.name.ends_with(".weight_shape") && t.bytes <= 16 && t.offset >= bytes.len() as u64);
        for t in shapes.take(MAX_SHAPES) {
            let data = client.part(&url, t.offset, t.offset.saturating_add(t.bytes))?.0;
            let path = self.dir.join(name);
            file.seek(SeekFrom::Start(t.offset)).and_then(|_| file.write_all(&data)).map_err(io(&path))?;
        }
        Ok(())
    }
}
