//! Scorers from the attention of the last queries at the stage's block. Training-free, and they
//! know the question if it comes last.

use candle_core::Tensor;
use salient::Ragged;
use salient::score::{AttentionScore, HeadReduce, Per, Pool, PoolKind, QueryWeights};

use super::{Scorer, StageInput};
use crate::error::Result;

/// How the attention of several heads becomes one score per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionRule {
    /// How heads are combined.
    pub heads: HeadReduce,
    /// Average pooling along tokens, of this odd width; 1 for none.
    pub pool: usize,
}

impl AttentionRule {
    fn params(&self, scale: f32, query_weights: QueryWeights) -> AttentionScore {
        AttentionScore {
            scale,
            heads: self.heads,
            per: Per::Token,
            pool: (self.pool > 1).then_some(Pool { kind: PoolKind::Average, width: self.pool }),
            query_weights,
        }
    }

    fn describe(&self, base: &str) -> String {
        let heads = match self.heads {
            HeadReduce::Mean => "mean",
            HeadReduce::Max => "max",
            HeadReduce::MaxNormalised => "max-normalised",
        };
        match self.pool {
            0 | 1 => format!("{base}:{heads}"),
            width => format!("{base}:{heads}:{width}"),
        }
    }
}

/// Attention from the last token. Mean over heads without pooling is the rule of LazyLLM
/// (arXiv 2407.14057) and FastV; the maximum over heads, pooled, is much the stronger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastQuery {
    /// How heads are combined.
    pub rule: AttentionRule,
}

impl LastQuery {
    /// Mean over heads, unpooled: LazyLLM's and FastV's rule.
    pub fn lazyllm() -> Self {
        Self { rule: AttentionRule { heads: HeadReduce::Mean, pool: 1 } }
    }
}

impl Default for LastQuery {
    /// Maximum over heads, averaged over 17 tokens.
    fn default() -> Self {
        Self { rule: AttentionRule { heads: HeadReduce::Max, pool: 17 } }
    }
}

impl Scorer for LastQuery {
    fn name(&self) -> String {
        self.rule.describe("last-query")
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        Window::tokens(1, self.rule).score(stage)
    }
}

/// Attention from the last tokens of the prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// How heads are combined.
    pub rule: AttentionRule,
    /// The number of queries.
    pub queries: WindowLength,
    /// Weights of the queries, first to last.
    pub weights: QueryWeights,
}

/// How many of the last tokens ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WindowLength {
    /// This many, or all of a shorter sequence.
    Tokens(usize),
    /// This share of the tokens alive, at least one.
    Share(f64),
}

impl Window {
    /// The last `tokens` tokens, weighted alike.
    pub fn tokens(tokens: usize, rule: AttentionRule) -> Self {
        Self { rule, queries: WindowLength::Tokens(tokens), weights: QueryWeights::Uniform }
    }

    /// PyramidInfer's rule: the last fifth of the tokens alive, weights rising from 1 to 1.2, mean
    /// over heads.
    pub fn pyramid_infer() -> Self {
        Self {
            rule: AttentionRule { heads: HeadReduce::Mean, pool: 1 },
            queries: WindowLength::Share(0.2),
            weights: QueryWeights::Ramp { first: 1.0, last: 1.2 },
        }
    }
}

impl Window {
    /// How many of the last tokens of every sequence ask.
    fn lens(&self, rows: &Ragged) -> Vec<usize> {
        let asking = |len: usize| match self.queries {
            WindowLength::Tokens(tokens) => tokens.min(len),
            WindowLength::Share(share) => {
                ((len as f64 * share).ceil() as usize).clamp(1, len.max(1)).min(len)
            }
        };
        rows.lens().map(asking).collect()
    }
}

impl Scorer for Window {
    fn name(&self) -> String {
        match self.queries {
            WindowLength::Tokens(tokens) => self.rule.describe(&format!("window-{tokens}")),
            WindowLength::Share(_) => self.rule.describe("pyramid-infer"),
        }
    }

    fn score(&self, stage: &mut StageInput<'_>) -> Result<Tensor> {
        let scale = stage.model().config().attention_scale();
        let score = self.rule.params(scale, self.weights);
        let keys = stage.keys()?;
        let (queries, asking) = stage.last_queries(&self.lens(stage.rows()))?;
        let rows = stage.rows();
        stage.verbs().attention(&queries, &asking, &keys, rows, &score)
    }
}
