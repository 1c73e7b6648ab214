//! Gradients through the whole frozen model, with tokens masked as predictors say.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Tensor, Var};
use rand::{Rng, RngExt};
use salient::schedule::Plan;

use super::Trainee;
use super::loss::Loss;

use salient_candle::reference;
use salient_candle::{Error, Model, Result};

/// What a masked pass is made of.
#[derive(Debug, Clone)]
pub struct MaskedText<'a> {
    /// The text.
    pub tokens: &'a [u32],
    /// The tokens whose loss counts.
    pub scored: Range<usize>,
    /// Stages, and which tokens they protect; of one sequence, as long as the text.
    pub plan: &'a Plan,
}

/// What the masked model's own output is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputLoss {
    /// The weight of the mean cross entropy (SDTP, equation 7).
    pub cross_entropy: f64,
    /// The weight of the mean Kullback-Leibler divergence from the unmasked model.
    pub distillation: f64,
    /// The temperature of the mask's relaxation.
    pub temperature: f64,
}

/// What a masked pass gives.
#[derive(Debug)]
pub struct MaskedPass {
    /// The mean cross entropy over the tokens that are scored and not masked before.
    pub cross_entropy: f64,
    /// The mean divergence over the same.
    pub distillation: f64,
    /// The sum of the stages' losses.
    pub stages: f64,
    /// The share of tokens alive behind every stage.
    pub alive: Vec<f64>,
    /// Gradients by the predictors' parts, by layer, in the order of [`Trainee::parts`].
    pub gradients: BTreeMap<usize, Vec<Tensor>>,
}

/// What a stage is judged by: its layer, the scores and the mask (1 for tokens kept) of the tokens
/// that came in alive and are not protected. Returns the loss by scores and the loss by mask.
pub type StageLoss<'a> = dyn Fn(usize, &[usize], &[f64], &[f64]) -> [Loss; 2] + 'a;

/// What a block, or the head, is given.
struct Input {
    hidden: Tensor,
    keep: Tensor,
}

/// A stage between the passes forward and backward.
struct Stage {
    layer: usize,
    /// What came in, detached.
    hidden: Tensor,
    keep: Tensor,
    noise: Tensor,
    protected: Tensor,
}

/// One pass forward and one backward through `model`: at every stage the predictor's scores and
/// logistic noise give each token that is alive and not protected a keep probability; the mask is
/// that rounded, its gradient the probability's own (straight-through). Masked tokens are no keys
/// to others (see [`reference::block_and_attention`]) and their own next tokens are not scored.
///
/// Like [`reference::gradients`] it goes block by block and computes again what is inside.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::UnknownToken`]; [`Error::Config`] for a plan of other lengths
/// or a stage without a predictor; those of candle.
pub fn masked_pass(
    model: &Model,
    predictors: &BTreeMap<usize, Trainee>,
    text: &MaskedText<'_>,
    output: &OutputLoss,
    stage_loss: &StageLoss<'_>,
    random: &mut impl Rng,
) -> Result<MaskedPass> {
    let tokens = text.tokens.len();
    if text.plan.lens() != [tokens] {
        let reason = format!("the plan is of lengths {:?}, the text of {tokens}", text.plan.lens());
        return Err(Error::Config { reason });
    }
    if tokens == 0 {
        return Err(Error::EmptyPrompt { sequence: 0 });
    }
    let pass = Pass { model, predictors, text, output, positions: (0..tokens as i32).collect() };
    let (inputs, stages) = pass.forward(random)?;
    pass.backward(inputs, stages, stage_loss)
}

struct Pass<'a> {
    model: &'a Model,
    predictors: &'a BTreeMap<usize, Trainee>,
    text: &'a MaskedText<'a>,
    output: &'a OutputLoss,
    positions: Vec<i32>,
}

