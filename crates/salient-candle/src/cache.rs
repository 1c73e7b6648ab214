//! A KV cache that is ragged by layer and by sequence, where the model is.

use candle_core::Tensor;
use salient::{Ragged, Span};

use crate::error::{Error, Result};

/// Keys and values of every layer. Each layer has its own length per sequence, because stages drop
/// tokens on the way up. Keys are stored after rotation to their original positions.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    next: Vec<usize>,
    reserve: usize,
}

/// One layer's keys and values.
#[derive(Debug)]
pub struct LayerCache {
    /// From the first token on.
    store: Option<Store>,
    spans: Vec<Span>,
    /// Tokens that each span may grow to.
    capacities: Vec<usize>,
}

/// Room for the tokens of all sequences.
#[derive(Debug)]
struct Store {
    /// `[tokens, kv_heads, head_dim]`, as `values`.
    keys: Tensor,
    values: Tensor,
    /// u32 `[tokens]`.
    positions: Tensor,
}

/// The keys and values that a layer attends to, every sequence in a span of its own.
#[derive(Debug, Clone)]
pub struct CachedKeys {
    /// `[tokens, kv_heads, head_dim]`.
    pub keys: Tensor,
    /// `[tokens, kv_heads, head_dim]`.
    pub values: Tensor,
    /// u32 `[batch]`, the first token of every sequence.
    pub starts: Tensor,
    /// u32 `[batch]`, the keys of every sequence.
    pub lens: Tensor,
    /// No sequence has more keys.
    pub capacity: usize,
}

impl Store {
    /// Tokens that there is room for.
    fn room(&self) -> usize {
        self.positions.elem_count()
    }
}

impl KvCache {
    /// An empty cache of `layers` layers for `batch` sequences. `reserve` tokens per sequence can
    /// be appended later before anything has to move.
    pub(crate) fn new(layers: usize, batch: usize, reserve: usize) -> Self {
        let layer = || LayerCache {
            store: None,
            spans: vec![Span { start: 0, len: 0 }; batch],
            capacities: vec![0; batch],
        };
        Self { layers: (0..layers).map(|_| layer()).collect(), next: vec![0; batch], reserve }
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
        self.layers.iter().map(|layer| layer.len() * layer.token_bytes()).sum()
    }

    /// Bytes of memory taken by keys and values, room to grow included.
    pub fn allocated_bytes(&self) -> usize {
        let room = |layer: &LayerCache| layer.store.as_ref().map_or(0, Store::room);
        self.layers.iter().map(|layer| room(layer) * layer.token_bytes()).sum()
    }

    /// A cache of its own with the same tokens.
    ///
    /// # Errors
    /// Those of candle.
    pub fn copy(&self) -> Result<Self> {
        let layers = self.layers.iter().map(LayerCache::copy).collect::<Result<_>>()?;
        Ok(Self { layers, next: self.next.clone(), reserve: self.reserve })
    }

    pub(crate) fn advance(&mut self, rows: &Ragged) {
        for (next, len) in self.next.iter_mut().zip(rows.lens()) {
            *next += len;
        }
    }

    /// Appends keys and values `[rows, kv_heads, head_dim]` at `positions`, u32 `[rows]`, to every
    /// sequence of a layer.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        rows: &Ragged,
        keys: &Tensor,
        values: &Tensor,
        positions: &Tensor,
    ) -> Result<()> {
        let reserve = self.reserve;
        let layer = &mut self.layers[layer];
        layer.make_room(rows, reserve, [keys, values, positions])?;
        let store = layer.store.as_ref().ok_or_else(empty)?;
        for (span, new) in layer.spans.iter_mut().zip(rows.spans()) {
            if new.len == 0 {
                continue;
            }
            for (to, from) in
                [(&store.keys, keys), (&store.values, values), (&store.positions, positions)]
            {
                to.slice_set(&from.narrow(0, new.start, new.len)?.contiguous()?, 0, span.end())?;
            }
            span.len += new.len;
        }
        Ok(())
    }

    /// Makes room for this many more tokens per sequence, so that nothing moves while they come.
    /// Every layer has a token.
    pub(crate) fn make_room(&mut self, tokens: usize) -> Result<()> {
        let rows = Ragged::from_lens(&vec![tokens; self.batch()])?;
        for layer in &mut self.layers {
            let Store { keys, values, positions } = layer.store()?;
            let like = [keys.clone(), values.clone(), positions.clone()];
            layer.make_room(&rows, 0, like.each_ref())?;
        }
        Ok(())
    }

    /// Counts tokens that were written behind the last one of every sequence of every layer.
    pub(crate) fn count(&mut self, tokens: usize) {
        self.next.iter_mut().for_each(|next| *next += tokens);
        for span in self.layers.iter_mut().flat_map(|layer| &mut layer.spans) {
            span.len += tokens;
        }
    }
}

