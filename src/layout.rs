//! How tokens, heads and channels lie in a slice.

use crate::error::{Error, Result};

/// Strides of a `[token, head, dim]` tensor, in elements. The channels of one head of one token are
/// contiguous; everything else is free, so `[token, head, dim]`, `[head, token, dim]` and slices of
/// wider rows (packed QKV) are all one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of heads.
    pub heads: usize,
    /// Channels per head.
    pub dim: usize,
    /// Elements from a token to the next.
    pub token_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
}

impl Layout {
    /// `[token, head, dim]`, contiguous.
    pub fn token_major(heads: usize, dim: usize) -> Self {
        Self { heads, dim, token_stride: heads * dim, head_stride: dim }
    }

    /// `[head, token, dim]`, contiguous, for a buffer of `tokens` tokens.
    pub fn head_major(heads: usize, dim: usize, tokens: usize) -> Self {
        Self { heads, dim, token_stride: dim, head_stride: tokens * dim }
    }

    /// The offset of the first channel.
    pub fn offset(&self, token: usize, head: usize) -> usize {
        token * self.token_stride + head * self.head_stride
    }

    /// The shortest slice that holds `tokens` tokens, or `None` on overflow.
    pub fn required_len(&self, tokens: usize) -> Option<usize> {
        if tokens == 0 || self.heads == 0 {
            return Some(0);
        }
        let last_token = (tokens - 1).checked_mul(self.token_stride)?;
        let last_head = (self.heads - 1).checked_mul(self.head_stride)?;
        last_token.checked_add(last_head)?.checked_add(self.dim)
    }

    pub(crate) fn check(&self, what: &'static str, tokens: usize, len: usize) -> Result<()> {
        let needed = self.required_len(tokens).ok_or(Error::Overflow { what })?;
        if len < needed {
            return Err(Error::LengthMismatch { what, expected: needed, actual: len });
        }
        Ok(())
    }
}

/// Strides of a paged `[page, slot, head, dim]` pool, in elements. Token `i` of a sequence is slot
/// `i % page_size` of the sequence's page `i / page_size`. The channels of one head of one token
/// are contiguous; everything else is free, so `[pages, page_size, heads, dim]` and
/// `[pages, heads, page_size, dim]` are one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagedLayout {
    /// Tokens per page.
    pub page_size: usize,
    /// The number of heads.
    pub heads: usize,
    /// Channels per head.
    pub dim: usize,
    /// Elements from a page to the next.
    pub page_stride: usize,
    /// Elements from a token to the next in the same page.
    pub token_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
}

impl PagedLayout {
    /// `[pages, page_size, heads, dim]`, contiguous.
    pub fn nhd(page_size: usize, heads: usize, dim: usize) -> Self {
        let page_stride = page_size * heads * dim;
        let (token_stride, head_stride) = (heads * dim, dim);
        Self { page_size, heads, dim, page_stride, token_stride, head_stride }
    }

    /// `[pages, heads, page_size, dim]`, contiguous.
    pub fn hnd(page_size: usize, heads: usize, dim: usize) -> Self {
        let page_stride = page_size * heads * dim;
        let (token_stride, head_stride) = (dim, page_size * dim);
        Self { page_size, heads, dim, page_stride, token_stride, head_stride }
    }

    /// The offset of the first channel.
    pub fn offset(&self, page: usize, slot: usize, head: usize) -> usize {
        page * self.page_stride + slot * self.token_stride + head * self.head_stride
    }

    /// The shortest slice that holds `pages` pages, or `None` on overflow.
    pub fn required_len(&self, pages: usize) -> Option<usize> {
        if pages == 0 || self.page_size == 0 || self.heads == 0 {
            return Some(0);
        }
        let last_page = (pages - 1).checked_mul(self.page_stride)?;
        let last_slot = (self.page_size - 1).checked_mul(self.token_stride)?;
        let last_head = (self.heads - 1).checked_mul(self.head_stride)?;
        last_page.checked_add(last_slot)?.checked_add(last_head)?.checked_add(self.dim)
    }

    /// How many pages a slice of `len` elements holds, or `None` on overflow.
    pub fn pages(&self, len: usize) -> Option<usize> {
        Some(match len.checked_sub(self.required_len(1)?) {
            None => 0,
            Some(rest) => 1 + rest.checked_div(self.page_stride).unwrap_or(0),
        })
    }
}

/// A borrowed `[token, head, dim]` tensor.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Where they lie.
    pub layout: Layout,
}

impl<'a, T> View<'a, T> {
    /// A view of `data` laid out as `layout`.
    pub fn new(data: &'a [T], layout: Layout) -> Self {
        Self { data, layout }
    }

    /// A contiguous `[token, head, dim]` tensor.
    pub fn token_major(data: &'a [T], heads: usize, dim: usize) -> Self {
        Self::new(data, Layout::token_major(heads, dim))
    }

    /// The channels of one head of one token.
    ///
    /// # Panics
    /// If they lie outside the slice.
    pub fn row(&self, token: usize, head: usize) -> &'a [T] {
        let start = self.layout.offset(token, head);
        &self.data[start..start + self.layout.dim]
    }
}

/// A mutable `[token, head, dim]` tensor.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    /// The elements.
    pub data: &'a mut [T],
    /// Where they lie.
    pub layout: Layout,
}

