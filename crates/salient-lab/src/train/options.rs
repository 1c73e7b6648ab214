//! What a training run is: all that decides its result, besides model and texts.

use std::str::FromStr;

use salient::schedule::Schedule;
use serde::{Deserialize, Serialize};

use super::Target;
use super::loss::{self, Loss, Pairs};
use crate::error::{Error, Result};

/// A training run; what is left out has the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// Of the weights, the order of texts and the noise of masks.
    pub seed: u64,
    /// The stages that get a predictor, and what they keep, in its text form.
    #[serde(with = "as_text")]
    pub schedule: Schedule,
    /// Units between a predictor's two layers.
    pub width: usize,
    /// Whether predictors begin with an RMSNorm.
    pub norm: bool,
    /// What scores are to foresee.
    #[serde(with = "as_text")]
    pub target: Target,
    /// A token's worth is divided by the geometric mean of this many tokens around it; 0 leaves it
    /// as it is. Scored tokens attend more to what is near, and predictors would learn where a
    /// token stands: those at the beginning of a long prompt would go first.
    pub contrast: usize,
    /// What the mean squared error compares scores with.
    pub scale: Scale,
    /// Whether the ranking loss adds pairs up.
    pub pairs: Pairs,
    /// How much each loss counts.
    pub losses: LossWeights,
    /// Texts per step.
    pub batch: usize,
    /// Steps that fit scores to targets in the unmasked model: the first phase.
    pub fast: Steps,
    /// Steps through the masked model, after those: the second phase.
    pub full: Steps,
    /// AdamW's weight decay, per unit of the rate.
    pub decay: f64,
    /// The temperature of the mask's relaxation.
    pub temperature: f64,
    /// Steps between two evaluations on the held-out texts.
    pub evaluate_every: usize,
    /// A phase ends after this many evaluations without a better one.
    pub patience: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            schedule: Schedule::sdtp(),
            width: 144,
            norm: true,
            target: Target::Saliency,
            contrast: 0,
            scale: Scale::Largest,
            pairs: Pairs::Mean,
            losses: LossWeights::default(),
            batch: 4,
            fast: Steps { steps: 600, warmup: 30, rate: 1e-3 },
            full: Steps { steps: 0, warmup: 10, rate: 1e-4 },
            decay: 0.01,
            temperature: 1.0,
            evaluate_every: 50,
            patience: 6,
        }
    }
}

/// The steps of a phase. The rate rises over the warm-up and then falls to 0 by half a cosine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// How many.
    pub steps: usize,
    /// Of these, how many warm up.
    pub warmup: usize,
    /// The highest rate.
    pub rate: f64,
}

impl Steps {
    /// The rate of a step.
    pub(super) fn rate_at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.rate * (step + 1) as f64 / self.warmup as f64;
        }
        let falling = (self.steps - self.warmup.min(self.steps)).max(1) as f64;
        let done = (step - self.warmup) as f64 / falling;
        0.5 * self.rate * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
    }
}

/// How much each loss counts; 0 leaves it out. SDTP's sum (equation 8) has 1 for the first three.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossWeights {
    /// Ranking by target ([`loss::rank`]).
    pub rank: f64,
    /// Squared error against the scaled target ([`loss::mse`]).
    pub mse: f64,
    /// Cross entropy of the masked model. In the second phase, as the two that follow.
    pub cross_entropy: f64,
    /// Divergence of the masked from the unmasked model.
    pub distillation: f64,
    /// Squared excess of the share of tokens alive over the stage's ([`loss::keep_ratio`]).
    pub keep_ratio: f64,
    /// Divergence of softmax(scores) from the target as a distribution ([`loss::divergence`]).
    pub divergence: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self {
            rank: 1.0,
            mse: 1.0,
            cross_entropy: 1.0,
            distillation: 0.0,
            keep_ratio: 0.0,
            divergence: 0.0,
        }
    }
}

/// What the mean squared error compares scores with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// The target over the largest of the sequence at the stage.
    Largest,
    /// Its logarithm (KVzap learns KVzip's scores so): of `1e-6` where it is less.
    Log,
}

/// The least worth that logarithms are taken of.
const LEAST: f64 = 1e-6;

