//! One query per sequence.
//!
//! Bound by memory: every key and value is read once, for all query heads that share it. Long key
//! lists are cut into chunks of a fixed length whose partial results are combined in order
//! (split softmax: Dao et al., Flash-Decoding, 2023), so the result does not depend on the number
//! of threads.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::check;
use crate::attend::{Attention, KeyLists, Keys, PackedLists, Place};
use crate::dtype::Element;
use crate::error::Result;
use crate::host::simd;
use crate::layout::{View, ViewMut};

/// Keys per chunk.
const CHUNK: usize = 256;

/// Below this many bytes of keys and values another thread takes longer to wake than to read them.
const SERIAL_BYTES: usize = 1 << 18;

/// Keys per step over values, for each of which a weighted sum is loaded and stored once.
const STEP: usize = 4;

/// Query heads per pass over keys.
const HEADS: usize = 4;

/// Attention of one query per sequence over the keys that its lists name.
///
/// `q` is `[batch, q heads, dim]`, `out` `[batch, q heads, value dim]`, `lse` `[batch, q heads]`:
/// the natural log of the sum of exponentials of a row's logits. Query heads
/// `h * group..(h + 1) * group` read KV head h. With an empty list the row is 0, its `lse` -inf, or
/// the sink. Keys and values may be of another type than queries. Keys outside a list are never
/// read. A sliding window of w leaves those of a list that are among the last w key rows.
///
/// # Errors
/// If shapes disagree, the number of query heads is no multiple of the number of KV heads, a list
/// does not ascend, a page, span or list points beyond the keys, or a parameter is out of range.
pub fn decode<T: Element, K: Element>(
    q: View<'_, T>,
    keys: &Keys<'_, K>,
    lists: KeyLists<PackedLists<'_>>,
    attention: &Attention,
    out: ViewMut<'_, f32>,
    lse: Option<&mut [f32]>,
) -> Result<()> {
    check(keys.batch(), &q, keys, attention, &out, lse.as_deref())?;
    lists.check(keys)?;
    let (heads, dim, value_dim) = (keys.heads(), q.layout.dim, keys.value_dim());
    let group = q.layout.heads / heads;
    let mut outs = out.into_rows("out", keys.batch())?;

    if group == 0 {
        return Ok(());
    }
    // Heads that read the same keys go together, for their keys often lie together.
    let together = if matches!(lists, KeyLists::PerHead(_)) { 1 } else { heads };
    let mut chunks = Vec::new();
    for sequence in 0..keys.batch() {
        for first in (0..heads).step_by(together) {
            let rows = visible(keys, &lists, attention, sequence, first);
            let heads = first..first + together;
            chunks.extend(rows.chunks().map(|rows| Chunk { sequence, heads: heads.clone(), rows }));
        }
    }
    let members = together * group;
    let stride = members * (value_dim + 2);
    let mut partials = vec![0f32; chunks.len() * stride];
    let problem = Problem { q, keys, attention, group };
    let read: usize = chunks.iter().map(|chunk| chunk.rows.len()).sum();
    let bytes = read * together * (dim + value_dim) * size_of::<K>();
    if bytes < SERIAL_BYTES || chunks.len() < 2 {
        let mut scratch = Scratch::default();
        for (chunk, partial) in chunks.iter().zip(partials.chunks_mut(stride)) {
            problem.run(chunk, partial, &mut scratch);
        }
    } else {
        chunks
            .par_iter()
            .zip(partials.par_chunks_mut(stride))
            .for_each_init(Scratch::default, |scratch, (chunk, partial)| {
                problem.run(chunk, partial, scratch)
            });
    }

    let mut lse = lse;
    let (mut chunks, mut partials) = (chunks.iter().peekable(), &partials[..]);
    for (unit, outs) in outs.chunks_mut(members).enumerate() {
        let (sequence, first) = (unit * together / heads, unit * together % heads);
        let mut count = 0;
        while chunks
            .next_if(|chunk| (chunk.sequence, chunk.heads.start) == (sequence, first))
            .is_some()
        {
            count += 1;
        }
        let (parts, rest) = partials.split_at(count * stride);
        partials = rest;
        for (member, out) in outs.iter_mut().enumerate() {
            let sink = attention.sink(first * group + member);
            let sum = combine(parts, stride, members, member, sink, out);
            let scale = attention.v_scale(first + member / group);
            if scale != 1.0 {
                out.iter_mut().for_each(|out| *out *= scale);
            }
            if let Some(lse) = &mut lse {
                lse[unit * members + member] = sum;
            }
        }
    }
    Ok(())
}

