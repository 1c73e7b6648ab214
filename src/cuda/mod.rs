//! The device backend: the four verbs on buffers that the caller owns, on the caller's stream, over
//! [`cudarc`]. Under feature `cuda`.
//!
//! | function | does |
//! |---|---|
//! | [`score::mlp`] | scores hidden states with a trained [`score::Predictor`] |
//! | [`score::keynorm`] | scores keys by their norms |
//! | [`score::attention`] | scores tokens by the attention that the last queries, or all, pay them |
//! | [`score::pool`] | pools scores along tokens |
//! | [`score::rank`] | makes percentile ranks of scores |
//! | [`score::expected`] | scores keys by the attention that [`score::Statistics`] of queries expect |
//! | [`score::indexer`] | logits of a lightning indexer |
//! | [`select::select`] | decides which tokens stay |
//! | [`compact::rows`], [`compact::rows_in_place`] | move rows of several tensors |
//! | [`compact::kv`] | moves keys and values of all layers, contiguous or paged, in place |
//! | [`attend::prefill`] | attention of packed queries under a row limit |
//! | [`attend::decode`] | attention of one query per sequence, over all keys or listed ones |
//! | [`validate::validate`] | checks lists that only the device sees |
//! | [`prepare`] | does ahead what first launches would do besides launching |
//! | [`probe`] | says whether there is a device, and why not; never panics |
//!
//! # Launches
//!
//! What the host knows ahead of a launch is a plan of [`crate::kernels`], which also says how much
//! workspace the launch takes. A launch checks lengths, strides, alignment and contexts on the
//! host, and returns an `Err` before anything is enqueued; it never allocates and never
//! synchronises, so it may be captured into a CUDA graph. What only the device can see (a list that
//! does not ascend, a budget below the protected tokens) is added to a [`StatusWord`], read when
//! the caller likes.
//!
//! A launch waits for earlier work on its buffers, and later work waits for it, as far as cudarc
//! tracks events; else the order of the stream is the order of the work. A stream that another
//! crate gives out may be the per-thread default stream (candle's is): it is another stream on
//! every thread.
//!
//! # Graphs
//!
//! `examples/cuda_graph.rs` captures score, select and compact and replays them; a captured
//! [`attend::decode`] serves every length and list up to its plan's capacity. Capture on a stream
//! of [`cudarc::driver::CudaContext::per_thread_stream`], or of
//! [`cudarc::driver::CudaContext::new_stream`] after event tracking was switched off: a captured
//! launch must not wait for events from outside. Call [`prepare`] before, for a first launch would
//! load its kernel and set its attributes in the midst of the capture. A graph holds the addresses
//! of its buffers, and nothing in Rust's types says so: they must outlive it.
//!
//! # What was run
//!
//! The checks and the making of parameters are tested without a GPU; the rest, from these functions
//! down to the instructions of the kernels, by `tests/device.rs` on the software GPU
//! (`docs/software-gpu.md`), and on a device where there is one. `benches/records/` tells on which
//! devices it has run; where that holds no record of a device, it has run on none.
#![allow(unsafe_code, reason = "calls the launchers, and reads views as bytes")]

mod array;
pub mod attend;
pub mod compact;
mod operands;
mod prepare;
mod probe;
pub mod score;
pub mod select;
mod session;
mod status;
pub mod validate;

pub use array::{Array, TensorView};
pub use cudarc;
pub use operands::{ContextId, bytes, bytes_mut, signed};
pub use prepare::prepare;
pub use probe::{Backend, Driver, NoDevice, probe};
pub use session::{
    Attended, CachedKeys, DeviceSelection, FreedPages, IndexerTensors, Place, Session,
};
pub use status::StatusWord;

use cudarc::driver::DeviceRepr;

use crate::dtype::Element;

/// An element type of tensors on a device.
pub trait DeviceElement: Element + DeviceRepr {}

impl<T: Element + DeviceRepr> DeviceElement for T {}
