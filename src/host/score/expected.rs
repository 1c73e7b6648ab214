//! Expected Attention.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::host::simd::{self, Packed, matmul_block};
use crate::layout::View;
use crate::ragged::{Ragged, Span};
use crate::score::{ExpectedAttention, Per, QueryStatistics, check_statistics};

/// The attention that queries of known mean mu and covariance Sigma are expected to pay to each
/// key, weighed by the norm of its value (Expected Attention, arXiv 2510.00636; kvpress
/// `ExpectedAttentionPress`):
///
/// ```text
/// x[g, t] = scale * mu[g] . k[t] + scale^2 / 2 * k[t]' Sigma[g] k[t]     of query head g
/// A[g, t] = softmax of x[g] over the tokens of the sequence after its sinks; 0 for the sinks
/// S[h, t] = (mean of A[g, t] over the heads g of KV head h + epsilon) * |v[h, t]|
/// score   = S, or its mean over KV heads: see Per
/// ```
///
/// `exp(x)` is the mean of `exp(scale * q . k)` over normal queries. Without a covariance its term
/// is 0, without values their norm 1. A key of which a channel is not finite has x = NaN, which is
/// all scores of its sequence and KV head then.
///
/// `statistics` holds one for all sequences or one for each, averaged over the positions to come
/// ([`QueryStatistics::averaged`]) since keys lie in the cache after rotary embedding; all with a
/// covariance or none. `k` and `v` are `[total, kv_heads, dim]`, each of its own dim; `out` is
/// `[total]` or `[kv_heads, total]`. The result depends neither on the number of threads nor on the
/// other sequences.
///
/// ```
/// use salient::host::score::expected;
/// use salient::score::{ExpectedAttention, QueryStatistics, Rotary};
/// use salient::{Ragged, View};
/// # fn main() -> salient::Result<()> {
/// let (tokens, heads, kv_heads, dim) = (6, 2, 1, 4);
/// // Queries before rotary embedding; keys and values as they lie in the cache.
/// let q: Vec<f32> = (0..tokens * heads * dim).map(|i| (i % 7) as f32 / 7.0).collect();
/// let (k, v) = (vec![0.5f32; tokens * kv_heads * dim], vec![1f32; tokens * kv_heads * dim]);
/// let rotary = Rotary::new(10_000.0, dim)?;
/// let statistics = QueryStatistics::of(View::token_major(&q[..], heads, dim), tokens, true)?
///     .averaged(&rotary, tokens, 512)?;
/// let rows = Ragged::from_lens(&[tokens])?;
/// let mut scores = vec![0.0; kv_heads * tokens];
/// expected(
///     View::token_major(&k[..], kv_heads, dim),
///     Some(View::token_major(&v[..], kv_heads, dim)),
///     &rows,
///     &[statistics],
///     &ExpectedAttention::new(0.5),
///     &mut scores,
/// )?;
/// // Alike keys share the attention, values have norm 2, and the first 4 tokens are sinks.
/// assert_eq!(scores, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::OutOfRange`], [`Error::LengthMismatch`] or [`Error::Unfit`] if heads, channels,
/// lengths, statistics or options do not fit each other.
pub fn expected<T: Element>(
    k: View<'_, T>,
    v: Option<View<'_, T>>,
    rows: &Ragged,
    statistics: &[QueryStatistics],
    options: &ExpectedAttention,
    out: &mut [f32],
) -> Result<()> {
    let (total, heads) = (rows.total(), k.layout.heads);
    options.check()?;
    let (q_heads, dim) = check_statistics(statistics, rows.batch(), heads)?;
    check_len("channels of a key", dim, k.layout.dim)?;
    k.layout.check("k", total, k.data.len())?;
    if let Some(v) = v {
        check_len("heads of v", heads, v.layout.heads)?;
        v.layout.check("v", total, v.data.len())?;
    }
    let scratch = total.checked_mul(heads).ok_or(Error::Overflow { what: "scores" })?;
    check_len("out", if options.per == Per::Token { total } else { scratch }, out.len())?;

    let weights: Vec<Vec<HeadWeights>> = statistics
        .iter()
        .map(|one| (0..q_heads).map(|head| HeadWeights::new(one, head, options.scale)).collect())
        .collect();
    // [kv_heads, total].
    let mut scores = vec![0f32; scratch];
    let mut tasks = Vec::with_capacity(heads * rows.batch());
    let mut rest = &mut scores[..];
    for kv_head in 0..heads {
        for (sequence, span) in rows.spans().enumerate() {
            let (out, after) = rest.split_at_mut(span.len);
            rest = after;
            let weights = &weights[if weights.len() == 1 { 0 } else { sequence }];
            let weights = &weights[kv_head * (q_heads / heads)..][..q_heads / heads];
            tasks.push((Head { k, v, kv_head, span, weights, options }, out));
        }
    }
    tasks.into_par_iter().for_each(|(head, out)| head.score(out));

    match options.per {
        Per::KvHead => out.copy_from_slice(&scores),
        Per::Token => {
            out.fill(0.0);
            for head in scores.chunks_exact(total.max(1)) {
                out.iter_mut().zip(head).for_each(|(out, score)| *out += score);
            }
            out.iter_mut().for_each(|out| *out /= heads as f32);
        }
    }
    Ok(())
}

