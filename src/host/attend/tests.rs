//! Both entries against three plain loops in f64.

use half::{bf16, f16};
use rayon::ThreadPoolBuilder;

use super::*;
use crate::attend::{KeyLists, PackedLists, RowLimit};
use crate::layout::Layout;
use crate::ragged::Ragged;
use crate::{PagedLayout, Span};

/// Numbers in [-2, 2), the same every time.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

/// One row over the keys it sees.
fn plain<T: Element>(
    q: &[T],
    seen: &[(&[T], &[T])],
    attention: &Attention,
    sink: f32,
) -> (Vec<f64>, f64) {
    let wide = |x: &T| f64::from(x.to_f32());
    let logits: Vec<f64> = seen
        .iter()
        .map(|(k, _)| {
            let dot: f64 = q.iter().zip(*k).map(|(a, b)| wide(a) * wide(b)).sum();
            let x = dot * f64::from(attention.scale);
            attention.softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
        })
        .collect();
    let sink = f64::from(sink);
    let max = logits.iter().copied().fold(sink, f64::max);
    let weights: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum = weights.iter().sum::<f64>() + (sink - max).exp();
    let dim = seen.first().map_or(0, |(_, v)| v.len());
    let out = (0..dim)
        .map(|d| weights.iter().zip(seen).map(|(w, (_, v))| w * wide(&v[d])).sum::<f64>() / sum)
        .collect();
    (out, max + sum.ln())
}

#[derive(Clone, Copy)]
struct Shape {
    q_heads: usize,
    kv_heads: usize,
    dim: usize,
    value_dim: usize,
}

/// A batch with contiguous keys: `(queries, keys)` per sequence.
struct Batch<T> {
    shape: Shape,
    queries: Ragged,
    spans: Vec<Span>,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

impl<T: Element> Batch<T> {
    fn new(shape: Shape, lens: &[(usize, usize)]) -> Self {
        let queries = Ragged::from_lens(&lens.iter().map(|l| l.0).collect::<Vec<_>>()).unwrap();
        let keys = Ragged::from_lens(&lens.iter().map(|l| l.1).collect::<Vec<_>>()).unwrap();
        let make = |len, seed| numbers(len, seed).into_iter().map(T::from_f32).collect();
        Self {
            shape,
            q: make(queries.total() * shape.q_heads * shape.dim, 1),
            k: make(keys.total() * shape.kv_heads * shape.dim, 2),
            v: make(keys.total() * shape.kv_heads * shape.value_dim, 3),
            queries,
            spans: keys.spans().collect(),
        }
    }

    fn q(&self) -> View<'_, T> {
        View::token_major(&self.q, self.shape.q_heads, self.shape.dim)
    }

