//! Predictors and runs as files' contents.

use std::collections::BTreeMap;
use std::fmt::Display;

use candle_core::{Tensor, Var};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::trainer::{copies, weight_name};
use super::{AdamW, Progress, TrainOptions, Trainer};
use crate::error::{Error, Result};
use salient_candle::Model;
use salient_candle::scorer::{METADATA, PredictorInfo, floats, said};

/// What a checkpoint says of itself.
#[derive(Serialize, Deserialize)]
struct CheckpointInfo {
    model: String,
    data: String,
    options: TrainOptions,
    progress: Progress,
    optimiser_step: i32,
}

impl Trainer {
    /// The best predictors so far, as the contents of a file that
    /// [`Learned`](salient_candle::scorer::Learned) reads.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_file(&self, model: &Model) -> Result<Vec<u8>> {
        let info = PredictorInfo {
            model: model.fingerprint().to_owned(),
            schedule: self.options.schedule.to_string(),
            trained_on: self.options.target.to_string(),
        };
        let mut tensors = Tensors::default();
        for (layer, trainee) in &self.best {
            for (part, var) in trainee.parts() {
                tensors.add(weight_name(*layer, part), var)?;
            }
        }
        tensors.serialize(&info)
    }

    /// Everything that the rest of the run depends on, besides model and texts; `data` tells the
    /// texts from others.
    ///
    /// # Errors
    /// Those of candle.
    pub fn checkpoint(&self, model: &Model, data: &str) -> Result<Vec<u8>> {
        let mut tensors = Tensors::default();
        for (set, predictors) in [("now", &self.predictors), ("best", &self.best)] {
            for (layer, trainee) in predictors {
                for (part, var) in trainee.parts() {
                    tensors.add(format!("{set}.{}", weight_name(*layer, part)), var)?;
                }
            }
        }
        for (name, [first, second]) in self.optimiser.moments() {
            tensors.add(format!("first.{name}"), first)?;
            tensors.add(format!("second.{name}"), second)?;
        }
        tensors.serialize(&CheckpointInfo {
            model: model.fingerprint().to_owned(),
            data: data.into(),
            options: self.options.clone(),
            progress: self.progress,
            optimiser_step: self.optimiser.step(),
        })
    }

    /// The run that [`Trainer::checkpoint`] wrote, which goes on as if it had not stopped.
    ///
    /// # Errors
    /// [`Error::Training`] if the bytes are no checkpoint, or one of another model, run or data:
    /// both are named.
    pub fn resume(
        model: &Model,
        options: TrainOptions,
        data: &str,
        checkpoint: &[u8],
    ) -> Result<Self> {
        let refuse = |reason: String| Error::Training { reason };
        let no_checkpoint = |why: &dyn Display| refuse(format!("no checkpoint: {why}"));
        let said = said(checkpoint).map_err(|e| no_checkpoint(&e))?.unwrap_or_default();
        let info: CheckpointInfo = serde_json::from_str(&said).map_err(|e| no_checkpoint(&e))?;
        let text = |options| serde_json::to_string(options).expect("plain values");
        for (what, actual, expected) in [
            ("model", info.model, model.fingerprint().to_owned()),
            ("texts", info.data, data.to_owned()),
            ("options", text(&info.options), text(&options)),
        ] {
            if actual != expected {
                let reason = format!("the checkpoint's {what} are {actual}, the run's {expected}");
                return Err(refuse(reason));
            }
        }

        let file = SafeTensors::deserialize(checkpoint).map_err(|e| no_checkpoint(&e))?;
        let mut trainer = Self::new(model, options)?;
        trainer.best = copies(&trainer.predictors)?;
        for (set, predictors) in [("now", &trainer.predictors), ("best", &trainer.best)] {
            for (layer, trainee) in predictors {
                for (part, var) in trainee.parts() {
                    let name = format!("{set}.{}", weight_name(*layer, part));
                    var.set(&read(&file, &name, var)?)?;
                }
            }
        }
        let mut moments = BTreeMap::new();
        if info.optimiser_step > 0 {
            for (layer, trainee) in &trainer.predictors {
                for (part, var) in trainee.parts() {
                    let name = weight_name(*layer, part);
                    let moment = |which: &str| read(&file, &format!("{which}.{name}"), var);
                    moments.insert(name.clone(), [moment("first")?, moment("second")?]);
                }
            }
        }
        trainer.optimiser = AdamW::resume(info.optimiser_step, moments);
        trainer.progress = info.progress;
        Ok(trainer)
    }
}

fn read(file: &SafeTensors<'_>, name: &str, like: &Var) -> Result<Tensor> {
    let view = file
        .tensor(name)
        .map_err(|_| salient_candle::Error::MissingTensor { name: name.to_owned() })?;
    let values = floats(name, &view, like.dims())?;
    Ok(Tensor::from_vec(values, like.shape(), like.device())?)
}

/// Tensors in f32 on their way into a file.
#[derive(Default)]
pub(super) struct Tensors {
    values: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    pub(super) fn add(&mut self, name: String, tensor: &Tensor) -> Result<()> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.values.insert(name, (tensor.dims().to_vec(), bytes));
        Ok(())
    }

    pub(super) fn serialize(&self, info: &impl Serialize) -> Result<Vec<u8>> {
        let views = self.values.iter().map(|(name, (shape, bytes))| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name, view.expect("as many bytes as the shape has"))
        });
        let said = serde_json::to_string(info).expect("plain values");
        let bytes = safetensors::serialize(views, Some([(METADATA.into(), said)].into()));
        bytes.map_err(|e| Error::Training { reason: format!("cannot serialise: {e}") })
    }
}
