//! **score**.

use cudarc::driver::CudaView;

use super::Session;
use crate::attend::RowLimit;
use crate::cuda::score::{
    AttentionInputs, ExpectedInputs, IndexerInputs, Predictor, Statistics, attention, expected,
    indexer, keynorm, mlp, pool, rank,
};
use crate::cuda::{Array, DeviceElement, TensorView};
use crate::error::{Error, Result};
use crate::kernels::score::{
    AttentionPlan, AttentionShape, ExpectedPlan, ExpectedTensors, IndexerPlan, IndexerShape,
    KeynormPlan, MlpPlan, PoolPlan, RankPlan,
};
use crate::ragged::Ragged;
use crate::score::{AttentionScore, ExpectedAttention, Logits, Per, Pool};

/// The queries and keys of an indexer, on the device: what
/// [`IndexerQueries`](crate::score::IndexerQueries) and [`IndexerKeys`](crate::score::IndexerKeys)
/// are in host memory.
#[derive(Debug)]
pub struct IndexerTensors<'a, T> {
    /// `[queries, heads, dim]`.
    pub q: TensorView<'a, T>,
    /// `[queries, heads]`: how much each head counts.
    pub weights: CudaView<'a, f32>,
    /// Which queries belong to which sequence.
    pub queries: &'a Ragged,
    /// Which keys each sees.
    pub limit: RowLimit<CudaView<'a, i32>>,
    /// `[total, 1, dim]`.
    pub k: TensorView<'a, T>,
    /// `[total]`, where keys have scales.
    pub scales: Option<CudaView<'a, f32>>,
    /// Which keys belong to which sequence.
    pub keys: &'a Ragged,
}

impl Session {
    /// Scores hidden states, `[tokens, hidden]`, with a predictor.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if `x` is not made of whole rows, those of the device.
    pub fn mlp<T: DeviceElement>(
        &mut self,
        predictor: &Predictor<T>,
        x: &CudaView<'_, T>,
    ) -> Result<Array<f32>> {
        let plan = MlpPlan::new(predictor.shape(), x.len() / predictor.shape().hidden())?;
        let mut scores = self.output(plan.tokens())?;
        self.reserve(plan.workspace_bytes())?;
        let (stream, workspace) = (&self.stream, &mut self.workspace.view_mut());
        mlp(stream, &plan, predictor, x, None, &mut scores.view_mut(), workspace)?;
        Ok(scores)
    }

    /// Scores `tokens` keys by their norms: `[tokens]` or `[kv_heads, tokens]`.
    ///
    /// # Errors
    /// Those of [`KeynormPlan::new`], those of the device.
    pub fn keynorm<T: DeviceElement>(
        &mut self,
        k: &TensorView<'_, T>,
        tokens: usize,
        per: Per,
    ) -> Result<Array<f32>> {
        let plan = KeynormPlan::new(tokens, k.layout, T::DTYPE, per)?;
        let mut scores = self.output(plan.scores_len())?;
        keynorm(&self.stream, &plan, &k.data, &mut scores.view_mut())?;
        Ok(scores)
    }

