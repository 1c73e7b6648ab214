//! Attention over cached keys on tensors.

use candle_core::cuda_backend::CudaDType;
use candle_core::{Tensor, WithDType};
use salient::attend::{Attention, CacheLayout, KeyLists, RowLimit};
use salient::cuda::attend::{AttendOutputs, DecodeInputs, PrefillInputs, decode, prefill};
use salient::cuda::cudarc::driver::ValidAsZeroBits;
use salient::cuda::score::{AttentionInputs, attention};
use salient::cuda::{DeviceElement, signed};
use salient::kernels::attend::{DecodePlan, DecodeShape, PrefillPlan, PrefillShape};
use salient::kernels::score::{AttentionPlan, AttentionShape};
use salient::score::AttentionScore;
use salient::{Element, Layout, Ragged};

use super::tensor::{TensorView, tensor};
use super::verbs::{CudaVerbs, room};
use crate::device::{CachedKeys, check_rows};
use crate::error::Result;

/// An element type that attention takes.
pub(super) trait Half: DeviceElement + CudaDType + WithDType + ValidAsZeroBits {}

impl<T: DeviceElement + CudaDType + WithDType + ValidAsZeroBits> Half for T {}

impl CudaVerbs {
    pub(super) fn prefill_of<T: Half>(
        &mut self,
        q: &Tensor,
        rows: &Ragged,
        cached: &CachedKeys,
        limits: Option<&Tensor>,
        scale: f32,
    ) -> Result<Tensor> {
        check_rows(q, rows.total())?;
        let (queries, heads, dim) = q.dims3()?;
        let (q, q_layout) = TensorView::heads("queries", q)?;
        let (k, k_layout) = TensorView::heads("keys", &cached.keys)?;
        let (v, v_layout) = TensorView::heads("values", &cached.values)?;
        let shape = PrefillShape {
            batch: rows.batch(),
            queries,
            max_queries: rows.lens().max().unwrap_or(0),
            keys: cached.keys.dim(0)?,
            dtype: <T as Element>::DTYPE,
            out_dtype: <T as Element>::DTYPE,
            q: q_layout,
            k: k_layout,
            v: v_layout,
            out: Layout::token_major(heads, dim),
        };
        let limit = limits.map_or(RowLimit::Causal, |_| RowLimit::PerRow(()));
        let plan = PrefillPlan::new(shape, Attention::new(scale), limit)?;
        let cu_queries = self.upload(rows.cu_seqlens())?;
        let (starts, lens) = spans(cached)?;
        let limits = limits.map(|limits| TensorView::packed("row limits", limits)).transpose()?;
        let mut out = self.zeros::<T>(queries * heads * dim)?;
        let inputs = PrefillInputs {
            q: q.elements::<T>()?,
            k: k.elements::<T>()?,
            v: v.elements::<T>()?,
            cu_queries: cu_queries.as_view(),
            key_starts: signed(&starts.elements()?),
            key_lens: signed(&lens.elements()?),
            firsts: None,
            limits: limits.as_ref().map(TensorView::elements).transpose()?.map(|l| signed(&l)),
            sinks: None,
        };
        let mut outputs = AttendOutputs::new(out.as_view_mut());
        prefill(&self.stream, &plan, &inputs, &mut outputs, &mut self.status)?;
        tensor(out, (queries, heads, dim), &self.device)
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
        let shape = AttentionShape {
            batch: rows.batch(),
            queries: asking.total(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            dtype: <T as Element>::DTYPE,
            q: q_layout,
            k: k_layout,
        };
        let plan = AttentionPlan::window(shape, *score, asking.lens().max().unwrap_or(0))?;
        let cu_queries = self.upload(asking.cu_seqlens())?;
        let cu_seqlens = self.upload(rows.cu_seqlens())?;
        let mut scores = self.zeros::<f32>(plan.scores_len())?;
        let inputs = AttentionInputs {
            q: q.elements::<T>()?,
            k: k.elements::<T>()?,
            lse: None,
            cu_queries: cu_queries.as_view(),
            cu_seqlens: cu_seqlens.as_view(),
        };
        let workspace = room(&mut self.workspace, &self.stream, plan.workspace_bytes())?;
        let (to, workspace) = (&mut scores.as_view_mut(), &mut workspace.as_view_mut());
        attention(&self.stream, &plan, &inputs, to, workspace, &mut self.status)?;
        tensor(scores, rows.total(), &self.device)
    }

    pub(super) fn decode_of<T: Half>(
        &mut self,
        q: &Tensor,
        cached: &CachedKeys,
        scale: f32,
    ) -> Result<Tensor> {
        let (batch, heads, dim) = q.dims3()?;
        let (q, q_layout) = TensorView::heads("queries", q)?;
        let (k, k_layout) = TensorView::heads("keys", &cached.keys)?;
        let (v, v_layout) = TensorView::heads("values", &cached.values)?;
        let tokens = cached.keys.dim(0)?;
        let plan = DecodePlan::new(DecodeShape {
            batch,
            q: q_layout,
            out: Layout::token_major(heads, dim),
            cache: CacheLayout::Contiguous { k: k_layout, v: v_layout, tokens },
            lists: KeyLists::Dense,
            capacity: cached.capacity,
            dtype: <T as Element>::DTYPE,
            cache_dtype: <T as Element>::DTYPE,
            out_dtype: <T as Element>::DTYPE,
            attention: Attention::new(scale),
        })?;
        let (starts, lens) = spans(cached)?;
        let mut out = self.zeros::<T>(batch * heads * dim)?;
        let keys = [k.elements::<T>()?, v.elements::<T>()?];
        let (starts, lens) = (signed(&starts.elements()?), signed(&lens.elements()?));
        let inputs = DecodeInputs::dense(q.elements::<T>()?, keys, lens, starts);
        let mut outputs = AttendOutputs::new(out.as_view_mut());
        let workspace = room(&mut self.workspace, &self.stream, plan.workspace_bytes())?;
        let workspace = Some(&mut workspace.as_view_mut());
        decode(&self.stream, &plan, &inputs, &mut outputs, workspace, &mut self.status)?;
        tensor(out, (batch, heads, dim), &self.device)
    }
}

/// Starts and lengths of the sequences, locked.
fn spans(cached: &CachedKeys) -> Result<(TensorView<'_>, TensorView<'_>)> {
    let starts = TensorView::packed("starts of the sequences", &cached.starts)?;
    Ok((starts, TensorView::packed("lengths of the sequences", &cached.lens)?))
}
