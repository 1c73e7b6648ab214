//! The lightning indexer.

use std::ops::Range;

use rayon::prelude::*;

use crate::Ragged;
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::host::simd::{Packed, matmul_block};
use crate::score::{IndexerKeys, IndexerQueries, Logits};

/// The logits of the lightning indexer (DeepSeek-V3.2; `fp8_index` of its reference implementation
/// and `mqa_logits` of DeepGEMM):
///
/// ```text
/// logit[m, n] = scale[n] * sum over heads h of weight[m, h] * ReLU(q[m, h] . k[n])
/// ```
///
/// for the keys n that query m sees, and -inf for all others. The highest 2048 are what
/// DeepSeek-V3.2 attends to. A NaN in q or k makes NaN of the logits that it reaches: ReLU passes
/// it on. The result depends neither on the number of threads nor on the other sequences.
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::LengthMismatch`] if heads, channels, lengths or row limits do
/// not fit each other.
pub fn indexer<T: Element>(
    queries: &IndexerQueries<'_, T>,
    keys: &IndexerKeys<'_, T>,
    logits: Logits,
    out: &mut [f32],
) -> Result<()> {
    let visible = check(queries, keys, logits, out.len())?;
    out.fill(f32::NEG_INFINITY);
    let mut tasks = Vec::with_capacity(visible.len());
    let mut rest = out;
    for (span, key_span) in queries.rows.spans().zip(keys.rows.spans()) {
        for query in span.range() {
            let (row, after) = rest.split_at_mut(match logits {
                Logits::Rows { stride } => stride,
                Logits::Tokens => key_span.len,
            });
            rest = after;
            let seen = visible[query].start as usize..visible[query].end as usize;
            tasks.push((
                Row { queries, keys, query, first: key_span.start + seen.start },
                &mut row[seen],
            ));
        }
        if logits == Logits::Tokens && span.len == 0 {
            rest = rest.split_at_mut(key_span.len).1;
        }
    }
    tasks.into_par_iter().for_each(|(row, out)| row.logits(out));
    Ok(())
}

/// Checks everything, and gives the keys that each query sees.
fn check<T>(
    queries: &IndexerQueries<'_, T>,
    keys: &IndexerKeys<'_, T>,
    logits: Logits,
    out: usize,
) -> Result<Vec<Range<u32>>> {
    let (q, k) = (queries.q.layout, keys.k.layout);
    check_len("sequences of keys", queries.rows.batch(), keys.rows.batch())?;
    check_len("heads of k", 1, k.heads)?;
    for (what, value) in [("query heads", q.heads), ("channels of a head", q.dim)] {
        if value == 0 {
            return Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" });
        }
    }
    check_len("channels of a key", q.dim, k.dim)?;
    let count = queries.rows.total();
    q.check("q", count, queries.q.data.len())?;
    k.check("k", keys.rows.total(), keys.k.data.len())?;
    let weights = count.checked_mul(q.heads).ok_or(Error::Overflow { what: "weights" })?;
    check_len("weights", weights, queries.weights.len())?;
    if let Some(scales) = keys.scales {
        check_len("scales of keys", keys.rows.total(), scales.len())?;
    }
    check_len("out", logits.len(queries.rows, keys.rows)?, out)?;
    queries.limit.visible(queries.rows, |sequence| keys.rows.span(sequence).len)
}

impl Logits {
    /// How many there are.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for rows shorter than a sequence, or more than one query where there
    /// is room for one; [`Error::Overflow`].
    pub(crate) fn len(self, queries: &Ragged, keys: &Ragged) -> Result<usize> {
        match self {
            Self::Rows { stride } => {
                let longest = keys.lens().max().unwrap_or(0);
                if stride < longest {
                    let (what, value) = ("stride of logits", stride as f64);
                    let expected = "no less than the longest sequence";
                    return Err(Error::OutOfRange { what, value, expected });
                }
                queries.total().checked_mul(stride).ok_or(Error::Overflow { what: "logits" })
            }
            Self::Tokens => {
                if let Some(count) = queries.lens().find(|&count| count > 1) {
                    let (what, value) = ("queries of a sequence", count as f64);
                    return Err(Error::OutOfRange { what, value, expected: "at most 1" });
                }
                Ok(keys.total())
            }
        }
    }
}

/// One query and the keys that it sees, from `first` on.
struct Row<'a, T> {
    queries: &'a IndexerQueries<'a, T>,
    keys: &'a IndexerKeys<'a, T>,
    query: usize,
    first: usize,
}

impl<T: Element> Row<'_, T> {
    /// Keys that one task takes.
    const KEYS: usize = 64;

    fn logits(&self, out: &mut [f32]) {
        let q = self.queries.q;
        let (heads, dim) = (q.layout.heads, q.layout.dim);
        let rows: Vec<T> = (0..heads).flat_map(|head| q.row(self.query, head)).copied().collect();
        let packed = Packed::from_transposed(&rows, heads, dim);
        let weights = &self.queries.weights[self.query * heads..][..heads];
        out.par_chunks_mut(Self::KEYS).enumerate().for_each(|(chunk, out)| {
            let first = self.first + chunk * Self::KEYS;
            let mut keys = vec![0f32; out.len() * dim];
            for (token, key) in (first..).zip(keys.chunks_exact_mut(dim)) {
                T::widen(self.keys.k.row(token, 0), key);
            }
            let mut dots = vec![0f32; out.len() * heads];
            matmul_block(&keys, &packed, &mut dots);
            for ((token, dots), out) in (first..).zip(dots.chunks_exact(heads)).zip(out) {
                // Not `max`, which passes over a NaN.
                let relu = |x: f32| if x <= 0.0 { 0.0 } else { x };
                let sum: f32 =
                    dots.iter().zip(weights).map(|(&dot, weight)| weight * relu(dot)).sum();
                *out = self.keys.scales.map_or(1.0, |scales| scales[token]) * sum;
            }
        });
    }
}
