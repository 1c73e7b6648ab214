//! **compact**: moves the survivors together. What is asked for, on every backend.
//!
//! Hidden states move as rows of several tensors; keys and values of all layers move to the front
//! of each sequence's span, or to its front pages. Survivors keep their order, unless
//! [`KvMode::HoleFill`] says otherwise.

mod layout;

pub use layout::KvLayout;

use crate::checks::{at_least_one, check_len};
use crate::error::{Error, Result};
use crate::ragged::{Ragged, Span};

/// Where survivors go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvMode {
    /// To the front, in order.
    #[default]
    Stable,
    /// Survivors beyond the new length move into the holes below it, in order; the others stay.
    /// Moves least, but tokens change their order, which
    /// [`KvBuffers::order`](crate::kernels::compact::KvBuffers::order) tells.
    HoleFill,
}

/// The rows of one tensor, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowShape {
    /// Bytes of a row.
    pub row_bytes: usize,
    /// From a row of the source to the next.
    pub src_stride: usize,
    /// From a row of the destination to the next; in place it is the source's.
    pub dst_stride: usize,
}

impl RowShape {
    /// Rows one after the other, at the source and at the destination.
    pub fn packed(row_bytes: usize) -> Self {
        Self { row_bytes, src_stride: row_bytes, dst_stride: row_bytes }
    }

    pub(crate) fn check(&self) -> Result<()> {
        at_least_one("bytes of a row", self.row_bytes)?;
        for (what, stride) in
            [("stride of a source", self.src_stride), ("stride of a destination", self.dst_stride)]
        {
            if stride < self.row_bytes {
                let (value, expected) = (stride as f64, "no less than the bytes of a row");
                return Err(Error::OutOfRange { what, value, expected });
            }
        }
        Ok(())
    }
}

/// The end of the last span, where none overlap.
pub(crate) fn check_spans(spans: &[Span]) -> Result<usize> {
    let mut ends = Vec::with_capacity(spans.len());
    for span in spans.iter().filter(|span| span.len > 0) {
        let end = span.start.checked_add(span.len).ok_or(Error::Overflow { what: "spans" })?;
        ends.push((span.start, end));
    }
    ends.sort_unstable();
    if let Some(pair) = ends.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(Error::OutOfRange {
            what: "start of a span",
            value: pair[1].0 as f64,
            expected: "no less than the end of the span before",
        });
    }
    Ok(ends.last().map_or(0, |&(_, end)| end))
}

/// The pages that hold each sequence's tokens.
pub(crate) fn used_pages<'a>(
    rows: &Ragged,
    page_table: &'a [i32],
    page_size: usize,
    pool: usize,
) -> Result<Vec<&'a [i32]>> {
    let what = "page table";
    let batch = rows.batch();
    let max_pages = page_table.len().checked_div(batch).unwrap_or(0);
    check_len(what, max_pages * batch, page_table.len())?;
    let mut seen = vec![false; pool];
    let mut used = Vec::with_capacity(batch);
    for (sequence, len) in rows.lens().enumerate() {
        let needed = len.div_ceil(page_size);
        if needed > max_pages {
            return Err(Error::LengthMismatch {
                what: "pages of a sequence",
                expected: needed,
                actual: max_pages,
            });
        }
        let pages = &page_table[sequence * max_pages..][..needed];
        for &page in pages {
            let seen = usize::try_from(page)
                .ok()
                .and_then(|page| seen.get_mut(page))
                .ok_or(Error::IndexOutOfBounds { what, index: page.into(), limit: pool })?;
            if std::mem::replace(seen, true) {
                return Err(Error::OutOfRange {
                    what: "a page in the page table",
                    value: page.into(),
                    expected: "used only once",
                });
            }
        }
        used.push(pages);
    }
    Ok(used)
}
