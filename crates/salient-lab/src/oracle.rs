//! What predictors are trained towards, as a scorer: an oracle that looks ahead.

use std::collections::HashMap;

use candle_core::Tensor;
use salient::schedule::Plan;

use crate::train::{Marks, Target};
use salient_candle::Model;
use salient_candle::scorer::{Scorer, StageInput};
use salient_candle::{Error, Result};

/// Scores tokens by what a [`Target`] says of the whole prompt, marked before the prefill. It costs
/// dense passes forward and backward: a bound for predictors, not a fast rule. The prompt's own
/// likelihood is what gradients are of, so it does not know the answer.
#[derive(Debug)]
pub struct Oracle {
    target: Target,
    /// Marks by (layer of a stage, sequence), then original position.
    by_stage: HashMap<(usize, usize), Vec<f32>>,
}

impl Oracle {
    /// An oracle of `target`.
    pub fn new(target: Target) -> Self {
        Self { target, by_stage: HashMap::new() }
    }
}

impl Default for Oracle {
    /// Of gradient saliency (SDTP, section 3.2).
    fn default() -> Self {
        Self::new(Target::Saliency)
    }
}

impl Scorer for Oracle {
    fn name(&self) -> String {
        format!("oracle:{}", self.target)
    }

    fn prepare(&mut self, model: &Model, prompts: &[Vec<u32>], plan: &Plan) -> Result<()> {
        self.by_stage.clear();
        let layers: Vec<usize> = plan.stages().iter().map(|stage| stage.layer).collect();
        if layers.is_empty() {
            return Ok(());
        }
        for (sequence, prompt) in prompts.iter().enumerate() {
            let marks = Marks::new(model, prompt, 0..prompt.len(), &layers)?;
            for &layer in &layers {
                let marked = marks.get(layer, self.target).expect("what was marked");
                self.by_stage.insert((layer, sequence), marked.to_vec());
            }
        }
        Ok(())
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let of = |sequence| self.by_stage.get(&(stage.layer(), sequence));
        let known: Option<Vec<_>> = (0..stage.rows().batch()).map(of).collect();
        known.and_then(|known| stage.by_position(&known).ok()).ok_or_else(|| Error::Scorer {
            scorer: self.name(),
            reason: "it was not prepared for these prompts".into(),
        })
    }
}
