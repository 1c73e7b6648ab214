//! Keys and values of all layers.

use super::super::validate::Pages;
use super::super::{Buffer, check_tokens, lists_len, product, raw, to_i32};
use crate::checks::check_len;
use crate::compact::{KvLayout, KvMode, check_spans, used_pages};
use crate::error::{Error, Result};
use crate::ragged::{Ragged, Span};

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Sequences.
    pub batch: usize,
    /// Layers: each has one tensor of keys and one of values.
    pub layers: usize,
    /// Lists per sequence: 1 for all heads, or one for each KV head.
    pub list_heads: usize,
    /// The room of a list.
    pub capacity: usize,
    /// Where keys lie.
    pub keys: KvLayout,
    /// Where values lie.
    pub values: KvLayout,
    /// Where survivors go.
    pub mode: KvMode,
}

/// A compaction of keys and values, in place, in one launch for all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvPlan {
    shape: KvShape,
    store: Store,
    /// Of keys, of values.
    tensor_bytes: [usize; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Contiguous { tokens: usize },
    Paged(Pages),
}

impl KvPlan {
    /// A plan for caches in one piece that hold `tokens` tokens: sequences lie at spans.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for layouts without lanes or bytes, that give two elements one place,
    /// or whose lanes the lists' heads do not divide; [`Error::Overflow`] where sizes do.
    pub fn contiguous(shape: KvShape, tokens: usize) -> Result<Self> {
        check_tokens("tokens", tokens)?;
        Self::new(shape, Store::Contiguous { tokens }, tokens, 1)
    }

    /// A plan for paged caches. All layers share one page table, `[batch, max_pages]`.
    ///
    /// # Errors
    /// Those of [`KvPlan::contiguous`]; [`Error::OutOfRange`] for pages without tokens.
    pub fn paged(shape: KvShape, pages: Pages) -> Result<Self> {
        pages.check(shape.batch)?;
        Self::new(shape, Store::Paged(pages), pages.page_size, pages.pages)
    }

    fn new(shape: KvShape, store: Store, tokens: usize, pages: usize) -> Result<Self> {
        let lists = product("lists of kept tokens", &[shape.batch, shape.list_heads])?;
        to_i32("lists of kept tokens", lists)?;
        to_i32("capacity", shape.capacity)?;
        lists_len(lists, shape.capacity)?;
        to_i32("layers", product("layers", &[shape.layers, 2])?)?;
        let bytes = |layout: KvLayout| layout.required_bytes(tokens, pages, shape.list_heads);
        let tensor_bytes = [bytes(shape.keys)?, bytes(shape.values)?];
        Ok(Self { shape, store, tensor_bytes })
    }

    /// Tensors in the pointer table: keys and values of every layer, in turn.
    pub fn tensor_count(&self) -> usize {
        2 * self.shape.layers
    }

    /// Checks the tensors, keys and values of every layer in turn, in bytes, and makes the pointer
    /// table that goes to the device.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] for another number of tensors, or one that is shorter than its
    /// layout asks for.
    pub fn table(&self, tensors: &[Buffer]) -> Result<Vec<u64>> {
        check_len("tensors", self.tensor_count(), tensors.len())?;
        let place = |(i, tensor): (usize, &Buffer)| {
            let what = ["bytes of keys", "bytes of values"][i % 2];
            let address = tensor.at_least::<u8>(what, self.tensor_bytes[i % 2])?;
            Ok(address.expose_provenance() as u64)
        };
        tensors.iter().enumerate().map(place).collect()
    }

    /// Whether these are the tensors of a table, no shorter than their layouts ask for.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn holds(&self, tensors: &[Buffer], addresses: &[u64]) -> bool {
        tensors.len() == addresses.len()
            && tensors.iter().zip(addresses).enumerate().all(|(i, (tensor, &address))| {
                let needed = self.tensor_bytes[i % 2];
                tensor.len >= needed && (needed == 0 || tensor.address as u64 == address)
            })
    }

    /// Checks the spans of sequences that the host knows: as many and as long as `rows` says, in
    /// the cache, and apart.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] for spans that are not the sequences' or end beyond the cache,
    /// [`Error::OutOfRange`] for spans that overlap, [`Error::Unfit`] if the cache is paged.
    pub fn check_spans(&self, rows: &Ragged, spans: &[Span]) -> Result<()> {
        let Store::Contiguous { tokens } = self.store else {
            let expected = "absent where the cache is paged";
            return Err(Error::Unfit { what: "spans", expected });
        };
        check_len("sequences", self.shape.batch, rows.batch())?;
        check_len("spans", rows.batch(), spans.len())?;
        for (span, len) in spans.iter().zip(rows.lens()) {
            check_len("tokens of a span", len, span.len)?;
        }
        let end = check_spans(spans)?;
        if end > tokens {
            let what = "tokens of the cache";
            return Err(Error::LengthMismatch { what, expected: end, actual: tokens });
        }
        Ok(())
    }

    /// Checks a page table that the host knows: pages enough for every sequence, in the pool, and
    /// none used twice.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] for a table of another size or too few pages,
    /// [`Error::IndexOutOfBounds`] for a page outside the pool, [`Error::OutOfRange`] for one that
    /// is used twice, [`Error::Unfit`] if the cache is contiguous.
    pub fn check_pages(&self, rows: &Ragged, page_table: &[i32]) -> Result<()> {
        let Store::Paged(pages) = self.store else {
            let expected = "absent where the cache is contiguous";
            return Err(Error::Unfit { what: "page table", expected });
        };
        check_len("sequences", self.shape.batch, rows.batch())?;
        check_len("page table", self.shape.batch * pages.max_pages, page_table.len())?;
        used_pages(rows, page_table, pages.page_size, pages.pages).map(|_| ())
    }
}

