//! The verbs of a stage on tensors.

use candle_core::{DType, Tensor};
use salient::attend::{Attention, KeyLists, Keys, RowLimit};
use salient::host::{attend, score, select};
use salient::schedule::StagePlan;
use salient::score::{AttentionScore, Per};
use salient::select::{Budget, PerSequence, Protect, Request, Selection};
use salient::{Ragged, Span, View, ViewMut};

use super::{CachedKeys, DevicePredictor};
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;

/// Score, select and compact as a stage needs them, and attention over cached keys, on tensors of
/// one device. What one call returns may be passed to the next before the device has made it.
pub trait Verbs {
    /// Which tokens a selection kept.
    type Kept;

    /// Scores of hidden states `[tokens, hidden]`: f32 `[tokens]`.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the predictor or the kernel takes.
    fn mlp(&mut self, predictor: &DevicePredictor, hidden: &Tensor) -> Result<Tensor>;

    /// Minus the norms of keys `[tokens, kv_heads, head_dim]`, averaged over heads: f32 `[tokens]`.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes.
    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor>;

    /// Scores f32 `[tokens]` of keys `[tokens, kv_heads, head_dim]`, packed as `rows` says, by the
    /// attention of the last tokens of every sequence: their queries are `q`, `[asking, heads,
    /// head_dim]`, packed as `asking` says.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes, more queries than that,
    /// and lengths that do not fit together.
    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor>;

    /// Which of the packed tokens `rows` stay at a stage, by scores f32 `[tokens]`.
    ///
    /// # Errors
    /// For lengths that do not fit together and budgets below the protected tokens.
    fn select(&mut self, scores: &Tensor, rows: &Ragged, stage: &StagePlan) -> Result<Self::Kept>;

    /// The kept rows of tensors that have a row per token, in ascending order.
    ///
    /// # Errors
    /// For tensors of another device or layout, or with another number of rows.
    fn rows(&mut self, kept: &Self::Kept, tensors: &[&Tensor]) -> Result<Vec<Tensor>>;

    /// Whether [`Verbs::prefill`] and [`Verbs::decode`] take tensors of this type, with these
    /// numbers of query heads, KV heads and channels per head.
    fn attends(&self, dtype: DType, heads: usize, kv_heads: usize, dim: usize) -> bool;

    /// Attention of queries `[rows, heads, head_dim]`, packed as `rows` says, over cached keys,
    /// with logits scaled by `scale`. The output has the shape and type of the queries. `limits`,
    /// u32 `[rows]`, says how many of its sequence's keys each query sees. Without it, the queries
    /// are the last tokens of their sequences, and each sees itself and all before it.
    ///
    /// # Errors
    /// For tensors of another device, type or layout than the kernel takes, and lengths that do not
    /// fit together.
    fn prefill(
        &mut self,
        q: &Tensor,
        rows: &Ragged,
        cached: &CachedKeys,
        limits: Option<&Tensor>,
        scale: f32,
    ) -> Result<Tensor>;

    /// Attention of one query per sequence, `[batch, heads, head_dim]`, over all of its cached
    /// keys. Their numbers are read where the tensors are.
    ///
    /// # Errors
    /// As [`Verbs::prefill`].
    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor>;

    /// Waits for the device and says whether a score was NaN so far.
    ///
    /// # Errors
    /// [`salient::Error::Faulted`] for faults that only the device saw, and those of the device.
    fn finish(&mut self) -> Result<bool>;
}

/// The verbs on tensors in host memory.
#[derive(Debug, Default)]
pub struct HostVerbs {
    saw_nan: bool,
}

impl Verbs for HostVerbs {
    type Kept = Selection;

    fn mlp(&mut self, predictor: &DevicePredictor, hidden: &Tensor) -> Result<Tensor> {
        let (tokens, _) = hidden.dims2()?;
        let mut scores = vec![0.0; tokens];
        match predictor {
            DevicePredictor::Host(predictor) => {
                score::mlp(&values(hidden)?, predictor, &mut scores)?;
            }
            #[cfg(feature = "cuda")]
            DevicePredictor::Cuda(_) => {
                return Err(misplaced(predictor, hidden.device().location()));
            }
        }
        Ok(Tensor::from_vec(scores, tokens, hidden.device())?)
    }

    fn keynorm(&mut self, keys: &Tensor) -> Result<Tensor> {
        let (tokens, heads, dim) = keys.dims3()?;
        let mut scores = vec![0.0; tokens];
        score::keynorm(View::token_major(&values(keys)?, heads, dim), Per::Token, &mut scores)?;
        Ok(Tensor::from_vec(scores, tokens, keys.device())?)
    }

