//! The checker of device-side lists: plan and checks.

use super::select::Shape;
use super::{Buffer, at_least_one, lists_len, product, raw, to_i32};
use crate::error::Result;

/// Lists of kept tokens, and perhaps a page table, that are to be checked on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidatePlan {
    shape: Shape,
    rows: usize,
    capacity: usize,
    pages: Option<Pages>,
}

/// The pages of a paged cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pages {
    /// Tokens per page.
    pub page_size: usize,
    /// Pages per sequence in the page table.
    pub max_pages: usize,
    /// Pages that the pool holds.
    pub pages: usize,
}

impl Pages {
    pub(super) fn check(&self, batch: usize) -> Result<()> {
        at_least_one("page size", self.page_size)?;
        to_i32("page size", self.page_size)?;
        to_i32("pages of the pool", self.pages)?;
        let table = product("page table", &[batch, self.max_pages])?;
        to_i32("page table", table)?;
        Ok(())
    }
}

impl ValidatePlan {
    /// A plan for lists with room for `capacity` tokens each.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for no heads,
    /// [`Error::Overflow`](crate::Error::Overflow) where sizes do.
    pub fn new(shape: Shape, capacity: usize) -> Result<Self> {
        let rows = shape.rows()?;
        to_i32("capacity", capacity)?;
        lists_len(rows, capacity)?;
        Ok(Self { shape, rows, capacity, pages: None })
    }

    /// Checks a page table, too.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for pages without tokens,
    /// [`Error::Overflow`](crate::Error::Overflow) where sizes do.
    pub fn with_pages(self, pages: Pages) -> Result<Self> {
        pages.check(self.shape.batch)?;
        Ok(Self { pages: Some(pages), ..self })
    }
}

/// Where the lists lie; lengths in elements, exact.
#[derive(Debug, Clone, Copy, Default)]
pub struct ValidateBuffers {
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// i32 `[rows, capacity]`.
    pub kept: Buffer,
    /// i32 `[rows]`.
    pub kept_lens: Buffer,
    /// i32 `[rows + 1]`.
    pub cu_kept: Option<Buffer>,
    /// i32 `[batch, max_pages]`, if the plan has pages.
    pub page_table: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`](crate::Error::LengthMismatch),
/// [`Error::Misaligned`](crate::Error::Misaligned), and
/// [`Error::Unfit`](crate::Error::Unfit) for a page table where the plan has no pages, or the
/// other way round.
pub fn params(
    plan: &ValidatePlan,
    buffers: &ValidateBuffers,
) -> Result<raw::SalientValidateParams> {
    let ValidatePlan { shape, rows, capacity, pages } = *plan;
    let lists = lists_len(rows, capacity)?;
    if pages.is_some() != buffers.page_table.is_some() {
        let expected = "given if, and only if, the plan has pages";
        return Err(crate::Error::Unfit { what: "page table", expected });
    }
    let pages = pages.unwrap_or(Pages { page_size: 0, max_pages: 0, pages: 0 });
    let table = product("page table", &[shape.batch, pages.max_pages])?;
    Ok(raw::SalientValidateParams {
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", shape.batch + 1)?,
        kept: buffers.kept.exactly("kept", lists)?,
        kept_lens: buffers.kept_lens.exactly("kept_lens", rows)?,
        cu_kept: Buffer::optional(buffers.cu_kept, "cu_kept", rows + 1)?,
        page_table: Buffer::optional(buffers.page_table, "page table", table)?,
        status: buffers.status.exactly("status", 1)?,
        batch: to_i32("sequences", shape.batch)?,
        heads: to_i32("heads", shape.heads)?,
        capacity: to_i32("capacity", capacity)?,
        total: to_i32("tokens of all sequences", shape.total)?,
        page_size: to_i32("page size", pages.page_size)?,
        max_pages: to_i32("page table", pages.max_pages)?,
        pages: to_i32("pages of the pool", pages.pages)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { batch: 3, heads: 2, total: 30, max_len: 12 };
    const PAGES: Pages = Pages { page_size: 4, max_pages: 3, pages: 20 };

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    #[test]
    fn lists_and_pages_become_parameters_and_bad_ones_do_not() {
        let plan = ValidatePlan::new(SHAPE, 5).unwrap().with_pages(PAGES).unwrap();
        let good = ValidateBuffers {
            cu_seqlens: at(4),
            kept: at(30),
            kept_lens: at(6),
            cu_kept: Some(at(7)),
            page_table: Some(at(9)),
            status: at(1),
        };
        let raw = params(&plan, &good).unwrap();
        assert_eq!((raw.batch, raw.heads, raw.capacity, raw.total), (3, 2, 5, 30));
        assert_eq!((raw.page_size, raw.max_pages, raw.pages), (4, 3, 20));
        type Field = fn(&mut ValidateBuffers) -> &mut Buffer;
        let fields: [Field; 6] = [
            |b| &mut b.cu_seqlens,
            |b| &mut b.kept,
            |b| &mut b.kept_lens,
            |b| b.cu_kept.as_mut().unwrap(),
            |b| b.page_table.as_mut().unwrap(),
            |b| &mut b.status,
        ];
        for field in fields {
            let mut bad = good;
            field(&mut bad).len += 1;
            assert!(params(&plan, &bad).is_err());
            let mut bad = good;
            field(&mut bad).address += 2;
            assert!(params(&plan, &bad).is_err());
        }
        assert!(params(&plan, &ValidateBuffers { page_table: None, ..good }).is_err());
        let flat = ValidatePlan::new(SHAPE, 5).unwrap();
        assert!(params(&flat, &good).is_err());
        let raw = params(&flat, &ValidateBuffers { page_table: None, cu_kept: None, ..good });
        assert!(raw.is_ok_and(|raw| raw.page_table.is_null() && raw.cu_kept.is_null()));
    }

    #[test]
    fn bad_shapes_are_refused() {
        assert!(ValidatePlan::new(Shape { heads: 0, ..SHAPE }, 5).is_err());
        assert!(ValidatePlan::new(SHAPE, 1 << 31).is_err());
        let plan = ValidatePlan::new(SHAPE, 5).unwrap();
        for pages in [
            Pages { page_size: 0, ..PAGES },
            Pages { pages: 1 << 31, ..PAGES },
            Pages { max_pages: usize::MAX, ..PAGES },
        ] {
            assert!(plan.with_pages(pages).is_err());
        }
    }
}