impl LayerCache {
    /// Where the tokens of every sequence lie.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Cached tokens of all sequences.
    pub fn len(&self) -> usize {
        self.spans.iter().map(|span| span.len).sum()
    }

    /// Whether no sequence has a cached token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The original positions of one sequence's tokens, ascending.
    ///
    /// # Errors
    /// Those of candle.
    pub fn positions(&self, sequence: usize) -> Result<Vec<u32>> {
        let Span { start, len } = self.spans[sequence];
        match &self.store {
            Some(store) if len > 0 => Ok(store.positions.narrow(0, start, len)?.to_vec1()?),
            _ => Ok(Vec::new()),
        }
    }

    /// One sequence's keys and values, `[kv_heads, len, head_dim]` each as they lie, and the
    /// original positions, u32 `[len]`, ascending. None without a token.
    ///
    /// # Errors
    /// Those of candle.
    pub fn sequence(&self, sequence: usize) -> Result<Option<(Tensor, Tensor, Tensor)>> {
        let Span { start, len } = self.spans[sequence];
        let Some(store) = self.store.as_ref().filter(|_| len > 0) else { return Ok(None) };
        let part = |t: &Tensor| t.narrow(0, start, len)?.transpose(0, 1);
        let positions = store.positions.narrow(0, start, len)?;
        Ok(Some((part(&store.keys)?, part(&store.values)?, positions)))
    }

    /// The keys and values of all sequences, of which one has a token.
    pub(crate) fn cached(&self) -> Result<CachedKeys> {
        let Store { keys, values, .. } = self.store()?;
        let numbers = |of: fn(&Span) -> usize| {
            let numbers: Vec<u32> = self.spans.iter().map(|span| of(span) as u32).collect();
            Tensor::new(numbers, keys.device())
        };
        Ok(CachedKeys {
            keys: keys.clone(),
            values: values.clone(),
            starts: numbers(|span| span.start)?,
            lens: numbers(|span| span.len)?,
            capacity: self.spans.iter().map(|span| span.len).max().unwrap_or(0),
        })
    }

    /// u32 `[tokens]`, where each cached token stood; one sequence has a token.
    pub(crate) fn all_positions(&self) -> Result<&Tensor> {
        Ok(&self.store()?.positions)
    }

    /// Keys and values of all sequences, of which one has a token.
    pub(crate) fn tensors(&self) -> Result<(&Tensor, &Tensor)> {
        let Store { keys, values, .. } = self.store()?;
        Ok((keys, values))
    }

    /// The most tokens that a sequence may grow to before it moves.
    pub(crate) fn capacity(&self) -> usize {
        self.capacities.iter().copied().max().unwrap_or(0)
    }

    /// Bytes of one token's keys and values.
    fn token_bytes(&self) -> usize {
        let Some(Store { keys, values, .. }) = &self.store else { return 0 };
        let bytes =
            |t: &Tensor| t.dims()[1..].iter().product::<usize>() * t.dtype().size_in_bytes();
        bytes(keys) + bytes(values)
    }

    fn copy(&self) -> Result<Self> {
        let store = match &self.store {
            Some(Store { keys, values, positions }) => Some(Store {
                keys: keys.copy()?,
                values: values.copy()?,
                positions: positions.copy()?,
            }),
            None => None,
        };
        Ok(Self { store, spans: self.spans.clone(), capacities: self.capacities.clone() })
    }

    fn store(&self) -> Result<&Store> {
        self.store.as_ref().ok_or_else(empty)
    }

