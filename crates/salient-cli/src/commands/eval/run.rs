//! One item, dense and pruned.

use candle_core::{DType, Tensor};
use salient::cost::{self, Convention};
use salient::schedule::{Plan, Schedule};
use salient_candle::scorer::{Position, Scorer};
use salient_candle::{GenerateOptions, Loaded, Prefill, Sampling, StageReport};
use salient_lab::eval::measure::{kl, nll, share_alive};
use salient_lab::eval::{NEEDLE_ANSWER, Outcome, StageShare};
use salient_lab::stats;

use super::items::{Asked, Posed, Then};

/// An item on a model. The dense run is kept for the comparisons, and made when it is first wanted.
pub(super) struct Runner<'a> {
    loaded: &'a Loaded,
    posed: &'a Posed,
    dense: Option<Run>,
}

/// A prefill and what followed it.
struct Run {
    plan: Plan,
    stages: Vec<StageReport>,
    seconds: f64,
    /// One per thing asked.
    answers: Vec<Answer>,
}

/// What a run gave, by what was to follow.
enum Answer {
    Text(String),
    /// For every token that was to follow, the logits that predict it.
    Logits(Vec<Vec<f32>>),
}

impl<'a> Runner<'a> {
    pub(super) fn new(loaded: &'a Loaded, posed: &'a Posed) -> Self {
        Self { loaded, posed, dense: None }
    }

    pub(super) fn dense(&mut self) -> anyhow::Result<Outcome> {
        let dense = self.run(&Schedule::dense(), &mut Position)?;
        let outcome = self.outcome(&dense, &dense);
        self.dense = Some(dense);
        outcome
    }

    pub(super) fn pruned(
        &mut self,
        schedule: &Schedule,
        scorer: &mut dyn Scorer,
    ) -> anyhow::Result<Outcome> {
        let dense = match self.dense.take() {
            Some(dense) => dense,
            None => self.run(&Schedule::dense(), &mut Position)?,
        };
        let pruned = self.run(schedule, scorer)?;
        let outcome = self.outcome(&pruned, &dense);
        self.dense = Some(dense);
        outcome
    }

    /// Reads the prompt once, then answers everything that is asked of it.
    fn run(&self, schedule: &Schedule, scorer: &mut dyn Scorer) -> anyhow::Result<Run> {
        let Posed { prompt, asked, .. } = self.posed;
        let model = &self.loaded.model;
        let plan = schedule.plan(&[prompt.len()], model.config().layers)?;
        let prompts = [prompt.clone()];
        scorer.prepare(model, &prompts, &plan)?;
        let reserve = asked.iter().map(Asked::reserve).max().unwrap_or_default();
        let prefill = model.prefill(&prompts, &plan, scorer, reserve)?;
        let answers: anyhow::Result<_> =
            asked.iter().map(|asked| self.answer(&prefill, asked)).collect();
        let seconds = prefill.elapsed.as_secs_f64();
        Ok(Run { plan, stages: prefill.stages, seconds, answers: answers? })
    }

    /// Answers, or is led through what follows, and leaves the prefill as it was.
    fn answer(&self, prefill: &Prefill, asked: &Asked) -> anyhow::Result<Answer> {
        let Loaded { model, tokenizer, .. } = self.loaded;
        let mut cache = prefill.cache.copy()?;
        let logits = match asked.given.len().checked_sub(1) {
            None => prefill.logits(model)?,
            Some(last) => {
                let hidden = model.extend(std::slice::from_ref(&asked.given), &mut cache)?;
                model.predict(&hidden.narrow(0, last, 1)?)?
            }
        };
        match &asked.then {
            Then::Answer(_) => {
                let options = GenerateOptions {
                    max_tokens: NEEDLE_ANSWER,
                    stop: tokenizer.stop().to_vec(),
                    sampling: Sampling::default(),
                };
                let on = |_, _| true;
                let answer = salient_candle::answer(model, &logits, &mut cache, &options, on)?;
                Ok(Answer::Text(tokenizer.decode(&answer.tokens[0])?))
            }
            Then::Forced(tokens) => {
                let rows = |logits: Tensor| logits.to_dtype(DType::F32)?.to_vec2::<f32>();
                let mut logits = rows(logits)?;
                // The last token is predicted, and predicts nothing that is asked for.
                if let [before @ .., _] = tokens.as_slice()
                    && !before.is_empty()
                {
                    let hidden = model.extend(&[before.to_vec()], &mut cache)?;
                    logits.extend(rows(model.predict(&hidden)?)?);
                }
                Ok(Answer::Logits(logits))
            }
        }
    }

    fn outcome(&self, run: &Run, dense: &Run) -> anyhow::Result<Outcome> {
        let plan = &run.plan;
        let shape = self.loaded.model.config().shape();
        let operations = |plan: &Plan| cost::prefill(&shape, plan, &Convention::default());
        // What an element takes does not change the share.
        let bytes = |plan: &Plan| cost::kv_bytes(&shape, plan, 1);
        let mut survival = Vec::new();
        for stage in &run.stages {
            let kept: Vec<u32> = stage.kept_positions.to_vec1()?;
            if let Some(share) = share_alive(&self.posed.marked, &kept) {
                survival.push(StageShare { layer: stage.layer, share });
            }
        }
        let mut outcome = Outcome {
            id: self.posed.id.clone(),
            prompt_tokens: self.posed.prompt.len(),
            work: plan.work(),
            final_keep: plan.final_keep(),
            flops_saved: 1.0 - operations(plan)?.total() / operations(&dense.plan)?.total(),
            kv_kept: bytes(plan)? as f64 / bytes(&dense.plan)? as f64,
            answer: None,
            right: None,
            nll: None,
            kl: None,
            survival,
            prefill_seconds: run.seconds,
            speedup: dense.seconds / run.seconds,
        };
        let (mut losses, mut divergences) = (Vec::new(), Vec::new());
        for ((asked, answer), dense) in
            self.posed.asked.iter().zip(&run.answers).zip(&dense.answers)
        {
            match (&asked.then, answer, dense) {
                (Then::Answer(wanted), Answer::Text(text), _) => {
                    outcome.right = Some(text.contains(wanted));
                    outcome.answer = Some(text.clone());
                }
                (Then::Forced(tokens), Answer::Logits(logits), Answer::Logits(dense)) => {
                    let lost = logits.iter().zip(tokens).map(|(logits, &token)| nll(logits, token));
                    let apart = dense.iter().zip(logits).map(|(dense, pruned)| kl(dense, pruned));
                    losses.push(mean(lost)?);
                    divergences.push(mean(apart)?);
                }
                _ => unreachable!("an answer is of the kind that was asked for"),
            }
        }
        if !losses.is_empty() {
            outcome.nll = Some(stats::mean(&losses)?);
            outcome.kl = Some(stats::mean(&divergences)?);
        }
        Ok(outcome)
    }
}

fn mean(values: impl Iterator<Item = salient_lab::Result<f64>>) -> salient_lab::Result<f64> {
    stats::mean(&values.collect::<Result<Vec<_>, _>>()?)
}
