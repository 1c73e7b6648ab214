//! candle's tensors on a CUDA device as operands of [`salient::cuda`], under feature `cuda`.
//!
//! | | |
//! |---|---|
//! | [`TensorView`] | a tensor's elements as a `CudaView`, its type and layout checked |
//! | [`tensor`] | a `CudaSlice` as a tensor |
//! | [`CudaVerbs`] | score, select and compact of a stage on tensors, and attention |
//!
//! [`crate::device::DeviceModel`] runs a whole model this way.
//!
//! # What candle allows
//!
//! A tensor's storage may be shared, and outside candle it can be read only: nothing here writes
//! through what it reads. Results are tensors of their own. Caches that salient compacts in place
//! ([`salient::cuda::compact::kv`]) are best owned as `CudaSlice`s, with tensors made of them last.
//!
//! candle's device launches on the per-thread default stream, another stream on every thread, and
//! cudarc's events do not order those. A [`CudaVerbs`] owns its workspace and stays on its thread.
//!
//! # What was run
//!
//! Type-checked, with candle's CUDA backend; the checks of types and layouts are tested without a
//! GPU, as is the runner, on the host's verbs. `tests/cuda.rs` compares device and host where there
//! is a device, and says so where there is none. It has run on none so far.

mod attend;
mod graph;
mod tensor;
mod verbs;

pub(crate) use graph::StepGraph;
pub use tensor::{TensorView, tensor};
pub use verbs::{CudaKept, CudaPredictor, CudaVerbs};
