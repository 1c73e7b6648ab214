//! The lightning indexer.

use salient::attend::Attention;
use salient::score::{IndexerKeys, IndexerQueries, Logits};
use salient::{Element, Result};

use super::write;
use crate::Oracle;
use crate::attend::{check_limits, seen};
use crate::check::{fits, in_range, same};
use crate::implementation::ScoreIndexer;
use crate::real::{Real, dot};

/// The logits of queries and keys.
pub fn indexer<R: Real, T: Element>(
    queries: &IndexerQueries<'_, T>,
    keys: &IndexerKeys<'_, T>,
    logits: Logits,
) -> Vec<R> {
    let heads = queries.q.layout.heads;
    let mut out = vec![R::of(f64::NEG_INFINITY); out_len(queries, keys, logits)];
    let all = Attention::new(1.0);
    for (rows, key_rows) in queries.rows.spans().zip(keys.rows.spans()) {
        for (i, row) in rows.range().enumerate() {
            let start = match logits {
                Logits::Rows { stride } => row * stride,
                Logits::Tokens => key_rows.start,
            };
            for key in seen(queries.limit, rows, i, key_rows.len, &all) {
                let token = key_rows.start + key;
                let sum: R = (0..heads)
                    .map(|head| {
                        let product: R = dot(queries.q.row(row, head), keys.k.row(token, 0));
                        let weight = R::of(queries.weights[row * heads + head].into());
                        weight * R::of(0.0).maximum(product)
                    })
                    .sum();
                let scale = keys.scales.map_or(1.0, |scales| scales[token]);
                out[start + key] = R::of(scale.into()) * sum;
            }
        }
    }
    out
}

fn out_len<T>(queries: &IndexerQueries<'_, T>, keys: &IndexerKeys<'_, T>, logits: Logits) -> usize {
    match logits {
        Logits::Rows { stride } => queries.rows.total() * stride,
        Logits::Tokens => keys.rows.total(),
    }
}

impl ScoreIndexer for Oracle {
    fn indexer<T: Element>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()> {
        let (q, k) = (queries.q.layout, keys.k.layout);
        same("sequences", queries.rows.batch(), keys.rows.batch())?;
        same("heads of k", 1, k.heads)?;
        in_range("heads", q.heads as f64, q.heads > 0, "at least 1")?;
        in_range("channels", q.dim as f64, q.dim > 0, "at least 1")?;
        same("channels", q.dim, k.dim)?;
        fits("q", queries.q, queries.rows.total())?;
        fits("k", keys.k, keys.rows.total())?;
        same("weights", queries.rows.total() * q.heads, queries.weights.len())?;
        if let Some(scales) = keys.scales {
            same("scales", keys.rows.total(), scales.len())?;
        }
        match logits {
            Logits::Rows { stride } => {
                let fits = keys.rows.lens().all(|len| len <= stride);
                in_range("stride", stride as f64, fits, "no less than the longest sequence")?;
            }
            Logits::Tokens => {
                let one = queries.rows.lens().all(|len| len <= 1);
                in_range("queries", queries.rows.total() as f64, one, "1 per sequence at most")?;
            }
        }
        same("out", out_len(queries, keys, logits), out.len())?;
        check_limits(queries.limit, queries.rows, |sequence| keys.rows.span(sequence).len)?;
        write(out, &indexer::<f64, T>(queries, keys, logits))
    }
}