    /// Scores tokens by the attention of the last `window` of their sequence's `queries`
    /// ([`crate::host::score::window`]).
    ///
    /// # Errors
    /// Those of [`AttentionPlan::window`], those of the device.
    pub fn window<T: DeviceElement>(
        &mut self,
        (q, queries): (&TensorView<'_, T>, &Ragged),
        (k, rows): (&TensorView<'_, T>, &Ragged),
        window: usize,
        score: &AttentionScore,
    ) -> Result<Array<f32>> {
        let shape = AttentionShape::of([q.layout, k.layout], T::DTYPE, queries, rows);
        let plan = AttentionPlan::window(shape, *score, window)?;
        self.attention(&plan, (q, queries), (k, rows), None)
    }

    /// The same from the LSE that a causal prefill saved, of any number of queries;
    /// `window` of all of them makes it [`crate::host::score::columns`].
    ///
    /// # Errors
    /// Those of [`AttentionPlan::window_of_lse`], those of the device.
    pub fn window_of_lse<T: DeviceElement>(
        &mut self,
        (q, queries): (&TensorView<'_, T>, &Ragged),
        (k, rows): (&TensorView<'_, T>, &Ragged),
        window: usize,
        score: &AttentionScore,
        lse: &CudaView<'_, f32>,
    ) -> Result<Array<f32>> {
        let shape = AttentionShape::of([q.layout, k.layout], T::DTYPE, queries, rows);
        let plan = AttentionPlan::window_of_lse(shape, *score, window)?;
        self.attention(&plan, (q, queries), (k, rows), Some(lse))
    }

    fn attention<T: DeviceElement>(
        &mut self,
        plan: &AttentionPlan,
        (q, queries): (&TensorView<'_, T>, &Ragged),
        (k, rows): (&TensorView<'_, T>, &Ragged),
        lse: Option<&CudaView<'_, f32>>,
    ) -> Result<Array<f32>> {
        let (cu_queries, cu_seqlens) =
            (self.upload(queries.cu_seqlens())?, self.upload(rows.cu_seqlens())?);
        let mut scores = self.cleared(plan.scores_len())?;
        self.reserve(plan.workspace_bytes())?;
        let inputs = AttentionInputs {
            q: q.data.slice(..),
            k: k.data.slice(..),
            lse: lse.map(|lse| lse.slice(..)),
            cu_queries: cu_queries.view(),
            cu_seqlens: cu_seqlens.view(),
        };
        let (to, workspace) = (&mut scores.view_mut(), &mut self.workspace.view_mut());
        attention(&self.stream, plan, &inputs, to, workspace, &mut self.status)?;
        Ok(scores)
    }

    /// Pools scores, `[heads, total]`, along the tokens of each sequence.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::OutOfRange`] for a pool's width, those of the device.
    pub fn pool(
        &mut self,
        scores: &CudaView<'_, f32>,
        rows: &Ragged,
        heads: usize,
        width: Pool,
    ) -> Result<Array<f32>> {
        let longest = rows.lens().max().unwrap_or(0);
        let plan = PoolPlan::new(heads, rows.batch(), rows.total(), longest, width)?;
        let cu_seqlens = self.upload(rows.cu_seqlens())?;
        let mut out = self.cleared(plan.scores_len())?;
        let (from, to) = (&cu_seqlens.view(), &mut out.view_mut());
        pool(&self.stream, &plan, scores, from, to, &mut self.status)?;
        Ok(out)
    }

    /// Percentile ranks of scores, `[heads, total]`, inside each sequence and head
    /// ([`crate::host::score::rank`]).
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::OutOfRange`] for no heads, those of the device.
    pub fn rank(
        &mut self,
        scores: &CudaView<'_, f32>,
        rows: &Ragged,
        heads: usize,
    ) -> Result<Array<f32>> {
        let longest = rows.lens().max().unwrap_or(0);
        let plan = RankPlan::new(heads, rows.batch(), rows.total(), longest)?;
        let cu_seqlens = self.upload(rows.cu_seqlens())?;
        let mut out = self.cleared(plan.scores_len())?;
        let (from, to) = (&cu_seqlens.view(), &mut out.view_mut());
        rank(&self.stream, &plan, scores, from, to, &mut self.status)?;
        Ok(out)
    }

    /// Scores keys by the attention that they are expected to draw
    /// ([`crate::host::score::expected`]).
    ///
    /// # Errors
    /// Those of [`ExpectedPlan::new`], those of the device.
    pub fn expected<T: DeviceElement>(
        &mut self,
        statistics: &Statistics,
        k: &TensorView<'_, T>,
        v: Option<&TensorView<'_, T>>,
        rows: &Ragged,
        options: &ExpectedAttention,
    ) -> Result<Array<f32>> {
        let tensors = ExpectedTensors::of(k.layout, v.map(|v| v.layout), rows);
        let plan = ExpectedPlan::new(statistics.shape(), tensors, *options)?;
        let cu_seqlens = self.upload(rows.cu_seqlens())?;
        let mut scores = self.cleared(plan.scores_len())?;
        self.reserve(plan.workspace_bytes())?;
        let inputs = ExpectedInputs {
            k: k.data.slice(..),
            v: v.map(|v| v.data.slice(..)),
            cu_seqlens: cu_seqlens.view(),
        };
        let (to, workspace) = (&mut scores.view_mut(), &mut self.workspace.view_mut());
        expected(&self.stream, &plan, statistics, &inputs, to, workspace, &mut self.status)?;
        Ok(scores)
    }

    /// The logits of a lightning indexer ([`crate::host::score::indexer`]).
    ///
    /// # Errors
    /// Those of [`IndexerPlan::new`], [`Error::LengthMismatch`] for queries of other sequences than
    /// keys, those of the device.
    pub fn indexer<T: DeviceElement>(
        &mut self,
        tensors: &IndexerTensors<'_, T>,
        logits: Logits,
    ) -> Result<Array<f32>> {
        let IndexerTensors { q, weights, queries, limit, k, scales, keys } = tensors;
        let (expected, actual) = (queries.batch(), keys.batch());
        if expected != actual {
            return Err(Error::LengthMismatch { what: "sequences of keys", expected, actual });
        }
        let plan = IndexerPlan::new(IndexerShape {
            batch: queries.batch(),
            queries: queries.total(),
            max_queries: queries.lens().max().unwrap_or(0),
            keys: keys.total(),
            max_keys: keys.lens().max().unwrap_or(0),
            dtype: T::DTYPE,
            q: q.layout,
            k: k.layout,
            limit: limit.kind(),
            logits,
        })?;
        let (cu_queries, cu_keys) =
            (self.upload(queries.cu_seqlens())?, self.upload(keys.cu_seqlens())?);
        let mut out = self.cleared(plan.logits_len())?;
        let inputs = IndexerInputs {
            q: q.data.slice(..),
            weights: weights.slice(..),
            k: k.data.slice(..),
            scales: scales.as_ref().map(|scales| scales.slice(..)),
            cu_queries: cu_queries.view(),
            cu_keys: cu_keys.view(),
            firsts: limit.firsts().map(|firsts| firsts.slice(..)),
            limits: limit.limits().map(|limits| limits.slice(..)),
        };
        indexer(&self.stream, &plan, &inputs, &mut out.view_mut(), &mut self.status)?;
        Ok(out)
    }
}
