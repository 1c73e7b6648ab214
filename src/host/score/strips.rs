//! Scores from attention probabilities, without ever holding more than a strip of them.
//!
//! One task takes one KV head of one sequence and shares each read of K among the query heads of
//! its group. It goes over its queries in strips of about [`ROWS`] rows (query head, query):
//!
//! 1. for each tile of [`KEYS`] keys, in parallel: logits, then `e^(s - max)` and its sum, both
//!    over the tile alone;
//! 2. the tiles' maxima and sums give each row's softmax, as one factor per row and tile;
//! 3. for each tile, in parallel: `sums[h, t] += factor * e`, over the strip's rows.
//!
//! So every product and every exponential is computed once. Strips of long windows are dealt to a
//! fixed number of parts that add up separately: the order of additions, and with it every bit of
//! the result, is the same for any number of threads.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::maximum;
use crate::dtype::Element;
use crate::host::simd::{self, Packed};
use crate::layout::View;
use crate::ragged::Span;
use crate::score::{AttentionScore, HeadReduce, QueryWeights};

/// Keys of a tile: whole panels of a packed matrix, whatever the processor.
pub(super) const KEYS: usize = 192;

/// Rows (query head, query) of a strip.
const ROWS: usize = 48;

/// Up to this many rows are cheaper as dot products than by way of packed keys.
const FEW: usize = 6;

/// Parts that the strips of a window are dealt to.
const PARTS: usize = 8;

/// The query heads of one KV head, in one sequence.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, T> {
    pub(super) q: View<'a, T>,
    pub(super) k: View<'a, T>,
    pub(super) kv_head: usize,
    /// Rows of `q`: the sequence's last queries.
    pub(super) queries: Span,
    /// Rows of `k`: the sequence.
    pub(super) keys: Span,
    pub(super) params: &'a AttentionScore,
}

/// What the tiles of a strip leave for the steps after; kept from strip to strip.
#[derive(Default)]
struct Scratch {
    /// `[tile][row][key]`: `e^(s - max)`.
    weights: Vec<f32>,
    /// `[tile][row]`: the maxima, then the factors.
    max: Vec<f32>,
    /// `[tile][row]`.
    sum: Vec<f32>,
}

