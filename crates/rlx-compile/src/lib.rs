//! From a graph to something a device can run: passes, lowering, the memory plan, and the trait
//! devices implement.
//!
//! The order is: promote wanted taps to outputs, [`passes`] (fusion), [`lower()`] (expand what the
//! device does not claim), [`Plan::new`], then per binding of the symbols [`Plan::bind`].  This
//! crate knows no device; [`backend::NullBackend`] plans without one.

pub mod backend;
pub mod lower;
pub mod passes;
pub mod plan;
pub mod profile;

pub use backend::{
    Arg, Backend, BackendError, DeviceInfo, NullBackend, PackedCache, Pool, Program, Ragged, WeightData, WeightSource, Weights,
};
pub use lower::{Coverage, MissingOps, lower};
pub use plan::{Layout, Place, Plan, Root, Slot};
pub use profile::Profile;