impl Pass<'_> {
    /// The input of every block, and of the head; and the stages.
    fn forward(&self, random: &mut impl Rng) -> Result<(Vec<Input>, Vec<Stage>)> {
        let mut hidden = reference::embed(self.model, self.text.tokens)?;
        let device = self.model.device();
        let mut keep = Tensor::ones(self.positions.len(), DType::F32, device)?;
        let (mut inputs, mut stages) = (Vec::new(), Vec::new());
        for layer in 0..self.model.config().layers {
            if let Some((_, plan)) = self.text.plan.stage_at(layer) {
                let noise: Vec<f32> = self.positions.iter().map(|_| logistic(random)).collect();
                let protected: Vec<f32> = (0..self.positions.len())
                    .map(|token| {
                        let edges = &plan.edges[0];
                        let last = self.positions.len() - edges.recent.min(self.positions.len());
                        f32::from(token < edges.sinks || token >= last)
                    })
                    .collect();
                let stage = Stage {
                    layer,
                    hidden: hidden.clone(),
                    keep: keep.clone(),
                    noise: Tensor::new(noise, device)?,
                    protected: Tensor::new(protected, device)?,
                };
                keep = self.mask(&stage, &hidden, &keep)?.1.detach();
                stages.push(stage);
            }
            let next = self.block(layer, &hidden, &keep)?.detach();
            inputs.push(Input { hidden, keep: keep.clone() });
            hidden = next;
        }
        inputs.push(Input { hidden, keep });
        Ok((inputs, stages))
    }

    fn backward(
        &self,
        mut inputs: Vec<Input>,
        mut stages: Vec<Stage>,
        stage_loss: &StageLoss<'_>,
    ) -> Result<MaskedPass> {
        let last = inputs.pop().expect("the head's");
        let (cross_entropy, distillation, mut by_hidden) = self.judge(&last)?;
        let mut pass = MaskedPass {
            cross_entropy,
            distillation,
            stages: 0.0,
            alive: Vec::new(),
            gradients: BTreeMap::new(),
        };
        let mut by_keep = last.keep.zeros_like()?;
        for (layer, Input { hidden, keep }) in inputs.into_iter().enumerate().rev() {
            let (hidden, kept) = (Var::from_tensor(&hidden)?, Var::from_tensor(&keep)?);
            let output = self.block(layer, &hidden, &kept)?;
            let grads = (output * &by_hidden)?.sum_all()?.backward()?;
            by_hidden = grads.get(&hidden).expect("a block depends on its input").detach();
            by_keep = (by_keep + grads.get(&kept).expect("and on what is kept").detach())?;
            if let Some(stage) = stages.pop_if(|stage| stage.layer == layer) {
                let alive = keep.mean_all()?.to_scalar::<f32>()?;
                pass.alive.insert(0, alive.into());
                self.stage_backward(&stage, &mut by_hidden, &mut by_keep, stage_loss, &mut pass)?;
            }
            if stages.is_empty() {
                // Nothing to train below.
                break;
            }
        }
        Ok(pass)
    }

    fn stage_backward(
        &self,
        stage: &Stage,
        by_hidden: &mut Tensor,
        by_keep: &mut Tensor,
        stage_loss: &StageLoss<'_>,
        pass: &mut MaskedPass,
    ) -> Result<()> {
        let (hidden, keep) = (Var::from_tensor(&stage.hidden)?, Var::from_tensor(&stage.keep)?);
        let (scores, mask) = self.mask(stage, &hidden, &keep)?;
        let came: Vec<f32> = stage.keep.to_vec1()?;
        let protected: Vec<f32> = stage.protected.to_vec1()?;
        let ranked: Vec<usize> =
            (0..came.len()).filter(|&token| came[token] > 0.0 && protected[token] == 0.0).collect();
        let pick = |values: &Tensor| -> Result<Vec<f64>> {
            let values: Vec<f32> = values.to_vec1()?;
            Ok(ranked.iter().map(|&token| values[token].into()).collect())
        };
        let [by_score, by_mask] = stage_loss(stage.layer, &ranked, &pick(&scores)?, &pick(&mask)?);
        pass.stages += by_score.value + by_mask.value;
        let spread = |loss: Loss| {
            let mut slopes = vec![0f32; came.len()];
            for (&token, slope) in ranked.iter().zip(loss.gradient) {
                slopes[token] = slope as f32;
            }
            Tensor::new(slopes, self.model.device())
        };
        let through_mask = (mask * (&*by_keep + spread(by_mask)?)?)?.sum_all()?;
        let through_scores = (scores * spread(by_score)?)?.sum_all()?;
        let grads = (through_mask + through_scores)?.backward()?;
        let gradient = |var: &Var| match grads.get(var) {
            Some(gradient) => Ok(gradient.detach()),
            None => var.zeros_like(),
        };
        *by_hidden = (&*by_hidden + gradient(&hidden)?)?;
        *by_keep = gradient(&keep)?;
        let parts = self.predictor(stage.layer)?.parts();
        let gradients = parts.map(|(_, var)| gradient(var)).collect::<candle_core::Result<_>>()?;
        pass.gradients.insert(stage.layer, gradients);
        Ok(())
    }

    /// The scores of a stage, and the mask behind it.
    fn mask(&self, stage: &Stage, hidden: &Tensor, keep: &Tensor) -> Result<(Tensor, Tensor)> {
        let scores = self.predictor(stage.layer)?.scores(hidden)?;
        let soft = ((&scores + &stage.noise)? / self.output.temperature)?;
        let soft = candle_nn::ops::sigmoid(&soft)?;
        let hard = soft.ge(0.5)?.to_dtype(DType::F32)?;
        let straight = (hard - soft.detach())? + soft;
        let free = stage.protected.affine(-1.0, 1.0)?;
        let mask = (((keep * straight?)? * free)? + &stage.protected)?;
        Ok((scores, mask))
    }

    fn predictor(&self, layer: usize) -> Result<&Trainee> {
        self.predictors.get(&layer).ok_or_else(|| {
            let reason = format!("the stage at layer {layer} has no predictor");
            Error::Config { reason }
        })
    }

    fn block(&self, layer: usize, hidden: &Tensor, keep: &Tensor) -> Result<Tensor> {
        let window = self.model.config().window_at(layer);
        let mask = reference::causal_mask(&self.positions, &self.positions, window)?;
        let (model, positions) = (self.model, &self.positions);
        let block =
            reference::block_and_attention(model, layer, hidden, positions, &mask, Some(keep))?;
        Ok(block.0)
    }

    /// Mean cross entropy and divergence, and the gradient of their weighted sum by the final
    /// hidden states.
    fn judge(&self, Input { hidden, keep }: &Input) -> Result<(f64, f64, Tensor)> {
        let alive: Vec<f32> = keep.to_vec1()?;
        let scored = self.text.scored.start.max(1)..self.text.scored.end;
        let rows: Vec<usize> =
            scored.map(|token| token - 1).filter(|&row| alive[row] > 0.0).collect();
        let tokens = self.text.tokens;
        let (sum, mut gradient) =
            reference::head_gradient(self.model, hidden, &rows, |logits, rows| {
                Ok(reference::log_likelihood(logits, rows, tokens)?.sum_all()?.neg()?)
            })?;
        let share = 1.0 / rows.len().max(1) as f64;
        gradient = (gradient * (share * self.output.cross_entropy))?;
        let mut divergence = 0.0;
        if self.output.distillation > 0.0 {
            let teacher =
                reference::run(self.model, tokens, self.model.config().layers, |_, _| ())?;
            let (sum, slope) =
                reference::head_gradient(self.model, hidden, &rows, |logits, rows| {
                    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
                    let rows = teacher.index_select(&Tensor::new(rows, logits.device())?, 0)?;
                    let teacher = reference::logits(self.model, &rows)?;
                    divergence_of(logits, &teacher)
                })?;
            divergence = share * sum;
            gradient = (gradient + (slope * (share * self.output.distillation))?)?;
        }
        Ok((share * sum, divergence, gradient))
    }
}

/// The sum over rows of KL(teacher || student), from logits.
fn divergence_of(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let log = |logits: &Tensor| candle_nn::ops::log_softmax(logits, candle_core::D::Minus1);
    let teacher = log(teacher)?.detach();
    Ok((teacher.exp()? * (&teacher - log(student)?)?)?.sum_all()?)
}

/// The difference of two Gumbel variables.
fn logistic(random: &mut impl Rng) -> f32 {
    let uniform: f64 = random.random_range(f64::EPSILON..1.0);
    (uniform / (1.0 - uniform)).ln() as f32
}
