//! Gradient saliency: what SDTP's predictors are trained towards, and, as a scorer, an oracle that
//! looks ahead.

use std::collections::HashMap;

use candle_core::{D, Tensor};
use salient::schedule::Plan;

use super::{Scorer, StageInput};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::reference;

/// How gradient times hidden state becomes one number per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// The absolute value of the sum over channels (SDTP, equation 3, read plainly).
    #[default]
    AbsoluteSum,
    /// The sum over channels, signed.
    Sum,
    /// The L2 norm over channels.
    Norm,
}

impl Reduction {
    /// What becomes of `gradient` times `hidden`, both `[tokens, hidden]`.
    pub(crate) fn reduce(self, gradient: &Tensor, hidden: &Tensor) -> Result<Vec<f32>> {
        let product = (gradient * hidden)?;
        let per_token = match self {
            Self::AbsoluteSum => product.sum(D::Minus1)?.abs()?,
            Self::Sum => product.sum(D::Minus1)?,
            Self::Norm => product.sqr()?.sum(D::Minus1)?.sqrt()?,
        };
        Ok(per_token.to_vec1()?)
    }
}

/// Saliency of every token of a prompt on entry to every block, `[layers][tokens]`: gradient of the
/// prompt's own log-likelihood times hidden state (SDTP, section 3.2).
///
/// # Errors
/// Those of [`reference::gradients`].
pub fn saliency(model: &Model, prompt: &[u32], reduction: Reduction) -> Result<Vec<Vec<f32>>> {
    let mut saliency = vec![Vec::new(); model.config().layers];
    reference::gradients(model, prompt, 0..prompt.len(), 0, |block| {
        saliency[block.layer] = reduction.reduce(&block.gradient, &block.input)?;
        Ok(())
    })?;
    Ok(saliency)
}

/// Scores tokens by the gradient of the prompt's own log-likelihood, computed in full before the
/// prefill. It costs several dense passes: a bound for predictors, not a fast rule.
#[derive(Debug, Default)]
pub struct GradientSaliency {
    reduction: Reduction,
    /// Saliency by (layer of a stage, sequence), then original position.
    by_stage: HashMap<(usize, usize), Vec<f32>>,
}

impl GradientSaliency {
    /// An oracle that reduces channels by `reduction`.
    pub fn new(reduction: Reduction) -> Self {
        Self { reduction, by_stage: HashMap::new() }
    }
}

impl Scorer for GradientSaliency {
    fn name(&self) -> String {
        match self.reduction {
            Reduction::AbsoluteSum => "saliency".into(),
            Reduction::Sum => "saliency:signed".into(),
            Reduction::Norm => "saliency:norm".into(),
        }
    }

    fn prepare(&mut self, model: &Model, prompts: &[Vec<u32>], plan: &Plan) -> Result<()> {
        self.by_stage.clear();
        if plan.stages().is_empty() {
            return Ok(());
        }
        for (sequence, prompt) in prompts.iter().enumerate() {
            let mut by_layer = saliency(model, prompt, self.reduction)?;
            for stage in plan.stages() {
                let scores = std::mem::take(&mut by_layer[stage.layer]);
                self.by_stage.insert((stage.layer, sequence), scores);
            }
        }
        Ok(())
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(stage.rows().total());
        for (sequence, span) in stage.rows().spans().enumerate() {
            let ahead = self.by_stage.get(&(stage.layer(), sequence));
            for &position in &stage.positions()[span.range()] {
                let score = ahead.and_then(|ahead| ahead.get(position as usize));
                scores.push(*score.ok_or_else(|| Error::Scorer {
                    scorer: self.name(),
                    reason: "it was not prepared for these prompts".into(),
                })?);
            }
        }
        Ok(scores)
    }
}
