//! **score**, by the definitions.

mod expected;
mod indexer;
mod rank;

pub use expected::expected;
pub use indexer::indexer;
pub use rank::rank;

use salient::score::{
    AttentionScore, HeadReduce, Per, Pool, PoolKind, PredictorWeights, QueryWeights,
};
use salient::{Element, Error, Ragged, Result, Span, View};

use crate::Oracle;
use crate::check::{fits, in_range, same};
use crate::generate::Random;
use crate::implementation::{Score, ScoreAttention, ScorePositions};
use crate::real::{Real, dot, real};

/// The predictor's score of every row of `x`, `[tokens, hidden]`.
pub fn mlp<R: Real, T: Element>(x: &[T], hidden: usize, w: &PredictorWeights) -> Vec<R> {
    let real32 = |w: f32| R::of(w.into());
    x.chunks_exact(hidden)
        .map(|x| {
            let mut x: Vec<R> = x.iter().map(|&x| real(x)).collect();
            if let Some((weight, epsilon)) = &w.norm {
                let squares: R = x.iter().map(|&x| x * x).sum();
                let mean = squares / R::of(hidden as f64);
                let rms = (mean + real32(*epsilon)).sqrt();
                x.iter_mut().zip(weight).for_each(|(x, &w)| *x = *x / rms * real32(w));
            }
            let width = w.b1.len();
            let mut outputs: Vec<R> = w.b2.iter().map(|&b| real32(b)).collect();
            for (unit, row) in w.w1.chunks_exact(hidden).enumerate() {
                let sum = R::sum_of_products(row.iter().zip(&x).map(|(&w, &x)| (real32(w), x)));
                let active = gelu(sum + real32(w.b1[unit]));
                for (output, out) in outputs.iter_mut().enumerate() {
                    *out += real32(w.w2[output * width + unit]) * active;
                }
            }
            outputs.into_iter().reduce(|keep, drop| keep - drop).expect("at least one output")
        })
        .collect()
}

/// `x` times the normal distribution function of `x`.
fn gelu<R: Real>(x: R) -> R {
    let half = R::of(0.5);
    half * x * (R::of(1.0) + (x * half.sqrt()).erf())
}

/// Scores from attention probabilities. Of each sequence of keys, the last queries are given:
/// `queries[i]` says where those of sequence `i` lie in `q`.
pub fn attention<R: Real, T: Element>(
    q: View<'_, T>,
    queries: &[Span],
    k: View<'_, T>,
    rows: &Ragged,
    score: &AttentionScore,
) -> Vec<R> {
    let (total, group) = (rows.total(), q.layout.heads / k.layout.heads);
    let outputs = outputs(score.per, k.layout.heads);
    let heads_of = q.layout.heads / outputs;
    let mut scores = vec![R::of(0.0); outputs * total];
    for (keys, &queries) in rows.spans().zip(queries) {
        for output in 0..outputs {
            let columns: Vec<Vec<R>> = (output * heads_of..(output + 1) * heads_of)
                .map(|head| {
                    let key = |t| k.row(keys.start + t, head / group);
                    let query = |j| q.row(queries.start + j, head);
                    columns_of_head(query, queries.len, key, keys.len, score)
                })
                .collect();
            let reduced = reduce(&columns, keys.len, score.heads);
            let pooled = match &score.pool {
                Some(pool) => self::pool(&reduced, pool),
                None => reduced,
            };
            let start = output * total + keys.start;
            scores[start..start + keys.len].copy_from_slice(&pooled);
        }
    }
    scores
}

/// The weighted mean over the queries of one head's attention to each key.
fn columns_of_head<'a, R: Real, T: Element>(
    query: impl Fn(usize) -> &'a [T],
    queries: usize,
    key: impl Fn(usize) -> &'a [T],
    keys: usize,
    score: &AttentionScore,
) -> Vec<R> {
    let weights: Vec<R> = query_weights(score.query_weights, queries);
    let mut columns = vec![R::of(0.0); keys];
    for (j, &weight) in weights.iter().enumerate() {
        let seen = keys - queries + j + 1;
        let scale = R::of(score.scale.into());
        let logits: Vec<R> = (0..seen).map(|t| scale * dot::<R, T>(query(j), key(t))).collect();
        let largest = logits.iter().copied().reduce(R::maximum).expect("a query sees itself");
        let numerators: Vec<R> = logits.iter().map(|&l| (l - largest).exp()).collect();
        let sum: R = numerators.iter().copied().sum();
        for (column, numerator) in columns.iter_mut().zip(numerators) {
            *column += weight * (numerator / sum);
        }
    }
    columns
}

