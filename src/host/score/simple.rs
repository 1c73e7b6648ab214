//! Scores that need no query: key norms, random, position; and pooling.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::check_rows;
use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::host::simd;
use crate::layout::View;
use crate::ragged::Ragged;
use crate::score::{Per, Pool, PoolKind};

/// Tokens that one task takes.
const TOKENS: usize = 256;

/// Minus the Euclidean norm of each key: keys of low norm draw attention (Devoto et al.,
/// arXiv 2406.11430; kvpress `KnormPress`).
///
/// `out` is `[tokens]` for [`Per::Token`], the mean over the KV heads, or `[kv_heads, tokens]` for
/// [`Per::KvHead`]; its length says how many tokens of `k` there are.
///
/// # Errors
/// [`Error::OutOfRange`] if `k` has no heads; [`Error::LengthMismatch`] if `out` is no whole number
/// of tokens or `k` is shorter than its layout asks for.
pub fn keynorm<T: Element>(k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
    let heads = k.layout.heads;
    if heads == 0 {
        return Err(Error::OutOfRange { what: "KV heads", value: 0.0, expected: "at least 1" });
    }
    let tokens = match per {
        Per::Token => out.len(),
        Per::KvHead => out.len() / heads,
    };
    if per == Per::KvHead {
        check_len("out", tokens * heads, out.len())?;
    }
    k.layout.check("k", tokens, k.data.len())?;

    let score = |heads: Range<usize>, out: &mut [f32]| {
        let factor = -1.0 / heads.len() as f32;
        out.par_chunks_mut(TOKENS).enumerate().for_each(|(chunk, out)| {
            let (heads, first) = (heads.clone(), chunk * TOKENS);
            simd::arch().dispatch(Norms { k, heads, first, factor, out });
        });
    };
    match per {
        Per::Token => score(0..heads, out),
        Per::KvHead => out
            .par_chunks_mut(tokens.max(1))
            .enumerate()
            .for_each(|(head, out)| score(head..head + 1, out)),
    }
    Ok(())
}

/// A uniform number in `[0, 1)` for every token: a hash of the seed and the token's position alone,
/// so a token scores the same whatever its batch and whatever was dropped before. The baseline that
/// every other score must beat.
///
/// # Errors
/// [`Error::LengthMismatch`] if `out` is not as long as `positions`.
pub fn random(seed: u64, positions: &[i32], out: &mut [f32]) -> Result<()> {
    check_len("out", positions.len(), out.len())?;
    let seed = splitmix64(seed);
    for (out, &position) in out.iter_mut().zip(positions) {
        let bits = splitmix64(seed ^ u64::from(position.cast_unsigned()));
        *out = (bits >> 40) as f32 / (1u32 << 24) as f32;
    }
    Ok(())
}

/// A token's index in its sequence: later is higher. With sinks protected this keeps "sinks and
/// recent tokens" (StreamingLLM, arXiv 2309.17453). Past 2^24 tokens neighbours round to one score.
///
/// # Errors
/// [`Error::LengthMismatch`] if `out` is not `[total]`.
pub fn position(rows: &Ragged, out: &mut [f32]) -> Result<()> {
    check_len("out", rows.total(), out.len())?;
    for span in rows.spans() {
        for (index, out) in out[span.range()].iter_mut().enumerate() {
            *out = index as f32;
        }
    }
    Ok(())
}

/// Pools scores along tokens, inside each sequence: token `t` gets the average or the maximum over
/// the tokens `t - width/2 ..= t + width/2` that exist, so edges see fewer. Selection then keeps
/// runs of tokens rather than lone ones (SnapKV, arXiv 2404.14469).
///
/// `scores` and `out` are `[total]`, or `[heads, total]` for any number of heads. A NaN spreads to
/// every token that sees it.
///
/// # Errors
/// [`Error::OutOfRange`] if the width is even or not in 1..=33; [`Error::LengthMismatch`] if
/// `scores` is no whole number of rows or `out` is not as long.
pub fn pool(scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
    pool.check()?;
    check_rows(scores, rows, out)?;
    let total = rows.total().max(1);
    for (scores, out) in scores.chunks_exact(total).zip(out.chunks_exact_mut(total)) {
        for span in rows.spans() {
            pool_sequence(&scores[span.range()], pool, &mut out[span.range()]);
        }
    }
    Ok(())
}

/// `out[i]` = `factor` times the sum of the norms of token `first + i` over some heads.
struct Norms<'a, T> {
    k: View<'a, T>,
    heads: Range<usize>,
    first: usize,
    factor: f32,
    out: &'a mut [f32],
}

impl<T: Element> WithSimd for Norms<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut wide = vec![0f32; self.k.layout.dim];
        for (token, out) in (self.first..).zip(self.out) {
            let mut sum = 0.0;
            for head in self.heads.clone() {
                let key = self.k.row(token, head);
                let key = T::as_f32(key).unwrap_or_else(|| {
                    T::widen(key, &mut wide);
                    &wide
                });
                sum += simd::dot(simd, key, key).sqrt();
            }
            *out = sum * self.factor;
        }
    }
}

