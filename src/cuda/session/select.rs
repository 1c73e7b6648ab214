//! **select**.

use cudarc::driver::CudaView;

use super::Session;
use crate::cuda::Array;
use crate::cuda::select::{SelectInputs, SelectOutputs, select};
use crate::error::Result;
use crate::kernels::select::SelectPlan;
use crate::ragged::Ragged;
use crate::select::{Budget, PerSequence, Request, Selection};

/// Which tokens a selection kept, on the device.
#[derive(Debug)]
pub struct DeviceSelection {
    pub(super) rows: Ragged,
    pub(super) heads: usize,
    pub(super) capacity: usize,
    pub(super) kept_total: usize,
    /// `[rows, capacity]` kept tokens in ascending order, -1 after the last. Rows are ordered by
    /// sequence, then head.
    pub kept: Array<i32>,
    /// `[rows]` lengths of the lists.
    pub kept_lens: Array<i32>,
    /// `[rows + 1]` where each list starts when packed: with one head the sequences after
    /// compaction.
    pub cu_kept: Array<i32>,
    /// `[batch + 1]` where each sequence starts.
    pub cu_seqlens: Array<i32>,
    /// `[rows, capacity]` original positions of the kept tokens, where they were asked for.
    pub positions: Option<Array<i32>>,
    /// `[heads, total]` each token's place in its row's list, or -1, where it was asked for.
    pub inverse: Option<Array<i32>>,
}

impl DeviceSelection {
    /// The sequences that were selected from.
    pub fn rows(&self) -> &Ragged {
        &self.rows
    }

    /// Rows per sequence.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The room of a list.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many tokens all lists have: exactly, unless the budget was a threshold; then no more
    /// than this.
    pub fn kept_total(&self) -> usize {
        self.kept_total
    }
}

impl Session {
    /// Copies a selection that the host made, in lists with room for `capacity` tokens each.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`](crate::Error::LengthMismatch) for lists that are longer, those of
    /// the device.
    pub fn upload_selection(
        &self,
        selection: &Selection,
        capacity: usize,
    ) -> Result<DeviceSelection> {
        let kept_lens: Vec<usize> = selection.kept_rows().lens().collect();
        Ok(DeviceSelection {
            rows: selection.rows().clone(),
            heads: selection.heads(),
            capacity,
            kept_total: selection.kept().len(),
            kept: self.upload(&selection.padded(capacity)?)?,
            kept_lens: self.upload_counts("lengths of the lists", &kept_lens)?,
            cu_kept: self.upload(selection.kept_rows().cu_seqlens())?,
            cu_seqlens: self.upload(selection.rows().cu_seqlens())?,
            positions: None,
            inverse: None,
        })
    }

    /// Selects the tokens that stay. `scores` is `[heads, total]`. The contract is that of
    /// [`crate::select`].
    ///
    /// # Errors
    /// Those of [`SelectPlan::of`], [`Error::LengthMismatch`](crate::Error::LengthMismatch) for
    /// another number of scores, those of the device.
    pub fn select(
        &mut self,
        scores: &CudaView<'_, f32>,
        request: &Request<'_>,
    ) -> Result<DeviceSelection> {
        self.select_and(scores, request, None, false)
    }

    /// The same, with the kept tokens' positions if those of all tokens, `[total]`, are given, and
    /// with the inverse map if it is asked for.
    ///
    /// # Errors
    /// As [`Session::select`].
    pub fn select_and(
        &mut self,
        scores: &CudaView<'_, f32>,
        request: &Request<'_>,
        positions: Option<&CudaView<'_, i32>>,
        inverse: bool,
    ) -> Result<DeviceSelection> {
        let plan = SelectPlan::of(request)?;
        let plan = plan.with_variant(self.select).unwrap_or(plan);
        let (rows, capacity, total) = (plan.rows(), plan.capacity(), request.rows.total());
        let counts = match request.budget {
            Budget::Counts(counts) => Some(self.upload(&clamped(counts.iter().copied()))?),
            _ => None,
        };
        let edges = match request.protect.edges {
            PerSequence::All(_) => None,
            PerSequence::Each(edges) => {
                let sinks = self.upload(&clamped(edges.iter().map(|edges| edges.sinks)))?;
                Some((sinks, self.upload(&clamped(edges.iter().map(|edges| edges.recent)))?))
            }
        };
        let mask = match request.protect.mask {
            Some(mask) => Some(self.upload(bytemuck::cast_slice::<bool, u8>(mask))?),
            None => None,
        };
        let with_positions = positions.map(|_| self.output(rows * capacity)).transpose()?;
        let mut selection = DeviceSelection {
            rows: request.rows.clone(),
            heads: request.heads,
            capacity,
            kept_total: request.most_kept()?,
            kept: self.output(rows * capacity)?,
            kept_lens: self.output(rows)?,
            cu_kept: self.output(rows + 1)?,
            cu_seqlens: self.upload(request.rows.cu_seqlens())?,
            positions: with_positions,
            inverse: if inverse { Some(self.output(request.heads * total)?) } else { None },
        };
        self.reserve(plan.workspace_bytes())?;
        let (sinks, recent) = edges.as_ref().map(|(a, b)| (a.view(), b.view())).unzip();
        let inputs = SelectInputs {
            counts: counts.as_ref().map(Array::view),
            sinks,
            recent,
            mask: mask.as_ref().map(Array::view),
            positions: positions.map(|positions| positions.slice(..)),
            ..SelectInputs::new(scores.slice(..), selection.cu_seqlens.view())
        };
        let mut outputs = SelectOutputs {
            kept_positions: selection.positions.as_mut().map(Array::view_mut),
            inverse: selection.inverse.as_mut().map(Array::view_mut),
            cu_kept: Some(selection.cu_kept.view_mut()),
            ..SelectOutputs::new(selection.kept.view_mut(), selection.kept_lens.view_mut())
        };
        let mut workspace = self.workspace.view_mut();
        let (status, workspace) = (&mut self.status, Some(&mut workspace));
        select(&self.stream, &plan, &inputs, &mut outputs, workspace, status)?;
        Ok(selection)
    }
}

/// Counts as kernels take them: more than a sequence can have is as good as all.
fn clamped(counts: impl Iterator<Item = usize>) -> Vec<i32> {
    counts.map(|count| i32::try_from(count).unwrap_or(i32::MAX)).collect()
}
