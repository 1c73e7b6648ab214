//! **attend**.

use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::cuda::DeviceElement;
use salient::cuda::attend::{AttendOutputs, DecodeInputs, PrefillInputs, decode, prefill};
use salient::kernels::attend::{DecodePlan, PrefillPlan};
use salient::{DType, Layout, Ragged, Result, Span, Status, View};

use super::Places;
use crate::device::{Device, Upload};

/// What a device holds after attention.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attended<O> {
    /// As the output's layout says.
    pub(crate) out: Vec<O>,
    /// `[queries, q heads]`.
    pub(crate) lse: Vec<f32>,
    pub(crate) status: Status,
    pub(crate) places: Places,
}

/// A prefill of contiguous keys.
pub(crate) struct PrefillRun<T> {
    plan: PrefillPlan,
    q: Upload<T>,
    k: Upload<T>,
    v: Upload<T>,
    /// `[batch + 1]`.
    pub(crate) cu_queries: Upload<i32>,
    /// `[batch]`.
    pub(crate) key_starts: Upload<i32>,
    /// `[batch]`.
    pub(crate) key_lens: Upload<i32>,
    firsts: Option<Upload<i32>>,
    limits: Option<Upload<i32>>,
    /// `[q heads]`.
    pub(crate) attention_sink: Option<Upload<f32>>,
    rows: usize,
}

impl<T: DeviceElement + Default> PrefillRun<T> {
    pub(crate) fn new(
        device: &Device,
        q: View<'_, T>,
        queries: &Ragged,
        (k, v, spans): (View<'_, T>, View<'_, T>, &[Span]),
        limit: RowLimit<&[i32]>,
        attention: &Attention<'_>,
        (out, out_dtype): (Layout, DType),
    ) -> Result<Self> {
        let keys = Keys::Contiguous { k, v, spans };
        let plan =
            PrefillPlan::of([q.layout, out], out_dtype, queries, &keys, limit.kind(), attention)?;
        let ints = |value: &dyn Fn(&Span) -> usize| -> Vec<i32> {
            spans.iter().map(|span| value(span) as i32).collect()
        };
        let upload = |rows: Option<&&[i32]>| rows.map(|rows| device.upload(rows)).transpose();
        Ok(Self {
            plan: plan.with_variant(device.prefill),
            q: device.upload(q.data)?,
            k: device.upload(k.data)?,
            v: device.upload(v.data)?,
            cu_queries: device.upload(queries.cu_seqlens())?,
            key_starts: device.upload(&ints(&|span| span.start))?,
            key_lens: device.upload(&ints(&|span| span.len))?,
            firsts: upload(limit.firsts())?,
            limits: upload(limit.limits())?,
            attention_sink: attention.attention_sink.map(|sink| device.upload(sink)).transpose()?,
            rows: queries.total() * q.layout.heads,
        })
    }

    /// Runs it into a copy of `out`.
    pub(crate) fn launch<O: DeviceElement + Default>(
        &self,
        device: &Device,
        out: &[O],
    ) -> Result<Attended<O>> {
        let (mut out, mut lse) = (device.upload(out)?, device.upload(&vec![f32::NAN; self.rows])?);
        let status = device.with_status(|status| {
            let inputs = PrefillInputs {
                q: self.q.view(),
                k: self.k.view(),
                v: self.v.view(),
                cu_queries: self.cu_queries.view(),
                key_starts: self.key_starts.view(),
                key_lens: self.key_lens.view(),
                firsts: self.firsts.as_ref().map(Upload::view),
                limits: self.limits.as_ref().map(Upload::view),
                attention_sink: self.attention_sink.as_ref().map(Upload::view),
            };
            let mut outputs = AttendOutputs { out: out.view_mut(), lse: Some(lse.view_mut()) };
            prefill(&device.stream, &self.plan, &inputs, &mut outputs, status)
        })?;
        let places = vec![
            ("q", self.q.address()),
            ("k", self.k.address()),
            ("v", self.v.address()),
            ("out", out.address()),
        ];
        Ok(Attended { out: out.read()?, lse: lse.read()?, status, places })
    }
}

