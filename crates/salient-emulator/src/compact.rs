//! **compact** on the emulated device. Tensors are bytes here: kernels know no more of them.

use std::ffi::{c_int, c_void};

use bytemuck::Pod;
use salient::kernels::compact::{
    KvBuffers, KvLayout, KvMode, KvPlan, KvShape, RowLists, RowShape, RowsPlan, kv_params,
    rows_in_place_params, rows_params,
};
use salient::kernels::raw::{SalientKvParams, SalientRowsParams};
use salient::kernels::validate::Pages;
use salient::kernels::{Buffer as Place, Status};
use salient::{Element, Error, Layout, PagedLayout, Ragged, Result, Span};
use salient_oracle::compact::Kept;
use salient_oracle::implementation::Compact;

use crate::emulated::Emulated;
use crate::launch::{Device, Fault, Launched};
use crate::memory::Buffer;
use crate::memory::place;

unsafe extern "C" {
    fn salient_emulated_rows(params: *const SalientRowsParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_rows(params: *const SalientRowsParams, stream: *mut c_void) -> c_int;
    fn salient_emulated_rows_in_place(
        params: *const SalientRowsParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_mutated_rows_in_place(
        params: *const SalientRowsParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_emulated_kv(params: *const SalientKvParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_kv(params: *const SalientKvParams, stream: *mut c_void) -> c_int;
}

/// What a device holds after a move of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsOutputs {
    /// The destinations; in place, the tensors themselves.
    pub tensors: Vec<Vec<u8>>,
    /// What was found wrong.
    pub status: Status,
    /// The kernels that ran.
    pub launched: Vec<Launched>,
}

/// The lists of a move of rows, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct RowsRun {
    plan: RowsPlan,
    /// i32 `[batch, capacity]`.
    pub kept: Buffer<i32>,
    /// i32 `[batch]`.
    pub kept_lens: Buffer<i32>,
    /// i32 `[batch + 1]`.
    pub cu_kept: Buffer<i32>,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer<i32>,
}

impl RowsRun {
    /// Uploads lists, with `spare` places behind the longest, and plans a move of tensors.
    ///
    /// # Errors
    /// Those of [`RowsPlan::new`].
    pub fn new(
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
            kept: device.upload("kept", &lists.entries),
            kept_lens: device.upload("kept_lens", &lists.lens),
            cu_kept: device.upload("cu_kept", kept_rows.cu_seqlens()),
            cu_seqlens: device.upload("cu_seqlens", kept.source.cu_seqlens()),
        })
    }

    /// Moves into destinations of `dst_bytes` poisoned bytes. Sources and destinations lie as many
    /// bytes away from an aligned address as is said beside the source.
    ///
    /// # Errors
    /// Those of [`rows_params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn gather(
        &self,
        device: &Device,
        mutated: bool,
        sources: &[(&[u8], usize)],
        dst_bytes: &[usize],
    ) -> Result<RowsOutputs> {
        let uploaded = upload(device, "src", sources);
        let unwritten: Vec<_> = dst_bytes.iter().map(|&bytes| vec![UNWRITTEN; bytes]).collect();
        let skips = sources.iter().map(|&(_, skip)| skip);
        let targets: Vec<_> = unwritten.iter().map(Vec::as_slice).zip(skips).collect();
        let targets = upload(device, "dst", &targets);
        let status = device.upload("status", &Status::CLEAR.words());
        let pairs: Vec<_> =
            uploaded.iter().zip(&targets).map(|(s, d)| (place(s), place(d))).collect();
        let params = rows_params(&self.plan, &pairs, &self.lists(&status))?;
        let launcher = if mutated { salient_mutated_rows } else { salient_emulated_rows };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&params, stream) });
        Ok(outputs(&targets, &status, launched))
    }

    /// Moves to the front of the tensors themselves.
    ///
    /// # Errors
    /// Those of [`rows_in_place_params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn in_place(
        &self,
        device: &Device,
        mutated: bool,
        tensors: &[(&[u8], usize)],
    ) -> Result<RowsOutputs> {
        let tensors = upload(device, "src", tensors);
        let status = device.upload("status", &Status::CLEAR.words());
        let places: Vec<_> = tensors.iter().map(place).collect();
        let params = rows_in_place_params(&self.plan, &places, &self.lists(&status))?;
        let launcher =
            if mutated { salient_mutated_rows_in_place } else { salient_emulated_rows_in_place };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&params, stream) });
        Ok(outputs(&tensors, &status, launched))
    }

    fn lists(&self, status: &Buffer<u32>) -> RowLists {
        RowLists {
            kept: place(&self.kept),
            kept_lens: place(&self.kept_lens),
            cu_kept: place(&self.cu_kept),
            cu_seqlens: place(&self.cu_seqlens),
            status: Place::new(status.address(), 1),
        }
    }
}

