//! The lightning indexer.

use half::{bf16, f16};
use salient::attend::RowLimit;
use salient::cuda::{Array, DeviceElement, IndexerTensors, TensorView};
use salient::dtype::F8E4M3;
use salient::kernels::score::{IndexerPlan, IndexerShape};
use salient::score::{IndexerKeys, IndexerQueries, Logits};
use salient::{DType, Element, Error, Layout, Result, View};
use salient_oracle::implementation::{Sample, ScoreIndexer};
use salient_oracle::tensor::Sums;

use super::Device;

impl ScoreIndexer for Device {
    fn indexer_sums(&self) -> Sums {
        self.sums
    }

    fn indexer_sample(&self) -> Sample {
        self.sample
    }

    fn indexer<T: Element>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()> {
        match T::DTYPE {
            DType::F16 => {
                let (queries, keys) = cast::<T, f16>(queries, keys);
                self.indexer_of(&queries, &keys, logits, out)
            }
            DType::Bf16 => {
                let (queries, keys) = cast::<T, bf16>(queries, keys);
                self.indexer_of(&queries, &keys, logits, out)
            }
            DType::F8E4M3 => {
                let (queries, keys) = cast::<T, F8E4M3>(queries, keys);
                self.indexer_of(&queries, &keys, logits, out)
            }
            _ => IndexerPlan::of(queries, keys, logits).map(drop),
        }
    }

    fn takes_indexer<T: Element>(&self, q: Layout, k: Layout) -> bool {
        let (batch, queries, max_queries, keys, max_keys) = (0, 0, 0, 0, 0);
        let (dtype, limit, logits) = (T::DTYPE, RowLimit::Full, Logits::Tokens);
        IndexerPlan::new(IndexerShape {
            batch,
            queries,
            max_queries,
            keys,
            max_keys,
            dtype,
            q,
            k,
            limit,
            logits,
        })
        .is_ok()
    }
}

impl Device {
    fn indexer_of<T: DeviceElement + Default>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()> {
        let mut session = self.session()?;
        let (q, weights) = (session.upload(queries.q.data)?, session.upload(queries.weights)?);
        let k = session.upload(keys.k.data)?;
        let scales = keys.scales.map(|scales| session.upload(scales)).transpose()?;
        let limit = queries.limit.try_map(|rows| session.upload(rows))?;
        let tensors = IndexerTensors {
            q: TensorView::new(q.view(), queries.q.layout),
            weights: weights.view(),
            queries: queries.rows,
            limit: limit.try_map(|rows| Ok::<_, Error>(rows.view()))?,
            k: TensorView::new(k.view(), keys.k.layout),
            scales: scales.as_ref().map(Array::view),
            keys: keys.rows,
        };
        let logits = session.indexer(&tensors, logits)?;
        self.give(&mut session, &logits, out)
    }
}

/// The same, of the type that `T` is.
fn cast<'a, T: Element, D: Element>(
    queries: &IndexerQueries<'a, T>,
    keys: &IndexerKeys<'a, T>,
) -> (IndexerQueries<'a, D>, IndexerKeys<'a, D>) {
    fn of<'a, T: Element, D: Element>(view: View<'a, T>) -> View<'a, D> {
        View::new(bytemuck::cast_slice(view.data), view.layout)
    }
    let IndexerQueries { q, weights, rows, limit } = *queries;
    let queries = IndexerQueries { q: of(q), weights, rows, limit };
    (queries, IndexerKeys { k: of(keys.k), scales: keys.scales, rows: keys.rows })
}