/// Of one query head, scaled so that `x = k . (mean + product k)`.
struct HeadWeights {
    mean: Vec<f32>,
    product: Option<Packed>,
}

impl HeadWeights {
    fn new(statistics: &QueryStatistics, head: usize, scale: f32) -> Self {
        let dim = statistics.dim();
        let mean = &statistics.mean()[head * dim..][..dim];
        let product = statistics.covariance().map(|covariance| {
            let factor = f64::from(scale) * f64::from(scale) / 2.0;
            let scaled: Vec<f32> = covariance[head * dim * dim..][..dim * dim]
                .iter()
                .map(|&x| (factor * f64::from(x)) as f32)
                .collect();
            Packed::from_transposed(&scaled, dim, dim)
        });
        Self { mean: mean.iter().map(|mean| scale * mean).collect(), product }
    }
}

/// One KV head of one sequence.
struct Head<'a, T> {
    k: View<'a, T>,
    v: Option<View<'a, T>>,
    kv_head: usize,
    span: Span,
    weights: &'a [HeadWeights],
    options: &'a ExpectedAttention,
}

impl<T: Element> Head<'_, T> {
    /// Tokens that one task takes.
    const TOKENS: usize = 64;

    fn score(&self, out: &mut [f32]) {
        let sinks = self.options.sinks.min(out.len());
        out.fill(0.0);
        let attention = &mut out[sinks..];
        let mut row = vec![0f32; attention.len()];
        for weights in self.weights {
            row.par_chunks_mut(Self::TOKENS).enumerate().for_each(|(chunk, row)| {
                self.logits(weights, sinks + chunk * Self::TOKENS, row);
            });
            simd::arch().dispatch(AddSoftmax { row: &mut row, sum: attention });
        }
        out.par_chunks_mut(Self::TOKENS).enumerate().for_each(|(chunk, out)| {
            simd::arch().dispatch(Weigh { head: self, first: chunk * Self::TOKENS, out });
        });
    }

    /// The logits of the sequence's tokens from `first` on.
    fn logits(&self, weights: &HeadWeights, first: usize, out: &mut [f32]) {
        let dim = self.k.layout.dim;
        let mut keys = vec![0f32; out.len() * dim];
        for (token, key) in (self.span.start + first..).zip(keys.chunks_exact_mut(dim)) {
            T::widen(self.k.row(token, self.kv_head), key);
        }
        let mut products = vec![0f32; keys.len()];
        if let Some(product) = &weights.product {
            matmul_block(&keys, product, &mut products);
        }
        simd::arch().dispatch(Logits { keys: &keys, products: &mut products, weights, out });
    }
}

