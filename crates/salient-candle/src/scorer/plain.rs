//! Scorers that need neither training nor attention.

use salient::host::score;
use salient::score::Per;

use super::{Scorer, StageInput};
use crate::error::Result;

/// Tokens with small keys matter (kvpress' key-norm rule): minus the key's L2 norm at the stage's
/// block, averaged over KV heads.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyNorm;

impl Scorer for KeyNorm {
    fn name(&self) -> String {
        "key-norm".into()
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; stage.rows().total()];
        stage.with_keys(|keys| score::keynorm(keys, Per::Token, &mut scores))??;
        Ok(scores)
    }
}

/// Uniformly random, by seed, stage and original position.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    /// The seed.
    pub seed: u64,
}

impl Scorer for Random {
    fn name(&self) -> String {
        "random".into()
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; stage.rows().total()];
        let seed = self.seed.wrapping_add((stage.index() as u64) << 32);
        score::random(seed, stage.positions(), &mut scores)?;
        Ok(scores)
    }
}

/// Later tokens first: with the schedule's sinks this keeps sinks and the most recent tokens
/// (StreamingLLM's rule).
#[derive(Debug, Clone, Copy, Default)]
pub struct Position;

impl Scorer for Position {
    fn name(&self) -> String {
        "sinks+recent".into()
    }

    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; stage.rows().total()];
        score::position(stage.rows(), &mut scores)?;
        Ok(scores)
    }
}
