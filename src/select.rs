//! **select**: which tokens stay. What is asked for and what comes of it, on every backend.
//!
//! For every row (a sequence, or a sequence and KV head) exactly `min(k, len)` tokens win, by score
//! descending, the lower index first among equals; -0.0 equals +0.0. Protected tokens always win, a
//! NaN never while a number is left. The result does not depend on what else is in the batch.

mod selection;

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::ragged::Ragged;

pub use selection::Selection;

/// One value for every sequence, or one for each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PerSequence<'a, T> {
    /// The same for all.
    All(T),
    /// `[batch]`, in order.
    Each(&'a [T]),
}

/// How many tokens to keep. `Counts` is where the counts of [`Budget::Counts`] lie: a slice where
/// the host has them, nothing in a plan, whose launches bring them along.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Budget<Counts = ()> {
    /// Keep this many tokens per sequence; a count above the length keeps them all.
    Count(usize),
    /// A count for each sequence, `[batch]`.
    Counts(Counts),
    /// The fraction kept, in (0, 1]: `ceil(ratio * len)` tokens.
    Ratio(f64),
    /// Every token whose score is at least this, and the protected ones.
    Threshold(f32),
}

impl<Counts> Budget<Counts> {
    /// The same without the counts.
    pub fn kind(&self) -> Budget {
        match *self {
            Self::Count(count) => Budget::Count(count),
            Self::Counts(_) => Budget::Counts(()),
            Self::Ratio(ratio) => Budget::Ratio(ratio),
            Self::Threshold(at_least) => Budget::Threshold(at_least),
        }
    }

    /// The most tokens that a sequence of up to `max_len` keeps, protection aside: the room that
    /// its list needs.
    pub fn capacity(&self, max_len: usize) -> usize {
        match *self {
            Self::Count(count) => count.min(max_len),
            Self::Ratio(ratio) => ceil_share(ratio, max_len),
            Self::Counts(_) | Self::Threshold(_) => max_len,
        }
    }

    /// Checks a ratio or a threshold.
    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::Count(_) | Self::Counts(_) => Ok(()),
            Self::Ratio(ratio) => check_ratio(ratio),
            Self::Threshold(at_least) => check_threshold(at_least),
        }
    }
}

/// Tokens at the edges of a sequence that are never dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edges {
    /// How many tokens at the start.
    pub sinks: usize,
    /// How many tokens at the end (the local window).
    pub recent: usize,
}

/// Tokens that are never dropped; by default there are none.
#[derive(Debug, Clone, Copy)]
pub struct Protect<'a> {
    /// Sinks and local window.
    pub edges: PerSequence<'a, Edges>,
    /// Further tokens, `[total]`, true for protected.
    pub mask: Option<&'a [bool]>,
}

impl Default for Protect<'_> {
    fn default() -> Self {
        Self { edges: PerSequence::All(Edges::default()), mask: None }
    }
}

/// What to select from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The sequences.
    pub rows: &'a Ragged,
    /// Rows per sequence: 1 selects per sequence, the number of KV heads selects per head.
    pub heads: usize,
    /// How many stay.
    pub budget: Budget<&'a [usize]>,
    /// Which stay in any case.
    pub protect: Protect<'a>,
}

/// What is known of a sequence before its scores are.
pub(crate) struct Bounds {
    pub(crate) sinks: usize,
    pub(crate) recent: usize,
    /// Tokens between them that the mask protects.
    pub(crate) masked: usize,
    /// Tokens that every row of the sequence keeps, unless the budget is a threshold.
    pub(crate) count: Option<usize>,
}

impl Request<'_> {
    /// The bounds of a sequence of a request that has been checked.
    pub(crate) fn bounds(&self, sequence: usize) -> Result<Bounds> {
        let span = self.rows.span(sequence);
        let edges = self.protect.edges.get(sequence);
        let sinks = edges.sinks.min(span.len);
        let recent = edges.recent.min(span.len - sinks);
        let body = span.start + sinks..span.end() - recent;
        let masked = self.protect.mask.map_or(0, |mask| mask[body].iter().filter(|&&m| m).count());
        let protected = sinks + recent + masked;
        let count = match self.budget {
            Budget::Count(count) => Some(count.min(span.len)),
            Budget::Counts(counts) => Some(counts[sequence].min(span.len)),
            Budget::Ratio(ratio) => Some(ceil_share(ratio, span.len)),
            Budget::Threshold(_) => None,
        };
        if let Some(budget) = count.filter(|&budget| budget < protected) {
            let row = sequence * self.heads;
            return Err(Error::BudgetBelowProtected { row, budget, protected });
        }
        Ok(Bounds { sinks, recent, masked, count })
    }

    /// How many tokens all lists have, or no more than this where scores decide.
    #[cfg(feature = "cuda")]
    pub(crate) fn most_kept(&self) -> Result<usize> {
        let mut total = 0usize;
        for (sequence, len) in self.rows.lens().enumerate() {
            total += self.bounds(sequence)?.count.unwrap_or(len);
        }
        total.checked_mul(self.heads).ok_or(Error::Overflow { what: "kept tokens" })
    }

    /// Checks all but the scores.
    pub(crate) fn check(&self) -> Result<()> {
        let (batch, total) = (self.rows.batch(), self.rows.total());
        if self.heads == 0 {
            return Err(Error::OutOfRange { what: "heads", value: 0.0, expected: "at least 1" });
        }
        if batch.checked_mul(self.heads).is_none_or(|rows| rows > i32::MAX as usize) {
            return Err(Error::Overflow { what: "rows" });
        }
        self.protect.edges.check("edges", batch)?;
        if let Some(mask) = self.protect.mask {
            check_len("mask", total, mask.len())?;
        }
        if let Budget::Counts(counts) = self.budget {
            check_len("counts", batch, counts.len())?;
        }
        self.budget.check()
    }
}

impl<T: Copy> PerSequence<'_, T> {
    pub(crate) fn get(&self, sequence: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[sequence],
        }
    }

    fn check(&self, what: &'static str, batch: usize) -> Result<()> {
        match self {
            Self::All(_) => Ok(()),
            Self::Each(values) => check_len(what, batch, values.len()),
        }
    }
}

fn check_ratio(ratio: f64) -> Result<()> {
    if ratio > 0.0 && ratio <= 1.0 {
        return Ok(());
    }
    Err(Error::OutOfRange { what: "ratio", value: ratio, expected: "in (0, 1]" })
}

fn check_threshold(at_least: f32) -> Result<()> {
    if at_least.is_nan() {
        let value = at_least.into();
        return Err(Error::OutOfRange { what: "threshold", value, expected: "a number" });
    }
    Ok(())
}

/// `ceil(ratio * len)`, where a product that is whole but for rounding counts as whole: 0.07 of 100
/// is 7, although the nearest f64 to 0.07 is above it.
fn ceil_share(ratio: f64, len: usize) -> usize {
    let share = ratio * len as f64;
    let rounding = (4.0 * f64::EPSILON * share).max(1e-9);
    ((share - rounding).ceil().max(0.0) as usize).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_round_up_what_is_not_whole_in_decimal() {
        for (ratio, len, kept) in
            [(0.1, 10, 1), (0.07, 100, 7), (0.29, 100, 29), (0.34, 3, 2), (1.0, 7, 7), (0.5, 0, 0)]
        {
            assert_eq!(ceil_share(ratio, len), kept);
        }
        for percent in 1..=100 {
            assert_eq!(
                ceil_share(f64::from(percent) / 100.0, 100_000_000),
                percent as usize * 1_000_000
            );
        }
    }
}
