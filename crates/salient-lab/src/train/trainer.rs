//! Steps, evaluations on the held-out texts, and when to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use salient::schedule::Plan;

use super::loss::{Loss, keep_ratio};
use super::{
    AdamW, Marks, MaskedText, OutputLoss, RankMetrics, TrainOptions, Trainee, masked_pass,
};
use crate::error::{Error, Result};
use salient_candle::Model;
use salient_candle::reference;
use salient_candle::scorer::Scorer;

/// A text to train on or to hold out: what predictors see of it, and what they are to say.
#[derive(Debug)]
pub struct Sample {
    tokens: Vec<u32>,
    scored: Range<usize>,
    plan: Plan,
    /// What all tokens' scores are compared with at every stage.
    worth: BTreeMap<usize, Vec<f32>>,
    /// The unmasked model's hidden states on entry to every stage's block.
    hidden: BTreeMap<usize, Tensor>,
}

impl Sample {
    /// A text with its marks on entry to the stages of `options`, marked by `tokens[scored]`.
    ///
    /// # Errors
    /// [`Error::TextTooShort`] if the first stage would drop nothing; [`Error::Training`] for marks
    /// of other stages or another text, or that are not finite; those of a prefill.
    pub fn new(
        model: &Model,
        options: &TrainOptions,
        tokens: Vec<u32>,
        scored: Range<usize>,
        marks: &Marks,
    ) -> Result<Self> {
        let plan = options.schedule.plan(&[tokens.len()], model.config().layers)?;
        check_length(model, options, &plan)?;
        let mut worth = BTreeMap::new();
        for stage in plan.stages() {
            let marked = marks.get(stage.layer, options.target).unwrap_or_default();
            if marked.len() != tokens.len() {
                let (layer, marked, tokens) = (stage.layer, marked.len(), tokens.len());
                let reason = format!("layer {layer} has marks of {marked} tokens of {tokens}");
                return Err(Error::Training { reason });
            }
            if let Some(token) = marked.iter().position(|worth| !worth.is_finite()) {
                let (layer, worth) = (stage.layer, marked[token]);
                let reason = format!("layer {layer} has a mark of {worth}, at token {token}");
                return Err(Error::Training { reason });
            }
            worth.insert(stage.layer, options.contrasted(marked));
        }
        let stages: Vec<usize> = plan.stages().iter().map(|stage| stage.layer).collect();
        let hidden = reference::inputs(model, &tokens, &stages)?;
        Ok(Self { tokens, scored, plan, worth, hidden })
    }

    /// Its stages.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The tokens that a stage may drop, in the unmasked model.
    fn unprotected(&self, stage: usize) -> Range<usize> {
        let edges = self.plan.stages()[stage].edges[0];
        edges.sinks..self.tokens.len() - edges.recent
    }
}

/// Whether the first stage drops any of a text.
fn check_length(model: &Model, options: &TrainOptions, plan: &Plan) -> Result<()> {
    let drops = |plan: &Plan| {
        plan.stages().first().is_some_and(|stage| stage.rows.total() < plan.lens()[0])
    };
    if drops(plan) {
        return Ok(());
    }
    let (tokens, config) = (plan.lens()[0], model.config());
    for least in tokens + 1..=config.context {
        let longer = options.schedule.plan(&[least], config.layers)?;
        if drops(&longer) {
            let layer = longer.stages()[0].layer;
            return Err(Error::TextTooShort { tokens, layer, least });
        }
    }
    let reason = format!("the first stage of `{}` drops nothing of any text", options.schedule);
    Err(Error::Training { reason })
}

/// A run between two steps: everything that the next one depends on.
#[derive(Debug, Clone)]
pub struct Trainer {
    pub(super) options: TrainOptions,
    pub(super) predictors: BTreeMap<usize, Trainee>,
    pub(super) optimiser: AdamW,
    pub(super) progress: Progress,
    /// Those of the best evaluation so far in this phase.
    pub(super) best: BTreeMap<usize, Trainee>,
    /// Where it runs.
    device: Device,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Steps taken in it.
    pub step: usize,
    /// The best evaluation on the held-out texts in this phase: the mean pair accuracy over stages
    /// in the first, minus the mean loss in the second.
    pub best: Option<f64>,
    /// Evaluations since.
    pub evaluations_since: usize,
}

/// The two phases, and what comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Scores are fitted to marks.
    Fast,
    /// Through the masked model.
    Full,
    /// The run is over; the predictors are the best.
    Done,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Full => "full",
            Self::Done => "done",
        })
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The loss, averaged over the batch: of stages, and in the second phase of the output.
    pub loss: f64,
    /// The rate it went by.
    pub rate: f64,
    /// In the second phase, the share of tokens that the mask left behind every stage, averaged
    /// over the batch. It is the predictors' own: only the loss `keep_ratio` holds it to the
    /// schedule's.
    pub alive: Vec<f64>,
}

