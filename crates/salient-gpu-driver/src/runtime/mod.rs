//! The runtime's entry points, by subject, over those of the driver.

mod device;
mod event;
mod function;
mod graph;
mod launch;
mod memory;
mod register;
mod stream;

pub(crate) use register::registered_kernels;

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use crate::driver::init::{VERSION, entry_point};
use crate::error::{Code, Result};
use crate::ffi::{Out, Text, guard, runtime};

thread_local! {
    static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
}

/// Keeps an error for `cudaGetLastError`. That a stream is not ready yet is none.
pub(crate) fn remember(result: Result) -> u32 {
    let code = result.err().map_or(0, |code| code.0);
    if code != 0 && code != Code::NOT_READY.0 {
        LAST_ERROR.set(code);
    }
    code
}

#[unsafe(no_mangle)]
extern "C" fn cudaGetLastError() -> u32 {
    let error = cudaPeekAtLastError();
    LAST_ERROR.set(0);
    error
}

/// The error of a kernel shows up here too, as soon as it has happened.
#[unsafe(no_mangle)]
extern "C" fn cudaPeekAtLastError() -> u32 {
    match LAST_ERROR.get() {
        0 => device::fault_of_current().map_or(0, |code| code.0),
        error => error,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cudaGetErrorName(code: u32) -> *const c_char {
    Code(code).runtime_name().as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn cudaGetErrorString(code: u32) -> *const c_char {
    Code(code).message().unwrap_or(c"unrecognized error code").as_ptr()
}

runtime! {
    fn cudaDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cudaRuntimeGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cudaGetDriverEntryPoint(
        name: Text, to: Out<*const c_void>, flags: u64, status: Out<u32>
    ) {
        give_entry_point(name, to, VERSION, flags, status)
    }

    fn cudaGetDriverEntryPoint_ptsz(
        name: Text, to: Out<*const c_void>, flags: u64, status: Out<u32>
    ) {
        give_entry_point(name, to, VERSION, flags | 2, status)
    }

    fn cudaGetDriverEntryPointByVersion(
        name: Text, to: Out<*const c_void>, version: u32, flags: u64, status: Out<u32>
    ) {
        give_entry_point(name, to, version as i32, flags, status)
    }

    fn cudaGetDriverEntryPointByVersion_ptsz(
        name: Text, to: Out<*const c_void>, version: u32, flags: u64, status: Out<u32>
    ) {
        give_entry_point(name, to, version as i32, flags | 2, status)
    }

    fn cudaGetExportTable(table: Out<*const c_void>, _id: Out<u8>) {
        table.set(std::ptr::null())?;
        Err(Code::NOT_SUPPORTED)
    }

    fn cudaProfilerStart() {
        device::ensure().map(|_| ())
    }

    fn cudaProfilerStop() {
        device::ensure().map(|_| ())
    }
}

fn give_entry_point(
    name: Text,
    to: Out<*const c_void>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> Result {
    use crate::driver::init::Missing;
    device::ensure()?;
    let found = entry_point(name.str()?, version, flags);
    to.set(found.unwrap_or(std::ptr::null()))?;
    status.set_if_wanted(match found {
        Ok(_) => 0,
        Err(Missing::Name) => 1,
        Err(Missing::Version) => 2,
    });
    if found.is_err() && status.is_null() { Err(Code::NOT_FOUND) } else { Ok(()) }
}

/// For entry points that give something else than an error.
fn quietly(name: &str, body: impl FnOnce() -> Result) {
    remember(guard(name, body));
}