/// Offset by offset over whole slices, which vectorises; each token still adds its neighbours in
/// ascending order.
fn pool_sequence(scores: &[f32], pool: &Pool, out: &mut [f32]) {
    let len = scores.len();
    let reach = (pool.width / 2).min(len.saturating_sub(1));
    // Neighbour `shift - reach` of every token that has it.
    let neighbours = |shift: usize| {
        let (skip, lead) = (reach.saturating_sub(shift), shift.saturating_sub(reach));
        (skip..len - lead, lead..len - skip)
    };
    match pool.kind {
        PoolKind::Average => {
            out.fill(0.0);
            for (to, from) in (0..=2 * reach).map(neighbours) {
                out[to].iter_mut().zip(&scores[from]).for_each(|(out, score)| *out += score);
            }
            for (token, out) in out.iter_mut().enumerate() {
                *out /= (token.min(reach) + 1 + (len - 1 - token).min(reach)) as f32;
            }
        }
        PoolKind::Max => {
            out.fill(f32::NEG_INFINITY);
            for (to, from) in (0..=2 * reach).map(neighbours) {
                out[to].iter_mut().zip(&scores[from]).for_each(|(out, &score)| {
                    *out = super::maximum(*out, score);
                });
            }
        }
    }
}

/// One step of Vigna's SplitMix64.
fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::layout::Layout;

    fn sample(len: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; len];
        random(seed, &(0..len as i32).collect::<Vec<_>>(), &mut out).unwrap();
        out.iter().map(|x| 4.0 * x - 2.0).collect()
    }

    #[test]
    fn pooling_equals_the_definition_on_every_width() {
        let rows = Ragged::from_lens(&[7, 0, 1, 40, 2]).unwrap();
        let total = rows.total();
        let scores = sample(2 * total, 3);
        for width in (1..=33).step_by(2) {
            for kind in [PoolKind::Average, PoolKind::Max] {
                let mut out = vec![f32::NAN; scores.len()];
                pool(&scores, &rows, &Pool { kind, width }, &mut out).unwrap();
                for head in 0..2 {
                    for span in rows.spans() {
                        for t in span.range() {
                            let lo = t.saturating_sub(width / 2).max(span.start);
                            let hi = (t + width / 2 + 1).min(span.end());
                            let seen = &scores[head * total + lo..head * total + hi];
                            let expected = match kind {
                                PoolKind::Average => seen.iter().sum::<f32>() / seen.len() as f32,
                                PoolKind::Max => seen.iter().copied().fold(f32::MIN, f32::max),
                            };
                            assert_eq!(out[head * total + t], expected, "{kind:?} {width} {t}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pooling_spreads_nan_and_rejects_bad_widths_and_lengths() {
        let rows = Ragged::from_lens(&[5, 2]).unwrap();
        let mut scores = vec![1.0; 7];
        scores[4] = f32::NAN;
        for kind in [PoolKind::Average, PoolKind::Max] {
            let mut out = vec![0.0; 7];
            pool(&scores, &rows, &Pool { kind, width: 3 }, &mut out).unwrap();
            let nan: Vec<bool> = out.iter().map(|x| x.is_nan()).collect();
            assert_eq!(nan, [false, false, false, true, true, false, false]);
            for width in [0, 2, 34, 35] {
                assert!(pool(&scores, &rows, &Pool { kind, width }, &mut out).is_err());
            }
            assert!(pool(&scores, &rows, &Pool { kind, width: 3 }, &mut out[1..]).is_err());
            assert!(pool(&scores[1..], &rows, &Pool { kind, width: 3 }, &mut out[1..]).is_err());
        }
    }

    #[test]
    fn key_norms_follow_the_layout() {
        let (tokens, heads, dim) = (600, 3, 20);
        let values = sample(tokens * heads * dim, 1);
        let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        for layout in [Layout::token_major(heads, dim), Layout::head_major(heads, dim, tokens)] {
            let view = View::new(&wide[..], layout);
            let norm = |token, head| {
                let row: &[f32] = view.row(token, head);
                row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
            };
            let mut per_head = vec![0.0; heads * tokens];
            keynorm(View::new(&narrow[..], layout), Per::KvHead, &mut per_head).unwrap();
            let mut per_token = vec![0.0; tokens];
            keynorm(view, Per::Token, &mut per_token).unwrap();
            for token in 0..tokens {
                let mut mean = 0.0;
                for head in 0..heads {
                    let expected = norm(token, head);
                    mean += expected / heads as f64;
                    let actual = f64::from(per_head[head * tokens + token]);
                    assert!((actual + expected).abs() < 1e-6 * expected);
                }
                assert!((f64::from(per_token[token]) + mean).abs() < 1e-6 * mean);
            }
        }
        let view = View::token_major(&wide[..], heads, dim);
        assert!(keynorm(view, Per::KvHead, &mut vec![0.0; heads * tokens - 1]).is_err());
        assert!(keynorm(view, Per::Token, &mut vec![0.0; tokens + 1]).is_err());
        assert!(keynorm(View::token_major(&wide[..], 0, dim), Per::Token, &mut []).is_err());
        keynorm(view, Per::KvHead, &mut []).unwrap();
    }

    #[test]
    fn random_depends_on_seed_and_position_alone() {
        let mut all = vec![0.0; 10_000];
        random(7, &(0..10_000).collect::<Vec<_>>(), &mut all).unwrap();
        assert!(all.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = all.iter().sum::<f32>() / all.len() as f32;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let mut some = [0.0; 3];
        random(7, &[9_000, 3, -1], &mut some).unwrap();
        assert_eq!(some[..2], [all[9_000], all[3]]);
        let mut other = vec![0.0; 10_000];
        random(8, &(0..10_000).collect::<Vec<_>>(), &mut other).unwrap();
        let same = all.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!(same < 10, "{same}");
        assert!(random(7, &[1], &mut []).is_err());
    }

    #[test]
    fn position_counts_within_each_sequence() {
        let rows = Ragged::from_lens(&[2, 0, 3]).unwrap();
        let mut out = [9.0; 5];
        position(&rows, &mut out).unwrap();
        assert_eq!(out, [0.0, 1.0, 0.0, 1.0, 2.0]);
        assert!(position(&rows, &mut out[1..]).is_err());
    }
}
