//! Expected attention.

use salient::score::{ExpectedAttention, Per, QueryStatistics};
use salient::{Element, Error, Ragged, Result, View};

use super::{outputs, write};
use crate::Oracle;
use crate::check::{fits, in_range, same};
use crate::implementation::ScoreExpected;
use crate::real::{Real, dot, real};

/// Attention that queries of known statistics are expected to pay, weighed by the norms of values.
pub fn expected<R: Real, T: Element>(
    k: View<'_, T>,
    v: Option<View<'_, T>>,
    rows: &Ragged,
    statistics: &[QueryStatistics],
    options: &ExpectedAttention,
) -> Vec<R> {
    let (total, heads) = (rows.total(), k.layout.heads);
    let mut scores = vec![R::of(0.0); heads * total];
    for (sequence, span) in rows.spans().enumerate() {
        let statistics = &statistics[if statistics.len() == 1 { 0 } else { sequence }];
        let group = statistics.heads() / heads;
        let sinks = options.sinks.min(span.len);
        for head in 0..heads {
            let mut attention = vec![R::of(0.0); span.len];
            for q_head in head * group..(head + 1) * group {
                let logits: Vec<R> = (span.start + sinks..span.end())
                    .map(|token| logit(k.row(token, head), statistics, q_head, options.scale))
                    .collect();
                let Some(largest) = logits.iter().copied().reduce(R::maximum) else { continue };
                let numerators: Vec<R> = logits.iter().map(|&l| (l - largest).exp()).collect();
                let sum: R = numerators.iter().copied().sum();
                for (attention, numerator) in attention[sinks..].iter_mut().zip(numerators) {
                    *attention += numerator / sum;
                }
            }
            for (i, attention) in attention.into_iter().enumerate() {
                let token = span.start + i;
                let norm = v.map_or(R::of(1.0), |v| {
                    dot::<R, T>(v.row(token, head), v.row(token, head)).sqrt()
                });
                let mean = attention / R::of(group as f64);
                scores[head * total + token] = (mean + R::of(options.epsilon.into())) * norm;
            }
        }
    }
    match options.per {
        Per::KvHead => scores,
        Per::Token => (0..total)
            .map(|token| {
                let each = (0..heads).map(|head| scores[head * total + token]);
                each.sum::<R>() / R::of(heads as f64)
            })
            .collect(),
    }
}

/// The log of what exp(scale * q . key) is on average, or NaN for a key that is not finite.
fn logit<R: Real, T: Element>(
    key: &[T],
    statistics: &QueryStatistics,
    head: usize,
    scale: f32,
) -> R {
    if key.iter().any(|x| !x.to_f32().is_finite()) {
        return R::of(f64::NAN);
    }
    let (dim, scale) = (key.len(), R::of(scale.into()));
    let key: Vec<R> = key.iter().map(|&x| real(x)).collect();
    let with_key = |row: &[f32]| -> R {
        R::sum_of_products(row.iter().zip(&key).map(|(&s, &x)| (R::of(s.into()), x)))
    };
    let mean = with_key(&statistics.mean()[head * dim..][..dim]);
    let Some(covariance) = statistics.covariance() else { return scale * mean };
    let rows = covariance[head * dim * dim..][..dim * dim].chunks_exact(dim);
    let form: R = rows.zip(&key).map(|(row, &x)| with_key(row) * x).sum();
    scale * mean + scale * scale / R::of(2.0) * form
}

impl ScoreExpected for Oracle {
    fn expected<T: Element>(
        &self,
        k: View<'_, T>,
        v: Option<View<'_, T>>,
        rows: &Ragged,
        statistics: &[QueryStatistics],
        options: &ExpectedAttention,
        out: &mut [f32],
    ) -> Result<()> {
        let heads = k.layout.heads;
        in_range("scale", options.scale.into(), options.scale.is_finite(), "finite")?;
        in_range("epsilon", options.epsilon.into(), options.epsilon.is_finite(), "finite")?;
        in_range("heads", 0.0, heads > 0, "at least 1")?;
        if statistics.len() != 1 {
            same("statistics", rows.batch().max(1), statistics.len())?;
        }
        for one in statistics {
            let whole = one.heads().is_multiple_of(heads);
            in_range("query heads", one.heads() as f64, whole, "a multiple of the KV heads")?;
            same("query heads", statistics[0].heads(), one.heads())?;
            same("channels", k.layout.dim, one.dim())?;
            if one.covariance().is_some() != statistics[0].covariance().is_some() {
                return Err(Error::Unfit { what: "statistics", expected: "alike" });
            }
        }
        fits("k", k, rows.total())?;
        if let Some(v) = v {
            same("heads of v", heads, v.layout.heads)?;
            fits("v", v, rows.total())?;
        }
        same("out", outputs(options.per, heads) * rows.total(), out.len())?;
        write(out, &expected::<f64, T>(k, v, rows, statistics, options))
    }
}
