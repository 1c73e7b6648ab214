//! **attend** of the device backend, for the conformance suite.

use half::{bf16, f16};
use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::cuda::DeviceElement;
use salient::cuda::attend::{AttendOutputs, DecodeInputs, PrefillInputs, decode, prefill};
use salient::dtype::F8E4M3;
use salient::kernels::attend::{DecodePlan, PrefillPlan};
use salient::{DType, Element, Error, Layout, Ragged, Result, View, ViewMut};
use salient_oracle::implementation::{AttendDecode, AttendFp8, AttendPrefill, Sample};
use salient_oracle::tensor::Sums;

use super::{Device, Upload};

/// Room behind the longest list.
const SPARE: usize = 3;

/// Runs something in the type of the elements, where the kernels take it.
macro_rules! in_16_bits {
    ($elements:ident, $same:ident => $run:expr) => {
        match $elements::DTYPE {
            DType::F16 => {
                type $same = f16;
                $run
            }
            DType::Bf16 => {
                type $same = bf16;
                $run
            }
            DType::F32 => {
                // The plan says that it does not.
                type $same = f32;
                $run
            }
            other => panic!("a type that the suite does not ask for: {other:?}"),
        }
    };
}

impl AttendPrefill for Device {
    const ROUNDS_WEIGHTS: bool = true;

    fn prefill_sums(&self) -> Sums {
        self.sums
    }

    fn prefill_sample(&self) -> Sample {
        self.sample.varied(self.prefill as u64)
    }

    fn prefill<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<&[i32]>,
        attention: &Attention<'_>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        in_16_bits!(T, U => {
            let (q, keys) = (cast::<T, U>(q), cast_keys::<T, U>(keys));
            self.prefill_of(q, &keys, queries, limit, attention, out, lse)
        })
    }

    fn takes_prefill<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        let Keys::Contiguous { k, v, .. } = *keys else { return false };
        let queries = Ragged::from_lens(&[]).expect("no queries");
        let keys = Keys::Contiguous { k, v, spans: &[] };
        let (layouts, attention) = ([beside(out), out], Attention::new(1.0));
        let limit = RowLimit::Full;
        PrefillPlan::of(layouts, DType::F32, &queries, &keys, limit, &attention).is_ok()
    }
}

impl AttendDecode for Device {
    fn decode_sums(&self) -> Sums {
        self.sums
    }

    fn decode_sample(&self) -> Sample {
        self.sample
    }

    fn decode<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention<'_>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        in_16_bits!(T, U => {
            let (q, keys) = (cast::<T, U>(q), cast_keys::<T, U>(keys));
            self.decode_of(q, &keys, lists, attention, out, lse)
        })
    }

    fn takes_decode<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        takes_decode(T::DTYPE, keys, out)
    }
}

impl AttendFp8 for Device {
    fn decode_fp8<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, F8E4M3>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention<'_>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        in_16_bits!(T, U => self.decode_of(cast::<T, U>(q), keys, lists, attention, out, lse))
    }

    fn takes_decode_fp8<T: Element>(&self, keys: &Keys<'_, F8E4M3>, out: Layout) -> bool {
        takes_decode(T::DTYPE, keys, out)
    }
}

