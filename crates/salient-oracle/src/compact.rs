//! **compact**, by copying out and back.

use salient::{Element, Error, Layout, PagedLayout, Ragged, Result, Span};

use crate::Oracle;
use crate::check::{at_least, same};
use crate::implementation::Compact;

/// Which tokens of which rows stay: the lists of a selection.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The sequences selected from.
    pub source: &'a Ragged,
    /// Rows per sequence.
    pub heads: usize,
    /// For every row (sequence * heads + head) the kept tokens, relative to the sequence's start,
    /// ascending.
    pub lists: &'a [Vec<i32>],
}

impl Kept<'_> {
    /// The list of a head of a sequence; one list serves every head where there is but one.
    pub fn list(&self, sequence: usize, head: usize) -> &[i32] {
        &self.lists[sequence * self.heads + head.min(self.heads - 1)]
    }

    /// Tokens that a sequence's longest list keeps.
    pub fn longest(&self, sequence: usize) -> usize {
        (0..self.heads).map(|head| self.list(sequence, head).len()).max().unwrap_or(0)
    }

    /// The kept rows of every list, numbered in the batch: list after list.
    pub fn rows(&self) -> Vec<usize> {
        let sequence_of = |row: usize| self.source.span(row / self.heads);
        let absolute = |(row, list): (usize, &Vec<i32>)| -> Vec<usize> {
            list.iter().map(|&i| sequence_of(row).start + i as usize).collect()
        };
        self.lists.iter().enumerate().flat_map(absolute).collect()
    }
}

/// The kept rows of `[total, width]`, in order.
pub fn rows<T: Element>(kept: &Kept<'_>, tensor: &[T], width: usize) -> Vec<T> {
    kept.rows().iter().flat_map(|&row| &tensor[row * width..(row + 1) * width]).copied().collect()
}

/// Moves each head's kept tokens to the front of its sequence's span; the rest of the span is
/// unspecified and left as it was.
pub fn kv<T: Element>(kept: &Kept<'_>, spans: &[Span], cache: &mut [T], layout: Layout) {
    let before = cache.to_vec();
    for (sequence, span) in spans.iter().enumerate() {
        for head in 0..layout.heads {
            for (new, &old) in kept.list(sequence, head).iter().enumerate() {
                let from = layout.offset(span.start + old as usize, head);
                let to = layout.offset(span.start + new, head);
                cache[to..to + layout.dim].copy_from_slice(&before[from..from + layout.dim]);
            }
        }
    }
}

/// The same for a paged pool: `pages[sequence]` lists its pages.
pub fn kv_paged<T: Element>(
    kept: &Kept<'_>,
    pages: &[Vec<i32>],
    pool: &mut [T],
    layout: PagedLayout,
) {
    let before = pool.to_vec();
    for (sequence, pages) in pages.iter().enumerate() {
        for head in 0..layout.heads {
            let at = |token: usize| {
                let page = pages[token / layout.page_size] as usize;
                layout.offset(page, token % layout.page_size, head)
            };
            for (new, &old) in kept.list(sequence, head).iter().enumerate() {
                let (from, to) = (at(old as usize), at(new));
                pool[to..to + layout.dim].copy_from_slice(&before[from..from + layout.dim]);
            }
        }
    }
}

/// The pages that no kept token lies in any more, sequence after sequence, in table order.
pub fn freed(kept: &Kept<'_>, pages: &[Vec<i32>], page_size: usize) -> Vec<i32> {
    let used = |sequence| kept.longest(sequence).div_ceil(page_size);
    pages.iter().enumerate().flat_map(|(s, pages)| &pages[used(s)..]).copied().collect()
}

impl Compact for Oracle {
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>> {
        for (tensor, width) in tensors {
            same("tensor", kept.source.total() * width, tensor.len())?;
        }
        Ok(tensors.iter().map(|(tensor, width)| rows(kept, tensor, *width)).collect())
    }

    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()> {
        let given: Vec<(&[T], usize)> = tensors.iter().map(|(t, w)| (&t[..], *w)).collect();
        let gathered = self.rows(kept, &given)?;
        tensors.iter_mut().zip(gathered).for_each(|((tensor, _), rows)| *tensor = rows);
        Ok(())
    }

    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        caches: &mut [(&mut [T], Layout)],
    ) -> Result<()> {
        same("spans", kept.source.batch(), spans.len())?;
        for (span, len) in spans.iter().zip(kept.source.lens()) {
            same("span", len, span.len)?;
        }
        let tokens = spans.iter().map(|span| span.end()).max().unwrap_or(0);
        for (cache, layout) in &*caches {
            check_heads(kept, layout.heads)?;
            at_least("cache", layout.required_len(tokens), cache.len())?;
        }
        caches.iter_mut().for_each(|(cache, layout)| kv(kept, spans, cache, *layout));
        Ok(())
    }

    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        pages: &[Vec<i32>],
        pools: &mut [(&mut [T], PagedLayout)],
    ) -> Result<Vec<i32>> {
        same("pages", kept.source.batch(), pages.len())?;
        let mut page_size = 1;
        for (pool, layout) in &*pools {
            page_size = layout.page_size;
            check_heads(kept, layout.heads)?;
            if page_size == 0 {
                let (what, expected) = ("page size", "at least 1");
                return Err(Error::OutOfRange { what, value: 0.0, expected });
            }
            for (pages, len) in pages.iter().zip(kept.source.lens()) {
                same("pages of a sequence", len.div_ceil(page_size), pages.len())?;
                for &page in pages {
                    let what = "page";
                    let index = page.into();
                    let page = usize::try_from(page);
                    let needed = page.map(|page| layout.required_len(page + 1));
                    let held =
                        needed.is_ok_and(|needed| at_least(what, needed, pool.len()).is_ok());
                    if !held {
                        return Err(Error::IndexOutOfBounds { what, index, limit: pool.len() });
                    }
                }
            }
        }
        pools.iter_mut().for_each(|(pool, layout)| kv_paged(kept, pages, pool, *layout));
        Ok(freed(kept, pages, page_size))
    }
}

fn check_heads(kept: &Kept<'_>, heads: usize) -> Result<()> {
    if kept.heads == 1 { Ok(()) } else { same("heads of the lists", heads, kept.heads) }
}
