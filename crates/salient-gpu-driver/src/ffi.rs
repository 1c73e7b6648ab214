//! The border to C: typed pointers, and entry points that no panic leaves.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use crate::error::{Code, Result};

/// Where a caller wants a result: null, or valid for one write.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Out<T>(*mut T);

/// What a caller hands over: null, or valid for reads of as many as it says.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct In<T>(*const T);

/// Text of a caller: null, or ended by a zero byte.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text(*const c_char);

/// An opaque handle, or a pointer that is only looked up and never followed here.
pub(crate) type Handle = u64;

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T> Out<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// As a number, to see whether it is aligned.
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// Gives the caller a result.
    pub(crate) fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so valid for a write, as the type says.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// As [`Self::set`], unless the caller does not want to know.
    pub(crate) fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            self.set(value).expect("it is not null");
        }
    }

    /// Null is the caller's error.
    pub(crate) fn wanted(self) -> Result<Self> {
        if self.0.is_null() { Err(Code::INVALID_VALUE) } else { Ok(self) }
    }

    /// Where element `index` of an array goes.
    pub(crate) fn at(self, index: usize) -> Self {
        Self(self.0.wrapping_add(index))
    }

    /// What the caller has put there before.
    pub(crate) fn get(self) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// Another view of the same place, which the caller made large enough for it.
    pub(crate) fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl Out<c_char> {
    /// Writes text of at most `capacity` bytes, ended with zero; longer text is cut off.
    pub(crate) fn set_text(self, text: &str, capacity: usize) -> Result {
        let length = text.len().min(capacity.checked_sub(1).ok_or(Code::INVALID_VALUE)?);
        for (index, byte) in text.as_bytes()[..length].iter().enumerate() {
            self.at(index).set(*byte as c_char)?;
        }
        self.at(length).set(0)
    }
}

impl<T: Copy> In<T> {
    pub(crate) fn null() -> Self {
        Self(std::ptr::null())
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// As a number, for addresses that are looked up.
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// The first.
    pub(crate) fn get(self) -> Result<T> {
        self.at(0)
    }

    /// The one at `index`, which the caller says is there.
    pub(crate) fn at(self, index: usize) -> Result<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so valid for reads, as the type says, and the caller counts.
        Ok(unsafe { self.0.wrapping_add(index).read_unaligned() })
    }

    /// The first `count` of them.
    pub(crate) fn list(self, count: usize) -> Result<Vec<T>> {
        (0..count).map(|index| self.at(index)).collect()
    }

    /// Another view of the same place, which the caller says is that too.
    pub(crate) fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

impl In<u8> {
    /// At an address that the caller has handed over as a number.
    pub(crate) fn from_address(address: u64) -> Self {
        Self(address as *const u8)
    }

    /// A slice of `length` bytes, which must not change while it is used.
    pub(crate) fn bytes<'a>(self, length: usize) -> Result<&'a [u8]> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so valid for reads, as the type says, and the caller counts.
        Ok(unsafe { slice::from_raw_parts(self.0, length) })
    }
}

impl Text {
    pub(crate) fn get<'a>(self) -> Result<&'a CStr> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: not null, so ended by a zero byte, as the type says.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }

    pub(crate) fn str<'a>(self) -> Result<&'a str> {
        self.get()?.to_str().map_err(|_| Code::INVALID_VALUE)
    }
}

/// A place in host memory that a caller wants copied from or to, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPointer(pub(crate) u64);

impl HostPointer {
    /// This many bytes from there on.
    ///
    /// # Safety
    ///
    /// The caller of the entry point vouches for them, as `cuMemcpy` and its like ask.
    pub(crate) unsafe fn bytes<'a>(self, length: usize) -> &'a [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(self.0 as *const u8, length) }
    }

    /// This many bytes from there on, to be written.
    ///
    /// # Safety
    ///
    /// As [`Self::bytes`].
    pub(crate) unsafe fn bytes_mut<'a>(self, length: usize) -> &'a mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.0 as *mut u8, length) }
    }
}

/// A function of the caller's that a stream calls on the host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostCall {
    /// With whatever the caller wants to get back.
    Plain { function: unsafe extern "C" fn(*mut c_void), data: u64 },
    /// The same, after the stream and its error.
    OfStream { function: unsafe extern "C" fn(Handle, u32, *mut c_void), stream: Handle, data: u64 },
}

impl HostCall {
    pub(crate) fn call(self) {
        match self {
            // SAFETY: the caller handed the function over to be called with this.
            Self::Plain { function, data } => unsafe { function(data as *mut c_void) },
            Self::OfStream { function, stream, data } => {
                // SAFETY: as above.
                unsafe { function(stream, 0, data as *mut c_void) }
            }
        }
    }
}

/// Runs an entry point. A panic in it is a fault of this driver, which the caller gets as one.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Result) -> Result {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        eprintln!("software GPU: {name} panicked, which is a fault of the software GPU");
        Err(Code::UNKNOWN)
    })
}

/// Entry points of the driver: their bodies give a [`Result`], they a `CUresult`.
macro_rules! driver {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) -> u32 {
            match crate::ffi::guard(stringify!($name), move || $body) {
                Ok(()) => 0,
                Err(code) => code.0,
            }
        }
    )*};
}

/// Entry points of the runtime: as those of the driver, but the thread remembers the last error.
macro_rules! runtime {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) -> u32 {
            crate::runtime::remember(crate::ffi::guard(stringify!($name), move || $body))
        }
    )*};
}

pub(crate) use {driver, runtime};
