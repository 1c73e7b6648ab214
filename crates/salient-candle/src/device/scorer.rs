//! What scores tokens on a device.

use std::collections::BTreeMap;

use candle_core::{DType, Device, DeviceLocation, Tensor};
use salient::Ragged;
use salient::host::score::Predictor;
use salient::score::PredictorWeights;

use super::{DeviceModel, Verbs, unsupported};
use crate::error::{Error, Result};
use crate::scorer::{Scorer, Window};

/// The scorers that stay on the device.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceScorer {
    /// Tokens with small keys matter, as [`crate::scorer::KeyNorm`].
    KeyNorm,
    /// The attention of the last tokens, as [`crate::scorer::Window`]; of one token it is
    /// [`crate::scorer::LastQuery`]. On a CUDA device in f16 and bf16, of up to 128 tokens.
    Window(Window),
    /// Predictors by the layer of their stage, as [`crate::scorer::Learned`].
    Learned(BTreeMap<usize, DevicePredictor>),
}

/// What a scorer may look at on entry to a block.
pub(super) struct Scored<'a> {
    pub(super) layer: usize,
    pub(super) rows: &'a Ragged,
    /// `[tokens, hidden]`.
    pub(super) hidden: &'a Tensor,
    /// `[tokens, kv_heads, head_dim]`.
    pub(super) keys: Option<&'a Tensor>,
    /// `[asking, heads, head_dim]` of the last tokens of every sequence, and where each begins.
    pub(super) queries: Option<(Tensor, Ragged)>,
    /// Of logits.
    pub(super) scale: f32,
}

/// A predictor where a model's hidden states are.
#[derive(Debug)]
#[non_exhaustive]
pub enum DevicePredictor {
    /// In host memory.
    Host(Box<Predictor>),
    /// On a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<crate::cuda::CudaPredictor>),
}

impl DeviceScorer {
    /// Predictors for a model, by the layer of their stage
    /// ([`crate::scorer::Learned::read_weights`]).
    ///
    /// # Errors
    /// Those of [`DevicePredictor::new`].
    pub fn learned(
        weights: BTreeMap<usize, PredictorWeights>,
        model: &DeviceModel,
    ) -> Result<Self> {
        let (hidden, dtype, device) = (model.config().hidden, model.dtype(), model.device());
        let put = |weights| DevicePredictor::new(hidden, weights, dtype, device);
        let put = weights.into_iter().map(|(layer, weights)| Ok((layer, put(weights)?)));
        Ok(Self::Learned(put.collect::<Result<_>>()?))
    }

    /// A short name for reports.
    pub fn name(&self) -> String {
        match self {
            Self::KeyNorm => "key-norm".into(),
            Self::Window(window) => window.name(),
            Self::Learned(_) => "predictor".into(),
        }
    }

    pub(super) fn needs_keys(&self) -> bool {
        matches!(self, Self::KeyNorm | Self::Window(_))
    }

    /// How many of the last tokens of every sequence [`DeviceScorer::score`] needs the queries of.
    pub(super) fn asking(&self, rows: &Ragged) -> Option<Vec<usize>> {
        match self {
            Self::Window(window) => Some(window.lens(rows)),
            _ => None,
        }
    }

    pub(super) fn score<V: Verbs>(&self, verbs: &mut V, stage: &Scored<'_>) -> Result<Tensor> {
        let lacks = |reason| Error::Scorer { scorer: self.name(), reason };
        let keys = || stage.keys.ok_or_else(|| lacks("it was given no keys".into()));
        match self {
            Self::KeyNorm => verbs.keynorm(keys()?),
            Self::Window(window) => {
                let Some((queries, asking)) = &stage.queries else {
                    return Err(lacks("it was given no queries".into()));
                };
                let score = window.params(stage.scale);
                verbs.attention(queries, asking, keys()?, stage.rows, &score)
            }
            Self::Learned(predictors) => {
                let layer = stage.layer;
                let predictor = predictors.get(&layer).ok_or_else(|| {
                    let layers: Vec<_> = predictors.keys().collect();
                    lacks(format!("no predictor for a stage at layer {layer}, only at {layers:?}"))
                })?;
                verbs.mlp(predictor, stage.hidden)
            }
        }
    }
}

impl DevicePredictor {
    /// Puts a predictor for hidden states of `hidden` channels and type `dtype` on a device.
    ///
    /// # Errors
    /// Those of [`Predictor::new`]; on a CUDA device those of
    /// [`salient::kernels::score::MlpWeights::new`], and [`Error::Unsupported`] unless `dtype` is
    /// f16 or bf16.
    pub fn new(
        hidden: usize,
        weights: PredictorWeights,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        #[cfg(not(feature = "cuda"))]
        let _ = dtype;
        match device {
            Device::Cpu => Ok(Self::Host(Box::new(Predictor::new(hidden, weights)?))),
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
}
