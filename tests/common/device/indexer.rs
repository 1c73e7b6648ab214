//! The lightning indexer.

use half::{bf16, f16};
use salient::attend::RowLimit;
use salient::cuda::DeviceElement;
use salient::cuda::score::{self, IndexerInputs};
use salient::dtype::F8E4M3;
use salient::kernels::score::{IndexerPlan, IndexerShape};
use salient::score::{IndexerKeys, IndexerQueries, Logits};
use salient::{DType, Element, Layout, Result, View};
use salient_oracle::implementation::{Sample, ScoreIndexer};
use salient_oracle::tensor::Sums;

use super::{Device, Upload};

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
        let plan = IndexerPlan::of(queries, keys, logits)?;
        let ints = |list: Option<&&[i32]>| list.map(|list| self.upload(list)).transpose();
        let (firsts, limits) = (ints(queries.limit.firsts())?, ints(queries.limit.limits())?);
        let (q, weights) = (self.upload(queries.q.data)?, self.upload(queries.weights)?);
        let k = self.upload(keys.k.data)?;
        let scales = keys.scales.map(|scales| self.upload(scales)).transpose()?;
        let cu_queries = self.upload(queries.rows.cu_seqlens())?;
        let cu_keys = self.upload(keys.rows.cu_seqlens())?;
        let mut there = self.upload(out)?;
        self.with_status(|status| {
            let inputs = IndexerInputs {
                q: q.view(),
                weights: weights.view(),
                k: k.view(),
                scales: scales.as_ref().map(Upload::view),
                cu_queries: cu_queries.view(),
                cu_keys: cu_keys.view(),
                firsts: firsts.as_ref().map(Upload::view),
                limits: limits.as_ref().map(Upload::view),
            };
            score::indexer(&self.stream, &plan, &inputs, &mut there.view_mut(), status)
        })?
        .check()?;
        out.copy_from_slice(&self.download(&there)?);
        Ok(())
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
