//! What a block and a stage do to tensors: on the host ([`HostBackend`]), and with feature `cuda`
//! on a CUDA device (`cuda::CudaBackend`).

mod host;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod masked;
mod predictor;

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use salient::Ragged;
use salient::schedule::StagePlan;
use salient::score::{AttentionScore, Pool};
use salient::select::{Budget, PerSequence, Protect, Request};

pub use host::HostBackend;
pub use predictor::Predictor;

use crate::cache::{CachedKeys, LayerCache};
use crate::error::{Error, Result};
use crate::rope::RopeTable;

/// What scorers and projections need. What one call returns may be passed to the next before the
/// device has made it.
pub trait Verbs {
    /// RMSNorm of the last dimension of a tensor.
    ///
    /// # Errors
    /// Those of candle.
    fn rms_norm(&mut self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// RMSNorm of every head of `[rows, heads, head_dim]`; may be in place.
    ///
    /// # Errors
    /// Those of candle.
    fn rms_norm_heads(&mut self, heads: Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// Rotates heads `[rows, heads, head_dim]` to `positions`, u32 `[rows]`; may be in place.
    ///
    /// # Errors
    /// Those of candle.
    fn rotate(&mut self, heads: Tensor, positions: &Tensor, rope: &RopeTable) -> Result<Tensor>;

    /// Scores of hidden states `[tokens, hidden]`: f32 `[tokens]`.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the predictor or the kernel takes.
    fn mlp(&mut self, predictor: &Predictor, hidden: &Tensor) -> Result<Tensor>;

    /// Minus the norms of keys `[tokens, kv_heads, head_dim]`, averaged over heads: f32 `[tokens]`.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes.
    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor>;

    /// Scores f32 `[tokens]` of keys `[tokens, kv_heads, head_dim]`, packed as `rows` says, by the
    /// attention of the last tokens of every sequence: their queries are `q`, `[asking, heads,
    /// head_dim]`, packed as `asking` says.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes, and lengths that do not
    /// fit together.
    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor>;

    /// Scores f32 `[tokens]`, pooled along the tokens of each sequence.
    ///
    /// # Errors
    /// For a tensor of another device or length, and an impossible width.
    fn pool(&mut self, scores: &Tensor, rows: &Ragged, pool: &Pool) -> Result<Tensor>;

    /// The share of a sequence's scores that are lower than each, f32 `[tokens]`; NaN for NaN.
    ///
    /// # Errors
    /// For a tensor of another device or length.
    fn rank(&mut self, scores: &Tensor, rows: &Ragged) -> Result<Tensor>;

    /// The time, when all that was asked for so far is done.
    ///
    /// # Errors
    /// Those of the device.
    fn timestamp(&mut self) -> Result<Timestamp>;
}

/// The rest of a stage and a block: select, compact, attend, and the sums between.
pub trait Backend: Verbs + Sized {
    /// Which tokens a selection kept.
    type Kept;

    /// Whether Q, K and V are best made by one product. Their parts then lie beside each other.
    const FUSED_QKV: bool;

    /// Which of the packed tokens `rows` stay at a stage, by scores f32 `[tokens]`.
    ///
    /// # Errors
    /// For lengths that do not fit together and budgets below the protected tokens;
    /// [`Error::NanScore`] where scores are at hand.
    fn select(&mut self, scores: &Tensor, rows: &Ragged, stage: &StagePlan) -> Result<Self::Kept>;

    /// The kept rows of tensors that have a row per token, in ascending order.
    ///
    /// # Errors
    /// For tensors of another device, type or layout, or with another number of rows.
    fn rows(&mut self, kept: &Self::Kept, tensors: &[&Tensor]) -> Result<Vec<Tensor>>;

    /// Attention of queries `q`, `[rows, heads, head_dim]`, over a layer's cache. The output has
    /// the shape and type of the queries.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes, and lengths that do not
    /// fit together.
    fn attend(
        &mut self,
        q: &Tensor,
        queries: &Queries<'_>,
        cache: &LayerCache,
        reach: &Reach,
    ) -> Result<Tensor>;

    /// Whether [`Backend::decode`] takes tensors of this type, with these numbers of query heads,
    /// KV heads and channels per head.
    fn decodes(&self, dtype: DType, heads: usize, kv_heads: usize, dim: usize) -> bool;

    /// Attention of one query per sequence, `[batch, heads, head_dim]`, over all of its cached
    /// keys. Their numbers are read where the tensors are.
    ///
    /// # Errors
    /// As [`Backend::attend`].
    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor>;

    /// `silu(gate) * up` of rows `[rows, 2 * width]`, gate first.
    ///
    /// # Errors
    /// Those of candle.
    fn swiglu(&mut self, gate_up: &Tensor) -> Result<Tensor>;

    /// `x + y`; may be in place of `x`.
    ///
    /// # Errors
    /// Those of candle.
    fn add(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor>;

    /// Puts `hidden` through `step` some rows at a time, so that wide activations stay in cache, or
    /// memory bounded. `step` may work in place.
    ///
    /// # Errors
    /// Those of `step` and of candle.
    fn by_rows(
        &mut self,
        hidden: Tensor,
        step: impl FnMut(&mut Self, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor>;

    /// Waits for the device.
    ///
    /// # Errors
    /// [`Error::NanScore`], [`salient::Error::Faulted`] for other faults that only the device saw,
    /// and those of the device.
    fn finish(&mut self) -> Result<()>;
}

/// Where queries stand among the cached keys of their sequences.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// Which queries belong to which sequence.
    pub rows: &'a Ragged,
    /// u32 `[rows]`, their original positions.
    pub positions: &'a Tensor,
    /// u32 `[rows]`, how many of its sequence's keys each sees. Without it, the queries are the
    /// last tokens of their sequences, and each sees itself and all before it.
    pub limits: Option<&'a Tensor>,
}

/// How far a layer's attention reaches.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Scales logits.
    pub scale: f32,
    /// How many positions back a query sees, itself included, if that is below the context.
    pub window: Option<usize>,
}

/// A point in time, of the host or of a device's stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum Timestamp {
    /// Of the host.
    Host(Instant),
    /// Of a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(salient::cuda::cudarc::driver::CudaEvent),
}

impl Timestamp {
    /// Time from this one to a later one of the same backend, which has finished; none between
    /// those of different kinds.
    ///
    /// # Errors
    /// Those of the device.
    pub fn until(&self, later: &Self) -> Result<Duration> {
        match (self, later) {
            (Self::Host(start), Self::Host(end)) => Ok(end.saturating_duration_since(*start)),
            #[cfg(feature = "cuda")]
            (Self::Cuda(start), Self::Cuda(end)) => {
                let milliseconds = start.elapsed_ms(end).map_err(salient::Error::from)?;
                Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
            }
            #[cfg(feature = "cuda")]
            _ => Ok(Duration::ZERO),
        }
    }
}

/// What a stage asks of a selection.
pub(crate) fn request<'a>(rows: &'a Ragged, stage: &'a StagePlan) -> Request<'a> {
    Request {
        rows,
        heads: 1,
        budget: Budget::Counts(&stage.counts[..]),
        protect: Protect { edges: PerSequence::Each(&stage.edges), mask: None },
    }
}

/// Checks that a stage was planned for these rows.
pub(crate) fn check_stage(rows: &Ragged, stage: &StagePlan) -> Result<()> {
    let mismatch = |what, expected, actual| {
        Err(salient::Error::LengthMismatch { what, expected, actual }.into())
    };
    for (what, actual) in [
        ("counts of a stage", stage.counts.len()),
        ("edges of a stage", stage.edges.len()),
        ("sequences of a stage", stage.rows.batch()),
    ] {
        if actual != rows.batch() {
            return mismatch(what, rows.batch(), actual);
        }
    }
    for ((len, &count), kept) in rows.lens().zip(&stage.counts).zip(stage.rows.lens()) {
        if kept != len.min(count) {
            return mismatch("tokens that a stage keeps of a sequence", len.min(count), kept);
        }
    }
    Ok(())
}

/// Checks that a tensor has a row per token.
pub(crate) fn check_rows(tensor: &Tensor, expected: usize) -> Result<()> {
    match tensor.dims().first() {
        Some(&rows) if rows == expected => Ok(()),
        first => {
            let (what, actual) = ("rows of a tensor", first.copied().unwrap_or_default());
            Err(salient::Error::LengthMismatch { what, expected, actual }.into())
        }
    }
}

pub(crate) fn unsupported(device: &Device) -> Error {
    Error::Unsupported {
        what: "device",
        name: format!("{:?}", device.location()),
        supported: if cfg!(feature = "cuda") {
            "cpu, cuda"
        } else {
            "cpu, and with feature `cuda` cuda"
        },
    }
}
