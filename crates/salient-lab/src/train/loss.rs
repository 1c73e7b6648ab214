//! Losses of a predictor's scores against a stage's targets, with gradients derived by hand.
//!
//! Scores and targets are of the tokens that are ranked together: those of one sequence that are
//! alive at one stage. Memory is linear in their number; sums go in a fixed order.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A loss and its gradient by the scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The loss.
    pub value: f64,
    /// Its derivative by every score.
    pub gradient: Vec<f64>,
}

/// Whether pairs are added up, or averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// Added up (SDTP, equation 6, to the letter): at 512 tokens a stage begins at 90,669.
    Sum,
    /// Divided by their number, so that length does not weigh: begins at ln 2.
    Mean,
}

/// The ranking loss, over all pairs `i < j` of tokens (SDTP, equation 6):
///
/// ```text
/// sum of log(1 + exp(-(p_i - p_j) sign(t_i - t_j)))
/// ```
///
/// A pair of equal targets adds ln 2 and pulls at nothing.
///
/// # Panics
/// If the lengths differ.
pub fn rank(scores: &[f64], targets: &[f64], pairs: Pairs) -> Loss {
    assert_eq!(scores.len(), targets.len(), "a target for every score");
    let rows: Vec<(f64, f64)> = (0..scores.len())
        .into_par_iter()
        .map(|i| {
            let (mut value, mut slope) = (0.0, 0.0);
            for (j, (&score, &target)) in scores.iter().zip(targets).enumerate() {
                let sign = sign(targets[i] - target);
                let margin = (scores[i] - score) * sign;
                // Every row sees all others for its gradient; a pair's loss is counted once.
                if i < j {
                    value += softplus(-margin);
                }
                slope -= sign * sigmoid(-margin);
            }
            (value, slope)
        })
        .collect();
    let count = scores.len() * scores.len().saturating_sub(1) / 2;
    let factor = match pairs {
        Pairs::Mean if count > 0 => 1.0 / count as f64,
        _ => 1.0,
    };
    Loss {
        value: factor * rows.iter().map(|row| row.0).sum::<f64>(),
        gradient: rows.iter().map(|row| factor * row.1).collect(),
    }
}

/// The mean squared difference (SDTP, equation 4). Of no tokens it is 0.
///
/// # Panics
/// If the lengths differ.
pub fn mse(scores: &[f64], targets: &[f64]) -> Loss {
    assert_eq!(scores.len(), targets.len(), "a target for every score");
    let factor = 1.0 / scores.len().max(1) as f64;
    let differences = scores.iter().zip(targets).map(|(score, target)| score - target);
    Loss {
        value: factor * differences.clone().map(|d| d * d).sum::<f64>(),
        gradient: differences.map(|d| 2.0 * factor * d).collect(),
    }
}

/// The Kullback-Leibler divergence of `softmax(scores)` from the targets scaled to sum to 1: the
/// form of the objective of DeepSeek sparse attention's indexer, which has it for every query, of
/// attention summed over heads; here there is one target per token. Targets are not negative; if
/// none is positive the loss is 0.
///
/// # Panics
/// If the lengths differ.
pub fn divergence(scores: &[f64], targets: &[f64]) -> Loss {
    assert_eq!(scores.len(), targets.len(), "a target for every score");
    let total: f64 = targets.iter().sum();
    if total <= 0.0 {
        return Loss { value: 0.0, gradient: vec![0.0; scores.len()] };
    }
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = top + scores.iter().map(|score| (score - top).exp()).sum::<f64>().ln();
    let mut loss = Loss { value: 0.0, gradient: Vec::with_capacity(scores.len()) };
    for (score, target) in scores.iter().zip(targets) {
        let (share, log_p) = (target / total, score - log_sum);
        if share > 0.0 {
            loss.value += share * (share.ln() - log_p);
        }
        loss.gradient.push(log_p.exp() - share);
    }
    loss
}

/// How far the share of tokens kept is from what it should be, squared (DynamicViT, arXiv
/// 2106.02034, equation 10). `keep` is 0 or 1 for every token, or a probability.
pub fn keep_ratio(keep: &[f64], ratio: f64) -> Loss {
    let factor = 1.0 / keep.len().max(1) as f64;
    let excess = factor * keep.iter().sum::<f64>() - ratio;
    Loss { value: excess * excess, gradient: vec![2.0 * factor * excess; keep.len()] }
}

