//! The host backend as an implementation of the conformance suite.

use salient::host::score::{self, AttentionScore, Per, Pool, Predictor, PredictorWeights};
use salient::host::select::{self, Request};
use salient::{Element, Ragged, Result, View};
use salient_oracle::implementation::{Score, Select};
use salient_oracle::select::Selected;

/// The host backend.
pub struct Host;

impl Score for Host {
    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        score::mlp(x, &Predictor::new(hidden, weights.clone())?, out)
    }

    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::last_query(q, k, rows, params, out)
    }

    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::window(q, queries, k, rows, params, out)
    }

    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        params: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        score::columns(q, k, rows, params, out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        score::pool(scores, rows, pool, out)
    }

    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
        score::keynorm(k, per, out)
    }

    fn random(&self, seed: u64, positions: &[i32], out: &mut [f32]) -> Result<()> {
        score::random(seed, positions, out)
    }

    fn position(&self, rows: &Ragged, out: &mut [f32]) -> Result<()> {
        score::position(rows, out)
    }
}

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
