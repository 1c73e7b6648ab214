//! How caches lie.

use crate::checks::{at_least_one, product, to_i64};
use crate::error::{Error, Result};
use crate::layout::{Layout, PagedLayout, is_disjoint};

/// Where a cache's lanes lie, in bytes. A lane is what moves as one: a head, or a part of one where
/// the layout cuts heads up. Lanes are numbered head by head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// From a token to the next; in a page, where the cache is paged.
    pub token_stride: usize,
    /// From a lane to the next.
    pub lane_stride: usize,
    /// From a page to the next; 0 if the cache is contiguous.
    pub page_stride: usize,
    /// Lanes of a token.
    pub lanes: usize,
    /// Contiguous bytes of a token in a lane.
    pub lane_bytes: usize,
}

impl KvLayout {
    /// A contiguous cache of elements of `element` bytes: a lane is a head.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn contiguous(layout: Layout, element: usize) -> Result<Self> {
        let Layout { heads, dim, token_stride, head_stride } = layout;
        Self::scaled([token_stride, head_stride, 0], heads, dim, element)
    }

    /// A paged cache, `[pages, page_size, heads, dim]` ([`PagedLayout::nhd`]), `[pages, heads,
    /// page_size, dim]` ([`PagedLayout::hnd`]) or with other strides: a lane is a head.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn paged(layout: PagedLayout, element: usize) -> Result<Self> {
        let PagedLayout { heads, dim, page_stride, token_stride, head_stride, .. } = layout;
        Self::scaled([token_stride, head_stride, page_stride], heads, dim, element)
    }

    /// vLLM's keys, `[pages, heads, dim / x, page_size, x]` with `x` elements in 16 bytes: a lane
    /// is 16 bytes of a head.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if a head is no multiple of 16 bytes, [`Error::Overflow`] where sizes
    /// do.
    pub fn vllm_keys(page_size: usize, heads: usize, dim: usize, element: usize) -> Result<Self> {
        const LANE: usize = 16;
        let head = product("bytes of a head", &[dim, element])?;
        if !head.is_multiple_of(LANE) {
            let (what, value) = ("bytes of a head", head as f64);
            return Err(Error::OutOfRange { what, value, expected: "a multiple of 16" });
        }
        let lanes = product("lanes", &[heads, head / LANE])?;
        let lane_stride = product("a page", &[page_size, LANE])?;
        let page_stride = product("a page", &[lanes, lane_stride])?;
        Ok(Self { token_stride: LANE, lane_stride, page_stride, lanes, lane_bytes: LANE })
    }

    /// vLLM's values, `[pages, heads, dim, page_size]`: a lane is one element.
    ///
    /// # Errors
    /// [`Error::Overflow`] where sizes do.
    pub fn vllm_values(page_size: usize, heads: usize, dim: usize, element: usize) -> Result<Self> {
        let lanes = product("lanes", &[heads, dim])?;
        let lane_stride = product("a page", &[page_size, element])?;
        let page_stride = product("a page", &[lanes, lane_stride])?;
        Ok(Self { token_stride: element, lane_stride, page_stride, lanes, lane_bytes: element })
    }

    fn scaled(strides: [usize; 3], heads: usize, dim: usize, element: usize) -> Result<Self> {
        let bytes = |elements| product("bytes of a cache", &[elements, element]);
        let [token, head, page] = strides;
        Ok(Self {
            token_stride: bytes(token)?,
            lane_stride: bytes(head)?,
            page_stride: bytes(page)?,
            lanes: heads,
            lane_bytes: bytes(dim)?,
        })
    }

    /// Bytes of the shortest buffer that holds `tokens` tokens in each of `pages` pages, no two
    /// bytes of which share a place.
    pub(crate) fn required_bytes(
        &self,
        tokens: usize,
        pages: usize,
        list_heads: usize,
    ) -> Result<usize> {
        let Self { token_stride, lane_stride, page_stride, lanes, lane_bytes } = *self;
        at_least_one("lanes", lanes)?;
        at_least_one("bytes of a lane", lane_bytes)?;
        if list_heads == 0 || lanes % list_heads != 0 {
            return Err(Error::OutOfRange {
                what: "heads of the lists",
                value: list_heads as f64,
                expected: "a number that divides the lanes of keys and of values",
            });
        }
        // Kernels count a token's bytes in 32 bits, and a few beyond the last.
        if lanes.checked_mul(lane_bytes).is_none_or(|bytes| bytes > i32::MAX as usize / 2) {
            return Err(Error::Overflow { what: "bytes of a token" });
        }
        for stride in [token_stride, lane_stride, page_stride] {
            to_i64("strides of a cache", stride)?;
        }
        if tokens == 0 || pages == 0 {
            return Ok(0);
        }
        let axes = [(pages, page_stride), (tokens, token_stride), (lanes, lane_stride)];
        let last = axes.iter().try_fold(lane_bytes, |end, &(extent, stride)| {
            (extent - 1).checked_mul(stride).and_then(|offset| end.checked_add(offset))
        });
        let what = "bytes of a cache";
        let bytes =
            last.filter(|&bytes| bytes <= isize::MAX as usize).ok_or(Error::Overflow { what })?;
        if !is_disjoint(lane_bytes, axes) {
            return Err(crate::layout::shared_places(token_stride));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte that a layout addresses, each once, fills the pool.
    fn fills(layout: KvLayout, tokens: usize, pages: usize) {
        let bytes = layout.required_bytes(tokens, pages, 1).unwrap();
        let mut seen = vec![false; bytes];
        for page in 0..pages {
            for token in 0..tokens {
                for lane in 0..layout.lanes {
                    let start = page * layout.page_stride
                        + token * layout.token_stride
                        + lane * layout.lane_stride;
                    for byte in &mut seen[start..start + layout.lane_bytes] {
                        assert!(!std::mem::replace(byte, true));
                    }
                }
            }
        }
        assert!(seen.into_iter().all(|byte| byte), "{layout:?}");
    }

    #[test]
    fn every_layout_fills_its_pool() {
        let (page_size, heads, dim, pages) = (4, 3, 24, 5);
        for element in [1, 2, 4] {
            for layout in [
                KvLayout::paged(PagedLayout::nhd(page_size, heads, dim), element).unwrap(),
                KvLayout::paged(PagedLayout::hnd(page_size, heads, dim), element).unwrap(),
                KvLayout::vllm_values(page_size, heads, dim, element).unwrap(),
            ] {
                fills(layout, page_size, pages);
            }
        }
        let keys = KvLayout::vllm_keys(page_size, heads, dim, 2).unwrap();
        assert_eq!((keys.lanes, keys.lane_bytes, keys.token_stride), (9, 16, 16));
        fills(keys, page_size, pages);
        assert!(KvLayout::vllm_keys(page_size, heads, dim, 1).is_err());
        fills(KvLayout::contiguous(Layout::token_major(3, 5), 2).unwrap(), 7, 1);
        fills(KvLayout::contiguous(Layout::head_major(3, 5, 7), 2).unwrap(), 7, 1);
    }
}
