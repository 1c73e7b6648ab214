//! The status word: what kernels find wrong in data that only the device sees.

use std::fmt;

use crate::error::{Error, Result};

/// A fault that only the device can see. It is a bit of [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Fault {
    /// A score is NaN. It lost to every number, and the selection is otherwise as it should be.
    Nan = 1 << 0,
    /// More tokens are protected than the budget keeps; the row's list is of no use.
    Protected = 1 << 1,
    /// A row keeps more tokens than its list has room for.
    Capacity = 1 << 2,
    /// Invalid offsets, spans or list lengths: negative, descending, or beyond what the
    /// plan said.
    Lengths = 1 << 3,
    /// A list entry outside its sequence, or -1 before the list's end.
    Index = 1 << 4,
    /// A list that does not ascend strictly.
    Order = 1 << 5,
    /// A page outside the pool.
    Page = 1 << 6,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Nan,
        Self::Protected,
        Self::Capacity,
        Self::Lengths,
        Self::Index,
        Self::Order,
        Self::Page,
    ];

    fn bit(self) -> u32 {
        self as u32
    }

    fn says(self) -> &'static str {
        match self {
            Self::Nan => "a score is NaN",
            Self::Protected => "more tokens are protected than the budget keeps",
            Self::Capacity => "a row keeps more tokens than its list has room for",
            Self::Lengths => "offsets, spans or lengths are invalid",
            Self::Index => "a list entry lies outside its sequence",
            Self::Order => "a list does not ascend strictly",
            Self::Page => "a page lies outside the pool",
        }
    }
}

/// The status word: what kernels found wrong in data that only the device sees. Kernels add to it,
/// so one word serves several launches; the caller clears it to [`Status::CLEAR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    flags: u32,
    row: u32,
}

impl Status {
    /// No fault.
    pub const CLEAR: Self = Self { flags: 0, row: u32::MAX };

    /// From the two words that the device holds: flags, row.
    pub fn from_words([flags, row]: [u32; 2]) -> Self {
        Self { flags, row }
    }

    /// As the device holds it: flags, row.
    pub fn words(self) -> [u32; 2] {
        [self.flags, self.row]
    }

    /// Whether this fault was found.
    pub fn has(self, fault: Fault) -> bool {
        self.flags & fault.bit() != 0
    }

    /// The faults that were found.
    pub fn faults(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |&fault| self.has(fault))
    }

    /// The lowest row (sequence, or `sequence * heads + head`) at fault, NaN scores aside.
    pub fn row(self) -> Option<usize> {
        (self.row != u32::MAX).then_some(self.row as usize)
    }

    /// An error for every fault but [`Fault::Nan`], which spoils nothing.
    ///
    /// # Errors
    /// [`Error::Faulted`].
    pub fn check(self) -> Result<()> {
        if self.flags & !Fault::Nan.bit() == 0 { Ok(()) } else { Err(Error::Faulted(self)) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(row) = self.row() {
            write!(f, "row {row} is the first at fault: ")?;
        }
        let mut separator = "";
        for fault in self.faults() {
            write!(f, "{separator}{}", fault.says())?;
            separator = "; ";
        }
        if separator.is_empty() { write!(f, "no fault") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_is_a_fault_of_its_own() {
        let mut seen = 0;
        for fault in Fault::ALL {
            let status = Status::from_words([fault.bit(), 3]);
            assert_eq!(status.faults().collect::<Vec<_>>(), [fault]);
            assert!(status.to_string().contains(fault.says()));
            assert_eq!(status.check().is_ok(), fault == Fault::Nan);
            assert_eq!(seen & fault.bit(), 0);
            seen |= fault.bit();
        }
        assert_eq!(Status::from_words([seen, 3]).row(), Some(3));
        assert_eq!(Status::from_words([seen, 3]).words(), [seen, 3]);
    }

    #[test]
    fn a_clear_status_has_no_fault_and_no_row() {
        assert_eq!(Status::CLEAR.faults().count(), 0);
        assert_eq!(Status::CLEAR.row(), None);
        assert_eq!(Status::CLEAR.check(), Ok(()));
        assert_eq!(Status::CLEAR.to_string(), "no fault");
    }
}
