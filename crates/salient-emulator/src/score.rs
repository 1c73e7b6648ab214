//! **score** on the emulated kernels.

mod attention;
mod expected;
mod indexer;

pub use attention::AttentionRun;
pub use expected::ExpectedRun;
pub use indexer::IndexerRun;

use std::ffi::{c_int, c_void};

use salient::host::score::{Per, PredictorWeights};
use salient::kernels::raw::{SalientKeynormParams, SalientMlpParams};
use salient::kernels::score::{
    KeynormBuffers, KeynormPlan, MlpBuffers, MlpPlan, MlpWeights, check_mlp, keynorm_params,
    mlp_params,
};
use salient::{Element, Result, View};
use salient_oracle::implementation::Score;

use crate::emulated::Emulated;
use crate::launch::Launched;
use crate::memory::place;

unsafe extern "C" {
    fn salient_emulated_mlp(params: *const SalientMlpParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_mlp(params: *const SalientMlpParams, stream: *mut c_void) -> c_int;
    fn salient_emulated_keynorm(params: *const SalientKeynormParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_keynorm(params: *const SalientKeynormParams, stream: *mut c_void) -> c_int;
}

impl Emulated {
    /// The predictor over hidden states as `plan` lays them out, of which `valid` exist. Gives what
    /// every launch did.
    ///
    /// # Errors
    /// Those of [`mlp_params`].
    ///
    /// # Panics
    /// If a kernel is at fault.
    pub fn run_mlp<T: Element>(
        &self,
        x: &[T],
        weights: &MlpWeights<T>,
        plan: &MlpPlan,
        valid: Option<i32>,
        out: &mut [f32],
    ) -> Result<Vec<Launched>> {
        let device = self.device();
        let x = device.upload("x", x);
        let w1 = device.upload("w1", weights.w1());
        let b1 = device.upload("b1", weights.b1());
        let w2 = device.upload("w2", weights.w2());
        let valid = valid.map(|valid| device.upload("valid", &[valid]));
        let scores = device.alloc::<f32>("scores", out.len());
        let workspace = device.alloc::<u8>("partials", plan.workspace_bytes());
        let buffers = MlpBuffers {
            x: place(&x),
            w1: place(&w1),
            b1: place(&b1),
            w2: place(&w2),
            scores: place(&scores),
            valid: valid.as_ref().map(place),
            workspace: place(&workspace),
        };
        let params = mlp_params(plan, &buffers)?;
        let launcher =
            if self.mutant.is_some() { salient_mutated_mlp } else { salient_emulated_mlp };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        out.copy_from_slice(&scores.read());
        Ok(launched)
    }

    /// Norms of keys that lie `skip` elements away from an aligned address. Gives what every launch
    /// did.
    ///
    /// # Errors
    /// Those of [`KeynormPlan::new`] and [`keynorm_params`].
    ///
    /// # Panics
    /// If a kernel is at fault.
    pub fn run_keynorm<T: Element>(
        &self,
        k: View<'_, T>,
        per: Per,
        skip: usize,
        out: &mut [f32],
    ) -> Result<Vec<Launched>> {
        let outputs = if per == Per::Token { 1 } else { k.layout.heads };
        let tokens = out.len().checked_div(outputs).unwrap_or(0);
        let plan = KeynormPlan::new(tokens, k.layout, T::DTYPE, per)?;
        let device = self.device();
        let keys = device.upload_misaligned("keys", k.data, skip);
        let scores = device.alloc::<f32>("scores", out.len());
        let buffers = KeynormBuffers { keys: place(&keys), scores: place(&scores) };
        let params = keynorm_params(&plan, &buffers)?;
        let launcher =
            if self.mutant.is_some() { salient_mutated_keynorm } else { salient_emulated_keynorm };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        out.copy_from_slice(&scores.read());
        Ok(launched)
    }
}

impl Score for Emulated {
    fn takes_mlp<T: Element>(&self, hidden: usize, width: usize) -> bool {
        check_mlp(hidden, width, T::DTYPE).is_ok()
    }

    fn mlp_weights<T: Element>(
        &self,
        hidden: usize,
        weights: &PredictorWeights,
    ) -> Result<PredictorWeights> {
        Ok(MlpWeights::<T>::new(hidden, weights.clone())?.as_used())
    }

    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        let weights = MlpWeights::<T>::new(hidden, weights.clone())?;
        let plan = MlpPlan::new(weights.shape(), out.len())?;
        self.run_mlp(x, &weights, &plan, None, out).map(drop)
    }

    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
        self.run_keynorm(k, per, 0, out).map(drop)
    }
}
