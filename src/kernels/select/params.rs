//! What a launch of **select** is given.

use std::ptr;

use super::{Budget, SelectPlan, Shape, Variant};
use crate::error::{Error, Result};
use crate::kernels::{ALIGNMENT, Buffer, lists_len, product, raw, to_i32, to_i64};

/// Where a selection's buffers lie. Lengths are in elements and exact, but for the workspace and
/// for scores with a stride.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectBuffers {
    /// f32 `[heads, score_stride]`, the last head's `[total]`.
    pub scores: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// i32 `[batch]`, with [`Budget::Counts`] and no other.
    pub counts: Option<Buffer>,
    /// i32 `[batch]` first tokens never dropped, instead of the plan's.
    pub sinks: Option<Buffer>,
    /// i32 `[batch]` last tokens never dropped, instead of the plan's.
    pub recent: Option<Buffer>,
    /// u8 `[total]`, nonzero: never dropped.
    pub mask: Option<Buffer>,
    /// i32 `[total]` original positions; needed for `kept_positions`.
    pub positions: Option<Buffer>,
    /// i32 `[rows, capacity]`, written: kept tokens in ascending order, -1 after the last.
    pub kept: Buffer,
    /// i32 `[rows]`, written: the lists' lengths.
    pub kept_lens: Buffer,
    /// i32 `[rows, capacity]`, written: the kept tokens' positions, -1 after the last.
    pub kept_positions: Option<Buffer>,
    /// i32 `[heads, total]`, written: each token's place in its row's list, or -1.
    pub inverse: Option<Buffer>,
    /// i32 `[rows + 1]`, written: where each list starts when packed.
    pub cu_kept: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
    /// u8, at least [`SelectPlan::workspace_bytes`].
    pub workspace: Option<Buffer>,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`]; [`Error::Unfit`] for counts, positions or a
/// workspace that is missing, or counts that have no use; [`Error::Overflow`] where more tokens may
/// be kept than `cu_kept` can count.
pub fn params(plan: &SelectPlan, buffers: &SelectBuffers) -> Result<raw::SalientSelectParams> {
    let SelectPlan { shape, rows, budget, edges, capacity, score_stride, variant } = *plan;
    let Shape { batch, heads, total, max_len } = shape;
    let lists = lists_len(rows, capacity)?;
    let scores = product("scores", &[heads - 1, score_stride])? + total;
    if (budget == Budget::Counts(())) != buffers.counts.is_some() {
        let expected = "given if, and only if, the budget is a count for each sequence";
        return Err(Error::Unfit { what: "counts", expected });
    }
    if buffers.kept_positions.is_some() != buffers.positions.is_some() {
        let expected = "given if, and only if, the kept positions are asked for";
        return Err(Error::Unfit { what: "positions", expected });
    }
    let most_kept = lists.min(product("scores", &[heads, total])?);
    if buffers.cu_kept.is_some() && most_kept > i32::MAX as usize {
        return Err(Error::Overflow { what: "kept tokens of all rows" });
    }
    let workspace_bytes = plan.workspace_bytes();
    let workspace = match (buffers.workspace, workspace_bytes) {
        (_, 0) => ptr::null_mut(),
        (None, expected) => {
            return Err(Error::LengthMismatch { what: "workspace", expected, actual: 0 });
        }
        (Some(workspace), needed) => {
            workspace.holds("workspace", needed)?;
            workspace.placed("workspace", 1, ALIGNMENT)?
        }
    };
    let (ratio, threshold, count, budget) = match budget {
        Budget::Count(count) => (0.0, 0.0, count.min(max_len), raw::SALIENT_BUDGET_COUNT),
        Budget::Counts(()) => (0.0, 0.0, 0, raw::SALIENT_BUDGET_COUNT),
        Budget::Ratio(ratio) => (ratio, 0.0, 0, raw::SALIENT_BUDGET_RATIO),
        Budget::Threshold(at_least) => (0.0, at_least, 0, raw::SALIENT_BUDGET_THRESHOLD),
    };
    Ok(raw::SalientSelectParams {
        scores: if heads == 1 || score_stride == total {
            buffers.scores.exactly("scores", scores)?
        } else {
            buffers.scores.at_least("scores", scores)?
        },
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        counts: Buffer::optional(buffers.counts, "counts", batch)?,
        sinks: Buffer::optional(buffers.sinks, "sinks", batch)?,
        recent: Buffer::optional(buffers.recent, "recent", batch)?,
        mask: Buffer::optional(buffers.mask, "mask", total)?,
        positions: Buffer::optional(buffers.positions, "positions", total)?,
        kept: buffers.kept.exactly("kept", lists)?,
        kept_lens: buffers.kept_lens.exactly("kept_lens", rows)?,
        kept_positions: Buffer::optional(buffers.kept_positions, "kept positions", lists)?,
        inverse: Buffer::optional(buffers.inverse, "inverse map", heads * total)?,
        cu_kept: Buffer::optional(buffers.cu_kept, "cu_kept", rows + 1)?,
        status: buffers.status.exactly("status", 1)?,
        workspace,
        workspace_bytes: to_i64("workspace", workspace_bytes)?,
        score_stride: to_i64("stride of the scores", score_stride)?,
        ratio,
        threshold,
        budget,
        batch: to_i32("sequences", batch)?,
        heads: to_i32("heads", heads)?,
        total: to_i32("tokens of all sequences", total)?,
        count: to_i32("count", count)?,
        sinks_all: to_i32("sinks", edges.sinks.min(max_len))?,
        recent_all: to_i32("local window", edges.recent.min(max_len))?,
        capacity: to_i32("capacity", capacity)?,
        max_len: to_i32("longest sequence", max_len)?,
        variant: match variant {
            Variant::Auto => raw::SALIENT_SELECT_AUTO,
            Variant::Block => raw::SALIENT_SELECT_BLOCK,
            Variant::Cluster => raw::SALIENT_SELECT_CLUSTER,
            Variant::Grid => raw::SALIENT_SELECT_GRID,
        },
    })
}
