//! **compact**.

use salient::compact::{KvLayout, KvMode, RowShape};
use salient::cuda::compact::{
    KvLists, KvOutputs, KvTable, RowLists, RowTensor, kv, rows, rows_in_place,
};
use salient::kernels::compact::{KvPlan, KvShape, RowsPlan};
use salient::kernels::validate::Pages;
use salient::{Ragged, Result, Span, Status};
use salient_oracle::compact::Kept;

use super::Places;
use crate::device::{Device, Upload};

/// What destinations hold where nothing was written.
pub(crate) const UNWRITTEN: u8 = 0xee;

/// What a device holds after a move of rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MovedRows {
    /// The destinations; in place, the tensors themselves.
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) status: Status,
    pub(crate) places: Places,
}

/// The lists of a move of rows.
pub(crate) struct RowsRun {
    plan: RowsPlan,
    /// `[batch, capacity]`.
    pub(crate) kept: Upload<i32>,
    /// `[batch]`.
    pub(crate) kept_lens: Upload<i32>,
    /// `[batch + 1]`.
    pub(crate) cu_kept: Upload<i32>,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
}

impl RowsRun {
    /// Uploads lists, with `spare` places behind the longest, and plans a move of tensors.
    pub(crate) fn new(
        device: &Device,
        kept: &Kept<'_>,
        spare: usize,
        tensors: &[RowShape],
    ) -> Result<Self> {
        let lists = Lists::new(kept.lists, spare);
        let kept_rows = Ragged::from_lens(&kept.lists.iter().map(Vec::len).collect::<Vec<_>>())?;
        let (batch, total) = (kept.source.batch(), kept.source.total());
        let plan = RowsPlan::new(batch, total, kept_rows.total(), lists.capacity, tensors)?;
        Ok(Self {
            plan,
            kept: device.upload(&lists.entries)?,
            kept_lens: device.upload(&lists.lens)?,
            cu_kept: device.upload(kept_rows.cu_seqlens())?,
            cu_seqlens: device.upload(kept.source.cu_seqlens())?,
        })
    }

    /// Moves into destinations of this many bytes. Sources and destinations lie as many bytes away
    /// from an aligned address as is said beside the source.
    pub(crate) fn gather(
        &self,
        device: &Device,
        sources: &[(&[u8], usize)],
        dst_bytes: &[usize],
    ) -> Result<MovedRows> {
        let mut pairs = Vec::new();
        for (&(source, skip), &bytes) in sources.iter().zip(dst_bytes) {
            let target = vec![UNWRITTEN; bytes];
            pairs.push((Apart::new(device, source, skip)?, Apart::new(device, &target, skip)?));
        }
        let status = device.with_status(|status| {
            let tensors = pairs
                .iter_mut()
                .map(|(src, dst)| RowTensor { src: src.view(), dst: dst.view_mut() });
            let mut tensors: Vec<_> = tensors.collect();
            rows(&device.stream, &self.plan, &mut tensors, &self.lists(), status)
        })?;
        let mut places = Vec::new();
        for (source, target) in &pairs {
            places.extend([("src", source.buffer.address()), ("dst", target.buffer.address())]);
        }
        let tensors = pairs.iter().map(|(_, target)| target.read()).collect::<Result<_>>()?;
        Ok(MovedRows { tensors, status, places })
    }

    /// Moves to the front of the tensors themselves.
    pub(crate) fn in_place(
        &self,
        device: &Device,
        tensors: &[(&[u8], usize)],
    ) -> Result<MovedRows> {
        let tensors = tensors.iter().map(|&(tensor, skip)| Apart::new(device, tensor, skip));
        let mut tensors: Vec<Apart> = tensors.collect::<Result<_>>()?;
        let status = device.with_status(|status| {
            let mut views: Vec<_> = tensors.iter_mut().map(Apart::view_mut).collect();
            rows_in_place(&device.stream, &self.plan, &mut views, &self.lists(), status)
        })?;
        let places = tensors.iter().map(|tensor| ("src", tensor.buffer.address())).collect();
        let tensors = tensors.iter().map(Apart::read).collect::<Result<_>>()?;
        Ok(MovedRows { tensors, status, places })
    }

    fn lists(&self) -> RowLists<'_> {
        RowLists {
            kept: self.kept.view(),
            kept_lens: self.kept_lens.view(),
            cu_kept: self.cu_kept.view(),
            cu_seqlens: self.cu_seqlens.view(),
        }
    }
}

/// Where sequences lie in a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KvStore<'a> {
    /// At spans of a cache of this many tokens.
    Contiguous(&'a [Span], usize),
    /// On pages: the table and the pool.
    Paged(&'a [i32], Pages),
}

/// What a device holds after a compaction of keys and values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MovedKv {
    /// Keys and values of every layer, in turn.
    pub(crate) tensors: Vec<Vec<u8>>,
    /// `[batch * list_heads, capacity]`.
    pub(crate) order: Vec<i32>,
    /// `[batch * max_pages]`, if paged.
    pub(crate) freed: Vec<i32>,
    /// How many pages are freed, if paged.
    pub(crate) freed_count: i32,
    pub(crate) status: Status,
    pub(crate) places: Places,
}