impl TrainOptions {
    /// # Errors
    /// [`Error::Training`] for invalid sizes, weights and rates, and for a target that has
    /// negative values where its logarithm or its share is asked for.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Training { reason });
        for (what, value) in [
            ("width", self.width),
            ("batch", self.batch),
            ("evaluate_every", self.evaluate_every),
            ("patience", self.patience),
        ] {
            if value == 0 {
                return refuse(format!("`{what}` is 0, which must be at least 1"));
            }
        }
        let l = &self.losses;
        for (what, value) in [
            ("losses.rank", l.rank),
            ("losses.mse", l.mse),
            ("losses.cross_entropy", l.cross_entropy),
            ("losses.distillation", l.distillation),
            ("losses.keep_ratio", l.keep_ratio),
            ("losses.divergence", l.divergence),
            ("fast.rate", self.fast.rate),
            ("full.rate", self.full.rate),
            ("decay", self.decay),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(format!("`{what}` is {value}, which must be 0 or positive"));
            }
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let value = self.temperature;
            return refuse(format!("`temperature` is {value}, which must be positive"));
        }
        if self.fast.steps > 0 && l.rank + l.mse + l.divergence == 0.0 {
            return refuse("the first phase has no loss: rank, mse or divergence".into());
        }
        if self.full.steps > 0 && l.cross_entropy + l.distillation == 0.0 {
            return refuse("the second phase has no loss: cross_entropy or distillation".into());
        }
        let log = l.mse > 0.0 && self.scale == Scale::Log || self.contrast > 0;
        if self.target == Target::SignedSaliency && (log || l.divergence > 0.0) {
            return refuse(format!("`{}` has no logarithm and is no distribution", self.target));
        }
        Ok(())
    }

    /// What scores are compared with, from the worth of all of a text's tokens at a stage.
    pub(super) fn contrasted(&self, worth: &[f32]) -> Vec<f32> {
        if self.contrast == 0 {
            return worth.to_vec();
        }
        let logs: Vec<f64> = worth.iter().map(|&worth| log(worth.into())).collect();
        let before = self.contrast / 2;
        let after = self.contrast - before;
        let contrast = |token: usize| {
            let around = &logs[token.saturating_sub(before)..(token + after).min(logs.len())];
            (logs[token] - around.iter().sum::<f64>() / around.len() as f64).exp() as f32
        };
        (0..logs.len()).map(contrast).collect()
    }

    /// The loss of scores against the worth of the same tokens.
    pub(super) fn loss(&self, scores: &[f64], worth: &[f64]) -> Loss {
        let mut sum = Loss { value: 0.0, gradient: vec![0.0; scores.len()] };
        let mut add = |weight: f64, loss: &dyn Fn() -> Loss| {
            if weight > 0.0 {
                let loss = loss();
                sum.value += weight * loss.value;
                for (sum, slope) in sum.gradient.iter_mut().zip(loss.gradient) {
                    *sum += weight * slope;
                }
            }
        };
        add(self.losses.rank, &|| loss::rank(scores, worth, self.pairs));
        add(self.losses.mse, &|| loss::mse(scores, &self.scale.apply(worth)));
        add(self.losses.divergence, &|| loss::divergence(scores, worth));
        sum
    }
}

impl Scale {
    fn apply(self, worth: &[f64]) -> Vec<f64> {
        match self {
            Self::Largest => {
                let largest = worth.iter().fold(0f64, |largest, value| largest.max(value.abs()));
                let factor = if largest > 0.0 { 1.0 / largest } else { 0.0 };
                worth.iter().map(|value| factor * value).collect()
            }
            Self::Log => worth.iter().copied().map(log).collect(),
        }
    }
}

fn log(worth: f64) -> f64 {
    worth.max(LEAST).ln()
}

/// Values that configurations hold as text.
mod as_text {
    use std::fmt::Display;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::FromStr;

    pub(super) fn serialize<S: Serializer>(
        value: &impl Display,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrast_leaves_what_stands_out_and_no_trend() {
        let options = |contrast| TrainOptions { contrast, ..TrainOptions::default() };
        // A trend of e^(i / 50), and one token three times as much as it says.
        let worth: Vec<f32> =
            (0..400).map(|i| (i as f32 / 50.0).exp() * if i == 100 { 3.0 } else { 1.0 }).collect();
        assert_eq!(options(0).contrasted(&worth), worth);
        let contrasted = options(40).contrasted(&worth);
        // Within a window of 40 its mean is a fortieth of ln 3 higher, and half a token's trend
        // less.
        let own = 1.0 / 100.0 + 39.0 / 40.0 * 3f64.ln();
        assert!((f64::from(contrasted[100]).ln() - own).abs() < 1e-5, "{}", contrasted[100]);
        let far = (20..60).chain(140..380);
        for i in far {
            assert!((f64::from(contrasted[i]).ln() - 0.01).abs() < 1e-5, "{i}: {}", contrasted[i]);
        }
        // At the ends the window is what there is of it; nothing is worth nothing.
        assert_eq!(options(8).contrasted(&[0.0; 3]), [1.0; 3]);
        assert_eq!(options(8).contrasted(&[]), [0f32; 0]);
    }

    #[test]
    fn contrast_needs_positive_worth() {
        let options = |target| TrainOptions { contrast: 64, target, ..TrainOptions::default() };
        assert!(options(Target::Saliency).check().is_ok());
        let refused = options(Target::SignedSaliency).check().unwrap_err().to_string();
        assert!(refused.contains("saliency-signed"), "{refused}");
    }
}