/// The key rows that the queries of a KV head read.
fn visible<'a, T: Element>(
    keys: &Keys<'_, T>,
    lists: &KeyLists<PackedLists<'a>>,
    attention: &Attention,
    sequence: usize,
    head: usize,
) -> Rows<'a> {
    let len = keys.len(sequence);
    let first = attention.first(len);
    let (entries, span) = match *lists {
        KeyLists::Dense => return Rows::Range(first..len),
        KeyLists::Shared(PackedLists { keys, lists }) => (keys, lists.span(sequence)),
        KeyLists::PerHead(PackedLists { keys: entries, lists }) => {
            (entries, lists.span(sequence * keys.heads() + head))
        }
    };
    let list = &entries[span.range()];
    Rows::List(&list[list.partition_point(|&row| (row as usize) < first)..])
}

/// Key rows of a sequence.
#[derive(Debug, Clone)]
enum Rows<'a> {
    Range(Range<usize>),
    List(&'a [i32]),
}

impl<'a> Rows<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::List(list) => list.len(),
        }
    }

    fn row(&self, index: usize) -> usize {
        match self {
            Self::Range(range) => range.start + index,
            Self::List(list) => list[index] as usize,
        }
    }

    /// Cut into pieces of [`CHUNK`] rows.
    fn chunks(&self) -> impl Iterator<Item = Rows<'a>> {
        (0..self.len()).step_by(CHUNK).map(|start| {
            let end = self.len().min(start + CHUNK);
            match self {
                Self::Range(range) => Rows::Range(range.start + start..range.start + end),
                Self::List(list) => Rows::List(&list[start..end]),
            }
        })
    }
}

struct Chunk<'a> {
    sequence: usize,
    heads: Range<usize>,
    rows: Rows<'a>,
}

struct Problem<'a, T, K> {
    q: View<'a, T>,
    keys: &'a Keys<'a, K>,
    attention: &'a Attention<'a>,
    group: usize,
}

/// What a thread reuses from chunk to chunk.
#[derive(Default)]
struct Scratch {
    /// `[member][channel]`.
    q: Vec<f32>,
    /// `[member][key]`.
    weights: Vec<f32>,
    /// [`STEP`] widened rows.
    wide: Vec<f32>,
}

impl<T: Element, K: Element> Problem<'_, T, K> {
    /// Writes the sums of weighted values of the chunk's query heads, then their largest logits,
    /// then their sums of weights.
    fn run(&self, chunk: &Chunk<'_>, partial: &mut [f32], scratch: &mut Scratch) {
        let dim = self.q.layout.dim;
        let members = chunk.heads.len() * self.group;
        scratch.q.resize(members * dim, 0.0);
        scratch.weights.resize(members * CHUNK, 0.0);
        scratch.wide.resize(STEP * dim.max(self.keys.value_dim()), 0.0);
        for (member, q) in scratch.q.chunks_exact_mut(dim).enumerate() {
            T::widen(self.q.row(chunk.sequence, chunk.heads.start * self.group + member), q);
        }
        simd::arch().dispatch(Step { problem: self, chunk, partial, scratch });
    }
}

