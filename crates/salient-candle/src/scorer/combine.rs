//! Scorers made of others.

use salient::schedule::Plan;

use super::{Scorer, StageInput};
use crate::error::Result;
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

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
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

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let mut sums = vec![0.0; stage.rows().total()];
        for scorer in &self.0 {
            let scores = scorer.score(stage)?;
            for span in stage.rows().spans() {
                add_ranks(&scores[span.range()], &mut sums[span.range()]);
            }
        }
        Ok(sums)
    }
}

/// Adds the share of a sequence's scores that are lower than each; of NaN, NaN.
fn add_ranks(scores: &[f32], sums: &mut [f32]) {
    let mut ascending = scores.to_vec();
    ascending.sort_unstable_by(f32::total_cmp);
    for (sum, score) in sums.iter_mut().zip(scores) {
        let lower = ascending.partition_point(|other| other < score);
        *sum += if score.is_nan() { f32::NAN } else { lower as f32 / scores.len() as f32 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_shares_of_what_is_lower() {
        let mut sums = [0.0; 4];
        add_ranks(&[3.0, -1.0, 3.0, 100.0], &mut sums);
        assert_eq!(sums, [0.25, 0.0, 0.25, 0.75]);
        add_ranks(&[0.0, f32::NEG_INFINITY, f32::NAN, 0.0], &mut sums);
        assert_eq!(sums[..2], [0.5, 0.0]);
        assert!(sums[2].is_nan() && sums[3] == 1.0);
    }
}
