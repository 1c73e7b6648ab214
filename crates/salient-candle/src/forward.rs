//! Pruned prefill and the steps after it, over packed ragged batches.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use salient::attend::{Attention, KeyLists, RowLimit};
use salient::host::compact::{self, RowTensor};
use salient::host::{attend, select};
use salient::schedule::{KvAtStage, Plan, StagePlan};
use salient::select::{Budget, PerSequence, Protect, Request, Selection};
use salient::{Layout, Ragged, ViewMut};

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::model::{Block, Model, Projection};
use crate::ops::{Heads, f32_slice, rms_norm};
use crate::scorer::{Scorer, StageInput};

/// What a pruned prefill leaves behind.
#[derive(Debug)]
pub struct Prefill {
    /// Final hidden states of the surviving tokens, `[rows, hidden]`, before the last RMSNorm.
    pub hidden: Tensor,
    /// Where each sequence's survivors lie in `hidden`.
    pub rows: Ragged,
    /// Keys and values of every layer.
    pub cache: KvCache,
    /// What each stage did.
    pub stages: Vec<StageReport>,
    /// Time of the whole prefill.
    pub elapsed: Duration,
}

/// What one stage kept, and what it cost.
#[derive(Debug, Clone)]
pub struct StageReport {
    /// The block on whose entry the stage stands.
    pub layer: usize,
    /// The tokens that came in.
    pub incoming: Ragged,
    /// Original positions of the tokens that came in, packed.
    pub incoming_positions: Vec<i32>,
    /// Scores of the tokens that came in, packed.
    pub scores: Vec<f32>,
    /// The tokens that stayed.
    pub kept: Ragged,
    /// Original positions of the tokens that stayed, packed.
    pub kept_positions: Vec<i32>,
    /// Time to score. Of the normalisation and the keys only the dropped tokens' share counts: the
    /// block needs and uses the rest in any case.
    pub score_time: Duration,
    /// Time to select.
    pub select_time: Duration,
    /// Time to compact.
    pub compact_time: Duration,
}

impl Prefill {
    /// Next-token logits of every sequence, `[batch, vocab]`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, model: &Model) -> Result<Tensor> {
        model.logits(&last_rows(&self.hidden, &self.rows)?)
    }

    /// Time that scoring, selection and compaction took together.
    pub fn pruning_time(&self) -> Duration {
        self.stages.iter().map(|s| s.score_time + s.select_time + s.compact_time).sum()
    }
}

/// Packed rows on their way up the blocks.
struct Rows {
    hidden: Tensor,
    positions: Vec<i32>,
    ragged: Ragged,
}

impl Model {
    /// Runs prompts up the blocks, dropping tokens where `plan` has a stage, and fills a cache.
    /// `reserve` tokens per sequence can be appended to it without moving it.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::UnknownToken`], [`Error::ContextExceeded`] if prompt and
    /// reserve do not fit the context, those of the scorer and of the verbs.
    pub fn prefill(
        &self,
        prompts: &[Vec<u32>],
        plan: &Plan,
        scorer: &dyn Scorer,
        reserve: usize,
    ) -> Result<Prefill> {
        let start = Instant::now();
        let config = self.config();
        let lens = config.check_prompts(prompts, plan, reserve)?;
        let tokens = prompts.concat();
        let mut rows = Rows {
            hidden: self.embed(&tokens)?,
            positions: lens.iter().flat_map(|&len| 0..len as i32).collect(),
            ragged: Ragged::from_lens(&lens)?,
        };
        let mut cache =
            KvCache::new(config.layers, prompts.len(), config.kv_heads, config.head_dim, reserve);
        cache.advance(&rows.ragged);
        let mut stages = Vec::with_capacity(plan.stages().len());
        for (layer, block) in self.blocks().iter().enumerate() {
            match plan.stage_at(layer) {
                None => self.run_block(layer, block, &mut cache, &rows)?,
                Some((index, stage)) => {
                    let kv = plan.kv_at_stage();
                    let report =
                        self.run_stage(index, stage, block, kv, scorer, &mut cache, &mut rows)?;
                    stages.push(report);
                }
            }
        }
        let Rows { hidden, ragged, .. } = rows;
        Ok(Prefill { hidden, rows: ragged, cache, stages, elapsed: start.elapsed() })
    }