struct Step<'a, T, K> {
    problem: &'a Problem<'a, T, K>,
    chunk: &'a Chunk<'a>,
    partial: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl<T: Element, K: Element> WithSimd for Step<'_, T, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Problem { attention, group, .. } = *self.problem;
        let (len, members) = (self.chunk.rows.len(), self.chunk.heads.len() * group);
        let value_dim = self.problem.keys.value_dim();
        let (sums, stats) = self.partial.split_at_mut(members * value_dim);
        let Scratch { q, weights, wide } = self.scratch;
        dot_products::<S, T, K>(simd, self.problem, self.chunk, q, weights, wide);
        for (member, weights) in weights.chunks_exact_mut(CHUNK).enumerate() {
            let logits = &mut weights[..len];
            let head = self.chunk.heads.start + member / group;
            let scale = attention.scale * attention.k_scale(head);
            match attention.softcap {
                None => simd::scale(simd, scale, logits),
                Some(cap) => {
                    simd::scale(simd, scale / cap, logits);
                    simd::tanh_row(simd, logits);
                    simd::scale(simd, cap, logits);
                }
            }
            let max = simd::row_max(simd, logits);
            stats[member] = max;
            // Nothing but logits of -inf have no weight.
            let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
            stats[members + member] = simd::exp_sum(simd, logits, shift);
        }
        sums.fill(0.0);
        add_values::<S, T, K>(simd, self.problem, self.chunk, weights, wide, sums);
    }
}

/// Dot products of every key of the chunk with the queries of its head, `weights[member][key]`.
#[inline(always)]
fn dot_products<S: Simd, T: Element, K: Element>(
    simd: S,
    problem: &Problem<'_, T, K>,
    chunk: &Chunk<'_>,
    q: &[f32],
    weights: &mut [f32],
    wide: &mut [f32],
) {
    let (keys, group, dim) = (problem.keys, problem.group, problem.q.layout.dim);
    for index in 0..chunk.rows.len() {
        let place = keys.place(chunk.sequence, chunk.rows.row(index));
        let heads = q.chunks_exact(group * dim).zip(weights.chunks_exact_mut(group * CHUNK));
        for (head, (q, weights)) in chunk.heads.clone().zip(heads) {
            let key = simd::widened(keys.key(place, head), wide);
            let members = q.chunks(HEADS * dim).zip(weights.chunks_mut(HEADS * CHUNK));
            for (q, weights) in members {
                match q.len() / dim {
                    1 => dots::<S, 1>(simd, key, q, weights, index),
                    2 => dots::<S, 2>(simd, key, q, weights, index),
                    3 => dots::<S, 3>(simd, key, q, weights, index),
                    _ => dots::<S, HEADS>(simd, key, q, weights, index),
                }
            }
        }
    }
}

