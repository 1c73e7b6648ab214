//! Rotary position embedding by original positions (arXiv 2104.09864), halves paired.

use candle_core::{DType, Device, Tensor};

use crate::config::{ModelConfig, RopeScaling};
use crate::error::Result;

/// Cosines and sines of every position of the context, `[context, head_dim / 2]` each, where a
/// model is and of its type.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// The table of a model on a device.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(config: &ModelConfig, device: &Device, dtype: DType) -> Result<Self> {
        let frequencies = inverse_frequencies(config);
        let shape = (config.context, frequencies.len());
        let table = |of: fn(f32) -> f32| {
            // The angle is rounded to f32 first, as the models' own code does.
            let angles = (0..config.context)
                .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
            let table = Tensor::from_vec(angles.map(of).collect(), shape, &Device::Cpu)?;
            table.to_dtype(dtype)?.to_device(device)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// Cosines, `[context, head_dim / 2]`.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// Sines, `[context, head_dim / 2]`.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}

fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let theta = config.rope_theta as f32;
    let plain = (0..config.head_dim)
        .step_by(2)
        .map(|i| 1.0 / theta.powf(i as f32 / config.head_dim as f32));
    match &config.rope_scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|f| f / *factor as f32).collect(),
        Some(RopeScaling::Factors(factors)) => {
            plain.zip(factors).map(|(f, factor)| f / factor).collect()
        }
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        }) => {
            let (factor, low, high) =
                (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
            let context = *original_context as f32;
            plain
                .map(|frequency| {
                    let wavelength = std::f32::consts::TAU / frequency;
                    if wavelength < context / high {
                        frequency
                    } else if wavelength > context / low {
                        frequency / factor
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect()
        }
    }
}