/// Where the buffers of a compaction lie; lengths in elements, exact.
#[derive(Debug, Clone, Copy, Default)]
pub struct KvBuffers {
    /// u64 `[tensor_count]`, [`KvPlan::table`] on the device.
    pub tensors: Buffer,
    /// i32 `[batch * list_heads, capacity]`.
    pub kept: Buffer,
    /// i32 `[batch * list_heads]`.
    pub kept_lens: Buffer,
    /// i32 `[batch]`: tokens of every sequence.
    pub lens: Buffer,
    /// i32 `[batch]`: the first token of every sequence; contiguous caches only.
    pub span_starts: Option<Buffer>,
    /// i32 `[batch, max_pages]`; paged caches only.
    pub page_table: Option<Buffer>,
    /// i32 `[batch * list_heads, capacity]`, written: the old token now in each place, -1 after the
    /// last.
    pub order: Option<Buffer>,
    /// i32 `[batch * max_pages]`, written: pages without kept tokens, in table order; paged only.
    pub freed: Option<Buffer>,
    /// i32 `[1]`, written: how many pages are freed; with `freed`.
    pub freed_count: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], and [`Error::Unfit`] for spans, pages or
/// freed pages that the cache does not have, or that are missing.
pub fn kv_params(plan: &KvPlan, buffers: &KvBuffers) -> Result<raw::SalientKvParams> {
    let KvShape { batch, list_heads, capacity, keys, values, mode, .. } = plan.shape;
    let (tokens, pages) = match plan.store {
        Store::Contiguous { tokens } => (tokens, None),
        Store::Paged(pages) => (0, Some(pages)),
    };
    let presence = |what, wanted: bool, given: bool, expected| {
        if wanted == given { Ok(()) } else { Err(Error::Unfit { what, expected }) }
    };
    let contiguous = "given if, and only if, the cache is contiguous";
    presence("span starts", pages.is_none(), buffers.span_starts.is_some(), contiguous)?;
    let paged = "given if, and only if, the cache is paged";
    presence("page table", pages.is_some(), buffers.page_table.is_some(), paged)?;
    presence("freed pages", false, pages.is_none() && buffers.freed.is_some(), paged)?;
    let together = "given if, and only if, the freed pages are asked for";
    let (freed, count) = (buffers.freed.is_some(), buffers.freed_count.is_some());
    presence("number of freed pages", freed, count, together)?;

    let Pages { page_size, max_pages, pages } =
        pages.unwrap_or(Pages { page_size: 0, max_pages: 0, pages: 0 });
    let lists = batch * list_heads;
    let list_entries = lists_len(lists, capacity)?;
    let table = product("page table", &[batch, max_pages])?;
    let tensors: *mut u64 = buffers.tensors.exactly("tensors", plan.tensor_count())?;
    Ok(raw::SalientKvParams {
        tensors: tensors.cast(),
        kept: buffers.kept.exactly("kept", list_entries)?,
        kept_lens: buffers.kept_lens.exactly("kept_lens", lists)?,
        lens: buffers.lens.exactly("lengths of the sequences", batch)?,
        span_starts: Buffer::optional(buffers.span_starts, "span starts", batch)?,
        page_table: Buffer::optional(buffers.page_table, "page table", table)?,
        order: Buffer::optional(buffers.order, "order", list_entries)?,
        freed: Buffer::optional(buffers.freed, "freed pages", table)?,
        freed_count: Buffer::optional(buffers.freed_count, "number of freed pages", 1)?,
        status: buffers.status.exactly("status", 1)?,
        layouts: [raw_layout(keys), raw_layout(values)],
        tensor_count: to_i32("tensors", plan.tensor_count())?,
        batch: to_i32("sequences", batch)?,
        list_heads: to_i32("heads of the lists", list_heads)?,
        capacity: to_i32("capacity", capacity)?,
        tokens: to_i32("tokens", tokens)?,
        page_size: to_i32("page size", page_size)?,
        max_pages: to_i32("page table", max_pages)?,
        pages: to_i32("pages of the pool", pages)?,
        mode: match mode {
            KvMode::Stable => raw::SALIENT_KV_STABLE,
            KvMode::HoleFill => raw::SALIENT_KV_HOLE_FILL,
        },
    })
}

fn raw_layout(layout: KvLayout) -> raw::SalientKvLayout {
    // All fit, or there were no plan.
    raw::SalientKvLayout {
        token_stride: layout.token_stride as i64,
        lane_stride: layout.lane_stride as i64,
        page_stride: layout.page_stride as i64,
        lanes: layout.lanes as i32,
        lane_bytes: layout.lane_bytes as i32,
    }
}

#[cfg(test)]
mod tests;