/// Weights that sum to 1.
fn query_weights<R: Real>(weights: QueryWeights, queries: usize) -> Vec<R> {
    let raw: Vec<R> = (0..queries)
        .map(|j| match weights {
            QueryWeights::Ramp { first, last } if queries > 1 => {
                let step = R::of(j as f64) / R::of((queries - 1) as f64);
                R::of(first.into()) + (R::of(last.into()) - R::of(first.into())) * step
            }
            _ => R::of(1.0),
        })
        .collect();
    let sum: R = raw.iter().copied().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

/// The heads' columns made one.
fn reduce<R: Real>(heads: &[Vec<R>], keys: usize, how: HeadReduce) -> Vec<R> {
    let largest_of = |head: &Vec<R>| match head.iter().copied().reduce(R::maximum) {
        Some(largest) if largest != R::of(0.0) => largest,
        _ => R::of(1.0),
    };
    let divisors: Vec<R> = match how {
        HeadReduce::MaxNormalised => heads.iter().map(largest_of).collect(),
        _ => vec![R::of(1.0); heads.len()],
    };
    (0..keys)
        .map(|t| {
            let each = heads.iter().zip(&divisors).map(|(head, &divisor)| head[t] / divisor);
            match how {
                HeadReduce::Mean => each.sum::<R>() / R::of(heads.len() as f64),
                _ => each.reduce(R::maximum).expect("at least one head"),
            }
        })
        .collect()
}

/// The average or maximum over the `width` tokens around each, as far as they exist.
pub fn pool<R: Real>(scores: &[R], pool: &Pool) -> Vec<R> {
    let reach = pool.width / 2;
    (0..scores.len())
        .map(|t| {
            let around = &scores[t.saturating_sub(reach)..scores.len().min(t + reach + 1)];
            let each = around.iter().copied();
            match pool.kind {
                PoolKind::Average => each.sum::<R>() / R::of(around.len() as f64),
                PoolKind::Max => each.reduce(R::maximum).expect("the token itself"),
            }
        })
        .collect()
}

/// Minus the norm of each key, `[kv_heads, tokens]`, or its mean over the heads, `[tokens]`.
pub fn key_norms<R: Real, T: Element>(k: View<'_, T>, tokens: usize, per: Per) -> Vec<R> {
    let heads = k.layout.heads;
    let norm = |token, head| dot::<R, T>(k.row(token, head), k.row(token, head)).sqrt();
    match per {
        Per::KvHead => (0..heads)
            .flat_map(|head| (0..tokens).map(move |t| (t, head)))
            .map(|(t, h)| -norm(t, h))
            .collect(),
        Per::Token => (0..tokens)
            .map(|t| -((0..heads).map(|head| norm(t, head)).sum::<R>() / R::of(heads as f64)))
            .collect(),
    }
}

impl Score for Oracle {
    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        w: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        let (width, outputs) = (w.b1.len(), w.b2.len());
        same("x", out.len() * hidden, x.len())?;
        same("w1", width * hidden, w.w1.len())?;
        same("w2", outputs * width, w.w2.len())?;
        let norm = w.norm.as_ref().map_or(&[][..], |(weight, _)| weight);
        same("norm", if w.norm.is_some() { hidden } else { 0 }, norm.len())?;
        in_range("outputs", outputs as f64, (1..=2).contains(&outputs), "1 or 2")?;
        for weights in [&w.w1, &w.b1, &w.w2, &w.b2, norm] {
            if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
                return Err(Error::NotFinite { what: "weights", index });
            }
        }
        write(out, &mlp::<f64, T>(x, hidden, w))
    }

    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
        let outputs = outputs(per, k.layout.heads);
        in_range("heads", 0.0, k.layout.heads > 0, "at least 1")?;
        same("out", out.len().next_multiple_of(outputs), out.len())?;
        let tokens = out.len() / outputs;
        fits("k", k, tokens)?;
        write(out, &key_norms::<f64, T>(k, tokens, per))
    }
}

