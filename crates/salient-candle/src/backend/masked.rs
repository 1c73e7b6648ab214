//! Attention in candle's operations, for what the verbs do not take: a masked product, some queries
//! at a time.

use candle_core::{D, DType, Tensor};
use salient::Ragged;

use super::Reach;
use crate::cache::LayerCache;
use crate::error::Result;

/// Attention weights that are there at once: in f32, 512 MiB.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "tests have their own"))]
pub(crate) const WEIGHTS: usize = 1 << 27;

/// What the queries of a layer see, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Masked {
    /// Whether the queries stand anywhere among the keys; else they are the last of their
    /// sequences.
    pub(crate) among: bool,
    pub(crate) reach: Reach,
    /// At most this many weights are there at once, or those of one query.
    pub(crate) weights: usize,
}

/// Attention of packed queries `[rows, heads, dim]` at `positions`, u32 `[rows]`, over a layer's
/// cache: `[rows, heads, dim]`. A query sees the keys at its own position and before.
pub(crate) fn attend(
    q: &Tensor,
    rows: &Ragged,
    positions: &Tensor,
    cache: &LayerCache,
    masked: Masked,
) -> Result<Tensor> {
    let Masked { among, reach: Reach { scale, window }, weights } = masked;
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
        let (keys, values) = (keys.contiguous()?, values.contiguous()?);
        let q = q.narrow(0, span.start, span.len)?.transpose(0, 1)?;
        let positions = positions.narrow(0, span.start, span.len)?;
        let step = (weights / (heads * cached)).max(1);
        for start in (0..span.len).step_by(step) {
            let len = step.min(span.len - start);
            let seen = if among { cached } else { cached - span.len + start + len };
            // The query heads of one KV head are rows of one product.
            let group = heads / kv_heads;
            let q = q.narrow(1, start, len)?.contiguous()?.reshape((kv_heads, group * len, dim))?;
            let keys = keys.narrow(1, 0, seen)?;
            let weights = q.matmul(&keys.t()?)?.to_dtype(DType::F32)?;
            let weights = if !among && len == 1 && window.is_none() {
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
            out.push(attended);
        }
    }
    match out.len() {
        1 => Ok(out.swap_remove(0)),
        _ => Ok(Tensor::cat(&out, 0)?),
    }
}

/// An additive mask `[queries, keys]`: 0 where a query sees a key, `-inf` where not.
fn mask(queries: &Tensor, keys: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let (queries, keys) = (queries.unsqueeze(1)?, keys.unsqueeze(0)?);
    let shape = (queries.dim(0)?, keys.dim(D::Minus1)?);
    let scalar = |value: f32| Tensor::new(value, queries.device())?.broadcast_as(shape);
    let (zero, hidden) = (scalar(0.0)?, scalar(f32::NEG_INFINITY)?);
    let mask = keys.broadcast_le(&queries)?.where_cond(&zero, &hidden)?;
    let Some(window) = window else { return Ok(mask) };
    let reach = keys.broadcast_add(&Tensor::new(&[window as u32], keys.device())?)?;
    Ok(reach.broadcast_gt(&queries)?.where_cond(&mask, &hidden)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::cache::KvCache;

    #[test]
    fn parts_make_the_whole() {
        let rows = Ragged::from_lens(&[40, 0, 23]).unwrap();
        let (dim, heads, kv_heads) = (8, 6, 2);
        let random = |heads| Tensor::randn(0f32, 1.0, (63, heads, dim), &Device::Cpu).unwrap();
        // With gaps, as after a stage.
        let positions: Vec<u32> = (0..40).chain(0..23).map(|i| 2 * i).collect();
        let positions = Tensor::new(positions, &Device::Cpu).unwrap();
        let mut cache = KvCache::new(1, 3, 0);
        cache.append(0, &rows, &random(kv_heads), &random(kv_heads), &positions).unwrap();
        let q = random(heads);
        for (among, window) in [(false, None), (false, Some(9)), (true, Some(31))] {
            let run = |weights| {
                let masked = Masked { among, reach: Reach { scale: 0.4, window }, weights };
                let layer = &cache.layers()[0];
                let out = attend(&q, &rows, &positions, layer, masked).unwrap();
                assert_eq!(out.dims(), q.dims());
                out.flatten_from(1).unwrap()
            };
            let whole = run(1 << 20).to_vec2::<f32>().unwrap();
            for weights in [0, 6 * 40 * 7] {
                let parts = run(weights).to_vec2::<f32>().unwrap();
                for (whole, part) in whole.iter().flatten().zip(parts.iter().flatten()) {
                    assert!((whole - part).abs() < 1e-5, "{whole} {part}");
                }
            }
        }
    }
}
