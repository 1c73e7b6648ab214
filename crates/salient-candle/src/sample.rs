//! Choosing the next token from logits.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Sample from the smallest set of tokens whose probability reaches this.
    pub top_p: Option<f64>,
    /// Same seed, same tokens.
    pub seed: u64,
}

/// A seeded source of next tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// [`Error::Sampling`] for a negative temperature or a top-p outside (0, 1].
    pub fn new(sampling: Sampling) -> Result<Self> {
        let Sampling { temperature, top_p, seed } = sampling;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(Error::Sampling {
                what: "temperature",
                value: temperature,
                expected: "0 or more",
            });
        }
        if let Some(value) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::Sampling { what: "top-p", value, expected: "in (0, 1]" });
        }
        Ok(Self { sampling, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The next token, by its place in `logits`. Equal logits: the lower id.
    ///
    /// # Errors
    /// [`Error::NanLogits`] if a logit is NaN or none is finite.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) || !logits.iter().any(|l| l.is_finite()) {
            return Err(Error::NanLogits);
        }
        Ok(self.choose(logits))
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let best = order.iter().copied().min_by(by_logit).unwrap_or_default();
        if self.sampling.temperature == 0.0 {
            return best;
        }
        let max = f64::from(logits[best as usize]);
        let weight =
            |id: u32| ((f64::from(logits[id as usize]) - max) / self.sampling.temperature).exp();
        if let Some(top_p) = self.sampling.top_p {
            order.sort_unstable_by(by_logit);
            let total: f64 = order.iter().map(|&id| weight(id)).sum();
            let mut reached = 0.0;
            let nucleus = order.iter().position(|&id| {
                reached += weight(id);
                reached >= top_p * total
            });
            order.truncate(nucleus.map_or(order.len(), |last| last + 1));
        }
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut target = self.rng.random::<f64>() * total;
        for &id in &order {
            target -= weight(id);
            if target < 0.0 {
                return id;
            }
        }
        order.last().copied().unwrap_or(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[sampler.next(logits).unwrap() as usize] += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn zero_temperature_is_greedy_and_ties_go_low() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.next(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
    }

    #[test]
    fn sampling_follows_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0];
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let seen =
            frequencies(Sampling { temperature: 1.0, top_p: None, seed: 7 }, &logits, 20_000);
        for (seen, logit) in seen.iter().zip(logits) {
            // Five standard deviations of a proportion over 20 000 draws.
            assert!((seen - f64::from(logit).exp() / total).abs() < 0.018);
        }
    }

    #[test]
    fn top_p_drops_the_tail() {
        let logits = [3.0f32, 2.9, -1.0, -2.0];
        let seen =
            frequencies(Sampling { temperature: 1.0, top_p: Some(0.9), seed: 1 }, &logits, 2000);
        assert!(seen[0] > 0.3 && seen[1] > 0.3);
        assert_eq!(&seen[2..], &[0.0, 0.0]);
    }

    #[test]
    fn same_seed_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| {
            let mut sampler =
                Sampler::new(Sampling { temperature: 1.5, top_p: None, seed }).unwrap();
            (0..40).map(|_| sampler.next(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn a_logit_that_is_nan_is_an_error_whatever_the_temperature() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling { temperature, top_p: Some(0.9), seed: 1 };
            let mut sampler = Sampler::new(sampling).unwrap();
            for logits in [[1.0, f32::NAN, 2.0], [f32::NEG_INFINITY; 3], [f32::NAN; 3]] {
                assert!(matches!(sampler.next(&logits), Err(Error::NanLogits)), "{logits:?}");
            }
            assert!(sampler.next(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]).unwrap() == 1);
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        for (temperature, top_p) in
            [(-1.0, None), (f64::NAN, None), (1.0, Some(0.0)), (1.0, Some(1.5))]
        {
            assert!(Sampler::new(Sampling { temperature, top_p, seed: 0 }).is_err());
        }
    }
}
