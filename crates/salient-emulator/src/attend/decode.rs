//! One query per sequence.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use salient::dtype::F8E4M3;
use salient::host::attend::{Attention, KeyLists, Keys};
use salient::kernels::attend::{DecodeBuffers, DecodePlan, decode_params};
use salient::kernels::raw::SalientDecodeParams;
use salient::kernels::{Buffer as Place, Status};
use salient::{DType, Element, Layout, Result, View, ViewMut};
use salient_oracle::implementation::{AttendDecode, AttendFp8, Sample};
use salient_oracle::plans;

use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::Buffer;
use crate::memory::place;

unsafe extern "C" {
    fn salient_emulated_decode(params: *const SalientDecodeParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_decode(params: *const SalientDecodeParams, stream: *mut c_void) -> c_int;
}

/// What a device holds after a decode step.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOutputs<O> {
    /// As the output's layout says.
    pub out: Vec<O>,
    /// `[batch, q heads]`.
    pub lse: Vec<f32>,
    /// What was found wrong.
    pub status: Status,
    /// The kernels that ran.
    pub launched: Vec<Launched>,
}

/// A decode step whose lists, lengths and pages tests may fill with what a device could hold.
#[derive(Debug)]
pub struct DecodeRun<T, K = T> {
    /// What was planned.
    pub plan: DecodePlan,
    rows: usize,
    q: PhantomData<T>,
    k: Buffer<K>,
    v: Buffer<K>,
    /// i32 `[batch]`.
    pub lens: Buffer<i32>,
    /// i32 `[batch]`, if contiguous.
    pub span_starts: Option<Buffer<i32>>,
    /// i32 `[batch, max_pages]`, if paged.
    pub page_table: Option<Buffer<i32>>,
    /// i32 `[lists, capacity]`, if there are lists.
    pub kept: Option<Buffer<i32>>,
    /// i32 `[lists]`, if there are lists.
    pub kept_lens: Option<Buffer<i32>>,
    /// f32 `[q heads]`, if there are sinks.
    pub sinks: Option<Buffer<f32>>,
    /// f32 `[kv heads]`, of keys and of values.
    pub scales: [Option<Buffer<f32>>; 2],
}

impl<T: Element, K: Element> DecodeRun<T, K> {
    /// Uploads keys and lists, and plans a step for lists (or sequences, where there are none) of up
    /// to `spare` more entries than the longest has.
    ///
    /// # Errors
    /// Those of [`plans::decode`].
    pub fn new(
        device: &Device,
        [q, out]: [Layout; 2],
        out_dtype: DType,
        keys: &Keys<'_, K>,
        lists: KeyLists<'_>,
        attention: &Attention,
        spare: usize,
    ) -> Result<Self> {
        let dtypes = [T::DTYPE, out_dtype];
        let plan = plans::decode([q, out], dtypes, keys, lists, attention, spare)?;
        let capacity = plan.shape().capacity;
        let (k, v, lens) = match *keys {
            Keys::Contiguous { k, v, spans } => {
                (k.data, v.data, spans.iter().map(|span| span.len as i32).collect::<Vec<_>>())
            }
            Keys::Paged { k, v, lens, .. } => (k, v, lens.iter().map(|&len| len as i32).collect()),
        };
        let given = match lists {
            KeyLists::Dense => None,
            KeyLists::Shared { keys, lists } | KeyLists::PerHead { keys, lists } => {
                Some((keys, lists))
            }
        };
        let starts = match *keys {
            Keys::Contiguous { spans, .. } => {
                Some(spans.iter().map(|span| span.start as i32).collect::<Vec<_>>())
            }
            Keys::Paged { .. } => None,
        };
        let page_table = match *keys {
            Keys::Contiguous { .. } => None,
            Keys::Paged { page_table, .. } => Some(page_table),
        };
        let padded = given.map(|(entries, lists)| {
            let padded = lists.spans().flat_map(|span| {
                let behind = std::iter::repeat_n(-1, capacity - span.len);
                entries[span.range()].iter().copied().chain(behind)
            });
            (padded.collect::<Vec<_>>(), lists.lens().map(|len| len as i32).collect::<Vec<_>>())
        });
        Ok(Self {
            plan,
            rows: lens.len() * q.heads,
            q: PhantomData,
            k: device.upload("k", k),
            v: device.upload("v", v),
            lens: device.upload("lens", &lens),
            span_starts: starts.map(|starts| device.upload("span_starts", &starts)),
            page_table: page_table.map(|table| device.upload("page_table", table)),
            kept: padded.as_ref().map(|(kept, _)| device.upload("kept", kept)),
            kept_lens: padded.as_ref().map(|(_, lens)| device.upload("kept_lens", lens)),
            sinks: attention.sinks.map(|sinks| device.upload("sinks", sinks)),
            scales: [attention.k_scales, attention.v_scales]
                .map(|scales| scales.map(|scales| device.upload("scales", scales))),
        })
    }

