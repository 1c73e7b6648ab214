//! The decoder again in plain candle operations: full-length, masked, differentiable.
//!
//! It shares nothing with the packed runner but the weights, so the two check each other: a run with
//! dropped tokens masked must equal the run that gathers the survivors.

use candle_core::{D, Device, Tensor};

use crate::error::Result;
use crate::model::Model;

/// An additive mask `[queries, keys]`: 0 where a query sees a key, `-inf` where not. A query sees
/// the keys at its own position and before, not further back than `window`.
///
/// # Errors
/// Those of candle.
pub fn causal_mask(queries: &[i32], keys: &[i32], window: Option<usize>) -> Result<Tensor> {
    masked(queries, keys, |query, key| {
        let near = window.is_none_or(|w| i64::from(query) - i64::from(key) < w as i64);
        key <= query && near
    })
}

/// An additive mask `[queries, keys]` by position.
///
/// # Errors
/// Those of candle.
pub fn masked(queries: &[i32], keys: &[i32], sees: impl Fn(i32, i32) -> bool) -> Result<Tensor> {
    let mut mask = Vec::with_capacity(queries.len() * keys.len());
    for &query in queries {
        mask.extend(keys.iter().map(|&key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY }));
    }
    Ok(Tensor::from_vec(mask, (queries.len(), keys.len()), &Device::Cpu)?)
}

/// Embeddings of tokens, `[tokens, hidden]`.
///
/// # Errors
/// [`Error::UnknownToken`](crate::Error::UnknownToken), and those of candle.
pub fn embed(model: &Model, tokens: &[u32]) -> Result<Tensor> {
    model.embed(tokens)
}

/// One block on `[tokens, hidden]`, every token a query and a key, under an additive mask. A row
/// that sees nothing gives NaN.
///
/// # Errors
/// Those of candle.
pub fn block(
    model: &Model,
    layer: usize,
    hidden: &Tensor,
    positions: &[i32],
    mask: &Tensor,
) -> Result<Tensor> {
    let config = model.config();
    let weights = &model.blocks()[layer];
    let eps = config.rms_eps;
    let (dim, heads, kv_heads) = (config.head_dim, config.heads, config.kv_heads);
    let tokens = hidden.dim(0)?;

    let normed = rms_norm(hidden, &weights.attn_norm, eps)?;
    let mut qkv = normed.matmul(&weights.qkv.t()?)?;
    if let Some(bias) = &weights.qkv_bias {
        qkv = qkv.broadcast_add(bias)?;
    }
    let part = |start: usize, count: usize| -> Result<Tensor> {
        Ok(qkv.narrow(1, start * dim, count * dim)?.reshape((tokens, count, dim))?)
    };
    let (mut q, mut k) = (part(0, heads)?, part(heads, kv_heads)?);
    let v = part(heads + kv_heads, kv_heads)?;
    if let Some((q_norm, k_norm)) = &weights.qk_norm {
        q = rms_norm(&q, q_norm, eps)?;
        k = rms_norm(&k, k_norm, eps)?;
    }
    let q = rotate(model, &q, positions)?;
    let k = rotate(model, &k, positions)?;
    // [heads, tokens, dim]; every KV head serves heads / kv_heads query heads.
    let q = q.transpose(0, 1)?.contiguous()?;
    let k = repeat(&k.transpose(0, 1)?, heads / kv_heads)?;
    let v = repeat(&v.transpose(0, 1)?, heads / kv_heads)?;
    let scale = 1.0 / (dim as f64).sqrt();
    let scores = (q.matmul(&k.t()?.contiguous()?)? * scale)?.broadcast_add(mask)?;
    let attended = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    let attended = attended.transpose(0, 1)?.reshape((tokens, heads * dim))?;
    let hidden = (hidden + attended.matmul(&weights.output.t()?)?)?;

    let normed = rms_norm(&hidden, &weights.ffn_norm, eps)?;
    let gate_up = normed.matmul(&weights.gate_up.t()?)?;
    let gate = gate_up.narrow(1, 0, config.ffn)?.silu()?;
    let up = gate_up.narrow(1, config.ffn, config.ffn)?;
    Ok((&hidden + (gate * up)?.matmul(&weights.down.t()?)?)?)
}

/// Next-token logits of final hidden states.
///
/// # Errors
/// Those of candle.
pub fn logits(model: &Model, hidden: &Tensor) -> Result<Tensor> {
    let normed = rms_norm(hidden, model.final_norm(), model.config().rms_eps)?;
    Ok(normed.matmul(&model.head().t()?)?)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)?)
}

fn rotate(model: &Model, x: &Tensor, positions: &[i32]) -> Result<Tensor> {
    let half = model.config().head_dim / 2;
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for &position in positions {
        let (c, s) = model.rope().row(position as usize);
        cos.extend_from_slice(c);
        sin.extend_from_slice(s);
    }
    let shape = (positions.len(), 1, half);
    let cos = Tensor::from_vec(cos, shape, &Device::Cpu)?;
    let sin = Tensor::from_vec(sin, shape, &Device::Cpu)?;
    let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let rotated_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let rotated_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    Ok(Tensor::cat(&[rotated_low, rotated_high], 2)?)
}

fn repeat(x: &Tensor, times: usize) -> Result<Tensor> {
    let (heads, tokens, dim) = x.dims3()?;
    Ok(x.unsqueeze(1)?.expand((heads, times, tokens, dim))?.contiguous()?.reshape((
        heads * times,
        tokens,
        dim,
    ))?)
}
