//! **attend**: exact attention over the tokens that are left.
//!
//! [`prefill`] serves many queries per sequence, [`decode`] one. Rotary embedding is the caller's,
//! applied with original positions before keys are cached. Storage is any
//! [`Element`]; logits, sums and outputs are f32.
//!
//! # Learned sinks
//!
//! With [`Attention::sinks`], a learned logit s of each query head joins the softmax of all its
//! rows as a key with no value would (as in the gpt-oss models): over logits x the weights are
//! `exp(x_i) / (sum of exp(x_j) + exp(s))`, and the log-sum-exp counts s. Neither scale nor softcap
//! applies to it. A row that sees no key is 0, its log-sum-exp s. These sinks are not the
//! [protected](crate::select::Edges) first tokens, to which models without learned ones turn
//! for the same end.
//!
//! # Caches in fp8
//!
//! [`decode`] takes keys and values of another type than queries, such as
//! [`F8E4M3`](crate::dtype::F8E4M3). With [`Attention::k_scales`] and [`Attention::v_scales`] what
//! is stored stands for that times a scale of its KV head. The first multiply logits, the second
//! outputs, so neither is applied element by element.

mod decode;
mod pack;
mod prefill;
mod tile;

pub(crate) use decode::check_lists;
pub use decode::{KeyLists, decode};
pub use prefill::{RowLimit, prefill};

use crate::dtype::Element;
use crate::error::{Error, Result, check_len};
use crate::layout::{PagedLayout, View, ViewMut};
use crate::ragged::Span;

