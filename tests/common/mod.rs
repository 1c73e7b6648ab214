//! The host backend as an implementation of the conformance suite.

use salient::Result;
use salient::host::select::{self, Request};
use salient_oracle::implementation::Select;
use salient_oracle::select::Selected;

/// The host backend.
pub struct Host;

impl Select for Host {
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected> {
        let selection = select::select(scores, request)?;
        let row = |row| selection.row(row / request.heads, row % request.heads).to_vec();
        Ok(Selected {
            kept: (0..request.rows.batch() * request.heads).map(row).collect(),
            inverse: selection.inverse(),
            cu_seqlens: selection.kept_rows().cu_seqlens().to_vec(),
            saw_nan: selection.saw_nan(),
        })
    }
}

/// Runs the same work on 1, 2 and 3 threads and compares the outcomes.
pub fn in_pools<R: PartialEq + Send>(work: impl Fn() -> R + Send + Sync) {
    let mut outcomes = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool of three threads at most").install(&work)
    });
    let first = outcomes.split_first_mut().expect("three outcomes");
    assert!(first.1.iter().all(|other| other == &*first.0), "threads change the outcome");
}
