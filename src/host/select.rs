//! **select**: which tokens stay.

use crate::error::Result;
use crate::ragged::Ragged;

/// One value for every sequence, or one for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PerSequence<'a, T> {
    /// The same for all.
    All(T),
    /// `[batch]`, in order.
    Each(&'a [T]),
}

/// How many tokens to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Budget<'a> {
    /// A count per sequence; more than the length keeps all.
    Count(PerSequence<'a, usize>),
    /// The fraction kept, in (0, 1]: `ceil(ratio * len)` tokens.
    Ratio(f64),
    /// Every token whose score is at least this, and the protected ones.
    Threshold(f32),
}

/// Tokens at the edges of a sequence that are never dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edges {
    /// The first so many tokens.
    pub sinks: usize,
    /// The last so many tokens (the local window).
    pub recent: usize,
}

/// Tokens that are never dropped.
#[derive(Debug, Clone, Copy)]
pub struct Protect<'a> {
    /// Sinks and local window.
    pub edges: PerSequence<'a, Edges>,
    /// Further tokens, `[total]`, true for protected.
    pub mask: Option<&'a [bool]>,
}

/// What to select from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The sequences.
    pub rows: &'a Ragged,
    /// Rows per sequence: 1 selects per sequence, the number of KV heads selects per head.
    pub heads: usize,
    /// How many stay.
    pub budget: Budget<'a>,
    /// Which stay in any case.
    pub protect: Protect<'a>,
}

/// The outcome: for every row (sequence, or sequence and KV head), the kept tokens in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    source: Ragged,
    heads: usize,
    kept: Vec<i32>,
    kept_rows: Ragged,
    saw_nan: bool,
}

/// Selects the tokens that stay. `scores` is `[heads, total]`.
pub fn select(scores: &[f32], request: &Request<'_>) -> Result<Selection> {
    todo!()
}
