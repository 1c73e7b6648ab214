//! Expected attention on the emulated kernels.

use std::ffi::{c_int, c_void};

use salient::host::score::{ExpectedAttention, QueryStatistics};
use salient::kernels::raw::SalientExpectedParams;
use salient::kernels::score::{
    ExpectedBuffers, ExpectedPlan, ExpectedTensors, ExpectedWeights, expected_params,
};
use salient::kernels::{Buffer as Place, Status};
use salient::{Element, Layout, Ragged, Result, View};
use salient_oracle::implementation::{Sample, ScoreExpected};

use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::{Buffer, place};

unsafe extern "C" {
    fn salient_emulated_expected(
        params: *const SalientExpectedParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_mutated_expected(params: *const SalientExpectedParams, stream: *mut c_void)
    -> c_int;
}

/// The buffers of expected attention, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct ExpectedRun<T: Element> {
    plan: ExpectedPlan,
    k: Buffer<T>,
    v: Option<Buffer<T>>,
    weights: Buffer<u32>,
    /// `[batch + 1]`.
    pub cu_seqlens: Buffer<i32>,
    /// As the plan says.
    pub scores: Buffer<f32>,
    workspace: Buffer<u8>,
    status: Buffer<u32>,
}

impl<T: Element> ExpectedRun<T> {
    /// Uploads a problem whose scores, already filled, are `scores`.
    ///
    /// # Errors
    /// Those of [`ExpectedWeights::new`] and [`ExpectedPlan::new`].
    pub fn new(
        device: &Device,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        scores: &[f32],
    ) -> Result<Self> {
        let weights = ExpectedWeights::<T>::new(statistics, options.scale)?;
        let tensors = ExpectedTensors {
            batch: rows.batch(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            k: k.layout,
            v: v.map(|v| v.layout),
        };
        let plan = ExpectedPlan::new(weights.shape(), tensors, *options)?;
        Ok(Self {
            plan,
            k: device.upload("k", k.data),
            v: v.map(|v| device.upload("v", v.data)),
            weights: device.upload("weights", weights.words()),
            cu_seqlens: device.upload("cu_seqlens", rows.cu_seqlens()),
            scores: device.upload("scores", scores),
            workspace: device.alloc("workspace", plan.workspace_bytes()),
            status: device.upload("status", &Status::CLEAR.words()),
        })
    }

    /// Runs it, or its copy with mutants. Gives what was found wrong, and what every launch did.
    ///
    /// # Errors
    /// Those of [`expected_params`].
    ///
    /// # Panics
    /// If a kernel is at fault.
    pub fn launch(&self, on: &Emulated, device: &Device) -> Result<(Status, Vec<Launched>)> {
        let buffers = ExpectedBuffers {
            k: place(&self.k),
            v: self.v.as_ref().map(place),
            weights: place(&self.weights),
            cu_seqlens: place(&self.cu_seqlens),
            scores: place(&self.scores),
            workspace: place(&self.workspace),
            status: Place::new(self.status.address(), 1),
        };
        let params = expected_params(&self.plan, &buffers)?;
        let launcher =
            if on.mutant.is_some() { salient_mutated_expected } else { salient_emulated_expected };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = self.status.read();
        Ok((Status::from_words([words[0], words[1]]), launched))
    }
}

impl ScoreExpected for Emulated {
    fn expected<T: Element>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()> {
        let device = self.device();
        let run = ExpectedRun::new(&device, k, v, rows, statistics, options, out)?;
        run.launch(self, &device)?.0.check()?;
        out.copy_from_slice(&run.scores.read());
        Ok(())
    }

    fn takes_expected<T: Element>(&self, k: Layout, v: Option<Layout>) -> bool {
        let mean = vec![0.0; k.heads * k.dim];
        let statistics = QueryStatistics::new(k.heads, k.dim, mean, None);
        let options = ExpectedAttention::new(1.0);
        let tensors = ExpectedTensors { batch: 0, total: 0, max_len: 0, k, v };
        statistics
            .and_then(|one| ExpectedWeights::<T>::new(&[one], options.scale))
            .and_then(|weights| ExpectedPlan::new(weights.shape(), tensors, options))
            .is_ok()
    }

    fn expected_sample(&self) -> Sample {
        self.sample
    }
}
