//! Keys and values of all layers.

use super::super::validate::Pages;
use super::super::{Buffer, at_least_one, check_tokens, lists_len, product, raw, to_i32, to_i64};
use crate::error::{Error, Result, check_len};
use crate::host::compact::{check_spans, used_pages};
use crate::layout::{Layout, PagedLayout, is_disjoint};
use crate::ragged::{Ragged, Span};

/// Where a cache's lanes lie, in bytes. A lane is what moves as one: a head, or a part of one where
/// the layout cuts heads up. Lanes are numbered head by head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// From a token to the next; in a page, where the cache is paged.
    pub token_stride: usize,
    /// From a lane to the next.
    pub lane_stride: usize,
    /// From a page to the next; 0 if the cache is contiguous.
    pub page_stride: usize,
    /// Lanes of a token.
    pub lanes: usize,
    /// Contiguous bytes of a token in a lane.
    pub lane_bytes: usize,
}

impl KvLayout {
    /// A contiguous cache of elements of `element` bytes: a lane is a head.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn contiguous(layout: Layout, element: usize) -> Result<Self> {
        let Layout { heads, dim, token_stride, head_stride } = layout;
        Self::scaled([token_stride, head_stride, 0], heads, dim, element)
    }

    /// A paged cache, `[pages, page_size, heads, dim]` ([`PagedLayout::nhd`]), `[pages, heads,
    /// page_size, dim]` ([`PagedLayout::hnd`]) or with other strides: a lane is a head.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn paged(layout: PagedLayout, element: usize) -> Result<Self> {
        let PagedLayout { heads, dim, page_stride, token_stride, head_stride, .. } = layout;
        Self::scaled([token_stride, head_stride, page_stride], heads, dim, element)
    }

    /// vLLM's keys, `[pages, heads, dim / x, page_size, x]` with `x` elements in 16 bytes: a lane is
    /// 16 bytes of a head.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a head is no multiple of 16 bytes, [`Error::Overflow`] where sizes
    /// do.
    pub fn vllm_keys(page_size: usize, heads: usize, dim: usize, element: usize) -> Result<Self> {
        const LANE: usize = 16;
        let head = product("bytes of a head", &[dim, element])?;
        if !head.is_multiple_of(LANE) {
            let (what, value) = ("bytes of a head", head as f64);
            return Err(Error::OutOfRange { what, value, expected: "a multiple of 16" });
        }
        let lanes = product("lanes", &[heads, head / LANE])?;
        let lane_stride = product("a page", &[page_size, LANE])?;
        let page_stride = product("a page", &[lanes, lane_stride])?;
        Ok(Self { token_stride: LANE, lane_stride, page_stride, lanes, lane_bytes: LANE })
    }

    /// vLLM's values, `[pages, heads, dim, page_size]`: a lane is one element.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn vllm_values(page_size: usize, heads: usize, dim: usize, element: usize) -> Result<Self> {
        let lanes = product("lanes", &[heads, dim])?;
        let lane_stride = product("a page", &[page_size, element])?;
        let page_stride = product("a page", &[lanes, lane_stride])?;
        Ok(Self { token_stride: element, lane_stride, page_stride, lanes, lane_bytes: element })
    }

    fn scaled(strides: [usize; 3], heads: usize, dim: usize, element: usize) -> Result<Self> {
        let bytes = |elements| product("bytes of a cache", &[elements, element]);
        let [token, head, page] = strides;
        Ok(Self {
            token_stride: bytes(token)?,
            lane_stride: bytes(head)?,
            page_stride: bytes(page)?,
            lanes: heads,
            lane_bytes: bytes(dim)?,
        })
    }

    /// Bytes of the shortest buffer that holds `tokens` tokens in each of `pages` pages, no two
    /// bytes of which share a place.
    fn required_bytes(&self, tokens: usize, pages: usize, list_heads: usize) -> Result<usize> {
        let Self { token_stride, lane_stride, page_stride, lanes, lane_bytes } = *self;
        at_least_one("lanes", lanes)?;
        at_least_one("bytes of a lane", lane_bytes)?;
        if list_heads == 0 || lanes % list_heads != 0 {
            return Err(Error::OutOfRange {
                what: "heads of the lists",
                value: list_heads as f64,
                expected: "a number that divides the lanes of keys and of values",
            });
        }
        // Kernels count a token's bytes in 32 bits, and a few beyond the last.
        if lanes.checked_mul(lane_bytes).is_none_or(|bytes| bytes > i32::MAX as usize / 2) {
            return Err(Error::Overflow { what: "bytes of a token" });
        }
        for stride in [token_stride, lane_stride, page_stride] {
            to_i64("strides of a cache", stride)?;
        }
        if tokens == 0 || pages == 0 {
            return Ok(0);
        }
        let axes = [(pages, page_stride), (tokens, token_stride), (lanes, lane_stride)];
        let last = axes.iter().try_fold(lane_bytes, |end, &(extent, stride)| {
            (extent - 1).checked_mul(stride).and_then(|offset| end.checked_add(offset))
        });
        let what = "bytes of a cache";
        let bytes =
            last.filter(|&bytes| bytes <= isize::MAX as usize).ok_or(Error::Overflow { what })?;
        if !is_disjoint(lane_bytes, axes) {
            return Err(crate::layout::shared_places(token_stride));
        }
        Ok(bytes)
    }

    fn raw(&self) -> raw::SalientKvLayout {
        // All fit, or there were no plan.
        raw::SalientKvLayout {
            token_stride: self.token_stride as i64,
            lane_stride: self.lane_stride as i64,
            page_stride: self.page_stride as i64,
            lanes: self.lanes as i32,
            lane_bytes: self.lane_bytes as i32,
        }
    }
}