/// A decode step.
pub(crate) struct DecodeRun<T, C = T> {
    plan: DecodePlan,
    q: Upload<T>,
    k: Upload<C>,
    v: Upload<C>,
    /// `[batch]`.
    pub(crate) lens: Upload<i32>,
    /// `[batch]`, if contiguous.
    pub(crate) span_starts: Option<Upload<i32>>,
    /// `[batch, max_pages]`, if paged.
    pub(crate) page_table: Option<Upload<i32>>,
    /// `[lists, capacity]`, if there are lists.
    pub(crate) kept: Option<Upload<i32>>,
    /// `[lists]`, if there are lists.
    pub(crate) kept_lens: Option<Upload<i32>>,
    /// `[q heads]`, if there are sinks.
    pub(crate) attention_sink: Option<Upload<f32>>,
    /// `[KV heads]`, of keys and of values.
    pub(crate) scales: [Option<Upload<f32>>; 2],
    rows: usize,
}

impl<T: DeviceElement + Default, C: DeviceElement + Default> DecodeRun<T, C> {
    /// Uploads keys and lists, and plans a step for lists (or sequences, where there are none) of
    /// up to `spare` more entries than the longest has.
    pub(crate) fn new(
        device: &Device,
        q: View<'_, T>,
        (out, out_dtype): (Layout, DType),
        keys: &Keys<'_, C>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention<'_>,
        spare: usize,
    ) -> Result<Self> {
        let dtypes = [T::DTYPE, out_dtype];
        let plan = DecodePlan::of([q.layout, out], dtypes, keys, lists, attention, spare)?;
        let ints = |values: &mut dyn Iterator<Item = usize>| -> Result<Upload<i32>> {
            device.upload(&values.map(|value| value as i32).collect::<Vec<_>>())
        };
        let (k, v, lens, span_starts, page_table) = match *keys {
            Keys::Contiguous { k, v, spans } => {
                let lens = ints(&mut spans.iter().map(|span| span.len))?;
                let starts = ints(&mut spans.iter().map(|span| span.start))?;
                (k.data, v.data, lens, Some(starts), None)
            }
            Keys::Paged { k, v, lens, page_table, .. } => {
                (k, v, ints(&mut lens.iter().copied())?, None, Some(device.upload(page_table)?))
            }
        };
        let (kept, kept_lens) = match lists.lists() {
            None => (None, None),
            Some(packed) => {
                let kept = device.upload(&packed.padded(plan.shape().capacity)?)?;
                (Some(kept), Some(ints(&mut packed.lists.lens())?))
            }
        };
        let floats = |values: Option<&[f32]>| values.map(|them| device.upload(them)).transpose();
        Ok(Self {
            plan,
            q: device.upload(q.data)?,
            k: device.upload(k)?,
            v: device.upload(v)?,
            rows: plan.shape().batch * q.layout.heads,
            lens,
            span_starts,
            page_table,
            kept,
            kept_lens,
            attention_sink: floats(attention.attention_sink)?,
            scales: [floats(attention.k_scales)?, floats(attention.v_scales)?],
        })
    }

    /// Runs the step into a copy of `out`.
    pub(crate) fn launch<O: DeviceElement + Default>(
        &self,
        device: &Device,
        out: &[O],
    ) -> Result<Attended<O>> {
        let (mut out, mut lse) = (device.upload(out)?, device.upload(&vec![f32::NAN; self.rows])?);
        let mut workspace = device.unwritten::<u8>(self.plan.workspace_bytes())?;
        let status = device.with_status(|status| {
            let inputs = DecodeInputs {
                q: self.q.view(),
                k: self.k.view(),
                v: self.v.view(),
                lens: self.lens.view(),
                span_starts: self.span_starts.as_ref().map(Upload::view),
                page_table: self.page_table.as_ref().map(Upload::view),
                kept: self.kept.as_ref().map(Upload::view),
                kept_lens: self.kept_lens.as_ref().map(Upload::view),
                attention_sink: self.attention_sink.as_ref().map(Upload::view),
                k_scales: self.scales[0].as_ref().map(Upload::view),
                v_scales: self.scales[1].as_ref().map(Upload::view),
            };
            let mut outputs = AttendOutputs { out: out.view_mut(), lse: Some(lse.view_mut()) };
            let mut workspace = workspace.view_mut();
            let workspace = Some(&mut workspace);
            decode(&device.stream, &self.plan, &inputs, &mut outputs, workspace, status)
        })?;
        let mut places = vec![
            ("k", self.k.address()),
            ("v", self.v.address()),
            ("out", out.address()),
            ("workspace", workspace.address()),
        ];
        places.extend(self.kept.as_ref().map(|kept| ("kept", kept.address())));
        Ok(Attended { out: out.read()?, lse: lse.read()?, status, places })
    }
}
