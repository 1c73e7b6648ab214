//! What a selection says.

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::ragged::Ragged;

/// The outcome: for every row (sequence, or sequence and KV head), the kept tokens in ascending
/// order. Rows are ordered by sequence, then head: row `sequence * heads + head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    source: Ragged,
    heads: usize,
    kept: Vec<i32>,
    kept_rows: Ragged,
    saw_nan: bool,
}

impl Selection {
    /// `kept` holds valid lists, packed by `kept_rows`.
    pub(crate) fn new(
        source: Ragged,
        heads: usize,
        kept: Vec<i32>,
        kept_rows: Ragged,
        saw_nan: bool,
    ) -> Self {
        Self { source, heads, kept, kept_rows, saw_nan }
    }

    /// Every token of every sequence.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no heads, [`Error::Overflow`] if more than `i32::MAX` tokens are
    /// kept.
    pub fn all(rows: Ragged, heads: usize) -> Result<Self> {
        let lens = row_lens(&rows, heads)?;
        let kept_rows = Ragged::from_lens(&lens)?;
        let mut kept = Vec::with_capacity(kept_rows.total());
        for len in lens {
            kept.extend(0..len as i32);
        }
        Ok(Self::new(rows, heads, kept, kept_rows, false))
    }

    /// From the caller's own lists, one for every row, relative to the start of the row's sequence.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no heads, [`Error::LengthMismatch`] for another number of lists
    /// than `batch * heads`, [`Error::NotAscending`] and [`Error::IndexOutOfBounds`] for an
    /// invalid list, [`Error::Overflow`] if more than `i32::MAX` tokens are kept.
    pub fn from_lists(rows: Ragged, heads: usize, lists: &[impl AsRef<[i32]>]) -> Result<Self> {
        let lens = row_lens(&rows, heads)?;
        check_len("lists", lens.len(), lists.len())?;
        for (list, &limit) in lists.iter().zip(&lens) {
            let (what, list) = ("list of kept tokens", list.as_ref());
            if let Some(at) = list.windows(2).position(|pair| pair[0] >= pair[1]) {
                return Err(Error::NotAscending { what, index: at + 1 });
            }
            let ends = [list.first(), list.last()];
            for &index in ends.into_iter().flatten() {
                if usize::try_from(index).map_or(true, |index| index >= limit) {
                    return Err(Error::IndexOutOfBounds { what, index: index.into(), limit });
                }
            }
        }
        let kept_lens: Vec<usize> = lists.iter().map(|list| list.as_ref().len()).collect();
        let kept_rows = Ragged::from_lens(&kept_lens)?;
        let mut kept = Vec::with_capacity(kept_rows.total());
        for list in lists {
            kept.extend_from_slice(list.as_ref());
        }
        Ok(Self::new(rows, heads, kept, kept_rows, false))
    }

    /// The sequences that were selected from.
    pub fn rows(&self) -> &Ragged {
        &self.source
    }

    /// Rows per sequence.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The kept tokens of one row, ascending, relative to the start of the sequence.
    ///
    /// # Panics
    /// If there is no such sequence or head.
    pub fn row(&self, sequence: usize, head: usize) -> &[i32] {
        assert!(head < self.heads, "head {head} of {}", self.heads);
        &self.kept[self.kept_rows.span(sequence * self.heads + head).range()]
    }

    /// The kept tokens of all rows, packed by [`Selection::kept_rows`].
    pub fn kept(&self) -> &[i32] {
        &self.kept
    }

    /// Where each row's list lies in [`Selection::kept`]: `[batch * heads]` rows. With one head
    /// these are the sequences after compaction.
    pub fn kept_rows(&self) -> &Ragged {
        &self.kept_rows
    }

    /// Whether a score was NaN.
    pub fn saw_nan(&self) -> bool {
        self.saw_nan
    }

    /// The positions of the kept tokens, packed by [`Selection::kept_rows`], where `positions` are
    /// those of all tokens, `[total]`.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if `positions` is not `[total]`.
    pub fn positions(&self, positions: &[i32]) -> Result<Vec<i32>> {
        check_len("positions", self.source.total(), positions.len())?;
        let mut out = Vec::with_capacity(self.kept.len());
        for (sequence, span) in self.source.spans().enumerate() {
            let positions = &positions[span.range()];
            for head in 0..self.heads {
                out.extend(self.row(sequence, head).iter().map(|&i| positions[i as usize]));
            }
        }
        Ok(out)
    }

