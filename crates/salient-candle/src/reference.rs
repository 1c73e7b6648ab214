//! The decoder again in plain candle operations: full-length, masked, differentiable; and gradients
//! through it. It runs where the model's weights are, in f32 whatever their type.
//!
//! It shares nothing with the packed runner but the weights, so the two check each other: a run
//! with dropped tokens masked must equal the run that gathers the survivors.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::model::Model;

/// Positions whose logits are materialised at once; the vocabulary is wide.
const LOSS_ROWS: usize = 256;

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
/// [`Error::UnknownToken`], and those of candle.
pub fn embed(model: &Model, tokens: &[u32]) -> Result<Tensor> {
    Ok(in_f32(&model.embed(tokens)?)?)
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
    Ok(block_and_attention(model, layer, hidden, positions, mask, None)?.0)
}

/// What [`block`] returns, and its attention probabilities `[heads, queries, keys]`.
///
/// With `keep`, `[tokens]` of 0, 1 or what lies between, other queries attend to a key to that
/// degree: numerators of the softmax are multiplied by it (DynamicViT, arXiv 2106.02034, equation
/// 11), which unlike a mask has a gradient by `keep`.
///
/// # Errors
/// Those of candle.
pub fn block_and_attention(
    model: &Model,
    layer: usize,
    hidden: &Tensor,
    positions: &[i32],
    mask: &Tensor,
    keep: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let config = model.config();
    let weights = &model.blocks()[layer].map(in_f32)?;
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
    let mask = mask.to_device(hidden.device())?;
    let scores = (q.matmul(&k.t()?.contiguous()?)? * scale)?.broadcast_add(&mask)?;
    let attention = match keep {
        Some(keep) => kept_softmax(&scores, keep)?,
        None => candle_nn::ops::softmax(&scores, D::Minus1)?,
    };
    let attended = attention.matmul(&v)?;
    let attended = attended.transpose(0, 1)?.reshape((tokens, heads * dim))?;
    let hidden = (hidden + attended.matmul(&weights.output.t()?)?)?;

    let normed = rms_norm(&hidden, &weights.ffn_norm, eps)?;
    let gate_up = normed.matmul(&weights.gate_up.t()?)?;
    let gate = gate_up.narrow(1, 0, config.ffn)?.silu()?;
    let up = gate_up.narrow(1, config.ffn, config.ffn)?;
    let hidden = (&hidden + (gate * up)?.matmul(&weights.down.t()?)?)?;
    Ok((hidden, attention))
}

/// Next-token logits of final hidden states.
///
/// # Errors
/// Those of candle.
pub fn logits(model: &Model, hidden: &Tensor) -> Result<Tensor> {
    let normed = rms_norm(hidden, &in_f32(model.final_norm())?, model.config().rms_eps)?;
    Ok(normed.matmul(&in_f32(model.head())?.t()?)?)
}

/// The input of some blocks, `[tokens, hidden]` each, of a text alone.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::UnknownToken`] and those of candle.
pub fn inputs(model: &Model, tokens: &[u32], layers: &[usize]) -> Result<BTreeMap<usize, Tensor>> {
    let last = layers.iter().copied().max().unwrap_or(0);
    let mut inputs = BTreeMap::new();
    let hidden = run(model, tokens, last, |layer, hidden| {
        if layers.contains(&layer) {
            inputs.insert(layer, hidden.clone());
        }
    })?;
    if layers.contains(&last) {
        inputs.insert(last, hidden);
    }
    Ok(inputs)
}

/// The hidden states of a text alone after its first `blocks` blocks. `visit` is given each of
/// these and its input.
///
/// # Errors
/// As [`inputs`].
pub fn run(
    model: &Model,
    tokens: &[u32],
    blocks: usize,
    mut visit: impl FnMut(usize, &Tensor),
) -> Result<Tensor> {
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt { sequence: 0 });
    }
    let positions: Vec<i32> = (0..tokens.len() as i32).collect();
    let mut hidden = embed(model, tokens)?;
    for layer in 0..blocks {
        visit(layer, &hidden);
        let mask = causal_mask(&positions, &positions, model.config().window_at(layer))?;
        hidden = block(model, layer, &hidden, &positions, &mask)?.detach();
    }
    Ok(hidden)
}

/// A block as the backward pass of [`gradients`] meets it.
#[derive(Debug)]
pub struct BlockGradient {
    /// The block.
    pub layer: usize,
    /// Its input, `[tokens, hidden]`.
    pub input: Tensor,
    /// The gradient by its input, `[tokens, hidden]`.
    pub gradient: Tensor,
    /// Its attention probabilities, `[heads, queries, keys]`.
    pub attention: Tensor,
}

