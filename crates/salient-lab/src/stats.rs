//! Means and 95% intervals: the bootstrap for means and paired differences, Wilson's for
//! proportions.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Resamples that are enough for the second digit of an interval's ends.
pub const RESAMPLES: usize = 10_000;

/// An estimate and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean, or the proportion.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How many values it rests on.
    pub count: usize,
}

/// The mean of some numbers.
///
/// # Errors
/// When there are none, or one is not finite.
pub fn mean(values: &[f64]) -> Result<f64> {
    if values.is_empty() {
        return Err(Error::Invalid("the mean of no values".into()));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::Invalid(format!("value {index} is {}", values[index]))),
        None => Ok(mean_of(values.iter().copied(), values.len())),
    }
}

/// The median of some numbers.
///
/// # Errors
/// As [`mean`].
pub fn median(values: &[f64]) -> Result<f64> {
    mean(values)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(quantile(&sorted, 0.5))
}

/// The mean with its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).
///
/// # Errors
/// When there are no values, one is not finite, or `resamples` is zero.
pub fn bootstrap(values: &[f64], resamples: usize, seed: u64) -> Result<Estimate> {
    let (mean, count) = (mean(values)?, values.len());
    if resamples == 0 {
        return Err(Error::Invalid("0 resamples: at least one is needed".into()));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| mean_of((0..count).map(|_| values[random.random_range(0..count)]), count))
        .collect();
    means.sort_by(f64::total_cmp);
    Ok(Estimate { mean, low: quantile(&means, 0.025), high: quantile(&means, 0.975), count })
}

/// The mean of `left - right` over the same items, resampled by item, with its interval: narrower
/// than the two intervals apart, since what makes an item hard is common to both.
///
/// # Errors
/// As [`bootstrap`], and when the lengths differ.
pub fn paired_bootstrap(
    left: &[f64],
    right: &[f64],
    resamples: usize,
    seed: u64,
) -> Result<Estimate> {
    if left.len() != right.len() {
        let (left, right) = (left.len(), right.len());
        return Err(Error::Invalid(format!("{left} values cannot be paired with {right}")));
    }
    let differences: Vec<_> = left.iter().zip(right).map(|(left, right)| left - right).collect();
    bootstrap(&differences, resamples, seed)
}

/// The share of hits with Wilson's score interval (1927), which unlike the bootstrap's does not
/// shrink to a point when all or none hit.
///
/// # Errors
/// When `total` is zero or less than `hits`.
pub fn proportion(hits: usize, total: usize) -> Result<Estimate> {
    if total == 0 || hits > total {
        return Err(Error::Invalid(format!("{hits} hits of {total}")));
    }
    let (n, p) = (total as f64, hits as f64 / total as f64);
    let z = 1.959_963_984_540_054; // the normal distribution's 97.5% point
    let scale = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / scale;
    let half = z / scale * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let low = if hits == 0 { 0.0 } else { centre - half };
    let high = if hits == total { 1.0 } else { centre + half };
    Ok(Estimate { mean: p, low, high, count: total })
}

fn mean_of(values: impl Iterator<Item = f64>, count: usize) -> f64 {
    values.sum::<f64>() / count as f64
}

/// Linear between the neighbouring order statistics.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    below + (sorted[at.ceil() as usize] - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values spread like the normal distribution: sums of twelve uniform ones.
    fn normal(count: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0).collect()
    }

    #[test]
    fn bootstrap_intervals_cover_as_often_as_they_say() {
        let covered = (0..200).filter(|&seed| {
            let estimate = bootstrap(&normal(40, seed), 300, seed).unwrap();
            estimate.low <= 0.0 && 0.0 <= estimate.high
        });
        let covered = covered.count();
        assert!((178..=198).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn the_interval_has_the_width_of_the_central_limit() {
        let values = normal(400, 1);
        let estimate = bootstrap(&values, 2000, 2).unwrap();
        let width = estimate.high - estimate.low;
        assert!((width / (2.0 * 1.96 / 20.0) - 1.0).abs() < 0.1, "{width}");
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high);
        assert_eq!(estimate, bootstrap(&values, 2000, 2).unwrap());
        assert_eq!(estimate.count, 400);
    }

    #[test]
    fn pairing_removes_what_is_common() {
        let hard: Vec<_> = normal(50, 3).iter().map(|value| 10.0 * value).collect();
        let left: Vec<_> = hard.iter().zip(normal(50, 4)).map(|(a, b)| a + 1.0 + 0.1 * b).collect();
        let paired = paired_bootstrap(&left, &hard, 2000, 5).unwrap();
        assert!((paired.mean - 1.0).abs() < 0.1 && paired.high - paired.low < 0.1, "{paired:?}");
        let alone = bootstrap(&left, 2000, 5).unwrap();
        assert!(alone.high - alone.low > 2.0, "{alone:?}");
    }

    #[test]
    fn constants_have_no_width() {
        let estimate = bootstrap(&[0.25; 7], 100, 0).unwrap();
        assert_eq!((estimate.mean, estimate.low, estimate.high), (0.25, 0.25, 0.25));
    }

    /// The values of Newcombe (1998), table I, method 3.
    #[test]
    fn proportions_have_the_published_intervals() {
        for (hits, total, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let estimate = proportion(hits, total).unwrap();
            assert!((estimate.low - low).abs() < 5e-5, "{hits} of {total}: {estimate:?}");
            assert!((estimate.high - high).abs() < 5e-5, "{hits} of {total}: {estimate:?}");
        }
        assert_eq!(proportion(12, 12).unwrap().high, 1.0);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(mean(&[]), Err(Error::Invalid(_))));
        assert!(matches!(bootstrap(&[1.0, f64::NAN], 10, 0), Err(Error::Invalid(_))));
        assert!(matches!(bootstrap(&[1.0], 0, 0), Err(Error::Invalid(_))));
        assert!(matches!(paired_bootstrap(&[1.0], &[], 10, 0), Err(Error::Invalid(_))));
        assert!(matches!(proportion(0, 0), Err(Error::Invalid(_))));
        assert!(matches!(proportion(3, 2), Err(Error::Invalid(_))));
    }
}
