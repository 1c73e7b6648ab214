//! Predictors whose weights are being trained.

use std::collections::BTreeMap;

use candle_core::{D, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient::score::PredictorWeights;

use salient_candle::{Model, Result};

/// The parts of a predictor, in the order of [`Trainee::parts`].
const PARTS: [&str; 5] = ["w1", "b1", "w2", "b2", "norm"];

/// A stage's predictor in training: `w2 . gelu(w1 norm(x) + b1) + b2` with one output.
///
/// SDTP's has two, keep and drop, and a Gumbel-softmax over them (equation 2). Only their
/// difference matters to order, probability and straight-through mask alike, so here it is the
/// output, and the noise is logistic: the difference of two Gumbel variables.
#[derive(Debug, Clone)]
pub struct Trainee {
    w1: Var,
    b1: Var,
    w2: Var,
    b2: Var,
    norm: Option<Var>,
    eps: f64,
}

impl Trainee {
    /// Random weights, where the model's are: uniform within `1 / sqrt(inputs)` of 0, biases 0, the
    /// norm 1 throughout.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(model: &Model, width: usize, norm: bool, seed: u64) -> Result<Self> {
        let (config, device) = (model.config(), model.device());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = |rows: usize, columns: usize| -> Result<Var> {
            let bound = 1.0 / (columns as f32).sqrt();
            let values: Vec<f32> =
                (0..rows * columns).map(|_| random.random_range(-bound..bound)).collect();
            Ok(Var::from_vec(values, (rows, columns), device)?)
        };
        let w1 = uniform(width, config.hidden)?;
        let w2 = uniform(1, width)?;
        let zeros = |len: usize| Var::from_vec(vec![0f32; len], len, device);
        let ones = || Var::from_vec(vec![1f32; config.hidden], config.hidden, device);
        let norm = if norm { Some(ones()?) } else { None };
        Ok(Self { w1, b1: zeros(width)?, w2, b2: zeros(1)?, norm, eps: config.rms_eps })
    }

    /// Scores of hidden states `[tokens, hidden]`: `[tokens]`, differentiable by the weights.
    ///
    /// # Errors
    /// Those of candle.
    pub fn scores(&self, hidden: &Tensor) -> Result<Tensor> {
        let x = match &self.norm {
            Some(weight) => {
                let mean = hidden.sqr()?.mean_keepdim(D::Minus1)?;
                hidden.broadcast_div(&(mean + self.eps)?.sqrt()?)?.broadcast_mul(weight)?
            }
            None => hidden.clone(),
        };
        let inner = x.matmul(&self.w1.t()?)?.broadcast_add(&self.b1)?.gelu_erf()?;
        Ok(inner.matmul(&self.w2.t()?)?.broadcast_add(&self.b2)?.squeeze(1)?)
    }

    /// The weights, with their names.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Var)> {
        let vars =
            [Some(&self.w1), Some(&self.b1), Some(&self.w2), Some(&self.b2), self.norm.as_ref()];
        PARTS.into_iter().zip(vars).filter_map(|(name, var)| Some((name, var?)))
    }

    /// The weight of that name.
    pub fn part(&self, name: &str) -> Option<&Var> {
        self.parts().find(|(part, _)| *part == name).map(|(_, var)| var)
    }

    /// Weights of the same values that do not follow these.
    ///
    /// # Errors
    /// Those of candle.
    pub fn copy(&self) -> Result<Self> {
        let copy = |var: &Var| Var::from_tensor(&var.as_detached_tensor().copy()?);
        Ok(Self {
            w1: copy(&self.w1)?,
            b1: copy(&self.b1)?,
            w2: copy(&self.w2)?,
            b2: copy(&self.b2)?,
            norm: self.norm.as_ref().map(copy).transpose()?,
            eps: self.eps,
        })
    }

    /// What the verb **score** takes.
    ///
    /// # Errors
    /// Those of candle.
    pub fn weights(&self) -> Result<PredictorWeights> {
        let values = |var: &Var| var.flatten_all()?.to_vec1();
        let norm = match &self.norm {
            Some(weight) => Some((values(weight)?, self.eps as f32)),
            None => None,
        };
        let (w1, b1) = (values(&self.w1)?, values(&self.b1)?);
        let (w2, b2) = (values(&self.w2)?, values(&self.b2)?);
        Ok(PredictorWeights { w1, b1, w2, b2, norm })
    }
}