/// 1, -1, or 0 for equals.
fn sign(difference: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference.signum() }
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    const STEP: f64 = 1e-5;

    /// Scores and targets, some of them equal.
    fn draw(tokens: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let scores = (0..tokens).map(|_| random.random_range(-3.0..3.0)).collect();
        let targets = (0..tokens).map(|_| f64::from(random.random_range(0..12u8)) / 12.0).collect();
        (scores, targets)
    }

    fn assert_gradient(loss: impl Fn(&[f64]) -> Loss, at: &[f64]) {
        let gradient = loss(at).gradient;
        assert_eq!(gradient.len(), at.len());
        let mut at = at.to_vec();
        for (i, &derived) in gradient.iter().enumerate() {
            let here = at[i];
            at[i] = here + STEP;
            let above = loss(&at).value;
            at[i] = here - STEP;
            let below = loss(&at).value;
            at[i] = here;
            let numeric = (above - below) / (2.0 * STEP);
            let error = (derived - numeric).abs() / derived.abs().max(numeric.abs()).max(1e-4);
            assert!(error < 1e-3, "score {i}: {derived} derived, {numeric} by differences");
        }
    }

    /// Equation 6 as it is printed.
    fn equation_6(scores: &[f64], targets: &[f64]) -> f64 {
        let mut sum = 0.0;
        for i in 0..scores.len() {
            for j in i + 1..scores.len() {
                let sign = match targets[i].total_cmp(&targets[j]) {
                    std::cmp::Ordering::Less => -1.0,
                    std::cmp::Ordering::Equal => 0.0,
                    std::cmp::Ordering::Greater => 1.0,
                };
                sum += (1.0 + (-(scores[i] - scores[j]) * sign).exp()).ln();
            }
        }
        sum
    }

    #[test]
    fn ranking_is_equation_6() {
        for tokens in [0, 1, 2, 7, 65] {
            let (scores, targets) = draw(tokens, 1);
            let expected = equation_6(&scores, &targets);
            let sum = rank(&scores, &targets, Pairs::Sum);
            assert!((sum.value - expected).abs() <= 1e-9 * expected, "{tokens} tokens");
            let count = (tokens * tokens.saturating_sub(1) / 2).max(1) as f64;
            let mean = rank(&scores, &targets, Pairs::Mean);
            assert!((mean.value - expected / count).abs() <= 1e-9 * expected);
        }
        let start = rank(&[0.0; 512], &draw(512, 2).1, Pairs::Sum).value;
        assert!((start - 130_816.0 * 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for seed in 0..4 {
            let (scores, targets) = draw(33, seed);
            for pairs in [Pairs::Sum, Pairs::Mean] {
                assert_gradient(|scores| rank(scores, &targets, pairs), &scores);
            }
            assert_gradient(|scores| mse(scores, &targets), &scores);
            assert_gradient(|scores| divergence(scores, &targets), &scores);
            assert_gradient(|scores| keep_ratio(scores, 0.35), &scores);
        }
    }

    #[test]
    fn ranking_far_apart_neither_overflows_nor_pulls() {
        let right = rank(&[1e4, -1e4], &[1.0, 0.0], Pairs::Sum);
        assert_eq!(right, Loss { value: 0.0, gradient: vec![0.0, 0.0] });
        let wrong = rank(&[-1e4, 1e4], &[1.0, 0.0], Pairs::Sum);
        assert_eq!(wrong, Loss { value: 2e4, gradient: vec![-1.0, 1.0] });
    }

    #[test]
    fn divergence_is_zero_at_the_targets_alone() {
        let (_, targets) = draw(9, 3);
        let targets: Vec<f64> = targets.iter().map(|target| target + 0.1).collect();
        let scores: Vec<f64> = targets.iter().map(|target| target.ln() + 5.0).collect();
        let at = divergence(&scores, &targets);
        assert!(at.value.abs() < 1e-12 && at.gradient.iter().all(|slope| slope.abs() < 1e-12));
        assert!(divergence(&[0.0; 9], &targets).value > 1e-3);
        assert_eq!(divergence(&[1.0, 2.0], &[0.0, 0.0]).gradient, [0.0, 0.0]);
    }

    #[test]
    fn nan_scores_make_nan_losses() {
        let scores = [0.0, f64::NAN];
        assert!(rank(&scores, &[0.0, 1.0], Pairs::Mean).value.is_nan());
        assert!(mse(&scores, &[0.0, 1.0]).value.is_nan());
        assert!(divergence(&scores, &[0.0, 1.0]).value.is_nan());
    }
}
