//! **compact** on a device.

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::StatusWord;
use super::operands::Operands;
use super::select::word;
use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::kernels::compact::{
    KvBuffers, KvPlan, MAX_TENSORS, RowsPlan, kv_params, rows_in_place_params, rows_params,
};
use crate::kernels::{Buffer, compact as pure, raw};

/// A tensor in bytes, and where its kept rows go, in bytes ([`super::bytes`]).
#[derive(Debug)]
pub struct RowTensor<'a> {
    /// The plan's rows, all of them.
    pub src: CudaView<'a, u8>,
    /// Room for the plan's kept rows.
    pub dst: CudaViewMut<'a, u8>,
}

/// The lists of a selection with one head: which rows move. Lengths are in elements and exact.
#[derive(Debug)]
pub struct RowLists<'a> {
    /// `[batch, capacity]`.
    pub kept: CudaView<'a, i32>,
    /// `[batch]`.
    pub kept_lens: CudaView<'a, i32>,
    /// `[batch + 1]`: where each sequence starts among the kept rows.
    pub cu_kept: CudaView<'a, i32>,
    /// `[batch + 1]`.
    pub cu_seqlens: CudaView<'a, i32>,
}

/// Guards of [`RowLists`] and the status.
const LISTS: usize = 5;

impl RowLists<'_> {
    fn operands<'a, const N: usize>(
        &'a self,
        operands: &mut Operands<'a, N>,
        status: &'a mut CudaViewMut<'_, u32>,
    ) -> Result<pure::RowLists> {
        Ok(pure::RowLists {
            kept: operands.read("kept", &self.kept)?,
            kept_lens: operands.read("kept_lens", &self.kept_lens)?,
            cu_kept: operands.read("cu_kept", &self.cu_kept)?,
            cu_seqlens: operands.read("cu_seqlens", &self.cu_seqlens)?,
            status: word(operands.write("status", status)?),
        })
    }
}

