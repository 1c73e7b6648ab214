//! Pruned prefill and the steps after it, over packed ragged batches.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use salient::Ragged;
use salient::schedule::{KvAtStage, Plan, StagePlan};

use crate::backend::{Backend, HostBackend, Queries, Reach, Timestamp, Verbs, unsupported};
use crate::cache::KvCache;
use crate::error::Result;
use crate::model::{Block, Model, Projection};
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
    /// Time in attention, all layers together.
    pub attention_time: Duration,
    /// Time of the whole prefill, the device's work done.
    pub elapsed: Duration,
}

/// What one stage kept, and what it cost. Its tensors are where the model is.
#[derive(Debug, Clone)]
pub struct StageReport {
    /// The block on whose entry the stage stands.
    pub layer: usize,
    /// The tokens that came in.
    pub incoming: Ragged,
    /// Original positions of the tokens that came in, packed, u32 `[tokens]`.
    pub incoming_positions: Tensor,
    /// Scores of the tokens that came in, packed, f32 `[tokens]`.
    pub scores: Tensor,
    /// The tokens that stayed.
    pub kept: Ragged,
    /// Original positions of the tokens that stayed, packed, u32 `[kept]`.
    pub kept_positions: Tensor,
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
        model.predict(&last_rows(&self.hidden, &self.rows)?)
    }

    /// Time that scoring, selection and compaction took together.
    pub fn pruning_time(&self) -> Duration {
        self.stages.iter().map(|s| s.score_time + s.select_time + s.compact_time).sum()
    }
}

/// Packed rows on their way up the blocks.
struct Rows {
    hidden: Tensor,
    /// u32 `[rows]`.
    positions: Tensor,
    ragged: Ragged,
}

/// A run under way: the rows, the cache, and the timestamps of its attention.
struct Run<'a, B> {
    model: &'a Model,
    backend: &'a mut B,
    cache: &'a mut KvCache,
    rows: Rows,
    /// Before and after each layer's attention; none of steps, which nobody times.
    attention: Option<Vec<[Timestamp; 2]>>,
}

/// A stage's report, and the timestamps that its times are to be read from when the device is done.
struct Staged {
    report: StageReport,
    /// The share of the norm's and the keys' time that the block would have taken anyway.
    used: f64,
    /// Around the norm, the keys if there were any, score, select and compact.
    norm: [Timestamp; 2],
    keys: Option<[Timestamp; 2]>,
    scored: Timestamp,
    selected: Timestamp,
    compact: [Timestamp; 2],
}

