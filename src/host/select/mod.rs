//! **select** on the host. The contract is that of [`crate::select`]; the number of threads does
//! not change the result.
//!
//! ```
//! use salient::Ragged;
//! use salient::host::select::select;
//! use salient::select::{Budget, Edges, PerSequence, Protect, Request};
//! # fn main() -> salient::Result<()> {
//! let rows = Ragged::from_lens(&[6, 3])?;
//! let scores = [0.1, 0.9, 0.3, 0.9, 0.2, 0.0, /* second sequence */ 3.0, 1.0, 2.0];
//! let request = Request {
//!     rows: &rows,
//!     heads: 1,
//!     budget: Budget::Ratio(0.5),
//!     protect: Protect { edges: PerSequence::All(Edges { sinks: 1, recent: 0 }), mask: None },
//! };
//! let selection = select(&scores, &request)?;
//! assert_eq!(selection.row(0, 0), &[0, 1, 3]);
//! assert_eq!(selection.row(1, 0), &[0, 2]);
//! # Ok(())
//! # }
//! ```

mod radix;

use std::ops::Range;

use rayon::prelude::*;

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::ragged::Ragged;
use crate::select::{Bounds, Budget, Request, Selection};
use radix::{Cut, Keys, Scratch};

/// Selects the tokens that stay. `scores` is `[heads, total]`.
///
/// # Errors
/// [`Error::LengthMismatch`] for scores, counts, edges or a mask of the wrong length,
/// [`Error::OutOfRange`] for no heads, a ratio outside (0, 1] or a NaN threshold,
/// [`Error::BudgetBelowProtected`] if a count or ratio keeps fewer tokens of a row than are
/// protected, [`Error::Overflow`] if more than `i32::MAX` tokens are kept.
pub fn select(scores: &[f32], request: &Request<'_>) -> Result<Selection> {
    check(scores, request)?;
    let saw_nan = radix::any_nan(scores);
    let rows = plan(scores, request)?;
    let lens: Vec<usize> = rows.iter().map(|row| row.kept).collect();
    let kept_rows = Ragged::from_lens(&lens)?;
    let mut kept = vec![0i32; kept_rows.total()];
    let mut jobs = Vec::with_capacity(rows.len());
    let mut rest = kept.as_mut_slice();
    for row in &rows {
        let (out, after) = rest.split_at_mut(row.kept);
        rest = after;
        jobs.push((row, out));
    }
    if scores.len() < PARALLEL_WORK {
        let mut scratch = Scratch::default();
        for (row, out) in jobs {
            row.fill(out, &mut scratch);
        }
    } else {
        jobs.into_par_iter()
            .with_min_len(rows_per_job(scores.len(), rows.len()))
            .for_each_init(Scratch::default, |scratch, (row, out)| row.fill(out, scratch));
    }
    Ok(Selection::new(request.rows.clone(), request.heads, kept, kept_rows, saw_nan))
}

/// Scores below which another thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 15;

/// Enough rows to be worth handing to a thread.
fn rows_per_job(scores: usize, rows: usize) -> usize {
    (PARALLEL_WORK / 2 * rows / scores).max(1)
}

/// One row, and what is known about it before its scores are ranked.
struct Row<'a> {
    /// What lies between sinks and local window.
    body: Keys<'a>,
    sinks: usize,
    recent: usize,
    kept: usize,
    /// Set where the budget is a threshold.
    cut: Option<Cut>,
}

impl Row<'_> {
    fn fill(&self, out: &mut [i32], scratch: &mut Scratch) {
        let end = self.sinks + self.body.len();
        let (sinks, rest) = out.split_at_mut(self.sinks);
        let (body, recent) = rest.split_at_mut(rest.len() - self.recent);
        count_up(sinks, 0);
        count_up(recent, end);
        if body.len() == self.body.len() {
            count_up(body, self.sinks);
        } else if !body.is_empty() {
            let cut = self.cut.unwrap_or_else(|| radix::cut(self.body, body.len(), scratch));
            radix::emit(self.body, cut, self.sinks as i32, body);
        }
    }
}

fn count_up(out: &mut [i32], first: usize) {
    for (index, out) in (first as i32..).zip(out) {
        *out = index;
    }
}

