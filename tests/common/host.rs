//! The host backend as an implementation of the conformance suite.

use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::dtype::F8E4M3;
use salient::host::compact::{self, KvMut, PagedKvMut, RowTensor, RowTensorMut};
use salient::host::score::{self, Predictor};
use salient::host::{attend, select};
use salient::score::{
    AttentionScore, ExpectedAttention, IndexerKeys, IndexerQueries, Logits, Per, Pool,
    PredictorWeights, QueryStatistics,
};
use salient::select::{Request, Selection};
use salient::{Element, Layout, PagedLayout, Ragged, Result, Span, View, ViewMut};
use salient_oracle::compact::Kept;
use salient_oracle::implementation::{
    AttendDecode, AttendFp8, AttendPrefill, Compact, Score, ScoreAttention, ScoreExpected,
    ScoreIndexer, ScorePositions, ScoreRanks, Select,
};
use salient_oracle::select::Selected;

/// The host backend.
pub(crate) struct Host;

impl AttendPrefill for Host {
    fn prefill<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<&[i32]>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        attend::prefill(q, queries, keys, limit, attention, out, lse)
    }
}

impl AttendDecode for Host {
    fn decode<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        attend::decode(q, keys, lists, attention, out, lse)
    }
}

impl AttendFp8 for Host {
    fn decode_fp8<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, F8E4M3>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        attend::decode(q, keys, lists, attention, out, lse)
    }
}

impl Compact for Host {
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>> {
        let selection = selection(kept)?;
        let outputs = tensors.iter().map(|(_, width)| selection.kept().len() * width);
        let mut outputs: Vec<Vec<T>> = outputs.map(|len| vec![T::from_f32(0.0); len]).collect();
        let mut moves = Vec::new();
        for (&(src, width), dst) in tensors.iter().zip(&mut outputs) {
            moves.push(RowTensor::new(src, width, dst)?);
        }
        compact::rows(&selection, &mut moves)?;
        Ok(outputs)
    }

    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()> {
        let selection = selection(kept)?;
        let mut moves = Vec::new();
        for (data, width) in &mut *tensors {
            moves.push(RowTensorMut::new(data, *width)?);
        }
        compact::rows_in_place(&selection, &mut moves)?;
        for (data, width) in tensors {
            data.truncate(selection.kept().len() * *width);
        }
        Ok(())
    }

    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        layout: Layout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<()> {
        let layers = layers.iter_mut().map(|[k, v]| KvMut::new(k, v, layout, spans));
        compact::kv(&selection(kept)?, &mut layers.collect::<Result<Vec<_>>>()?)
    }

    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        page_table: &[i32],
        layout: PagedLayout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Vec<i32>> {
        let layers = layers.iter_mut().map(|[k, v]| PagedKvMut::new(k, v, layout));
        let mut layers = layers.collect::<Result<Vec<_>>>()?;
        compact::kv_paged(&selection(kept)?, page_table, &mut layers)
    }
}

fn selection(kept: &Kept<'_>) -> Result<Selection> {
    Selection::from_lists(kept.source.clone(), kept.heads, kept.lists)
}

impl Score for Host {
    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        score::mlp(x, &Predictor::new(hidden, weights.clone())?, out)
    }

    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
        score::keynorm(k, per, out)
    }
}

impl ScoreAttention for Host {
    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::last_query(q, k, rows, params, out)
    }

    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::window(q, queries, k, rows, params, out)
    }

    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::columns(q, k, rows, params, out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        score::pool(scores, rows, pool, out)
    }
}

impl ScoreExpected for Host {
    fn expected<T: Element>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()> {
        score::expected(k, v, rows, statistics, options, out)
    }
}

impl ScoreIndexer for Host {
    fn indexer<T: Element>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()> {
        score::indexer(queries, keys, logits, out)
    }
}

impl ScoreRanks for Host {
    fn rank(&self, scores: &[f32], rows: &Ragged, out: &mut [f32]) -> Result<()> {
        score::rank(scores, rows, out)
    }
}

impl ScorePositions for Host {
    fn random(&self, seed: u64, positions: &[i32], out: &mut [f32]) -> Result<()> {
        score::random(seed, positions, out)
    }

    fn position(&self, rows: &Ragged, out: &mut [f32]) -> Result<()> {
        score::position(rows, out)
    }
}

impl Select for Host {
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected> {
        let selection = select::select(scores, request)?;
        let row = |row| selection.row(row / request.heads, row % request.heads).to_vec();
        Ok(Selected {
            kept: (0..request.rows.batch() * request.heads).map(row).collect(),
            inverse: selection.inverse(),
            cu_seqlens: selection.kept_rows().cu_seqlens().to_vec(),
            saw_nan: selection.saw_nan(),
        })
    }
}