/// Where survivors go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvMode {
    /// To the front, in order.
    #[default]
    Stable,
    /// Survivors beyond the new length move into the holes below it, in order; the others stay.
    /// Moves least, but tokens change their order, which [`KvBuffers::order`] tells.
    HoleFill,
}

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
        layouts: [keys.raw(), values.raw()],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    const PAGES: Pages = Pages { page_size: 4, max_pages: 3, pages: 9 };

    fn shape(layout: KvLayout) -> KvShape {
        let (keys, values, mode) = (layout, layout, KvMode::Stable);
        KvShape { batch: 2, layers: 3, list_heads: 2, capacity: 5, keys, values, mode }
    }

    fn flat() -> KvPlan {
        let layout = KvLayout::contiguous(Layout::token_major(2, 8), 2).unwrap();
        KvPlan::contiguous(shape(layout), 20).unwrap()
    }

    fn paged() -> KvPlan {
        let layout = KvLayout::paged(PagedLayout::hnd(4, 2, 8), 2).unwrap();
        let mode = KvMode::HoleFill;
        KvPlan::paged(KvShape { mode, ..shape(layout) }, PAGES).unwrap()
    }

    fn buffers(plan: &KvPlan) -> KvBuffers {
        let paged = matches!(plan.store, Store::Paged(_));
        KvBuffers {
            tensors: at(6),
            kept: at(20),
            kept_lens: at(4),
            lens: at(2),
            span_starts: (!paged).then_some(at(2)),
            page_table: paged.then_some(at(6)),
            order: Some(at(20)),
            freed: paged.then_some(at(6)),
            freed_count: paged.then_some(at(1)),
            status: at(1),
        }
    }

    /// Every byte that a layout addresses, each once, fills the pool.
    fn fills(layout: KvLayout, tokens: usize, pages: usize) {
        let bytes = layout.required_bytes(tokens, pages, 1).unwrap();
        let mut seen = vec![false; bytes];
        for page in 0..pages {
            for token in 0..tokens {
                for lane in 0..layout.lanes {
                    let start = page * layout.page_stride
                        + token * layout.token_stride
                        + lane * layout.lane_stride;
                    for byte in &mut seen[start..start + layout.lane_bytes] {
                        assert!(!std::mem::replace(byte, true));
                    }
                }
            }
        }
        assert!(seen.into_iter().all(|byte| byte), "{layout:?}");
    }

    #[test]
    fn every_layout_fills_its_pool() {
        let (page_size, heads, dim, pages) = (4, 3, 24, 5);
        for element in [1, 2, 4] {
            for layout in [
                KvLayout::paged(PagedLayout::nhd(page_size, heads, dim), element).unwrap(),
                KvLayout::paged(PagedLayout::hnd(page_size, heads, dim), element).unwrap(),
                KvLayout::vllm_values(page_size, heads, dim, element).unwrap(),
            ] {
                fills(layout, page_size, pages);
            }
        }
        let keys = KvLayout::vllm_keys(page_size, heads, dim, 2).unwrap();
        assert_eq!((keys.lanes, keys.lane_bytes, keys.token_stride), (9, 16, 16));
        fills(keys, page_size, pages);
        assert!(KvLayout::vllm_keys(page_size, heads, dim, 1).is_err());
        fills(KvLayout::contiguous(Layout::token_major(3, 5), 2).unwrap(), 7, 1);
        fills(KvLayout::contiguous(Layout::head_major(3, 5, 7), 2).unwrap(), 7, 1);
    }

    #[test]
    fn good_buffers_become_parameters() {
        let plan = flat();
        let raw = kv_params(&plan, &buffers(&plan)).unwrap();
        assert_eq!((raw.tensor_count, raw.batch, raw.list_heads, raw.capacity), (6, 2, 2, 5));
        assert_eq!((raw.tokens, raw.page_size, raw.mode), (20, 0, 0));
        assert_eq!((raw.layouts[1].lanes, raw.layouts[1].lane_bytes), (2, 16));
        assert!(raw.page_table.is_null() && raw.freed.is_null() && !raw.span_starts.is_null());
        let plan = paged();
        let raw = kv_params(&plan, &buffers(&plan)).unwrap();
        assert_eq!((raw.tokens, raw.page_size, raw.max_pages, raw.pages), (0, 4, 3, 9));
        assert_eq!((raw.mode, raw.layouts[0].page_stride), (1, 128));
        let lean = KvBuffers { order: None, freed: None, freed_count: None, ..buffers(&plan) };
        let raw = kv_params(&plan, &lean).unwrap();
        assert!(raw.order.is_null() && raw.freed.is_null() && raw.freed_count.is_null());
    }

    #[test]
    fn bad_buffers_are_refused() {
        type Field = fn(&mut KvBuffers) -> Option<&mut Buffer>;
        let fields: [Field; 10] = [
            |b| Some(&mut b.tensors),
            |b| Some(&mut b.kept),
            |b| Some(&mut b.kept_lens),
            |b| Some(&mut b.lens),
            |b| b.span_starts.as_mut(),
            |b| b.page_table.as_mut(),
            |b| b.order.as_mut(),
            |b| b.freed.as_mut(),
            |b| b.freed_count.as_mut(),
            |b| Some(&mut b.status),
        ];
        for plan in [flat(), paged()] {
            for field in fields {
                let (mut long, mut askew) = (buffers(&plan), buffers(&plan));
                let (Some(a), Some(b)) = (field(&mut long), field(&mut askew)) else { continue };
                a.len += 1;
                b.address += 2;
                let error = kv_params(&plan, &long);
                assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
                let error = kv_params(&plan, &askew);
                assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
            }
        }
        let (flat, paged) = (flat(), paged());
        for (plan, bad) in [
            (flat, KvBuffers { span_starts: None, ..buffers(&flat) }),
            (flat, KvBuffers { page_table: Some(at(6)), ..buffers(&flat) }),
            (flat, KvBuffers { freed: Some(at(0)), freed_count: Some(at(1)), ..buffers(&flat) }),
            (paged, KvBuffers { page_table: None, ..buffers(&paged) }),
            (paged, KvBuffers { span_starts: Some(at(2)), ..buffers(&paged) }),
            (paged, KvBuffers { freed_count: None, ..buffers(&paged) }),
            (paged, KvBuffers { freed: None, ..buffers(&paged) }),
        ] {
            assert!(matches!(kv_params(&plan, &bad), Err(Error::Unfit { .. })));
        }
    }

    #[test]
    fn tensors_are_checked_when_the_table_is_made() {
        let plan = flat();
        let tensors: Vec<Buffer> = (1..7).map(|i| Buffer::new(i << 12, 640)).collect();
        assert_eq!(plan.table(&tensors).unwrap(), [1, 2, 3, 4, 5, 6].map(|i| i << 12));
        assert!(plan.table(&tensors[1..]).is_err());
        let table = plan.table(&tensors).unwrap();
        assert!(plan.holds(&tensors, &table));
        assert!(!plan.holds(&tensors[1..], &table));
        let mut moved = tensors.clone();
        moved[5].address += 16;
        assert!(!plan.holds(&moved, &table));
        let mut short = tensors;
        short[3].len = 639;
        let (what, expected) = ("bytes of values", 640);
        let error = plan.table(&short).unwrap_err();
        assert_eq!(error, Error::LengthMismatch { what, expected, actual: 639 });
        assert!(!plan.holds(&short, &table));
    }

    #[test]
    fn bad_shapes_are_refused() {
        let good = KvLayout::contiguous(Layout::token_major(4, 8), 2).unwrap();
        let with = |keys| KvPlan::contiguous(KvShape { keys, ..shape(good) }, 20).map(|_| ());
        assert!(with(good).is_ok());
        for keys in [
            KvLayout { token_stride: 63, ..good },
            KvLayout { lane_stride: 15, ..good },
            KvLayout { token_stride: usize::MAX / 2, ..good },
            KvLayout { lanes: 0, ..good },
            KvLayout { lane_bytes: 0, ..good },
            KvLayout { lanes: 3, ..good },
            KvLayout { lanes: 1 << 16, lane_bytes: 1 << 15, ..good },
        ] {
            assert!(with(keys).is_err(), "{keys:?}");
        }
        for bad in [
            KvShape { list_heads: 0, ..shape(good) },
            KvShape { list_heads: 3, ..shape(good) },
            KvShape { list_heads: usize::MAX, ..shape(good) },
            KvShape { batch: 1 << 31, ..shape(good) },
            KvShape { capacity: 1 << 31, ..shape(good) },
            KvShape { layers: usize::MAX, ..shape(good) },
        ] {
            assert!(KvPlan::contiguous(bad, 20).is_err(), "{bad:?}");
        }
        assert!(KvPlan::contiguous(shape(good), 1 << 31).is_err());
        let layout = KvLayout::paged(PagedLayout::nhd(4, 2, 8), 2).unwrap();
        let pages = |layout, pages| KvPlan::paged(shape(layout), pages).map(|_| ());
        assert!(pages(layout, PAGES).is_ok());
        assert!(pages(layout, Pages { page_size: 0, ..PAGES }).is_err());
        assert!(pages(KvLayout { page_stride: 127, ..layout }, PAGES).is_err());
        assert!(KvLayout::contiguous(Layout::token_major(4, usize::MAX / 8), 2).is_err());
    }

    #[test]
    fn spans_and_pages_that_the_host_knows_are_checked() {
        let rows = Ragged::from_lens(&[8, 3]).unwrap();
        let span = |start, len| Span { start, len };
        let spans = |spans: &[Span]| flat().check_spans(&rows, spans);
        assert_eq!(spans(&[span(12, 8), span(0, 3)]), Ok(()));
        assert!(spans(&[span(12, 8)]).is_err());
        assert!(spans(&[span(12, 8), span(0, 4)]).is_err());
        assert!(spans(&[span(13, 8), span(0, 3)]).is_err());
        assert!(spans(&[span(2, 8), span(0, 3)]).is_err());
        assert!(paged().check_spans(&rows, &[span(0, 8), span(8, 3)]).is_err());

        let pages = |table: &[i32]| paged().check_pages(&rows, table);
        assert_eq!(pages(&[8, 0, -1, 3, -1, -1]), Ok(()));
        for table in [[8, 9, -1, 3, -1, -1], [8, -1, -1, 3, -1, -1], [8, 0, -1, 8, -1, -1]] {
            assert!(pages(&table).is_err());
        }
        assert!(pages(&[8, 0, 3, 4]).is_err());
        assert!(flat().check_pages(&rows, &[0; 6]).is_err());
    }
}