/// What destinations hold where nothing was written.
pub const UNWRITTEN: u8 = 0xee;

/// Where sequences lie in a cache.
#[derive(Debug, Clone, Copy)]
pub enum KvStore<'a> {
    /// At spans of a cache of so many tokens.
    Contiguous(&'a [Span], usize),
    /// On pages: the table and the pool.
    Paged(&'a [i32], Pages),
}

/// What a device holds after a compaction of keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct KvOutputs {
    /// Keys and values of every layer, in turn.
    pub tensors: Vec<Vec<u8>>,
    /// `[batch * list_heads, capacity]`.
    pub order: Vec<i32>,
    /// `[batch * max_pages]`, if paged.
    pub freed: Vec<i32>,
    /// How many pages are freed, if paged.
    pub freed_count: i32,
    /// What was found wrong.
    pub status: Status,
    /// The kernels that ran.
    pub launched: Vec<Launched>,
}

/// The lists of a compaction, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct KvRun {
    plan: KvPlan,
    /// i32 `[batch * list_heads, capacity]`.
    pub kept: Buffer<i32>,
    /// i32 `[batch * list_heads]`.
    pub kept_lens: Buffer<i32>,
    /// i32 `[batch]`.
    pub lens: Buffer<i32>,
    /// i32 `[batch]`, if contiguous.
    pub span_starts: Option<Buffer<i32>>,
    /// i32 `[batch, max_pages]`, if paged.
    pub page_table: Option<Buffer<i32>>,
}

impl KvRun {
    /// Uploads lists, with `spare` places behind the longest, and plans a compaction of `layers`.
    ///
    /// # Errors
    /// Those of [`KvPlan`], which checks spans and pages, too.
    pub fn new(
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
                (plan, Some(device.upload("span_starts", &starts)), None)
            }
            KvStore::Paged(table, pages) => {
                let plan = KvPlan::paged(shape, pages)?;
                plan.check_pages(kept.source, table)?;
                (plan, None, Some(device.upload("page_table", table)))
            }
        };
        let lens: Vec<i32> = kept.source.lens().map(|len| len as i32).collect();
        Ok(Self {
            plan,
            kept: device.upload("kept", &lists.entries),
            kept_lens: device.upload("kept_lens", &lists.lens),
            lens: device.upload("lens", &lens),
            span_starts,
            page_table,
        })
    }

    /// Compacts tensors that lie as many bytes away from an aligned address as is said beside them.
    ///
    /// # Errors
    /// Those of [`KvPlan::table`] and [`kv_params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn launch(
        &self,
        device: &Device,
        mutated: bool,
        tensors: &[(&[u8], usize)],
    ) -> Result<KvOutputs> {
        let tensors = upload(device, "cache", tensors);
        let table = self.plan.table(&tensors.iter().map(place).collect::<Vec<_>>())?;
        let table = device.upload("tensors", &table);
        let order = device.alloc::<i32>("order", self.kept.len());
        let pages = self.page_table.as_ref().map(Buffer::len);
        let freed = device.alloc::<i32>("freed", pages.unwrap_or(0));
        let freed_count = device.alloc::<i32>("freed_count", 1);
        let status = device.upload("status", &Status::CLEAR.words());
        let params = kv_params(
            &self.plan,
            &KvBuffers {
                tensors: place(&table),
                kept: place(&self.kept),
                kept_lens: place(&self.kept_lens),
                lens: place(&self.lens),
                span_starts: self.span_starts.as_ref().map(place),
                page_table: self.page_table.as_ref().map(place),
                order: Some(place(&order)),
                freed: pages.map(|_| place(&freed)),
                freed_count: pages.map(|_| place(&freed_count)),
                status: Place::new(status.address(), 1),
            },
        )?;
        let launcher = if mutated { salient_mutated_kv } else { salient_emulated_kv };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&params, stream) });
        let RowsOutputs { tensors, status, launched } = outputs(&tensors, &status, launched);
        let (order, freed, freed_count) = (order.read(), freed.read(), freed_count.read()[0]);
        Ok(KvOutputs { tensors, order, freed, freed_count, status, launched })
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

