//! **attend**, one row at a time.

use salient::attend::{Attention, KeyLists, Keys, PackedLists, RowLimit};
use salient::dtype::F8E4M3;
use salient::{Element, Error, Layout, Ragged, Result, Span, View, ViewMut};

use crate::Oracle;
use crate::check::{at_least, fits, in_range, same};
use crate::compact::pages_of;
use crate::implementation::{AttendDecode, AttendFp8, AttendPrefill};
use crate::real::{Real, real};

/// Prefill: the output, `[total queries, q heads, value dim]`, and the LSE, `[total queries, q
/// heads]`.
pub fn prefill<R: Real, T: Element>(
    q: View<'_, T>,
    queries: &Ragged,
    keys: &Keys<'_, T>,
    limit: RowLimit<&[i32]>,
    attention: &Attention,
    weights: Weights,
) -> (Vec<R>, Vec<R>) {
    let lists = queries.spans().enumerate().flat_map(|(sequence, span)| {
        let len = keys_of(keys, sequence);
        (0..span.len).map(move |i| (sequence, seen(limit, span, i, len, attention)))
    });
    let lists: Vec<(usize, Vec<usize>)> = lists.collect();
    attend(q, keys, (attention, weights), |token, _| lists[token].clone(), queries.total())
}

/// Decode: one query per sequence over the keys that its lists name.
pub fn decode<R: Real, T: Element, K: Element>(
    q: View<'_, T>,
    keys: &Keys<'_, K>,
    lists: KeyLists<PackedLists<'_>>,
    attention: &Attention,
    weights: Weights,
) -> (Vec<R>, Vec<R>) {
    let kv_heads = shape(keys).0;
    let list = |sequence: usize, head: usize| {
        let len = keys_of(keys, sequence);
        let first = attention.sliding_window.map_or(0, |window| len.saturating_sub(window));
        let listed: Vec<usize> = match lists {
            KeyLists::Dense => (0..len).collect(),
            KeyLists::Shared(PackedLists { keys, lists }) => {
                usizes(&keys[lists.span(sequence).range()])
            }
            KeyLists::PerHead(PackedLists { keys, lists }) => {
                usizes(&keys[lists.span(sequence * kv_heads + head).range()])
            }
        };
        (sequence, listed.into_iter().filter(|&key| key >= first).collect())
    };
    attend(q, keys, (attention, weights), list, batch(keys))
}

/// The key rows that query `i` of a sequence sees.
pub(crate) fn seen(
    limit: RowLimit<&[i32]>,
    queries: Span,
    i: usize,
    keys: usize,
    attention: &Attention,
) -> Vec<usize> {
    let row = queries.start + i;
    let (first, limit) = match limit {
        RowLimit::Causal => (0, (keys + i + 1).saturating_sub(queries.len)),
        RowLimit::Full => (0, keys),
        RowLimit::PerRow(limit) => (0, limit[row] as usize),
        RowLimit::Between { first, limit } => (first[row] as usize, limit[row] as usize),
    };
    let window = attention.sliding_window.map_or(0, |window| limit.saturating_sub(window));
    (first.max(window)..limit).collect()
}

/// Every row of every head; `list` gives the sequence of a query and the keys that a KV head shows
/// it.
fn attend<R: Real, T: Element, K: Element>(
    q: View<'_, T>,
    keys: &Keys<'_, K>,
    (attention, weights): (&Attention, Weights),
    list: impl Fn(usize, usize) -> (usize, Vec<usize>),
    tokens: usize,
) -> (Vec<R>, Vec<R>) {
    let (kv_heads, _, value_dim) = shape(keys);
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for token in 0..tokens {
        for head in 0..q.layout.heads {
            let kv_head = head / (q.layout.heads / kv_heads);
            let (sequence, list) = list(token, kv_head);
            let seen: Vec<_> =
                list.into_iter().map(|key| key_value(keys, sequence, kv_head, key)).collect();
            let heads = [head, kv_head];
            let (row, log_sum) =
                row::<R, T, K>(q.row(token, head), &seen, value_dim, attention, heads, weights);
            out.extend(row);
            lse.push(log_sum);
        }
    }
    (out, lse)
}

/// What becomes of softmax weights before they meet values. Their sum is never of rounded ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Nothing.
    Exact,
    /// They are rounded to the element type, the largest being 1.
    Rounded,
}