impl Model {
    /// Runs prompts up the blocks, dropping tokens where `plan` has a stage, and fills a cache.
    /// `reserve` tokens per sequence can be appended to it without moving it.
    ///
    /// # Errors
    /// [`EmptyPrompt`](crate::Error::EmptyPrompt), [`UnknownToken`](crate::Error::UnknownToken),
    /// [`ContextExceeded`](crate::Error::ContextExceeded) if prompt and reserve do not fit the
    /// context, [`Unsupported`](crate::Error::Unsupported) on a device that salient has no kernels
    /// for, those of the scorer and of the backend.
    pub fn prefill(
        &self,
        prompts: &[Vec<u32>],
        plan: &Plan,
        scorer: &dyn Scorer,
        reserve: usize,
    ) -> Result<Prefill> {
        match self.device() {
            Device::Cpu => self.prefill_with(&mut HostBackend, prompts, plan, scorer, reserve),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let mut backend = crate::cuda::CudaBackend::new(device)?;
                self.prefill_with(&mut backend, prompts, plan, scorer, reserve)
            }
            other => Err(unsupported(other)),
        }
    }

    /// The same on a given backend, for a stream or a workspace of one's own.
    ///
    /// # Errors
    /// As [`Model::prefill`], and those of a backend for another device.
    pub fn prefill_with<B: Backend>(
        &self,
        backend: &mut B,
        prompts: &[Vec<u32>],
        plan: &Plan,
        scorer: &dyn Scorer,
        reserve: usize,
    ) -> Result<Prefill> {
        let start = Instant::now();
        let lens = self.config().check_prompts(prompts, plan, reserve)?;
        let positions = lens.iter().flat_map(|&len| 0..len as u32).collect();
        let rows = self.rows(&prompts.concat(), positions, Ragged::from_lens(&lens)?)?;
        let mut cache = KvCache::new(self.config().layers, prompts.len(), reserve);
        cache.advance(&rows.ragged);
        let attention = Some(Vec::new());
        let mut run = Run { model: self, backend, cache: &mut cache, rows, attention };
        let mut staged = Vec::with_capacity(plan.stages().len());
        for layer in 0..self.config().layers {
            match plan.stage_at(layer) {
                None => run.block(layer)?,
                Some((index, stage)) => {
                    staged.push(run.stage(index, stage, plan, scorer)?);
                }
            }
        }
        let Run { rows: Rows { hidden, ragged, .. }, attention, .. } = run;
        backend.finish().map_err(|error| error.of_scorer(scorer))?;
        let mut attention_time = Duration::ZERO;
        for [before, after] in attention.iter().flatten() {
            attention_time += before.until(after)?;
        }
        let stages = staged.into_iter().map(Staged::report).collect::<Result<_>>()?;
        let elapsed = start.elapsed();
        Ok(Prefill { hidden, rows: ragged, cache, stages, attention_time, elapsed })
    }

    /// Runs further tokens of every sequence against a cache, at the positions that follow, and
    /// appends them to it. Returns their final hidden states, `[tokens, hidden]`, packed. Nothing
    /// waits for the device.
    ///
    /// # Errors
    /// [`UnknownToken`](crate::Error::UnknownToken),
    /// [`ContextExceeded`](crate::Error::ContextExceeded), and [`salient::Error::LengthMismatch`] if
    /// `tokens` has another batch size than the cache.
    pub fn extend(&self, tokens: &[Vec<u32>], cache: &mut KvCache) -> Result<Tensor> {
        match self.device() {
            Device::Cpu => self.extend_with(&mut HostBackend, tokens, cache),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                self.extend_with(&mut crate::cuda::CudaBackend::new(device)?, tokens, cache)
            }
            other => Err(unsupported(other)),
        }
    }

    /// The same on a given backend.
    ///
    /// # Errors
    /// As [`Model::extend`], and those of a backend for another device.
    pub fn extend_with<B: Backend>(
        &self,
        backend: &mut B,
        tokens: &[Vec<u32>],
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let next = cache.next_positions();
        let lens = self.config().check_steps(tokens, next)?;
        if lens.iter().all(|&len| len == 0) {
            // Devices neither allocate nothing nor launch over it.
            return Ok(self.embedding().narrow(0, 0, 0)?);
        }
        let positions = next
            .iter()
            .zip(&lens)
            .flat_map(|(&next, &len)| next as u32..(next + len) as u32)
            .collect();
        let rows = self.rows(&tokens.concat(), positions, Ragged::from_lens(&lens)?)?;
        let mut run = Run { model: self, backend, cache, rows, attention: None };
        for layer in 0..self.config().layers {
            run.block(layer)?;
        }
        let Rows { hidden, ragged, .. } = run.rows;
        cache.advance(&ragged);
        Ok(hidden)
    }

    /// What a scorer says of whole prompts, `lens` tokens each, on entry to a block, given their
    /// hidden states there, `[tokens, hidden]`: f32 `[tokens]`. `index` is the stage's place among
    /// the stages.
    ///
    /// # Errors
    /// Those of the scorer and of candle.
    pub fn score(
        &self,
        scorer: &dyn Scorer,
        index: usize,
        layer: usize,
        lens: &[usize],
        hidden: &Tensor,
    ) -> Result<Tensor> {
        let rows = Ragged::from_lens(lens)?;
        let positions: Vec<u32> = lens.iter().flat_map(|&len| 0..len as u32).collect();
        self.reach(&positions)?;
        let positions = Tensor::new(positions, self.device())?;
        self.with_verbs(|verbs| {
            let norm = &self.blocks()[layer].attn_norm;
            let normed = verbs.rms_norm(hidden, norm, self.rms_eps())?;
            let tokens = StageTokens {
                index,
                layer,
                prompt_lens: lens,
                rows: &rows,
                positions: &positions,
                hidden,
                normed: &normed,
            };
            scorer.score(&mut StageInput::new(self, verbs, tokens))
        })
    }

    /// Runs `run` with the verbs of the device that the model is on.
    pub(crate) fn with_verbs<R>(&self, run: impl FnOnce(&mut dyn Verbs) -> Result<R>) -> Result<R> {
        match self.device() {
            Device::Cpu => run(&mut HostBackend),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => run(&mut crate::cuda::CudaBackend::new(device)?),
            other => Err(unsupported(other)),
        }
    }

    /// Rows of tokens, of which there is at least one.
    fn rows(&self, tokens: &[u32], positions: Vec<u32>, ragged: Ragged) -> Result<Rows> {
        self.reach(&positions)?;
        let positions = Tensor::new(positions, self.device())?;
        Ok(Rows { hidden: self.embed(tokens)?, positions, ragged })
    }
}