/// Rank metrics on the held-out texts, averaged over them, by layer.
pub type Evaluation = BTreeMap<usize, RankMetrics>;

impl Trainer {
    /// A run before its first step, where `model` is: on a CUDA device after [`Model::to_device`].
    /// The steps of all its methods are to be taken by one thread, and with that model.
    ///
    /// # Errors
    /// Those of [`TrainOptions::check`]; [`Error::Training`] for a schedule without stages in this
    /// model; those of candle.
    pub fn new(model: &Model, options: TrainOptions) -> Result<Self> {
        options.check()?;
        let config = model.config();
        // Longer than any protected edge: the stages are those of the layers alone.
        let plan = options.schedule.plan(&[config.context], config.layers)?;
        let mut predictors = BTreeMap::new();
        for stage in plan.stages() {
            let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(stage.layer as u64);
            let trainee = Trainee::new(model, options.width, options.norm, seed)?;
            predictors.insert(stage.layer, trainee);
        }
        if predictors.is_empty() {
            let reason = format!("`{}` has no stage in this model", options.schedule);
            return Err(Error::Training { reason });
        }
        let progress = Progress { phase: Phase::Fast, step: 0, best: None, evaluations_since: 0 };
        let best = copies(&predictors)?;
        let (optimiser, device) = (AdamW::default(), model.device().clone());
        let mut trainer = Self { options, predictors, optimiser, progress, best, device };
        trainer.end_empty_phases()?;
        Ok(trainer)
    }

    /// What the run is.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Where it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The layers of the stages.
    pub fn layers(&self) -> Vec<usize> {
        self.predictors.keys().copied().collect()
    }

    /// The predictors as they are now: at the end of a run, its best.
    pub fn predictors(&self) -> &BTreeMap<usize, Trainee> {
        &self.predictors
    }

