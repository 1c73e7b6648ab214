//! Where a buffer lies.

use std::ptr;

use crate::checks::check_len;
use crate::error::{Error, Result};

/// A buffer as checks and launchers see it: where it starts and how many elements it holds. Nothing
/// here reads or writes through the address. The element type is that of the field it is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffer {
    /// The first byte, an address on the device.
    pub address: usize,
    /// The number of elements.
    pub len: usize,
}

impl Buffer {
    /// A buffer of `len` elements at `address`.
    pub fn new(address: usize, len: usize) -> Self {
        Self { address, len }
    }

    /// The address of a buffer of exactly `expected` elements.
    pub(super) fn exactly<T>(self, what: &'static str, expected: usize) -> Result<*mut T> {
        check_len(what, expected, self.len)?;
        self.placed(what, size_of::<T>(), align_of::<T>())
    }

    /// The same for a buffer that may be absent, which is null.
    pub(super) fn optional<T>(
        this: Option<Self>,
        what: &'static str,
        expected: usize,
    ) -> Result<*mut T> {
        this.map_or(Ok(ptr::null_mut()), |buffer| buffer.exactly(what, expected))
    }

    /// The address of a buffer of `needed` elements or more.
    pub(super) fn at_least<T>(self, what: &'static str, needed: usize) -> Result<*mut T> {
        self.holds(what, needed)?;
        self.placed(what, size_of::<T>(), align_of::<T>())
    }

    pub(super) fn holds(self, what: &'static str, needed: usize) -> Result<()> {
        if self.len < needed {
            return Err(Error::LengthMismatch { what, expected: needed, actual: self.len });
        }
        Ok(())
    }

    /// The address, where elements of `size` bytes from there on are aligned and addressable. An
    /// empty buffer may lie anywhere; it gets an address that is not null, which would say that it
    /// is absent.
    pub(super) fn placed<T>(self, what: &'static str, size: usize, align: usize) -> Result<*mut T> {
        if self.len == 0 {
            return Ok(ptr::without_provenance_mut(align));
        }
        if self.address == 0 || !self.address.is_multiple_of(align) {
            return Err(Error::Misaligned { what, address: self.address, align });
        }
        self.end(size).ok_or(Error::Overflow { what })?;
        Ok(ptr::with_exposed_provenance_mut(self.address))
    }

    /// Checks that bytes of a buffer that is written are not those of another.
    pub(super) fn apart(
        self,
        what: &'static str,
        other: Self,
        other_what: &'static str,
    ) -> Result<()> {
        let ends = self.end(1).zip(other.end(1)).ok_or(Error::Overflow { what })?;
        let apart = ends.0 <= other.address || ends.1 <= self.address;
        if apart || self.len == 0 || other.len == 0 {
            return Ok(());
        }
        Err(Error::Overlap { what, other: other_what })
    }

    /// One past the last byte.
    fn end(self, size: usize) -> Option<usize> {
        self.len.checked_mul(size).and_then(|bytes| self.address.checked_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_alignment_and_range_are_checked() {
        let buffer = Buffer::new(0x1000, 4);
        assert_eq!(buffer.exactly::<i32>("x", 4).map(|p| p.addr()), Ok(0x1000));
        assert_eq!(
            buffer.exactly::<i32>("x", 5),
            Err(Error::LengthMismatch { what: "x", expected: 5, actual: 4 })
        );
        assert!(buffer.at_least::<i32>("x", 3).is_ok());
        assert!(buffer.at_least::<i32>("x", 5).is_err());
        assert_eq!(
            Buffer::new(0x1002, 4).exactly::<i32>("x", 4),
            Err(Error::Misaligned { what: "x", address: 0x1002, align: 4 })
        );
        assert!(Buffer::new(0, 4).exactly::<i32>("x", 4).is_err());
        let last = usize::MAX - 3;
        assert_eq!(Buffer::new(last, 4).exactly::<i32>("x", 4), Err(Error::Overflow { what: "x" }));
    }

    #[test]
    fn absent_is_null_and_empty_is_not() {
        assert!(Buffer::optional::<i32>(None, "x", 4).is_ok_and(|p| p.is_null()));
        let empty = Some(Buffer::default());
        assert!(Buffer::optional::<i32>(empty, "x", 0).is_ok_and(|p| !p.is_null()));
        assert!(Buffer::optional::<i32>(empty, "x", 4).is_err());
    }

    #[test]
    fn shared_bytes_are_seen() {
        let apart = |a, b| Buffer::apart(a, "dst", b, "src");
        let (a, b) = (Buffer::new(100, 10), Buffer::new(110, 5));
        assert_eq!((apart(a, b), apart(b, a)), (Ok(()), Ok(())));
        let b = Buffer::new(109, 5);
        let overlap = Err(Error::Overlap { what: "dst", other: "src" });
        assert_eq!((apart(a, b), apart(b, a)), (overlap.clone(), overlap));
        assert_eq!(apart(a, Buffer::new(105, 0)), Ok(()));
        assert!(apart(a, Buffer::new(usize::MAX, 2)).is_err());
    }
}