    fn keys(&self) -> Keys<'_, T> {
        Keys::Contiguous {
            k: View::token_major(&self.k, self.shape.kv_heads, self.shape.dim),
            v: View::token_major(&self.v, self.shape.kv_heads, self.shape.value_dim),
            spans: &self.spans,
        }
    }

    fn row(&self, sequence: usize, head: usize, row: usize) -> (&[T], &[T]) {
        let keys = self.keys();
        let place = keys.place(sequence, row);
        (keys.key(place, head), keys.value(place, head))
    }

    fn prefill(&self, limit: RowLimit<&[i32]>, attention: &Attention) -> (Vec<f32>, Vec<f32>) {
        let rows = self.queries.total() * self.shape.q_heads;
        let (mut out, mut lse) = (vec![7.0; rows * self.shape.value_dim], vec![7.0; rows]);
        let view = ViewMut::token_major(&mut out, self.shape.q_heads, self.shape.value_dim);
        prefill(self.q(), &self.queries, &self.keys(), limit, attention, view, Some(&mut lse))
            .unwrap();
        (out, lse)
    }

    fn decode(
        &self,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
    ) -> (Vec<f32>, Vec<f32>) {
        let rows = self.queries.total() * self.shape.q_heads;
        let (mut out, mut lse) = (vec![7.0; rows * self.shape.value_dim], vec![7.0; rows]);
        let view = ViewMut::token_major(&mut out, self.shape.q_heads, self.shape.value_dim);
        decode(self.q(), &self.keys(), lists, attention, view, Some(&mut lse)).unwrap();
        (out, lse)
    }

    /// Compares every row with the plain loops; `sees(sequence, query, kv head, key)`.
    fn compare(
        &self,
        (out, lse): &(Vec<f32>, Vec<f32>),
        attention: &Attention,
        sees: impl Fn(usize, usize, usize, usize) -> bool,
    ) {
        let Shape { q_heads, kv_heads, value_dim, .. } = self.shape;
        for (sequence, span) in self.queries.spans().enumerate() {
            for query in 0..span.len {
                for head in 0..q_heads {
                    let kv_head = head / (q_heads / kv_heads);
                    let seen: Vec<_> = (0..self.spans[sequence].len)
                        .filter(|&key| sees(sequence, query, kv_head, key))
                        .map(|key| self.row(sequence, kv_head, key))
                        .collect();
                    let row = (span.start + query) * q_heads + head;
                    let got = &out[row * value_dim..][..value_dim];
                    if seen.is_empty() {
                        assert!(got.iter().all(|&x| x == 0.0));
                        assert_eq!(lse[row], attention.sink(head));
                        continue;
                    }
                    let q = self.q().row(span.start + query, head);
                    let (truth, sum) = plain(q, &seen, attention, attention.sink(head));
                    for (got, truth) in got.iter().zip(truth) {
                        let error = (f64::from(*got) - truth).abs();
                        assert!(
                            error < 2e-5,
                            "sequence {sequence} query {query} head {head}: {got} {truth}"
                        );
                    }
                    let error = (f64::from(lse[row]) - sum).abs();
                    assert!(error < 4e-6 * sum.abs().max(4.0), "lse {} {sum}", lse[row]);
                }
            }
        }
    }
}

const SHAPES: [Shape; 6] = [
    Shape { q_heads: 1, kv_heads: 1, dim: 8, value_dim: 8 },
    Shape { q_heads: 9, kv_heads: 3, dim: 64, value_dim: 64 },
    Shape { q_heads: 4, kv_heads: 4, dim: 7, value_dim: 7 },
    Shape { q_heads: 8, kv_heads: 1, dim: 33, value_dim: 17 },
    Shape { q_heads: 5, kv_heads: 1, dim: 1, value_dim: 1 },
    Shape { q_heads: 2, kv_heads: 2, dim: 80, value_dim: 128 },
];

const LENS: [(usize, usize); 9] =
    [(0, 0), (1, 1), (5, 3), (0, 4), (3, 0), (33, 33), (17, 150), (130, 129), (2, 300)];

fn all_limits<T: Element>(attention: &Attention) {
    for shape in SHAPES {
        let batch = Batch::<T>::new(shape, &LENS);
        let window = attention.sliding_window.unwrap_or(usize::MAX);
        let inside = |key: usize, limit: usize| key < limit && key >= limit.saturating_sub(window);
        let limit = |s: usize, i: usize| (LENS[s].1 + i + 1).saturating_sub(LENS[s].0);
        batch.compare(&batch.prefill(RowLimit::Causal, attention), attention, |s, i, _, key| {
            inside(key, limit(s, i))
        });
        batch.compare(&batch.prefill(RowLimit::Full, attention), attention, |s, _, _, key| {
            inside(key, LENS[s].1)
        });
        let scattered = |s: usize, i: usize| (i * 7919 + s * 31) % (LENS[s].1 + 1);
        let limits: Vec<i32> = (0..LENS.len())
            .flat_map(|s| (0..LENS[s].0).map(move |i| scattered(s, i) as i32))
            .collect();
        let got = batch.prefill(RowLimit::PerRow(&limits), attention);
        batch.compare(&got, attention, |s, i, _, key| inside(key, scattered(s, i)));
        let first: Vec<i32> = limits.iter().map(|limit| limit / 3).collect();
        let got = batch.prefill(RowLimit::Between { first: &first, limit: &limits }, attention);
        batch.compare(&got, attention, |s, i, _, key| {
            inside(key, scattered(s, i)) && key >= scattered(s, i) / 3
        });
    }
}