    /// Takes one step. Which texts it is on follows from the seed and the step alone.
    ///
    /// # Errors
    /// [`Error::Diverged`], and then the run is as it was before; those of candle.
    ///
    /// # Panics
    /// If there are no samples, or the run is over.
    pub fn step(&mut self, model: &Model, samples: &[Sample]) -> Result<StepReport> {
        let steps = self.phase_steps().expect("the run goes on");
        let step = self.progress.step;
        let rate = steps.rate_at(step);
        let batch = self.batch(samples.len());
        let results: Vec<OnText> = match self.progress.phase {
            Phase::Fast => self.on_each(&batch, |&index| self.fast_step(&samples[index]))?,
            _ => batch
                .iter()
                .enumerate()
                .map(|(place, &index)| {
                    let draw = step * self.options.batch + place;
                    self.full_step(model, &samples[index], &mut self.random(Draw::Mask, draw))
                })
                .collect::<Result<_>>()?,
        };
        let share = 1.0 / results.len() as f64;
        let loss = share * results.iter().map(|text| text.loss).sum::<f64>();
        if !loss.is_finite() {
            return Err(Error::Diverged { phase: self.progress.phase, step, loss });
        }
        let mut alive = vec![0.0; results[0].alive.len()];
        let mut sums = Gradients::new();
        for text in results {
            alive.iter_mut().zip(&text.alive).for_each(|(sum, alive)| *sum += share * alive);
            for (key, gradient) in text.gradients {
                let gradient = (gradient * share)?;
                let sum = match sums.remove(&key) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                };
                sums.insert(key, sum);
            }
        }
        let predictors = &self.predictors;
        let weights = sums.into_iter().map(|((layer, part), gradient)| {
            let var = predictors[&layer].part(part).expect("gradients are of parts");
            (weight_name(layer, part), var, gradient)
        });
        self.optimiser.update(weights, rate, self.options.decay)?;
        self.progress.step += 1;
        Ok(StepReport { loss, rate, alive })
    }

    /// Whether it is time for [`Trainer::evaluate`].
    pub fn is_due(&self) -> bool {
        self.phase_steps().is_some_and(|steps| {
            let step = self.progress.step;
            step == steps.steps || step.is_multiple_of(self.options.evaluate_every)
        })
    }

    /// Evaluates on the held-out texts, keeps the best, and ends the phase where it is time: its
    /// steps are taken, or `patience` evaluations brought nothing.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a score is NaN or the loss of the second phase is not finite; those
    /// of candle.
    pub fn evaluate(&mut self, model: &Model, held_out: &[Sample]) -> Result<Evaluation> {
        let evaluation = self.metrics(held_out)?;
        let merit = match self.progress.phase {
            Phase::Full => {
                let loss = self.mean_loss(model, held_out)?;
                if !loss.is_finite() {
                    let Progress { phase, step, .. } = self.progress;
                    return Err(Error::Diverged { phase, step, loss });
                }
                -loss
            }
            _ => {
                evaluation.values().map(|m| m.pair_accuracy).sum::<f64>() / evaluation.len() as f64
            }
        };
        if self.progress.best.is_none_or(|best| merit > best) {
            self.progress.best = Some(merit);
            self.progress.evaluations_since = 0;
            self.best = copies(&self.predictors)?;
        } else {
            self.progress.evaluations_since += 1;
        }
        let over = self.phase_steps().is_none_or(|steps| self.progress.step >= steps.steps);
        if over || self.progress.evaluations_since >= self.options.patience {
            self.end_phase()?;
        }
        Ok(evaluation)
    }

    /// Rank metrics on texts, averaged over them, by layer.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a score is NaN; those of candle.
    pub fn metrics(&self, samples: &[Sample]) -> Result<Evaluation> {
        self.ranked(samples, |_, layer, sample| {
            Ok(self.predictors[&layer].scores(&sample.hidden[&layer])?.to_vec1()?)
        })
    }

    /// As [`Trainer::metrics`], of another scorer's scores on the same texts for the same target:
    /// what predictors are to be compared with. It sees the unmasked model's hidden states at every
    /// stage, and runs on the host, where `model` must be, wherever the run is.
    ///
    /// # Errors
    /// As [`Trainer::metrics`], and those of the scorer.
    pub fn metrics_of(
        &self,
        scorer: &dyn Scorer,
        model: &Model,
        samples: &[Sample],
    ) -> Result<Evaluation> {
        self.ranked(samples, |index, layer, sample| {
            let hidden = sample.hidden[&layer].to_device(model.device())?;
            Ok(model.score(scorer, index, layer, &[sample.tokens.len()], &hidden)?.to_vec1()?)
        })
    }

    /// Rank metrics of scores, given those of all tokens by a stage's index and layer and a text.
    fn ranked(
        &self,
        samples: &[Sample],
        scores: impl Fn(usize, usize, &Sample) -> Result<Vec<f32>> + Sync,
    ) -> Result<Evaluation> {
        let mut evaluation = Evaluation::new();
        for (index, &layer) in self.predictors.keys().enumerate() {
            let of_texts = self.on_each(samples, |sample| {
                let free = sample.unprotected(index);
                let scores = scores(index, layer, sample)?;
                if scores.iter().any(|score| score.is_nan()) {
                    let Progress { phase, step, .. } = self.progress;
                    return Err(Error::Diverged { phase, step, loss: f64::NAN });
                }
                let worth = &sample.worth[&layer][free.clone()];
                let stage = &sample.plan.stages()[index];
                let protected = sample.tokens.len() - free.len();
                let keep = stage.rows.total().saturating_sub(protected);
                Ok(RankMetrics::new(&scores[free], worth, keep))
            })?;
            evaluation.insert(layer, RankMetrics::mean(&of_texts));
        }
        Ok(evaluation)
    }

    /// What `run` makes of each, side by side on the host. On a CUDA device every thread has a
    /// stream of its own, which would not wait for what the others have under way, so there it is
    /// one by one.
    fn on_each<I: Sync, T: Send>(
        &self,
        items: &[I],
        run: impl Fn(&I) -> Result<T> + Sync + Send,
    ) -> Result<Vec<T>> {
        if self.device.is_cpu() {
            items.par_iter().map(run).collect()
        } else {
            items.iter().map(run).collect()
        }
    }

    /// The loss of the second phase, always with the same noise.
    fn mean_loss(&self, model: &Model, samples: &[Sample]) -> Result<f64> {
        let mut sum = 0.0;
        for (index, sample) in samples.iter().enumerate() {
            sum += self.full_step(model, sample, &mut self.random(Draw::Evaluation, index))?.loss;
        }
        Ok(sum / samples.len() as f64)
    }

    fn phase_steps(&self) -> Option<super::Steps> {
        match self.progress.phase {
            Phase::Fast => Some(self.options.fast),
            Phase::Full => Some(self.options.full),
            Phase::Done => None,
        }
    }

    fn end_phase(&mut self) -> Result<()> {
        let next = match self.progress.phase {
            Phase::Fast => Phase::Full,
            _ => Phase::Done,
        };
        self.predictors = copies(&self.best)?;
        self.optimiser = AdamW::default();
        self.progress = Progress { phase: next, step: 0, best: None, evaluations_since: 0 };
        self.end_empty_phases()
    }

    fn end_empty_phases(&mut self) -> Result<()> {
        if self.phase_steps().is_some_and(|steps| steps.steps == 0) {
            self.end_phase()?;
        }
        Ok(())
    }

    /// The texts of the next step: every epoch takes each once, in an order of its own.
    fn batch(&self, samples: usize) -> Vec<usize> {
        let first = self.progress.step * self.options.batch;
        (first..first + self.options.batch)
            .map(|index| {
                let (epoch, place) = (index / samples, index % samples);
                let mut order: Vec<usize> = (0..samples).collect();
                order.shuffle(&mut self.random(Draw::Order, epoch));
                order[place]
            })
            .collect()
    }

    /// Random numbers that depend on the seed, the phase, what they are for and its number alone.
    fn random(&self, draw: Draw, number: usize) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.options.seed);
        let phase = u64::from(self.progress.phase == Phase::Full);
        random.set_stream((number as u64) << 3 | (draw as u64) << 1 | phase);
        random
    }

    fn fast_step(&self, sample: &Sample) -> Result<OnText> {
        let (mut sum, mut gradients) = (0.0, Gradients::new());
        for (index, (&layer, trainee)) in self.predictors.iter().enumerate() {
            let free = sample.unprotected(index);
            let hidden = sample.hidden[&layer].narrow(0, free.start, free.len())?;
            let scores = trainee.scores(&hidden)?;
            let values: Vec<f64> = doubles(&scores.to_vec1()?);
            let worth = doubles(&sample.worth[&layer][free]);
            let Loss { value, gradient } = self.options.loss(&values, &worth);
            sum += value;
            let slope: Vec<f32> = gradient.iter().map(|&slope| slope as f32).collect();
            let grads = (&scores * Tensor::new(slope, scores.device())?)?.sum_all()?.backward()?;
            for (part, var) in trainee.parts() {
                let gradient = grads.get(var).expect("scores depend on every part");
                gradients.insert((layer, part), gradient.detach());
            }
        }
        Ok(OnText { loss: sum, gradients, alive: Vec::new() })
    }

    fn full_step(&self, model: &Model, sample: &Sample, random: &mut ChaCha8Rng) -> Result<OnText> {
        let (options, losses) = (&self.options, &self.options.losses);
        let text = MaskedText {
            tokens: &sample.tokens,
            scored: sample.scored.clone(),
            plan: &sample.plan,
        };
        let output = OutputLoss {
            cross_entropy: losses.cross_entropy,
            distillation: losses.distillation,
            temperature: options.temperature,
        };
        let stage_loss = |layer: usize, tokens: &[usize], scores: &[f64], mask: &[f64]| {
            let all = &sample.worth[&layer];
            let worth: Vec<f64> = tokens.iter().map(|&token| all[token].into()).collect();
            let (_, stage) = sample.plan.stage_at(layer).expect("the pass is over these stages");
            let protected = sample.tokens.len().min(stage.edges[0].sinks + stage.edges[0].recent);
            let ratio =
                stage.rows.total().saturating_sub(protected) as f64 / tokens.len().max(1) as f64;
            let mut kept = keep_ratio(mask, ratio.min(1.0));
            kept.value *= losses.keep_ratio;
            kept.gradient.iter_mut().for_each(|slope| *slope *= losses.keep_ratio);
            [options.loss(scores, &worth), kept]
        };
        let pass = masked_pass(model, &self.predictors, &text, &output, &stage_loss, random)?;
        let loss = losses.cross_entropy * pass.cross_entropy
            + losses.distillation * pass.distillation
            + pass.stages;
        let mut gradients = Gradients::new();
        for (layer, parts) in pass.gradients {
            let names = self.predictors[&layer].parts().map(|(part, _)| (layer, part));
            gradients.extend(names.zip(parts));
        }
        Ok(OnText { loss, gradients, alive: pass.alive })
    }
}

/// What a step has of one text.
struct OnText {
    loss: f64,
    gradients: Gradients,
    alive: Vec<f64>,
}

/// What random numbers are drawn for.
#[derive(Clone, Copy)]
enum Draw {
    Order,
    Mask,
    Evaluation,
}

/// Gradients by layer and part.
type Gradients = BTreeMap<(usize, &'static str), Tensor>;

/// The name of a weight in files.
pub(super) fn weight_name(layer: usize, part: &str) -> String {
    format!("stage.{layer}.{part}")
}

pub(super) fn copies(predictors: &BTreeMap<usize, Trainee>) -> Result<BTreeMap<usize, Trainee>> {
    predictors.iter().map(|(&layer, trainee)| Ok((layer, trainee.copy()?))).collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}
