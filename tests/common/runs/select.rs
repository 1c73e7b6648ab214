//! **select**, and the checker of lists.

use salient::cuda::select::{SelectInputs, select};
use salient::cuda::validate::{Lists, validate};
use salient::kernels::select::SelectPlan;
use salient::kernels::validate::ValidatePlan;
use salient::select::{Budget, Edges, PerSequence, Request};
use salient::{Result, Status};

use super::Places;
use crate::device::{Device, Upload};

/// What a device holds after a selection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SelectedThere {
    /// `[rows, capacity]`.
    pub(crate) kept: Vec<i32>,
    /// `[rows]`.
    pub(crate) kept_lens: Vec<i32>,
    /// `[rows, capacity]`.
    pub(crate) kept_positions: Vec<i32>,
    /// `[heads, total]`.
    pub(crate) inverse: Vec<i32>,
    /// `[rows + 1]`.
    pub(crate) cu_kept: Vec<i32>,
    pub(crate) status: Status,
    pub(crate) places: Places,
}

/// A selection.
pub(crate) struct SelectRun {
    plan: SelectPlan,
    scores: Upload<f32>,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
    counts: Option<Upload<i32>>,
    edges: Option<[Upload<i32>; 2]>,
    mask: Option<Upload<u8>>,
    positions: Upload<i32>,
}

impl SelectRun {
    /// Uploads what a request says, for a plan that may say other things.
    pub(crate) fn new(
        device: &Device,
        plan: SelectPlan,
        scores: &[f32],
        request: &Request<'_>,
    ) -> Result<Self> {
        let counts = match request.budget {
            Budget::Counts(counts) => {
                device.upload_values(PerSequence::Each(counts), |count| count)?
            }
            _ => None,
        };
        let edges = match request.protect.edges {
            PerSequence::All(_) => None,
            edges => {
                let sinks = device.upload_values(edges, |edges: Edges| edges.sinks)?;
                sinks.zip(device.upload_values(edges, |edges: Edges| edges.recent)?)
            }
        };
        let mask = request.protect.mask.map(|mask| mask.iter().map(|&m| u8::from(m)).collect());
        let positions: Vec<i32> = (0..request.rows.total() as i32).map(|i| 1000 + 3 * i).collect();
        Ok(Self {
            plan,
            scores: device.upload(scores)?,
            cu_seqlens: device.upload(request.rows.cu_seqlens())?,
            counts,
            edges: edges.map(|(sinks, recent)| [sinks, recent]),
            mask: mask.map(|mask: Vec<u8>| device.upload(&mask)).transpose()?,
            positions: device.upload(&positions)?,
        })
    }

    pub(crate) fn launch(&self, device: &Device) -> Result<SelectedThere> {
        let shape = self.plan.shape();
        let (rows, capacity) = (self.plan.rows(), self.plan.capacity());
        let mut kept = device.filled(rows * capacity)?;
        let mut kept_lens = device.filled(rows)?;
        let mut kept_positions = device.filled(rows * capacity)?;
        let mut inverse = device.filled(shape.heads * shape.total)?;
        let mut cu_kept = device.filled(rows + 1)?;
        let mut workspace = device.unwritten::<u8>(self.plan.workspace_bytes())?;
        let status = device.with_status(|status| {
            let inputs = SelectInputs {
                scores: self.scores.view(),
                cu_seqlens: self.cu_seqlens.view(),
                counts: self.counts.as_ref().map(Upload::view),
                sinks: self.edges.as_ref().map(|[sinks, _]| sinks.view()),
                recent: self.edges.as_ref().map(|[_, recent]| recent.view()),
                mask: self.mask.as_ref().map(Upload::view),
                positions: Some(self.positions.view()),
            };
            let mut outputs = salient::cuda::select::SelectOutputs {
                kept: kept.view_mut(),
                kept_lens: kept_lens.view_mut(),
                kept_positions: Some(kept_positions.view_mut()),
                inverse: Some(inverse.view_mut()),
                cu_kept: Some(cu_kept.view_mut()),
            };
            let mut workspace = workspace.view_mut();
            let workspace = Some(&mut workspace);
            select(&device.stream, &self.plan, &inputs, &mut outputs, workspace, status)
        })?;
        let places = vec![
            ("scores", self.scores.address()),
            ("kept", kept.address()),
            ("kept_lens", kept_lens.address()),
            ("kept_positions", kept_positions.address()),
            ("inverse", inverse.address()),
            ("cu_kept", cu_kept.address()),
        ];
        Ok(SelectedThere {
            kept: kept.read()?,
            kept_lens: kept_lens.read()?,
            kept_positions: kept_positions.read()?,
            inverse: inverse.read()?,
            cu_kept: cu_kept.read()?,
            status,
            places,
        })
    }
}

/// Lists to check.
pub(crate) struct ValidateRun {
    pub(crate) plan: ValidatePlan,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
    /// `[batch * heads, capacity]`.
    pub(crate) kept: Upload<i32>,
    /// `[batch * heads]`.
    pub(crate) kept_lens: Upload<i32>,
    /// `[batch * heads + 1]`.
    pub(crate) cu_kept: Option<Upload<i32>>,
    /// `[batch, max_pages]`.
    pub(crate) page_table: Option<Upload<i32>>,
}

impl ValidateRun {
    /// What is wrong with them.
    pub(crate) fn launch(&self, device: &Device) -> Result<Status> {
        device.with_status(|status| {
            let lists = Lists {
                cu_seqlens: self.cu_seqlens.view(),
                kept: self.kept.view(),
                kept_lens: self.kept_lens.view(),
                cu_kept: self.cu_kept.as_ref().map(Upload::view),
                page_table: self.page_table.as_ref().map(Upload::view),
            };
            validate(&device.stream, &self.plan, &lists, status)
        })
    }

    pub(crate) fn places(&self) -> Places {
        vec![("kept", self.kept.address())]
    }
}