impl<T: Element> Group<'_, T> {
    /// Query heads per KV head.
    fn heads(&self) -> usize {
        self.q.layout.heads / self.k.layout.heads
    }

    /// Sum or maximum over the group's query heads of C, `[keys.len]`.
    pub(super) fn reduce_heads(&self, out: &mut [f32]) {
        let mut sums = self.column_sums();
        if self.params.heads == HeadReduce::MaxNormalised {
            for head in 0..self.heads() {
                let rows = || (head..sums.len() / KEYS).step_by(self.heads());
                let max = rows().map(|row| largest(&sums[row * KEYS..][..KEYS])).fold(0.0, maximum);
                if max != 0.0 {
                    for row in rows() {
                        sums[row * KEYS..][..KEYS].iter_mut().for_each(|sum| *sum /= max);
                    }
                }
            }
        }
        for (sums, out) in sums.chunks_exact(KEYS * self.heads()).zip(out.chunks_mut(KEYS)) {
            out.copy_from_slice(&sums[..out.len()]);
            for head in sums.chunks_exact(KEYS).skip(1) {
                accumulate(self.params.heads, out, head);
            }
        }
    }

    /// C as `[tile][head][key]`, 0 past the last key.
    fn column_sums(&self) -> Vec<f32> {
        let tiles = self.keys.len.div_ceil(KEYS);
        let zero = || vec![0f32; tiles * self.heads() * KEYS];
        if self.queries.len == 0 {
            return zero();
        }
        let weights = self.query_weights();
        let packed: Option<Vec<Packed>> = (self.heads() * self.queries.len > FEW)
            .then(|| (0..tiles).into_par_iter().map(|tile| self.pack(tile)).collect());
        let step = (ROWS / self.heads()).max(1);
        let strips = self.queries.len.div_ceil(step);
        let parts: Vec<Vec<f32>> = (0..strips.min(PARTS))
            .into_par_iter()
            .map(|part| {
                let (mut sums, mut scratch) = (zero(), Scratch::default());
                for strip in (part..strips).step_by(PARTS) {
                    let queries = strip * step..self.queries.len.min((strip + 1) * step);
                    self.add_strip(&packed, queries, &weights, &mut scratch, &mut sums);
                }
                sums
            })
            .collect();
        parts
            .into_iter()
            .reduce(|mut sums, part| {
                sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
                sums
            })
            .unwrap_or_else(zero)
    }

    /// One weight per query of the window, adding up to 1.
    fn query_weights(&self) -> Vec<f32> {
        let count = self.queries.len;
        let (first, last) = match self.params.query_weights {
            QueryWeights::Ramp { first, last } if count > 1 => (f64::from(first), f64::from(last)),
            _ => (1.0, 1.0),
        };
        let (step, sum) = ((last - first) / (count - 1).max(1) as f64, (first + last) / 2.0);
        (0..count).map(|j| ((first + step * j as f64) / (sum * count as f64)) as f32).collect()
    }

    /// The keys of a tile.
    fn tile(&self, tile: usize) -> Range<usize> {
        tile * KEYS..self.keys.len.min((tile + 1) * KEYS)
    }

    fn key(&self, index: usize) -> &[T] {
        self.k.row(self.keys.start + index, self.kv_head)
    }

    fn pack(&self, tile: usize) -> Packed {
        let keys = self.tile(tile);
        let dim = self.k.layout.dim;
        let mut rows = Vec::with_capacity(keys.len() * dim);
        keys.clone().for_each(|key| rows.extend_from_slice(self.key(key)));
        Packed::from_transposed(&rows, keys.len(), dim)
    }

    /// Queries times scale, `[head][query][dim]`.
    fn scaled_queries(&self, queries: Range<usize>) -> Vec<f32> {
        let dim = self.q.layout.dim;
        let mut rows = vec![0f32; self.heads() * queries.len() * dim];
        let mut out = rows.chunks_exact_mut(dim);
        for head in 0..self.heads() {
            for (query, row) in queries.clone().zip(&mut out) {
                let head = self.kv_head * self.heads() + head;
                T::widen(self.q.row(self.queries.start + query, head), row);
                row.iter_mut().for_each(|x| *x *= self.params.scale);
            }
        }
        rows
    }

    fn add_strip(
        &self,
        packed: &Option<Vec<Packed>>,
        queries: Range<usize>,
        weights: &[f32],
        scratch: &mut Scratch,
        sums: &mut [f32],
    ) {
        let q = self.scaled_queries(queries.clone());
        let rows = self.heads() * queries.len();
        // Query j sees `seen + j + 1` keys, so the strip as a whole `limit`.
        let seen = self.keys.len - self.queries.len;
        let limit = seen + queries.end;
        let tiles = limit.div_ceil(KEYS);
        let visible = |keys: &Range<usize>, row: usize| {
            let query = queries.start + row % queries.len();
            (seen + query + 1).saturating_sub(keys.start).min(keys.len())
        };
        scratch.weights.resize(tiles * rows * KEYS, 0.0);
        scratch.max.resize(tiles * rows, 0.0);
        scratch.sum.resize(tiles * rows, 0.0);

        scratch
            .weights
            .par_chunks_mut(rows * KEYS)
            .zip(scratch.max.par_chunks_mut(rows))
            .zip(scratch.sum.par_chunks_mut(rows))
            .enumerate()
            .for_each(|(tile, ((weights, max), sum))| {
                let keys = self.tile(tile);
                let weights = &mut weights[..rows * keys.len()];
                match packed {
                    Some(packed) => simd::matmul_block(&q, &packed[tile], weights),
                    None => simd::arch().dispatch(Dots {
                        group: self,
                        q: &q,
                        keys: keys.clone(),
                        out: weights,
                    }),
                }
                let visible = |row| visible(&keys, row);
                simd::arch().dispatch(TileSoftmax { weights, keys: keys.len(), visible, max, sum });
            });

        let row_weights: Vec<f32> =
            (0..self.heads()).flat_map(|_| &weights[queries.clone()]).copied().collect();
        simd::arch().dispatch(Factors {
            weights: &row_weights,
            max: &mut scratch.max,
            sum: &scratch.sum,
        });

        sums.par_chunks_mut(self.heads() * KEYS)
            .zip(scratch.weights.par_chunks(rows * KEYS))
            .zip(scratch.max.par_chunks(rows))
            .enumerate()
            .for_each(|(tile, ((sums, weights), factors))| {
                let keys = self.tile(tile);
                simd::arch().dispatch(AddRows {
                    weights,
                    keys: keys.len(),
                    visible: |row| visible(&keys, row),
                    factors,
                    per_head: queries.len(),
                    sums,
                });
            });
    }
}

