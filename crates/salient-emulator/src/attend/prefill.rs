//! **prefill** on the emulated kernels.

use std::ffi::{c_int, c_void};

use salient::host::attend::{Attention, Keys, RowLimit};
use salient::kernels::attend::{PrefillBuffers, PrefillPlan, PrefillShape, Sees, prefill_params};
use salient::kernels::raw::SalientPrefillParams;
use salient::kernels::{Buffer as Place, Status};
use salient::{DType, Element, Error, Layout, Ragged, Result, Span, View, ViewMut};
use salient_oracle::implementation::{AttendPrefill, Sample};

use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::{Buffer, place};

unsafe extern "C" {
    fn salient_emulated_prefill(params: *const SalientPrefillParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_prefill(params: *const SalientPrefillParams, stream: *mut c_void) -> c_int;
}

/// The buffers of a prefill, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct PrefillRun<T: Element, O: Element> {
    plan: PrefillPlan,
    q: Buffer<T>,
    k: Buffer<T>,
    v: Buffer<T>,
    /// The output, as its layout says.
    pub out: Buffer<O>,
    /// `[queries, q heads]`.
    pub lse: Option<Buffer<f32>>,
    /// `[batch + 1]`.
    pub cu_queries: Buffer<i32>,
    /// `[batch]`.
    pub key_starts: Buffer<i32>,
    /// `[batch]`.
    pub key_lens: Buffer<i32>,
    firsts: Option<Buffer<i32>>,
    limits: Option<Buffer<i32>>,
    /// `[q heads]`.
    pub sinks: Option<Buffer<f32>>,
    status: Buffer<u32>,
}

impl<T: Element, O: Element> PrefillRun<T, O> {
    /// Uploads a problem whose output, already filled, is `out`.
    ///
    /// # Errors
    /// Those of [`PrefillPlan::new`], for lists of other lengths than there are queries, and for paged
    /// keys, which this kernel does not take.
    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn new(
        device: &Device,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<'_>,
        attention: &Attention,
        (out, out_layout): (&[O], Layout),
        lse: Option<&[f32]>,
    ) -> Result<Self> {
        let Keys::Contiguous { k, v, spans } = *keys else {
            let (what, value) = ("kinds of caches", 2.0);
            return Err(Error::OutOfRange { what, value, expected: "contiguous keys" });
        };
        let lengths = |what, expected, actual| {
            let error = Error::LengthMismatch { what, expected, actual };
            if expected == actual { Ok(()) } else { Err(error) }
        };
        lengths("sequences of keys", queries.batch(), spans.len())?;
        attention.check_sinks(q.layout.heads)?;
        if attention.k_scales.or(attention.v_scales).is_some() {
            return Err(Error::Unfit { what: "scales", expected: "none: prefill takes no fp8" });
        }
        let (firsts, limits, sees) = match limit {
            RowLimit::Causal => (None, None, Sees::Causal),
            RowLimit::Full => (None, None, Sees::All),
            RowLimit::PerRow(limit) => (None, Some(limit), Sees::Rows),
            RowLimit::Between { first, limit } => (Some(first), Some(limit), Sees::Rows),
        };
        let shape = PrefillShape {
            batch: queries.batch(),
            queries: queries.total(),
            max_queries: queries.lens().max().unwrap_or(0),
            keys: key_rows(spans)?,
            dtype: T::DTYPE,
            out_dtype: O::DTYPE,
            q: q.layout,
            k: k.layout,
            v: v.layout,
            out: out_layout,
        };
        let ints = |what, value: &dyn Fn(&Span) -> usize| -> Result<Vec<i32>> {
            let values = spans.iter().map(|span| i32::try_from(value(span)));
            values.collect::<Result<_, _>>().map_err(|_| Error::Overflow { what })
        };
        Ok(Self {
            plan: PrefillPlan::new(shape, attention.scalars(), sees)?,
            q: device.upload("q", q.data),
            k: device.upload("k", k.data),
            v: device.upload("v", v.data),
            out: device.upload("out", out),
            lse: lse.map(|lse| device.upload("lse", lse)),
            cu_queries: device.upload("cu_queries", queries.cu_seqlens()),
            key_starts: device.upload("key_starts", &ints("key starts", &|span| span.start)?),
            key_lens: device.upload("key_lens", &ints("key lengths", &|span| span.len)?),
            firsts: firsts.map(|firsts| device.upload("firsts", firsts)),
            limits: limits.map(|limits| device.upload("limits", limits)),
            sinks: attention.sinks.map(|sinks| device.upload("sinks", sinks)),
            status: device.upload("status", &Status::CLEAR.words()),
        })
    }

    /// Runs it, or its copy with mutants. Gives what was found wrong, and what every launch did.
    ///
    /// # Errors
    /// Those of [`prefill_params`].
    ///
    /// # Panics
    /// If the kernel is at fault.
    pub fn launch(&self, on: &Emulated, device: &Device) -> Result<(Status, Vec<Launched>)> {
        let buffers = PrefillBuffers {
            q: place(&self.q),
            k: place(&self.k),
            v: place(&self.v),
            out: place(&self.out),
            lse: self.lse.as_ref().map(place),
            cu_queries: place(&self.cu_queries),
            key_starts: place(&self.key_starts),
            key_lens: place(&self.key_lens),
            firsts: self.firsts.as_ref().map(place),
            limits: self.limits.as_ref().map(place),
            sinks: self.sinks.as_ref().map(place),
            status: Place::new(self.status.address(), 1),
        };
        let params = prefill_params(&self.plan.with_variant(on.prefill), &buffers)?;
        let launcher =
            if on.mutant.is_some() { salient_mutated_prefill } else { salient_emulated_prefill };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = self.status.read();
        Ok((Status::from_words([words[0], words[1]]), launched))
    }
}

/// Rows that hold all spans.
fn key_rows(spans: &[Span]) -> Result<usize> {
    spans.iter().try_fold(0, |rows: usize, span| {
        let end = span.start.checked_add(span.len).ok_or(Error::Overflow { what: "spans" })?;
        Ok(rows.max(end))
    })
}

impl AttendPrefill for Emulated {
    const ROUNDS_WEIGHTS: bool = true;

    fn prefill<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<'_>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let device = self.device();
        let output = (&*out.data, out.layout);
        let run =
            PrefillRun::new(&device, q, queries, keys, limit, attention, output, lse.as_deref())?;
        run.launch(self, &device)?.0.check()?;
        out.data.copy_from_slice(&run.out.read());
        if let (Some(to), Some(from)) = (lse, &run.lse) {
            to.copy_from_slice(&from.read());
        }
        Ok(())
    }

    fn takes_prefill<T: Element>(&self, keys: &Keys<'_, T>, out: Layout) -> bool {
        let Keys::Contiguous { k, v, .. } = *keys else { return false };
        let shape = PrefillShape {
            batch: 1,
            queries: 0,
            max_queries: 0,
            keys: 0,
            dtype: T::DTYPE,
            out_dtype: DType::F32,
            q: Layout::token_major(out.heads, out.dim),
            k: k.layout,
            v: v.layout,
            out,
        };
        PrefillPlan::new(shape, Attention::new(1.0), Sees::All).is_ok()
    }

    fn prefill_sample(&self) -> Sample {
        self.sample
    }
}
