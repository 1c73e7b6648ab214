//! How well scores order tokens as targets do.

use std::cmp::Ordering;

/// What is measured on one set of tokens that are ranked together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankMetrics {
    /// Of the pairs with different targets, the share that the scores order alike; a pair of equal
    /// scores counts half. 0.5 is chance, and what there is of no such pair.
    pub pair_accuracy: f64,
    /// Kendall's tau-b: 1 for the same order, 0 for none, -1 for the reverse.
    pub kendall_tau: f64,
    /// Of the tokens with the highest targets, the share among those with the highest scores.
    pub overlap: f64,
}

impl RankMetrics {
    /// Of `keep` tokens by score, against as many by target. Ties go to the lower index, as in
    /// selection.
    ///
    /// # Panics
    /// If the lengths differ or a value is NaN.
    pub fn new(scores: &[f32], targets: &[f32], keep: usize) -> Self {
        assert_eq!(scores.len(), targets.len(), "a target for every score");
        let (mut alike, mut reversed, mut tied_scores, mut tied_targets) = (0u64, 0u64, 0u64, 0u64);
        for i in 0..scores.len() {
            for j in 0..i {
                let by_score = compare(scores[i], scores[j]);
                let by_target = compare(targets[i], targets[j]);
                match (by_score, by_target) {
                    (Ordering::Equal, Ordering::Equal) => {}
                    (Ordering::Equal, _) => tied_scores += 1,
                    (_, Ordering::Equal) => tied_targets += 1,
                    _ if by_score == by_target => alike += 1,
                    _ => reversed += 1,
                }
            }
        }
        let (alike, reversed) = (alike as f64, reversed as f64);
        let (tied_scores, tied_targets) = (tied_scores as f64, tied_targets as f64);
        let ordered = alike + reversed;
        let scale = ((ordered + tied_scores) * (ordered + tied_targets)).sqrt();
        let pairs = ordered + tied_scores;
        Self {
            pair_accuracy: if pairs > 0.0 { (alike + tied_scores / 2.0) / pairs } else { 0.5 },
            kendall_tau: if scale > 0.0 { (alike - reversed) / scale } else { 0.0 },
            overlap: overlap(scores, targets, keep.min(scores.len())),
        }
    }
}

impl RankMetrics {
    /// The mean of each over several sets; of none, NaN.
    pub fn mean(sets: &[Self]) -> Self {
        let mean = |pick: fn(&Self) -> f64| sets.iter().map(pick).sum::<f64>() / sets.len() as f64;
        Self {
            pair_accuracy: mean(|set| set.pair_accuracy),
            kendall_tau: mean(|set| set.kendall_tau),
            overlap: mean(|set| set.overlap),
        }
    }
}

fn overlap(scores: &[f32], targets: &[f32], keep: usize) -> f64 {
    if keep == 0 {
        return 1.0;
    }
    let (by_score, by_target) = (highest(scores, keep), highest(targets, keep));
    let both = by_score.iter().filter(|token| by_target.binary_search(token).is_ok()).count();
    both as f64 / keep as f64
}

/// The tokens of the `keep` highest values, ascending.
fn highest(values: &[f32], keep: usize) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..values.len()).collect();
    tokens.sort_by(|&i, &j| compare(values[j], values[i]).then(i.cmp(&j)));
    tokens.truncate(keep);
    tokens.sort_unstable();
    tokens
}

fn compare(left: f32, right: f32) -> Ordering {
    left.partial_cmp(&right).expect("ranked values are numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_order_the_reverse_and_a_known_one() {
        let targets = [0.1, 0.4, 0.2, 0.9, 0.3];
        let same = RankMetrics::new(&[1.0, 4.0, 2.0, 9.0, 3.0], &targets, 2);
        assert_eq!(same, RankMetrics { pair_accuracy: 1.0, kendall_tau: 1.0, overlap: 1.0 });
        let reverse = RankMetrics::new(&[-1.0, -4.0, -2.0, -9.0, -3.0], &targets, 2);
        assert_eq!(reverse, RankMetrics { pair_accuracy: 0.0, kendall_tau: -1.0, overlap: 0.0 });
        // One of ten pairs the other way round.
        let near = RankMetrics::new(&[1.0, 4.0, 3.0, 9.0, 2.0], &targets, 3);
        assert!((near.pair_accuracy - 0.9).abs() < 1e-12 && (near.kendall_tau - 0.8).abs() < 1e-12);
        assert!((near.overlap - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn equal_scores_are_chance() {
        let chance = RankMetrics::new(&[0.0; 4], &[1.0, 2.0, 3.0, 4.0], 2);
        assert_eq!(chance, RankMetrics { pair_accuracy: 0.5, kendall_tau: 0.0, overlap: 0.0 });
        let nothing = RankMetrics::new(&[], &[], 3);
        assert_eq!(nothing, RankMetrics { pair_accuracy: 0.5, kendall_tau: 0.0, overlap: 1.0 });
    }

    #[test]
    fn tau_b_with_ties_is_the_textbook_value() {
        // 6 pairs: 1 tied in x, 1 tied in y, 4 alike: 4 / sqrt(5 * 5).
        let tau = RankMetrics::new(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 3.0], 1).kendall_tau;
        assert!((tau - 0.8).abs() < 1e-12);
    }
}
