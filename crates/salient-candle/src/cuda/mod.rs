//! candle's tensors on a CUDA device as operands of [`salient::cuda`], under feature `cuda`.
//!
//! | | |
//! |---|---|
//! | [`TensorView`] | a tensor's elements as a `CudaView`, its type and layout checked |
//! | [`tensor`] | a `CudaSlice` as a tensor |
//! | [`CudaBackend`] | what a block and a stage of a [`crate::Model`] need |
//!
//! # What candle allows
//!
//! A tensor's storage may be shared, and outside candle it can be read only: nothing here writes
//! through what it reads. Results are tensors of their own. Caches that salient compacts in place
//! ([`salient::cuda::compact::kv`]) are best owned as `CudaSlice`s, with tensors made of them last.
//!
//! candle's device launches on the per-thread default stream, another stream on every thread, and
//! cudarc's events do not order those. A [`CudaBackend`] owns its workspace and stays on its thread.
//! A prefill has ended when it returns. What [`crate::Model::extend`] returns, and the cache that it
//! appends to, may be used on its thread at once, on another one after `Device::synchronize`.
//!
//! # What was run
//!
//! `tests/cuda.rs` compares device and host where there is a device, and says so where there is
//! none. It runs on the software GPU (`scripts/candle-software-gpu`); on a GPU it has not run so
//! far.

mod attend;
mod backend;
mod graph;
mod tensor;

pub use backend::{CudaBackend, CudaPredictor};
pub(crate) use graph::StepGraph;
pub use tensor::{TensorView, tensor};