/// `out = k . (mean + product)` for every key.
struct Logits<'a> {
    keys: &'a [f32],
    products: &'a mut [f32],
    weights: &'a HeadWeights,
    out: &'a mut [f32],
}

impl WithSimd for Logits<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let dim = self.weights.mean.len();
        let rows = self.keys.chunks_exact(dim).zip(self.products.chunks_exact_mut(dim));
        for ((key, product), out) in rows.zip(self.out) {
            simd::axpy(simd, 1.0, &self.weights.mean, product);
            let finite = key.iter().all(|x| x.is_finite());
            *out = if finite { simd::dot(simd, key, product) } else { f32::NAN };
        }
    }
}

/// `sum += softmax(row)`.
struct AddSoftmax<'a> {
    row: &'a mut [f32],
    sum: &'a mut [f32],
}

impl WithSimd for AddSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let max = simd::row_max(simd, self.row);
        let total = simd::exp_sum(simd, self.row, max);
        for (sum, &x) in self.sum.iter_mut().zip(&*self.row) {
            *sum += x / total;
        }
    }
}

/// Makes sums over a group's heads scores.
struct Weigh<'a, T> {
    head: &'a Head<'a, T>,
    first: usize,
    out: &'a mut [f32],
}

impl<T: Element> WithSimd for Weigh<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Head { v, kv_head, span, weights, options, .. } = *self.head;
        let mut buffer = vec![0f32; v.map_or(0, |v| v.layout.dim)];
        for (token, out) in (span.start + self.first..).zip(self.out) {
            let norm = v.map_or(1.0, |v| {
                let value = simd::widened(v.row(token, kv_head), &mut buffer);
                simd::dot(simd, value, value).sqrt()
            });
            *out = (*out / weights.len() as f32 + options.epsilon) * norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the scores stand for: unnormalised attention of normal queries, on average.
    #[test]
    fn normal_queries_pay_the_attention_that_is_expected() {
        const QUERIES: usize = 1 << 16;
        // Sums of 12 uniform numbers are nearly normal; the last channel follows the first.
        let positions: Vec<i32> = (0..(2 * 12 * QUERIES) as i32).collect();
        let mut uniform = vec![0f32; positions.len()];
        crate::host::score::random(1, &positions, &mut uniform).unwrap();
        let normal: Vec<f32> =
            uniform.chunks_exact(12).map(|twelve| twelve.iter().sum::<f32>() - 6.0).collect();
        let q: Vec<f32> = normal
            .chunks_exact(2)
            .flat_map(|pair| [pair[0] + 0.5, pair[1] - 1.0, 0.8 * pair[0] + 0.3 * pair[1]])
            .collect();
        let statistics = QueryStatistics::of(View::token_major(&q, 1, 3), QUERIES, true).unwrap();
        let k = [0.3f32, -0.4, 0.9, 0.0, 0.0, 0.0, -1.0, 0.2, 0.5, 0.7, 0.7, 0.7];
        let options = ExpectedAttention { sinks: 0, ..ExpectedAttention::new(0.7) };
        let rows = Ragged::from_lens(&[4]).unwrap();
        let mut scores = [0f32; 4];
        let keys = View::token_major(&k, 1, 3);
        expected(keys, None, &rows, &[statistics], &options, &mut scores).unwrap();

        let paid = k.chunks_exact(3).map(|k| {
            let dot = |q: &[f32]| f64::from(q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>());
            q.chunks_exact(3).map(|q| (0.7 * dot(q)).exp()).sum::<f64>()
        });
        let paid: Vec<f64> = paid.collect();
        let total: f64 = paid.iter().sum();
        for (score, paid) in scores.iter().zip(&paid) {
            let error = f64::from(*score) / (paid / total) - 1.0;
            assert!(error.abs() < 0.02, "{scores:?} for {paid:?} of {total}");
        }
    }
}