/// Copies the kept rows of several tensors, the plan's, to their destinations in one launch: list
/// entry `i` of sequence `b` goes from row `cu_seqlens[b] + kept[b, i]` to row `cu_kept[b] + i`.
///
/// ```no_run
/// use salient::cuda::compact::{RowLists, RowTensor, rows};
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::cuda::{StatusWord, bytes, bytes_mut};
/// use salient::kernels::compact::RowsPlan;
/// use salient::compact::RowShape;
/// # fn main() -> salient::Result<()> {
/// let stream = CudaContext::new(0)?.default_stream();
/// let (src, mut dst) = (stream.clone_htod(&[0.0f32, 1.0, 2.0, 3.0, 4.0])?, stream.alloc_zeros::<f32>(3)?);
/// let cu_seqlens = stream.clone_htod(&[0i32, 3, 5])?;
/// let kept = stream.clone_htod(&[0i32, 2, 1, -1])?;
/// let (kept_lens, cu_kept) = (stream.clone_htod(&[2i32, 1])?, stream.clone_htod(&[0i32, 2, 3])?);
/// let plan = RowsPlan::new(2, 5, 3, 2, &[RowShape::packed(size_of::<f32>())])?;
/// let mut status = StatusWord::new(&stream)?;
/// let mut dst_view = dst.as_view_mut();
/// let mut tensors =
///     [RowTensor { src: bytes(&src.as_view()), dst: bytes_mut(&mut dst_view) }];
/// let lists = RowLists {
///     kept: kept.as_view(),
///     kept_lens: kept_lens.as_view(),
///     cu_kept: cu_kept.as_view(),
///     cu_seqlens: cu_seqlens.as_view(),
/// };
/// rows(&stream, &plan, &mut tensors, &lists, &mut status)?;
/// assert_eq!(stream.clone_dtoh(&dst)?, [0.0, 2.0, 4.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`rows_params`], [`Error::OtherContext`], [`Error::Driver`] and [`Error::Launch`].
pub fn rows(
    stream: &Arc<CudaStream>,
    plan: &RowsPlan,
    tensors: &mut [RowTensor<'_>],
    lists: &RowLists<'_>,
    status: &mut StatusWord,
) -> Result<()> {
    check_len("tensors", plan.tensors().len(), tensors.len())?;
    let mut status = status.view();
    let mut operands = Operands::<{ LISTS + 2 * MAX_TENSORS }>::new(stream)?;
    let lists = lists.operands(&mut operands, &mut status)?;
    let mut places = [(Buffer::default(), Buffer::default()); MAX_TENSORS];
    let count = tensors.len();
    for (place, RowTensor { src, dst }) in places.iter_mut().zip(tensors) {
        *place = (operands.read("a source", src)?, operands.write("a destination", dst)?);
    }
    let params = rows_params(plan, &places[..count], &lists)?;
    // SAFETY: the parameters were made from the operands, and checked against their lengths.
    unsafe { operands.launch("rows", raw::salient_rows, &params) }
}

/// Moves the kept rows of several tensors, the plan's, in bytes ([`super::bytes_mut`]), to their
/// own fronts in one launch. What lies behind the kept rows afterwards is unspecified.
///
/// # Errors
/// Those of [`rows_in_place_params`], [`Error::OtherContext`], [`Error::Driver`] and
/// [`Error::Launch`].
pub fn rows_in_place(
    stream: &Arc<CudaStream>,
    plan: &RowsPlan,
    tensors: &mut [CudaViewMut<'_, u8>],
    lists: &RowLists<'_>,
    status: &mut StatusWord,
) -> Result<()> {
    check_len("tensors", plan.tensors().len(), tensors.len())?;
    let mut status = status.view();
    let mut operands = Operands::<{ LISTS + MAX_TENSORS }>::new(stream)?;
    let lists = lists.operands(&mut operands, &mut status)?;
    let mut places = [Buffer::default(); MAX_TENSORS];
    let count = tensors.len();
    for (place, tensor) in places.iter_mut().zip(tensors) {
        *place = operands.write("a tensor", tensor)?;
    }
    let params = rows_in_place_params(plan, &places[..count], &lists)?;
    // SAFETY: the parameters were made from the operands, and checked against their lengths.
    unsafe { operands.launch("rows in place", raw::salient_rows_in_place, &params) }
}

/// The most layers of one launch of [`kv`].
pub const MAX_LAYERS: usize = 128;

/// Where the caches of all layers lie, on the device: made once, ahead of graph capture, for caches
/// that stay where they are. It keeps none of them borrowed; each launch is given them again.
#[derive(Debug)]
pub struct KvTable {
    plan: KvPlan,
    addresses: Vec<u64>,
    table: CudaSlice<u64>,
}

impl KvTable {
    /// Writes down the plan's layers, keys and values of each. Allocates.
    ///
    /// # Errors
    /// Those of [`KvPlan::table`]; [`Error::OutOfRange`] for more than [`MAX_LAYERS`] layers,
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn new<T: Pod>(
        stream: &Arc<CudaStream>,
        plan: KvPlan,
        layers: &mut [[CudaViewMut<'_, T>; 2]],
    ) -> Result<Self> {
        let mut operands = Operands::<{ 2 * MAX_LAYERS }>::new(stream)?;
        let mut places = [Buffer::default(); 2 * MAX_LAYERS];
        let places = cache_operands(&mut operands, layers, &mut places)?;
        let addresses = plan.table(places)?;
        // Drivers do not allocate nothing, which is what the table of no layers has.
        let table = match addresses.is_empty() {
            true => stream.alloc_zeros(1)?,
            false => stream.clone_htod(&addresses)?,
        };
        Ok(Self { plan, addresses, table })
    }

    /// The plan.
    pub fn plan(&self) -> &KvPlan {
        &self.plan
    }
}

/// What a compaction of caches reads. Lengths are in elements and exact.
#[derive(Debug)]
pub struct KvLists<'a> {
    /// `[batch * list_heads, capacity]`.
    pub kept: CudaView<'a, i32>,
    /// `[batch * list_heads]`.
    pub kept_lens: CudaView<'a, i32>,
    /// `[batch]` tokens of every sequence.
    pub lens: CudaView<'a, i32>,
    /// `[batch]` first token of every sequence; contiguous caches only.
    pub span_starts: Option<CudaView<'a, i32>>,
    /// `[batch, max_pages]`; paged caches only.
    pub page_table: Option<CudaView<'a, i32>>,
}

/// What a compaction of caches writes, apart from the caches. Lengths are in elements and exact.
#[derive(Debug, Default)]
pub struct KvOutputs<'a> {
    /// `[batch * list_heads, capacity]` the old token now in each place, -1 after the last.
    pub order: Option<CudaViewMut<'a, i32>>,
    /// `[batch * max_pages]` pages without kept tokens, in table order; paged caches only.
    pub freed: Option<CudaViewMut<'a, i32>>,
    /// `[1]` how many they are; with `freed`.
    pub freed_count: Option<CudaViewMut<'a, i32>>,
}

/// Moves the kept keys and values of all layers to the front of their sequence's span, or of its
/// pages, in one launch and with no second buffer. `layers` are those that the table was made from.
/// The new lengths are `kept_lens`; what lies behind them is unspecified.
///
/// # Errors
/// Those of [`kv_params`]; [`Error::Unfit`] for other layers than the table's;
/// [`Error::OtherContext`], [`Error::Driver`] and [`Error::Launch`].
pub fn kv<T: Pod>(
    stream: &Arc<CudaStream>,
    table: &KvTable,
    layers: &mut [[CudaViewMut<'_, T>; 2]],
    lists: &KvLists<'_>,
    outputs: &mut KvOutputs<'_>,
    status: &mut StatusWord,
) -> Result<()> {
    let (mut status, tensors) = (status.view(), table.table.slice(..table.addresses.len()));
    let mut operands = Operands::<{ 10 + 2 * MAX_LAYERS }>::new(stream)?;
    let mut places = [Buffer::default(); 2 * MAX_LAYERS];
    let places = cache_operands(&mut operands, layers, &mut places)?;
    if !table.plan.holds(places, &table.addresses) {
        let expected = "those that the table was made from, where they were";
        return Err(Error::Unfit { what: "the layers", expected });
    }
    let buffers = KvBuffers {
        tensors: operands.read("tensors", &tensors)?,
        kept: operands.read("kept", &lists.kept)?,
        kept_lens: operands.read("kept_lens", &lists.kept_lens)?,
        lens: operands.read("lengths of the sequences", &lists.lens)?,
        span_starts: operands.read_optional("span starts", lists.span_starts.as_ref())?,
        page_table: operands.read_optional("page table", lists.page_table.as_ref())?,
        order: operands.write_optional("order", outputs.order.as_mut())?,
        freed: operands.write_optional("freed pages", outputs.freed.as_mut())?,
        freed_count: operands
            .write_optional("number of freed pages", outputs.freed_count.as_mut())?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = kv_params(&table.plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, and checked against their lengths. The
    // table, which nothing else can write, points to the caches, which are operands too and as long
    // as the plan says.
    unsafe { operands.launch("kv", raw::salient_kv, &params) }
}

/// Takes the caches of all layers as operands: their places, in bytes.
fn cache_operands<'a, 'p, T: Pod, const N: usize>(
    operands: &mut Operands<'a, N>,
    layers: &'a mut [[CudaViewMut<'_, T>; 2]],
    places: &'p mut [Buffer; 2 * MAX_LAYERS],
) -> Result<&'p [Buffer]> {
    if layers.len() > MAX_LAYERS {
        let (what, value) = ("layers", layers.len() as f64);
        return Err(Error::OutOfRange { what, value, expected: "at most 128" });
    }
    let count = 2 * layers.len();
    for (place, cache) in places.iter_mut().zip(layers.iter_mut().flatten()) {
        let Buffer { address, len } = operands.write("keys and values", cache)?;
        *place = Buffer::new(address, len * size_of::<T>());
    }
    Ok(&places[..count])
}