    fn attention(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor> {
        let ((_, heads, dim), (tokens, kv_heads, _)) = (q.dims3()?, keys.dims3()?);
        let mut scores = vec![0.0; tokens];
        let (queries, on) = (values(q)?, values(keys)?);
        let (queries, on) =
            (View::token_major(&queries, heads, dim), View::token_major(&on, kv_heads, dim));
        score::window(queries, asking, on, rows, score, &mut scores)?;
        Ok(Tensor::from_vec(scores, tokens, keys.device())?)
    }

    fn select(&mut self, scores: &Tensor, rows: &Ragged, stage: &StagePlan) -> Result<Selection> {
        check_stage(rows, stage)?;
        let selection = select::select(&scores.to_vec1()?, &request(rows, stage))?;
        self.saw_nan |= selection.saw_nan();
        Ok(selection)
    }

    fn rows(&mut self, kept: &Selection, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let rows = kept.rows();
        let kept = rows.spans().enumerate().flat_map(|(sequence, span)| {
            kept.row(sequence, 0).iter().map(move |&token| (span.start + token as usize) as u32)
        });
        let kept: Vec<u32> = kept.collect();
        let gather = |tensor: &&Tensor| {
            check_rows(tensor, rows.total())?;
            Ok(tensor.index_select(&Tensor::new(kept.as_slice(), tensor.device())?, 0)?)
        };
        tensors.iter().map(gather).collect()
    }

    fn attends(&self, _: DType, heads: usize, kv_heads: usize, _: usize) -> bool {
        kv_heads > 0 && heads.is_multiple_of(kv_heads)
    }

    fn prefill(
        &mut self,
        q: &Tensor,
        rows: &Ragged,
        cached: &CachedKeys,
        limits: Option<&Tensor>,
        scale: f32,
    ) -> Result<Tensor> {
        let limits = limits.map(|limits| limits.to_vec1::<u32>()).transpose()?;
        let limits: Option<Vec<i32>> =
            limits.map(|limits| limits.into_iter().map(|limit| limit as i32).collect());
        let limit = limits.as_deref().map_or(RowLimit::Causal, RowLimit::PerRow);
        attended(q, cached, |q, keys, out| {
            attend::prefill(q, rows, keys, limit, &Attention::new(scale), out, None)
        })
    }

    fn decode(&mut self, q: &Tensor, cached: &CachedKeys, scale: f32) -> Result<Tensor> {
        attended(q, cached, |q, keys, out| {
            attend::decode(q, keys, KeyLists::Dense, &Attention::new(scale), out, None)
        })
    }

    fn finish(&mut self) -> Result<bool> {
        Ok(self.saw_nan)
    }
}

/// Runs attention in f32, and rounds to the type of the queries.
fn attended(
    q: &Tensor,
    cached: &CachedKeys,
    run: impl FnOnce(View<'_, f32>, &Keys<'_, f32>, ViewMut<'_, f32>) -> salient::Result<()>,
) -> Result<Tensor> {
    let (rows, heads, dim) = q.dims3()?;
    let (_, kv_heads, _) = cached.keys.dims3()?;
    let (keys, values, queries) = (values(&cached.keys)?, values(&cached.values)?, values(q)?);
    let (starts, lens) = (cached.starts.to_vec1::<u32>()?, cached.lens.to_vec1::<u32>()?);
    let spans: Vec<Span> = starts
        .into_iter()
        .zip(lens)
        .map(|(start, len)| Span { start: start as usize, len: len as usize })
        .collect();
    let keys = Keys::Contiguous {
        k: View::token_major(&keys, kv_heads, dim),
        v: View::token_major(&values, kv_heads, dim),
        spans: &spans,
    };
    let mut out = vec![0.0; rows * heads * dim];
    let to = ViewMut::token_major(&mut out, heads, dim);
    run(View::token_major(&queries, heads, dim), &keys, to)?;
    Ok(Tensor::from_vec(out, (rows, heads, dim), q.device())?.to_dtype(q.dtype())?)
}

/// What a stage asks of a selection.
pub(crate) fn request<'a>(rows: &'a Ragged, stage: &'a StagePlan) -> Request<'a> {
    Request {
        rows,
        heads: 1,
        budget: Budget::Counts(&stage.counts[..]),
        protect: Protect { edges: PerSequence::Each(&stage.edges), mask: None },
    }
}

/// Checks that a stage was planned for these rows.
pub(crate) fn check_stage(rows: &Ragged, stage: &StagePlan) -> Result<()> {
    let mismatch = |what, expected, actual| {
        Err(salient::Error::LengthMismatch { what, expected, actual }.into())
    };
    for (what, actual) in [
        ("counts of a stage", stage.counts.len()),
        ("edges of a stage", stage.edges.len()),
        ("sequences of a stage", stage.rows.batch()),
    ] {
        if actual != rows.batch() {
            return mismatch(what, rows.batch(), actual);
        }
    }
    for ((len, &count), kept) in rows.lens().zip(&stage.counts).zip(stage.rows.lens()) {
        if kept != len.min(count) {
            return mismatch("tokens that a stage keeps of a sequence", len.min(count), kept);
        }
    }
    Ok(())
}

/// Checks that a tensor has a row per token.
pub(crate) fn check_rows(tensor: &Tensor, expected: usize) -> Result<()> {
    match tensor.dims().first() {
        Some(&rows) if rows == expected => Ok(()),
        first => {
            let (what, actual) = ("rows of a tensor", first.copied().unwrap_or_default());
            Err(salient::Error::LengthMismatch { what, expected, actual }.into())
        }
    }
}

/// A predictor on another device than the hidden states.
#[cfg(feature = "cuda")]
pub(crate) fn misplaced(
    predictor: &DevicePredictor,
    expected: candle_core::DeviceLocation,
) -> Error {
    Error::TensorPlace { what: "the predictor", expected, actual: predictor.location() }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
