//! **score** on the host. The contract is that of [`crate::score`]. Results are bitwise the same
//! for any number of threads and any neighbours in the batch.
//!
//! | function | looks at | used by |
//! |---|---|---|
//! | [`mlp`] | hidden states, through a trained [`Predictor`] | SDTP |
//! | [`last_query`] | attention of the last query | LazyLLM, FastV, TOVA |
//! | [`window`] | attention of the last queries | SnapKV, PyramidInfer |
//! | [`columns`] | attention of every query | H2O |
//! | [`expected`] | keys, values and what is known of queries | Expected Attention |
//! | [`indexer`] | queries and keys of an indexer | DeepSeek-V3.2 |
//! | [`keynorm`] | norms of keys | kvpress `KnormPress` |
//! | [`position`] | nothing: later is higher | StreamingLLM |
//! | [`random`] | nothing | the baseline |
//!
//! Scores of scores: [`pool`], of neighbours, and [`rank`], among all of a sequence.

mod attention;
mod expected;
mod indexer;
mod mlp;
mod rank;
mod simple;
mod statistics;
mod strips;

pub use attention::{columns, last_query, window};
pub use expected::expected;
pub use indexer::indexer;
pub use mlp::{Predictor, mlp};
pub use rank::rank;
pub use simple::{keynorm, pool, position, random};

use crate::checks::check_len;
use crate::error::Result;
use crate::ragged::Ragged;

/// Checks that scores are `[heads, total]` for some number of heads, and what is made of them too.
fn check_rows(scores: &[f32], rows: &Ragged, out: &[f32]) -> Result<()> {
    check_len("out", scores.len(), out.len())?;
    let heads = scores.len().checked_div(rows.total()).unwrap_or(0);
    check_len("scores", heads * rows.total(), scores.len())
}

/// The larger, or NaN if either is: `f32::max` would hide it.
fn maximum(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