/// What one query row of one head reads: its output, and the log of the sum of exponentials of its
/// scaled logits. `seen` holds the key and value of every token it sees; none: 0 and the sink of
/// the head, -infinity if there is none. The heads are its own and that of its keys.
pub fn row<R: Real, T: Element, K: Element>(
    query: &[T],
    seen: &[(&[K], &[K])],
    dim: usize,
    attention: &Attention,
    [head, kv_head]: [usize; 2],
    weights: Weights,
) -> (Vec<R>, R) {
    let scale_of = |scales: Option<&[f32]>| R::of(scales.map_or(1.0, |s| s[kv_head].into()));
    let scale = R::of(attention.scale.into()) * scale_of(attention.k_scales);
    let sink =
        attention.attention_sink.map(|sinks| sinks[head]).filter(|&sink| sink > f32::NEG_INFINITY);
    let sink = sink.map(|sink| R::of(sink.into()));
    let logits: Vec<R> = seen
        .iter()
        .map(|(key, _)| {
            let products = query.iter().zip(*key).map(|(&a, &b)| (real(a), real(b)));
            let logit = scale * R::sum_of_products(products);
            match attention.softcap.map(|cap| R::of(cap.into())) {
                Some(cap) => cap * (logit / cap).tanh(),
                None => logit,
            }
        })
        .collect();
    let mut out = vec![R::of(0.0); dim];
    let Some(largest) = logits.iter().copied().chain(sink).reduce(R::maximum) else {
        return (out, R::of(f64::NEG_INFINITY));
    };
    let mut sum = sink.map_or(R::of(0.0), |sink| (sink - largest).exp());
    let mut weighed = Vec::with_capacity(seen.len());
    for (&logit, &(_, value)) in logits.iter().zip(seen) {
        let weight = (logit - largest).exp();
        sum += weight;
        let weight = match weights {
            Weights::Exact => weight,
            Weights::Rounded => real(T::from_f32(weight.to_f64() as f32)),
        };
        weighed.push((weight, value));
    }
    R::add_rows(&mut out, &weighed);
    let scale = scale_of(attention.v_scales);
    out.iter_mut().for_each(|out| *out = *out / sum * scale);
    (out, largest + sum.ln())
}

fn usizes(list: &[i32]) -> Vec<usize> {
    list.iter().map(|&key| key as usize).collect()
}

fn batch<T>(keys: &Keys<'_, T>) -> usize {
    match keys {
        Keys::Contiguous { spans, .. } => spans.len(),
        Keys::Paged { lens, .. } => lens.len(),
    }
}

/// Key rows of a sequence.
fn keys_of<T>(keys: &Keys<'_, T>, sequence: usize) -> usize {
    match keys {
        Keys::Contiguous { spans, .. } => spans[sequence].len,
        Keys::Paged { lens, .. } => lens[sequence],
    }
}

/// KV heads, channels of a key, channels of a value.
fn shape<T>(keys: &Keys<'_, T>) -> (usize, usize, usize) {
    match keys {
        Keys::Contiguous { k, v, .. } => (k.layout.heads, k.layout.dim, v.layout.dim),
        Keys::Paged { layout, .. } => (layout.heads, layout.dim, layout.dim),
    }
}

/// The key and the value of one head of one row of a sequence.
fn key_value<'a, T: Element>(
    keys: &Keys<'a, T>,
    sequence: usize,
    head: usize,
    row: usize,
) -> (&'a [T], &'a [T]) {
    match *keys {
        Keys::Contiguous { k, v, spans } => {
            let token = spans[sequence].start + row;
            (k.row(token, head), v.row(token, head))
        }
        Keys::Paged { k, v, layout, page_table, lens } => {
            let max_pages = page_table.len() / lens.len();
            let page = page_table[sequence * max_pages + row / layout.page_size] as usize;
            let start = layout.offset(page, row % layout.page_size, head);
            (&k[start..start + layout.dim], &v[start..start + layout.dim])
        }
    }
}

impl AttendPrefill for Oracle {
    fn prefill<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit<&[i32]>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        same("sequences", batch(keys), queries.batch())?;
        check(q, queries.total(), keys, attention, &out, lse.as_deref())?;
        check_limits(limit, queries, |sequence| keys_of(keys, sequence))?;
        write(prefill::<f64, T>(q, queries, keys, limit, attention, Weights::Exact), out, lse);
        Ok(())
    }
}

impl AttendDecode for Oracle {
    fn decode<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, T>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        checked_decode(q, keys, lists, attention, out, lse)
    }
}

/// Checks row limits against the keys that each sequence has.
pub(crate) fn check_limits(
    limit: RowLimit<&[i32]>,
    queries: &Ragged,
    keys: impl Fn(usize) -> usize,
) -> Result<()> {
    let lists = match limit {
        RowLimit::Causal | RowLimit::Full => vec![],
        RowLimit::PerRow(limit) => vec![limit],
        RowLimit::Between { first, limit } => vec![first, limit],
    };
    for list in lists {
        same("row limits", queries.total(), list.len())?;
        for (sequence, span) in queries.spans().enumerate() {
            for &row in &list[span.range()] {
                let right = usize::try_from(row).is_ok_and(|row| row <= keys(sequence));
                in_range("row limit", row.into(), right, "within the keys")?;
            }
        }
    }
    Ok(())
}

impl AttendFp8 for Oracle {
    fn decode_fp8<T: Element>(
        &self,
        q: View<'_, T>,
        keys: &Keys<'_, F8E4M3>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention,
        out: ViewMut<'_, f32>,
        lse: Option<&mut [f32]>,
    ) -> Result<()> {
        checked_decode(q, keys, lists, attention, out, lse)
    }
}

