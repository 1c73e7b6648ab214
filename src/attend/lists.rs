//! Which keys a query sees.

use std::ops::Range;

use super::Keys;
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ragged::Ragged;

/// Which key rows a query of decode reads. Rows count from the sequence's first key; lists ascend
/// strictly. `Lists` is where the lists lie: [`PackedLists`] where the host has them, nothing in a
/// plan, whose launches bring them along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyLists<Lists = ()> {
    /// All of them.
    Dense,
    /// One list per sequence.
    Shared(Lists),
    /// One list per sequence and KV head: list `sequence * kv heads + head`.
    PerHead(Lists),
}

/// Lists of key rows, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct PackedLists<'a> {
    /// The key rows.
    pub keys: &'a [i32],
    /// The extent of each list.
    pub lists: &'a Ragged,
}

impl<Lists> KeyLists<Lists> {
    /// The same without the lists.
    pub fn kind(&self) -> KeyLists {
        match self {
            Self::Dense => KeyLists::Dense,
            Self::Shared(_) => KeyLists::Shared(()),
            Self::PerHead(_) => KeyLists::PerHead(()),
        }
    }

    /// The lists, if there are any.
    pub fn lists(&self) -> Option<&Lists> {
        match self {
            Self::Dense => None,
            Self::Shared(lists) | Self::PerHead(lists) => Some(lists),
        }
    }

    /// Lists per sequence.
    pub(crate) fn per_sequence(&self, kv_heads: usize) -> usize {
        match self {
            Self::Dense => 0,
            Self::Shared(_) => 1,
            Self::PerHead(_) => kv_heads,
        }
    }
}

impl PackedLists<'_> {
    /// The lists side by side, `[lists, capacity]`, -1 after the last entry of each: as kernels
    /// take them.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if a list is longer than `capacity` or there are fewer keys than
    /// the lists have entries.
    pub fn padded(&self, capacity: usize) -> Result<Vec<i32>> {
        check_len("entries of key lists", self.lists.total(), self.keys.len())?;
        let longest = self.lists.lens().max().unwrap_or(0);
        if longest > capacity {
            let what = "capacity of a padded list";
            return Err(Error::LengthMismatch { what, expected: longest, actual: capacity });
        }
        let rows = self.lists.spans().flat_map(|span| {
            let behind = std::iter::repeat_n(-1, capacity - span.len);
            self.keys[span.range()].iter().copied().chain(behind)
        });
        Ok(rows.collect())
    }
}

impl KeyLists<PackedLists<'_>> {
    /// Checks that lists are as many as there should be, ascend, and stay within their sequence.
    pub(crate) fn check<T: Element>(&self, keys: &Keys<'_, T>) -> Result<()> {
        const WHAT: &str = "key list";
        let Some(&PackedLists { keys: entries, lists }) = self.lists() else { return Ok(()) };
        let per_sequence = self.per_sequence(keys.heads());
        check_len("key lists", keys.batch() * per_sequence, lists.batch())?;
        check_len("entries of key lists", lists.total(), entries.len())?;
        for (list, span) in lists.spans().enumerate() {
            let limit = keys.len(list / per_sequence);
            let rows = &entries[span.range()];
            if let Some(at) = rows.windows(2).position(|pair| pair[1] <= pair[0]) {
                return Err(Error::NotAscending { what: WHAT, index: span.start + at + 1 });
            }
            let edges = [rows.first(), rows.last()];
            let beyond = |row: &i32| usize::try_from(*row).map_or(true, |row| row >= limit);
            if let Some(&row) = edges.into_iter().flatten().find(|row| beyond(row)) {
                return Err(Error::IndexOutOfBounds { what: WHAT, index: row.into(), limit });
            }
        }
        Ok(())
    }
}

/// Which key rows of its sequence a query sees: those below its row limit. Rows count from the
/// sequence's first key. `Rows` is where row numbers lie: a slice where the host has them, nothing
/// in a plan, whose launches bring them along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowLimit<Rows = ()> {
    /// Aligned at the end: query i of n over m keys sees the first `m - n + i + 1`, none if
    /// negative.
    Causal,
    /// All of them.
    Full,
    /// `[total queries]`, the row limit of each.
    PerRow(Rows),
    /// The rows from `first` to below `limit`, both `[total queries]`.
    Between {
        /// The first row that each query sees.
        first: Rows,
        /// The row limit of each.
        limit: Rows,
    },
}

