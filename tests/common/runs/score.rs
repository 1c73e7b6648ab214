//! **score**.

use salient::attend::{Attention, RowLimit};
use salient::cuda::DeviceElement;
use salient::cuda::score::{
    AttentionInputs, ExpectedInputs, IndexerInputs, Predictor, Statistics, attention, expected,
    indexer, keynorm, mlp, rank,
};
use salient::kernels::score::{
    AttentionPlan, AttentionShape, ExpectedPlan, ExpectedTensors, ExpectedWeights, IndexerPlan,
    KeynormPlan, MlpPlan, MlpWeights, RankPlan,
};
use salient::score::{
    ExpectedAttention, IndexerKeys, IndexerQueries, Logits, Per, QueryStatistics,
};
use salient::{DType, Layout, Ragged, Result, Span, Status, View};

use super::Places;
use super::attend::PrefillRun;
use crate::device::{Device, Upload};

/// What a device holds after a score.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    pub(crate) scores: Vec<f32>,
    pub(crate) status: Status,
    pub(crate) places: Places,
}

/// A predictor's scores of hidden states, of which this many exist.
pub(crate) fn run_mlp<T: DeviceElement + Default>(
    device: &Device,
    x: &[T],
    weights: &MlpWeights<T>,
    plan: &MlpPlan,
    valid: Option<i32>,
) -> Result<Scored> {
    let predictor = Predictor::upload(&device.stream, weights)?;
    let (x, valid) = (device.upload(x)?, valid.map(|valid| device.upload(&[valid])).transpose()?);
    let mut scores = device.upload(&vec![7.0; plan.tokens()])?;
    let mut workspace = device.unwritten::<u8>(plan.workspace_bytes())?;
    let valid = valid.as_ref().map(Upload::view);
    let (mut scores_there, mut workspace_there) = (scores.view_mut(), workspace.view_mut());
    let (scores_out, workspace_out) = (&mut scores_there, &mut workspace_there);
    let stream = &device.stream;
    mlp(stream, plan, &predictor, &x.view(), valid.as_ref(), scores_out, workspace_out)?;
    let places =
        vec![("x", x.address()), ("scores", scores.address()), ("partials", workspace.address())];
    Ok(Scored { scores: scores.read()?, status: Status::CLEAR, places })
}

/// Norms of keys, which lie `skip` elements away from an aligned address.
pub(crate) fn run_keynorm<T: DeviceElement + Default>(
    device: &Device,
    keys: View<'_, T>,
    tokens: usize,
    per: Per,
    skip: usize,
) -> Result<Scored> {
    let plan = KeynormPlan::new(tokens, keys.layout, T::DTYPE, per)?;
    let outputs = if per == Per::Token { 1 } else { keys.layout.heads };
    let padded: Vec<T> =
        std::iter::repeat_n(T::default(), skip).chain(keys.data.iter().copied()).collect();
    let (keys, mut scores) =
        (device.upload(&padded)?, device.upload(&vec![7.0; outputs * tokens])?);
    keynorm(&device.stream, &plan, &keys.view_from(skip), &mut scores.view_mut())?;
    let places = vec![("keys", keys.address()), ("scores", scores.address())];
    Ok(Scored { scores: scores.read()?, status: Status::CLEAR, places })
}

/// Percentile ranks of scores that lie this many elements away from an aligned address, behind scores
/// that are lower than all.
pub(crate) struct RankRun {
    plan: RankPlan,
    scores: Upload<f32>,
    skip: usize,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
}

impl RankRun {
    pub(crate) fn new(device: &Device, scores: &[f32], rows: &Ragged, skip: usize) -> Result<Self> {
        let longest = rows.lens().max().unwrap_or(0);
        let heads = scores.len() / rows.total();
        let before = std::iter::repeat_n(f32::NEG_INFINITY, skip);
        let padded: Vec<f32> = before.chain(scores.iter().copied()).collect();
        Ok(Self {
            plan: RankPlan::new(heads, rows.batch(), rows.total(), longest)?,
            scores: device.upload(&padded)?,
            skip,
            cu_seqlens: device.upload(rows.cu_seqlens())?,
        })
    }