    /// Moves all sequences, if one has to, to spans with room for `rows` and `reserve` more tokens,
    /// of the types and sizes of `like`.
    fn make_room(&mut self, rows: &Ragged, reserve: usize, like: [&Tensor; 3]) -> Result<()> {
        let mut grown = self.spans.iter().zip(&self.capacities).zip(rows.lens());
        let fits = grown.all(|((span, &capacity), new)| span.len + new <= capacity);
        if fits && self.store.is_some() {
            return Ok(());
        }
        let mut start = 0;
        let mut spans = Vec::with_capacity(self.spans.len());
        for ((span, capacity), new) in self.spans.iter().zip(&mut self.capacities).zip(rows.lens())
        {
            // Growing by half keeps long answers from moving the cache at every step.
            let slack = if span.len == 0 { reserve } else { reserve.max(span.len / 2) };
            *capacity = span.len + new + slack;
            spans.push(Span { start, len: span.len });
            start += *capacity;
        }
        let room = |like: &Tensor| {
            let shape = [&[start], &like.dims()[1..]].concat();
            Tensor::zeros(shape, like.dtype(), like.device())
        };
        let [keys, values, positions] = like;
        let moved = Store { keys: room(keys)?, values: room(values)?, positions: room(positions)? };
        if let Some(store) = &self.store {
            for (old, new) in self.spans.iter().zip(&spans).filter(|(old, _)| old.len > 0) {
                for (to, from) in [
                    (&moved.keys, &store.keys),
                    (&moved.values, &store.values),
                    (&moved.positions, &store.positions),
                ] {
                    to.slice_set(&from.narrow(0, old.start, old.len)?, 0, new.start)?;
                }
            }
        }
        (self.store, self.spans) = (Some(moved), spans);
        Ok(())
    }
}

fn empty() -> Error {
    Error::Config { reason: "attention over a cache without a token".into() }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn rows_of(lens: &[usize], next: f32) -> (Ragged, Tensor, Tensor) {
        let rows = Ragged::from_lens(lens).unwrap();
        let data: Vec<f32> = (0..rows.total() * 2).map(|i| next + i as f32).collect();
        let data = Tensor::from_vec(data, (rows.total(), 1, 2), &Device::Cpu).unwrap();
        let positions = Tensor::arange(0u32, rows.total() as u32, &Device::Cpu).unwrap();
        (rows, data, positions)
    }

    fn keys_of(cache: &KvCache, sequence: usize) -> [Vec<f32>; 2] {
        let (k, v, _) = cache.layers()[0].sequence(sequence).unwrap().unwrap();
        [k, v].map(|t| t.flatten_all().unwrap().to_vec1().unwrap())
    }

    #[test]
    fn rows_stay_in_order_while_spans_grow() {
        let mut cache = KvCache::new(1, 2, 1);
        let mut expected: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
        let mut next = 0.0;
        for lens in [[3, 0], [1, 1], [0, 4], [2, 2]] {
            let (rows, data, positions) = rows_of(&lens, next);
            let values = data.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            next += values.len() as f32;
            for (span, expected) in rows.spans().zip(&mut expected) {
                expected.extend(&values[span.start * 2..span.end() * 2]);
            }
            cache.append(0, &rows, &data, &data, &positions).unwrap();
            cache.advance(&rows);
        }
        for (sequence, expected) in expected.iter().enumerate() {
            assert_eq!(keys_of(&cache, sequence), [expected.clone(), expected.clone()]);
        }
        assert_eq!(cache.next_positions(), &[6, 7]);
        assert_eq!(cache.bytes(), 13 * 2 * 2 * 4);
    }

    #[test]
    fn what_is_appended_to_a_copy_is_not_in_the_cache() {
        let mut cache = KvCache::new(1, 1, 4);
        let (rows, data, positions) = rows_of(&[3], 0.0);
        cache.append(0, &rows, &data, &data, &positions).unwrap();
        let mut copies = [cache.copy().unwrap(), cache.copy().unwrap()];
        for (copy, next) in copies.iter_mut().zip([100.0, 200.0]) {
            let (rows, data, positions) = rows_of(&[2], next);
            copy.append(0, &rows, &data, &data, &positions).unwrap();
        }
        assert_eq!(keys_of(&copies[0], 0)[0], [0., 1., 2., 3., 4., 5., 100., 101., 102., 103.]);
        assert_eq!(keys_of(&copies[1], 0)[1][6..], [200., 201., 202., 203.]);
        assert_eq!(keys_of(&cache, 0)[0].len(), 6);
    }
}
