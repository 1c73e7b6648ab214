//! Token scorers: at a stage, one score per token that came in; the highest stay.

mod attention;
mod combine;
mod learned;
mod plain;

use candle_core::Tensor;
use salient::Ragged;
use salient::schedule::Plan;

use crate::backend::{Timestamp, Verbs};
use crate::error::Result;
use crate::forward::StageTokens;
use crate::model::{Model, Projection};

pub use attention::{AttentionRule, LastQuery, Window, WindowLength};
pub use combine::{FromLayer, RankSum};
pub use learned::{Learned, METADATA, PredictorInfo, floats, said};
pub use plain::{KeyNorm, Position, Random};

/// Says how much each token matters at a stage.
pub trait Scorer: Send + Sync {
    /// A short name for reports.
    fn name(&self) -> String;

    /// Called once per batch before its prefill. Scorers that look ahead do their work here.
    ///
    /// # Errors
    /// Whatever keeps the scorer from serving these prompts.
    fn prepare(&mut self, model: &Model, prompts: &[Vec<u32>], plan: &Plan) -> Result<()> {
        let _ = (model, prompts, plan);
        Ok(())
    }

    /// One score per token in `stage`, f32 `[tokens]`, packed, where the model is. Protected tokens
    /// stay whatever their score.
    ///
    /// # Errors
    /// Whatever keeps the scorer from scoring.
    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor>;
}

/// What a scorer sees on entry to a block. All of it is where the model is, and need not be read
/// from there.
pub struct StageInput<'a> {
    model: &'a Model,
    verbs: &'a mut dyn Verbs,
    tokens: StageTokens<'a>,
    /// The block's keys, and the time that it took to compute them.
    keys: Option<(Tensor, [Timestamp; 2])>,
}

impl<'a> StageInput<'a> {
    pub(crate) fn new(model: &'a Model, verbs: &'a mut dyn Verbs, tokens: StageTokens<'a>) -> Self {
        Self { model, verbs, tokens, keys: None }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The verbs of the device that the model is on.
    pub fn verbs(&mut self) -> &mut dyn Verbs {
        self.verbs
    }

    /// The stage's place among the stages, from 0.
    pub fn index(&self) -> usize {
        self.tokens.index
    }

    /// The block about to run.
    pub fn layer(&self) -> usize {
        self.tokens.layer
    }

    /// The lengths of the prompts before anything was dropped.
    pub fn prompt_lens(&self) -> &'a [usize] {
        self.tokens.prompt_lens
    }

    /// The sequences' tokens still alive.
    pub fn rows(&self) -> &'a Ragged {
        self.tokens.rows
    }

    /// Their original positions, packed, u32 `[tokens]`.
    pub fn positions(&self) -> &'a Tensor {
        self.tokens.positions
    }

    /// The hidden states, `[tokens, hidden]`.
    pub fn hidden(&self) -> &'a Tensor {
        self.tokens.hidden
    }

    /// The block's own keys of every token, rotated, `[tokens, kv_heads, head_dim]`. Computed once,
    /// and reused by the block for the tokens that stay.
    ///
    /// # Errors
    /// Those of candle.
    pub fn keys(&mut self) -> Result<Tensor> {
        if let Some((keys, _)) = &self.keys {
            return Ok(keys.clone());
        }
        let block = &self.model.blocks()[self.layer()];
        let StageTokens { normed, positions, .. } = self.tokens;
        let start = self.verbs.timestamp()?;
        let keys = self.model.project(self.verbs, block, Projection::Key, normed, positions)?;
        self.keys = Some((keys.clone(), [start, self.verbs.timestamp()?]));
        Ok(keys)
    }

    /// The block's own queries of the last tokens of every sequence, rotated, `[asking, heads,
    /// head_dim]`, and how they are packed: `lens[i]` of sequence `i`.
    ///
    /// # Errors
    /// Those of candle, and of `lens` that exceed the sequences'.
    pub fn last_queries(&mut self, lens: &[usize]) -> Result<(Tensor, Ragged)> {
        let queries = Ragged::from_lens(lens)?;
        let mut rows = Vec::with_capacity(queries.total());
        for (span, &len) in self.rows().spans().zip(lens) {
            let start = span.len.checked_sub(len).ok_or(salient::Error::LengthMismatch {
                what: "queries of a sequence",
                expected: span.len,
                actual: len,
            })?;
            rows.extend((span.start + start) as u32..span.end() as u32);
        }
        let StageTokens { normed, positions, .. } = self.tokens;
        let rows = Tensor::new(rows, normed.device())?;
        let (normed, positions) =
            (normed.index_select(&rows, 0)?, positions.index_select(&rows, 0)?);
        let block = &self.model.blocks()[self.layer()];
        let q = self.model.project(self.verbs, block, Projection::Query, &normed, &positions)?;
        Ok((q, queries))
    }

    /// Scores that are known beforehand for every token of the prompts: `known[i]` has those of
    /// sequence `i` by position.
    ///
    /// # Errors
    /// [`salient::Error::LengthMismatch`] if they are not as many as the prompts' tokens, and those
    /// of candle.
    pub fn by_position(&self, known: &[impl AsRef<[f32]>]) -> Result<Tensor> {
        let lens: Vec<usize> = known.iter().map(|scores| scores.as_ref().len()).collect();
        if lens != self.prompt_lens() {
            return Err(salient::Error::LengthMismatch {
                what: "scores of the prompts' tokens",
                expected: self.prompt_lens().iter().sum(),
                actual: lens.iter().sum(),
            }
            .into());
        }
        let prompts = Ragged::from_lens(&lens)?;
        let starts = prompts.spans().zip(self.rows().lens());
        let starts: Vec<u32> =
            starts.flat_map(|(span, len)| std::iter::repeat_n(span.start as u32, len)).collect();
        let all: Vec<f32> = known.iter().flat_map(|scores| scores.as_ref()).copied().collect();
        let device = self.model.device();
        let places = (self.positions() + Tensor::new(starts, device)?)?;
        Ok(Tensor::new(all, device)?.index_select(&places, 0)?)
    }

    pub(crate) fn into_keys(self) -> (Option<Tensor>, Option<[Timestamp; 2]>) {
        self.keys.unzip()
    }
}
