//! Gradient saliency: what SDTP's predictors are trained towards, and, as a scorer, an oracle that
//! looks ahead.

use std::collections::HashMap;

use candle_core::{D, Device, IndexOp, Tensor, Var};
use salient::schedule::Plan;

use super::{Scorer, StageInput};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::reference;

/// Positions whose logits are materialised at once; the vocabulary is wide.
const LOSS_ROWS: usize = 256;

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

/// Saliency of every token of a prompt on entry to every block, `[layers][tokens]`: gradient of the
/// prompt's own log-likelihood times hidden state (SDTP, section 3.2).
///
/// The backward pass goes block by block: hidden states between blocks are kept, everything inside a
/// block is computed again, so memory is one block's graph.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::UnknownToken`] and those of candle.
pub fn saliency(model: &Model, prompt: &[u32], reduction: Reduction) -> Result<Vec<Vec<f32>>> {
    if prompt.is_empty() {
        return Err(Error::EmptyPrompt { sequence: 0 });
    }
    let positions: Vec<i32> = (0..prompt.len() as i32).collect();
    let mask = reference::causal_mask(&positions, &positions, None)?;
    let mut inputs = vec![model.embed(prompt)?];
    for layer in 0..model.config().layers {
        let hidden = reference::block(model, layer, &inputs[layer], &positions, &mask)?;
        inputs.push(hidden.detach());
    }
    let mut gradient = loss_gradient(model, &inputs.pop().expect("one per block and one"), prompt)?;
    let mut saliency = vec![Vec::new(); inputs.len()];
    for (layer, hidden) in inputs.into_iter().enumerate().rev() {
        let input = Var::from_tensor(&hidden)?;
        let output = reference::block(model, layer, &input, &positions, &mask)?;
        let grads = (output * &gradient)?.sum_all()?.backward()?;
        gradient = grads.get(&input).expect("the output depends on its input").detach();
        let product = (&gradient * &hidden)?;
        let per_token = match reduction {
            Reduction::AbsoluteSum => product.sum(D::Minus1)?.abs()?,
            Reduction::Sum => product.sum(D::Minus1)?,
            Reduction::Norm => product.sqr()?.sum(D::Minus1)?.sqrt()?,
        };
        saliency[layer] = per_token.to_vec1()?;
    }
    Ok(saliency)
}

/// The gradient of the sum of log p(next token) by the final hidden states.
fn loss_gradient(model: &Model, hidden: &Tensor, prompt: &[u32]) -> Result<Tensor> {
    let total = prompt.len();
    let mut parts = Vec::new();
    let mut start = 0;
    while start + 1 < total {
        let rows = LOSS_ROWS.min(total - 1 - start);
        let input = Var::from_tensor(&hidden.narrow(0, start, rows)?)?;
        let logits = reference::logits(model, &input)?;
        let targets = Tensor::new(&prompt[start + 1..start + 1 + rows], &Device::Cpu)?;
        let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        let loss = log_p.gather(&targets.unsqueeze(1)?, 1)?.sum_all()?;
        let grads = loss.backward()?;
        parts.push(grads.get(&input).expect("the loss depends on its input").detach());
        start += rows;
    }
    // Nothing follows the last token.
    parts.push(hidden.i(total - 1..)?.zeros_like()?);
    Ok(Tensor::cat(&parts, 0)?)
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
