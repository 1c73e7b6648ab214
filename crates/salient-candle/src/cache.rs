//! A KV cache that is ragged by layer and by sequence.

use rayon::prelude::*;
use salient::attend::Keys;
use salient::{Ragged, Span, View};

/// Keys and values of every layer. Each layer has its own length per sequence, because stages drop
/// tokens on the way up. Keys are stored after rotation to their original positions.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    next: Vec<usize>,
    reserve: usize,
}

/// One layer's keys and values, `[rows, kv_heads, head_dim]` each, every sequence in a span of its
/// own with room to grow.
#[derive(Debug, Clone)]
pub struct LayerCache {
    kv_heads: usize,
    head_dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    positions: Vec<i32>,
    spans: Vec<Span>,
    capacities: Vec<usize>,
}

impl KvCache {
    /// An empty cache of `layers` layers for `batch` sequences. `reserve` tokens per sequence can
    /// be appended later before anything has to move.
    pub fn new(
        layers: usize,
        batch: usize,
        kv_heads: usize,
        head_dim: usize,
        reserve: usize,
    ) -> Self {
        let layer = LayerCache {
            kv_heads,
            head_dim,
            keys: Vec::new(),
            values: Vec::new(),
            positions: Vec::new(),
            spans: vec![Span { start: 0, len: 0 }; batch],
            capacities: vec![0; batch],
        };
        Self { layers: vec![layer; layers], next: vec![0; batch], reserve }
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.next.len()
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// The position of every sequence's next token; pruning does not change it.
    pub fn next_positions(&self) -> &[usize] {
        &self.next
    }

    /// Bytes of keys and values that hold tokens.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| 2 * l.len() * l.width() * size_of::<f32>()).sum()
    }

    /// Bytes of memory taken, room to grow included.
    pub fn allocated_bytes(&self) -> usize {
        let floats: usize =
            self.layers.iter().map(|l| l.keys.capacity() + l.values.capacity()).sum();
        floats * size_of::<f32>()
    }

    pub(crate) fn advance(&mut self, rows: &Ragged) {
        for (next, len) in self.next.iter_mut().zip(rows.lens()) {
            *next += len;
        }
    }

    /// Appends rows to every sequence of a layer.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        rows: &Ragged,
        keys: View<'_, f32>,
        values: View<'_, f32>,
        positions: &[i32],
    ) {
        let reserve = self.reserve;
        self.layers[layer].append(rows, keys, values, positions, reserve);
    }
}

impl LayerCache {
    /// Where every sequence's rows lie.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Rows of all sequences.
    pub fn len(&self) -> usize {
        self.spans.iter().map(|span| span.len).sum()
    }

    /// Whether no sequence has a row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The original positions of one sequence's rows, ascending.
    pub fn positions(&self, sequence: usize) -> &[i32] {
        &self.positions[self.spans[sequence].range()]
    }

    /// The rows as the attend verb takes them.
    pub fn keys(&self) -> Keys<'_, f32> {
        Keys::Contiguous {
            k: View::token_major(&self.keys, self.kv_heads, self.head_dim),
            v: View::token_major(&self.values, self.kv_heads, self.head_dim),
            spans: &self.spans,
        }
    }

    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn append(
        &mut self,
        rows: &Ragged,
        keys: View<'_, f32>,
        values: View<'_, f32>,
        positions: &[i32],
        reserve: usize,
    ) {
        let full = self.spans.iter().zip(&self.capacities).zip(rows.lens());
        if full.into_iter().any(|((span, capacity), new)| span.len + new > *capacity) {
            self.grow(rows, reserve);
        }
        let width = self.width();
        for (sequence, new) in rows.spans().enumerate() {
            let at = self.spans[sequence].end();
            copy_rows(keys, new, &mut self.keys[at * width..][..new.len * width]);
            copy_rows(values, new, &mut self.values[at * width..][..new.len * width]);
            self.positions[at..at + new.len].copy_from_slice(&positions[new.range()]);
            self.spans[sequence].len += new.len;
        }
    }

    /// Moves every sequence to a span with room for `rows` and `reserve` more tokens.
    fn grow(&mut self, rows: &Ragged, reserve: usize) {
        let width = self.width();
        let mut start = 0;
        let mut spans = Vec::with_capacity(self.spans.len());
        for (sequence, new) in rows.lens().enumerate() {
            let len = self.spans[sequence].len;
            // Growing by half keeps long answers from moving the cache at every step.
            let slack = if len == 0 { reserve } else { reserve.max(len / 2) };
            self.capacities[sequence] = len + new + slack;
            spans.push(Span { start, len });
            start += self.capacities[sequence];
        }
        let mut keys = vec![0.0; start * width];
        let mut values = vec![0.0; start * width];
        let mut positions = vec![0; start];
        for (old, new) in self.spans.iter().zip(&spans) {
            let from = old.start * width..old.end() * width;
            let to = new.start * width..new.end() * width;
            keys[to.clone()].copy_from_slice(&self.keys[from.clone()]);
            values[to].copy_from_slice(&self.values[from]);
            positions[new.range()].copy_from_slice(&self.positions[old.range()]);
        }
        (self.keys, self.values, self.positions, self.spans) = (keys, values, positions, spans);
    }
}

fn copy_rows(src: View<'_, f32>, rows: Span, dst: &mut [f32]) {
    let (heads, dim) = (src.layout.heads, src.layout.dim);
    dst.par_chunks_mut(heads * dim).with_min_len(256).enumerate().for_each(|(i, dst)| {
        for (head, dst) in dst.chunks_exact_mut(dim).enumerate() {
            dst.copy_from_slice(src.row(rows.start + i, head));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_in_order_while_spans_grow() {
        let mut cache = KvCache::new(1, 2, 1, 2, 1);
        let mut expected: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
        let mut next = 0.0;
        for lens in [[3, 0], [1, 1], [0, 4], [2, 2]] {
            let rows = Ragged::from_lens(&lens).unwrap();
            let data: Vec<f32> = (0..rows.total() * 2).map(|i| next + i as f32).collect();
            next += data.len() as f32;
            for (span, expected) in rows.spans().zip(&mut expected) {
                expected.extend(&data[span.start * 2..span.end() * 2]);
            }
            let positions: Vec<i32> = (0..rows.total() as i32).collect();
            let view = View::token_major(&data, 1, 2);
            cache.append(0, &rows, view, view, &positions);
            cache.advance(&rows);
        }
        let layer = &cache.layers()[0];
        for (span, expected) in layer.spans().iter().zip(&expected) {
            assert_eq!(&layer.keys[span.start * 2..span.end() * 2], &expected[..]);
            assert_eq!(&layer.values[span.start * 2..span.end() * 2], &expected[..]);
        }
        assert_eq!(cache.next_positions(), &[6, 7]);
        assert_eq!(cache.bytes(), 13 * 2 * 2 * 4);
    }
}