/// AdamW (arXiv 1711.05101). Its moments can be saved and put back, so that a run that was stopped
/// goes on as if it had not been.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    step: i32,
    /// First and second moments, by the weights' names.
    moments: BTreeMap<String, [Tensor; 2]>,
}

impl AdamW {
    const BETAS: [f64; 2] = [0.9, 0.999];
    const EPS: f64 = 1e-8;

    /// An optimiser after `step` steps with these moments.
    pub fn resume(step: i32, moments: BTreeMap<String, [Tensor; 2]>) -> Self {
        Self { step, moments }
    }

    /// The steps taken.
    pub fn step(&self) -> i32 {
        self.step
    }

    /// First and second moments, by the weights' names.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor; 2]> {
        &self.moments
    }

    /// Takes one step with all weights. `decay` is per unit of `rate`, and shrinks matrices alone.
    ///
    /// # Errors
    /// Those of candle.
    pub fn update<'a>(
        &mut self,
        weights: impl IntoIterator<Item = (String, &'a Var, Tensor)>,
        rate: f64,
        decay: f64,
    ) -> Result<()> {
        self.step += 1;
        let [first, second] = Self::BETAS;
        let correction = [1.0 - first.powi(self.step), 1.0 - second.powi(self.step)];
        for (name, var, gradient) in weights {
            let [m, v] = match self.moments.remove(&name) {
                Some(moments) => moments,
                None => [gradient.zeros_like()?, gradient.zeros_like()?],
            };
            let m = ((m * first)? + (&gradient * (1.0 - first))?)?;
            let v = ((v * second)? + (gradient.sqr()? * (1.0 - second))?)?;
            let scale = ((&v / correction[1])?.sqrt()? + Self::EPS)?;
            let kept = if var.rank() > 1 {
                (var.as_tensor() * (1.0 - rate * decay))?
            } else {
                var.as_tensor().clone()
            };
            let next = (kept - ((&m * (rate / correction[0]))? / scale)?)?;
            var.set(&next)?;
            self.moments.insert(name, [m, v]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn close(actual: &Tensor, expected: &[f32]) {
        let actual: Vec<f32> = actual.flatten_all().unwrap().to_vec1().unwrap();
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() < 1e-6, "{actual:?}, expected {expected:?}");
        }
    }

    #[test]
    fn two_steps_are_those_of_the_paper() {
        let vector = Var::from_vec(vec![1f32, -2.0], 2, &Device::Cpu).unwrap();
        let matrix = Var::from_vec(vec![1f32], (1, 1), &Device::Cpu).unwrap();
        let mut adam = AdamW::default();
        let step = |adam: &mut AdamW, slope: [f32; 2]| {
            let gradient = Tensor::new(&slope, &Device::Cpu).unwrap();
            let zero = Tensor::zeros((1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
            let weights = [("v".to_string(), &vector, gradient), ("m".to_string(), &matrix, zero)];
            adam.update(weights, 0.1, 0.5).unwrap();
        };
        // The first step goes by the rate, whatever the slope; a matrix shrinks by rate * decay.
        step(&mut adam, [0.5, -3.0]);
        close(&vector, &[0.9, -1.9]);
        close(&matrix, &[0.95]);
        step(&mut adam, [0.5, 3.0]);
        // m = 0.19 * 0.5 / 0.19, v = 0.5^2; then m = 0.9 * -0.3 + 0.1 * 3 = 0.03, over 0.19.
        close(&vector, &[0.8, -1.9 - 0.1 * (0.03 / 0.19) / 3.0]);
        assert_eq!(adam.step(), 2);
    }
}
