//! Scores from attention.

use half::{bf16, f16};
use salient::attend::{Attention, Keys, RowLimit};
use salient::cuda::DeviceElement;
use salient::cuda::score::{self, AttentionInputs};
use salient::kernels::score::{AttentionPlan, AttentionShape, PoolPlan, check_attention};
use salient::score::{AttentionScore, Pool};
use salient::{DType, Element, Error, Layout, Ragged, Result, Span, View};
use salient_oracle::attend::{Weights, prefill};
use salient_oracle::implementation::{Sample, ScoreAttention};
use salient_oracle::tensor::Sums;

use super::{Device, Upload};

impl ScoreAttention for Device {
    fn attention_sums(&self) -> Sums {
        self.sums
    }

    fn attention_sample(&self) -> Sample {
        self.sample
    }

    fn takes_attention<T: Element>(&self, q: Layout, k: Layout) -> bool {
        check_attention(q, k, T::DTYPE).is_ok()
    }

    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let queries = Ragged::from_lens(&vec![1; rows.batch()])?;
        let plan = |shape| AttentionPlan::window(shape, *score, 1);
        self.attention(plan, (q, &queries), (k, rows), score.scale, out)
    }

    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let (what, expected, actual) = ("sequences of queries", rows.batch(), queries.batch());
        if expected != actual {
            return Err(Error::LengthMismatch { what, expected, actual });
        }
        // The device would leave out those that are too many.
        if let Some((queries, _)) = queries.lens().zip(rows.lens()).find(|(q, keys)| q > keys) {
            let (what, value) = ("queries of a window", queries as f64);
            return Err(Error::OutOfRange { what, value, expected: "at most its tokens" });
        }
        let window = queries.lens().max().unwrap_or(0);
        let plan = |shape| AttentionPlan::window(shape, *score, window);
        self.attention(plan, (q, queries), (k, rows), score.scale, out)
    }

    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let plan = |shape| AttentionPlan::columns(shape, *score);
        self.attention(plan, (q, rows), (k, rows), score.scale, out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        let (total, max_len) = (rows.total(), rows.lens().max().unwrap_or(0));
        let heads = scores.len().checked_div(total).unwrap_or(1).max(1);
        let plan = PoolPlan::new(heads, rows.batch(), total, max_len, *pool)?;
        let (scores, mut pooled) = (self.upload(scores)?, self.upload(out)?);
        let cu_seqlens = self.upload(rows.cu_seqlens())?;
        self.with_status(|status| {
            let (scores, cu_seqlens) = (scores.view(), cu_seqlens.view());
            let mut pooled = pooled.view_mut();
            score::pool(&self.stream, &plan, &scores, &cu_seqlens, &mut pooled, status)
        })?
        .check()?;
        out.copy_from_slice(&self.download(&pooled)?);
        Ok(())
    }
}

impl Device {
    /// Scores of the queries of all sequences, or of their last; the LSE, where the plan asks for
    /// it, is that of the oracle.
    fn attention_of<T: DeviceElement + Default>(
        &self,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        [(q, queries, q_layout), (k, rows, k_layout)]: [(&[T], &Ragged, Layout); 2],
        scale: f32,
        out: &mut [f32],
    ) -> Result<()> {
        let plan = plan(AttentionShape {
            batch: rows.batch(),
            queries: queries.total(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            dtype: T::DTYPE,
            q: q_layout,
            k: k_layout,
        })?;
        let lse = plan.takes_lse().then(|| {
            let (q, k) = (View::new(q, q_layout), View::new(k, k_layout));
            self.upload(&causal_lse(q, k, rows, scale))
        });
        let lse = lse.transpose()?;
        let (q, k) = (self.upload(q)?, self.upload(k)?);
        let cu_queries = self.upload(queries.cu_seqlens())?;
        let (cu_seqlens, mut scores) = (self.upload(rows.cu_seqlens())?, self.upload(out)?);
        let mut workspace = self.unwritten(plan.workspace_bytes())?;
        self.with_status(|status| {
            let inputs = AttentionInputs {
                q: q.view(),
                k: k.view(),
                lse: lse.as_ref().map(Upload::view),
                cu_queries: cu_queries.view(),
                cu_seqlens: cu_seqlens.view(),
            };
            let (mut scores, mut workspace) = (scores.view_mut(), workspace.view_mut());
            score::attention(&self.stream, &plan, &inputs, &mut scores, &mut workspace, status)
        })?
        .check()?;
        out.copy_from_slice(&self.download(&scores)?);
        Ok(())
    }

    /// The same for elements of any type.
    fn attention<T: Element>(
        &self,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        (q, queries): (View<'_, T>, &Ragged),
        (k, rows): (View<'_, T>, &Ragged),
        scale: f32,
        out: &mut [f32],
    ) -> Result<()> {
        fn cast<'a, T: Element, D: DeviceElement>(
            (view, rows): (View<'a, T>, &'a Ragged),
        ) -> (&'a [D], &'a Ragged, Layout) {
            (bytemuck::cast_slice(view.data), rows, view.layout)
        }
        check_attention(q.layout, k.layout, T::DTYPE)?;
        match T::DTYPE {
            DType::F16 => {
                let operands = [cast::<T, f16>((q, queries)), cast((k, rows))];
                self.attention_of(plan, operands, scale, out)
            }
            _ => {
                let operands = [cast::<T, bf16>((q, queries)), cast((k, rows))];
                self.attention_of(plan, operands, scale, out)
            }
        }
    }
}

/// What a causal prefill saves, exact.
fn causal_lse<T: Element>(q: View<'_, T>, k: View<'_, T>, rows: &Ragged, scale: f32) -> Vec<f32> {
    let spans: Vec<Span> = rows.spans().collect();
    let keys = Keys::Contiguous { k, v: k, spans: &spans };
    let attention = Attention::new(scale);
    let (_, lse): (Vec<f64>, Vec<f64>) =
        prefill(q, rows, &keys, RowLimit::Causal, &attention, Weights::Exact);
    lse.into_iter().map(|lse| lse as f32).collect()
}