    /// Runs further tokens of every sequence against a cache, at the positions that follow, and
    /// appends them to it. Returns their final hidden states, `[tokens, hidden]`, packed.
    ///
    /// # Errors
    /// [`Error::UnknownToken`], [`Error::ContextExceeded`], and [`salient::Error::LengthMismatch`]
    /// if `tokens` has another batch size than the cache.
    pub fn extend(&self, tokens: &[Vec<u32>], cache: &mut KvCache) -> Result<Tensor> {
        let next = cache.next_positions();
        let lens = self.config().check_steps(tokens, next)?;
        let rows = Rows {
            hidden: self.embed(&tokens.concat())?,
            positions: next
                .iter()
                .zip(&lens)
                .flat_map(|(&next, &len)| next as i32..(next + len) as i32)
                .collect(),
            ragged: Ragged::from_lens(&lens)?,
        };
        for (layer, block) in self.blocks().iter().enumerate() {
            self.run_block(layer, block, cache, &rows)?;
        }
        cache.advance(&rows.ragged);
        Ok(rows.hidden)
    }

    /// Logits of hidden states, `[n, hidden]` to `[n, vocab]`. The vocabulary is wide: pass the
    /// rows that are needed.
    ///
    /// # Errors
    /// Those of candle.
    pub fn predict(&self, hidden: &Tensor) -> Result<Tensor> {
        self.logits(hidden)
    }

    fn run_block(
        &self,
        layer: usize,
        block: &Block,
        cache: &mut KvCache,
        rows: &Rows,
    ) -> Result<()> {
        let normed = rms_norm(&rows.hidden, &block.attn_norm, self.rms_eps())?;
        let [q, k, v] = self.qkv(block, &normed, &rows.positions)?;
        append(cache, layer, &rows.ragged, &k, &v, &rows.positions)?;
        self.finish_block(layer, block, cache, rows, &q)
    }

