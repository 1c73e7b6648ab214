//! Checks of arguments, each an error that names both sides.

use salient::{Error, Result, View};

pub(crate) fn same(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::LengthMismatch { what, expected, actual }) }
}

pub(crate) fn at_least(what: &'static str, needed: Option<usize>, actual: usize) -> Result<()> {
    let expected = needed.ok_or(Error::Overflow { what })?;
    if actual < expected { Err(Error::LengthMismatch { what, expected, actual }) } else { Ok(()) }
}

/// Whether a view holds this many tokens.
pub(crate) fn fits<T>(what: &'static str, view: View<'_, T>, tokens: usize) -> Result<()> {
    at_least(what, view.layout.required_len(tokens), view.data.len())
}

pub(crate) fn in_range(
    what: &'static str,
    value: f64,
    right: bool,
    expected: &'static str,
) -> Result<()> {
    if right { Ok(()) } else { Err(Error::OutOfRange { what, value, expected }) }
}
