//! Scores from attention.

use half::{bf16, f16};
use salient::attend::{Attention, Keys, RowLimit};
use salient::cuda::{DeviceElement, TensorView};
use salient::kernels::score::check_attention;
use salient::score::{AttentionScore, Pool};
use salient::{DType, Element, Error, Layout, Ragged, Result, Span, View};
use salient_oracle::attend::{Weights, prefill};
use salient_oracle::implementation::{Sample, ScoreAttention};
use salient_oracle::tensor::Sums;

use super::Device;

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
        self.attention((q, &queries), (k, rows), Some(1), score, out)
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
        self.attention((q, queries), (k, rows), Some(window), score, out)
    }

    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        self.attention((q, rows), (k, rows), None, score, out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        let heads = scores.len().checked_div(rows.total()).unwrap_or(1).max(1);
        let mut session = self.session()?;
        let scores = session.upload(scores)?;
        let pooled = session.pool(&scores.view(), rows, heads, *pool)?;
        self.give(&mut session, &pooled, out)
    }
}

impl Device {
    /// Scores of the last queries of all sequences, or of all from the LSE, which is the oracle's.
    fn attention_of<T: DeviceElement>(
        &self,
        (q, queries): (View<'_, T>, &Ragged),
        (k, rows): (View<'_, T>, &Ragged),
        window: Option<usize>,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let mut session = self.session()?;
        let (q_there, k_there) = (session.upload(q.data)?, session.upload(k.data)?);
        let queries = (&TensorView::new(q_there.view(), q.layout), queries);
        let keys = (&TensorView::new(k_there.view(), k.layout), rows);
        let scores = match window {
            Some(window) => session.window(queries, keys, window, score)?,
            None => {
                let lse = session.upload(&causal_lse(q, k, rows, score.scale))?;
                let longest = rows.lens().max().unwrap_or(0);
                session.window_of_lse(queries, keys, longest, score, &lse.view())?
            }
        };
        self.give(&mut session, &scores, out)
    }

    /// The same for elements of any type.
    fn attention<T: Element>(
        &self,
        (q, queries): (View<'_, T>, &Ragged),
        (k, rows): (View<'_, T>, &Ragged),
        window: Option<usize>,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        fn cast<'a, T: Element, D: DeviceElement>(view: View<'a, T>) -> View<'a, D> {
            View::new(bytemuck::cast_slice(view.data), view.layout)
        }
        check_attention(q.layout, k.layout, T::DTYPE)?;
        match T::DTYPE {
            DType::F16 => {
                let (q, k) = (cast::<T, f16>(q), cast(k));
                self.attention_of((q, queries), (k, rows), window, score, out)
            }
            _ => {
                let (q, k) = (cast::<T, bf16>(q), cast(k));
                self.attention_of((q, queries), (k, rows), window, score, out)
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