/// Decides how many tokens of each row stay.
fn plan<'a>(scores: &'a [f32], request: &Request<'a>) -> Result<Vec<Row<'a>>> {
    let Request { rows, heads, budget, protect } = *request;
    let mut plan = Vec::with_capacity(rows.batch().saturating_mul(heads));
    for (sequence, span) in rows.spans().enumerate() {
        let Bounds { sinks, recent, masked, count } = request.bounds(sequence)?;
        let body = span.start + sinks..span.end() - recent;
        let mask = protect.mask.map(|mask| &mask[body.clone()]).filter(|_| masked > 0);
        for head in 0..heads {
            let Range { start, end } = body;
            let (start, end) = (start + head * rows.total(), end + head * rows.total());
            let body = Keys::new(&scores[start..end], mask);
            let kept = count.unwrap_or(0);
            plan.push(Row { body, sinks, recent, kept, cut: None });
        }
    }
    if let Budget::Threshold(at_least) = budget {
        let cut = Cut::at_least(at_least);
        let per_job = rows_per_job(scores.len().max(1), plan.len());
        plan.par_iter_mut().with_min_len(per_job).for_each(|row| {
            row.kept = row.sinks + row.recent + radix::count(row.body, cut);
            row.cut = Some(cut);
        });
    }
    Ok(plan)
}

