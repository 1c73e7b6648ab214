//! A predictor where a model's hidden states are.

use candle_core::{DType, Device, DeviceLocation};
use salient::host::score;
use salient::score::PredictorWeights;

use super::unsupported;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;

/// A predictor where a model's hidden states are.
#[derive(Debug)]
#[non_exhaustive]
pub enum Predictor {
    /// In host memory.
    Host(Box<score::Predictor>),
    /// On a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<crate::cuda::CudaPredictor>),
}

impl Predictor {
    /// Puts a predictor for hidden states of `hidden` channels and type `dtype` on a device. On a
    /// CUDA device its weights are f16 for hidden states in f16, else bf16.
    ///
    /// # Errors
    /// Those of [`score::Predictor::new`]; on a CUDA device those of
    /// [`salient::kernels::score::MlpWeights::new`].
    pub fn new(
        hidden: usize,
        weights: PredictorWeights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        #[cfg(not(feature = "cuda"))]
        let _ = dtype;
        match device {
            Device::Cpu => Ok(Self::Host(Box::new(score::Predictor::new(hidden, weights)?))),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let predictor = crate::cuda::CudaPredictor::new(hidden, weights, dtype, device)?;
                Ok(Self::Cuda(Box::new(predictor)))
            }
            other => Err(unsupported(other)),
        }
    }

    /// Where it is.
    pub fn location(&self) -> DeviceLocation {
        match self {
            Self::Host(_) => DeviceLocation::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(predictor) => predictor.location(),
        }
    }

    /// It is on another device than the hidden states.
    #[cfg(feature = "cuda")]
    pub(crate) fn misplaced(&self, expected: DeviceLocation) -> Error {
        Error::TensorPlace { what: "the predictor", expected, actual: self.location() }
    }
}