    /// Runs the step into a copy of `out`; without `with_lse` the LSE is NaN.
    ///
    /// # Errors
    /// Those of [`decode_params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn launch<O: Element>(
        &self,
        device: &Device,
        mutated: bool,
        q: &[T],
        out: &[O],
        with_lse: bool,
    ) -> Result<DecodeOutputs<O>> {
        let q = device.upload("q", q);
        let out = device.upload("out", out);
        let lse = device.upload("lse", &vec![f32::NAN; self.rows]);
        let status = device.upload("status", &Status::CLEAR.words());
        let workspace = device.alloc::<u8>("workspace", self.plan.workspace_bytes());
        let params = decode_params(
            &self.plan,
            &DecodeBuffers {
                q: place(&q),
                k: place(&self.k),
                v: place(&self.v),
                out: place(&out),
                lse: with_lse.then(|| place(&lse)),
                lens: place(&self.lens),
                span_starts: self.span_starts.as_ref().map(place),
                page_table: self.page_table.as_ref().map(place),
                kept: self.kept.as_ref().map(place),
                kept_lens: self.kept_lens.as_ref().map(place),
                sinks: self.sinks.as_ref().map(place),
                k_scales: self.scales[0].as_ref().map(place),
                v_scales: self.scales[1].as_ref().map(place),
                status: Place::new(status.address(), 1),
                workspace: place(&workspace),
            },
        )?;
        let launcher = if mutated { salient_mutated_decode } else { salient_emulated_decode };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = status.read();
        let status = Status::from_words([words[0], words[1]]);
        Ok(DecodeOutputs { out: out.read(), lse: lse.read(), status, launched })
    }
}

impl Emulated {
    fn run_decode<T: Element, K: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, K>,
        lists: KeyLists<'_>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let device = self.device();
        let layouts = [q.layout, out.layout];
        let run =
            DecodeRun::<T, K>::new(&device, layouts, DType::F32, keys, lists, attention, SPARE)?;
        let given = lse.as_ref().map_or(run.rows, |lse| lse.len());
        if given != run.rows {
            let (what, expected) = ("lse", run.rows);
            return Err(salient::Error::LengthMismatch { what, expected, actual: given });
        }
        let outputs =
            run.launch(&device, self.mutant.is_some(), q.data, &*out.data, lse.is_some())?;
        outputs.status.check()?;
        out.data.copy_from_slice(&outputs.out);
        if let Some(lse) = lse {
            lse.copy_from_slice(&outputs.lse);
        }
        Ok(())
    }
}

impl AttendDecode for Emulated {
    fn decode<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        lists: KeyLists<'_>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        self.run_decode(q, keys, lists, attention, out, lse)
    }

    fn takes_decode<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        plans::takes_decode(T::DTYPE, keys, out)
    }

    fn decode_sample(&self) -> Sample {
        self.sample
    }
}

impl AttendFp8 for Emulated {
    fn decode_fp8<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, F8E4M3>,
        lists: KeyLists<'_>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        self.run_decode(q, keys, lists, attention, out, lse)
    }

    fn takes_decode_fp8<T: Element>(&self, keys: &Keys<'_, F8E4M3>, out: Layout) -> bool {
        plans::takes_decode(T::DTYPE, keys, out)
    }
}

/// Places behind the longest list.
const SPARE: usize = 3;
