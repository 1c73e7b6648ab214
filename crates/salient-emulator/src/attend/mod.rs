//! **attend** on the emulated kernels.

mod decode;
mod prefill;

pub use decode::{DecodeOutputs, DecodeRun};
pub use prefill::PrefillRun;