impl<'a, T> ViewMut<'a, T> {
    /// A view of `data` laid out as `layout`.
    pub fn new(data: &'a mut [T], layout: Layout) -> Self {
        Self { data, layout }
    }

    /// A contiguous `[token, head, dim]` tensor.
    pub fn token_major(data: &'a mut [T], heads: usize, dim: usize) -> Self {
        Self::new(data, Layout::token_major(heads, dim))
    }

    /// Every row (the channels of one head of one token) by itself, `[token, head]`.
    pub(crate) fn into_rows(self, what: &'static str, tokens: usize) -> Result<Vec<&'a mut [T]>> {
        let Layout { heads, dim, token_stride, head_stride } = self.layout;
        self.layout.check(what, tokens, self.data.len())?;
        let token_outer = token_stride >= head_stride;
        let (outer, inner) = if token_outer { (tokens, heads) } else { (heads, tokens) };
        let (wide, narrow) =
            if token_outer { (token_stride, head_stride) } else { (head_stride, token_stride) };
        let mut rows: Vec<&mut [T]> = Vec::new();
        rows.resize_with(tokens * heads, Default::default);
        let (mut rest, mut at) = (self.data, 0);
        for i in 0..outer {
            for j in 0..inner {
                let start = i * wide + j * narrow;
                if start < at {
                    return Err(Error::OutOfRange {
                        what,
                        value: start as f64,
                        expected: "laid out so that no row begins inside the one before",
                    });
                }
                let (row, tail) = rest.split_at_mut(start - at).1.split_at_mut(dim);
                let (token, head) = if token_outer { (i, j) } else { (j, i) };
                rows[token * heads + head] = row;
                (rest, at) = (tail, start + dim);
            }
        }
        Ok(rows)
    }
}

/// Whether no two elements share a place, where runs of `dim` elements repeat along axes of
/// `(extent, stride)` that nest in each other.
pub(crate) fn is_disjoint<const AXES: usize>(dim: usize, mut axes: [(usize, usize); AXES]) -> bool {
    axes.sort_unstable_by_key(|&(_, stride)| stride);
    let mut reach = Some(dim);
    axes.into_iter().filter(|&(extent, _)| extent > 1).all(|(extent, stride)| {
        let fits = reach.is_some_and(|reach| stride >= reach);
        let extent = (extent - 1).checked_mul(stride);
        reach = reach.zip(extent).and_then(|(reach, extent)| reach.checked_add(extent));
        fits && reach.is_some()
    })
}

/// The error where [`is_disjoint`] fails.
pub(crate) fn shared_places(token_stride: usize) -> Error {
    Error::OutOfRange {
        what: "token stride",
        value: token_stride as f64,
        expected: "such that no two elements share a place",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_page_orders_fill_the_pool_exactly() {
        let (pages, page_size, heads, dim) = (3, 4, 2, 5);
        for layout in
            [PagedLayout::nhd(page_size, heads, dim), PagedLayout::hnd(page_size, heads, dim)]
        {
            let mut seen = vec![false; layout.required_len(pages).unwrap()];
            for page in 0..pages {
                for slot in 0..page_size {
                    for head in 0..heads {
                        let start = layout.offset(page, slot, head);
                        for channel in &mut seen[start..start + dim] {
                            assert!(!std::mem::replace(channel, true));
                        }
                    }
                }
            }
            assert_eq!(seen.len(), pages * page_size * heads * dim);
            assert_eq!(layout.pages(seen.len()), Some(pages));
            assert_eq!(layout.pages(seen.len() - 1), Some(pages - 1));
            assert_eq!(layout.pages(0), Some(0));
            assert!(seen.into_iter().all(|channel| channel));
        }
    }

    #[test]
    fn sizes_that_overflow_are_seen() {
        let layout = PagedLayout { page_stride: usize::MAX, ..PagedLayout::nhd(16, 2, 64) };
        assert_eq!(layout.required_len(3), None);
        assert_eq!(layout.required_len(0), Some(0));
    }

    #[test]
    fn strides_that_share_places_are_seen() {
        assert!(is_disjoint(4, [(10, 8), (2, 4)]));
        assert!(is_disjoint(4, [(10, 4), (2, 40)]));
        assert!(is_disjoint(4, [(1, 0), (2, 4)]));
        assert!(!is_disjoint(4, [(10, 7), (2, 4)]));
        assert!(!is_disjoint(4, [(10, 4), (2, 39)]));
        assert!(!is_disjoint(4, [(10, 0), (2, 4)]));
        assert!(!is_disjoint(4, [(3, usize::MAX), (0, 0)]));
    }

    #[test]
    fn mutable_rows_are_disjoint_in_any_order() {
        let mut data: Vec<usize> = (0..60).collect();
        for layout in [
            Layout::token_major(2, 5),
            Layout::head_major(2, 5, 6),
            Layout { heads: 2, dim: 4, token_stride: 5, head_stride: 30 },
        ] {
            let view = View::new(&data, layout);
            let expected: Vec<Vec<usize>> =
                (0..12).map(|row| view.row(row / 2, row % 2).to_vec()).collect();
            let rows = ViewMut::new(&mut data, layout).into_rows("out", 6).unwrap();
            assert_eq!(rows, expected);
        }
        let overlapping = Layout { heads: 2, dim: 5, token_stride: 8, head_stride: 4 };
        assert!(ViewMut::new(&mut data, overlapping).into_rows("out", 6).is_err());
    }
}
