//! Initialisation, versions, errors by name, and entry points by name.

use std::ffi::{CString, c_char, c_void};
use std::fs;

use crate::error::{Code, Result};
use crate::ffi::{In, Out, Text, driver};
use crate::state::initialize;

/// CUDA 13.0.
pub(crate) const VERSION: i32 = 13000;

const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const VERSION_TOO_OLD: u32 = 2;
/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

driver! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        initialize().map(|_| ())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuGetErrorName(code: u32, name: Out<*const c_char>) {
        let found = Code(code).driver_name().ok_or(Code::INVALID_VALUE);
        name.set(found.map_or(std::ptr::null(), |text| text.as_ptr()))?;
        found.map(|_| ())
    }

    fn cuGetErrorString(code: u32, text: Out<*const c_char>) {
        let code = Code(code);
        let found = code.driver_name().and_then(|_| code.message()).ok_or(Code::INVALID_VALUE);
        text.set(found.map_or(std::ptr::null(), |text| text.as_ptr()))?;
        found.map(|_| ())
    }

    fn cuGetProcAddress_v2(
        name: Text, to: Out<*const c_void>, version: i32, flags: u64, status: Out<u32>
    ) {
        let found = entry_point(name.str()?, version, flags);
        to.set(found.unwrap_or(std::ptr::null()))?;
        status.set_if_wanted(match found {
            Ok(_) => FOUND,
            Err(Missing::Name) => NOT_FOUND,
            Err(Missing::Version) => VERSION_TOO_OLD,
        });
        // Whoever asks for the status looks there.
        if found.is_err() && status.is_null() { Err(Code::NOT_FOUND) } else { Ok(()) }
    }

    fn cuGetProcAddress(name: Text, to: Out<*const c_void>, version: i32, flags: u64) {
        let found = entry_point(name.str()?, version, flags);
        to.set(found.unwrap_or(std::ptr::null()))?;
        found.map(|_| ()).map_err(|_| Code::NOT_FOUND)
    }

    /// What the static CUDA runtime asks of the driver, and nobody else can answer.
    fn cuGetExportTable(table: Out<*const c_void>, _id: In<[u8; 16]>) {
        table.set(std::ptr::null())?;
        eprintln!(
            "software GPU: this program's CUDA runtime is NVIDIA's own, which needs NVIDIA's driver. \
             For the software GPU, link the shared one (nvcc -cudart shared; Salient: \
             SALIENT_CUDART=shared) and have libcudart.so.13 found where libcuda.so.1 is"
        );
        Err(Code::NOT_SUPPORTED)
    }

    fn cuProfilerStart() {
        crate::state::current().map(|_| ())
    }

    fn cuProfilerStop() {
        crate::state::current().map(|_| ())
    }
}

/// Why there is no entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Name,
    Version,
}

/// The address of an entry point of the driver by its plain name, as of a version of CUDA.
pub(crate) fn entry_point(
    name: &str,
    version: i32,
    flags: u64,
) -> std::result::Result<*const c_void, Missing> {
    if !name.starts_with("cu") || name.starts_with("cuda") {
        return Err(Missing::Name);
    }
    if version > VERSION {
        return Err(Missing::Version);
    }
    let suffixes = ["_v4", "_v3", "_v2", ""].into_iter().filter(|suffix| {
        NEWER.iter().all(|&(newer, since)| *newer != format!("{name}{suffix}") || version >= since)
    });
    let stream = if flags & PER_THREAD != 0 { &["_ptsz", "_ptds", ""][..] } else { &[""] };
    suffixes
        .flat_map(|suffix| stream.iter().map(move |stream| format!("{name}{suffix}{stream}")))
        .find_map(|symbol| symbol_of_this_library(&symbol))
        .ok_or(Missing::Name)
}

/// Entry points that took the place of others with the same plain name, and since when.
const NEWER: &[(&str, i32)] = &[
    ("cuCtxCreate_v4", 13000),
    ("cuDeviceGetUuid_v2", 11040),
    ("cuEventElapsedTime_v2", 12080),
    ("cuGetProcAddress_v2", 12000),
    ("cuMemAdvise_v2", 13000),
    ("cuMemPrefetchAsync_v2", 13000),
    ("cuStreamBeginCapture_v2", 10010),
    ("cuStreamGetCaptureInfo_v3", 13000),
    ("cuStreamGetCaptureInfo_v2", 11030),
];

fn symbol_of_this_library(name: &str) -> Option<*const c_void> {
    let name = CString::new(name).ok()?;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: any address may be asked for, and there is room for the answer.
    let known = unsafe { libc::dladdr(cuInit as *const c_void, info.as_mut_ptr()) };
    if known == 0 {
        return None;
    }
    // SAFETY: dladdr has filled it.
    let info = unsafe { info.assume_init() };
    // SAFETY: the name is that of a library that is loaded, which is given again.
    let library = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the library is open, and the name ends with a zero byte.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: opened above; this library itself keeps it loaded.
    unsafe { libc::dlclose(library) };
    (!symbol.is_null()).then_some(symbol.cast_const())
}

/// The path of a driver or a runtime that is in the process besides this one.
pub(crate) fn other_driver() -> Option<String> {
    other_driver_in(&fs::read_to_string("/proc/self/maps").ok()?, cuInit as *const () as u64)
}

/// A line of the maps is `from-to permissions offset device inode path`.
fn other_driver_in(maps: &str, own_address: u64) -> Option<String> {
    let lines = maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
        let (device, inode) = (words.nth(2)?, words.next()?);
        Some((range, (device, inode), words.next()?))
    });
    let lines: Vec<_> = lines.collect();
    let (_, own, _) = lines.iter().find(|(range, ..)| range.contains(&own_address))?;
    lines.iter().find_map(|(_, file, path)| {
        let name = path.rsplit('/').next()?;
        let is_driver = name.starts_with("libcuda.so") || name.starts_with("libcudart.so");
        (is_driver && file != own).then(|| (*path).to_owned())
    })
}

/// For entry points that this driver has only to say that it lacks what they are for.
pub(crate) fn unsupported() -> Result {
    Err(Code::NOT_SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_driver_is_found_and_this_one_is_not() {
        let own = "\
7f0000000000-7f0000001000 r--p 00000000 08:01 11 /software/libcuda.so.1
7f0000001000-7f0000002000 r-xp 00001000 08:01 11 /software/libcuda.so.1
7f0000003000-7f0000004000 r-xp 00000000 08:01 12 /usr/lib/libc.so.6
7f0000005000-7f0000006000 rw-p 00000000 00:00 0
";
        let address = 0x7f00_0000_1234;
        assert_eq!(other_driver_in(own, address), None);
        for name in ["libcuda.so.580.1", "libcudart.so.13"] {
            let path = format!("/usr/lib/{name}");
            let maps = format!("{own}7f0000007000-7f0000008000 r-xp 00000000 08:01 13 {path}\n");
            assert_eq!(other_driver_in(&maps, address), Some(path));
        }
    }
}
