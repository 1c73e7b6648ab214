//! What a run is on.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use candle_core::Device;
use salient_cli::Error;

/// A device by its name: `cpu`, `cuda`, which is the first, or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceName {
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("`{name}` is no device; there are cpu, cuda and cuda:N");
        match (name, name.split_once(':')) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(("cuda", ordinal))) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceName {
    /// The device.
    pub(super) fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => {
                if let Some(why) = no_cuda() {
                    return Err(Error::Usage(format!("--device {self}: {why}")).into());
                }
                Device::new_cuda(ordinal).with_context(|| format!("cannot open {self}"))
            }
        }
    }
}

/// Why no CUDA device can be opened. candle does not ask whether there is a driver, and panics
/// without.
fn no_cuda() -> Option<String> {
    #[cfg(feature = "cuda")]
    return match salient::cuda::probe() {
        salient::cuda::Backend::Cuda(_) => None,
        backend => Some(backend.to_string()),
    };
    #[cfg(not(feature = "cuda"))]
    Some("this salient was built without feature `cuda`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let read = |name: &str| name.parse::<DeviceName>();
        assert_eq!(read("cpu"), Ok(DeviceName::Cpu));
        assert_eq!(read("cuda"), Ok(DeviceName::Cuda(0)));
        assert_eq!(read("cuda:3"), Ok(DeviceName::Cuda(3)));
        for unknown in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""] {
            assert!(read(unknown).unwrap_err().contains("cpu, cuda and cuda:N"), "{unknown}");
        }
        assert_eq!(DeviceName::Cuda(3).to_string(), "cuda:3");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_a_device_is_refused_by_name() {
        let error = DeviceName::Cuda(1).open().unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("feature `cuda`"), "{error}");
        assert!(DeviceName::Cpu.open().unwrap().is_cpu());
    }
}
