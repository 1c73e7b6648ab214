//! Expected attention on a device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::check_dtype;
use crate::cuda::operands::Operands;
use crate::cuda::select::word;
use crate::cuda::{DeviceElement, StatusWord};
use crate::error::{Error, Result};
use crate::kernels::raw;
use crate::kernels::score::{
    ExpectedBuffers, ExpectedPlan, ExpectedShape, ExpectedWeights, expected_params,
};

/// Query statistics on the device. They serve keys of the type that they were prepared for.
#[derive(Debug)]
pub struct Statistics {
    words: CudaSlice<u32>,
    shape: ExpectedShape,
}

impl Statistics {
    /// Copies statistics to the device. Allocates.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn upload<T: DeviceElement>(
        stream: &Arc<CudaStream>,
        weights: &ExpectedWeights<T>,
    ) -> Result<Self> {
        Ok(Self { words: stream.clone_htod(weights.words())?, shape: weights.shape() })
    }

    /// What plans are made from.
    pub fn shape(&self) -> ExpectedShape {
        self.shape
    }
}

/// What expected attention reads.
#[derive(Debug)]
pub struct ExpectedInputs<'a, T> {
    /// `[total, KV heads, dim]`, as the plan lays them out.
    pub k: CudaView<'a, T>,
    /// `[total, KV heads, dim]`, if the plan has values.
    pub v: Option<CudaView<'a, T>>,
    /// `[batch + 1]`.
    pub cu_seqlens: CudaView<'a, i32>,
}

/// Scores keys by the attention that they are expected to draw ([`crate::host::score::expected`])
/// into `scores`, `[total]` or `[kv_heads, total]`. `workspace` holds at least
/// [`ExpectedPlan::workspace_bytes`].
///
/// A sequence with impossible offsets is added to `status`, and its scores are not written.
///
/// # Errors
/// Those of [`expected_params`]; [`Error::Unfit`] for a plan of other statistics;
/// [`Error::DTypeMismatch`] for keys of another type; [`Error::OtherContext`], [`Error::Driver`]
/// and [`Error::Launch`].
pub fn expected<T: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &ExpectedPlan,
    statistics: &Statistics,
    inputs: &ExpectedInputs<'_, T>,
    scores: &mut CudaViewMut<'_, f32>,
    workspace: &mut CudaViewMut<'_, u8>,
    status: &mut StatusWord,
) -> Result<()> {
    if plan.shape() != statistics.shape {
        return Err(Error::Unfit { what: "the plan", expected: "made for these statistics" });
    }
    check_dtype("k", statistics.shape.dtype(), T::DTYPE)?;
    let (words, mut status) = (statistics.words.as_view(), status.view());
    let mut operands = Operands::<7>::new(stream)?;
    let buffers = ExpectedBuffers {
        k: operands.read("k", &inputs.k)?,
        v: operands.read_optional("v", inputs.v.as_ref())?,
        weights: operands.read("query statistics", &words)?,
        cu_seqlens: operands.read("cu_seqlens", &inputs.cu_seqlens)?,
        scores: operands.write("scores", scores)?,
        workspace: operands.write("workspace", workspace)?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = expected_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths, and say
    // that k and v are of `T`, for which the statistics were prepared.
    unsafe { operands.launch("expected", raw::salient_expected, &params) }
}
