//! Whether there is a device.

use std::error::Error as _;
use std::ffi::c_int;
use std::fmt;

use libloading::Library;

/// Which backend serves, and why; it prints as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Devices can be used.
    Cuda(Driver),
    /// They cannot.
    Host(NoDevice),
}

/// A driver that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Driver {
    /// Devices.
    pub devices: usize,
    /// The newest CUDA version that the driver knows: major, minor.
    pub version: (usize, usize),
    /// Whether it is salient's software GPU, on which nothing can be measured.
    pub software: bool,
}

/// Why there is no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// The kernels were left out of the build, by `SALIENT_SKIP_KERNELS`.
    #[error("this build holds no kernels")]
    NoKernels,
    /// The driver's library is not there, or not one.
    #[error("there is no CUDA driver ({0})")]
    NoDriver(String),
    /// A call into the driver failed, for want of a device most often.
    #[error("the CUDA driver is of no use: {call} returned {code}")]
    Refused {
        /// The function.
        call: &'static str,
        /// What it returned, a `CUresult`.
        code: i32,
    },
    /// The driver works and has no device.
    #[error("the CUDA driver knows no device")]
    Empty,
    /// The driver is older than the CUDA runtime that the kernels are linked with, so every launch
    /// would fail.
    #[error(
        "the driver is for CUDA {}.{}, the runtime of this build is of {}.{}: it needs a driver for \
         {}.0 or later",
        driver.0, driver.1, runtime.0, runtime.1, runtime.0
    )]
    Older {
        /// What the driver knows: major, minor.
        driver: (usize, usize),
        /// What the kernels are linked with: major, minor.
        runtime: (usize, usize),
    },
}

/// Looks for devices. It never panics, which cudarc's own functions do where there is no driver:
/// ask here before the first of them.
///
/// ```no_run
/// use salient::cuda::{Backend, probe};
/// let backend = probe();
/// println!("{backend}");
/// if let Backend::Cuda(driver) = backend {
///     assert!(driver.devices > 0);
/// }
/// ```
pub fn probe() -> Backend {
    if !cfg!(salient_kernels) {
        return Backend::Host(NoDevice::NoKernels);
    }
    match ask(LIBRARIES).and_then(|driver| driver.serves(runtime_version())) {
        Ok(driver) => Backend::Cuda(driver),
        Err(why) => Backend::Host(why),
    }
}

impl Driver {
    /// Itself, if it is new enough for a runtime. Runtimes of one major version run on every driver
    /// of that version (CUDA Compatibility: minor version compatibility).
    fn serves(self, runtime: (usize, usize)) -> Result<Self, NoDevice> {
        if self.version.0 < runtime.0 {
            return Err(NoDevice::Older { driver: self.version, runtime });
        }
        Ok(self)
    }
}

/// The CUDA runtime that the kernels are linked with; 0 if it does not say.
#[cfg(salient_kernels)]
fn runtime_version() -> (usize, usize) {
    unsafe extern "C" {
        fn cudaRuntimeGetVersion(version: *mut c_int) -> c_int;
    }
    let mut version = 0;
    // SAFETY: writes one int; the runtime is linked with the kernels, and asks no driver for it.
    let code = unsafe { cudaRuntimeGetVersion(&mut version) };
    if code == 0 { split(usize::try_from(version).unwrap_or(0)) } else { (0, 0) }
}

#[cfg(not(salient_kernels))]
fn runtime_version() -> (usize, usize) {
    (0, 0)
}

/// Major and minor of a version as CUDA counts them: 13010 is 13.1.
fn split(version: usize) -> (usize, usize) {
    (version / 1000, version % 1000 / 10)
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cuda(Driver { devices, version: (major, minor), software }) => {
                let kind = if *software { "software GPU" } else { "device(s)" };
                write!(f, "cuda: {devices} {kind}, driver for CUDA {major}.{minor}")
            }
            Self::Host(why) => write!(f, "host: {why}"),
        }
    }
}

#[cfg(windows)]
const LIBRARIES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so"];

