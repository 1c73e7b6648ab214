//! One item, dense and pruned.

use salient::schedule::Schedule;
use salient_candle::scorer::{Position, Scorer};
use salient_candle::{GenerateOptions, Loaded, Prefill, Sampling};
use salient_cli::eval::measure::{kl, nll, share_alive};
use salient_cli::eval::{NEEDLE_ANSWER, Outcome, StageShare};
use salient_cli::stats;

use super::items::{Posed, Then};

/// An item on a model. The dense run's logits are kept for the divergences, and computed when they
/// are first wanted.
pub(super) struct Runner<'a> {
    loaded: &'a Loaded,
    posed: &'a Posed,
    dense: Option<Vec<Vec<f32>>>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(loaded: &'a Loaded, posed: &'a Posed) -> Self {
        Self { loaded, posed, dense: None }
    }

    pub(super) fn dense(&mut self) -> anyhow::Result<Outcome> {
        let (prefill, answer) = self.prefill(&Schedule::dense(), &mut Position)?;
        let mut outcome = self.outcome(&Schedule::dense(), &prefill)?;
        match answer {
            Answer::Text(text) => self.judge(text, &mut outcome),
            Answer::Logits(logits) => {
                outcome.nll = Some(self.mean_nll(&logits)?);
                outcome.kl = Some(0.0);
                self.dense = Some(logits);
            }
        }
        Ok(outcome)
    }

    pub(super) fn pruned(
        &mut self,
        schedule: &Schedule,
        scorer: &mut dyn Scorer,
    ) -> anyhow::Result<Outcome> {
        let (prefill, answer) = self.prefill(schedule, scorer)?;
        let mut outcome = self.outcome(schedule, &prefill)?;
        match answer {
            Answer::Text(text) => self.judge(text, &mut outcome),
            Answer::Logits(logits) => {
                if self.dense.is_none() {
                    self.dense()?;
                }
                let dense = self.dense.iter().flatten();
                let divergences: Result<Vec<_>, _> =
                    dense.zip(&logits).map(|(dense, pruned)| kl(dense, pruned)).collect();
                outcome.nll = Some(self.mean_nll(&logits)?);
                outcome.kl = Some(stats::mean(&divergences?)?);
            }
        }
        Ok(outcome)
    }

    /// Reads the prompt, then answers or is led through what follows.
    fn prefill(
        &self,
        schedule: &Schedule,
        scorer: &mut dyn Scorer,
    ) -> anyhow::Result<(Prefill, Answer)> {
        let Loaded { model, tokenizer, .. } = self.loaded;
        let prompts = [self.posed.prompt.clone()];
        let plan = schedule.plan(&[prompts[0].len()], model.config().layers)?;
        match &self.posed.then {
            Then::Answer(_) => {
                let options = GenerateOptions {
                    max_tokens: NEEDLE_ANSWER,
                    stop: tokenizer.stop().to_vec(),
                    sampling: Sampling::default(),
                };
                let run =
                    salient_candle::generate(model, &prompts, &plan, scorer, &options, |_, _| {
                        true
                    })?;
                Ok((run.prefill, Answer::Text(tokenizer.decode(&run.tokens[0])?)))
            }
            Then::Forced(tokens) => {
                scorer.prepare(model, &prompts, &plan)?;
                let mut prefill = model.prefill(&prompts, &plan, scorer, tokens.len())?;
                let mut logits: Vec<Vec<f32>> = prefill.logits(model)?.to_vec2()?;
                // The last token is predicted, and predicts nothing that is asked for.
                if let [before @ .., _] = tokens.as_slice()
                    && !before.is_empty()
                {
                    let hidden = model.extend(&[before.to_vec()], &mut prefill.cache)?;
                    logits.extend(model.predict(&hidden)?.to_vec2::<f32>()?);
                }
                Ok((prefill, Answer::Logits(logits)))
            }
        }
    }

    fn outcome(&self, schedule: &Schedule, prefill: &Prefill) -> anyhow::Result<Outcome> {
        let tokens = self.posed.prompt.len();
        let plan = schedule.plan(&[tokens], self.loaded.model.config().layers)?;
        let survival = prefill.stages.iter().filter_map(|stage| {
            let share = share_alive(&self.posed.marked, &stage.kept_positions)?;
            Some(StageShare { layer: stage.layer, share })
        });
        Ok(Outcome {
            id: self.posed.id.clone(),
            prompt_tokens: tokens,
            work: plan.work(),
            final_keep: plan.final_keep(),
            answer: None,
            right: None,
            nll: None,
            kl: None,
            survival: survival.collect(),
            prefill_seconds: prefill.elapsed.as_secs_f64(),
        })
    }

    fn judge(&self, answer: String, outcome: &mut Outcome) {
        if let Then::Answer(wanted) = &self.posed.then {
            outcome.right = Some(answer.contains(wanted));
        }
        outcome.answer = Some(answer);
    }

    fn mean_nll(&self, logits: &[Vec<f32>]) -> anyhow::Result<f64> {
        let Then::Forced(tokens) = &self.posed.then else {
            unreachable!("logits are of forced ones")
        };
        let losses: Result<Vec<_>, _> =
            logits.iter().zip(tokens).map(|(logits, &token)| nll(logits, token)).collect();
        Ok(stats::mean(&losses?)?)
    }
}

/// What a run gave, by what was to follow the prompt.
enum Answer {
    Text(String),
    /// For every token that was to follow, the logits that predict it.
    Logits(Vec<Vec<f32>>),
}
