//! Rotary position embedding by original positions (arXiv 2104.09864), halves paired.

use std::sync::RwLock;

use candle_core::{DType, Device, Tensor};

use crate::config::{ModelConfig, RopeScaling};
use crate::error::Result;

/// Positions that a table begins with.
const FIRST_POSITIONS: usize = 1024;

/// Cosines and sines of positions, `[positions, head_dim / 2]` each, where a model is and of its
/// type. It grows with the positions that are asked for: a context may be of millions.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    context: usize,
    device: Device,
    dtype: DType,
    /// The last one counts. Those before stay, since a captured graph may read them; together they
    /// are no larger.
    tables: RwLock<Vec<[Tensor; 2]>>,
}

impl RopeTable {
    /// The table of a model on a device.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(config: &ModelConfig, device: &Device, dtype: DType) -> Result<Self> {
        let (frequencies, context) = (inverse_frequencies(config), config.context);
        let tables = RwLock::default();
        let table = Self { frequencies, context, device: device.clone(), dtype, tables };
        table.reach(FIRST_POSITIONS.min(context))?;
        Ok(table)
    }

    /// Makes sure that there are this many positions, or as many as the context has.
    ///
    /// # Errors
    /// Those of candle.
    pub(crate) fn reach(&self, positions: usize) -> Result<()> {
        let positions = positions.min(self.context);
        let mut tables = self.tables.write().expect("nothing panics while it is written");
        let have = tables.last().map_or(0, |[cos, _]| cos.dims()[0]);
        if positions <= have {
            return Ok(());
        }
        let positions = positions.next_power_of_two().min(self.context);
        let shape = (positions, self.frequencies.len());
        let table = |of: fn(f32) -> f32| {
            // The angle is rounded to f32 first, as the models' own code does.
            let angles = (0..positions)
                .flat_map(|position| self.frequencies.iter().map(move |f| position as f32 * f));
            let table = Tensor::from_vec(angles.map(of).collect(), shape, &Device::Cpu)?;
            table.to_dtype(self.dtype)?.to_device(&self.device)
        };
        tables.push([table(f32::cos)?, table(f32::sin)?]);
        Ok(())
    }

    /// Cosines and sines, `[positions, head_dim / 2]` each.
    pub fn tables(&self) -> [Tensor; 2] {
        let tables = self.tables.read().expect("nothing panics while it is written");
        tables.last().expect("there is one from the beginning").clone()
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
