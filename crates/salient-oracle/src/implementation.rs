//! What the suite runs on: one trait per verb, over plain slices and the vocabulary of `salient`.

use salient::host::select::Request;
use salient::{Element, Layout, PagedLayout, Result, Span};

use crate::compact::Kept;
use crate::select::Selected;

/// An implementation of **select**.
pub trait Select {
    /// Which tokens stay; `scores` is `[heads, total]`.
    ///
    /// # Errors
    /// On every bad input that the contract names.
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected>;
}

/// An implementation of **compact**. Every error leaves every tensor as it was.
pub trait Compact {
    /// The kept rows of several `[total, width]` tensors. The lists have one head.
    ///
    /// # Errors
    /// On a tensor that is not `total * width` long.
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>>;

    /// The same without a second buffer; each tensor is cut to its kept rows.
    ///
    /// # Errors
    /// As [`Compact::rows`].
    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()>;

    /// Moves the kept tokens of contiguous caches to the front of their sequence's span, in place.
    /// The lists have one head for all or one for each.
    ///
    /// # Errors
    /// On spans, caches or heads that do not fit the lists.
    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        caches: &mut [(&mut [T], Layout)],
    ) -> Result<()>;

    /// The same for paged caches; `pages[sequence]` lists a sequence's pages. Returns the pages that
    /// hold no kept token any more.
    ///
    /// # Errors
    /// On pages, pools or heads that do not fit the lists.
    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        pages: &[Vec<i32>],
        pools: &mut [(&mut [T], PagedLayout)],
    ) -> Result<Vec<i32>>;
}
