//! The emulated kernels as an implementation of the conformance suite.

use salient::kernels::attend::PrefillVariant;
use salient::kernels::select::Variant;
use salient_oracle::implementation::Sample;

use crate::launch::Device;

/// Runs every verb on an emulated device of its own.
#[derive(Debug, Clone, Copy)]
pub struct Emulated {
    /// What the order of threads is drawn from.
    pub seed: u64,
    /// The compute capability, 80 for 8.0.
    pub capability: i32,
    /// The variant of **select**, where a row is not too long for it.
    pub variant: Variant,
    /// The variant of **prefill**.
    pub prefill: PrefillVariant,
    /// Whether traffic is counted.
    pub counting: bool,
    /// A mistake that the kernels make on purpose.
    pub mutant: Option<&'static str>,
    /// The cases of the suite that it runs.
    pub sample: Sample,
}

impl Default for Emulated {
    fn default() -> Self {
        Self {
            seed: 0,
            capability: 90,
            variant: Variant::Auto,
            prefill: PrefillVariant::Auto,
            counting: false,
            mutant: None,
            sample: Sample::ALL,
        }
    }
}

impl Emulated {
    /// A device as described.
    pub fn device(&self) -> Device {
        let mut device = Device::new(self.seed).with_capability(self.capability);
        if self.counting {
            device = device.counting();
        }
        match self.mutant {
            Some(mutant) => device.with_mutant(mutant),
            None => device,
        }
    }
}
