//! Stand-ins for the libraries that come with the toolkit: cuBLAS, cuRAND and NVRTC, as far as
//! programs on this device call them.
//!
//! What they have the device do is a [`Task`] in a stream, so it is ordered, captured and launched
//! with graphs like a kernel. A task touches device memory through [`Memory`] alone, which knows
//! its bounds.

mod blas;
mod nvrtc;
mod rand;

use std::panic::{AssertUnwindSafe, catch_unwind};

use salient_gpu::{Memory, MemoryError};

/// Something that a stream does in place of the kernels of a library.
pub(crate) trait Task: Send + Sync {
    /// What it is, for messages.
    fn name(&self) -> &'static str;

    /// Does it.
    fn run(&self, memory: &Memory) -> Result<(), MemoryError>;
}

/// Whether this many bytes are within an allocation.
fn check(memory: &Memory, address: u64, bytes: u64) -> Result<(), MemoryError> {
    let error = MemoryError { address, bytes };
    let end = address.checked_add(bytes).ok_or(error)?;
    let is_within = |(start, length): (u64, u64)| end <= start + length;
    memory.find(address).filter(|&found| is_within(found)).map(|_| ()).ok_or(error)
}

/// Runs an entry point of a library. A panic in it is a fault of this driver, told as `panicked`.
fn guard<S>(
    name: &str,
    panicked: S,
    body: impl FnOnce() -> std::result::Result<(), S>,
) -> std::result::Result<(), S> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        eprintln!("software GPU: {name} panicked, which is a fault of the software GPU");
        Err(panicked)
    })
}

/// Entry points of a library: their bodies give a result with its status, they the number of that.
macro_rules! entries {
    ($status:ident; $(fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $kind),*) -> u32 {
            let body = move || -> std::result::Result<(), $status> { $body };
            let result = crate::library::guard(stringify!($name), $status::INTERNAL, body);
            result.map_or_else(|status| status.0, |()| 0)
        }
    )*};
}

use entries;