impl ScoreAttention for Oracle {
    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let queries: Vec<Span> =
            rows.lens().enumerate().map(|(start, len)| Span { start, len: len.min(1) }).collect();
        check_attention(q, rows.batch(), k, rows, score, out)?;
        write(out, &attention::<f64, T>(q, &queries, k, rows, score))
    }

    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        same("sequences of queries", rows.batch(), queries.batch())?;
        for (queries, keys) in queries.lens().zip(rows.lens()) {
            in_range("queries", queries as f64, queries <= keys, "at most the sequence's rows")?;
        }
        check_attention(q, queries.total(), k, rows, score, out)?;
        let queries: Vec<Span> = queries.spans().collect();
        write(out, &attention::<f64, T>(q, &queries, k, rows, score))
    }

    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        self.window(q, rows, k, rows, score, out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        check_pool(pool)?;
        same("out", scores.len(), out.len())?;
        let total = rows.total();
        same("scores", scores.len().next_multiple_of(total.max(1)), scores.len())?;
        let wide: Vec<f64> = scores.iter().map(|&score| score.into()).collect();
        let heads = (0..scores.len().checked_div(total).unwrap_or(0)).map(|head| head * total);
        let pooled: Vec<f64> = heads
            .flat_map(|start| rows.spans().map(move |span| start + span.start..start + span.end()))
            .flat_map(|range| self::pool(&wide[range], pool))
            .collect();
        write(out, &pooled)
    }
}

impl ScorePositions for Oracle {
    fn random(&self, seed: u64, positions: &[i32], out: &mut [f32]) -> Result<()> {
        same("out", positions.len(), out.len())?;
        for (out, &position) in out.iter_mut().zip(positions) {
            let mut random =
                Random::new(seed.wrapping_add(u64::from(position.cast_unsigned()) << 24));
            *out = (random.bits() >> 40) as f32 / (1 << 24) as f32;
        }
        Ok(())
    }

    fn position(&self, rows: &Ragged, out: &mut [f32]) -> Result<()> {
        same("out", rows.total(), out.len())?;
        let positions: Vec<f64> = rows.lens().flat_map(|len| (0..len).map(|i| i as f64)).collect();
        write(out, &positions)
    }
}

fn write(out: &mut [f32], scores: &[f64]) -> Result<()> {
    out.iter_mut().zip(scores).for_each(|(out, &score)| *out = score as f32);
    Ok(())
}

fn outputs(per: Per, kv_heads: usize) -> usize {
    match per {
        Per::Token => 1,
        Per::KvHead => kv_heads,
    }
}

fn check_attention<T: Element>(
    q: View<'_, T>,
    queries: usize,
    k: View<'_, T>,
    rows: &Ragged,
    score: &AttentionScore,
    out: &[f32],
) -> Result<()> {
    let (q_heads, kv_heads) = (q.layout.heads, k.layout.heads);
    let grouped = kv_heads > 0 && q_heads > 0 && q_heads.is_multiple_of(kv_heads);
    in_range("query heads", q_heads as f64, grouped, "a multiple of the KV heads")?;
    same("channels", q.layout.dim, k.layout.dim)?;
    fits("q", q, queries)?;
    fits("k", k, rows.total())?;
    same("out", outputs(score.per, kv_heads) * rows.total(), out.len())?;
    in_range("scale", score.scale.into(), score.scale.is_finite(), "finite")?;
    if let QueryWeights::Ramp { first, last } = score.query_weights {
        in_range("first weight", first.into(), first.is_finite() && first >= 0.0, "0 or more")?;
        in_range("last weight", last.into(), last.is_finite() && last > 0.0, "above 0")?;
    }
    score.pool.as_ref().map_or(Ok(()), check_pool)
}

fn check_pool(pool: &Pool) -> Result<()> {
    let right = pool.width % 2 == 1 && pool.width <= 33;
    in_range("pool width", pool.width as f64, right, "odd and in 1..=33")
}
