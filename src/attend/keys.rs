//! Keys and values, and where they lie.

use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::layout::{Layout, PagedLayout, View};
use crate::ragged::Span;

/// Where the keys and values of every sequence lie.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a, T> {
    /// Each sequence has consecutive rows.
    Contiguous {
        /// Keys, `[token, kv head, dim]`.
        k: View<'a, T>,
        /// Values, `[token, kv head, value dim]`.
        v: View<'a, T>,
        /// `[batch]`, the rows of each sequence.
        spans: &'a [Span],
    },
    /// Each sequence has a list of pages of a common pool.
    Paged {
        /// The pool of keys.
        k: &'a [T],
        /// The pool of values.
        v: &'a [T],
        /// How both pools lie.
        layout: PagedLayout,
        /// `[batch, max pages]`, row-major; entries past a sequence's length are not read.
        page_table: &'a [i32],
        /// `[batch]`, key rows per sequence.
        lens: &'a [usize],
    },
}

impl<'a, T: Element> Keys<'a, T> {
    pub(crate) fn batch(&self) -> usize {
        match self {
            Self::Contiguous { spans, .. } => spans.len(),
            Self::Paged { lens, .. } => lens.len(),
        }
    }

    /// Key rows of a sequence.
    pub(crate) fn len(&self, sequence: usize) -> usize {
        match self {
            Self::Contiguous { spans, .. } => spans[sequence].len,
            Self::Paged { lens, .. } => lens[sequence],
        }
    }

    pub(crate) fn heads(&self) -> usize {
        match self {
            Self::Contiguous { k, .. } => k.layout.heads,
            Self::Paged { layout, .. } => layout.heads,
        }
    }

    /// Channels of a value.
    pub(crate) fn value_dim(&self) -> usize {
        match self {
            Self::Contiguous { v, .. } => v.layout.dim,
            Self::Paged { layout, .. } => layout.dim,
        }
    }

    /// Where the key and the value of the first head of a row of a sequence begin.
    #[inline(always)]
    pub(crate) fn place(&self, sequence: usize, row: usize) -> Place {
        match *self {
            Self::Contiguous { k, v, spans } => {
                let token = spans[sequence].start + row;
                Place { k: token * k.layout.token_stride, v: token * v.layout.token_stride }
            }
            Self::Paged { layout, page_table, lens, .. } => {
                let pages = page_table.len() / lens.len();
                let page = page_table[sequence * pages + row / layout.page_size];
                let start = layout.offset(page as usize, row % layout.page_size, 0);
                Place { k: start, v: start }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn key(&self, place: Place, head: usize) -> &'a [T] {
        match *self {
            Self::Contiguous { k: View { data, layout }, .. } => {
                &data[place.k + head * layout.head_stride..][..layout.dim]
            }
            Self::Paged { k, layout, .. } => {
                &k[place.k + head * layout.head_stride..][..layout.dim]
            }
        }
    }

    #[inline(always)]
    pub(crate) fn value(&self, place: Place, head: usize) -> &'a [T] {
        match *self {
            Self::Contiguous { v: View { data, layout }, .. } => {
                &data[place.v + head * layout.head_stride..][..layout.dim]
            }
            Self::Paged { v, layout, .. } => {
                &v[place.v + head * layout.head_stride..][..layout.dim]
            }
        }
    }

    /// How they lie; the tokens are those that hold all spans.
    ///
    /// # Errors
    /// [`Error::Overflow`] for a span that ends beyond what an index counts.
    pub fn layout(&self) -> Result<CacheLayout> {
        match *self {
            Self::Contiguous { k, v, spans } => {
                let tokens = end_of(spans)?;
                Ok(CacheLayout::Contiguous { k: k.layout, v: v.layout, tokens })
            }
            Self::Paged { k, v, layout, page_table, lens } => {
                let pages = layout.pages(k.len().min(v.len())).unwrap_or(0);
                let max_pages = page_table.len().checked_div(lens.len()).unwrap_or(0);
                Ok(CacheLayout::Paged { layout, max_pages, pages })
            }
        }
    }

    /// The most keys of a sequence.
    pub(crate) fn longest(&self) -> usize {
        (0..self.batch()).map(|sequence| self.len(sequence)).max().unwrap_or(0)
    }

    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::Contiguous { k, v, spans } => {
                check_len("heads of v", k.layout.heads, v.layout.heads)?;
                let tokens = end_of(spans)?;
                k.layout.check("k", tokens, k.data.len())?;
                v.layout.check("v", tokens, v.data.len())?;
            }
            Self::Paged { k, v, layout, page_table, lens } => {
                if layout.page_size == 0 {
                    let expected = "at least 1";
                    return Err(Error::OutOfRange { what: "page size", value: 0.0, expected });
                }
                let pages = page_table.len() / lens.len().max(1);
                check_len("page table", pages * lens.len(), page_table.len())?;
                let pool = k.len().min(v.len());
                for (sequence, len) in lens.iter().enumerate() {
                    let used = len.div_ceil(layout.page_size);
                    if used > pages {
                        return Err(Error::LengthMismatch {
                            what: "pages of a sequence",
                            expected: used,
                            actual: pages,
                        });
                    }
                    for &page in &page_table[sequence * pages..][..used] {
                        let next = usize::try_from(page).ok().and_then(|page| page.checked_add(1));
                        let end = next.and_then(|next| layout.required_len(next));
                        if end.is_none_or(|end| end > pool) {
                            return Err(Error::IndexOutOfBounds {
                                what: "page table",
                                index: page.into(),
                                limit: pages_in(&layout, pool),
                            });
                        }
                    }
                }
            }
        }
        for sequence in 0..self.batch() {
            if i32::try_from(self.len(sequence)).is_err() {
                return Err(Error::Overflow { what: "keys of a sequence" });
            }
        }
        Ok(())
    }
}