/// The lists of a compaction.
pub(crate) struct KvRun {
    plan: KvPlan,
    /// `[batch * list_heads, capacity]`.
    pub(crate) kept: Upload<i32>,
    /// `[batch * list_heads]`.
    pub(crate) kept_lens: Upload<i32>,
    /// `[batch]`.
    pub(crate) lens: Upload<i32>,
    /// `[batch]`, if contiguous.
    pub(crate) span_starts: Option<Upload<i32>>,
    /// `[batch, max_pages]`, if paged.
    pub(crate) page_table: Option<Upload<i32>>,
}

impl KvRun {
    /// Uploads lists, with `spare` places behind the longest, and plans a compaction of `layers`.
    pub(crate) fn new(
        device: &Device,
        kept: &Kept<'_>,
        spare: usize,
        [keys, values]: [KvLayout; 2],
        layers: usize,
        mode: KvMode,
        store: KvStore<'_>,
    ) -> Result<Self> {
        let lists = Lists::new(kept.lists, spare);
        let (batch, list_heads, capacity) = (kept.source.batch(), kept.heads, lists.capacity);
        let shape = KvShape { batch, layers, list_heads, capacity, keys, values, mode };
        let (plan, span_starts, page_table) = match store {
            KvStore::Contiguous(spans, tokens) => {
                let plan = KvPlan::contiguous(shape, tokens)?;
                plan.check_spans(kept.source, spans)?;
                let starts: Vec<i32> = spans.iter().map(|span| span.start as i32).collect();
                (plan, Some(device.upload(&starts)?), None)
            }
            KvStore::Paged(table, pages) => {
                let plan = KvPlan::paged(shape, pages)?;
                plan.check_pages(kept.source, table)?;
                (plan, None, Some(device.upload(table)?))
            }
        };
        let lens: Vec<i32> = kept.source.lens().map(|len| len as i32).collect();
        Ok(Self {
            plan,
            kept: device.upload(&lists.entries)?,
            kept_lens: device.upload(&lists.lens)?,
            lens: device.upload(&lens)?,
            span_starts,
            page_table,
        })
    }

    /// Compacts tensors, keys and values of each layer in turn, that lie `skip` bytes away from an
    /// aligned address.
    pub(crate) fn launch(
        &self,
        device: &Device,
        tensors: &[Vec<u8>],
        skip: usize,
    ) -> Result<MovedKv> {
        let tensors = tensors.iter().map(|tensor| Apart::new(device, tensor, skip));
        let mut tensors: Vec<Apart> = tensors.collect::<Result<_>>()?;
        let mut order = device.filled(self.kept.len())?;
        let pages = self.page_table.as_ref().map(Upload::len);
        let mut freed = device.filled(pages.unwrap_or(0))?;
        let mut freed_count = device.filled(1)?;
        let status = device.with_status(|status| {
            let mut layers: Vec<_> = tensors
                .chunks_exact_mut(2)
                .map(|pair| {
                    let [keys, values] = pair else { unreachable!("of chunks of two") };
                    [keys.view_mut(), values.view_mut()]
                })
                .collect();
            let table = KvTable::new(&device.stream, self.plan, &mut layers)?;
            let lists = KvLists {
                kept: self.kept.view(),
                kept_lens: self.kept_lens.view(),
                lens: self.lens.view(),
                span_starts: self.span_starts.as_ref().map(Upload::view),
                page_table: self.page_table.as_ref().map(Upload::view),
            };
            let mut outputs = KvOutputs {
                order: Some(order.view_mut()),
                freed: pages.map(|_| freed.view_mut()),
                freed_count: pages.map(|_| freed_count.view_mut()),
            };
            kv(&device.stream, &table, &mut layers, &lists, &mut outputs, status)
        })?;
        Ok(MovedKv {
            places: tensors.iter().map(|tensor| ("cache", tensor.buffer.address())).collect(),
            tensors: tensors.iter().map(Apart::read).collect::<Result<_>>()?,
            order: order.read()?,
            freed: freed.read()?,
            freed_count: freed_count.read()?[0],
            status,
        })
    }
}

/// A tensor this many bytes behind an aligned address.
struct Apart {
    buffer: Upload<u8>,
    skip: usize,
}

impl Apart {
    fn new(device: &Device, bytes: &[u8], skip: usize) -> Result<Self> {
        let padded: Vec<u8> = std::iter::repeat_n(0, skip).chain(bytes.iter().copied()).collect();
        Ok(Self { buffer: device.upload(&padded)?, skip })
    }

    fn view(&self) -> salient::cuda::cudarc::driver::CudaView<'_, u8> {
        self.buffer.view_from(self.skip)
    }

    fn view_mut(&mut self) -> salient::cuda::cudarc::driver::CudaViewMut<'_, u8> {
        self.buffer.view_mut_from(self.skip)
    }

    fn read(&self) -> Result<Vec<u8>> {
        Ok(self.buffer.read()?.split_off(self.skip))
    }
}

/// Lists side by side, -1 after the last entry of each.
struct Lists {
    capacity: usize,
    entries: Vec<i32>,
    lens: Vec<i32>,
}

impl Lists {
    fn new(lists: &[Vec<i32>], spare: usize) -> Self {
        let capacity = lists.iter().map(Vec::len).max().unwrap_or(0) + spare;
        let padded = |list: &Vec<i32>| {
            let behind = std::iter::repeat_n(-1, capacity - list.len());
            list.iter().copied().chain(behind).collect::<Vec<i32>>()
        };
        Self {
            capacity,
            entries: lists.iter().flat_map(padded).collect(),
            lens: lists.iter().map(|list| list.len() as i32).collect(),
        }
    }
}
