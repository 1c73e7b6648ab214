//! Plans of kernels for what the suite asks of an implementation.

use salient::host::attend::{Attention, KeyLists, Keys, RowLimit};
use salient::host::score::Logits;
use salient::kernels::attend::{
    DecodeCache, DecodeLists, DecodePlan, DecodeShape, PrefillPlan, PrefillShape, Sees,
    check_decode_keys,
};
use salient::kernels::score::{IndexerPlan, IndexerShape};
use salient::{DType, Element, Error, Layout, Ragged, Result, Span};

/// First rows and limits of a row limit, for a launch, and which of them kernels are told.
pub fn sees<'a>(limit: RowLimit<'a>) -> (Option<&'a [i32]>, Option<&'a [i32]>, Sees) {
    match limit {
        RowLimit::Causal => (None, None, Sees::Causal),
        RowLimit::Full => (None, None, Sees::All),
        RowLimit::PerRow(limit) => (None, Some(limit), Sees::Rows),
        RowLimit::Between { first, limit } => (Some(first), Some(limit), Sees::Rows),
    }
}

/// A prefill over given keys: layouts of queries and outputs, and their types.
///
/// # Errors
/// Those of [`PrefillPlan::new`]; for sinks and scales that do not fit, for as many sequences of
/// keys as there are not of queries, and for paged keys and scales, which the kernel does not take.
pub fn prefill<T: Element>(
    [q, out]: [Layout; 2],
    out_dtype: DType,
    queries: &Ragged,
    keys: &Keys<'_, T>,
    sees: Sees,
    attention: &Attention<'_>,
) -> Result<PrefillPlan> {
    let Keys::Contiguous { k, v, spans } = *keys else {
        let (what, value) = ("kinds of caches", 2.0);
        return Err(Error::OutOfRange { what, value, expected: "contiguous keys" });
    };
    let (expected, actual) = (queries.batch(), spans.len());
    if expected != actual {
        return Err(Error::LengthMismatch { what: "sequences of keys", expected, actual });
    }
    attention.check_sinks(q.heads)?;
    if attention.k_scales.or(attention.v_scales).is_some() {
        return Err(Error::Unfit { what: "scales", expected: "none: prefill takes no fp8" });
    }
    let shape = PrefillShape {
        batch: queries.batch(),
        queries: queries.total(),
        max_queries: queries.lens().max().unwrap_or(0),
        keys: rows(spans)?,
        dtype: T::DTYPE,
        out_dtype,
        q,
        k: k.layout,
        v: v.layout,
        out,
    };
    PrefillPlan::new(shape, attention.scalars(), sees)
}

/// Whether [`prefill`] takes keys that lie like this, and an output.
pub fn takes_prefill<T: Element>(keys: &Keys<'_, T>, out: Layout) -> bool {
    let Keys::Contiguous { k, v, .. } = *keys else { return false };
    let queries = Ragged::from_lens(&[]).expect("no queries");
    let keys = Keys::Contiguous { k, v, spans: &[] };
    let (layouts, attention) = ([queries_beside(out), out], Attention::new(1.0));
    prefill(layouts, DType::F32, &queries, &keys, Sees::All, &attention).is_ok()
}

/// A decode step over given keys and lists: layouts of queries and outputs, and their types. There
/// is room for `spare` more entries than the longest list has, or without lists the longest
/// sequence.
///
/// # Errors
/// Those of [`check_decode_keys`] and [`DecodePlan::new`], and for sinks and scales that do not
/// fit.
pub fn decode<C: Element>(
    [q, out]: [Layout; 2],
    [dtype, out_dtype]: [DType; 2],
    keys: &Keys<'_, C>,
    lists: KeyLists<'_>,
    attention: &Attention<'_>,
    spare: usize,
) -> Result<DecodePlan> {
    check_decode_keys(keys, &lists)?;
    attention.check_sinks(q.heads)?;
    let (kv_heads, batch, longest, cache) = match *keys {
        Keys::Contiguous { k, v, spans } => {
            let (k, v, tokens) = (k.layout, v.layout, rows(spans)?);
            let longest = spans.iter().map(|span| span.len).max();
            (k.heads, spans.len(), longest, DecodeCache::Contiguous { k, v, tokens })
        }
        Keys::Paged { k, v, layout, page_table, lens } => {
            let pages = layout.pages(k.len().min(v.len())).unwrap_or(0);
            let max_pages = page_table.len().checked_div(lens.len()).unwrap_or(0);
            let cache = DecodeCache::Paged { layout, max_pages, pages };
            (layout.heads, lens.len(), lens.iter().max().copied(), cache)
        }
    };
    attention.check_scales(kv_heads)?;
    let (lists, longest) = match lists {
        KeyLists::Dense => (DecodeLists::Dense, longest),
        KeyLists::Shared { lists, .. } => (DecodeLists::Shared, lists.lens().max()),
        KeyLists::PerHead { lists, .. } => (DecodeLists::PerHead, lists.lens().max()),
    };
    DecodePlan::new(DecodeShape {
        batch,
        q,
        out,
        cache,
        lists,
        capacity: longest.unwrap_or(0) + spare,
        dtype,
        cache_dtype: C::DTYPE,
        out_dtype,
        attention: attention.scalars(),
    })
}

/// Whether [`decode`] takes queries of a type, keys that lie like this, and an output.
pub fn takes_decode<C: Element>(dtype: DType, keys: &Keys<'_, C>, out: Layout) -> bool {
    let (layouts, dtypes) = ([queries_beside(out), out], [dtype, DType::F32]);
    decode(layouts, dtypes, keys, KeyLists::Dense, &Attention::new(1.0), 1).is_ok()
}

/// Whether an indexer takes queries and keys of a type that lie like this.
pub fn takes_indexer(dtype: DType, q: Layout, k: Layout) -> bool {
    let (batch, queries, max_queries, keys, max_keys) = (0, 0, 0, 0, 0);
    let (sees, logits) = (Sees::All, Logits::Tokens);
    let shape =
        IndexerShape { batch, queries, max_queries, keys, max_keys, dtype, q, k, sees, logits };
    IndexerPlan::new(shape).is_ok()
}

fn queries_beside(out: Layout) -> Layout {
    Layout::token_major(out.heads, out.dim)
}

/// Rows that hold all spans.
fn rows(spans: &[Span]) -> Result<usize> {
    spans.iter().try_fold(0, |rows: usize, span| {
        let end = span.start.checked_add(span.len).ok_or(Error::Overflow { what: "spans" })?;
        Ok(rows.max(end))
    })
}