/// How a cache lies, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheLayout {
    /// In one piece each; sequences are spans of tokens.
    Contiguous {
        /// Of keys.
        k: Layout,
        /// Of values.
        v: Layout,
        /// Tokens that both hold.
        tokens: usize,
    },
    /// On pages of two pools that are laid out alike, in any way of which a row is one piece:
    /// vLLM's `[pages, page_size, heads, dim]` ([`PagedLayout::nhd`]) and
    /// `[pages, heads, page_size, dim]` ([`PagedLayout::hnd`]) are. Its older caches, whose keys
    /// are cut into pieces of 16 bytes and whose values are transposed, are not: one value of a
    /// transposed row is 2 bytes of its 32-byte sector, so a listed row would cost up to 16 times
    /// its bytes.
    Paged {
        /// Of both pools.
        layout: PagedLayout,
        /// Pages per sequence in the page table.
        max_pages: usize,
        /// Pages that both pools hold.
        pages: usize,
    },
}

impl CacheLayout {
    /// KV heads.
    pub fn heads(&self) -> usize {
        match self {
            Self::Contiguous { k, .. } => k.heads,
            Self::Paged { layout, .. } => layout.heads,
        }
    }
}

/// Offsets of a row's first head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) k: usize,
    pub(crate) v: usize,
}

/// Tokens that hold all spans.
fn end_of(spans: &[Span]) -> Result<usize> {
    spans.iter().try_fold(0, |tokens: usize, span| {
        let end = span.start.checked_add(span.len);
        Ok(tokens.max(end.ok_or(Error::Overflow { what: "span of keys" })?))
    })
}

/// Whole pages in a pool of this many elements.
fn pages_in(layout: &PagedLayout, pool: usize) -> usize {
    match layout.required_len(1) {
        Some(first) if first <= pool => {
            (pool - first).checked_div(layout.page_stride).map_or(usize::MAX, |pages| pages + 1)
        }
        _ => 0,
    }
}
