//! Checks that name the argument at fault.

use crate::error::{Error, Result};

/// Checks a length and names the argument when it is wrong.
pub(crate) fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::LengthMismatch { what, expected, actual }) }
}

/// Checks that numbers are finite and names the argument when one is not.
pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NotFinite { what, index }),
        None => Ok(()),
    }
}

pub(crate) fn to_i32(what: &'static str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::Overflow { what })
}

pub(crate) fn to_i64(what: &'static str, value: usize) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::Overflow { what })
}

pub(crate) fn product(what: &'static str, factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
    product.filter(|&p| p <= isize::MAX as usize).ok_or(Error::Overflow { what })
}

pub(crate) fn at_least_one(what: &'static str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" }),
        _ => Ok(()),
    }
}
