//! Percentile ranks.

use salient::{Ragged, Result};

use crate::Oracle;
use crate::check::same;
use crate::implementation::ScoreRanks;

/// The share of a sequence's scores that are lower than each; of NaN, NaN.
pub fn rank(scores: &[f32]) -> Vec<f32> {
    let share = |score: &f32| {
        let lower = scores.iter().filter(|&other| other < score).count();
        if score.is_nan() { f32::NAN } else { lower as f32 / scores.len() as f32 }
    };
    scores.iter().map(share).collect()
}

impl ScoreRanks for Oracle {
    fn rank(&self, scores: &[f32], rows: &Ragged, out: &mut [f32]) -> Result<()> {
        same("out", scores.len(), out.len())?;
        let total = rows.total().max(1);
        same("scores", scores.len().next_multiple_of(total), scores.len())?;
        if rows.total() == 0 {
            return same("scores", 0, scores.len());
        }
        for (scores, out) in scores.chunks_exact(total).zip(out.chunks_exact_mut(total)) {
            for span in rows.spans() {
                out[span.range()].copy_from_slice(&rank(&scores[span.range()]));
            }
        }
        Ok(())
    }
}