/// What is done to logits, and what belongs to heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention<'a> {
    /// Factor of the dot product of query and key, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// Scaled logits x become `cap * tanh(x / cap)`.
    pub softcap: Option<f32>,
    /// A query whose row limit is L sees the key rows `L - window..L` alone.
    pub sliding_window: Option<usize>,
    /// `[q heads]`: a learned logit that joins every row of the head; -inf joins none.
    pub sinks: Option<&'a [f32]>,
    /// `[kv heads]`: what the stored keys of a head are multiplied with to be its keys, for caches
    /// in fp8.
    pub k_scales: Option<&'a [f32]>,
    /// `[kv heads]`: the same of values.
    pub v_scales: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Plain attention with a scale.
    pub fn new(scale: f32) -> Self {
        let (softcap, sliding_window, sinks) = (None, None, None);
        Self { scale, softcap, sliding_window, sinks, k_scales: None, v_scales: None }
    }

    /// The same without sinks and scales per head.
    pub fn scalars(&self) -> Attention<'static> {
        let Self { scale, softcap, sliding_window, .. } = *self;
        Attention { softcap, sliding_window, ..Attention::new(scale) }
    }

    /// The sink of a query head, -inf if there are none.
    fn sink(&self, head: usize) -> f32 {
        self.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head])
    }

    /// What the stored keys of a KV head are multiplied with.
    fn k_scale(&self, head: usize) -> f32 {
        self.k_scales.map_or(1.0, |scales| scales[head])
    }

    /// What its stored values are multiplied with.
    fn v_scale(&self, head: usize) -> f32 {
        self.v_scales.map_or(1.0, |scales| scales[head])
    }

    /// Checks what does not depend on the number of heads.
    pub(crate) fn check(&self) -> Result<()> {
        let range = |what, value: f32, expected| {
            Err(Error::OutOfRange { what, value: value.into(), expected })
        };
        if !self.scale.is_finite() {
            return range("scale", self.scale, "finite");
        }
        if let Some(cap) = self.softcap.filter(|cap| !(cap.is_normal() && *cap > 0.0)) {
            return range("softcap", cap, "positive and finite");
        }
        if self.sliding_window == Some(0) {
            return range("sliding window", 0.0, "at least 1");
        }
        Ok(())
    }

    /// Checks the sinks, for callers that pass them on: one for each query head, each a number or
    /// -inf.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::OutOfRange`].
    pub fn check_sinks(&self, q_heads: usize) -> Result<()> {
        let Some(sinks) = self.sinks else { return Ok(()) };
        check_len("sinks", q_heads, sinks.len())?;
        match sinks.iter().find(|&&sink| sink.is_nan() || sink == f32::INFINITY) {
            Some(&sink) => {
                let expected = "a number, or -inf for none";
                Err(Error::OutOfRange { what: "sink", value: sink.into(), expected })
            }
            None => Ok(()),
        }
    }

    /// Checks the scales, for callers that pass them on: one for each KV head, each finite.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::NotFinite`].
    pub fn check_scales(&self, kv_heads: usize) -> Result<()> {
        for (what, scales) in [("scales of k", self.k_scales), ("scales of v", self.v_scales)] {
            let Some(scales) = scales else { continue };
            check_len(what, kv_heads, scales.len())?;
            if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
                return Err(Error::NotFinite { what, index });
            }
        }
        Ok(())
    }

    /// The first row that a query with this row limit sees.
    fn first(&self, limit: usize) -> usize {
        self.sliding_window.map_or(0, |window| limit.saturating_sub(window))
    }
}

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
    fn batch(&self) -> usize {
        match self {
            Self::Contiguous { spans, .. } => spans.len(),
            Self::Paged { lens, .. } => lens.len(),
        }
    }

    /// Key rows of a sequence.
    fn len(&self, sequence: usize) -> usize {
        match self {
            Self::Contiguous { spans, .. } => spans[sequence].len,
            Self::Paged { lens, .. } => lens[sequence],
        }
    }

    fn heads(&self) -> usize {
        match self {
            Self::Contiguous { k, .. } => k.layout.heads,
            Self::Paged { layout, .. } => layout.heads,
        }
    }

    /// Channels of a value.
    fn value_dim(&self) -> usize {
        match self {
            Self::Contiguous { v, .. } => v.layout.dim,
            Self::Paged { layout, .. } => layout.dim,
        }
    }

    /// Where the key and the value of the first head of a row of a sequence begin.
    #[inline(always)]
    fn place(&self, sequence: usize, row: usize) -> Place {
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
    fn key(&self, place: Place, head: usize) -> &'a [T] {
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
    fn value(&self, place: Place, head: usize) -> &'a [T] {
        match *self {
            Self::Contiguous { v: View { data, layout }, .. } => {
                &data[place.v + head * layout.head_stride..][..layout.dim]
            }
            Self::Paged { v, layout, .. } => {
                &v[place.v + head * layout.head_stride..][..layout.dim]
            }
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::Contiguous { k, v, spans } => {
                check_len("heads of v", k.layout.heads, v.layout.heads)?;
                let mut tokens = 0;
                for span in spans {
                    let overflow = Error::Overflow { what: "span of keys" };
                    let end = span.start.checked_add(span.len).ok_or(overflow)?;
                    tokens = tokens.max(end);
                }
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

/// Offsets of a row's first head.
#[derive(Debug, Clone, Copy)]
struct Place {
    k: usize,
    v: usize,
}

/// Whole pages in a pool of so many elements.
fn pages_in(layout: &PagedLayout, pool: usize) -> usize {
    match layout.required_len(1) {
        Some(first) if first <= pool => {
            (pool - first).checked_div(layout.page_stride).map_or(usize::MAX, |pages| pages + 1)
        }
        _ => 0,
    }
}

/// Checks what both entries share: shapes of queries, keys, output and log-sum-exp.
fn check<T: Element, K: Element>(
    tokens: usize,
    q: &View<'_, T>,
    keys: &Keys<'_, K>,
    attention: &Attention,
    out: &ViewMut<'_, f32>,
    lse: Option<&[f32]>,
) -> Result<()> {
    attention.check()?;
    attention.check_sinks(q.layout.heads)?;
    keys.check()?;
    let (q_heads, kv_heads) = (q.layout.heads, keys.heads());
    attention.check_scales(kv_heads)?;
    if kv_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
        return Err(Error::OutOfRange {
            what: "number of query heads",
            value: q_heads as f64,
            expected: "a multiple of the number of KV heads, which is at least 1",
        });
    }
    let key_dim = match keys {
        Keys::Contiguous { k, .. } => k.layout.dim,
        Keys::Paged { layout, .. } => layout.dim,
    };
    check_len("channels of q", key_dim, q.layout.dim)?;
    if key_dim == 0 || keys.value_dim() == 0 {
        let expected = "at least 1";
        return Err(Error::OutOfRange { what: "channels per head", value: 0.0, expected });
    }
    q.layout.check("q", tokens, q.data.len())?;
    check_len("heads of out", q_heads, out.layout.heads)?;
    check_len("channels of out", keys.value_dim(), out.layout.dim)?;
    out.layout.check("out", tokens, out.data.len())?;
    let rows = tokens.checked_mul(q_heads).ok_or(Error::Overflow { what: "rows of q" })?;
    lse.map_or(Ok(()), |lse| check_len("lse", rows, lse.len()))
}

#[cfg(test)]
mod tests;
