//! cuBLAS: its handles and its products of matrices.
//!
//! Products of f16 and bf16 are added up in f32 and rounded once, whatever compute type is asked
//! for; those of f32 are f32's, also where cuBLAS would be free to use less. [`product`] is what
//! runs.

mod entry;
mod product;

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, PoisonError};

use crate::error::Code;
use crate::ffi::{Handle, Out};
use crate::library::entries;
use crate::state::{current, driver, fresh};

/// `cublasStatus_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status(u32);

impl Status {
    const NOT_INITIALIZED: Self = Self(1);
    const ALLOC_FAILED: Self = Self(3);
    const INVALID_VALUE: Self = Self(7);
    const EXECUTION_FAILED: Self = Self(13);
    const INTERNAL: Self = Self(14);
    const NOT_SUPPORTED: Self = Self(15);
}

impl From<Code> for Status {
    fn from(code: Code) -> Self {
        match code {
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Self::NOT_INITIALIZED,
            Code::OUT_OF_MEMORY => Self::ALLOC_FAILED,
            Code::INVALID_VALUE => Self::INVALID_VALUE,
            _ => Self::EXECUTION_FAILED,
        }
    }
}

/// What `cublasCreate` makes.
#[derive(Debug, Clone, Copy)]
struct Library {
    device: usize,
    stream: Handle,
    pointer_mode: u32,
    math_mode: u32,
    atomics_mode: u32,
}

const VERSION: i32 = 130_000;

static LIBRARIES: Mutex<Option<HashMap<Handle, Library>>> = Mutex::new(None);

/// With a handle that there is.
fn library<T>(handle: Handle, with: impl FnOnce(&mut Library) -> T) -> Result<T, Status> {
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = libraries.get_or_insert_default().get_mut(&handle);
    library.map(with).ok_or(Status::NOT_INITIALIZED)
}

entries! { Status;
    fn cublasCreate_v2(handle: Out<Handle>) {
        let (_, current) = current()?;
        let new = fresh();
        handle.set(new)?;
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let library = Library {
            device: current.device,
            stream: 0,
            pointer_mode: 0,
            math_mode: 0,
            atomics_mode: 0,
        };
        libraries.get_or_insert_default().insert(new, library);
        Ok(())
    }

    fn cublasDestroy_v2(handle: Handle) {
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = libraries.get_or_insert_default().remove(&handle);
        removed.map(|_| ()).ok_or(Status::NOT_INITIALIZED)
    }

    fn cublasGetVersion_v2(handle: Handle, version: Out<i32>) {
        library(handle, |_| ())?;
        Ok(version.set(VERSION)?)
    }

    fn cublasGetProperty(kind: u32, value: Out<i32>) {
        let part = match kind {
            0 => VERSION / 10_000,
            1 => VERSION / 100 % 100,
            2 => VERSION % 100,
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(value.set(part)?)
    }

    fn cublasSetStream_v2(handle: Handle, stream: Handle) {
        driver()?.tables().stream(stream)?;
        library(handle, |library| library.stream = stream)
    }

    fn cublasGetStream_v2(handle: Handle, stream: Out<Handle>) {
        Ok(stream.set(library(handle, |library| library.stream)?)?)
    }

    fn cublasSetPointerMode_v2(handle: Handle, mode: u32) {
        if mode > 1 {
            return Err(Status::INVALID_VALUE);
        }
        library(handle, |library| library.pointer_mode = mode)
    }

    fn cublasGetPointerMode_v2(handle: Handle, mode: Out<u32>) {
        Ok(mode.set(library(handle, |library| library.pointer_mode)?)?)
    }

    fn cublasSetMathMode(handle: Handle, mode: u32) {
        library(handle, |library| library.math_mode = mode)
    }

    fn cublasGetMathMode(handle: Handle, mode: Out<u32>) {
        Ok(mode.set(library(handle, |library| library.math_mode)?)?)
    }

    fn cublasSetAtomicsMode(handle: Handle, mode: u32) {
        library(handle, |library| library.atomics_mode = mode)
    }

    fn cublasGetAtomicsMode(handle: Handle, mode: Out<u32>) {
        Ok(mode.set(library(handle, |library| library.atomics_mode)?)?)
    }

    fn cublasSetWorkspace_v2(handle: Handle, _workspace: u64, _bytes: usize) {
        library(handle, |_| ())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStatusName(status: u32) -> *const c_char {
    name(status).as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStatusString(status: u32) -> *const c_char {
    name(status).as_ptr()
}

fn name(status: u32) -> &'static CStr {
    match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        1 => c"CUBLAS_STATUS_NOT_INITIALIZED",
        3 => c"CUBLAS_STATUS_ALLOC_FAILED",
        7 => c"CUBLAS_STATUS_INVALID_VALUE",
        8 => c"CUBLAS_STATUS_ARCH_MISMATCH",
        11 => c"CUBLAS_STATUS_MAPPING_ERROR",
        13 => c"CUBLAS_STATUS_EXECUTION_FAILED",
        14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
        15 => c"CUBLAS_STATUS_NOT_SUPPORTED",
        16 => c"CUBLAS_STATUS_LICENSE_ERROR",
        _ => c"unknown cuBLAS status",
    }
}
