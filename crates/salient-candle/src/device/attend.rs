//! Attention in candle's operations: a masked product, some queries at a time.

use candle_core::{D, DType, Device, Tensor};
use salient::Ragged;

use super::cache::DeviceLayer;
use super::joined;
use crate::error::Result;

/// Attention weights that are there at once: in f32, 512 MiB.
const WEIGHTS: usize = 1 << 27;

/// Where the queries of a sequence stand among its cached keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// They are the last ones.
    Last,
    /// Anywhere, by position.
    Among,
}

/// Attention of packed queries `[rows, heads, dim]` at `positions`, u32 `[rows]`, over a layer's
/// cache: `[rows, heads * dim]`. A query sees the keys at its own position and before, not further
/// back than `window`.
pub(super) fn attend(
    q: &Tensor,
    rows: &Ragged,
    positions: &Tensor,
    cache: &DeviceLayer,
    queries: Queries,
    window: Option<usize>,
    scale: f32,
) -> Result<Tensor> {
    let (_, heads, dim) = q.dims3()?;
    // Scaled before the product, which f16 might not hold otherwise.
    let q = (q * f64::from(scale))?;
    let mut out = Vec::new();
    for (sequence, span) in rows.spans().enumerate() {
        let (keys, values, key_positions) = match cache.sequence(sequence)? {
            Some(cached) if span.len > 0 => cached,
            _ => continue,
        };
        let (kv_heads, cached, _) = keys.dims3()?;
        let q = q.narrow(0, span.start, span.len)?.transpose(0, 1)?;
        let positions = positions.narrow(0, span.start, span.len)?;
        let step = (WEIGHTS / (heads * cached)).max(1);
        for start in (0..span.len).step_by(step) {
            let len = step.min(span.len - start);
            let seen = match queries {
                Queries::Last => cached - span.len + start + len,
                Queries::Among => cached,
            };
            // The query heads of one KV head are rows of one product.
            let group = heads / kv_heads;
            let q = q.narrow(1, start, len)?.contiguous()?.reshape((kv_heads, group * len, dim))?;
            let keys = keys.narrow(1, 0, seen)?;
            let weights = q.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
            let weights = if queries == Queries::Last && len == 1 && window.is_none() {
                weights
            } else {
                let mask = mask(
                    &positions.narrow(0, start, len)?,
                    &key_positions.narrow(0, 0, seen)?,
                    window,
                )?;
                let by_query = weights.reshape((kv_heads * group, len, seen))?;
                by_query.broadcast_add(&mask)?.reshape((kv_heads, group * len, seen))?
            };
            let weights = candle_nn::ops::softmax_last_dim(&weights)?.to_dtype(q.dtype())?;
            let attended = weights.matmul(&values.narrow(1, 0, seen)?)?;
            let attended = attended.reshape((heads, len, dim))?.transpose(0, 1)?;
            out.push(attended.reshape((len, heads * dim))?);
        }
    }
    joined(out)
}

/// An additive mask `[queries, keys]`: 0 where a query sees a key, `-inf` where not.
fn mask(queries: &Tensor, keys: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let (queries, keys) = (queries.unsqueeze(1)?, keys.unsqueeze(0)?);
    let shape = (queries.dim(0)?, keys.dim(D::Minus1)?);
    let scalar = |value: f32| Tensor::new(value, queries.device())?.broadcast_as(shape);
    let (zero, hidden) = (scalar(0.0)?, scalar(f32::NEG_INFINITY)?);
    let mask = keys.broadcast_le(&queries)?.where_cond(&zero, &hidden)?;
    // A window as wide as all positions hides nothing.
    let Some(window) = window.and_then(|window| u32::try_from(window).ok()) else {
        return Ok(mask);
    };
    let reach =
        keys.broadcast_add(&Tensor::new(&[window], &Device::Cpu)?.to_device(keys.device())?)?;
    Ok(reach.broadcast_gt(&queries)?.where_cond(&mask, &hidden)?)
}