#[test]
fn prefill_equals_plain_loops() {
    all_limits::<f32>(&Attention::new(0.25));
    all_limits::<f16>(&Attention::new(0.25));
    all_limits::<bf16>(&Attention::new(0.25));
}

#[test]
fn prefill_keeps_scales_caps_and_windows() {
    for scale in [-0.25, 0.0, 1e-30] {
        all_limits::<f32>(&Attention::new(scale));
    }
    all_limits::<f32>(&Attention { softcap: Some(3.0), ..Attention::new(0.25) });
    for window in [1, 5, 64, 1000] {
        all_limits::<f32>(&Attention { sliding_window: Some(window), ..Attention::new(0.25) });
    }
}

fn all_lists<T: Element>(attention: &Attention) {
    let keys = [0, 1, 3, 511, 512, 513, 1500];
    let lens = keys.map(|len| (1, len));
    for shape in SHAPES {
        let batch = Batch::<T>::new(shape, &lens);
        let window = attention.sliding_window.unwrap_or(usize::MAX);
        let recent = |s: usize, key: usize| key >= keys[s].saturating_sub(window);
        let got = batch.decode(KeyLists::Dense, attention);
        batch.compare(&got, attention, |s, _, _, key| recent(s, key));
        let listed = |s: usize, head: usize, key: usize| (key * 13 + head * 5 + s) % 7 < 3;
        let list = |s: usize, head: usize| -> Vec<i32> {
            (0..keys[s]).filter(|&key| listed(s, head, key)).map(|key| key as i32).collect()
        };
        let shared: Vec<Vec<i32>> = (0..keys.len()).map(|s| list(s, 0)).collect();
        let lists = Ragged::from_lens(&shared.iter().map(Vec::len).collect::<Vec<_>>()).unwrap();
        let shared = shared.concat();
        let got =
            batch.decode(KeyLists::Shared(PackedLists { keys: &shared, lists: &lists }), attention);
        batch.compare(&got, attention, |s, _, _, key| recent(s, key) && listed(s, 0, key));
        let per_head: Vec<Vec<i32>> = (0..keys.len() * shape.kv_heads)
            .map(|row| list(row / shape.kv_heads, row % shape.kv_heads))
            .collect();
        let lists = Ragged::from_lens(&per_head.iter().map(Vec::len).collect::<Vec<_>>()).unwrap();
        let per_head = per_head.concat();
        let got = batch
            .decode(KeyLists::PerHead(PackedLists { keys: &per_head, lists: &lists }), attention);
        batch.compare(&got, attention, |s, _, head, key| recent(s, key) && listed(s, head, key));
    }
}

#[test]
fn decode_equals_plain_loops() {
    all_lists::<f32>(&Attention::new(0.25));
    all_lists::<f16>(&Attention::new(0.25));
    all_lists::<bf16>(&Attention { softcap: Some(3.0), ..Attention::new(0.25) });
    all_lists::<f32>(&Attention { sliding_window: Some(100), ..Attention::new(-0.25) });
}

