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
