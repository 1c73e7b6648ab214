//! **select**, by sorting.

use std::cmp::Ordering;

use salient::select::{Budget, Edges, PerSequence, Request};
use salient::{Error, Ragged, Result};

use crate::Oracle;
use crate::check::{in_range, same};
use crate::implementation::Select;

/// What a selection must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// For every row (sequence * heads + head) the kept tokens, relative to the sequence's start,
    /// ascending.
    pub kept: Vec<Vec<i32>>,
    /// For every token, `[heads, total]`, its place in its row's list, or -1.
    pub inverse: Vec<i32>,
    /// Where each row's list starts when all lists are packed, `[batch * heads + 1]`.
    pub cu_seqlens: Vec<i32>,
    /// Whether any score was NaN.
    pub saw_nan: bool,
}

/// Sorts each row by protected first, numbers before NaN, score descending, index ascending; keeps
/// the budget's worth and restores the order.
///
/// # Errors
/// As the contract says: wrong lengths, a ratio outside (0, 1], a NaN threshold, no heads, a budget
/// below the protected count.
pub fn select(scores: &[f32], request: &Request<'_>) -> Result<Selected> {
    check(scores, request)?;
    let (rows, heads) = (request.rows, request.heads);
    let mut kept = Vec::new();
    for (sequence, span) in rows.spans().enumerate() {
        let protected = protected(request, sequence);
        let count = protected.iter().filter(|&&p| p).count();
        for head in 0..heads {
            let start = head * rows.total() + span.start;
            let scores = &scores[start..start + span.len];
            let mut order: Vec<usize> = (0..span.len).collect();
            let budget = match request.budget {
                Budget::Threshold(at_least) => {
                    order.retain(|&i| protected[i] || scores[i] >= at_least);
                    order.len()
                }
                Budget::Count(count) => count.min(span.len),
                Budget::Counts(counts) => counts[sequence].min(span.len),
                Budget::Ratio(ratio) => ratio_count(ratio, span.len),
                _ => unreachable!("a budget that the oracle does not know"),
            };
            if budget < count {
                let row = sequence * heads + head;
                return Err(Error::BudgetBelowProtected { row, budget, protected: count });
            }
            order.sort_by(|&a, &b| {
                protected[b]
                    .cmp(&protected[a])
                    .then(descending(scores[a], scores[b]))
                    .then(a.cmp(&b))
            });
            order.truncate(budget);
            order.sort();
            kept.push(order.iter().map(|&i| i as i32).collect());
        }
    }
    let inverse = inverse(rows, heads, &kept);
    let mut cu_seqlens = vec![0];
    for list in &kept {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + list.len() as i32);
    }
    Ok(Selected { kept, inverse, cu_seqlens, saw_nan: scores.iter().any(|s| s.is_nan()) })
}

/// For every token, `[heads, total]`, its place in its row's list, or -1.
pub fn inverse(rows: &Ragged, heads: usize, kept: &[Vec<i32>]) -> Vec<i32> {
    let mut inverse = vec![-1; heads * rows.total()];
    for (row, list) in kept.iter().enumerate() {
        let start = (row % heads) * rows.total() + rows.span(row / heads).start;
        for (new, &old) in list.iter().enumerate() {
            inverse[start + old as usize] = new as i32;
        }
    }
    inverse
}

/// The smallest whole number that is no less than `ratio * len`, where a product that is whole but
/// for rounding counts as whole.
pub fn ratio_count(ratio: f64, len: usize) -> usize {
    let product = ratio * len as f64;
    let rounding = (4.0 * f64::EPSILON * product).max(1e-9);
    (product - rounding).ceil().max(0.0) as usize
}

/// Which tokens of a sequence may not be dropped.
fn protected(request: &Request<'_>, sequence: usize) -> Vec<bool> {
    let span = request.rows.span(sequence);
    let Edges { sinks, recent } = each(request.protect.edges, sequence);
    (0..span.len)
        .map(|i| {
            let masked = request.protect.mask.is_some_and(|mask| mask[span.start + i]);
            i < sinks || span.len - i <= recent || masked
        })
        .collect()
}

fn each<T: Copy>(values: PerSequence<'_, T>, sequence: usize) -> T {
    match values {
        PerSequence::All(value) => value,
        PerSequence::Each(values) => values[sequence],
    }
}

/// Larger first, NaN last; -0 equals +0.
fn descending(a: f32, b: f32) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.partial_cmp(&a).expect("both are numbers"),
        (a, b) => a.cmp(&b),
    }
}

fn check(scores: &[f32], request: &Request<'_>) -> Result<()> {
    let (batch, total, heads) = (request.rows.batch(), request.rows.total(), request.heads);
    in_range("heads", heads as f64, heads > 0, "at least 1")?;
    let expected = heads.checked_mul(total).ok_or(Error::Overflow { what: "scores" })?;
    same("scores", expected, scores.len())?;
    if let PerSequence::Each(edges) = request.protect.edges {
        same("edges", batch, edges.len())?;
    }
    if let Some(mask) = request.protect.mask {
        same("mask", total, mask.len())?;
    }
    match request.budget {
        Budget::Counts(counts) => same("counts", batch, counts.len()),
        Budget::Ratio(ratio) => in_range("ratio", ratio, ratio > 0.0 && ratio <= 1.0, "in (0, 1]"),
        Budget::Threshold(at_least) => {
            in_range("threshold", at_least.into(), !at_least.is_nan(), "a number")
        }
        _ => Ok(()),
    }
}

impl Select for Oracle {
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected> {
        select(scores, request)
    }
}
