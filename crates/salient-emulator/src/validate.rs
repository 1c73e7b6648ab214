//! **validate** on the emulated device.

use std::ffi::{c_int, c_void};

use salient::Result;
use salient::kernels::raw::SalientValidateParams;
use salient::kernels::validate::{ValidateBuffers, ValidatePlan, params};
use salient::kernels::{Buffer as Place, Status};

use crate::launch::{Device, Launched};
use crate::memory::Buffer;
use crate::memory::place;

unsafe extern "C" {
    fn salient_emulated_validate(
        params: *const SalientValidateParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_mutated_validate(params: *const SalientValidateParams, stream: *mut c_void)
    -> c_int;
}

/// The lists to check, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct ValidateRun {
    /// What is checked.
    pub plan: ValidatePlan,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer<i32>,
    /// i32 `[batch * heads, capacity]`.
    pub kept: Buffer<i32>,
    /// i32 `[batch * heads]`.
    pub kept_lens: Buffer<i32>,
    /// i32 `[batch * heads + 1]`.
    pub cu_kept: Option<Buffer<i32>>,
    /// i32 `[batch, max_pages]`.
    pub page_table: Option<Buffer<i32>>,
}

impl ValidateRun {
    /// Checks the lists and gives what was found wrong.
    ///
    /// # Errors
    /// Those of [`params`].
    ///
    /// # Panics
    /// On a fault of the kernel.
    pub fn launch(&self, device: &Device, mutated: bool) -> Result<(Status, Vec<Launched>)> {
        let status = device.upload("status", &Status::CLEAR.words());
        let buffers = ValidateBuffers {
            cu_seqlens: place(&self.cu_seqlens),
            kept: place(&self.kept),
            kept_lens: place(&self.kept_lens),
            cu_kept: self.cu_kept.as_ref().map(place),
            page_table: self.page_table.as_ref().map(place),
            status: Place::new(status.address(), 1),
        };
        let params = params(&self.plan, &buffers)?;
        let launcher = if mutated { salient_mutated_validate } else { salient_emulated_validate };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = status.read();
        Ok((Status::from_words([words[0], words[1]]), launched))
    }
}