impl<'a, B: Backend> Run<'a, B> {
    fn block(&mut self, layer: usize) -> Result<()> {
        let Self { model, backend, rows, .. } = self;
        let block = &model.blocks()[layer];
        let normed = backend.rms_norm(&rows.hidden, &block.attn_norm, model.rms_eps())?;
        let [q, k, v] = model.qkv(&mut **backend, block, &normed, &rows.positions)?;
        self.cache.append(layer, &rows.ragged, &k, &v, &rows.positions)?;
        self.finish_block(layer, &q, None)
    }

    /// Attention of `q` over the layer's cache, and what follows it. `limits` is as in
    /// [`Queries::limits`].
    fn finish_block(&mut self, layer: usize, q: &Tensor, limits: Option<&Tensor>) -> Result<()> {
        let Self { model, backend, cache, rows, attention } = self;
        let window = model.window_at(layer);
        let reach = Reach { scale: model.config().attention_scale(), window };
        let queries = Queries { rows: &rows.ragged, positions: &rows.positions, limits };
        let before = attention.is_some().then(|| backend.timestamp()).transpose()?;
        let attended = backend.attend(q, &queries, &cache.layers()[layer], &reach)?;
        if let (Some(times), Some(before)) = (attention, before) {
            times.push([before, backend.timestamp()?]);
        }
        let block = &model.blocks()[layer];
        let hidden = rows.hidden.clone();
        rows.hidden = model.after_attention(&mut **backend, block, hidden, &attended)?;
        Ok(())
    }

