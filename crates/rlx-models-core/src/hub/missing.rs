//! What a build without the feature `hub` has in the place of the hub.

use super::{Headers, HubError, HubOptions, Progress, Spec};
use crate::weights::ResolveWeightsOptions;
use std::path::{Path, PathBuf};

/// Says that this build has no access to the hub.
pub struct Hub(());

impl Hub {
    /// Nothing is done with the options.
    pub fn new(_: HubOptions) -> Hub {
        Hub(())
    }

    /// Nothing is there.
    ///
    /// # Errors
    /// [`HubError::NotBuilt`], always.
    pub fn cached(&self, spec: &Spec, _: &ResolveWeightsOptions) -> Result<Option<PathBuf>, HubError> {
        Err(HubError::NotBuilt { repo: spec.to_string() })
    }

    /// Nothing is downloaded.
    ///
    /// # Errors
    /// [`HubError::NotBuilt`], always.
    pub fn fetch(&self, spec: &Spec, _: &ResolveWeightsOptions, _: &mut Progress<'_>) -> Result<PathBuf, HubError> {
        Err(HubError::NotBuilt { repo: spec.to_string() })
    }

    /// Nothing is read.
    ///
    /// # Errors
    /// [`HubError::NotBuilt`], always.
    pub fn headers(&self, spec: &Spec, _: &ResolveWeightsOptions, _: &Path) -> Result<Headers, HubError> {
        Err(HubError::NotBuilt { repo: spec.to_string() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    #[test]
    fn a_build_without_the_hub_names_the_feature() {
        let e = crate::hub::from_pretrained("org/repo:Q8_0").unwrap_err().to_string();
        assert!(e.starts_with("org/repo:Q8_0: ") && e.contains("cargo feature `hub`"), "{e}");
    }
}