    /// Attention of `q` over the layer's cache, and the feed-forward network.
    fn finish_block(
        &self,
        layer: usize,
        block: &Block,
        cache: &KvCache,
        rows: &Rows,
        q: &Heads,
    ) -> Result<()> {
        let attended = self.attention(layer, cache, rows, q)?;
        self.add_attention(block, &rows.hidden, &attended)?;
        self.add_ffn(block, &rows.hidden)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site, each a different thing")]
    fn run_stage(
        &self,
        index: usize,
        stage: &StagePlan,
        block: &Block,
        kv: KvAtStage,
        scorer: &dyn Scorer,
        cache: &mut KvCache,
        rows: &mut Rows,
    ) -> Result<StageReport> {
        let layer = stage.layer;
        let clock = Instant::now();
        let normed = rms_norm(&rows.hidden, &block.attn_norm, self.rms_eps())?;
        let norm_time = clock.elapsed();
        let input = StageInput::new(
            self,
            index,
            layer,
            &rows.ragged,
            &rows.positions,
            &rows.hidden,
            &normed,
        );
        let scores = scorer.score(&input)?;
        let (keys, key_time) = input.into_keys();
        let used = match kv {
            KvAtStage::Incoming => 1.0,
            KvAtStage::Pruned => stage.rows.total() as f64 / rows.ragged.total().max(1) as f64,
        };
        let needed = (norm_time + key_time).mul_f64(used);
        let score_time = clock.elapsed().saturating_sub(needed);

        let clock = Instant::now();
        let selection = select::select(
            &scores,
            &Request {
                rows: &rows.ragged,
                heads: 1,
                budget: Budget::Counts(&stage.counts[..]),
                protect: Protect { edges: PerSequence::Each(&stage.edges), mask: None },
            },
        )?;
        if selection.saw_nan() {
            return Err(Error::Scorer {
                scorer: scorer.name(),
                reason: format!("a score at layer {layer} is NaN"),
            });
        }
        let select_time = clock.elapsed();

        let incoming = Rows {
            hidden: rows.hidden.clone(),
            positions: std::mem::take(&mut rows.positions),
            ragged: rows.ragged.clone(),
        };
        // The block caches all incoming tokens: their keys and values come before the drop.
        if kv == KvAtStage::Incoming {
            let k = match &keys {
                Some(keys) => keys.clone(),
                None => self.project(block, Projection::Key, &normed, &incoming.positions)?,
            };
            let v = self.project(block, Projection::Value, &normed, &incoming.positions)?;
            append(cache, layer, &incoming.ragged, &k, &v, &incoming.positions)?;
        }

        let clock = Instant::now();
        let reused = keys.filter(|_| kv == KvAtStage::Pruned);
        let mut gathered = gather(
            &selection,
            &[Some(&incoming.hidden), Some(&normed), reused.as_ref().map(Heads::tensor)],
            &incoming.positions,
        )?;
        let compact_time = clock.elapsed();
        let keys = gathered.tensors.pop().flatten();
        let normed = gathered.tensors.pop().flatten();
        let hidden = gathered.tensors.pop().flatten();
        let (Some(hidden), Some(normed)) = (hidden, normed) else {
            unreachable!("gather returns as many tensors as it was given");
        };
        *rows =
            Rows { hidden, positions: gathered.positions, ragged: selection.kept_rows().clone() };

        let q = self.project(block, Projection::Query, &normed, &rows.positions)?;
        if kv == KvAtStage::Pruned {
            let config = self.config();
            let k = match keys {
                Some(keys) => Heads::new(keys, 0, config.kv_heads, config.head_dim)?,
                None => self.project(block, Projection::Key, &normed, &rows.positions)?,
            };
            let v = self.project(block, Projection::Value, &normed, &rows.positions)?;
            append(cache, layer, &rows.ragged, &k, &v, &rows.positions)?;
        }
        self.finish_block(layer, block, cache, rows, &q)?;
        Ok(StageReport {
            layer,
            incoming: incoming.ragged,
            incoming_positions: incoming.positions,
            scores,
            kept: rows.ragged.clone(),
            kept_positions: rows.positions.clone(),
            score_time,
            select_time,
            compact_time,
        })
    }

    fn attention(&self, layer: usize, cache: &KvCache, rows: &Rows, q: &Heads) -> Result<Tensor> {
        let config = self.config();
        let (heads, dim) = (config.heads, config.head_dim);
        let total = rows.ragged.total();
        let mut out = vec![0.0; total * heads * dim];
        let keys = &cache.layers()[layer];
        let attention = Attention::new(self.attention_scale());
        let limits = RowLimits::new(rows, keys, config.window_at(layer));
        let out_view = ViewMut::new(&mut out, Layout::token_major(heads, dim));
        q.view(|q| {
            if limits.is_one_query_each(rows) {
                return attend::decode(
                    q,
                    &keys.keys(),
                    KeyLists::Dense,
                    &attention,
                    out_view,
                    None,
                );
            }
            let limit = limits.row_limit();
            attend::prefill(q, &rows.ragged, &keys.keys(), limit, &attention, out_view, None)
        })??;
        Ok(Tensor::from_vec(out, (total, heads * dim), &Device::Cpu)?)
    }
}

/// Which cached rows every query sees, where that is not "all up to its own".
enum RowLimits {
    /// The queries are the last rows of their sequences.
    Causal,
    /// First row and limit, by position.
    Between { first: Vec<i32>, limit: Vec<i32> },
}

impl RowLimits {
    fn new(rows: &Rows, cache: &crate::cache::LayerCache, window: Option<usize>) -> Self {
        let last = |sequence: usize, span: salient::Span| {
            let positions = &rows.positions[span.range()];
            cache.positions(sequence).ends_with(positions)
        };
        let aligned = rows.ragged.spans().enumerate().all(|(sequence, span)| last(sequence, span));
        let reach = rows.positions.iter().max().map_or(0, |&p| p as usize + 1);
        if aligned && window.is_none_or(|window| window >= reach) {
            return Self::Causal;
        }
        let mut first = Vec::with_capacity(rows.positions.len());
        let mut limit = Vec::with_capacity(rows.positions.len());
        for (sequence, span) in rows.ragged.spans().enumerate() {
            let keys = cache.positions(sequence);
            for &position in &rows.positions[span.range()] {
                let seen = keys.partition_point(|&key| key <= position);
                let skipped = window.map_or(0, |window| {
                    keys.partition_point(|&key| {
                        i64::from(key) <= i64::from(position) - window as i64
                    })
                });
                first.push(skipped as i32);
                limit.push(seen as i32);
            }
        }
        Self::Between { first, limit }
    }

