//! What a run is on.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use candle_core::{DType, Device};
use salient_lab::{Error, output};

use crate::Global;

/// What a run is on, and in which type.
#[derive(clap::Args)]
pub(crate) struct DeviceArguments {
    /// `cpu`; in a build with feature `cuda` also `cuda`, which is the first CUDA device, or
    /// `cuda:N`. `auto` takes the first CUDA device if there is one, else the CPU, and says why.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::Auto)]
    device: DeviceName,
    /// The type of weights and hidden states: f32; on a CUDA device also f16 and bf16 [default: bf16
    /// on a CUDA device, which the kernels of attention take, f32 on the CPU].
    #[arg(long, value_name = "TYPE")]
    dtype: Option<TypeName>,
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceName {
    Auto,
    Cpu,
    Cuda(usize),
}

/// A type by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub(super) enum TypeName {
    F32,
    F16,
    Bf16,
}

/// A device that is open.
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    /// `cpu`, or `cuda:N` with the device's own name.
    pub(crate) name: String,
    /// Whether it is the software GPU, on which nothing can be measured.
    pub(crate) software: bool,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = || format!("`{name}` is no device; there are auto, cpu, cuda and cuda:N");
        match (name, name.split_once(':')) {
            ("auto", _) => Ok(Self::Auto),
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
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceArguments {
    /// A device and a type that were not asked for together.
    pub(super) fn of(device: DeviceName, dtype: TypeName) -> Self {
        Self { device, dtype: Some(dtype) }
    }

    /// Opens the device. Says which one `auto` took, and why.
    pub(crate) fn open(&self, global: &Global) -> anyhow::Result<Place> {
        let (name, why) = match self.device {
            DeviceName::Auto => automatic(),
            named => (named, None),
        };
        let (device, label, software) = name.open()?;
        let default = if device.is_cpu() { TypeName::F32 } else { TypeName::Bf16 };
        let dtype = match self.dtype.unwrap_or(default) {
            TypeName::F32 => DType::F32,
            TypeName::F16 => DType::F16,
            TypeName::Bf16 => DType::BF16,
        };
        if device.is_cpu() && dtype != DType::F32 {
            let problem = format!("--dtype {}: the CPU runs f32 only", dtype.as_str());
            return Err(Error::Usage(problem).into());
        }
        if let Some(why) = why.filter(|_| !global.quiet) {
            output::note(format_args!("running on {label} in {}: {why}", dtype.as_str()));
        }
        Ok(Place { device, dtype, name: label, software })
    }

    /// The same, or an error on the software GPU: what takes time there says nothing of a device.
    pub(crate) fn open_to_measure(&self, global: &Global) -> anyhow::Result<Place> {
        let place = self.open(global)?;
        if place.software {
            let reason = "nothing can be measured on the software GPU".into();
            return Err(Error::NoDevice { device: place.name, reason }.into());
        }
        Ok(place)
    }
}

impl DeviceName {
    /// The device, its label, and whether it is the software GPU.
    fn open(self) -> anyhow::Result<(Device, String, bool)> {
        let Self::Cuda(ordinal) = self else { return Ok((Device::Cpu, "cpu".into(), false)) };
        let refused = |reason| Error::NoDevice { device: self.to_string(), reason };
        let (devices, software) = cuda_devices().map_err(refused)?;
        if ordinal >= devices {
            let them = if devices == 1 { "device, cuda:0" } else { "devices, from cuda:0 on" };
            return Err(refused(format!("there is {devices} CUDA {them}")).into());
        }
        let device = open_cuda(ordinal).with_context(|| format!("cannot open {self}"))?;
        Ok((device.0, format!("{self} ({})", device.1), software))
    }
}

/// What `auto` takes, and why.
fn automatic() -> (DeviceName, Option<String>) {
    match cuda_devices() {
        Ok((_, false)) => (DeviceName::Cuda(0), Some("it is the first CUDA device".into())),
        Ok((_, true)) => (DeviceName::Cpu, Some("the only CUDA device is the software GPU".into())),
        Err(reason) => (DeviceName::Cpu, Some(reason)),
    }
}

/// How many CUDA devices there are, and whether they are the software GPU; or why there is none.
/// candle does not ask whether there is a driver, and panics without.
#[cfg(feature = "cuda")]
fn cuda_devices() -> Result<(usize, bool), String> {
    match salient::cuda::probe() {
        salient::cuda::Backend::Cuda(driver) => Ok((driver.devices, driver.software)),
        backend => Err(backend.to_string()),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Result<(usize, bool), String> {
    Err("this salient was built without feature `cuda`".into())
}

/// A CUDA device and its name.
#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> anyhow::Result<(Device, String)> {
    let device = Device::new_cuda(ordinal)?;
    let name = device.as_cuda_device()?.cuda_stream().context().name()?;
    Ok((device, name))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize) -> anyhow::Result<(Device, String)> {
    unreachable!("there is no CUDA device without feature `cuda`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let read = |name: &str| name.parse::<DeviceName>();
        for name in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(read(name).unwrap().to_string(), name);
        }
        assert_eq!(read("cuda"), Ok(DeviceName::Cuda(0)));
        for unknown in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""] {
            assert!(read(unknown).unwrap_err().contains("auto, cpu, cuda and cuda:N"), "{unknown}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_a_device_is_refused_by_name() {
        let error = DeviceName::Cuda(1).open().unwrap_err().to_string();
        assert!(error.contains("cuda:1") && error.contains("feature `cuda`"), "{error}");
        assert!(DeviceName::Cpu.open().unwrap().0.is_cpu());
        let (taken, why) = automatic();
        assert_eq!(taken, DeviceName::Cpu);
        assert!(why.unwrap().contains("feature `cuda`"));
    }
}
