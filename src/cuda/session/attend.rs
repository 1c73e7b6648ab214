//! **attend**.

use cudarc::driver::CudaView;

use super::Session;
use crate::attend::{Attention, CacheLayout, KeyLists, RowLimit};
use crate::cuda::attend::{AttendOutputs, DecodeInputs, PrefillInputs, decode, prefill};
use crate::cuda::{Array, DeviceElement, TensorView};
use crate::error::{Error, Result};
use crate::kernels::attend::{DecodePlan, DecodeShape, PrefillPlan, PrefillShape};
use crate::layout::Layout;
use crate::ragged::Ragged;

/// Where the sequences of a cache lie, on the device.
#[derive(Debug)]
pub enum Place<'a> {
    /// `[batch]`: the first token of every sequence.
    Spans(CudaView<'a, i32>),
    /// `[batch, max_pages]`.
    Pages(CudaView<'a, i32>),
}

impl Place<'_> {
    /// Span starts, and page table.
    pub(super) fn views(&self) -> (Option<CudaView<'_, i32>>, Option<CudaView<'_, i32>>) {
        match self {
            Self::Spans(starts) => (Some(starts.slice(..)), None),
            Self::Pages(table) => (None, Some(table.slice(..))),
        }
    }
}

/// The keys and values of every sequence, on the device: what [`Keys`](crate::attend::Keys) is in
/// host memory.
#[derive(Debug)]
pub struct CachedKeys<'a, T> {
    /// The cache of keys.
    pub k: CudaView<'a, T>,
    /// The cache of values.
    pub v: CudaView<'a, T>,
    /// How they lie.
    pub layout: CacheLayout,
    /// Where the sequences lie.
    pub place: Place<'a>,
    /// `[batch]` keys of every sequence.
    pub lens: CudaView<'a, i32>,
}

/// Outputs of attention, and each row's log-sum-exp.
#[derive(Debug)]
pub struct Attended<T> {
    /// `[queries, q heads, dim]`.
    pub out: Array<T>,
    /// `[queries, q heads]`.
    pub lse: Array<f32>,
}

impl Session {
    /// Attention of packed queries over the keys of their sequences. The contract is that of
    /// [`crate::attend`]; outputs are of type `O`, that of queries or f32.
    ///
    /// # Errors
    /// Those of [`PrefillPlan::new`]; [`Error::Unfit`] for paged keys and for scales, which the
    /// kernel does not take; those of the device.
    pub fn prefill<T: DeviceElement, O: DeviceElement>(
        &mut self,
        q: &TensorView<'_, T>,
        queries: &Ragged,
        keys: &CachedKeys<'_, T>,
        limit: RowLimit<CudaView<'_, i32>>,
        attention: &Attention<'_>,
    ) -> Result<Attended<O>> {
        let CacheLayout::Contiguous { k, v, tokens } = keys.layout else {
            return Err(Error::Unfit {
                what: "keys",
                expected: "contiguous: prefill takes no pages",
            });
        };
        if attention.k_scales.or(attention.v_scales).is_some() {
            return Err(Error::Unfit { what: "scales", expected: "none: prefill takes no fp8" });
        }
        attention.check_attention_sink(q.layout.heads)?;
        let out = Layout::token_major(q.layout.heads, v.dim);
        let shape = PrefillShape {
            batch: queries.batch(),
            queries: queries.total(),
            max_queries: queries.lens().max().unwrap_or(0),
            keys: tokens,
            dtype: T::DTYPE,
            out_dtype: O::DTYPE,
            q: q.layout,
            k,
            v,
            out,
        };
        let plan =
            PrefillPlan::new(shape, attention.scalars(), limit.kind())?.with_variant(self.prefill);
        let attention_sink = self.upload_heads(attention.attention_sink)?;
        let cu_queries = self.upload(queries.cu_seqlens())?;
        let mut attended = self.attended(queries.total(), out)?;
        let (starts, _) = keys.place.views();
        let starts = starts.ok_or(Error::Unfit { what: "the place", expected: "spans" })?;
        let inputs = PrefillInputs {
            q: q.data.slice(..),
            k: keys.k.slice(..),
            v: keys.v.slice(..),
            cu_queries: cu_queries.view(),
            key_starts: starts,
            key_lens: keys.lens.slice(..),
            firsts: limit.firsts().map(|firsts| firsts.slice(..)),
            limits: limit.limits().map(|limits| limits.slice(..)),
            attention_sink: attention_sink.as_ref().map(Array::view),
        };
        prefill(&self.stream, &plan, &inputs, &mut attended.outputs(), &mut self.status)?;
        Ok(attended)
    }

