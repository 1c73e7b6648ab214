//! Scorers that need neither training nor attention.

use candle_core::Tensor;
use salient::host::score;

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

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let keys = stage.keys()?;
        stage.verbs().keynorm(&keys)
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

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let seed = self.seed.wrapping_add((stage.index() as u64) << 32);
        let longest = stage.prompt_lens().iter().copied().max().unwrap_or(0);
        let positions: Vec<i32> = (0..longest as i32).collect();
        let mut scores = vec![0.0; longest];
        score::random(seed, &positions, &mut scores)?;
        let known: Vec<&[f32]> = stage.prompt_lens().iter().map(|&len| &scores[..len]).collect();
        stage.by_position(&known)
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

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let mut scores = vec![0.0; stage.rows().total()];
        score::position(stage.rows(), &mut scores)?;
        Ok(Tensor::new(scores, stage.model().device())?)
    }
}
