//! The devices of the command line.

use rlx_compile::{Backend, BackendError, Profile};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A device by the name users give it.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
}

/// A device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not the name of any device.
    #[error("unknown device `{0}`; known: cpu, metal (mps), mlx, cuda, rocm (hip), gpu (wgpu), vulkan")]
    Unknown(String),
    /// A device this build has no backend for.
    #[error("device `{name}` needs the {backend} backend, which this version of rlx does not have; available: cpu")]
    NoBackend {
        /// What was asked for.
        name: String,
        /// The backend that would serve it.
        backend: &'static str,
    },
    /// A device whose backend was left out of this build.
    #[error("device `{name}` is not in this build: build it with the feature `{feature}`")]
    NotBuilt {
        /// What was asked for.
        name: &'static str,
        /// The feature that has it.
        feature: &'static str,
    },
    /// The backend could not start.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(s: &str) -> Result<Device, DeviceError> {
        let backend = match s.to_ascii_lowercase().as_str() {
            "cpu" => return Ok(Device::Cpu),
            "metal" | "mps" => "Metal (MPSGraph)",
            "mlx" => "MLX",
            "cuda" => "CUDA",
            "rocm" | "hip" => "ROCm",
            "gpu" | "wgpu" | "vulkan" => "wgpu",
            _ => return Err(DeviceError::Unknown(s.into())),
        };
        Err(DeviceError::NoBackend { name: s.into(), backend })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}

impl Device {
    /// Starts the device as the profile says.
    pub fn open(self, profile: &Profile) -> Result<Arc<dyn Backend>, DeviceError> {
        match self {
            Device::Cpu => cpu(profile),
        }
    }
}

#[cfg(feature = "cpu")]
fn cpu(profile: &Profile) -> Result<Arc<dyn Backend>, DeviceError> {
    use rlx_compile::profile::{Activations, Packing, Simd};
    use rlx_cpu::tuning::Blocks;
    use rlx_cpu::{Cpu, Level};
    let level = match profile.simd {
        Simd::Auto => None,
        Simd::Scalar => Some(Level::Scalar),
        Simd::Avx2 => Some(Level::Avx2),
        Simd::AvxVnni => Some(Level::AvxVnni),
        Simd::Avx512 => Some(Level::Avx512),
        Simd::Avx512Bf16 => Some(Level::Avx512Bf16),
        Simd::Neon => Some(Level::Neon),
        _ => Some(Level::I8mm),
    };
    let exact = profile.activations == Activations::Exact;
    let eager = profile.packing == Packing::Eager;
    // What a profile leaves open is the processor's.
    let usual = Blocks::of(level.unwrap_or_else(Level::detect));
    let bytes = |kib: usize, usual: usize| if kib == 0 { usual } else { kib << 10 };
    let blocks = Blocks { act: bytes(profile.act_block_kib, usual.act), weight: bytes(profile.weight_block_kib, usual.weight) };
    Ok(Arc::new(Cpu::new(rlx_cpu::Options { threads: profile.threads, level, exact, eager, blocks: Some(blocks) })?))
}

#[cfg(not(feature = "cpu"))]
fn cpu(_: &Profile) -> Result<Arc<dyn Backend>, DeviceError> {
    Err(DeviceError::NotBuilt { name: "cpu", feature: "cpu" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_devices_say_what_they_need() {
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
        for (name, needs) in [("cuda", "CUDA"), ("mps", "Metal"), ("vulkan", "wgpu"), ("hip", "ROCm"), ("mlx", "MLX")] {
            let e = name.parse::<Device>().unwrap_err().to_string();
            assert!(e.contains(needs) && e.contains(name), "{e}");
        }
        assert!("tpu".parse::<Device>().unwrap_err().to_string().contains("unknown device `tpu`"));
    }
}