    /// Where each token went: `[heads, total]`, its place in its row's list, or -1 if it was
    /// dropped.
    pub fn inverse(&self) -> Vec<i32> {
        let total = self.source.total();
        let mut out = vec![-1; self.heads * total];
        for (sequence, span) in self.source.spans().enumerate() {
            for head in 0..self.heads {
                let out = &mut out[head * total..][span.range()];
                for (new, &old) in (0..).zip(self.row(sequence, head)) {
                    out[old as usize] = new;
                }
            }
        }
        out
    }

    /// The lists side by side: `[batch * heads, capacity]`, -1 after the last.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if a list is longer than `capacity`, [`Error::Overflow`] if the
    /// shape is too large.
    pub fn padded(&self, capacity: usize) -> Result<Vec<i32>> {
        let longest = self.kept_rows.lens().max().unwrap_or(0);
        if capacity < longest {
            return Err(Error::LengthMismatch {
                what: "capacity of a padded list",
                expected: longest,
                actual: capacity,
            });
        }
        let rows = self.kept_rows.batch();
        let len = rows
            .checked_mul(capacity)
            .filter(|&len| len <= isize::MAX as usize / size_of::<i32>())
            .ok_or(Error::Overflow { what: "padded lists" })?;
        let mut out = vec![-1; len];
        for (row, span) in self.kept_rows.spans().enumerate() {
            out[row * capacity..][..span.len].copy_from_slice(&self.kept[span.range()]);
        }
        Ok(out)
    }
}

/// The number of tokens of every row.
fn row_lens(rows: &Ragged, heads: usize) -> Result<Vec<usize>> {
    if heads == 0 {
        return Err(Error::OutOfRange { what: "heads", value: 0.0, expected: "at least 1" });
    }
    if rows.batch().checked_mul(heads).is_none_or(|lists| lists > i32::MAX as usize) {
        return Err(Error::Overflow { what: "lists of kept tokens" });
    }
    Ok(rows.lens().flat_map(|len| std::iter::repeat_n(len, heads)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_heads() -> Selection {
        let rows = Ragged::from_lens(&[3, 0, 2]).unwrap();
        let lists: [&[i32]; 6] = [&[0, 2], &[1], &[], &[], &[], &[0, 1]];
        Selection::from_lists(rows, 2, &lists).unwrap()
    }

    #[test]
    fn lists_are_found_by_sequence_and_head() {
        let selection = two_heads();
        assert_eq!(selection.kept(), [0, 2, 1, 0, 1]);
        assert_eq!(selection.kept_rows().cu_seqlens(), [0, 2, 3, 3, 3, 3, 5]);
        assert_eq!(selection.row(0, 1), [1]);
        assert_eq!(selection.row(2, 1), [0, 1]);
    }

    #[test]
    fn positions_inverse_and_padding_follow_the_lists() {
        let selection = two_heads();
        let positions = selection.positions(&[10, 11, 12, 20, 21]).unwrap();
        assert_eq!(positions, [10, 12, 11, 20, 21]);
        assert!(selection.positions(&[1]).is_err());
        assert_eq!(selection.inverse(), [0, -1, 1, -1, -1, -1, 0, -1, 0, 1]);
        let padded = selection.padded(3).unwrap();
        assert_eq!(padded[..6], [0, 2, -1, 1, -1, -1]);
        assert_eq!(padded[6..15], [-1; 9]);
        assert_eq!(padded[15..], [0, 1, -1]);
        assert!(selection.padded(1).is_err());
        assert!(selection.padded(usize::MAX).is_err());
    }

    #[test]
    fn all_is_the_identity() {
        let rows = Ragged::from_lens(&[2, 0, 3]).unwrap();
        let all = Selection::all(rows.clone(), 2).unwrap();
        assert_eq!(all.row(2, 1), [0, 1, 2]);
        assert_eq!(all.inverse(), [0, 1, 0, 1, 2, 0, 1, 0, 1, 2]);
        assert!(Selection::all(rows.clone(), 0).is_err());
        assert!(Selection::all(rows, usize::MAX).is_err());
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        let rows = || Ragged::from_lens(&[3]).unwrap();
        for list in [vec![1, 1], vec![2, 0], vec![-1, 0], vec![0, 3], vec![-1]] {
            assert!(Selection::from_lists(rows(), 1, &[&list]).is_err(), "{list:?}");
        }
        assert!(Selection::from_lists(rows(), 2, &[vec![0]]).is_err());
        assert!(Selection::from_lists(rows(), 1, &[vec![0, 2]]).is_ok());
    }
}
