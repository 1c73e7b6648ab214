//! Percentile ranks on a device.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::super::StatusWord;
use super::super::operands::Operands;
use super::super::select::word;
use crate::error::Result;
use crate::kernels::raw;
use crate::kernels::score::{RankBuffers, RankPlan, rank_params};

/// Percentile ranks of `scores`, `[heads, total]`, inside each sequence and head into `out`,
/// `[heads, total]`: [`crate::host::score::rank`], to the bit. A sequence with invalid offsets is a
/// [`crate::Fault::Lengths`] of `status` and is left out.
///
/// # Errors
/// Those of [`rank_params`]; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn rank(
    stream: &Arc<CudaStream>,
    plan: &RankPlan,
    scores: &CudaView<'_, f32>,
    cu_seqlens: &CudaView<'_, i32>,
    out: &mut CudaViewMut<'_, f32>,
    status: &mut StatusWord,
) -> Result<()> {
    let mut status = status.view();
    let mut operands = Operands::<4>::new(stream)?;
    let buffers = RankBuffers {
        scores: operands.read("scores", scores)?,
        cu_seqlens: operands.read("cu_seqlens", cu_seqlens)?,
        out: operands.write("out", out)?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = rank_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths.
    unsafe { operands.launch("rank", raw::salient_rank, &params) }
}
