//! Percentile ranks.

use salient::{Ragged, Result};
use salient_oracle::implementation::ScoreRanks;

use super::Device;

impl ScoreRanks for Device {
    fn rank(&self, scores: &[f32], rows: &Ragged, out: &mut [f32]) -> Result<()> {
        let heads = scores.len().checked_div(rows.total()).unwrap_or(1).max(1);
        let mut session = self.session()?;
        let scores = session.upload(scores)?;
        let ranks = session.rank(&scores.view(), rows, heads)?;
        self.give(&mut session, &ranks, out)
    }
}
