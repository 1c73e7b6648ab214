//! **attend** on a device. The contract is that of [`crate::host::attend`], for f16 and bf16.

mod decode;
mod prefill;

pub use decode::{DecodeInputs, decode};
pub use prefill::{PrefillInputs, prefill};

use cudarc::driver::CudaViewMut;

/// What attention writes.
#[derive(Debug)]
pub struct AttendOutputs<'a, O> {
    /// Laid out as the plan says; elements of its layout's gaps stay as they are.
    pub out: CudaViewMut<'a, O>,
    /// `[queries, q heads]`, exact: the log of every row's sum of exponentials, -inf for a row that
    /// sees no key.
    pub lse: Option<CudaViewMut<'a, f32>>,
}

impl<'a, O> AttendOutputs<'a, O> {
    /// The output alone.
    pub fn new(out: CudaViewMut<'a, O>) -> Self {
        Self { out, lse: None }
    }
}
