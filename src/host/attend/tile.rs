//! One tile of keys against tiles of query rows, in vector registers.
//!
//! Everything is computed transposed: vector lanes are query rows, so that logits come out of
//! `K Q^T` as `[key, row]`, maxima and sums go down the columns without ever crossing lanes, and
//! the weights are already in the form that `V^T P^T` wants.

use std::ops::Range;

use pulp::{Simd, WithSimd, as_arrays, as_arrays_mut};

use crate::attend::Attention;
use crate::host::simd::{self, NV};

/// Keys per tile: the logits of a tile of rows stay in the first-level cache.
pub(super) const KEY_TILE: usize = 128;

/// Keys from a panel of values to the next: a power of two would put all panels into the same few
/// cache sets.
pub(super) const PANEL: usize = KEY_TILE + 2;

/// Running statistics of a row: its largest logit, that times the exponent factor (0 for -inf), and
/// the sum of its weights.
pub(super) const STATS: usize = 3;

/// A vector's worth of query rows, up to [`NV`] vectors of them.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub(super) vectors: usize,
    /// Rows that some query of the tile sees lie in here.
    pub(super) seen: Range<usize>,
    /// Every query of the tile sees all of these.
    pub(super) body: Range<usize>,
}

/// How a dot product becomes the argument of `exp2`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logits {
    /// Applied to queries.
    pub(super) query_factor: f32,
    softcap: Option<f32>,
    /// Applied to logits, not negative and not 0.
    exponent_factor: f32,
}

impl Logits {
    pub(super) fn new(attention: &Attention) -> Self {
        use std::f32::consts::LOG2_E;
        let exponent_factor = attention.scale * LOG2_E;
        match attention.softcap {
            Some(softcap) => Self {
                query_factor: attention.scale / softcap,
                softcap: Some(softcap),
                exponent_factor: LOG2_E,
            },
            None if exponent_factor >= f32::MIN_POSITIVE && exponent_factor.is_finite() => {
                Self { query_factor: 1.0, softcap: None, exponent_factor }
            }
            None => Self { query_factor: attention.scale, softcap: None, exponent_factor: LOG2_E },
        }
    }
}

/// One tile of keys for all row tiles of a block.
pub(super) struct Step<'a> {
    pub(super) keys: Range<usize>,
    pub(super) dim: usize,
    pub(super) padded_dim: usize,
    pub(super) logits: Logits,
    pub(super) tiles: &'a [Tile],
    pub(super) visible: &'a [u32],
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) weights: &'a mut [f32],
    pub(super) out: &'a mut [f32],
    pub(super) stats: &'a mut [f32],
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for index in 0..self.tiles.len() {
            if simd::rows::<S>() == 8 {
                self.tile_of::<S, 8>(simd, index);
            } else {
                self.tile_of::<S, 3>(simd, index);
            }
        }
    }
}

