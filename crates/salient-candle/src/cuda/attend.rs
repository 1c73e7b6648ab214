//! Attention over cached keys on tensors.

use candle_core::cuda_backend::CudaDType;
use candle_core::{Tensor, WithDType};
use salient::attend::{Attention, CacheLayout, KeyLists, RowLimit};
use salient::cuda::cudarc::driver::ValidAsZeroBits;
use salient::cuda::{self as on_device, Array, Attended, DeviceElement, Place, signed};
use salient::kernels::score::MAX_WINDOW;
use salient::score::AttentionScore;
use salient::{Layout, Ragged, Span};

use super::backend::CudaBackend;
use super::tensor::{TensorView, tensor};
use crate::backend::{Queries, check_rows};
use crate::cache::CachedKeys;
use crate::error::Result;

/// An element type that attention takes.
pub(super) trait Half: DeviceElement + CudaDType + WithDType + ValidAsZeroBits {}

impl<T: DeviceElement + CudaDType + WithDType + ValidAsZeroBits> Half for T {}

/// Cached keys and values, locked.
struct Locked<'a> {
    k: TensorView<'a>,
    v: TensorView<'a>,
    layouts: [Layout; 2],
    tokens: usize,
    starts: TensorView<'a>,
    lens: TensorView<'a>,
}

impl<'a> Locked<'a> {
    fn new(cached: &'a CachedKeys) -> Result<Self> {
        let (k, k_layout) = TensorView::heads("keys", &cached.keys)?;
        let (v, v_layout) = TensorView::heads("values", &cached.values)?;
        Ok(Self {
            k,
            v,
            layouts: [k_layout, v_layout],
            tokens: cached.keys.dim(0)?,
            starts: TensorView::packed("starts of the sequences", &cached.starts)?,
            lens: TensorView::packed("lengths of the sequences", &cached.lens)?,
        })
    }

    fn keys<T: Half>(&self) -> Result<on_device::CachedKeys<'_, T>> {
        let ([k, v], tokens) = (self.layouts, self.tokens);
        Ok(on_device::CachedKeys {
            k: self.k.elements()?,
            v: self.v.elements()?,
            layout: CacheLayout::Contiguous { k, v, tokens },
            place: Place::Spans(signed(&self.starts.elements()?)),
            lens: signed(&self.lens.elements()?),
        })
    }
}

impl CudaBackend {
    pub(super) fn prefill_of<T: Half>(
        &mut self,
        q: &Tensor,
        queries: &Queries<'_>,
        cached: &CachedKeys,
        scale: f32,
    ) -> Result<Tensor> {
        let Queries { rows, limits, .. } = *queries;
        check_rows(q, rows.total())?;
        let shape = q.dims3()?;
        let (q, layout) = TensorView::heads("queries", q)?;
        let locked = Locked::new(cached)?;
        let limits = limits.map(|limits| TensorView::packed("row limits", limits)).transpose()?;
        let limit = match &limits {
            Some(limits) => RowLimit::PerRow(signed(&limits.elements()?)),
            None => RowLimit::Causal,
        };
        let q = on_device::TensorView::new(q.elements::<T>()?, layout);
        let (keys, attention) = (locked.keys::<T>()?, Attention::new(scale));
        let attended: Attended<T> = self.session.prefill(&q, rows, &keys, limit, &attention)?;
        tensor(attended.out.into_slice(), shape, &self.device)
    }

    pub(super) fn scores_of<T: Half>(
        &mut self,
        q: &Tensor,
        asking: &Ragged,
        keys: &Tensor,
        rows: &Ragged,
        score: &AttentionScore,
    ) -> Result<Tensor> {
        check_rows(q, asking.total())?;
        check_rows(keys, rows.total())?;
        let (q, q_layout) = TensorView::heads("queries", q)?;
        let (k, k_layout) = TensorView::heads("keys", keys)?;
        let q = on_device::TensorView::new(q.elements::<T>()?, q_layout);
        let k = on_device::TensorView::new(k.elements::<T>()?, k_layout);
        let window = asking.lens().max().unwrap_or(0);
        let scores = if window <= MAX_WINDOW {
            self.session.window((&q, asking), (&k, rows), window, score)?
        } else {
            let lse = self.lse_of((&q, asking), (&k, rows), score.scale)?;
            self.session.window_of_lse((&q, asking), (&k, rows), window, score, &lse.view())?
        };
        tensor(scores.into_slice(), rows.total(), &self.device)
    }

    /// The logarithm of the sum of exponentials of every query, the last ones of their sequences.
    /// Attention makes it beside what is of no use here: the output, over keys as values.
    fn lse_of<T: Half>(
        &mut self,
        (q, asking): (&on_device::TensorView<'_, T>, &Ragged),
        (k, rows): (&on_device::TensorView<'_, T>, &Ragged),
        scale: f32,
    ) -> Result<Array<f32>> {
        let numbers = |of: fn(Span) -> usize| -> Vec<i32> {
            rows.spans().map(|span| of(span) as i32).collect()
        };
        let starts = self.session.upload(&numbers(|span| span.start))?;
        let lens = self.session.upload(&numbers(|span| span.len))?;
        let (layout, tokens) = (k.layout, rows.total());
        let keys = on_device::CachedKeys {
            k: k.data.slice(..),
            v: k.data.slice(..),
            layout: CacheLayout::Contiguous { k: layout, v: layout, tokens },
            place: Place::Spans(starts.view()),
            lens: lens.view(),
        };
        let attention = Attention::new(scale);
        let attended: Attended<T> =
            self.session.prefill(q, asking, &keys, RowLimit::Causal, &attention)?;
        Ok(attended.lse)
    }

    pub(super) fn decode_of<T: Half>(
        &mut self,
        q: &Tensor,
        cached: &CachedKeys,
        scale: f32,
    ) -> Result<Tensor> {
        let shape = q.dims3()?;
        let (q, layout) = TensorView::heads("queries", q)?;
        let locked = Locked::new(cached)?;
        let q = on_device::TensorView::new(q.elements::<T>()?, layout);
        let (keys, attention) = (locked.keys::<T>()?, Attention::new(scale));
        let (lists, capacity) = (KeyLists::Dense, cached.capacity);
        let attended: Attended<T> = self.session.decode(&q, &keys, lists, capacity, &attention)?;
        tensor(attended.out.into_slice(), shape, &self.device)
    }
}