/// The gradient of the log-likelihood of `tokens[scored]`, each given those before it, by the input
/// of every block from the last down to `lowest`, in that order. The first token has nothing before
/// it and is never scored.
///
/// The backward pass goes block by block: hidden states between blocks are kept, everything inside
/// a block is computed again, so memory is one block's graph.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::UnknownToken`], those of candle and of `visit`.
///
/// # Panics
/// If `scored` ends beyond the tokens.
pub fn gradients(
    model: &Model,
    tokens: &[u32],
    scored: Range<usize>,
    lowest: usize,
    mut visit: impl FnMut(BlockGradient) -> Result<()>,
) -> Result<()> {
    let mut inputs = Vec::new();
    let last = run(model, tokens, model.config().layers, |_, hidden| inputs.push(hidden.clone()))?;
    let positions: Vec<i32> = (0..tokens.len() as i32).collect();
    // Row i predicts token i + 1.
    let rows: Vec<usize> = (scored.start.max(1)..scored.end).map(|token| token - 1).collect();
    let (_, mut gradient) = head_gradient(model, &last, &rows, |logits, rows| {
        Ok(log_likelihood(logits, rows, tokens)?.sum_all()?)
    })?;
    for (layer, input) in inputs.into_iter().enumerate().skip(lowest).rev() {
        let variable = Var::from_tensor(&input)?;
        let mask = causal_mask(&positions, &positions, model.config().window_at(layer))?;
        let (output, attention) =
            block_and_attention(model, layer, &variable, &positions, &mask, None)?;
        let grads = (output * &gradient)?.sum_all()?.backward()?;
        gradient = grads.get(&variable).expect("the output depends on its input").detach();
        let attention = attention.detach();
        visit(BlockGradient { layer, input, gradient: gradient.clone(), attention })?;
    }
    Ok(())
}

/// The sum of a loss over rows of final hidden states, and its gradient by all of them. `loss`
/// takes the logits of some rows, and which they are, and returns the sum of theirs.
///
/// # Errors
/// Those of candle and of `loss`.
pub fn head_gradient(
    model: &Model,
    hidden: &Tensor,
    rows: &[usize],
    loss: impl Fn(&Tensor, &[usize]) -> Result<Tensor>,
) -> Result<(f64, Tensor)> {
    let (mut value, mut gradient) = (0.0, hidden.zeros_like()?);
    for rows in rows.chunks(LOSS_ROWS) {
        let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let index = Tensor::new(index, hidden.device())?;
        let input = Var::from_tensor(&hidden.index_select(&index, 0)?)?;
        let part = loss(&logits(model, &input)?, rows)?;
        value += f64::from(part.to_scalar::<f32>()?);
        let grads = part.backward()?;
        let slope = grads.get(&input).expect("the loss depends on its input");
        gradient = gradient.index_add(&index, slope, 0)?;
    }
    Ok((value, gradient))
}

/// The log-likelihood of the token after each of some rows, `[rows]`, from their logits.
///
/// # Errors
/// Those of candle.
pub fn log_likelihood(logits: &Tensor, rows: &[usize], tokens: &[u32]) -> Result<Tensor> {
    let next: Vec<u32> = rows.iter().map(|row| tokens[row + 1]).collect();
    let next = Tensor::new(next, logits.device())?.unsqueeze(1)?;
    Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(&next, 1)?.squeeze(1)?)
}

/// The softmax over keys whose numerators are multiplied by `keep`, but for a query's own key.
fn kept_softmax(scores: &Tensor, keep: &Tensor) -> Result<Tensor> {
    let tokens = keep.dim(0)?;
    let own = Tensor::eye(tokens, DType::F32, keep.device())?;
    let others = own.affine(-1.0, 1.0)?;
    let degree = (others.broadcast_mul(&keep.unsqueeze(0)?)? + own)?;
    let largest = scores.max_keepdim(D::Minus1)?.detach();
    let numerators = scores.broadcast_sub(&largest)?.exp()?.broadcast_mul(&degree)?;
    let sums = numerators.sum_keepdim(D::Minus1)?;
    // All but a query's own key may be dropped, and that one have next to no weight.
    Ok(numerators.broadcast_div(&(sums + 1e-6)?)?)
}

/// Weights of a model in half precision, for sums in f32; others as they are.
fn in_f32(weights: &Tensor) -> candle_core::Result<Tensor> {
    weights.to_dtype(DType::F32)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)?)
}

fn rotate(model: &Model, x: &Tensor, positions: &[i32]) -> Result<Tensor> {
    let half = model.config().head_dim / 2;
    let positions: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
    model.reach(&positions)?;
    let positions = Tensor::new(positions, x.device())?;
    let rows = |table: &Tensor| in_f32(&table.index_select(&positions, 0)?)?.unsqueeze(1);
    let [cos, sin] = model.rope().tables();
    let (cos, sin) = (rows(&cos)?, rows(&sin)?);
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