impl Device {
    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    fn prefill_of<T: DeviceElement + Default>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        queries: &Ragged,
        limit: RowLimit<&[i32]>,
        attention: &Attention<'_>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let layouts = [q.layout, out.layout];
        let plan = PrefillPlan::of(layouts, DType::F32, queries, keys, limit.kind(), attention)?
            .with_variant(self.prefill);
        let attention_sink = self.attention_sink(attention)?;
        let (k, v) = tensors(keys);
        let (q, k, v) = (self.upload(q.data)?, self.upload(k)?, self.upload(v)?);
        let [starts, lens] = self.spans(keys)?;
        let starts = starts.expect("keys that a plan took are contiguous");
        let cu_queries = self.upload(queries.cu_seqlens())?;
        let upload = |rows: Option<&&[i32]>| rows.map(|rows| self.upload(rows)).transpose();
        let (firsts, limits) = (upload(limit.firsts())?, upload(limit.limits())?);
        let lens = lens.expect("every sequence has a length");
        let mut results = Results::new(self, &*out.data, lse.as_deref())?;
        self.with_status(|status| {
            let inputs = PrefillInputs {
                q: q.view(),
                k: k.view(),
                v: v.view(),
                cu_queries: cu_queries.view(),
                key_starts: starts.view(),
                key_lens: lens.view(),
                firsts: firsts.as_ref().map(Upload::view),
                limits: limits.as_ref().map(Upload::view),
                attention_sink: attention_sink.as_ref().map(Upload::view),
            };
            prefill(&self.stream, &plan, &inputs, &mut results.views(), status)
        })?
        .check()?;
        results.download(self, out.data, lse)
    }

    fn decode_of<T: DeviceElement + Default, C: DeviceElement + Default>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, C>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention<'_>,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let (layouts, dtypes) = ([q.layout, out.layout], [T::DTYPE, DType::F32]);
        let plan = DecodePlan::of(layouts, dtypes, keys, lists, attention, SPARE)?;
        let attention_sink = self.attention_sink(attention)?;
        let upload = |scales: Option<&[f32]>| scales.map(|scales| self.upload(scales)).transpose();
        let (k_scales, v_scales) = (upload(attention.k_scales)?, upload(attention.v_scales)?);
        let (k, v) = tensors(keys);
        let (q, k, v) = (self.upload(q.data)?, self.upload(k)?, self.upload(v)?);
        let [starts, lens] = self.spans(keys)?;
        let lens = lens.expect("every sequence has a length");
        let table = match *keys {
            Keys::Contiguous { .. } => None,
            Keys::Paged { page_table, .. } => Some(self.upload(page_table)?),
        };
        let lists = match lists.lists() {
            None => None,
            Some(packed) => {
                let lens: Vec<i32> = packed.lists.lens().map(|len| len as i32).collect();
                let padded = packed.padded(plan.shape().capacity)?;
                Some((self.upload(&padded)?, self.upload(&lens)?))
            }
        };
        let mut workspace = self.unwritten(plan.workspace_bytes())?;
        let mut results = Results::new(self, &*out.data, lse.as_deref())?;
        self.with_status(|status| {
            let inputs = DecodeInputs {
                q: q.view(),
                k: k.view(),
                v: v.view(),
                lens: lens.view(),
                span_starts: starts.as_ref().map(Upload::view),
                page_table: table.as_ref().map(Upload::view),
                kept: lists.as_ref().map(|(kept, _)| kept.view()),
                kept_lens: lists.as_ref().map(|(_, lens)| lens.view()),
                attention_sink: attention_sink.as_ref().map(Upload::view),
                k_scales: k_scales.as_ref().map(Upload::view),
                v_scales: v_scales.as_ref().map(Upload::view),
            };
            let mut workspace = workspace.view_mut();
            let (outputs, workspace) = (&mut results.views(), Some(&mut workspace));
            decode(&self.stream, &plan, &inputs, outputs, workspace, status)
        })?
        .check()?;
        results.download(self, out.data, lse)
    }

    fn attention_sink(&self, attention: &Attention<'_>) -> Result<Option<Upload<f32>>> {
        attention.attention_sink.map(|sink| self.upload(sink)).transpose()
    }

    /// Where the keys of every sequence start, if they are contiguous, and how many there are.
    fn spans<T: Element>(&self, keys: &Keys<'_, T>) -> Result<[Option<Upload<i32>>; 2]> {
        let upload = |values: Vec<usize>| {
            let overflow = |_| Error::Overflow { what: "spans" };
            let values = values.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>();
            self.upload(&values.map_err(overflow)?).map(Some)
        };
        Ok(match *keys {
            Keys::Contiguous { spans, .. } => [
                upload(spans.iter().map(|span| span.start).collect())?,
                upload(spans.iter().map(|span| span.len).collect())?,
            ],
            Keys::Paged { lens, .. } => [None, upload(lens.to_vec())?],
        })
    }
}

/// What a launch writes: copies, so that an error leaves the originals as they are.
struct Results {
    out: Upload<f32>,
    lse: Option<Upload<f32>>,
}

impl Results {
    fn new(device: &Device, out: &[f32], lse: Option<&[f32]>) -> Result<Self> {
        let lse = lse.map(|lse| device.upload(lse)).transpose()?;
        Ok(Self { out: device.upload(out)?, lse })
    }

    fn views(&mut self) -> AttendOutputs<'_, f32> {
        let lse = self.lse.as_mut().map(Upload::view_mut);
        AttendOutputs { out: self.out.view_mut(), lse }
    }

    fn download(self, device: &Device, out: &mut [f32], lse: Option<&mut [f32]>) -> Result<()> {
        out.copy_from_slice(&device.download(&self.out)?);
        if let (Some(to), Some(from)) = (lse, &self.lse) {
            to.copy_from_slice(&device.download(from)?);
        }
        Ok(())
    }
}

fn tensors<'a, T: Element>(keys: &Keys<'a, T>) -> (&'a [T], &'a [T]) {
    match *keys {
        Keys::Contiguous { k, v, .. } => (k.data, v.data),
        Keys::Paged { k, v, .. } => (k, v),
    }
}

/// Whether decode takes queries of a type, keys that lie like this, and an output.
fn takes_decode<C: Element>(dtype: DType, keys: &Keys<'_, C>, out: Layout) -> bool {
    let (layouts, dtypes) = ([beside(out), out], [dtype, DType::F32]);
    DecodePlan::of(layouts, dtypes, keys, KeyLists::Dense, &Attention::new(1.0), 1).is_ok()
}

/// The layout of queries for an output.
fn beside(out: Layout) -> Layout {
    Layout::token_major(out.heads, out.dim)
}

fn cast<T: Element, U: Element>(view: View<'_, T>) -> View<'_, U> {
    View { data: bytemuck::cast_slice(view.data), layout: view.layout }
}

fn cast_keys<'a, T: Element, U: Element>(keys: &Keys<'a, T>) -> Keys<'a, U> {
    match *keys {
        Keys::Contiguous { k, v, spans } => Keys::Contiguous { k: cast(k), v: cast(v), spans },
        Keys::Paged { k, v, layout, page_table, lens } => {
            let (k, v) = (bytemuck::cast_slice(k), bytemuck::cast_slice(v));
            Keys::Paged { k, v, layout, page_table, lens }
        }
    }
}