/// The contract: at most twice the error of a straightforward computation in f32.
#[test]
fn errors_are_those_of_f32() {
    let shape = Shape { q_heads: 2, kv_heads: 1, dim: 64, value_dim: 64 };
    let batch = Batch::<f32>::new(shape, &[(1, 500); 40]);
    for scale in [0.125, 0.3, 2.0] {
        let attention = Attention::new(scale);
        let prefilled = batch.prefill(RowLimit::Full, &attention).0;
        let decoded = batch.decode(KeyLists::Dense, &attention).0;
        // Sums of squares: prefill, decode, straightforward.
        let mut errors = [0f64; 3];
        for row in 0..80 {
            let rows: Vec<_> = (0..500).map(|key| batch.row(row / 2, 0, key)).collect();
            let q = batch.q().row(row / 2, row % 2);
            let (truth, _) = plain(q, &rows, &attention, f32::NEG_INFINITY);
            let logits: Vec<f32> = rows
                .iter()
                .map(|(k, _)| q.iter().zip(*k).map(|(a, b)| a * b).sum::<f32>() * scale)
                .collect();
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
            let sum: f32 = weights.iter().sum();
            for (d, truth) in truth.iter().enumerate() {
                let straight = weights.iter().zip(&rows).map(|(w, (_, v))| w / sum * v[d]).sum();
                let got = [prefilled[row * 64 + d], decoded[row * 64 + d], straight];
                for (error, got) in errors.iter_mut().zip(got) {
                    *error += (f64::from(got) - truth).powi(2);
                }
            }
        }
        let [prefill, decode, straight] = errors.map(f64::sqrt);
        assert!(prefill <= 2.0 * straight, "scale {scale}: {prefill} {straight}");
        assert!(decode <= 2.0 * straight, "scale {scale}: {decode} {straight}");
    }
}

#[test]
fn layouts_and_pages_change_no_bit() {
    let shape = Shape { q_heads: 6, kv_heads: 2, dim: 24, value_dim: 24 };
    let lens = [(40, 90), (0, 7), (20, 20)];
    let batch = Batch::<f32>::new(shape, &lens);
    let attention = Attention::new(0.2);
    let expected = batch.prefill(RowLimit::Causal, &attention);

    let (page_size, pages) = (8, 20);
    for layout in [PagedLayout::nhd(page_size, 2, 24), PagedLayout::hnd(page_size, 2, 24)] {
        let size = layout.required_len(pages).unwrap();
        let (mut k, mut v) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        let mut table = vec![-1; 3 * 12];
        let mut next = pages;
        for (sequence, &(_, len)) in lens.iter().enumerate() {
            for row in 0..len {
                let entry = &mut table[sequence * 12 + row / page_size];
                if row % page_size == 0 {
                    next -= 1;
                    *entry = next as i32;
                }
                for head in 0..2 {
                    let (key, value) = batch.row(sequence, head, row);
                    let at = layout.offset(*entry as usize, row % page_size, head);
                    k[at..at + 24].copy_from_slice(key);
                    v[at..at + 24].copy_from_slice(value);
                }
            }
        }
        let lens = lens.map(|l| l.1);
        let keys = Keys::Paged { k: &k, v: &v, layout, page_table: &table, lens: &lens };
        let head_major = Layout::head_major(6, 24, batch.queries.total());
        let mut out = vec![0f32; expected.0.len()];
        let view = ViewMut::new(&mut out, head_major);
        let limit = RowLimit::Causal;
        prefill(batch.q(), &batch.queries, &keys, limit, &attention, view, None).unwrap();
        for token in 0..batch.queries.total() {
            for head in 0..6 {
                let got = View::new(&out, head_major).row(token, head);
                assert_eq!(got, View::token_major(&expected.0, 6, 24).row(token, head));
            }
        }
        table[0] = pages as i32;
        let keys = Keys::Paged { k: &k, v: &v, layout, page_table: &table, lens: &lens };
        let error = keys.check().unwrap_err();
        assert!(matches!(error, Error::IndexOutOfBounds { limit: 20, .. }), "{error}");
    }
}

