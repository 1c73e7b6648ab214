//! **attend** on the emulated kernels.

mod decode;

pub use decode::{DecodeOutputs, DecodeRun};
