//! **prefill** on the emulated kernels.

use std::ffi::{c_int, c_void};

use salient::host::attend::{Attention, Keys, RowLimit};
use salient::kernels::attend::{PrefillBuffers, PrefillPlan, prefill_params};
use salient::kernels::raw::SalientPrefillParams;
use salient::kernels::{Buffer as Place, Status};
use salient::{Element, Error, Layout, Ragged, Result, Span, View, ViewMut};
use salient_oracle::implementation::{AttendPrefill, Sample};
use salient_oracle::plans;

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
    /// Those of [`plans::prefill`].
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
        let (firsts, limits, sees) = plans::sees(limit);
        let layouts = [q.layout, out_layout];
        let plan = plans::prefill(layouts, O::DTYPE, queries, keys, sees, attention)?;
        let Keys::Contiguous { k, v, spans } = *keys else {
            unreachable!("a plan takes contiguous keys alone")
        };
        let ints = |what, value: &dyn Fn(&Span) -> usize| -> Result<Vec<i32>> {
            let values = spans.iter().map(|span| i32::try_from(value(span)));
            values.collect::<Result<_, _>>().map_err(|_| Error::Overflow { what })
        };
        Ok(Self {
            plan,
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
        plans::takes_prefill(keys, out)
    }

    fn prefill_sample(&self) -> Sample {
        self.sample
    }
}