#[test]
fn threads_and_neighbours_change_no_bit() {
    let shape = Shape { q_heads: 6, kv_heads: 2, dim: 64, value_dim: 64 };
    let (attention, limit) = (Attention::new(0.125), RowLimit::Causal);
    let alone = Batch::<f32>::new(shape, &[(300, 700)]);
    let expected = alone.prefill(limit, &attention);
    for threads in [1, 2, 5] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| alone.prefill(limit, &attention)), expected);
    }
    // The last queries by themselves fall into other tiles.
    let tail = Batch {
        q: alone.q[230 * 6 * 64..].to_vec(),
        queries: Ragged::from_lens(&[70]).unwrap(),
        ..Batch::<f32>::new(shape, &[(70, 700)])
    };
    let got = tail.prefill(limit, &attention);
    assert_eq!(got.0, expected.0[230 * 6 * 64..]);
    assert_eq!(got.1, expected.1[230 * 6..]);

    let batch = Batch::<f32>::new(shape, &[(1, 3000), (1, 10)]);
    let expected = batch.decode(KeyLists::Dense, &attention);
    for threads in [1, 2, 5] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| batch.decode(KeyLists::Dense, &attention)), expected);
    }
}

#[test]
fn unseen_keys_have_no_influence() {
    let shape = Shape { q_heads: 3, kv_heads: 1, dim: 16, value_dim: 16 };
    let windowed = Attention { sliding_window: Some(50), ..Attention::new(0.25) };
    for attention in [Attention::new(0.25), windowed] {
        let mut batch = Batch::<f32>::new(shape, &[(200, 200)]);
        let before = batch.prefill(RowLimit::Causal, &attention);
        for poison in [f32::NAN, f32::INFINITY] {
            batch.k[100 * 16..101 * 16].fill(poison);
            batch.v[100 * 16..101 * 16].fill(poison);
            let after = batch.prefill(RowLimit::Causal, &attention);
            let row = 3 * 16;
            let end = attention.sliding_window.map_or(200, |window| 100 + window);
            assert_eq!(after.0[..100 * row], before.0[..100 * row]);
            assert!(after.0[100 * row..end * row].iter().all(|x| x.is_nan()));
            assert_eq!(after.0[end * row..], before.0[end * row..]);
        }
    }
}

#[test]
fn infinite_logits_are_not_numbers() {
    let shape = Shape { q_heads: 1, kv_heads: 1, dim: 4, value_dim: 4 };
    for (sign, keys) in [(1.0, 0..1), (-1.0, 0..3)] {
        let mut batch = Batch::<f32>::new(shape, &[(1, 3)]);
        batch.q.fill(1.0);
        for key in keys {
            batch.k[key * 4] = sign * f32::INFINITY;
        }
        let attention = Attention::new(1.0);
        for (out, lse) in
            [batch.prefill(RowLimit::Full, &attention), batch.decode(KeyLists::Dense, &attention)]
        {
            assert!(out.iter().chain(&lse).all(|x| x.is_nan()), "{out:?} {lse:?}");
        }
    }
}

/// Above, among and far below the logits.
#[test]
fn sinks_join_every_row() {
    let attention_sink = [0.5, -40.0, 300.0, -300.0, f32::NEG_INFINITY, 2.0, -1.0, 6.0, 0.0];
    for softcap in [None, Some(3.0)] {
        let attention =
            Attention { softcap, attention_sink: Some(&attention_sink), ..Attention::new(0.25) };
        let batch = Batch::<f32>::new(SHAPES[1], &[(20, 40), (40, 20), (3, 0)]);
        let causal = |s: usize, i, _, key| {
            let (queries, keys) = (batch.queries.span(s).len, batch.spans[s].len);
            key + queries < keys + i + 1
        };
        batch.compare(&batch.prefill(RowLimit::Causal, &attention), &attention, causal);
        let batch = Batch::<bf16>::new(SHAPES[1], &[(1, 700), (1, 0), (1, 3)]);
        batch.compare(&batch.decode(KeyLists::Dense, &attention), &attention, |_, _, _, _| true);
    }
}