    fn stage(
        &mut self,
        index: usize,
        stage: &StagePlan,
        plan: &Plan,
        scorer: &dyn Scorer,
    ) -> Result<Staged> {
        let Self { model, backend, rows, cache, .. } = self;
        let (model, layer, kv) = (*model, stage.layer, plan.kv_at_stage());
        let block = &model.blocks()[layer];
        let start = backend.timestamp()?;
        let normed = backend.rms_norm(&rows.hidden, &block.attn_norm, model.rms_eps())?;
        let norm = [start, backend.timestamp()?];
        let tokens = StageTokens {
            index,
            layer,
            prompt_lens: plan.lens(),
            rows: &rows.ragged,
            positions: &rows.positions,
            hidden: &rows.hidden,
            normed: &normed,
        };
        let mut input = StageInput::new(model, &mut **backend, tokens);
        let scores = scorer.score(&mut input)?;
        let (keys, key_times) = input.into_keys();
        let scored = backend.timestamp()?;
        let kept = backend
            .select(&scores, &rows.ragged, stage)
            .map_err(|error| error.of_scorer(scorer))?;
        let selected = backend.timestamp()?;

        // The block caches all incoming tokens: their keys and values come before the drop.
        if kv == KvAtStage::Incoming {
            let k = match &keys {
                Some(keys) => keys.clone(),
                None => project(model, &mut **backend, block, Projection::Key, &normed, rows)?,
            };
            let v = project(model, &mut **backend, block, Projection::Value, &normed, rows)?;
            cache.append(layer, &rows.ragged, &k, &v, &rows.positions)?;
        }

        let before = backend.timestamp()?;
        // How many of its sequence's keys each token sees; or keys that there are.
        let fourth = match kv {
            KvAtStage::Incoming => Some(counted(&rows.ragged, model.device())?),
            KvAtStage::Pruned => keys,
        };
        let mut tensors = vec![&rows.hidden, &normed, &rows.positions];
        tensors.extend(&fourth);
        let mut gathered = backend.rows(&kept, &tensors)?.into_iter();
        let (Some(hidden), Some(normed), Some(positions)) =
            (gathered.next(), gathered.next(), gathered.next())
        else {
            unreachable!("as many tensors come back as went in");
        };
        let fourth = gathered.next();
        let compact = [before, backend.timestamp()?];
        let survivors = Rows { hidden, positions, ragged: stage.rows.clone() };
        let incoming = std::mem::replace(rows, survivors);

        let q = project(model, &mut **backend, block, Projection::Query, &normed, rows)?;
        let (keys, limits) = match kv {
            KvAtStage::Incoming => (None, fourth),
            KvAtStage::Pruned => (fourth, None),
        };
        if kv == KvAtStage::Pruned {
            let k = match keys {
                Some(keys) => keys,
                None => project(model, &mut **backend, block, Projection::Key, &normed, rows)?,
            };
            let v = project(model, &mut **backend, block, Projection::Value, &normed, rows)?;
            cache.append(layer, &rows.ragged, &k, &v, &rows.positions)?;
        }
        self.finish_block(layer, &q, limits.as_ref())?;

        let used = match kv {
            KvAtStage::Incoming => 1.0,
            KvAtStage::Pruned => stage.rows.total() as f64 / incoming.ragged.total().max(1) as f64,
        };
        let report = StageReport {
            layer,
            incoming: incoming.ragged,
            incoming_positions: incoming.positions,
            scores,
            kept: self.rows.ragged.clone(),
            kept_positions: self.rows.positions.clone(),
            score_time: Duration::ZERO,
            select_time: Duration::ZERO,
            compact_time: Duration::ZERO,
        };
        Ok(Staged { report, used, norm, keys: key_times, scored, selected, compact })
    }
}

impl Staged {
    /// With the times; the device is done.
    fn report(self) -> Result<StageReport> {
        let [start, normed] = &self.norm;
        let mut shared = start.until(normed)?;
        if let Some([before, after]) = &self.keys {
            shared += before.until(after)?;
        }
        let [before, after] = &self.compact;
        Ok(StageReport {
            score_time: start.until(&self.scored)?.saturating_sub(shared.mul_f64(self.used)),
            select_time: self.scored.until(&self.selected)?,
            compact_time: before.until(after)?,
            ..self.report
        })
    }
}

/// What a stage's tokens are, for its scorer.
#[derive(Debug)]
pub(crate) struct StageTokens<'a> {
    pub(crate) index: usize,
    pub(crate) layer: usize,
    pub(crate) prompt_lens: &'a [usize],
    pub(crate) rows: &'a Ragged,
    pub(crate) positions: &'a Tensor,
    pub(crate) hidden: &'a Tensor,
    pub(crate) normed: &'a Tensor,
}

/// One of Q, K and V of the rows, from their normalised hidden states.
fn project(
    model: &Model,
    verbs: &mut dyn Verbs,
    block: &Block,
    which: Projection,
    normed: &Tensor,
    rows: &Rows,
) -> Result<Tensor> {
    model.project(verbs, block, which, normed, &rows.positions)
}

/// The last row of every sequence, `[batch, hidden]`.
pub(crate) fn last_rows(hidden: &Tensor, rows: &Ragged) -> Result<Tensor> {
    let last: Vec<u32> = rows.spans().map(|span| span.end() as u32 - 1).collect();
    let last = Tensor::new(last, hidden.device())?;
    Ok(hidden.index_select(&last, 0)?)
}

/// How many tokens of its sequence come up to and with each, u32 `[rows]`.
fn counted(rows: &Ragged, device: &Device) -> Result<Tensor> {
    let counts: Vec<u32> = rows.lens().flat_map(|len| 1..=len as u32).collect();
    Ok(Tensor::new(counts, device)?)
}