fn check(scores: &[f32], request: &Request<'_>) -> Result<()> {
    request.check()?;
    let expected = request.rows.total().checked_mul(request.heads);
    check_len("scores", expected.ok_or(Error::Overflow { what: "scores" })?, scores.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::{Edges, PerSequence, Protect};

    /// Every token, best first, as the contract says.
    fn ranked(scores: &[f32], protected: &[bool]) -> Vec<i32> {
        let mut order: Vec<i32> = (0..scores.len() as i32).collect();
        // The sort is stable: among equals the lower index stays in front.
        order.sort_by(|&a, &b| {
            let (a, b) = (a as usize, b as usize);
            let by_score = match (scores[a].is_nan(), scores[b].is_nan()) {
                (false, false) => scores[b].partial_cmp(&scores[a]).unwrap(),
                (a, b) => a.cmp(&b),
            };
            protected[b].cmp(&protected[a]).then(by_score)
        });
        order
    }

    fn best(ranked: &[i32], k: usize) -> Vec<i32> {
        let mut kept = ranked[..k.min(ranked.len())].to_vec();
        kept.sort_unstable();
        kept
    }

    /// Uniform bits, always the same.
    fn random_bits(seed: u64) -> impl Iterator<Item = u32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as u32
        })
    }

    type Draw = fn(u32) -> f32;
    const DRAWS: [Draw; 6] = [
        |bits| bits as f32 / u32::MAX as f32 - 0.3,
        |bits| f32::from_bits(bits & 0xffff_0000),
        f32::from_bits,
        |_| 1.5,
        |bits| [0.0, -0.0, 1.0, f32::NAN][bits as usize % 4],
        |bits| if bits.is_multiple_of(50) { bits as f32 } else { f32::NAN },
    ];

    fn one(scores: &[f32], budget: Budget<&[usize]>, protect: Protect<'_>) -> Result<Selection> {
        let rows = Ragged::from_lens(&[scores.len()])?;
        select(scores, &Request { rows: &rows, heads: 1, budget, protect })
    }

    #[test]
    fn every_budget_of_short_rows_agrees_with_sorting() {
        for (seed, draw) in DRAWS.iter().enumerate() {
            for len in [1, 2, 15, 16, 17, 40] {
                let scores: Vec<f32> = random_bits(seed as u64 + 1).map(draw).take(len).collect();
                let ranked = ranked(&scores, &vec![false; len]);
                for k in 0..len + 2 {
                    let budget = Budget::Count(k);
                    let got = one(&scores, budget, Protect::default()).unwrap();
                    assert_eq!(got.kept(), best(&ranked, k));
                    assert_eq!(got.saw_nan(), scores.iter().any(|s| s.is_nan()));
                }
            }
        }
    }

    #[test]
    fn long_rows_agree_with_sorting_under_protection() {
        for (seed, draw) in DRAWS.iter().enumerate() {
            for len in [255, 2049, 65_536, 140_001] {
                let bits: Vec<u32> = random_bits(seed as u64 + 7).take(len).collect();
                let scores: Vec<f32> = bits.iter().map(|&bits| draw(bits)).collect();
                let mask: Vec<bool> = bits.iter().map(|bits| bits >> 16 & 31 == 0).collect();
                let edges = PerSequence::All(Edges { sinks: 4, recent: 19 });
                for mask in [None, Some(mask.as_slice())] {
                    let protected: Vec<bool> = (0..len)
                        .map(|i| i < 4 || i + 19 >= len || mask.is_some_and(|mask| mask[i]))
                        .collect();
                    let least = protected.iter().filter(|&&p| p).count();
                    let ranked = ranked(&scores, &protected);
                    for k in [least, least + 1, len / 3, len - 1, len] {
                        let budget = Budget::Count(k);
                        let got = one(&scores, budget, Protect { edges, mask }).unwrap();
                        assert!(got.kept() == best(&ranked, k), "{seed} {len} {k}");
                    }
                    let below = Budget::Count(least - 1);
                    assert_eq!(
                        one(&scores, below, Protect { edges, mask }),
                        Err(Error::BudgetBelowProtected {
                            row: 0,
                            budget: least - 1,
                            protected: least
                        })
                    );
                }
            }
        }
    }

    #[test]
    fn a_threshold_keeps_what_reaches_it_and_the_protected() {
        for draw in DRAWS {
            let scores: Vec<f32> = random_bits(3).map(draw).take(140_000).collect();
            let edges = PerSequence::All(Edges { sinks: 2, recent: 3 });
            for at_least in [0.0, -0.0, 0.1, 1.5, f32::NEG_INFINITY, f32::INFINITY] {
                let budget = Budget::Threshold(at_least);
                let got = one(&scores, budget, Protect { edges, mask: None }).unwrap();
                let kept = |&i: &i32| !(2..139_997).contains(&i) || scores[i as usize] >= at_least;
                assert!(got.kept().iter().copied().eq((0..140_000).filter(kept)));
            }
        }
    }

    #[test]
    fn rows_of_a_batch_are_selected_as_if_alone_on_any_number_of_threads() {
        let lens = [3, 0, 70_000, 1, 513, 20_000];
        let rows = Ragged::from_lens(&lens).unwrap();
        let heads = 3;
        let scores: Vec<f32> = random_bits(11).map(DRAWS[1]).take(heads * rows.total()).collect();
        let budget = Budget::Ratio(0.35);
        let request = Request { rows: &rows, heads, budget, protect: Protect::default() };
        let got = select(&scores, &request).unwrap();
        for (sequence, span) in rows.spans().enumerate() {
            for head in 0..heads {
                let scores = &scores[head * rows.total()..][span.range()];
                let alone = one(scores, budget, Protect::default()).unwrap();
                assert_eq!(got.row(sequence, head), alone.kept());
            }
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| select(&scores, &request).unwrap()), got);
        }
    }

    #[test]
    fn edges_that_overlap_protect_every_token_once() {
        let edges = PerSequence::All(Edges { sinks: 4, recent: usize::MAX });
        let protect = Protect { edges, mask: None };
        let scores = [1.0; 6];
        let all = one(&scores, Budget::Threshold(2.0), protect).unwrap();
        assert_eq!(all.kept(), [0, 1, 2, 3, 4, 5]);
        assert!(one(&scores, Budget::Count(5), protect).is_err());
    }

    #[test]
    fn bad_requests_are_refused() {
        let rows = Ragged::from_lens(&[4]).unwrap();
        let good = Request {
            rows: &rows,
            heads: 1,
            budget: Budget::Ratio(0.5),
            protect: Protect::default(),
        };
        let scores = [0.0; 4];
        assert!(select(&scores, &good).is_ok());
        assert!(select(&scores[1..], &good).is_err());
        assert!(select(&scores, &Request { heads: 0, ..good }).is_err());
        assert!(select(&scores, &Request { heads: usize::MAX, ..good }).is_err());
        for budget in [
            Budget::Ratio(0.0),
            Budget::Ratio(1.1),
            Budget::Ratio(f64::NAN),
            Budget::Threshold(f32::NAN),
            Budget::Counts(&[1, 2][..]),
        ] {
            assert!(select(&scores, &Request { budget, ..good }).is_err(), "{budget:?}");
        }
        for protect in [
            Protect { mask: Some(&[true]), ..Protect::default() },
            Protect { edges: PerSequence::Each(&[]), mask: None },
        ] {
            assert!(select(&scores, &Request { protect, ..good }).is_err());
        }
    }
}
