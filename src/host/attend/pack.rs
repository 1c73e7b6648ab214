//! Queries, keys and values into the form that [`tile`](super::tile) reads, and its sums back into
//! rows.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::tile::PANEL;
use crate::attend::Keys;
use crate::dtype::Element;
use crate::host::simd;

/// Channels that are transposed together.
const CHUNK: usize = 8;

/// More vector lanes than any processor has.
const MAX_LANES: usize = 64;

/// Elements that [`PackQueries`] needs of `wide` for rows of `dim` channels.
pub(super) fn wide_len(dim: usize) -> usize {
    simd::lanes() * dim.next_multiple_of(CHUNK)
}

/// Packs the queries of a tile as `[channel][lane]`; lanes without a row become 0.
pub(super) struct PackQueries<'a, T> {
    pub(super) rows: &'a [&'a [T]],
    pub(super) dim: usize,
    pub(super) factor: f32,
    pub(super) wide: &'a mut [f32],
    /// `[dim][vectors * lanes]`.
    pub(super) packed: &'a mut [f32],
}

impl<T: Element> WithSimd for PackQueries<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, dim, factor, wide, packed } = self;
        let padded = dim.next_multiple_of(CHUNK);
        let lanes = packed.len() / dim;
        let factor = simd.splat_f32s(factor);
        let wide = &mut wide[..S::F32_LANES * padded];
        wide.fill(0.0);
        for (vector, rows) in rows.chunks(S::F32_LANES).enumerate() {
            if rows.len() < S::F32_LANES {
                wide.fill(0.0);
            }
            for (wide, row) in wide.chunks_exact_mut(padded).zip(rows) {
                simd::widen(row, &mut wide[..dim]);
            }
            let (chunks, _) = wide.as_chunks::<CHUNK>();
            for chunk in 0..padded / CHUNK {
                let mut block = [&chunks[0]; MAX_LANES];
                for (row, place) in block[..S::F32_LANES].iter_mut().enumerate() {
                    *place = &chunks[row * (padded / CHUNK) + chunk];
                }
                let columns = simd::transpose(simd, &block[..S::F32_LANES]);
                for (i, &column) in columns.iter().enumerate().take(dim - chunk * CHUNK) {
                    let start = (chunk * CHUNK + i) * lanes + vector * S::F32_LANES;
                    let packed = &mut packed[start..start + S::F32_LANES];
                    S::as_mut_simd_f32s(packed).0[0] = simd.mul_f32s(column, factor);
                }
            }
        }
    }
}

/// Widens a tile of keys to `[key][channel]` and of values to panels of as many channels as a
/// register block has rows, `[panel][key][channel of the panel]`.
pub(super) struct PackKeys<'a, T> {
    pub(super) keys: &'a Keys<'a, T>,
    pub(super) sequence: usize,
    pub(super) head: usize,
    pub(super) range: Range<usize>,
    pub(super) dim: usize,
    pub(super) wide: &'a mut [f32],
    pub(super) k: &'a mut [f32],
    pub(super) v: &'a mut [f32],
}

impl<T: Element> WithSimd for PackKeys<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        if simd::rows::<S>() == 8 { self.run::<8>() } else { self.run::<3>() }
    }
}

impl<T: Element> PackKeys<'_, T> {
    #[inline(always)]
    fn run<const MR: usize>(self) {
        let Self { keys, sequence, head, range, dim, wide, k, v } = self;
        let (v, _) = v.as_chunks_mut::<MR>();
        for (slot, (row, k)) in range.zip(k.chunks_exact_mut(dim)).enumerate() {
            let place = keys.place(sequence, row);
            simd::widen(keys.key(place, head), k);
            let (chunks, rest) = simd::widened(keys.value(place, head), wide).as_chunks::<MR>();
            for (panel, chunk) in v.chunks_exact_mut(PANEL).zip(chunks) {
                panel[slot] = *chunk;
            }
            if !rest.is_empty() {
                let last = &mut v[chunks.len() * PANEL + slot];
                *last = [0.0; MR];
                last[..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// Writes the rows of a tile from its sums of weighted values, divided by the sums of weights.
pub(super) struct Unpack<'a, 'o> {
    /// `[channel][lane]`.
    pub(super) sums: &'a [f32],
    /// `[lane]`.
    pub(super) weights: &'a [f32],
    pub(super) rows: &'a mut [&'o mut [f32]],
}

impl WithSimd for Unpack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            4 => self.run::<S, 4>(simd),
            lanes if lanes.is_multiple_of(8) => self.run::<S, 8>(simd),
            _ => self.run::<S, 1>(simd),
        }
    }
}

impl Unpack<'_, '_> {
    /// I rows at a time.
    #[inline(always)]
    fn run<S: Simd, const I: usize>(self, simd: S) {
        let Self { sums, weights, rows } = self;
        let lanes = weights.len();
        let channels = sums.len() / lanes;
        let (chunks, _) = sums.as_chunks::<I>();
        for (index, rows) in rows.chunks_mut(I).enumerate() {
            let dim = rows[0].len();
            for first in (0..dim).step_by(S::F32_LANES) {
                let mut block = [&chunks[0]; MAX_LANES];
                for (p, place) in block[..S::F32_LANES].iter_mut().enumerate() {
                    // Channels past the end repeat the last one and are not stored.
                    *place = &chunks[(first + p).min(channels - 1) * (lanes / I) + index];
                }
                let columns = simd::transpose(simd, &block[..S::F32_LANES]);
                for (i, row) in rows.iter_mut().enumerate() {
                    let weight = simd.splat_f32s(weights[index * I + i]);
                    let values = simd.div_f32s(columns[i], weight);
                    let row = &mut row[first..dim.min(first + S::F32_LANES)];
                    match S::as_mut_simd_f32s(row) {
                        ([whole], _) => *whole = values,
                        (_, part) => simd.partial_store_f32s(part, values),
                    }
                }
            }
        }
    }
}
