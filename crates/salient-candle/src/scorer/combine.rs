//! Scorers made of others.

use candle_core::Tensor;
use salient::schedule::Plan;

use super::{Scorer, StageInput};
use crate::error::{Error, Result};
use crate::model::Model;

/// One scorer at the stages below a layer, another from it on.
pub struct FromLayer {
    /// The first layer whose stage is the later scorer's.
    pub layer: usize,
    /// Scores before.
    pub earlier: Box<dyn Scorer>,
    /// Scores from there on.
    pub later: Box<dyn Scorer>,
}

impl Scorer for FromLayer {
    fn name(&self) -> String {
        format!("{}, from layer {} {}", self.earlier.name(), self.layer, self.later.name())
    }

    fn prepare(&mut self, model: &Model, prompts: &[Vec<u32>], plan: &Plan) -> Result<()> {
        self.earlier.prepare(model, prompts, plan)?;
        self.later.prepare(model, prompts, plan)
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        if stage.layer() < self.layer { self.earlier.score(stage) } else { self.later.score(stage) }
    }
}

/// The sum of several scorers' percentile ranks, in which units and spread of their scores do not
/// count.
pub struct RankSum(pub Vec<Box<dyn Scorer>>);

impl Scorer for RankSum {
    fn name(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|scorer| scorer.name()).collect();
        names.join(" + ")
    }

    fn prepare(&mut self, model: &Model, prompts: &[Vec<u32>], plan: &Plan) -> Result<()> {
        self.0.iter_mut().try_for_each(|scorer| scorer.prepare(model, prompts, plan))
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let rows = stage.rows();
        let mut sum: Option<Tensor> = None;
        for scorer in &self.0 {
            let scores = scorer.score(stage)?;
            let ranks = stage.verbs().rank(&scores, rows)?;
            sum = Some(match sum {
                Some(sum) => (sum + ranks)?,
                None => ranks,
            });
        }
        sum.ok_or_else(|| Error::Scorer { scorer: self.name(), reason: "of no scorer".into() })
    }
}