    fn is_one_query_each(&self, rows: &Rows) -> bool {
        matches!(self, Self::Causal) && rows.ragged.lens().all(|len| len == 1)
    }

    fn row_limit(&self) -> RowLimit<&[i32]> {
        match self {
            Self::Causal => RowLimit::Causal,
            Self::Between { first, limit } => RowLimit::Between { first, limit },
        }
    }
}

fn append(
    cache: &mut KvCache,
    layer: usize,
    rows: &Ragged,
    k: &Heads,
    v: &Heads,
    positions: &[i32],
) -> Result<()> {
    k.view(|k| v.view(|v| cache.append(layer, rows, k, v, positions)))?
}

/// The last row of every sequence, `[batch, hidden]`.
pub(crate) fn last_rows(hidden: &Tensor, rows: &Ragged) -> Result<Tensor> {
    let last: Vec<u32> = rows.spans().map(|span| span.end() as u32 - 1).collect();
    let last = Tensor::new(last, hidden.device())?;
    Ok(hidden.index_select(&last, 0)?)
}

struct Gathered {
    tensors: Vec<Option<Tensor>>,
    positions: Vec<i32>,
}

/// The kept rows of several `[tokens, width]` tensors and of the positions, in one pass.
fn gather(
    selection: &Selection,
    tensors: &[Option<&Tensor>; 3],
    positions: &[i32],
) -> Result<Gathered> {
    let kept = selection.kept_rows().total();
    let mut kept_positions = vec![0i32; kept];
    let widths: Vec<usize> = tensors
        .iter()
        .map(|t| t.map_or(Ok(0), |t| t.dim(1)))
        .collect::<candle_core::Result<_>>()?;
    let mut outs: Vec<Vec<f32>> = widths.iter().map(|width| vec![0.0; kept * width]).collect();
    let [a, b, c] = *tensors;
    let (Some(a), Some(b)) = (a, b) else { unreachable!("only the third tensor is optional") };
    f32_slice(a, |a| {
        f32_slice(b, |b| {
            let mut run = |c: Option<&[f32]>| -> salient::Result<()> {
                let mut sources = vec![a, b];
                sources.extend(c);
                let mut rows = vec![RowTensor::new(positions, 1, &mut kept_positions)?];
                for ((src, width), dst) in sources.into_iter().zip(&widths).zip(&mut outs) {
                    rows.push(RowTensor::new(src, *width, dst)?);
                }
                compact::rows(selection, &mut rows)
            };
            match c {
                Some(c) => f32_slice(c, |c| run(Some(c)))?,
                None => run(None),
            }
            .map_err(Error::from)
        })
    })???;
    let tensors = outs
        .into_iter()
        .zip(&widths)
        .zip(tensors)
        .map(|((out, &width), source)| {
            source.map(|t| Tensor::from_vec(out, (kept, width), t.device())).transpose()
        })
        .collect::<candle_core::Result<_>>()?;
    Ok(Gathered { tensors, positions: kept_positions })
}
