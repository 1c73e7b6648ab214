//! What comes back from a launch.

use std::fmt;

use super::raw;
use crate::error::{Error, Result};

/// A fault that only the device can see. It is a bit of [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A score is NaN. It lost to every number, and the selection is otherwise as it should be.
    Nan,
    /// More tokens are protected than the budget keeps; the row's list is of no use.
    Protected,
    /// A row keeps more tokens than its list has room for.
    Capacity,
    /// Offsets, spans or list lengths that cannot be: negative, descending, or beyond what the
    /// plan said.
    Lengths,
    /// A list entry outside its sequence, or -1 before the list's end.
    Index,
    /// A list that does not ascend strictly.
    Order,
    /// A page outside the pool.
    Page,
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
        match self {
            Self::Nan => raw::SALIENT_STATUS_NAN,
            Self::Protected => raw::SALIENT_STATUS_PROTECTED,
            Self::Capacity => raw::SALIENT_STATUS_CAPACITY,
            Self::Lengths => raw::SALIENT_STATUS_LENGTHS,
            Self::Index => raw::SALIENT_STATUS_INDEX,
            Self::Order => raw::SALIENT_STATUS_ORDER,
            Self::Page => raw::SALIENT_STATUS_PAGE,
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Nan => "a score is NaN",
            Self::Protected => "more tokens are protected than the budget keeps",
            Self::Capacity => "a row keeps more tokens than its list has room for",
            Self::Lengths => "offsets, spans or lengths cannot be",
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

impl From<raw::SalientStatus> for Status {
    fn from(status: raw::SalientStatus) -> Self {
        Self { flags: status.flags, row: status.row }
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

/// What a launcher returned instead of 0: a `cudaError_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaunchError(
    /// The code.
    pub i32,
);

impl LaunchError {
    /// `Ok` for 0, which is success.
    ///
    /// # Errors
    /// [`Error::Launch`] for every other code.
    pub fn check(kernel: &'static str, code: i32) -> Result<()> {
        match code {
            0 => Ok(()),
            code => Err(Error::Launch { kernel, source: Self(code) }),
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = match self.0 {
            1 => "invalid value",
            2 => "out of memory",
            9 => "invalid launch configuration",
            35 => "the driver is older than the CUDA runtime, or there is none",
            98 => "no such kernel on this device",
            100 => "no device",
            209 => "the kernels were not built for this device's architecture",
            701 => "too many resources asked for",
            719 => "an earlier launch failed",
            801 => "not supported on this device",
            _ => "see the CUDA runtime's error codes",
        };
        write!(f, "CUDA error {}: {says}", self.0)
    }
}

impl std::error::Error for LaunchError {}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

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

    #[test]
    fn a_launcher_s_code_is_kept_as_the_source() {
        assert_eq!(LaunchError::check("select", 0), Ok(()));
        let error = LaunchError::check("select", 209).unwrap_err();
        assert!(error.source().is_some_and(|source| source.to_string().contains("209")));
    }
}