/// Adds or takes the larger, entry by entry.
pub(super) fn accumulate(heads: HeadReduce, into: &mut [f32], from: &[f32]) {
    let pairs = into.iter_mut().zip(from);
    match heads {
        HeadReduce::Mean => pairs.for_each(|(a, &b)| *a += b),
        HeadReduce::Max | HeadReduce::MaxNormalised => {
            pairs.for_each(|(a, &b)| *a = maximum(*a, b));
        }
    }
}

/// Logits of a few rows of `q` against keys where they lie: `[row][key]`.
struct Dots<'a, T> {
    group: &'a Group<'a, T>,
    q: &'a [f32],
    keys: Range<usize>,
    out: &'a mut [f32],
}

impl<T: Element> WithSimd for Dots<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (dim, len) = (self.group.k.layout.dim, self.keys.len());
        let mut wide = vec![0f32; dim];
        for (i, key) in self.keys.enumerate() {
            let key = self.group.key(key);
            let key = T::as_f32(key).unwrap_or_else(|| {
                T::widen(key, &mut wide);
                &wide
            });
            for (q, out) in self.q.chunks_exact(dim).zip(self.out.chunks_exact_mut(len)) {
                out[i] = simd::dot(simd, q, key);
            }
        }
    }
}

/// Softmax without its denominator, over one tile: `[row][key]` logits become `e^(s - max)` where
/// visible and 0 where not.
struct TileSoftmax<'a, F> {
    weights: &'a mut [f32],
    keys: usize,
    /// Visible keys of a row.
    visible: F,
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl<F: Fn(usize) -> usize> WithSimd for TileSoftmax<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (row, weights) in self.weights.chunks_exact_mut(self.keys).enumerate() {
            let (seen, unseen) = weights.split_at_mut((self.visible)(row));
            self.max[row] = simd::row_max(simd, seen);
            self.sum[row] = simd::exp_sum(simd, seen, self.max[row]);
            unseen.fill(0.0);
        }
    }
}

/// Turns the tiles' maxima into factors, `[tile][row]`: what makes a row's
/// `e^(s - max of the tile)` its softmax times the row's weight.
struct Factors<'a> {
    weights: &'a [f32],
    max: &'a mut [f32],
    sum: &'a [f32],
}

impl WithSimd for Factors<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.weights.len();
        let mut max = vec![f32::NEG_INFINITY; rows];
        for tile in self.max.chunks_exact(rows) {
            max.iter_mut().zip(tile).for_each(|(max, &tile)| *max = max.max(tile));
        }
        let mut sum = vec![0f32; rows];
        for (tile, tile_sum) in self.max.chunks_exact_mut(rows).zip(self.sum.chunks_exact(rows)) {
            tile.iter_mut().zip(&max).for_each(|(tile, max)| *tile -= max);
            simd::exp_sum(simd, tile, 0.0);
            for ((sum, &factor), &tile_sum) in sum.iter_mut().zip(&*tile).zip(tile_sum) {
                *sum += factor * tile_sum;
            }
        }
        sum.iter_mut().zip(self.weights).for_each(|(sum, weight)| *sum = weight / *sum);
        for tile in self.max.chunks_exact_mut(rows) {
            tile.iter_mut().zip(&sum).for_each(|(factor, scale)| *factor *= scale);
        }
    }
}

/// `sums[h, t] +=` factor times weight, over the rows of head h and the keys they see: a row that
/// is NaN leaves the keys it does not see alone.
struct AddRows<'a, F> {
    weights: &'a [f32],
    keys: usize,
    /// Visible keys of a row.
    visible: F,
    factors: &'a [f32],
    per_head: usize,
    sums: &'a mut [f32],
}

impl<F: Fn(usize) -> usize> WithSimd for AddRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.weights.chunks_exact(self.keys).zip(self.factors);
        for (row, (weights, &factor)) in rows.enumerate() {
            let weights = &weights[..(self.visible)(row)];
            simd::axpy(simd, factor, weights, &mut self.sums[row / self.per_head * KEYS..][..KEYS]);
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    struct Largest<'a>(&'a [f32]);
    impl WithSimd for Largest<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            simd::row_max(simd, self.0)
        }
    }
    simd::arch().dispatch(Largest(values))
}
