//! The SDTP predictor.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::checks::check_len;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::host::simd::{self, Packed};
use crate::score::{Folded, PredictorWeights};

/// Tokens that one task takes: their hidden activations are all that is ever stored.
const TOKENS: usize = 64;

/// The SDTP token-pruning module (arXiv 2504.04514, equation 1):
/// `pi = W2 gelu(W1 norm(x) + b1) + b2`, ready to run.
///
/// - GELU is the exact one, `x * Phi(x)` by way of erf, within `1.5e-7 * max(1, |x|)`.
/// - Two outputs are folded into one row, `pi[0] - pi[1]`: the order of the softmax probability of
///   keeping, without the softmax.
/// - The norm's weight is folded into W1, and the row's `1 / sqrt(mean(x^2) + eps)` scales the
///   product, so the product runs on raw hidden states.
#[derive(Debug, Clone)]
pub struct Predictor {
    hidden: usize,
    width: usize,
    w1: Packed,
    b1: Vec<f32>,
    w2: Vec<f32>,
    b2: f32,
    eps: Option<f32>,
}

impl Predictor {
    /// A predictor for hidden states of `hidden` channels.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `hidden` or the width is 0, there are not 1 or 2 outputs, or
    /// epsilon is negative; [`Error::LengthMismatch`] if a length disagrees with the others;
    /// [`Error::NotFinite`] for NaN or infinity, also where folding makes it.
    pub fn new(hidden: usize, weights: PredictorWeights) -> Result<Self> {
        let Folded { w1, b1, w2, b2, eps } = weights.fold(hidden)?;
        let width = b1.len();
        let w1 = Packed::from_transposed(&w1, width, hidden);
        Ok(Self { hidden, width, w1, b1, w2, b2, eps })
    }

    /// Channels of a hidden state.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Units between the two layers.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Scores a tile of tokens.
    fn score(&self, x: &[f32], out: &mut [f32]) {
        let mut h = vec![0f32; out.len() * self.width];
        simd::matmul_block(x, &self.w1, &mut h);
        simd::arch().dispatch(SecondLayer { predictor: self, x, h: &h, out });
    }
}

/// Scores hidden states `x`, `[tokens, hidden]`, into `out`, `[tokens]`.
///
/// Each token's score depends on its own hidden state alone; a NaN or infinity there makes its
/// score NaN or infinite and touches no other.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` is not `out.len()` tokens.
pub fn mlp<T: Element>(x: &[T], predictor: &Predictor, out: &mut [f32]) -> Result<()> {
    let hidden = predictor.hidden;
    let len = out.len().checked_mul(hidden).ok_or(Error::Overflow { what: "x" })?;
    check_len("x", len, x.len())?;
    x.par_chunks(TOKENS * hidden).zip(out.par_chunks_mut(TOKENS)).for_each(|(x, out)| {
        match T::as_f32(x) {
            Some(x) => predictor.score(x, out),
            None => {
                let mut wide = vec![0f32; x.len()];
                T::widen(x, &mut wide);
                predictor.score(&wide, out);
            }
        }
    });
    Ok(())
}

/// `w2 . gelu(rstd * h + b1) + b2` for every row of h.
struct SecondLayer<'a> {
    predictor: &'a Predictor,
    x: &'a [f32],
    h: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for SecondLayer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Predictor { hidden, width, ref b1, ref w2, b2, eps, .. } = *self.predictor;
        let (b1, b1_tail) = S::as_simd_f32s(b1);
        let (w2, w2_tail) = S::as_simd_f32s(w2);
        let rows = self.x.chunks_exact(hidden).zip(self.h.chunks_exact(width));
        for ((x, h), out) in rows.zip(self.out) {
            let rstd =
                eps.map_or(1.0, |eps| 1.0 / (simd::dot(simd, x, x) / hidden as f32 + eps).sqrt());
            let rstd = simd.splat_f32s(rstd);
            let (h, h_tail) = S::as_simd_f32s(h);
            let mut sum = simd.splat_f32s(0.0);
            for ((&h, &b1), &w2) in h.iter().zip(b1).zip(w2) {
                sum = unit(simd, [rstd, h, b1, w2], sum);
            }
            if !h_tail.is_empty() {
                let load = |tail| simd.partial_load_f32s(tail);
                sum = unit(simd, [rstd, load(h_tail), load(b1_tail), load(w2_tail)], sum);
            }
            *out = simd.reduce_sum_f32s(sum) + b2;
        }
    }
}

