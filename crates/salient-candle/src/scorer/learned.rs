//! Learned predictors, one small MLP per stage (SDTP, arXiv 2504.04514, equation 1).

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use salient::host::score::{self, Predictor, PredictorWeights};

use super::{Scorer, StageInput};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Model;

/// Predictors by the layer of their stage.
///
/// The file is safetensors in f32: for the stage at layer `L`, `stage.L.w1` `[width, hidden]`,
/// `stage.L.b1` `[width]`, `stage.L.w2` `[outputs, width]` with one or two outputs (keep, drop),
/// `stage.L.b2` `[outputs]`, and, where the input is normalised, `stage.L.norm` `[hidden]`.
#[derive(Debug)]
pub struct Learned {
    predictors: BTreeMap<usize, Predictor>,
}

impl Learned {
    /// Predictors built elsewhere, by layer.
    pub fn new(predictors: BTreeMap<usize, Predictor>) -> Self {
        Self { predictors }
    }

    /// Reads the predictors of `model` from a file.
    ///
    /// # Errors
    /// Those of [`Self::read_weights`], and [`Error::NotFinite`] (as [`salient::Error::NotFinite`])
    /// for NaN or infinity in weights.
    pub fn from_file(path: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let weights = Self::read_weights(path, model.config())?;
        let built = weights
            .into_iter()
            .map(|(layer, weights)| Ok((layer, Predictor::new(model.config().hidden, weights)?)));
        Ok(Self { predictors: built.collect::<Result<_>>()? })
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
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            format: "predictor",
            reason,
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let mut predictors = BTreeMap::new();
        for name in file.names() {
            let Some(layer) = name.strip_prefix("stage.").and_then(|n| n.strip_suffix(".w1"))
            else {
                continue;
            };
            let layer: usize =
                layer.parse().map_err(|_| malformed(format!("`{name}` names no layer")))?;
            predictors.insert(layer, read_stage(&file, layer, config)?);
        }
        if predictors.is_empty() {
            return Err(malformed("it has no tensor `stage.LAYER.w1`".into()));
        }
        Ok(predictors)
    }
}

impl Scorer for Learned {
    fn name(&self) -> String {
        "predictor".into()
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let predictor = self.predictors.get(&stage.layer()).ok_or_else(|| Error::Scorer {
            scorer: self.name(),
            reason: format!(
                "no predictor for a stage at layer {}; the file has layers {:?}",
                stage.layer(),
                self.predictors.keys().collect::<Vec<_>>()
            ),
        })?;
        let mut scores = vec![0.0; stage.rows().total()];
        stage.with_hidden(|hidden| score::mlp(hidden, predictor, &mut scores))??;
        Ok(scores)
    }
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

fn floats(name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<Vec<f32>> {
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
