//! **score** on a device.

mod attention;
mod expected;
mod indexer;
mod rank;

pub use attention::{AttentionInputs, attention, pool};
pub use expected::{ExpectedInputs, Statistics, expected};
pub use indexer::{IndexerInputs, indexer};
pub use rank::rank;

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::DeviceElement;
use super::operands::{Operands, check_dtype};
use crate::error::{Error, Result};
use crate::kernels::raw;
use crate::kernels::score::{
    KeynormBuffers, KeynormPlan, MlpBuffers, MlpPlan, MlpShape, MlpWeights, keynorm_params,
    mlp_params,
};

/// A predictor's weights on the device, for hidden states of `T`: f16 or bf16.
#[derive(Debug)]
pub struct Predictor<T> {
    w1: CudaSlice<T>,
    b1: CudaSlice<f32>,
    w2: CudaSlice<f32>,
    shape: MlpShape,
}

impl<T: DeviceElement> Predictor<T> {
    /// Copies weights to the device. Allocates.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn upload(stream: &Arc<CudaStream>, weights: &MlpWeights<T>) -> Result<Self> {
        Ok(Self {
            w1: stream.clone_htod(weights.w1())?,
            b1: stream.clone_htod(weights.b1())?,
            w2: stream.clone_htod(weights.w2())?,
            shape: weights.shape(),
        })
    }

    /// What plans are made from.
    pub fn shape(&self) -> MlpShape {
        self.shape
    }
}

/// Scores hidden states `x`, `[tokens, hidden]` (or with the plan's stride), into `scores`,
/// `[tokens]`: `w2 . gelu(w1 norm(x) + b1) + b2`, accumulated in f32 and in a fixed order. If there
/// is `valid`, `[1]`, only that many tokens exist, and the rest score -inf. `workspace` holds at
/// least [`MlpPlan::workspace_bytes`].
///
/// A NaN or infinity in a hidden state makes its own score NaN or infinite and touches no other.
///
/// ```no_run
/// use half::bf16;
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::cuda::score::{Predictor, mlp};
/// use salient::score::PredictorWeights;
/// use salient::kernels::score::{MlpPlan, MlpWeights};
/// # fn main() -> salient::Result<()> {
/// # let trained = PredictorWeights { w1: vec![], b1: vec![], w2: vec![], b2: vec![], norm: None };
/// let (hidden, tokens) = (4096, 16_384);
/// let stream = CudaContext::new(0)?.default_stream();
/// let predictor = Predictor::upload(&stream, &MlpWeights::<bf16>::new(hidden, trained)?)?;
/// let plan = MlpPlan::new(predictor.shape(), tokens)?;
/// let x = stream.alloc_zeros::<bf16>(tokens * hidden)?;
/// let mut scores = stream.alloc_zeros::<f32>(tokens)?;
/// let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
/// mlp(
///     &stream,
///     &plan,
///     &predictor,
///     &x.as_view(),
///     None,
///     &mut scores.as_view_mut(),
///     &mut workspace.as_view_mut(),
/// )?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`mlp_params`]; [`Error::Unfit`] for a plan of another predictor;
/// [`Error::OtherContext`], [`Error::Driver`] and [`Error::Launch`].
pub fn mlp<T: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &MlpPlan,
    predictor: &Predictor<T>,
    x: &CudaView<'_, T>,
    valid: Option<&CudaView<'_, i32>>,
    scores: &mut CudaViewMut<'_, f32>,
    workspace: &mut CudaViewMut<'_, u8>,
) -> Result<()> {
    if plan.shape() != predictor.shape {
        return Err(Error::Unfit { what: "the plan", expected: "made for this predictor" });
    }
    let (w1, b1, w2) = (predictor.w1.as_view(), predictor.b1.as_view(), predictor.w2.as_view());
    let mut operands = Operands::<7>::new(stream)?;
    let buffers = MlpBuffers {
        x: operands.read("x", x)?,
        w1: operands.read("predictor w1", &w1)?,
        b1: operands.read("predictor b1", &b1)?,
        w2: operands.read("predictor w2", &w2)?,
        scores: operands.write("scores", scores)?,
        valid: operands.read_optional("number of valid tokens", valid)?,
        workspace: operands.write("workspace", workspace)?,
    };
    let params = mlp_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths, and say
    // that x and w1 are of `T`, since the predictor's weights were made so.
    unsafe { operands.launch("mlp", raw::salient_mlp, &params) }
}

/// Minus the norms of `keys`, laid out as the plan says, into `scores`: `[tokens]`, the mean over
/// heads, or `[heads, tokens]`.
///
/// # Errors
/// Those of [`keynorm_params`]; [`Error::DTypeMismatch`] for a plan of another type;
/// [`Error::OtherContext`], [`Error::Driver`] and [`Error::Launch`].
pub fn keynorm<T: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &KeynormPlan,
    keys: &CudaView<'_, T>,
    scores: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    check_dtype("k", plan.dtype(), T::DTYPE)?;
    let mut operands = Operands::<2>::new(stream)?;
    let buffers = KeynormBuffers {
        keys: operands.read("k", keys)?,
        scores: operands.write("scores", scores)?,
    };
    let params = keynorm_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths and their
    // type.
    unsafe { operands.launch("keynorm", raw::salient_keynorm, &params) }
}