/// Adds the weighted values of the chunk to `sums[member]`.
#[inline(always)]
fn add_values<S: Simd, T: Element, K: Element>(
    simd: S,
    problem: &Problem<'_, T, K>,
    chunk: &Chunk<'_>,
    weights: &[f32],
    wide: &mut [f32],
    sums: &mut [f32],
) {
    let (keys, group, len) = (problem.keys, problem.group, chunk.rows.len());
    let (value_dim, wide_dim) = (keys.value_dim(), wide.len() / STEP);
    for index in (0..len).step_by(STEP) {
        let count = STEP.min(len - index);
        let mut places = [Place { k: 0, v: 0 }; STEP];
        for (i, place) in places.iter_mut().enumerate() {
            // Past the end the last row again, which gets no weight.
            *place = keys.place(chunk.sequence, chunk.rows.row(index + i.min(count - 1)));
        }
        let heads = sums.chunks_exact_mut(group * value_dim).zip(weights.chunks(group * CHUNK));
        for (head, (sums, weights)) in chunk.heads.clone().zip(heads) {
            // No closures here and below: they need not be inlined into vectorised code.
            let mut values: [&[f32]; STEP] = [&[]; STEP];
            let buffers = wide.chunks_exact_mut(wide_dim);
            for ((value, &place), buffer) in values.iter_mut().zip(&places).zip(buffers) {
                *value = simd::widened(keys.value(place, head), buffer);
            }
            for (sums, weights) in sums.chunks_exact_mut(value_dim).zip(weights.chunks(CHUNK)) {
                match weights[index..index + count] {
                    [a, b, c, d] => add_scaled(simd, [a, b, c, d], values, sums),
                    ref few => {
                        for (&weight, value) in few.iter().zip(values) {
                            simd::axpy(simd, weight, value, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Dot products of a key with G queries, `weights[member][index]`.
#[inline(always)]
fn dots<S: Simd, const G: usize>(
    simd: S,
    key: &[f32],
    q: &[f32],
    weights: &mut [f32],
    index: usize,
) {
    let (key_head, key_tail) = S::as_simd_f32s(key);
    let mut heads: [&[S::f32s]; G] = [&[]; G];
    let mut tails: [&[f32]; G] = [&[]; G];
    for g in 0..G {
        let (head, tail) = S::as_simd_f32s(&q[g * key.len()..][..key.len()]);
        (heads[g], tails[g]) = (&head[..key_head.len()], tail);
    }
    let mut acc = [simd.splat_f32s(0.0); G];
    for (i, &x) in key_head.iter().enumerate() {
        for g in 0..G {
            acc[g] = simd.mul_add_e_f32s(heads[g][i], x, acc[g]);
        }
    }
    if !key_tail.is_empty() {
        let x = simd.partial_load_f32s(key_tail);
        for g in 0..G {
            acc[g] = simd.mul_add_e_f32s(simd.partial_load_f32s(tails[g]), x, acc[g]);
        }
    }
    for g in 0..G {
        weights[g * CHUNK + index] = simd.reduce_sum_f32s(acc[g]);
    }
}

/// `sums += weights[0] * values[0] + ...`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, weights: [f32; STEP], values: [&[f32]; STEP], sums: &mut [f32]) {
    let len = sums.len();
    let (head, tail) = S::as_mut_simd_f32s(sums);
    let mut heads: [&[S::f32s]; STEP] = [&[]; STEP];
    let mut tails: [&[f32]; STEP] = [&[]; STEP];
    let mut factors = [simd.splat_f32s(0.0); STEP];
    for i in 0..STEP {
        let (value_head, value_tail) = S::as_simd_f32s(&values[i][..len]);
        (heads[i], tails[i]) = (&value_head[..head.len()], value_tail);
        factors[i] = simd.splat_f32s(weights[i]);
    }
    for (j, sum) in head.iter_mut().enumerate() {
        let mut x = *sum;
        for i in 0..STEP {
            x = simd.mul_add_e_f32s(factors[i], heads[i][j], x);
        }
        *sum = x;
    }
    for (j, sum) in tail.iter_mut().enumerate() {
        for i in 0..STEP {
            *sum += weights[i] * tails[i][j];
        }
    }
}

/// Adds up the chunks of one query head and its sink, and returns its log-sum-exp.
fn combine(
    partials: &[f32],
    stride: usize,
    members: usize,
    member: usize,
    sink: f32,
    out: &mut [f32],
) -> f32 {
    out.fill(0.0);
    let value_dim = out.len();
    let stats = members * value_dim;
    let max =
        partials.chunks_exact(stride).fold(sink, |max, partial| max.max(partial[stats + member]));
    if partials.is_empty() {
        return sink;
    }
    let mut total = if sink == f32::NEG_INFINITY { 0.0 } else { (sink - max).exp() };
    for partial in partials.chunks_exact(stride) {
        let factor = (partial[stats + member] - max).exp();
        total += partial[stats + members + member] * factor;
        for (out, &sum) in out.iter_mut().zip(&partial[member * value_dim..]) {
            *out += sum * factor;
        }
    }
    out.iter_mut().for_each(|out| *out /= total);
    max + total.ln()
}