    pub(crate) fn launch(&self, device: &Device) -> Result<Scored> {
        let mut out = device.upload(&vec![7.0; self.plan.scores_len()])?;
        let status = device.with_status(|status| {
            let (scores, cu_seqlens) = (self.scores.view_from(self.skip), self.cu_seqlens.view());
            rank(&device.stream, &self.plan, &scores, &cu_seqlens, &mut out.view_mut(), status)
        })?;
        let places = vec![("scores", self.scores.address()), ("out", out.address())];
        Ok(Scored { scores: out.read()?, status, places })
    }
}

/// Scores from attention.
pub(crate) struct AttentionRun<T> {
    plan: AttentionPlan,
    q: Upload<T>,
    k: Upload<T>,
    lse: Option<Upload<f32>>,
    /// As the plan says.
    pub(crate) scores: Upload<f32>,
    /// `[batch + 1]`.
    pub(crate) cu_queries: Upload<i32>,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
}

impl<T: DeviceElement + Default> AttentionRun<T> {
    pub(crate) fn new(
        device: &Device,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        [(q, queries), (k, rows)]: [(View<'_, T>, &Ragged); 2],
        lse: Option<&[f32]>,
    ) -> Result<Self> {
        let plan = plan(AttentionShape::of([q.layout, k.layout], T::DTYPE, queries, rows))?;
        Ok(Self {
            plan,
            q: device.upload(q.data)?,
            k: device.upload(k.data)?,
            lse: lse.map(|lse| device.upload(lse)).transpose()?,
            scores: device.upload(&vec![7.0; plan.scores_len()])?,
            cu_queries: device.upload(queries.cu_seqlens())?,
            cu_seqlens: device.upload(rows.cu_seqlens())?,
        })
    }

    pub(crate) fn launch(&mut self, device: &Device) -> Result<Scored> {
        let mut workspace = device.unwritten::<u8>(self.plan.workspace_bytes())?;
        let status = device.with_status(|status| {
            let inputs = AttentionInputs {
                q: self.q.view(),
                k: self.k.view(),
                lse: self.lse.as_ref().map(Upload::view),
                cu_queries: self.cu_queries.view(),
                cu_seqlens: self.cu_seqlens.view(),
            };
            let (mut scores, mut workspace) = (self.scores.view_mut(), workspace.view_mut());
            attention(&device.stream, &self.plan, &inputs, &mut scores, &mut workspace, status)
        })?;
        let mut places = vec![
            ("q", self.q.address()),
            ("k", self.k.address()),
            ("scores", self.scores.address()),
            ("workspace", workspace.address()),
        ];
        places.extend(self.lse.as_ref().map(|lse| ("lse", lse.address())));
        Ok(Scored { scores: self.scores.read()?, status, places })
    }
}

/// The LSE of causal attention, `[queries, q heads]`, as prefill saves it.
pub(crate) fn saved_lse<T: DeviceElement + Default>(
    device: &Device,
    q: View<'_, T>,
    k: View<'_, T>,
    rows: &Ragged,
    scale: f32,
) -> Result<Vec<f32>> {
    let spans: Vec<Span> = rows.spans().collect();
    let out = (Layout::token_major(q.layout.heads, q.layout.dim), DType::F32);
    let (limit, attention) = (RowLimit::Causal, Attention::new(scale));
    let run = PrefillRun::new(device, q, rows, (k, k, &spans), limit, &attention, out)?;
    let attended = run.launch(device, &vec![0f32; rows.total() * q.layout.heads * q.layout.dim])?;
    attended.status.check()?;
    Ok(attended.lse)
}

/// Expected attention.
pub(crate) struct ExpectedRun<T> {
    plan: ExpectedPlan,
    statistics: Statistics,
    k: Upload<T>,
    v: Option<Upload<T>>,
    scores: Upload<f32>,
    /// `[batch + 1]`.
    pub(crate) cu_seqlens: Upload<i32>,
}

impl<T: DeviceElement + Default> ExpectedRun<T> {
    pub(crate) fn new(
        device: &Device,
        (k, v): (View<'_, T>, Option<View<'_, T>>),
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
    ) -> Result<Self> {
        let weights = ExpectedWeights::<T>::new(statistics, options.scale)?;
        let tensors = ExpectedTensors::of(k.layout, v.map(|v| v.layout), rows);
        let heads = if options.per == Per::Token { 1 } else { k.layout.heads };
        Ok(Self {
            plan: ExpectedPlan::new(weights.shape(), tensors, *options)?,
            statistics: Statistics::upload(&device.stream, &weights)?,
            k: device.upload(k.data)?,
            v: v.map(|v| device.upload(v.data)).transpose()?,
            scores: device.upload(&vec![7.0; heads * rows.total()])?,
            cu_seqlens: device.upload(rows.cu_seqlens())?,
        })
    }

    pub(crate) fn launch(&mut self, device: &Device) -> Result<Scored> {
        let mut workspace = device.unwritten::<u8>(self.plan.workspace_bytes())?;
        let status = device.with_status(|status| {
            let inputs = ExpectedInputs {
                k: self.k.view(),
                v: self.v.as_ref().map(Upload::view),
                cu_seqlens: self.cu_seqlens.view(),
            };
            let (mut scores, mut workspace) = (self.scores.view_mut(), workspace.view_mut());
            let (scores, workspace) = (&mut scores, &mut workspace);
            let (stream, statistics) = (&device.stream, &self.statistics);
            expected(stream, &self.plan, statistics, &inputs, scores, workspace, status)
        })?;
        let mut places = vec![
            ("k", self.k.address()),
            ("scores", self.scores.address()),
            ("workspace", workspace.address()),
        ];
        places.extend(self.v.as_ref().map(|v| ("v", v.address())));
        Ok(Scored { scores: self.scores.read()?, status, places })
    }
}

/// The lightning indexer.
pub(crate) struct IndexerRun<T> {
    plan: IndexerPlan,
    q: Upload<T>,
    weights: Upload<f32>,
    k: Upload<T>,
    scales: Option<Upload<f32>>,
    /// `[batch + 1]`.
    pub(crate) cu_queries: Upload<i32>,
    /// `[batch + 1]`.
    pub(crate) cu_keys: Upload<i32>,
    /// `[queries]`.
    pub(crate) firsts: Option<Upload<i32>>,
    /// `[queries]`.
    pub(crate) limits: Option<Upload<i32>>,
    logits: Upload<f32>,
}

impl<T: DeviceElement + Default> IndexerRun<T> {
    pub(crate) fn new(
        device: &Device,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
    ) -> Result<Self> {
        let plan = IndexerPlan::of(queries, keys, logits)?;
        let outputs = match logits {
            Logits::Rows { stride } => queries.rows.total() * stride,
            Logits::Tokens => keys.rows.total(),
        };
        let ints = |list: Option<&&[i32]>| list.map(|list| device.upload(list)).transpose();
        Ok(Self {
            plan,
            q: device.upload(queries.q.data)?,
            weights: device.upload(queries.weights)?,
            k: device.upload(keys.k.data)?,
            scales: keys.scales.map(|scales| device.upload(scales)).transpose()?,
            cu_queries: device.upload(queries.rows.cu_seqlens())?,
            cu_keys: device.upload(keys.rows.cu_seqlens())?,
            firsts: ints(queries.limit.firsts())?,
            limits: ints(queries.limit.limits())?,
            logits: device.upload(&vec![7.0; outputs])?,
        })
    }

    pub(crate) fn launch(&mut self, device: &Device) -> Result<Scored> {
        let status = device.with_status(|status| {
            let inputs = IndexerInputs {
                q: self.q.view(),
                weights: self.weights.view(),
                k: self.k.view(),
                scales: self.scales.as_ref().map(Upload::view),
                cu_queries: self.cu_queries.view(),
                cu_keys: self.cu_keys.view(),
                firsts: self.firsts.as_ref().map(Upload::view),
                limits: self.limits.as_ref().map(Upload::view),
            };
            indexer(&device.stream, &self.plan, &inputs, &mut self.logits.view_mut(), status)
        })?;
        let mut places = vec![
            ("q", self.q.address()),
            ("k", self.k.address()),
            ("logits", self.logits.address()),
        ];
        places.extend(self.scales.as_ref().map(|scales| ("scales", scales.address())));
        Ok(Scored { scores: self.logits.read()?, status, places })
    }
}
