//! **select** on a device. The contract is that of [`crate::select`].

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::StatusWord;
use super::operands::Operands;
use crate::error::Result;
use crate::kernels::select::{self as pure, SelectBuffers, SelectPlan};
use crate::kernels::{Buffer, raw};

/// What a selection reads. Lengths are in elements and exact, but for scores with a stride.
#[derive(Debug)]
pub struct SelectInputs<'a> {
    /// `[heads, score_stride]`, the last head's `[total]`.
    pub scores: CudaView<'a, f32>,
    /// `[batch + 1]`.
    pub cu_seqlens: CudaView<'a, i32>,
    /// `[batch]` tokens to keep, with [`Budget::Counts`](crate::select::Budget::Counts) and no
    /// other.
    pub counts: Option<CudaView<'a, i32>>,
    /// `[batch]` first tokens never dropped, instead of the plan's.
    pub sinks: Option<CudaView<'a, i32>>,
    /// `[batch]` last tokens never dropped, instead of the plan's.
    pub recent: Option<CudaView<'a, i32>>,
    /// `[total]`, nonzero: never dropped.
    pub mask: Option<CudaView<'a, u8>>,
    /// `[total]` original positions; needed for [`SelectOutputs::kept_positions`].
    pub positions: Option<CudaView<'a, i32>>,
}

impl<'a> SelectInputs<'a> {
    /// Scores and sequences alone.
    pub fn new(scores: CudaView<'a, f32>, cu_seqlens: CudaView<'a, i32>) -> Self {
        let (counts, sinks, recent, mask, positions) = (None, None, None, None, None);
        Self { scores, cu_seqlens, counts, sinks, recent, mask, positions }
    }
}

/// What a selection writes. Lengths are in elements and exact.
#[derive(Debug)]
pub struct SelectOutputs<'a> {
    /// `[rows, capacity]` kept tokens in ascending order, -1 after the last.
    pub kept: CudaViewMut<'a, i32>,
    /// `[rows]` lengths of the lists.
    pub kept_lens: CudaViewMut<'a, i32>,
    /// `[rows, capacity]` positions of the kept tokens, -1 after the last.
    pub kept_positions: Option<CudaViewMut<'a, i32>>,
    /// `[heads, total]` each token's place in its row's list, or -1.
    pub inverse: Option<CudaViewMut<'a, i32>>,
    /// `[rows + 1]` where each list starts when packed: with one head the sequences after
    /// compaction.
    pub cu_kept: Option<CudaViewMut<'a, i32>>,
}

impl<'a> SelectOutputs<'a> {
    /// The lists alone.
    pub fn new(kept: CudaViewMut<'a, i32>, kept_lens: CudaViewMut<'a, i32>) -> Self {
        let (kept_positions, inverse, cu_kept) = (None, None, None);
        Self { kept, kept_lens, kept_positions, inverse, cu_kept }
    }
}

/// Selects the tokens that stay. `workspace` holds at least [`SelectPlan::workspace_bytes`]; none
/// is needed where that is 0.
///
/// A fault of the data ([`crate::Fault`]) is added to `status`; then the lists of the rows
/// at fault are of no use, and nothing outside the outputs is written.
///
/// ```no_run
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::cuda::select::{SelectInputs, SelectOutputs, select};
/// use salient::cuda::StatusWord;
/// use salient::kernels::select::{SelectPlan, Shape};
/// use salient::select::Budget;
/// # fn main() -> salient::Result<()> {
/// let stream = CudaContext::new(0)?.default_stream();
/// let scores = stream.clone_htod(&[0.1f32, 0.9, 0.3, 3.0, 1.0])?;
/// let cu_seqlens = stream.clone_htod(&[0i32, 3, 5])?;
/// let shape = Shape { batch: 2, heads: 1, total: 5, max_len: 3 };
/// let plan = SelectPlan::new(shape, Budget::Ratio(0.5))?;
/// let mut kept = stream.alloc_zeros(plan.rows() * plan.capacity())?;
/// let mut kept_lens = stream.alloc_zeros(plan.rows())?;
/// let mut status = StatusWord::new(&stream)?;
/// select(
///     &stream,
///     &plan,
///     &SelectInputs::new(scores.as_view(), cu_seqlens.as_view()),
///     &mut SelectOutputs::new(kept.as_view_mut(), kept_lens.as_view_mut()),
///     None,
///     &mut status,
/// )?;
/// status.read(&stream)?.check()?;
/// assert_eq!(stream.clone_dtoh(&kept)?, [1, 2, 0, -1]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`pure::params`], [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn select(
    stream: &Arc<CudaStream>,
    plan: &SelectPlan,
    inputs: &SelectInputs<'_>,
    outputs: &mut SelectOutputs<'_>,
    workspace: Option<&mut CudaViewMut<'_, u8>>,
    status: &mut StatusWord,
) -> Result<()> {
    let mut status = status.view();
    let mut operands = Operands::<14>::new(stream)?;
    let buffers = SelectBuffers {
        scores: operands.read("scores", &inputs.scores)?,
        cu_seqlens: operands.read("cu_seqlens", &inputs.cu_seqlens)?,
        counts: operands.read_optional("counts", inputs.counts.as_ref())?,
        sinks: operands.read_optional("sinks", inputs.sinks.as_ref())?,
        recent: operands.read_optional("recent", inputs.recent.as_ref())?,
        mask: operands.read_optional("mask", inputs.mask.as_ref())?,
        positions: operands.read_optional("positions", inputs.positions.as_ref())?,
        kept: operands.write("kept", &mut outputs.kept)?,
        kept_lens: operands.write("kept_lens", &mut outputs.kept_lens)?,
        kept_positions: operands
            .write_optional("kept positions", outputs.kept_positions.as_mut())?,
        inverse: operands.write_optional("inverse map", outputs.inverse.as_mut())?,
        cu_kept: operands.write_optional("cu_kept", outputs.cu_kept.as_mut())?,
        status: word(operands.write("status", &mut status)?),
        workspace: operands.write_optional("workspace", workspace)?,
    };
    let params = pure::params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, and checked against their lengths.
    unsafe { operands.launch("select", raw::salient_select, &params) }
}

/// The two u32 of a status word as the one that it is.
pub(super) fn word(words: Buffer) -> Buffer {
    Buffer { len: words.len / 2, ..words }
}