/// A sink of -inf is none; rows whose logits are all -inf become those of the sink alone.
#[test]
fn sinks_at_the_edge() {
    let shape = Shape { q_heads: 2, kv_heads: 1, dim: 4, value_dim: 4 };
    let batch = Batch::<f32>::new(shape, &[(1, 300)]);
    let both = |batch: &Batch<f32>, attention_sink: Option<&[f32]>| {
        let attention = Attention { attention_sink, ..Attention::new(0.5) };
        [batch.prefill(RowLimit::Full, &attention), batch.decode(KeyLists::Dense, &attention)]
    };
    assert_eq!(both(&batch, Some(&[f32::NEG_INFINITY; 2])), both(&batch, None));
    let mut below = Batch::<f32>::new(shape, &[(1, 3)]);
    below.q.fill(1.0);
    below.k.fill(f32::NEG_INFINITY);
    for (out, lse) in both(&below, Some(&[-2.5, f32::NEG_INFINITY])) {
        assert!(out[..4].iter().all(|&x| x == 0.0) && out[4..].iter().all(|x| x.is_nan()));
        assert!(lse[0] == -2.5 && lse[1].is_nan());
    }
}

#[test]
fn bad_input_is_refused() {
    let shape = Shape { q_heads: 4, kv_heads: 2, dim: 8, value_dim: 8 };
    let batch = Batch::<f32>::new(shape, &[(2, 5)]);
    let plain = Attention::new(1.0);
    let run = |limit, attention: &Attention, heads, len| {
        let mut out = vec![0.0; len];
        let view = ViewMut::token_major(&mut out, heads, 8);
        prefill(batch.q(), &batch.queries, &batch.keys(), limit, attention, view, None)
    };
    assert_eq!(run(RowLimit::Full, &plain, 4, 64), Ok(()));
    assert!(run(RowLimit::Full, &plain, 4, 63).is_err());
    assert!(run(RowLimit::Full, &plain, 3, 64).is_err());
    assert!(run(RowLimit::PerRow(&[5]), &plain, 4, 64).is_err());
    assert!(run(RowLimit::PerRow(&[5, 6]), &plain, 4, 64).is_err());
    assert!(run(RowLimit::PerRow(&[-1, 5]), &plain, 4, 64).is_err());
    let negative = RowLimit::Between { first: &[0, -1][..], limit: &[5, 5] };
    assert!(run(negative, &plain, 4, 64).is_err());
    assert!(run(RowLimit::Full, &Attention::new(f32::NAN), 4, 64).is_err());
    let capped = Attention { softcap: Some(0.0), ..plain };
    assert!(run(RowLimit::Full, &capped, 4, 64).is_err());
    let windowed = Attention { sliding_window: Some(0), ..plain };
    assert!(run(RowLimit::Full, &windowed, 4, 64).is_err());
    for attention_sink in
        [&[0.0; 3][..], &[0.0; 5], &[0.0, f32::NAN, 0.0, 0.0], &[f32::INFINITY; 4]]
    {
        let with = Attention { attention_sink: Some(attention_sink), ..plain };
        assert!(run(RowLimit::Full, &with, 4, 64).is_err(), "{attention_sink:?}");
    }

    let batch = Batch::<f32>::new(shape, &[(1, 5)]);
    let run = |keys: &[i32], lens: &[usize]| {
        let mut out = vec![0.0; 32];
        let view = ViewMut::token_major(&mut out, 4, 8);
        let lists = Ragged::from_lens(lens).unwrap();
        let lists = KeyLists::Shared(PackedLists { keys, lists: &lists });
        decode(batch.q(), &batch.keys(), lists, &plain, view, None)
    };
    assert_eq!(run(&[0, 4], &[2]), Ok(()));
    assert!(run(&[0, 5], &[2]).is_err());
    assert!(run(&[-1, 4], &[2]).is_err());
    assert!(run(&[3, 3], &[2]).is_err());
    assert!(run(&[0, 4], &[1]).is_err());
    assert!(run(&[0, 4], &[1, 1]).is_err());
}
