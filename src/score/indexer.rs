//! What the lightning indexer is given.

use crate::attend::RowLimit;
use crate::layout::View;
use crate::ragged::Ragged;

/// The queries of an indexer.
#[derive(Debug, Clone, Copy)]
pub struct IndexerQueries<'a, T> {
    /// `[queries, heads, dim]`.
    pub q: View<'a, T>,
    /// How much each head counts: `[queries, heads]`. The factor of the dot product and the scales
    /// of quantised queries are multiplied into it by the caller: ReLU lets a positive factor
    /// through.
    pub weights: &'a [f32],
    /// Which of them belong to which sequence.
    pub rows: &'a Ragged,
    /// Which keys each sees.
    pub limit: RowLimit<&'a [i32]>,
}

/// The keys of an indexer: one head for all of the queries'.
#[derive(Debug, Clone, Copy)]
pub struct IndexerKeys<'a, T> {
    /// `[total, 1, dim]`.
    pub k: View<'a, T>,
    /// What each key is to be multiplied by if it is quantised: `[total]`.
    pub scales: Option<&'a [f32]>,
    /// Which of them belong to which sequence.
    pub rows: &'a Ragged,
}

/// Where logits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Logits {
    /// `[queries, stride]`: that of query m and key n of its sequence at `m * stride + n`. What is
    /// left of a row is -inf.
    Rows {
        /// At least as long as the longest sequence.
        stride: usize,
    },
    /// `[total keys]`, as **select** takes scores: sequences have one query, or none and score
    /// -inf. One step of decoding.
    Tokens,
}