impl Step<'_> {
    #[inline(always)]
    fn tile_of<S: Simd, const MR: usize>(&mut self, simd: S, index: usize) {
        match self.tiles[index].vectors {
            1 => self.tile::<S, MR, 1>(simd, index),
            2 => self.tile::<S, MR, 2>(simd, index),
            _ => self.tile::<S, MR, NV>(simd, index),
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const N: usize>(&mut self, simd: S, index: usize) {
        let tile = &self.tiles[index];
        let start = self.keys.start;
        let from = tile.seen.start.max(start);
        let to = tile.seen.end.min(self.keys.end);
        if from >= to {
            return;
        }
        let body_end = tile.body.end.clamp(from, to);
        let body = tile.body.start.clamp(from, body_end)..body_end;
        let (from, to) = (from - start, to - start);
        let body = body.start - start..body.end - start;

        let lanes = N * S::F32_LANES;
        let width = NV * S::F32_LANES;
        let (dim, padded_dim) = (self.dim, self.padded_dim);
        let q = rows_of::<S, N>(&self.q[index * dim * width..][..dim * lanes]);
        let out =
            rows_of_mut::<S, N>(&mut self.out[index * padded_dim * width..][..padded_dim * lanes]);
        let weights = rows_of_mut::<S, N>(&mut self.weights[..KEY_TILE * lanes]);
        let stats = rows_of_mut::<S, N>(&mut self.stats[index * STATS * width..][..STATS * lanes]);
        let visible = &self.visible[index * 2 * width..][..2 * lanes];
        let visible = as_arrays::<N, _>(S::as_simd_u32s(visible).0).0;
        let mask = Mask::<S, N> { start, firsts: &visible[0], limits: &visible[1] };

        dot_products::<S, MR, N>(simd, self.k, dim, q, from..to, weights);
        if let Some(cap) = self.logits.softcap {
            let cap = simd.splat_f32s(cap);
            for x in weights[from..to].as_flattened_mut() {
                *x = simd.mul_f32s(cap, simd::tanh(simd, *x));
            }
        }
        for slot in (from..body.start).chain(body.end..to) {
            let seen = mask.row(simd, slot);
            for (x, seen) in weights[slot].iter_mut().zip(seen) {
                *x = simd.select_f32s(seen, *x, simd.splat_f32s(f32::NEG_INFINITY));
            }
        }
        let rescale =
            softmax::<S, N>(simd, self.logits.exponent_factor, &mut weights[from..to], stats);
        let v = self.v.as_chunks::<MR>().0;
        let edges_finite =
            [from..body.start, body.end..to].into_iter().all(|edge| finite::<S, MR>(simd, v, edge));
        if edges_finite {
            accumulate::<S, MR, N>(simd, v, from..to, weights, rescale, out);
        } else {
            // The product of a weight of 0 and a value that is not finite is not 0.
            accumulate::<S, MR, N>(simd, v, from..from, weights, rescale, out);
            accumulate_masked::<S, MR, N>(simd, v, from..body.start, weights, &mask, out);
            let one = [simd.splat_f32s(1.0); N];
            accumulate::<S, MR, N>(simd, v, body.clone(), weights, one, out);
            accumulate_masked::<S, MR, N>(simd, v, body.end..to, weights, &mask, out);
        }
    }
}

/// Which rows see which keys of a tile.
struct Mask<'a, S: Simd, const N: usize> {
    start: usize,
    firsts: &'a [S::u32s; N],
    limits: &'a [S::u32s; N],
}

impl<S: Simd, const N: usize> Mask<'_, S, N> {
    #[inline(always)]
    fn row(&self, simd: S, slot: usize) -> [S::m32s; N] {
        let row = simd.splat_u32s((self.start + slot) as u32);
        std::array::from_fn(|j| {
            let begun = simd.less_than_or_equal_u32s(self.firsts[j], row);
            simd.and_m32s(begun, simd.greater_than_u32s(self.limits[j], row))
        })
    }
}

#[inline(always)]
fn rows_of<S: Simd, const N: usize>(data: &[f32]) -> &[[S::f32s; N]] {
    as_arrays(S::as_simd_f32s(data).0).0
}

#[inline(always)]
fn rows_of_mut<S: Simd, const N: usize>(data: &mut [f32]) -> &mut [[S::f32s; N]] {
    as_arrays_mut(S::as_mut_simd_f32s(data).0).0
}

/// Dot products of the keys `range` with every query of the tile.
#[inline(always)]
fn dot_products<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    k: &[f32],
    dim: usize,
    q: &[[S::f32s; N]],
    range: Range<usize>,
    logits: &mut [[S::f32s; N]],
) {
    for key in range.clone().step_by(MR) {
        // Keys past the end repeat the last one and are not stored.
        let rows = std::array::from_fn(|i| &k[(key + i).min(range.end - 1) * dim..][..dim]);
        let zero = [[simd.splat_f32s(0.0); N]; MR];
        let acc: [_; MR] = simd::multiply_rows(simd, rows, q, zero);
        let stored = &mut logits[key..range.end.min(key + MR)];
        for (logit, acc) in stored.iter_mut().zip(&acc) {
            *logit = *acc;
        }
    }
}

