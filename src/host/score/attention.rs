//! Scores from attention probabilities: what callers see, and how heads become one. The work is in
//! `strips`.

use rayon::prelude::*;

use super::pool;
use super::strips::{Group, accumulate};
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::layout::View;
use crate::ragged::{Ragged, Span};
use crate::score::{AttentionScore, HeadReduce, Per, check_heads};

/// Attention of each sequence's last query (LazyLLM, arXiv 2407.14057; FastV, arXiv 2403.06764;
/// TOVA, arXiv 2401.06104), as the [module](super) defines.
///
/// `q` holds one row per sequence, `[batch, q_heads, dim]`; an empty sequence's is not read. `k`
/// holds the keys, `[total, kv_heads, dim]`. `out` is `[total]` or `[kv_heads, total]`, see
/// [`Per`].
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::LengthMismatch`] if heads, channels, lengths or parameters do
/// not fit each other.
pub fn last_query<T: Element>(
    q: View<'_, T>,
    k: View<'_, T>,
    rows: &Ragged,
    params: &AttentionScore,
    out: &mut [f32],
) -> Result<()> {
    q.layout.check("q", rows.batch(), q.data.len())?;
    let windows: Vec<Span> =
        rows.lens().enumerate().map(|(start, len)| Span { start, len: len.min(1) }).collect();
    attention(q, &windows, k, rows, params, out)
}

/// Attention of each sequence's last queries (SnapKV, arXiv 2404.14469; PyramidInfer, ACL Findings
/// 2024), as the [module](super) defines.
///
/// Row `j` of `queries.span(i)` is, counted from the end of sequence `i`, the query in the same
/// place; a window without queries scores 0. `q` is `[queries.total(), q_heads, dim]`, `k` and
/// `out` are as in [`last_query`].
///
/// # Errors
/// As for [`last_query`]; also [`Error::OutOfRange`] for a window longer than its sequence.
pub fn window<T: Element>(
    q: View<'_, T>,
    queries: &Ragged,
    k: View<'_, T>,
    rows: &Ragged,
    params: &AttentionScore,
    out: &mut [f32],
) -> Result<()> {
    check_len("sequences of queries", rows.batch(), queries.batch())?;
    q.layout.check("q", queries.total(), q.data.len())?;
    if let Some((window, _)) = queries.lens().zip(rows.lens()).find(|(window, len)| window > len) {
        return Err(Error::OutOfRange {
            what: "queries of a window",
            value: window as f64,
            expected: "at most the rows of its sequence",
        });
    }
    let windows: Vec<Span> = queries.spans().collect();
    attention(q, &windows, k, rows, params, out)
}

/// Attention of every query: exact column sums of causal attention over the number of queries (H2O,
/// arXiv 2306.14048), as the [module](super) defines. The same as a [`window`] of all queries.
///
/// `q` is `[total, q_heads, dim]`, `k` and `out` are as in [`last_query`].
///
/// # Errors
/// As for [`last_query`].
pub fn columns<T: Element>(
    q: View<'_, T>,
    k: View<'_, T>,
    rows: &Ragged,
    params: &AttentionScore,
    out: &mut [f32],
) -> Result<()> {
    window(q, rows, k, rows, params, out)
}

fn attention<T: Element>(
    q: View<'_, T>,
    windows: &[Span],
    k: View<'_, T>,
    rows: &Ragged,
    params: &AttentionScore,
    out: &mut [f32],
) -> Result<()> {
    let (total, heads) = (rows.total(), k.layout.heads);
    params.check()?;
    check_heads(q.layout, k.layout)?;
    k.layout.check("k", total, k.data.len())?;
    let scratch = total.checked_mul(heads).ok_or(Error::Overflow { what: "scores" })?;
    check_len("out", if params.per == Per::Token { total } else { scratch }, out.len())?;

    // [kv_heads, total]: the sum or maximum over each group's query heads.
    let mut grouped = vec![0f32; scratch];
    let mut tasks = Vec::with_capacity(heads * windows.len());
    let mut rest = &mut grouped[..];
    for kv_head in 0..heads {
        for (keys, &queries) in rows.spans().zip(windows) {
            let (out, after) = rest.split_at_mut(keys.len);
            rest = after;
            tasks.push((Group { q, k, kv_head, queries, keys, params }, out));
        }
    }
    tasks.into_par_iter().for_each(|(group, out)| group.reduce_heads(out));

    let mut joined = heads;
    if params.per == Per::Token {
        let (first, others) = grouped.split_at_mut(total);
        for other in others.chunks_exact(total.max(1)) {
            accumulate(params.heads, first, other);
        }
        grouped.truncate(total);
        joined = 1;
    }
    if params.heads == HeadReduce::Mean {
        let heads_joined = q.layout.heads / joined;
        grouped.iter_mut().for_each(|score| *score /= heads_joined as f32);
    }
    match &params.pool {
        Some(params) => pool(&grouped, rows, params, out),
        None => {
            out.copy_from_slice(&grouped);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::random;
    use super::super::strips::KEYS;
    use super::*;
    use crate::layout::Layout;
    use crate::score::{Pool, PoolKind, QueryWeights};

    fn sample(len: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; len];
        random(seed, &(0..len as i32).collect::<Vec<_>>(), &mut out).unwrap();
        out.iter().map(|x| 4.0 * x - 2.0).collect()
    }

    fn params(heads: HeadReduce, per: Per) -> AttentionScore {
        AttentionScore { scale: 0.25, heads, per, pool: None, query_weights: QueryWeights::Uniform }
    }

    /// The module's definition in f64, before pooling.
    fn reference(
        q: View<'_, f32>,
        queries: &Ragged,
        k: View<'_, f32>,
        rows: &Ragged,
        params: &AttentionScore,
    ) -> Vec<f64> {
        let (q_heads, kv_heads) = (q.layout.heads, k.layout.heads);
        let (group, total) = (q_heads / kv_heads, rows.total());
        let mut c = vec![vec![0f64; total]; q_heads];
        for (keys, window) in rows.spans().zip(queries.spans()) {
            let weight = |j: usize| match params.query_weights {
                QueryWeights::Ramp { first, last } if window.len > 1 => {
                    let along = j as f64 / (window.len - 1) as f64;
                    f64::from(first) * (1.0 - along) + f64::from(last) * along
                }
                _ => 1.0,
            };
            let weights: f64 = (0..window.len).map(weight).sum();
            for (head, c) in c.iter_mut().enumerate() {
                for j in 0..window.len {
                    let q = q.row(window.start + j, head);
                    let logits: Vec<f64> = (0..=keys.len - window.len + j)
                        .map(|t| {
                            let k = k.row(keys.start + t, head / group);
                            let dot = |(&q, &k): (&f32, &f32)| f64::from(q) * f64::from(k);
                            f64::from(params.scale) * q.iter().zip(k).map(dot).sum::<f64>()
                        })
                        .collect();
                    let max = logits.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = logits.iter().map(|s| (s - max).exp()).sum();
                    for (c, s) in c[keys.start..].iter_mut().zip(&logits) {
                        *c += weight(j) / weights * (s - max).exp() / sum;
                    }
                }
                let c = &mut c[keys.range()];
                let max = c.iter().copied().fold(0.0, f64::max);
                if params.heads == HeadReduce::MaxNormalised && max > 0.0 {
                    c.iter_mut().for_each(|c| *c /= max);
                }
            }
        }
        let joined = if params.per == Per::Token { q_heads } else { group };
        c.chunks_exact(joined)
            .flat_map(|heads| {
                (0..total).map(|t| {
                    let column = heads.iter().map(|c| c[t]);
                    match params.heads {
                        HeadReduce::Mean => column.sum::<f64>() / joined as f64,
                        _ => column.fold(0.0, f64::max),
                    }
                })
            })
            .collect()
    }

    fn assert_close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (t, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
            let error = (f64::from(actual) - expected).abs();
            // A logit adds up as much as 64 * 2 * 2 * 0.25, rounded; its error is relative here.
            assert!(error <= 1e-5 * expected + 1e-12, "token {t}: {actual} for {expected}");
        }
    }

    const REDUCTIONS: [HeadReduce; 3] =
        [HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised];
    const PERS: [Per; 2] = [Per::Token, Per::KvHead];

    #[test]
    fn windows_follow_the_definition() {
        let rows = Ragged::from_lens(&[5, 0, 1, KEYS + 60, 2 * KEYS, 3]).unwrap();
        let cases: [(usize, usize, usize, &[usize]); 5] = [
            (6, 3, 20, &[1, 0, 1, 1, 1, 1]),
            (9, 3, 64, &[5, 0, 1, 33, 7, 0]),
            (4, 4, 7, &[2, 0, 0, 100, 70, 3]),
            (8, 1, 16, &[3, 0, 1, 13, 2, 2]),
            (100, 2, 4, &[3, 0, 1, 4, 2, 2]),
        ];
        for (q_heads, kv_heads, dim, lens) in cases {
            let queries = Ragged::from_lens(lens).unwrap();
            let q = sample(queries.total() * q_heads * dim, 1);
            let k = sample(rows.total() * kv_heads * dim, 2);
            let q = View::token_major(&q[..], q_heads, dim);
            let k = View::token_major(&k[..], kv_heads, dim);
            for heads in REDUCTIONS {
                for per in PERS {
                    let ramp = QueryWeights::Ramp { first: 0.5, last: 2.0 };
                    for query_weights in [QueryWeights::Uniform, ramp] {
                        let params = AttentionScore { query_weights, ..params(heads, per) };
                        let expected = reference(q, &queries, k, &rows, &params);
                        let mut out = vec![f32::NAN; expected.len()];
                        window(q, &queries, k, &rows, &params, &mut out).unwrap();
                        assert_close(&out, &expected);
                    }
                }
            }
        }
    }

    #[test]
    fn columns_follow_the_definition_for_any_number_of_threads() {
        let rows = Ragged::from_lens(&[2 * KEYS + 50, 0, 17]).unwrap();
        let (q_heads, kv_heads, dim) = (4, 2, 8);
        let q = sample(rows.total() * q_heads * dim, 3);
        let k = sample(rows.total() * kv_heads * dim, 4);
        let q = View::token_major(&q[..], q_heads, dim);
        let k = View::token_major(&k[..], kv_heads, dim);
        for heads in REDUCTIONS {
            for per in PERS {
                let params = params(heads, per);
                let expected = reference(q, &rows, k, &rows, &params);
                let mut before = None;
                for threads in [1, 2, 5] {
                    let pool =
                        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut out = vec![f32::NAN; expected.len()];
                    pool.install(|| columns(q, k, &rows, &params, &mut out)).unwrap();
                    assert_close(&out, &expected);
                    assert_eq!(before.get_or_insert(out.clone()), &out);
                }
            }
        }
    }

    #[test]
    fn a_sequence_scores_the_same_in_any_batch_layout_and_type() {
        let lens = [KEYS + 9, 40];
        let rows = Ragged::from_lens(&lens).unwrap();
        let (q_heads, kv_heads, dim) = (6, 2, 24);
        let q: Vec<bf16> = sample(2 * q_heads * dim, 5).into_iter().map(bf16::from_f32).collect();
        let k: Vec<bf16> =
            sample(rows.total() * kv_heads * dim, 6).into_iter().map(bf16::from_f32).collect();
        let params = params(HeadReduce::Max, Per::KvHead);
        let mut out = vec![f32::NAN; kv_heads * rows.total()];
        let q_view = View::token_major(&q[..], q_heads, dim);
        let k_view = View::token_major(&k[..], kv_heads, dim);
        last_query(q_view, k_view, &rows, &params, &mut out).unwrap();

        for (i, span) in rows.spans().enumerate() {
            // The sequence alone, in f32, with K head-major.
            let mut wide = vec![0f32; span.len * kv_heads * dim];
            for head in 0..kv_heads {
                for t in 0..span.len {
                    let row = &mut wide[(head * span.len + t) * dim..][..dim];
                    bf16::widen(k_view.row(span.start + t, head), row);
                }
            }
            let q: Vec<f32> =
                q[i * q_heads * dim..][..q_heads * dim].iter().map(|x| x.to_f32()).collect();
            let mut alone = vec![f32::NAN; kv_heads * span.len];
            last_query(
                View::token_major(&q[..], q_heads, dim),
                View::new(&wide[..], Layout::head_major(kv_heads, dim, span.len)),
                &Ragged::from_lens(&[span.len]).unwrap(),
                &params,
                &mut alone,
            )
            .unwrap();
            for head in 0..kv_heads {
                let together = &out[head * rows.total()..][span.range()];
                assert_eq!(together, &alone[head * span.len..][..span.len]);
            }
        }
    }

    #[test]
    fn last_query_is_a_window_of_one_and_pools_last() {
        let rows = Ragged::from_lens(&[30, 0, 4]).unwrap();
        let q: Vec<f16> = sample(3 * 2 * 8, 7).into_iter().map(f16::from_f32).collect();
        let k: Vec<f16> = sample(34 * 8, 8).into_iter().map(f16::from_f32).collect();
        let k = View::token_major(&k[..], 1, 8);
        let plain = params(HeadReduce::Mean, Per::Token);
        let mut out = vec![f32::NAN; 34];
        last_query(View::token_major(&q[..], 2, 8), k, &rows, &plain, &mut out).unwrap();
        let sums = [&out[..30], &out[30..]].map(|scores| scores.iter().sum::<f32>());
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{sums:?}");

        // The empty sequence's query is row 1; a window leaves it out.
        let (first, last) = (&q[..16], &q[32..]);
        let two = [first, last].concat();
        let queries = Ragged::from_lens(&[1, 0, 1]).unwrap();
        let mut windowed = vec![f32::NAN; 34];
        let q_two = View::token_major(&two[..], 2, 8);
        window(q_two, &queries, k, &rows, &plain, &mut windowed).unwrap();
        assert_eq!(out, windowed);

        let pooling = Pool { kind: PoolKind::Max, width: 9 };
        let mut expected = vec![f32::NAN; 34];
        pool(&out, &rows, &pooling, &mut expected).unwrap();
        let pooled = AttentionScore { pool: Some(pooling), ..plain };
        window(q_two, &queries, k, &rows, &pooled, &mut windowed).unwrap();
        assert_eq!(windowed, expected);
    }

    #[test]
    fn nan_shows_and_extreme_logits_do_not_overflow() {
        let rows = Ragged::from_lens(&[10, 10]).unwrap();
        let q = [1f32; 2 * 4];
        let mut k = vec![0f32; 20 * 4];
        k[3 * 4] = 1e30;
        k[13 * 4 + 1] = f32::NAN;
        let q = View::token_major(&q[..], 1, 4);
        let k = View::token_major(&k[..], 1, 4);
        for heads in REDUCTIONS {
            let mut out = vec![0.0; 20];
            last_query(q, k, &rows, &params(heads, Per::Token), &mut out).unwrap();
            let mut one = [0.0; 10];
            one[3] = 1.0;
            assert_eq!(out[..10], one);
            assert!(out[10..].iter().all(|x| x.is_nan()), "{out:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = vec![0f32; 1000];
        let rows = Ragged::from_lens(&[5, 3]).unwrap();
        let view = |heads, dim| View::token_major(&data[..], heads, dim);
        let good = params(HeadReduce::Mean, Per::Token);
        let run = |q: View<'_, f32>, k: View<'_, f32>, params: AttentionScore, len: usize| {
            last_query(q, k, &rows, &params, &mut vec![0.0; len])
        };
        run(view(4, 8), view(2, 8), good, 8).unwrap();
        run(view(4, 8), view(2, 8), AttentionScore { per: Per::KvHead, ..good }, 16).unwrap();
        assert!(run(view(4, 8), view(2, 8), good, 16).is_err());
        assert!(run(view(3, 8), view(2, 8), good, 8).is_err());
        assert!(run(view(0, 8), view(2, 8), good, 8).is_err());
        assert!(run(view(4, 8), view(0, 8), good, 8).is_err());
        assert!(run(view(4, 8), view(2, 9), good, 8).is_err());
        assert!(run(view(4, 0), view(2, 0), good, 8).is_err());
        assert!(run(view(4, 200), view(2, 200), good, 8).is_err());
        for scale in [f32::NAN, f32::INFINITY] {
            assert!(run(view(4, 8), view(2, 8), AttentionScore { scale, ..good }, 8).is_err());
        }
        for (first, last) in [(0.0, 0.0), (-1.0, 1.0), (1.0, f32::NAN), (f32::INFINITY, 1.0)] {
            let query_weights = QueryWeights::Ramp { first, last };
            let params = AttentionScore { query_weights, ..good };
            assert!(run(view(4, 8), view(2, 8), params, 8).is_err());
        }
        let pool = Some(Pool { kind: PoolKind::Average, width: 4 });
        assert!(run(view(4, 8), view(2, 8), AttentionScore { pool, ..good }, 8).is_err());

        let windowed = |lens: &[usize]| {
            let queries = Ragged::from_lens(lens).unwrap();
            window(view(4, 8), &queries, view(2, 8), &rows, &good, &mut [0.0; 8])
        };
        windowed(&[5, 3]).unwrap();
        assert!(windowed(&[5, 4]).is_err());
        assert!(windowed(&[5]).is_err());

        let empty = Ragged::from_lens(&[0, 0]).unwrap();
        columns(view(4, 8), view(2, 8), &empty, &good, &mut []).unwrap();
    }
}