fn checked_decode<T: Element, K: Element>(
    q: View<'_, T>,
    keys: &Keys<'_, K>,
    lists: KeyLists<PackedLists<'_>>,
    attention: &Attention,
    out: ViewMut<'_, f32>,
    lse: Option<&mut [f32]>,
) -> Result<()> {
    let batch = batch(keys);
    check(q, batch, keys, attention, &out, lse.as_deref())?;
    let given = match lists {
        KeyLists::Dense => None,
        KeyLists::Shared(PackedLists { keys, lists }) => Some((keys, lists, 1)),
        KeyLists::PerHead(PackedLists { keys: listed, lists }) => {
            Some((listed, lists, shape(keys).0))
        }
    };
    if let Some((listed, lists, heads)) = given {
        same("lists", batch * heads, lists.batch())?;
        same("listed keys", lists.total(), listed.len())?;
        for (list, span) in lists.spans().enumerate() {
            check_list(&listed[span.range()], keys_of(keys, list / heads))?;
        }
    }
    write(decode::<f64, T, K>(q, keys, lists, attention, Weights::Exact), out, lse);
    Ok(())
}

fn check_list(list: &[i32], limit: usize) -> Result<()> {
    let what = "listed keys";
    if let Some(at) = list.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(Error::NotAscending { what, index: at + 1 });
    }
    for &key in list {
        if usize::try_from(key).map_or(true, |key| key >= limit) {
            return Err(Error::IndexOutOfBounds { what, index: key.into(), limit });
        }
    }
    Ok(())
}

fn write((rows, log_sums): (Vec<f64>, Vec<f64>), out: ViewMut<'_, f32>, lse: Option<&mut [f32]>) {
    let Layout { heads, dim, .. } = out.layout;
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        let start = out.layout.offset(i / heads, i % heads);
        out.data[start..start + dim].iter_mut().zip(row).for_each(|(to, &x)| *to = x as f32);
    }
    if let Some(lse) = lse {
        lse.iter_mut().zip(log_sums).for_each(|(to, x)| *to = x as f32);
    }
}

fn check<T: Element, K: Element>(
    q: View<'_, T>,
    tokens: usize,
    keys: &Keys<'_, K>,
    attention: &Attention,
    out: &ViewMut<'_, f32>,
    lse: Option<&[f32]>,
) -> Result<()> {
    let (kv_heads, dim, value_dim) = shape(keys);
    let q_heads = q.layout.heads;
    let grouped = kv_heads > 0 && q_heads.is_multiple_of(kv_heads);
    in_range("query heads", q_heads as f64, grouped, "a multiple of the KV heads")?;
    same("channels of q", dim, q.layout.dim)?;
    in_range("channels", dim as f64, dim > 0 && value_dim > 0, "at least 1")?;
    fits("q", q, tokens)?;
    same("heads of out", q_heads, out.layout.heads)?;
    same("channels of out", value_dim, out.layout.dim)?;
    at_least("out", out.layout.required_len(tokens), out.data.len())?;
    same("lse", lse.map_or(0, |_| tokens * q_heads), lse.map_or(0, <[f32]>::len))?;
    in_range("scale", attention.scale.into(), attention.scale.is_finite(), "finite")?;
    let cap = attention.softcap.unwrap_or(1.0);
    in_range("softcap", cap.into(), cap.is_normal() && cap > 0.0, "positive and finite")?;
    let window = attention.sliding_window.unwrap_or(1);
    in_range("sliding window", window as f64, window > 0, "at least 1")?;
    if let Some(sinks) = attention.attention_sink {
        same("sinks", q_heads, sinks.len())?;
        for &sink in sinks {
            in_range("sink", sink.into(), sink < f32::INFINITY, "a number or -infinity")?;
        }
    }
    for scales in [attention.k_scales, attention.v_scales].into_iter().flatten() {
        same("scales", kv_heads, scales.len())?;
        for &scale in scales {
            in_range("scale of a head", scale.into(), scale.is_finite(), "finite")?;
        }
    }
    match *keys {
        Keys::Contiguous { k, v, spans } => {
            same("heads of v", kv_heads, v.layout.heads)?;
            let ends = spans.iter().map(|span| span.start.checked_add(span.len));
            let ends: Option<Vec<usize>> = ends.collect();
            let end = ends.ok_or(Error::Overflow { what: "spans" })?.into_iter().max();
            fits("k", k, end.unwrap_or(0))?;
            fits("v", v, end.unwrap_or(0))
        }
        Keys::Paged { k, v, layout, page_table, lens } => {
            let rows = Ragged::from_lens(lens)?;
            for &page in &pages_of(&rows, page_table, layout.page_size)?.concat() {
                let end = usize::try_from(page).ok().and_then(|page| layout.required_len(page + 1));
                if end.is_none_or(|end| end > k.len().min(v.len())) {
                    let (what, index, limit) = ("page table", page.into(), k.len().min(v.len()));
                    return Err(Error::IndexOutOfBounds { what, index, limit });
                }
            }
            Ok(())
        }
    }
}
