//! A KV cache on a device that is ragged by layer and by sequence.

use candle_core::Tensor;
use salient::Ragged;

use crate::error::Result;

/// Keys and values of every layer. Each layer has its own length per sequence, because stages drop
/// tokens on the way up. Keys are stored after rotation to their original positions.
#[derive(Debug)]
pub struct DeviceCache {
    layers: Vec<DeviceLayer>,
    next: Vec<usize>,
    reserve: usize,
}

/// One layer's keys and values.
#[derive(Debug)]
pub struct DeviceLayer {
    /// A sequence has its tensors from its first token on.
    sequences: Vec<Option<Sequence>>,
}

/// Room for `capacity` tokens, of which the first `len` are there.
#[derive(Debug)]
struct Sequence {
    /// `[kv_heads, capacity, head_dim]`, as `values`.
    keys: Tensor,
    values: Tensor,
    /// u32 `[capacity]`.
    positions: Tensor,
    len: usize,
}

impl DeviceCache {
    /// An empty cache of `layers` layers for `batch` sequences. `reserve` tokens per sequence can be
    /// appended later before anything has to move.
    pub(super) fn new(layers: usize, batch: usize, reserve: usize) -> Self {
        let layer = || DeviceLayer { sequences: (0..batch).map(|_| None).collect() };
        Self { layers: (0..layers).map(|_| layer()).collect(), next: vec![0; batch], reserve }
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.next.len()
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[DeviceLayer] {
        &self.layers
    }

    /// The position of every sequence's next token; pruning does not change it.
    pub fn next_positions(&self) -> &[usize] {
        &self.next
    }

    /// Bytes of memory taken by keys and values, room to grow included.
    pub fn allocated_bytes(&self) -> usize {
        let sequences = self.layers.iter().flat_map(|layer| layer.sequences.iter().flatten());
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        sequences.map(|s| bytes(&s.keys) + bytes(&s.values)).sum()
    }

    pub(super) fn advance(&mut self, rows: &Ragged) {
        for (next, len) in self.next.iter_mut().zip(rows.lens()) {
            *next += len;
        }
    }

    /// Appends keys and values `[rows, kv_heads, head_dim]` at `positions`, u32 `[rows]`, to every
    /// sequence of a layer.
    pub(super) fn append(
        &mut self,
        layer: usize,
        rows: &Ragged,
        keys: &Tensor,
        values: &Tensor,
        positions: &Tensor,
    ) -> Result<()> {
        let reserve = self.reserve;
        for (slot, span) in self.layers[layer].sequences.iter_mut().zip(rows.spans()) {
            if span.len == 0 {
                continue;
            }
            let part =
                |t: &Tensor| t.narrow(0, span.start, span.len)?.transpose(0, 1)?.contiguous();
            let (keys, values) = (part(keys)?, part(values)?);
            let sequence = match slot.take() {
                None => Sequence::with_room(&keys, positions, span.len + reserve)?,
                Some(sequence) => sequence.grown(span.len, reserve)?,
            };
            let sequence = slot.insert(sequence);
            sequence.put(&keys, &values, &positions.narrow(0, span.start, span.len)?)?;
        }
        Ok(())
    }
}

impl DeviceLayer {
    /// Cached tokens of one sequence.
    pub fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].as_ref().map_or(0, |s| s.len)
    }

    /// Whether one sequence has no cached token.
    pub fn is_empty(&self, sequence: usize) -> bool {
        self.len(sequence) == 0
    }

    /// One sequence's keys and values, `[kv_heads, len, head_dim]` each with room between the heads,
    /// and the original positions, u32 `[len]`, ascending. None without a token.
    ///
    /// # Errors
    /// Those of candle.
    pub fn sequence(&self, sequence: usize) -> Result<Option<(Tensor, Tensor, Tensor)>> {
        let Some(s) = &self.sequences[sequence] else { return Ok(None) };
        let keys = s.keys.narrow(1, 0, s.len)?;
        Ok(Some((keys, s.values.narrow(1, 0, s.len)?, s.positions.narrow(0, 0, s.len)?)))
    }
}

impl Sequence {
    /// No token yet; of the types and sizes of these.
    fn with_room(keys: &Tensor, positions: &Tensor, capacity: usize) -> Result<Self> {
        let (kv_heads, _, dim) = keys.dims3()?;
        let room = || Tensor::zeros((kv_heads, capacity, dim), keys.dtype(), keys.device());
        let positions = Tensor::zeros(capacity, positions.dtype(), positions.device())?;
        Ok(Self { keys: room()?, values: room()?, positions, len: 0 })
    }

    /// With room for `new` more tokens, moved if it has to be.
    fn grown(self, new: usize, reserve: usize) -> Result<Self> {
        let (_, capacity, _) = self.keys.dims3()?;
        if self.len + new <= capacity {
            return Ok(self);
        }
        // Growing by half keeps long answers from moving the cache at every step.
        let slack = reserve.max(self.len / 2);
        let mut moved = Self::with_room(&self.keys, &self.positions, self.len + new + slack)?;
        moved.put(
            &self.keys.narrow(1, 0, self.len)?.contiguous()?,
            &self.values.narrow(1, 0, self.len)?.contiguous()?,
            &self.positions.narrow(0, 0, self.len)?,
        )?;
        Ok(moved)
    }

    fn put(&mut self, keys: &Tensor, values: &Tensor, positions: &Tensor) -> Result<()> {
        self.keys.slice_set(keys, 1, self.len)?;
        self.values.slice_set(values, 1, self.len)?;
        self.positions.slice_set(positions, 0, self.len)?;
        self.len += positions.dim(0)?;
        Ok(())
    }
}