/// Loads the driver by itself, since cudarc panics over a missing library and a missing function.
fn ask(libraries: &[&str]) -> Result<Driver, NoDevice> {
    let mut missing = None;
    for &name in libraries {
        // SAFETY: the library is the system's CUDA driver; what it does on loading is what every
        // CUDA program lets it do.
        match unsafe { Library::new(name) } {
            Ok(library) => return ask_driver(&library),
            Err(error) => missing = missing.or(Some(says(&error))),
        }
    }
    Err(NoDevice::NoDriver(missing.unwrap_or_default()))
}

fn ask_driver(driver: &Library) -> Result<Driver, NoDevice> {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Get = unsafe extern "C" fn(*mut c_int) -> c_int;
    let missing = |error: libloading::Error| NoDevice::NoDriver(says(&error));
    let done = |call, code| match code {
        0 => Ok(()),
        code => Err(NoDevice::Refused { call, code }),
    };

    // SAFETY: `CUresult cuInit(unsigned)`, and an enum is an int.
    let init = unsafe { driver.get::<Init>(b"cuInit\0") }.map_err(missing)?;
    // SAFETY: 0 is the only flag there is.
    done("cuInit", unsafe { init(0) })?;

    let get = |name: &'static str| -> Result<usize, NoDevice> {
        // SAFETY: both names that are asked for are `CUresult (int*)`.
        let function = unsafe { driver.get::<Get>(name) }.map_err(missing)?;
        let mut value = 0;
        // SAFETY: writes one int, and the driver is initialised.
        done(name, unsafe { function(&mut value) })?;
        Ok(usize::try_from(value).unwrap_or(0))
    };
    let version = get("cuDriverGetVersion")?;
    match get("cuDeviceGetCount")? {
        0 => Err(NoDevice::Empty),
        devices => {
            // SAFETY: looked for, never called.
            let control = unsafe { driver.get::<Init>(b"salient_gpu_control\0") };
            Ok(Driver { devices, version: split(version), software: control.is_ok() })
        }
    }
}

/// The loader's own words, which are its error's source.
fn says(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_answer_that_names_it() {
        let missing = ask(&["libcuda-that-is-not-there.so"]).unwrap_err();
        assert!(missing.to_string().contains("libcuda-that-is-not-there.so"), "{missing}");
        assert!(ask(&[]).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_is_no_driver_is_an_answer() {
        let missing = ask(&["libc.so.6"]).unwrap_err();
        assert!(missing.to_string().contains("cuInit"), "{missing}");
    }

    #[test]
    fn every_answer_is_a_sentence_with_its_reason() {
        let backend = ask(LIBRARIES).map_or_else(Backend::Host, Backend::Cuda).to_string();
        assert!(backend.starts_with("cuda: ") || backend.starts_with("host: "), "{backend}");
        for (backend, says) in [
            (
                Backend::Cuda(Driver { devices: 2, version: (13, 0), software: false }),
                "cuda: 2 device(s), driver for CUDA 13.0",
            ),
            (
                Backend::Cuda(Driver { devices: 1, version: (13, 0), software: true }),
                "cuda: 1 software GPU, driver for CUDA 13.0",
            ),
            (
                Backend::Host(NoDevice::Refused { call: "cuInit", code: 999 }),
                "host: the CUDA driver is of no use: cuInit returned 999",
            ),
        ] {
            assert_eq!(backend.to_string(), says);
        }
        assert_eq!(probe(), probe());
    }

    #[test]
    fn a_driver_of_an_older_major_version_is_refused_with_both_versions() {
        let driver = |version| Driver { devices: 1, version, software: false };
        for (version, runtime) in [((13, 0), (13, 0)), ((13, 0), (13, 3)), ((14, 0), (13, 3))] {
            assert_eq!(driver(version).serves(runtime), Ok(driver(version)));
        }
        let error = driver((12, 8)).serves((13, 0)).unwrap_err();
        assert_eq!(error, NoDevice::Older { driver: (12, 8), runtime: (13, 0) });
        let says = error.to_string();
        assert!(says.contains("12.8") && says.contains("13.0 or later"), "{says}");
    }
}
