//! Learned predictors, one small MLP per stage (SDTP, arXiv 2504.04514, equation 1).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensorError, SafeTensors};
use salient::schedule::Schedule;
use salient::score::{Pool, PoolKind, PredictorWeights};
use serde::{Deserialize, Serialize};

use super::{Scorer, StageInput};
use crate::backend::Predictor;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Model;

/// What a file of predictors says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictorInfo {
    /// The model's [`Model::fingerprint`].
    pub model: String,
    /// The schedule in its text form.
    pub schedule: String,
    /// What the scores foresee.
    pub trained_on: String,
}

/// Predictors by the layer of their stage.
///
/// The file is safetensors in f32: for the stage at layer `L`, `stage.L.w1` `[width, hidden]`,
/// `stage.L.b1` `[width]`, `stage.L.w2` `[outputs, width]` with one or two outputs (keep, drop),
/// `stage.L.b2` `[outputs]`, and, where the input is normalised, `stage.L.norm` `[hidden]`. Files
/// that `salient train` made have a [`PredictorInfo`] in JSON as their metadata `salient`.
#[derive(Debug, Clone)]
pub struct Learned {
    predictors: Arc<BTreeMap<usize, Predictor>>,
    /// The width of the average pooling along tokens; 1 for none.
    pool: usize,
}

impl Learned {
    /// Predictors of `model` by the layer of their stage, put where it is.
    ///
    /// # Errors
    /// Those of [`Predictor::new`].
    pub fn new(weights: BTreeMap<usize, PredictorWeights>, model: &Model) -> Result<Self> {
        let (hidden, dtype, device) = (model.config().hidden, model.dtype(), model.device());
        let put = weights
            .into_iter()
            .map(|(layer, weights)| Ok((layer, Predictor::new(hidden, weights, dtype, device)?)));
        Ok(Self { predictors: Arc::new(put.collect::<Result<_>>()?), pool: 1 })
    }

    /// The same with scores averaged over `width` tokens, odd and at most
    /// [`MAX_POOL_WIDTH`](salient::score::MAX_POOL_WIDTH): stages that keep runs of tokens lose
    /// less than those that keep lone ones.
    pub fn pooled(self, width: usize) -> Self {
        Self { pool: width, ..self }
    }

    /// Reads the predictors of `model` from a file.
    ///
    /// # Errors
    /// Those of [`Self::read_weights`], [`Error::OtherModel`], and [`Error::NotFinite`] (as
    /// [`salient::Error::NotFinite`]) for NaN or infinity in weights.
    pub fn from_file(path: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, path, model)
    }

    /// Reads the predictors of `model` from a file's contents; errors name `path`.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_bytes(bytes: &[u8], path: &Path, model: &Model) -> Result<Self> {
        // Before the weights: another model's may have other shapes, which would say less.
        if let Some(info) = Self::info(bytes, path)? {
            let expected = model.fingerprint();
            if info.model != expected {
                return Err(Error::OtherModel {
                    path: path.to_owned(),
                    expected: expected.to_owned(),
                    actual: info.model,
                });
            }
        }
        Self::new(weights(bytes, path, model.config())?, model)
    }

    /// Reads the predictors of `model` from a file's contents, to be used with `schedules`; errors
    /// name `path`.
    ///
    /// # Errors
    /// As [`Self::from_file`], [`Error::OtherSchedule`] if a stage has no predictor, and those of
    /// the schedules.
    pub fn for_schedules(
        bytes: &[u8],
        path: &Path,
        model: &Model,
        schedules: &[Schedule],
    ) -> Result<Self> {
        let learned = Self::from_bytes(bytes, path, model)?;
        for schedule in schedules {
            let plan = schedule.plan(&[model.config().context], model.config().layers)?;
            let mut stages = plan.stages().iter().map(|stage| stage.layer);
            if let Some(missing) = stages.find(|layer| !learned.predictors.contains_key(layer)) {
                let info = Self::info(bytes, path)?;
                return Err(Error::OtherSchedule {
                    path: path.to_owned(),
                    expected: schedule.to_string(),
                    actual: info.map_or_else(|| "unknown".into(), |info| info.schedule),
                    layers: learned.predictors.keys().copied().collect(),
                    missing,
                });
            }
        }
        Ok(learned)
    }

    /// Reads the predictors' weights from a file, by layer.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`] if the file is no safetensors or of another kind,
    /// [`Error::Shape`] if a tensor does not fit the model.
    pub fn read_weights(
        path: impl AsRef<Path>,
        config: &ModelConfig,
    ) -> Result<BTreeMap<usize, PredictorWeights>> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        weights(&bytes, path, config)
    }

    /// What a file's contents say of themselves, if anything.
    ///
    /// # Errors
    /// [`Error::Malformed`] if they are no safetensors, or say it in another way.
    pub fn info(bytes: &[u8], path: &Path) -> Result<Option<PredictorInfo>> {
        let said = said(bytes).map_err(|e| malformed(path, e.to_string()))?;
        let info = said.map(|said| serde_json::from_str(&said)).transpose();
        info.map_err(|e| malformed(path, e.to_string()))
    }
}

