//! Ragged batches: sequences of unequal length packed along one token axis.

use std::ops::Range;

use crate::error::{Error, Result};

/// Where one sequence's rows lie on a packed or padded token axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first row.
    pub start: usize,
    /// The number of rows; may be 0.
    pub len: usize,
}

impl Span {
    /// One past the last row.
    pub fn end(self) -> usize {
        self.start + self.len
    }

    /// The rows as a range.
    pub fn range(self) -> Range<usize> {
        self.start..self.end()
    }
}

/// Sequences packed along one token axis: row `cu_seqlens[i]` is the first row of sequence `i`,
/// `cu_seqlens[batch]` the total. Empty sequences are legal.
///
/// ```
/// use salient::Ragged;
/// # fn main() -> salient::Result<()> {
/// let rows = Ragged::from_lens(&[3, 0, 2])?;
/// assert_eq!(rows.cu_seqlens(), &[0, 3, 3, 5]);
/// assert_eq!(rows.span(2).range(), 3..5);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ragged {
    cu_seqlens: Vec<i32>,
}

impl Ragged {
    /// From the sequences' lengths.
    ///
    /// # Errors
    /// [`Error::Overflow`] if they add up beyond `i32::MAX`.
    pub fn from_lens(lens: &[usize]) -> Result<Self> {
        let overflow = || Error::Overflow { what: "sequence lengths" };
        let mut cu_seqlens = Vec::with_capacity(lens.len() + 1);
        let mut total = 0i32;
        cu_seqlens.push(total);
        for &len in lens {
            let len = i32::try_from(len).map_err(|_| overflow())?;
            total = total.checked_add(len).ok_or_else(overflow)?;
            cu_seqlens.push(total);
        }
        Ok(Self { cu_seqlens })
    }

    /// From `[batch + 1]` offsets: 0 first, never descending.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the list is empty, does not start at 0 or descends.
    pub fn from_cu_seqlens(cu_seqlens: Vec<i32>) -> Result<Self> {
        let bad = |value: i32, expected| {
            Err(Error::OutOfRange { what: "cu_seqlens", value: value.into(), expected })
        };
        match cu_seqlens.first() {
            None => {
                return Err(Error::LengthMismatch { what: "cu_seqlens", expected: 1, actual: 0 });
            }
            Some(&first) if first != 0 => return bad(first, "0 in its first entry"),
            Some(_) => {}
        }
        if let Some(pair) = cu_seqlens.windows(2).find(|pair| pair[1] < pair[0]) {
            return bad(pair[1], "no less than the entry before");
        }
        Ok(Self { cu_seqlens })
    }

    /// The offsets, `[batch + 1]`.
    pub fn cu_seqlens(&self) -> &[i32] {
        &self.cu_seqlens
    }

    /// The number of sequences.
    pub fn batch(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// The number of rows of all sequences together.
    pub fn total(&self) -> usize {
        self.cu_seqlens[self.batch()] as usize
    }

    /// The rows of one sequence.
    ///
    /// # Panics
    /// If `sequence` is not below [`Ragged::batch`].
    pub fn span(&self, sequence: usize) -> Span {
        let start = self.cu_seqlens[sequence] as usize;
        Span { start, len: self.cu_seqlens[sequence + 1] as usize - start }
    }

    /// The rows of every sequence, in order.
    pub fn spans(&self) -> impl ExactSizeIterator<Item = Span> + '_ {
        (0..self.batch()).map(|sequence| self.span(sequence))
    }

    /// The length of every sequence, in order.
    pub fn lens(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.spans().map(|span| span.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_checked() {
        assert!(Ragged::from_cu_seqlens(vec![]).is_err());
        assert!(Ragged::from_cu_seqlens(vec![1, 2]).is_err());
        assert!(Ragged::from_cu_seqlens(vec![0, 2, 1]).is_err());
        assert_eq!(
            Ragged::from_cu_seqlens(vec![0, 2, 2]).unwrap(),
            Ragged::from_lens(&[2, 0]).unwrap()
        );
        assert!(Ragged::from_lens(&[i32::MAX as usize, 1]).is_err());
    }

    #[test]
    fn an_empty_batch_has_no_rows() {
        let rows = Ragged::from_lens(&[]).unwrap();
        assert_eq!((rows.batch(), rows.total()), (0, 0));
    }
}
