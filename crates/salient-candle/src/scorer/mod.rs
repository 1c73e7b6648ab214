//! Token scorers: at a stage, one score per token that came in; the highest stay.

mod attention;
mod combine;
mod learned;
mod oracle;
mod plain;

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use salient::schedule::Plan;
use salient::{Ragged, View};

use crate::error::Result;
use crate::model::{Model, Projection};
use crate::ops::{Heads, f32_slice};

pub use attention::{AttentionRule, LastQuery, Window, WindowLength};
pub use combine::{FromLayer, RankSum};
pub use learned::{Learned, PredictorInfo};
pub(crate) use learned::{METADATA, floats, said};
pub use oracle::Oracle;
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

    /// One score per token in `stage`, packed. Protected tokens stay whatever their score.
    ///
    /// # Errors
    /// Whatever keeps the scorer from scoring.
    fn score(&self, stage: &StageInput<'_>) -> Result<Vec<f32>>;
}

/// What a scorer sees on entry to a block.
#[derive(Debug)]
pub struct StageInput<'a> {
    model: &'a Model,
    index: usize,
    layer: usize,
    rows: &'a Ragged,
    positions: &'a [i32],
    hidden: &'a Tensor,
    normed: &'a Tensor,
    /// The block's keys, and the time that it took to compute them.
    keys: OnceCell<(Heads, Duration)>,
}

impl<'a> StageInput<'a> {
    pub(crate) fn new(
        model: &'a Model,
        index: usize,
        layer: usize,
        rows: &'a Ragged,
        positions: &'a [i32],
        hidden: &'a Tensor,
        normed: &'a Tensor,
    ) -> Self {
        Self { model, index, layer, rows, positions, hidden, normed, keys: OnceCell::new() }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The stage's place among the stages, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The block about to run.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The sequences' tokens still alive.
    pub fn rows(&self) -> &'a Ragged {
        self.rows
    }

    /// Their original positions, packed.
    pub fn positions(&self) -> &'a [i32] {
        self.positions
    }

    /// Runs `read` on the hidden states, `[tokens, hidden]`.
    ///
    /// # Errors
    /// If the hidden states are not in host memory.
    pub fn with_hidden<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
        f32_slice(self.hidden, read)
    }

    /// Runs `read` on the block's own keys of every token, rotated. Computed once, and reused by
    /// the block for the tokens that stay.
    ///
    /// # Errors
    /// Those of candle.
    pub fn with_keys<R>(&self, read: impl FnOnce(View<'_, f32>) -> R) -> Result<R> {
        if self.keys.get().is_none() {
            let block = &self.model.blocks()[self.layer];
            let clock = Instant::now();
            let keys = self.model.project(block, Projection::Key, self.normed, self.positions)?;
            // The cell was empty a line ago, and it is not shared.
            let _ = self.keys.set((keys, clock.elapsed()));
        }
        match self.keys.get() {
            Some((keys, _)) => keys.view(read),
            None => unreachable!("the keys were just set"),
        }
    }

    /// Runs `read` on the block's own queries of the last tokens of every sequence, rotated:
    /// `lens[i]` of sequence `i`.
    ///
    /// # Errors
    /// Those of candle, and of `lens` that exceed the sequences'.
    pub fn with_last_queries<R>(
        &self,
        lens: &[usize],
        read: impl FnOnce(View<'_, f32>, &Ragged) -> R,
    ) -> Result<R> {
        let queries = Ragged::from_lens(lens)?;
        let mut rows = Vec::with_capacity(queries.total());
        for (span, &len) in self.rows.spans().zip(lens) {
            let start = span.len.checked_sub(len).ok_or(salient::Error::LengthMismatch {
                what: "queries of a sequence",
                expected: span.len,
                actual: len,
            })?;
            rows.extend((span.start + start) as u32..span.end() as u32);
        }
        let positions: Vec<i32> = rows.iter().map(|&row| self.positions[row as usize]).collect();
        let rows = Tensor::new(rows, self.normed.device())?;
        let normed = self.normed.index_select(&rows, 0)?;
        let block = &self.model.blocks()[self.layer];
        let q = self.model.project(block, Projection::Query, &normed, &positions)?;
        q.view(|q| read(q, &queries))
    }

    pub(crate) fn into_keys(self) -> (Option<Heads>, Duration) {
        match self.keys.into_inner() {
            Some((keys, time)) => (Some(keys), time),
            None => (None, Duration::ZERO),
        }
    }
}