    /// Attention of one query per sequence, over all of its keys or those that its lists name,
    /// which are padded as [`DeviceSelection`](super::DeviceSelection) has them. `capacity` is the
    /// room of a list; without lists, the most keys that a sequence may have. With one capacity a
    /// sequence gets the same bits in every batch.
    ///
    /// # Errors
    /// Those of [`DecodePlan::new`], those of the device.
    pub fn decode<T: DeviceElement, K: DeviceElement, O: DeviceElement>(
        &mut self,
        q: &TensorView<'_, T>,
        keys: &CachedKeys<'_, K>,
        lists: KeyLists<[CudaView<'_, i32>; 2]>,
        capacity: usize,
        attention: &Attention<'_>,
    ) -> Result<Attended<O>> {
        let (batch, heads) = (keys.lens.len(), q.layout.heads);
        attention.check_attention_sink(heads)?;
        attention.check_scales(keys.layout.heads())?;
        let out = Layout::token_major(heads, q.layout.dim);
        let plan = DecodePlan::new(DecodeShape {
            batch,
            q: q.layout,
            out,
            cache: keys.layout,
            lists: lists.kind(),
            capacity,
            dtype: T::DTYPE,
            cache_dtype: K::DTYPE,
            out_dtype: O::DTYPE,
            attention: attention.scalars(),
        })?;
        let attention_sink = self.upload_heads(attention.attention_sink)?;
        let scales =
            [attention.k_scales, attention.v_scales].map(|scales| self.upload_heads(scales));
        let [k_scales, v_scales] = scales;
        let (k_scales, v_scales) = (k_scales?, v_scales?);
        let mut attended = self.attended(batch, out)?;
        self.reserve(plan.workspace_bytes())?;
        let (span_starts, page_table) = keys.place.views();
        let inputs = DecodeInputs {
            q: q.data.slice(..),
            k: keys.k.slice(..),
            v: keys.v.slice(..),
            lens: keys.lens.slice(..),
            span_starts,
            page_table,
            kept: lists.lists().map(|[kept, _]| kept.slice(..)),
            kept_lens: lists.lists().map(|[_, lens]| lens.slice(..)),
            attention_sink: attention_sink.as_ref().map(Array::view),
            k_scales: k_scales.as_ref().map(Array::view),
            v_scales: v_scales.as_ref().map(Array::view),
        };
        let mut workspace = self.workspace.view_mut();
        let workspace = Some(&mut workspace);
        let outputs = &mut attended.outputs();
        decode(&self.stream, &plan, &inputs, outputs, workspace, &mut self.status)?;
        Ok(attended)
    }

    fn attended<O: DeviceElement>(&self, rows: usize, out: Layout) -> Result<Attended<O>> {
        let heads = rows.checked_mul(out.heads).ok_or(Error::Overflow { what: "rows of out" })?;
        let len = heads.checked_mul(out.dim).ok_or(Error::Overflow { what: "out" })?;
        Ok(Attended { out: self.cleared(len)?, lse: self.cleared(heads)? })
    }

    fn upload_heads(&self, values: Option<&[f32]>) -> Result<Option<Array<f32>>> {
        values.map(|values| self.upload(values)).transpose()
    }
}

impl<O> Attended<O> {
    fn outputs(&mut self) -> AttendOutputs<'_, O> {
        AttendOutputs { out: self.out.view_mut(), lse: Some(self.lse.view_mut()) }
    }
}
