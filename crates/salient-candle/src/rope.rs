//! Rotary position embedding by original positions (arXiv 2104.09864), halves paired.

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines of every position of the context, `[context, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct RopeTable {
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl RopeTable {
    /// The table of a model for positions below `positions`.
    pub fn new(config: &ModelConfig, positions: usize) -> Self {
        let frequencies = inverse_frequencies(config);
        let half = frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                // The angle is rounded to f32 first, as the models' own code does.
                let angle = position as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        Self { half, cos, sin }
    }

    /// The cosines and sines of one position, `[head_dim / 2]` each.
    pub fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
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
