//! **compact**, by copying out and back.

use salient::{Element, Error, Layout, PagedLayout, Ragged, Result, Span};

use crate::Oracle;
use crate::check::{at_least, in_range, same};
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

/// The same for a paged pool; `pages[sequence]` are the pages that hold its tokens.
pub fn kv_paged<T: Element>(
    kept: &Kept<'_>,
    pages: &[&[i32]],
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

/// Which token is in each place where survivors at or beyond the new length, `list.len()`, move
/// into the holes below it, in order, and the others stay.
pub fn hole_fill(list: &[i32]) -> Vec<i32> {
    let len = list.len() as i32;
    let mut movers = list.iter().filter(|&&token| token >= len);
    let comes = |place| if list.contains(&place) { Some(place) } else { movers.next().copied() };
    (0..len).map_while(comes).collect()
}

/// The pages that hold each sequence's tokens, of a `[batch, max_pages]` table.
///
/// # Errors
/// If the table does not divide into the sequences or a sequence has too few pages.
pub fn pages_of<'a>(
    source: &Ragged,
    page_table: &'a [i32],
    page_size: usize,
) -> Result<Vec<&'a [i32]>> {
    let batch = source.batch();
    in_range("page size", page_size as f64, page_size > 0, "at least 1")?;
    let max_pages = page_table.len().checked_div(batch).unwrap_or(0);
    same("page table", max_pages * batch, page_table.len())?;
    let of = |(sequence, len): (usize, usize)| {
        let used = len.div_ceil(page_size);
        at_least("pages of a sequence", Some(used), max_pages)?;
        Ok(&page_table[sequence * max_pages..][..used])
    };
    source.lens().enumerate().map(of).collect()
}

/// The pages that no kept token lies in any more, sequence after sequence, in table order.
pub fn freed(kept: &Kept<'_>, pages: &[&[i32]], page_size: usize) -> Vec<i32> {
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
        layout: Layout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<()> {
        check_heads(kept, layout.heads)?;
        same("spans", kept.source.batch(), spans.len())?;
        for (i, (span, len)) in spans.iter().zip(kept.source.lens()).enumerate() {
            same("span", len, span.len)?;
            let apart = |other: &Span| other.end() <= span.start || span.end() <= other.start;
            in_range("span", span.start as f64, spans[..i].iter().all(apart), "apart")?;
        }
        let tokens = spans.iter().map(|span| span.end()).max().unwrap_or(0);
        for cache in layers.iter().flatten() {
            at_least("cache", layout.required_len(tokens), cache.len())?;
        }
        layers.iter_mut().flatten().for_each(|cache| kv(kept, spans, cache, layout));
        Ok(())
    }

    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        page_table: &[i32],
        layout: PagedLayout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Vec<i32>> {
        check_heads(kept, layout.heads)?;
        let pages = pages_of(kept.source, page_table, layout.page_size)?;
        let shortest = layers.iter().flatten().map(|pool| pool.len()).min().unwrap_or(0);
        for (i, &page) in pages.concat().iter().enumerate() {
            let end = usize::try_from(page).ok().and_then(|page| layout.required_len(page + 1));
            if end.is_none_or(|end| end > shortest) {
                let (what, index, limit) = ("page table", page.into(), shortest);
                return Err(Error::IndexOutOfBounds { what, index, limit });
            }
            in_range("page", page.into(), !pages.concat()[..i].contains(&page), "used once")?;
        }
        layers.iter_mut().flatten().for_each(|pool| kv_paged(kept, &pages, pool, layout));
        Ok(freed(kept, &pages, layout.page_size))
    }
}

fn check_heads(kept: &Kept<'_>, heads: usize) -> Result<()> {
    if kept.heads == 1 { Ok(()) } else { same("heads of the lists", heads, kept.heads) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Random;

    #[test]
    fn holes_are_filled_with_the_same_tokens_by_the_fewest_moves() {
        assert_eq!(hole_fill(&[0, 2, 5, 6]), [0, 5, 2, 6]);
        let mut random = Random::new(0);
        for case in 0..200 {
            let list = random.subset(case, 0.35);
            let order = hole_fill(&list);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, list);
            let stay = order.iter().zip(0..).filter(|&(&token, place)| token == place).count();
            assert_eq!(stay, list.iter().filter(|&&token| (token as usize) < list.len()).count());
        }
    }
}
