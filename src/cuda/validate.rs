//! The checker of lists that only the device sees.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView};

use super::StatusWord;
use super::operands::Operands;
use super::select::word;
use crate::error::Result;
use crate::kernels::raw;
use crate::kernels::validate::{self as pure, ValidateBuffers, ValidatePlan};

/// The lists to check. Lengths are in elements and exact.
#[derive(Debug)]
pub struct Lists<'a> {
    /// `[batch + 1]`.
    pub cu_seqlens: CudaView<'a, i32>,
    /// `[rows, capacity]`.
    pub kept: CudaView<'a, i32>,
    /// `[rows]`.
    pub kept_lens: CudaView<'a, i32>,
    /// `[rows + 1]`.
    pub cu_kept: Option<CudaView<'a, i32>>,
    /// `[batch, max_pages]`, if the plan has pages.
    pub page_table: Option<CudaView<'a, i32>>,
}

/// Checks that lists ascend, stay in their sequences and end with -1, that lengths and offsets
/// match, and that pages lie in the pool. Adds what is wrong to `status` and writes nothing else.
///
/// # Errors
/// Those of [`pure::params`], [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn validate(
    stream: &Arc<CudaStream>,
    plan: &ValidatePlan,
    lists: &Lists<'_>,
    status: &mut StatusWord,
) -> Result<()> {
    let mut status = status.view();
    let mut operands = Operands::<6>::new(stream)?;
    let buffers = ValidateBuffers {
        cu_seqlens: operands.read("cu_seqlens", &lists.cu_seqlens)?,
        kept: operands.read("kept", &lists.kept)?,
        kept_lens: operands.read("kept_lens", &lists.kept_lens)?,
        cu_kept: operands.read_optional("cu_kept", lists.cu_kept.as_ref())?,
        page_table: operands.read_optional("page table", lists.page_table.as_ref())?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = pure::params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, and checked against their lengths.
    unsafe { operands.launch("validate", raw::salient_validate, &params) }
}