/// Replaces logits by weights and brings `stats` up to date; returns the factor for what was summed
/// so far.
#[inline(always)]
fn softmax<S: Simd, const N: usize>(
    simd: S,
    exponent_factor: f32,
    logits: &mut [[S::f32s; N]],
    stats: &mut [[S::f32s; N]],
) -> [S::f32s; N] {
    let factor = simd.splat_f32s(exponent_factor);
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let zero = simd.splat_f32s(0.0);
    let mut max = stats[0];
    for row in logits.iter() {
        for j in 0..N {
            max[j] = simd.max_f32s(max[j], row[j]);
        }
    }
    let mut shift = [zero; N];
    let mut rescale = [zero; N];
    for j in 0..N {
        let blind = simd.equal_f32s(max[j], lowest);
        shift[j] = simd.select_f32s(blind, zero, simd.mul_f32s(max[j], factor));
        let blind = simd.equal_f32s(stats[0][j], lowest);
        let ratio = simd::exp2(simd, simd.sub_f32s(stats[1][j], shift[j]));
        rescale[j] = simd.select_f32s(blind, zero, ratio);
    }
    let mut sum = [zero; N];
    for row in logits {
        for j in 0..N {
            let exponent = simd.mul_add_f32s(row[j], factor, simd.neg_f32s(shift[j]));
            row[j] = simd::exp2(simd, exponent);
            sum[j] = simd.add_f32s(sum[j], row[j]);
        }
    }
    for j in 0..N {
        sum[j] = simd.mul_add_f32s(stats[2][j], rescale[j], sum[j]);
    }
    stats[0] = max;
    stats[1] = shift;
    stats[2] = sum;
    rescale
}

/// `out = out * factor + values * weights`, over the keys `range`.
#[inline(always)]
fn accumulate<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    v: &[[f32; MR]],
    range: Range<usize>,
    weights: &[[S::f32s; N]],
    factor: [S::f32s; N],
    out: &mut [[S::f32s; N]],
) {
    for (out, panel) in out.chunks_exact_mut(MR).zip(v.chunks_exact(PANEL)) {
        let mut acc = [factor; MR];
        for (acc, out) in acc.iter_mut().zip(out.iter()) {
            for j in 0..N {
                acc[j] = simd.mul_f32s(acc[j], out[j]);
            }
        }
        let acc = simd::multiply_columns(simd, &panel[range.clone()], &weights[range.clone()], acc);
        for (out, acc) in out.iter_mut().zip(&acc) {
            *out = *acc;
        }
    }
}

/// [`accumulate`] for values that must not be multiplied by the weights of rows that do not see
/// them.
#[inline(always)]
fn accumulate_masked<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    v: &[[f32; MR]],
    range: Range<usize>,
    weights: &[[S::f32s; N]],
    mask: &Mask<'_, S, N>,
    out: &mut [[S::f32s; N]],
) {
    for (out, panel) in out.chunks_exact_mut(MR).zip(v.chunks_exact(PANEL)) {
        for slot in range.clone() {
            let seen = mask.row(simd, slot);
            for (out, &value) in out.iter_mut().zip(&panel[slot]) {
                let value = simd.splat_f32s(value);
                for j in 0..N {
                    let sum = simd.mul_add_e_f32s(value, weights[slot][j], out[j]);
                    out[j] = simd.select_f32s(seen[j], sum, out[j]);
                }
            }
        }
    }
}

/// Whether the values of these keys are all finite.
#[inline(always)]
fn finite<S: Simd, const MR: usize>(simd: S, v: &[[f32; MR]], range: Range<usize>) -> bool {
    // 0 * x is NaN for exactly the x that are not finite.
    let zero = simd.splat_f32s(0.0);
    let mut vectors = zero;
    let mut rest = 0f32;
    for panel in v.chunks_exact(PANEL) {
        let (head, tail) = S::as_simd_f32s(panel[range.clone()].as_flattened());
        for &x in head {
            vectors = simd.mul_add_f32s(x, zero, vectors);
        }
        for x in tail {
            rest += x * 0.0;
        }
    }
    simd.reduce_sum_f32s(vectors) + rest == 0.0
}