impl Scorer for Learned {
    fn name(&self) -> String {
        "predictor".into()
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let predictor = self.predictors.get(&stage.layer()).ok_or_else(|| Error::Scorer {
            scorer: self.name(),
            reason: format!(
                "no predictor for a stage at layer {}; the file has layers {:?}",
                stage.layer(),
                self.predictors.keys().collect::<Vec<_>>()
            ),
        })?;
        let (hidden, rows) = (stage.hidden(), stage.rows());
        let scores = stage.verbs().mlp(predictor, hidden)?;
        if self.pool == 1 {
            return Ok(scores);
        }
        let pool = Pool { kind: PoolKind::Average, width: self.pool };
        stage.verbs().pool(&scores, rows, &pool)
    }
}

/// The metadata under which files of this project say what they are: one text, since the order of
/// several would not be the same from run to run.
pub const METADATA: &str = "salient";

/// What a safetensors file's contents say of themselves under [`METADATA`].
///
/// # Errors
/// Those of safetensors.
pub fn said(bytes: &[u8]) -> Result<Option<String>, SafeTensorError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA)).cloned())
}

fn malformed(path: &Path, reason: String) -> Error {
    Error::Malformed { path: path.to_owned(), format: "predictor", reason }
}

/// The weights of every stage in a file's contents.
fn weights(
    bytes: &[u8],
    path: &Path,
    config: &ModelConfig,
) -> Result<BTreeMap<usize, PredictorWeights>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(path, e.to_string()))?;
    let mut predictors = BTreeMap::new();
    for name in file.names() {
        let Some(layer) = name.strip_prefix("stage.").and_then(|n| n.strip_suffix(".w1")) else {
            continue;
        };
        let layer: usize =
            layer.parse().map_err(|_| malformed(path, format!("`{name}` names no layer")))?;
        predictors.insert(layer, read_stage(&file, layer, config)?);
    }
    if predictors.is_empty() {
        return Err(malformed(path, "it has no tensor `stage.LAYER.w1`".into()));
    }
    Ok(predictors)
}

fn read_stage(
    file: &SafeTensors<'_>,
    layer: usize,
    config: &ModelConfig,
) -> Result<PredictorWeights> {
    let hidden = config.hidden;
    let name = |part: &str| format!("stage.{layer}.{part}");
    let get = |part: &str| {
        file.tensor(&name(part)).map_err(|_| Error::MissingTensor { name: name(part) })
    };
    let read = |part: &str, shape: &[usize]| floats(&name(part), &get(part)?, shape);
    let width = get("w1")?.shape().first().copied().unwrap_or_default();
    let outputs = get("w2")?.shape().first().copied().unwrap_or_default();
    let norm = match get("norm") {
        Ok(view) => Some((floats(&name("norm"), &view, &[hidden])?, config.rms_eps as f32)),
        Err(_) => None,
    };
    Ok(PredictorWeights {
        w1: read("w1", &[width, hidden])?,
        b1: read("b1", &[width])?,
        w2: read("w2", &[outputs, width])?,
        b2: read("b2", &[outputs])?,
        norm,
    })
}

/// The values of a tensor in f32 of a given shape.
///
/// # Errors
/// [`Error::Shape`] for another shape, [`Error::Unsupported`] for another type.
pub fn floats(name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>> {
    if view.shape() != shape {
        return Err(Error::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            actual: view.shape().to_vec(),
        });
    }
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(Error::Unsupported {
            what: "predictor tensor type",
            name: format!("{:?}", view.dtype()),
            supported: "F32",
        });
    }
    let (chunks, _) = view.data().as_chunks::<4>();
    Ok(chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