/// Uploads tensors; `src` becomes `src0`, `src1` and so on, but all tensors of a cache are `cache`.
fn upload(device: &Device, name: &str, tensors: &[(&[u8], usize)]) -> Vec<Buffer<u8>> {
    let one = |(i, &(bytes, skip)): (usize, &(&[u8], usize))| {
        let name = if name == "cache" { name.to_owned() } else { format!("{name}{i}") };
        device.upload_misaligned(&name, bytes, skip)
    };
    tensors.iter().enumerate().map(one).collect()
}

fn outputs(
    tensors: &[Buffer<u8>],
    status: &Buffer<u32>,
    launched: Result<Vec<Launched>, Fault>,
) -> RowsOutputs {
    let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
    let words = status.read();
    RowsOutputs {
        tensors: tensors.iter().map(Buffer::read).collect(),
        status: Status::from_words([words[0], words[1]]),
        launched,
    }
}

impl Compact for Emulated {
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>> {
        let device = self.device();
        let shapes = tensors.iter().map(|&(_, width)| RowShape::packed(width * size_of::<T>()));
        let shapes: Vec<_> = shapes.collect();
        let run = RowsRun::new(&device, kept, SPARE, &shapes)?;
        let kept_rows = kept.rows().len();
        let sources: Vec<_> = tensors.iter().map(|&(tensor, _)| (bytes_of(tensor), 0)).collect();
        let sizes: Vec<_> = shapes.iter().map(|shape| kept_rows * shape.row_bytes).collect();
        let outputs = run.gather(&device, self.mutant.is_some(), &sources, &sizes)?;
        outputs.status.check()?;
        Ok(outputs.tensors.iter().map(|bytes| elements_of(bytes)).collect())
    }

    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()> {
        let device = self.device();
        let shapes = tensors.iter().map(|&(_, width)| RowShape::packed(width * size_of::<T>()));
        let shapes: Vec<_> = shapes.collect();
        let run = RowsRun::new(&device, kept, SPARE, &shapes)?;
        let given: Vec<_> = tensors.iter().map(|(tensor, _)| (bytes_of(tensor), 0)).collect();
        let outputs = run.in_place(&device, self.mutant.is_some(), &given)?;
        outputs.status.check()?;
        let kept_rows = kept.rows().len();
        for ((tensor, width), bytes) in tensors.iter_mut().zip(outputs.tensors) {
            *tensor = elements_of(&bytes);
            tensor.truncate(kept_rows * *width);
        }
        Ok(())
    }

    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        layout: Layout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<()> {
        let layout = KvLayout::contiguous(layout, size_of::<T>())?;
        let tokens = spans.iter().map(|span| span.end()).max().unwrap_or(0);
        self.compact(kept, layout, KvStore::Contiguous(spans, tokens), layers).map(|_| ())
    }

    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        page_table: &[i32],
        layout: PagedLayout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Vec<i32>> {
        let shortest = layers.iter().flatten().map(|pool| pool.len()).min().unwrap_or(0);
        let page = layout.required_len(1).ok_or(Error::Overflow { what: "a page" })?;
        let pages = match shortest.checked_sub(page) {
            None => 0,
            Some(rest) => 1 + rest.checked_div(layout.page_stride).unwrap_or(0),
        };
        let max_pages = page_table.len().checked_div(kept.source.batch()).unwrap_or(0);
        let pages = Pages { page_size: layout.page_size, max_pages, pages };
        let layout = KvLayout::paged(layout, size_of::<T>())?;
        let outputs = self.compact(kept, layout, KvStore::Paged(page_table, pages), layers)?;
        Ok(outputs.freed[..outputs.freed_count as usize].to_vec())
    }
}

/// Room that lists have behind the longest, so that nothing relies on none.
const SPARE: usize = 1;

impl Emulated {
    fn compact<T: Element>(
        &self,
        kept: &Kept<'_>,
        layout: KvLayout,
        store: KvStore<'_>,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<KvOutputs> {
        let device = self.device();
        let count = layers.len();
        let run = KvRun::new(&device, kept, SPARE, [layout; 2], count, KvMode::Stable, store)?;
        let given: Vec<_> = layers.iter().flatten().map(|cache| (bytes_of(cache), 0)).collect();
        let outputs = run.launch(&device, self.mutant.is_some(), &given)?;
        outputs.status.check()?;
        for (cache, bytes) in layers.iter_mut().flatten().zip(&outputs.tensors) {
            cache.copy_from_slice(&elements_of(bytes));
        }
        Ok(outputs)
    }
}

fn bytes_of<T: Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn elements_of<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
