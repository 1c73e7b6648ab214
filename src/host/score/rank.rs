//! Percentile ranks.

use rayon::prelude::*;

use super::check_rows;
use crate::error::Result;
use crate::ragged::Ragged;

/// Scores that one task looks up.
const SCORES: usize = 1024;

/// Percentile ranks inside each sequence: the number of its scores that are strictly lower, over
/// its length; both as `f32`, divided as such. Ranks of several scorers can be added, for units and
/// spread of their scores no longer count.
///
/// `scores` and `out` are `[total]`, or `[heads, total]` for any number of heads, each ranked by
/// itself. -0 and 0 are equal. The rank of NaN is [`f32::NAN`], and it is lower than nothing.
///
/// ```
/// use salient::Ragged;
/// use salient::host::score::rank;
/// # fn main() -> salient::Result<()> {
/// let mut ranks = [0.0; 5];
/// rank(&[3.0, -1.0, 3.0, 100.0, 7.0], &Ragged::from_lens(&[4, 1])?, &mut ranks)?;
/// assert_eq!(ranks, [0.25, 0.0, 0.25, 0.75, 0.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::LengthMismatch`](crate::Error::LengthMismatch) if `scores` is no whole number of rows
/// or `out` is not as long.
pub fn rank(scores: &[f32], rows: &Ragged, out: &mut [f32]) -> Result<()> {
    check_rows(scores, rows, out)?;
    let mut tasks = Vec::new();
    let mut rest = out;
    for scores in scores.chunks_exact(rows.total().max(1)) {
        for span in rows.spans() {
            let (out, after) = rest.split_at_mut(span.len);
            rest = after;
            tasks.push((&scores[span.range()], out));
        }
    }
    tasks.into_par_iter().for_each(|(scores, out)| rank_sequence(scores, out));
    Ok(())
}

fn rank_sequence(scores: &[f32], out: &mut [f32]) {
    // Without NaN, for those of negative sign would come first.
    let mut ascending: Vec<f32> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    ascending.par_sort_unstable_by(f32::total_cmp);
    let len = scores.len() as f32;
    scores.par_chunks(SCORES).zip(out.par_chunks_mut(SCORES)).for_each(|(scores, out)| {
        for (&score, out) in scores.iter().zip(out) {
            let lower = ascending.partition_point(|&other| other < score);
            *out = if score.is_nan() { f32::NAN } else { lower as f32 / len };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_shares_of_what_is_lower() {
        let rows = Ragged::from_lens(&[4, 0, 1, 5]).unwrap();
        let scores = [
            [3.0, -1.0, 3.0, 100.0, 7.0, -f32::NAN, 0.0, f32::NEG_INFINITY, f32::NAN, -0.0],
            [-0.0, 0.0, -1e-45, 1e-45, f32::NAN, 5.0, 5.0, 5.0, 5.0, f32::INFINITY],
        ];
        let (a, b) = (0.25, 0.2);
        let expected = [
            [a, 0.0, a, 3.0 * a, 0.0, f32::NAN, b, 0.0, f32::NAN, b],
            [a, a, 0.0, 3.0 * a, f32::NAN, 0.0, 0.0, 0.0, 0.0, 4.0 / 5.0],
        ];
        let mut out = [7.0; 20];
        rank(scores.as_flattened(), &rows, &mut out).unwrap();
        let bits = |ranks: &[f32]| -> Vec<u32> { ranks.iter().map(|r| r.to_bits()).collect() };
        assert_eq!(bits(&out), bits(expected.as_flattened()));
    }

    #[test]
    fn lengths_are_checked() {
        let rows = Ragged::from_lens(&[4, 1]).unwrap();
        assert!(rank(&[1.0; 10], &rows, &mut [0.0; 9]).is_err());
        assert!(rank(&[1.0; 9], &rows, &mut [0.0; 9]).is_err());
        let empty = Ragged::from_lens(&[0, 0]).unwrap();
        assert!(rank(&[1.0], &empty, &mut [0.0]).is_err());
        rank(&[], &empty, &mut []).unwrap();
        rank(&[], &rows, &mut []).unwrap();
    }
}