/// `sum + w2 * gelu(rstd * h + b1)`.
#[inline(always)]
fn unit<S: Simd>(simd: S, [rstd, h, b1, w2]: [S::f32s; 4], sum: S::f32s) -> S::f32s {
    simd.mul_add_f32s(w2, gelu(simd, simd.mul_add_f32s(rstd, h, b1)), sum)
}

/// `x * Phi(x) = x / 2 + s * g(s)` with `s = x^2`, where `g(s) = (Phi(sqrt(s)) - 1/2) / sqrt(s)` is
/// smooth: a polynomial on `s <= LIMIT`, found by Chebyshev interpolation, in `2 s / LIMIT - 1`.
/// Beyond, `x * Phi(x)` is x or 0 to within 1.1e-7.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LIMIT: f32 = 30.25;
    const G: [f32; 16] = [
        1.285_519_3e-1,
        -6.417_231e-2,
        4.773_779_6e-2,
        -3.879_379_5e-2,
        3.206_722_4e-2,
        -2.603_615e-2,
        2.038_480_7e-2,
        -1.506_252_4e-2,
        1.016_421_2e-2,
        -6.650_678_3e-3,
        4.723_57e-3,
        -2.658_702_4e-3,
        6.399_065e-4,
        -3.567_546e-4,
        6.562_366_6e-4,
        -2.856_763e-4,
    ];
    let s = simd.mul_f32s(x, x);
    let y = simd.mul_add_f32s(s, simd.splat_f32s(2.0 / LIMIT), simd.splat_f32s(-1.0));
    let mut g = simd.splat_f32s(G[15]);
    for &coefficient in G[..15].iter().rev() {
        g = simd.mul_add_f32s(g, y, simd.splat_f32s(coefficient));
    }
    let inside = simd.mul_add_f32s(s, g, simd.mul_f32s(x, simd.splat_f32s(0.5)));
    let outside = simd.max_f32s(x, simd.splat_f32s(0.0));
    let beyond = simd.greater_than_f32s(s, simd.splat_f32s(LIMIT));
    simd.select_f32s(beyond, outside, inside)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    struct Gelu<'a>(&'a mut [f32]);

    impl WithSimd for Gelu<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, tail) = S::as_mut_simd_f32s(self.0);
            vectors.iter_mut().for_each(|x| *x = gelu(simd, *x));
            let x = gelu(simd, simd.partial_load_f32s(tail));
            simd.partial_store_f32s(tail, x);
        }
    }

    /// By a series of positive terms, so nothing cancels: Phi(x) - 1/2 =
    /// density(x) * (x + x^3 / 3 + x^5 / (3 * 5) + ...).
    fn exact_gelu(x: f64) -> f64 {
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs() {
            odd += 2.0;
            term *= x * x / odd;
            sum += term;
        }
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        x * (0.5 + density * sum)
    }

    #[test]
    fn gelu_keeps_its_stated_error() {
        let points: Vec<f32> = (-120_001..=120_001).map(|i| i as f32 / 10_000.0).collect();
        let mut actual = points.clone();
        simd::arch().dispatch(Gelu(&mut actual));
        for (&x, &actual) in points.iter().zip(&actual) {
            let x = f64::from(x);
            let error = (f64::from(actual) - exact_gelu(x)).abs();
            assert!(error <= 1.5e-7 * x.abs().max(1.0), "gelu({x}): error {error:e}");
        }
        let mut edges = [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN];
        simd::arch().dispatch(Gelu(&mut edges));
        assert_eq!(edges[..5], [f32::MAX, 0.0, f32::INFINITY, 0.0, 0.0]);
        assert!(edges[5].is_nan());
    }

    fn sample(len: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; len];
        let positions: Vec<i32> = (0..len as i32).collect();
        super::super::random(seed, &positions, &mut out).unwrap();
        out.iter().map(|x| 2.0 * x - 1.0).collect()
    }

    fn weights(hidden: usize, width: usize, outputs: usize, norm: bool) -> PredictorWeights {
        PredictorWeights {
            w1: sample(width * hidden, 1),
            b1: sample(width, 2),
            w2: sample(outputs * width, 3),
            b2: sample(outputs, 4),
            norm: norm.then(|| (sample(hidden, 5), 1e-5)),
        }
    }

    /// Equation 1 in f64, and the sum of its terms' magnitudes.
    fn reference(x: &[f32], w: &PredictorWeights) -> (f64, f64) {
        let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let mut x = wide(x);
        if let Some((weight, eps)) = &w.norm {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let rstd = 1.0 / (mean + f64::from(*eps)).sqrt();
            x.iter_mut().zip(weight).for_each(|(x, &gamma)| *x *= rstd * f64::from(gamma));
        }
        let (width, hidden) = (w.b1.len(), x.len());
        let (mut pi, mut size) = (wide(&w.b2), 1.0);
        for unit in 0..width {
            let row = &w.w1[unit * hidden..][..hidden];
            let products = row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x);
            let h = products.clone().sum::<f64>() + f64::from(w.b1[unit]);
            let h_size = products.map(f64::abs).sum::<f64>() + 1.0;
            for (output, pi) in pi.iter_mut().enumerate() {
                let w2 = f64::from(w.w2[output * width + unit]);
                *pi += w2 * exact_gelu(h);
                size += w2.abs() * h_size;
            }
        }
        (if pi.len() == 2 { pi[0] - pi[1] } else { pi[0] }, size)
    }

    #[test]
    fn scores_follow_equation_1() {
        for (hidden, width) in [(1, 1), (7, 5), (64, 16), (130, 37), (576, 144)] {
            for (outputs, norm) in [(1, false), (1, true), (2, false), (2, true)] {
                let w = weights(hidden, width, outputs, norm);
                let predictor = Predictor::new(hidden, w.clone()).unwrap();
                assert_eq!((predictor.hidden(), predictor.width()), (hidden, width));
                for tokens in [0, 1, 2, TOKENS - 1, TOKENS, TOKENS + 3] {
                    let x: Vec<f16> =
                        sample(tokens * hidden, 6).iter().map(|&x| f16::from_f32(x)).collect();
                    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                    let mut out = vec![f32::NAN; tokens];
                    mlp(&x, &predictor, &mut out).unwrap();
                    for (x, &actual) in wide.chunks_exact(hidden).zip(&out) {
                        let (expected, size) = reference(x, &w);
                        let error = (f64::from(actual) - expected).abs();
                        assert!(error < 5e-7 * size, "{hidden} {width}: {error:e} of {size}");
                    }
                    let mut again = vec![f32::NAN; tokens];
                    mlp(&wide, &predictor, &mut again).unwrap();
                    assert_eq!(out, again);
                }
            }
        }
    }

    #[test]
    fn a_token_scores_the_same_in_any_batch() {
        let predictor = Predictor::new(40, weights(40, 20, 1, true)).unwrap();
        let mut x = sample(200 * 40, 8);
        x[40 * 150] = f32::NAN;
        let mut together = vec![0.0; 200];
        mlp(&x, &predictor, &mut together).unwrap();
        for (token, x) in x.chunks_exact(40).enumerate() {
            let mut alone = [0.0];
            mlp(x, &predictor, &mut alone).unwrap();
            assert_eq!(alone[0].to_bits(), together[token].to_bits());
            assert_eq!(alone[0].is_nan(), token == 150);
        }
    }

    #[test]
    fn bad_weights_are_refused() {
        let good = || weights(8, 4, 2, true);
        let build = |change: fn(&mut PredictorWeights)| {
            let mut w = good();
            change(&mut w);
            Predictor::new(8, w).map(|_| ()).unwrap_err()
        };
        let not_finite = |what, index| Error::NotFinite { what, index };
        assert_eq!(build(|w| w.w1[9] = f32::NAN), not_finite("predictor w1", 9));
        assert_eq!(build(|w| w.b1[3] = f32::INFINITY), not_finite("predictor b1", 3));
        assert_eq!(build(|w| w.w2[1] = f32::NAN), not_finite("predictor w2", 1));
        assert_eq!(build(|w| w.b2[1] = f32::NAN), not_finite("predictor b2", 0));
        assert_eq!(
            build(|w| w.norm.as_mut().unwrap().0[2] = f32::NAN),
            not_finite("predictor norm", 2)
        );
        let out_of_range = |e| matches!(e, Error::OutOfRange { .. });
        assert!(out_of_range(build(|w| w.norm.as_mut().unwrap().1 = -1e-5)));
        assert!(out_of_range(build(|w| w.b2.push(0.0))));
        assert!(out_of_range(build(|w| w.b2.clear())));
        let mismatch = |e| matches!(e, Error::LengthMismatch { .. });
        assert!(mismatch(build(|w| w.w1.truncate(31))));
        assert!(mismatch(build(|w| w.w2.truncate(7))));
        assert!(mismatch(build(|w| w.norm.as_mut().unwrap().0.truncate(7))));
        assert!(out_of_range(Predictor::new(0, weights(0, 4, 1, false)).unwrap_err()));
        assert!(out_of_range(Predictor::new(8, weights(8, 0, 1, false)).unwrap_err()));

        let predictor = Predictor::new(8, good()).unwrap();
        assert!(mlp(&[0f32; 9], &predictor, &mut [0.0]).is_err());
    }
}
