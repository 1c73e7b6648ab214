//! The lightning indexer on a device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::check_dtype;
use crate::cuda::operands::Operands;
use crate::cuda::select::word;
use crate::cuda::{DeviceElement, StatusWord};
use crate::error::Result;
use crate::kernels::raw;
use crate::kernels::score::{IndexerBuffers, IndexerPlan, indexer_params};

/// What an indexer reads. Lengths are in elements and exact, but for `q` and `k`.
#[derive(Debug)]
pub struct IndexerInputs<'a, T> {
    /// `[queries, heads, dim]`, as the plan lays them out.
    pub q: CudaView<'a, T>,
    /// `[queries, heads]`.
    pub weights: CudaView<'a, f32>,
    /// `[keys, 1, dim]`, as the plan lays them out.
    pub k: CudaView<'a, T>,
    /// `[keys]`, if keys have scales.
    pub scales: Option<CudaView<'a, f32>>,
    /// `[batch + 1]`.
    pub cu_queries: CudaView<'a, i32>,
    /// `[batch + 1]`.
    pub cu_keys: CudaView<'a, i32>,
    /// `[queries]`, for [`RowLimit::Between`](crate::attend::RowLimit::Between): the first key that
    /// each query sees. Nothing: 0.
    pub firsts: Option<CudaView<'a, i32>>,
    /// `[queries]`, for [`RowLimit::PerRow`](crate::attend::RowLimit::PerRow) and that, and only
    /// then: the row limit of each.
    pub limits: Option<CudaView<'a, i32>>,
}

/// The logits of a lightning indexer ([`crate::host::score::indexer`]), where the plan says. Logits
/// of one query per sequence lie as [`select`](crate::cuda::select::select) takes scores.
///
/// A window beyond the keys is cut off and added to `status`. So is a sequence with impossible
/// offsets, whose logits are not written.
///
/// # Errors
/// Those of [`indexer_params`]; [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for queries
/// and keys of another type than planned; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn indexer<T: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &IndexerPlan,
    inputs: &IndexerInputs<'_, T>,
    logits: &mut CudaViewMut<'_, f32>,
    status: &mut StatusWord,
) -> Result<()> {
    check_dtype("q and k", plan.shape().dtype, T::DTYPE)?;
    let mut status = status.view();
    let mut operands = Operands::<10>::new(stream)?;
    let buffers = IndexerBuffers {
        q: operands.read("q", &inputs.q)?,
        weights: operands.read("weights", &inputs.weights)?,
        k: operands.read("k", &inputs.k)?,
        scales: operands.read_optional("scales of keys", inputs.scales.as_ref())?,
        cu_queries: operands.read("cu_queries", &inputs.cu_queries)?,
        cu_keys: operands.read("cu_keys", &inputs.cu_keys)?,
        firsts: operands.read_optional("first rows", inputs.firsts.as_ref())?,
        limits: operands.read_optional("row limits", inputs.limits.as_ref())?,
        logits: operands.write("logits", logits)?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = indexer_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths and their
    // type.
    unsafe { operands.launch("indexer", raw::salient_indexer, &params) }
}