impl<Rows> RowLimit<Rows> {
    /// The same without the rows.
    pub fn kind(&self) -> RowLimit {
        match self {
            Self::Causal => RowLimit::Causal,
            Self::Full => RowLimit::Full,
            Self::PerRow(_) => RowLimit::PerRow(()),
            Self::Between { .. } => RowLimit::Between { first: (), limit: () },
        }
    }

    /// The same with other rows.
    ///
    /// # Errors
    /// The first of `other`.
    pub fn try_map<'a, U, E>(
        &'a self,
        mut other: impl FnMut(&'a Rows) -> Result<U, E>,
    ) -> Result<RowLimit<U>, E> {
        Ok(match self {
            Self::Causal => RowLimit::Causal,
            Self::Full => RowLimit::Full,
            Self::PerRow(limit) => RowLimit::PerRow(other(limit)?),
            Self::Between { first, limit } => {
                RowLimit::Between { first: other(first)?, limit: other(limit)? }
            }
        })
    }

    /// The first row that each query sees, where that is not the first of all.
    pub fn firsts(&self) -> Option<&Rows> {
        match self {
            Self::Between { first, .. } => Some(first),
            _ => None,
        }
    }

    /// The row limit of each query, where it has one of its own.
    pub fn limits(&self) -> Option<&Rows> {
        match self {
            Self::PerRow(limit) | Self::Between { limit, .. } => Some(limit),
            Self::Causal | Self::Full => None,
        }
    }
}

impl RowLimit<&[i32]> {
    /// Per query, the rows it sees, of sequences with `keys` keys; none begins beyond its end.
    pub(crate) fn visible(
        self,
        queries: &Ragged,
        keys: impl Fn(usize) -> usize,
    ) -> Result<Vec<Range<u32>>> {
        for (what, list) in [("first rows", self.firsts()), ("row limits", self.limits())] {
            let Some(list) = list else { continue };
            check_len(what, queries.total(), list.len())?;
            for (sequence, span) in queries.spans().enumerate() {
                let len = keys(sequence);
                let beyond = |&&row: &&i32| usize::try_from(row).map_or(true, |row| row > len);
                if let Some(&row) = list[span.range()].iter().find(beyond) {
                    let expected = "no less than 0 and no more than the number of key rows";
                    return Err(Error::OutOfRange { what, value: row.into(), expected });
                }
            }
        }
        let mut visible = Vec::with_capacity(queries.total());
        for (sequence, span) in queries.spans().enumerate() {
            let len = keys(sequence);
            visible.extend((0..span.len).map(|i| {
                let (first, limit) = match self {
                    Self::Causal => (0, (len + i + 1).saturating_sub(span.len)),
                    Self::Full => (0, len),
                    Self::PerRow(limit) => (0, limit[span.start + i] as usize),
                    Self::Between { first, limit } => {
                        (first[span.start + i] as usize, limit[span.start + i] as usize)
                    }
                };
                first.min(limit) as u32..limit as u32
            }));
        }
        Ok(visible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_padded_side_by_side() {
        let lists = Ragged::from_lens(&[2, 0, 3]).unwrap();
        let packed = PackedLists { keys: &[1, 4, 0, 2, 5], lists: &lists };
        assert_eq!(packed.padded(3).unwrap(), [1, 4, -1, -1, -1, -1, 0, 2, 5]);
        assert!(packed.padded(2).is_err());
        assert!(PackedLists { keys: &[1, 4], ..packed }.padded(3).is_err());
    }

    #[test]
    fn kinds_leave_the_data_out() {
        let limit = RowLimit::Between { first: &[0][..], limit: &[1][..] };
        assert_eq!(limit.kind(), RowLimit::Between { first: (), limit: () });
        assert_eq!(RowLimit::PerRow(&[3][..]).kind(), RowLimit::PerRow(()));
        assert_eq!(limit.firsts().zip(limit.limits()), Some((&&[0][..], &&[1][..])));
        let lens = limit.try_map(|rows| Ok::<_, ()>(rows.len()));
        assert_eq!(lens, Ok(RowLimit::Between { first: 1, limit: 1 }));
        assert_eq!(RowLimit::PerRow(()).try_map(|()| Err::<(), _>("refused")), Err("refused"));
        assert_eq!(KeyLists::PerHead("lists").kind(), KeyLists::PerHead(()));
        let per_sequence = [KeyLists::Dense, KeyLists::Shared(()), KeyLists::PerHead(())];
        assert_eq!(per_sequence.map(|lists| lists.per_sequence(4)), [0, 1, 4]);
    }
}
