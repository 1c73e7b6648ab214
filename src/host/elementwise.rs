//! The element-wise steps between a model's matrix products, at the verbs' speed: RMSNorm, rotary
//! embedding, SwiGLU and residual addition, multi-threaded over rows.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::simd;
use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::layout::Layout;

/// Elements that one task works on at least; less is not worth a thread.
const GRAIN: usize = 16 * 1024;

/// `out = x / rms(x) * weight` for every row of `x`, `[rows, width]` with `width = weight.len()`;
/// `rms(x) = sqrt(mean(x^2) + eps)` (arXiv 1910.07467).
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` is not whole rows or `out` has another length.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    let width = weight.len();
    check_rows("RMSNorm input", x.len(), width)?;
    check_len("RMSNorm output", x.len(), out.len())?;
    by_rows(out, width, |first, out| {
        let x = &x[first * width..][..out.len()];
        simd::arch().dispatch(RmsNorm { x, weight, eps, out });
    });
    Ok(())
}

/// RMSNorm of every head of every token, in place: `data` is `[tokens, heads, dim]` by `layout`,
/// token-major, `weight` is `[dim]`.
///
/// # Errors
/// [`Error::LengthMismatch`] if `weight` is not as long as a head.
pub fn rms_norm_heads(data: &mut [f32], layout: Layout, weight: &[f32], eps: f32) -> Result<()> {
    check_len("head RMSNorm weight", layout.dim, weight.len())?;
    by_token(data, layout, |_, heads| {
        for head in 0..layout.heads {
            let row = &mut heads[head * layout.head_stride..][..layout.dim];
            simd::arch().dispatch(RmsNormInPlace { row, weight, eps });
        }
    })
}

/// Rotates every head of every token to the token's position, in place (arXiv 2104.09864, channels
/// `i` and `i + dim / 2` paired): `data` is `[tokens, heads, dim]` by `layout`, token-major, `cos`
/// and `sin` are tables `[positions, dim / 2]`.
///
/// # Errors
/// [`Error::LengthMismatch`] if the tables differ or `data` does not hold `positions.len()` tokens,
/// [`Error::IndexOutOfBounds`] if a position is not in the tables.
pub fn rotate(
    data: &mut [f32],
    layout: Layout,
    positions: &[i32],
    cos: &[f32],
    sin: &[f32],
) -> Result<()> {
    let half = layout.dim / 2;
    check_len("sine table", cos.len(), sin.len())?;
    layout.check("heads to rotate", positions.len(), data.len())?;
    let limit = cos.len() / half.max(1);
    if let Some(&index) = positions.iter().find(|&&p| p < 0 || p as usize >= limit) {
        return Err(Error::IndexOutOfBounds { what: "positions", index: index.into(), limit });
    }
    by_token(data, layout, |token, heads| {
        let row = positions[token] as usize * half..(positions[token] as usize + 1) * half;
        let (cos, sin) = (&cos[row.clone()], &sin[row]);
        simd::arch().dispatch(Rotate { heads, layout, cos, sin });
    })
}

/// `out = silu(gate) * up`: rows of `gate_up` are `[gate, up]`, `width` each (arXiv 2002.05202).
///
/// # Errors
/// [`Error::LengthMismatch`] if `gate_up` is not whole rows or `out` has another length.
pub fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) -> Result<()> {
    check_rows("SwiGLU input", gate_up.len(), 2 * width)?;
    check_len("SwiGLU output", gate_up.len() / 2, out.len())?;
    by_rows(out, width, |first, out| {
        let gate_up = &gate_up[first * 2 * width..][..2 * out.len()];
        simd::arch().dispatch(Swiglu { gate_up, width, out });
    });
    Ok(())
}

/// `x += y`.
///
/// # Errors
/// [`Error::LengthMismatch`] if the lengths differ.
pub fn add_assign(x: &mut [f32], y: &[f32]) -> Result<()> {
    check_len("addend", x.len(), y.len())?;
    x.par_chunks_mut(GRAIN).zip(y.par_chunks(GRAIN)).for_each(|(x, y)| {
        simd::arch().dispatch(AddAssign { x, y });
    });
    Ok(())
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl WithSimd for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            out.copy_from_slice(x);
            normalise(simd, out, self.weight, self.eps);
        }
    }
}

struct RmsNormInPlace<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl WithSimd for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        normalise(simd, self.row, self.weight, self.eps);
    }
}

#[inline(always)]
fn normalise<S: Simd>(simd: S, row: &mut [f32], weight: &[f32], eps: f32) {
    let mean = simd::dot(simd, row, row) / row.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    let factor = simd.splat_f32s(scale);
    let (head, tail) = S::as_mut_simd_f32s(row);
    let (weight_head, weight_tail) = S::as_simd_f32s(weight);
    for (x, &w) in head.iter_mut().zip(weight_head) {
        *x = simd.mul_f32s(simd.mul_f32s(*x, factor), w);
    }
    for (x, &w) in tail.iter_mut().zip(weight_tail) {
        *x = *x * scale * w;
    }
}

struct Rotate<'a> {
    heads: &'a mut [f32],
    layout: Layout,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (cos_head, cos_tail) = S::as_simd_f32s(self.cos);
        let (sin_head, sin_tail) = S::as_simd_f32s(self.sin);
        for head in 0..self.layout.heads {
            let row = &mut self.heads[head * self.layout.head_stride..][..self.layout.dim];
            let (low, high) = row.split_at_mut(self.cos.len());
            let (low_head, low_tail) = S::as_mut_simd_f32s(low);
            let (high_head, high_tail) = S::as_mut_simd_f32s(&mut high[..self.cos.len()]);
            let angles = cos_head.iter().zip(sin_head);
            for ((x, y), (&c, &s)) in low_head.iter_mut().zip(high_head).zip(angles) {
                let (a, b) = (*x, *y);
                *x = simd.sub_f32s(simd.mul_f32s(a, c), simd.mul_f32s(b, s));
                *y = simd.mul_add_f32s(b, c, simd.mul_f32s(a, s));
            }
            let angles = cos_tail.iter().zip(sin_tail);
            for ((x, y), (c, s)) in low_tail.iter_mut().zip(high_tail).zip(angles) {
                (*x, *y) = (*x * c - *y * s, *y * c + *x * s);
            }
        }
    }
}

struct Swiglu<'a> {
    gate_up: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl WithSimd for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.gate_up.chunks_exact(2 * self.width);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            let (gate, up) = row.split_at(self.width);
            let (gate_head, gate_tail) = S::as_simd_f32s(gate);
            let (up_head, up_tail) = S::as_simd_f32s(up);
            let (out_head, out_tail) = S::as_mut_simd_f32s(out);
            for ((&gate, &up), out) in gate_head.iter().zip(up_head).zip(out_head) {
                *out = silu_times(simd, gate, up);
            }
            let gate = simd.partial_load_f32s(gate_tail);
            let tail = silu_times(simd, gate, simd.partial_load_f32s(up_tail));
            simd.partial_store_f32s(out_tail, tail);
        }
    }
}

/// A function and not a closure: only what is inlined is compiled for the vector unit.
#[inline(always)]
fn silu_times<S: Simd>(simd: S, gate: S::f32s, up: S::f32s) -> S::f32s {
    let e = simd::exp(simd, simd.neg_f32s(gate));
    simd.div_f32s(simd.mul_f32s(gate, up), simd.add_f32s(simd.splat_f32s(1.0), e))
}

struct AddAssign<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl WithSimd for AddAssign<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd::axpy(simd, 1.0, self.y, self.x);
    }
}

fn check_rows(what: &'static str, len: usize, width: usize) -> Result<()> {
    if width == 0 {
        return check_len(what, 0, len);
    }
    check_len(what, len.next_multiple_of(width), len)
}

/// Runs `work(first row, rows)` on pieces of `out` in parallel.
fn by_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.is_empty() {
        return;
    }
    let rows = (GRAIN / width).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(i, out)| work(i * rows, out));
}

/// Runs `work(token, its heads)` on every token in parallel.
fn by_token(
    data: &mut [f32],
    layout: Layout,
    work: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<()> {
    let extent = layout.required_len(1).ok_or(Error::Overflow { what: "heads of a token" })?;
    if layout.token_stride < extent {
        return Err(Error::OutOfRange {
            what: "token stride",
            value: layout.token_stride as f64,
            expected: "no less than the heads of a token reach",
        });
    }
    if extent == 0 {
        return Ok(());
    }
    let grain = (GRAIN / extent).max(1);
    // What lies behind the last token's heads may be shorter than a stride, or than the heads.
    data.par_chunks_mut(layout.token_stride * grain).enumerate().for_each(|(i, tokens)| {
        for (j, heads) in tokens.chunks_mut(layout.token_stride).enumerate() {
            if heads.len() >= extent {
                work(i * grain + j, heads);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(len)
        .collect()
    }

    fn close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!((f64::from(*a) - e).abs() <= 1e-6 * e.abs().max(1.0), "{i}: {a} against {e}");
        }
    }

    #[test]
    fn rms_norm_equals_its_formula() {
        for (rows, width) in [(0, 5), (1, 1), (3, 17), (40, 576), (700, 64)] {
            let (x, weight) = (noise(rows * width, 1), noise(width, 2));
            let mut out = vec![f32::NAN; x.len()];
            rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
            let expected: Vec<f64> = x
                .chunks(width)
                .flat_map(|row| {
                    let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
                    let rms = (squares / width as f64 + 1e-5).sqrt();
                    row.iter().zip(&weight).map(move |(&v, &w)| f64::from(v) / rms * f64::from(w))
                })
                .collect();
            close(&out, &expected);
        }
        assert!(rms_norm(&[1.0; 5], &[1.0; 2], 1e-5, &mut [0.0; 5]).is_err());
    }

    #[test]
    fn swiglu_equals_its_formula() {
        for (rows, width) in [(0, 3), (1, 1), (5, 33), (30, 1536)] {
            let x: Vec<f32> = noise(rows * 2 * width, 3).iter().map(|v| v * 20.0).collect();
            let mut out = vec![f32::NAN; rows * width];
            swiglu(&x, width, &mut out).unwrap();
            let expected: Vec<f64> = x
                .chunks(2 * width)
                .flat_map(|row| {
                    (0..width).map(|i| {
                        let (gate, up) = (f64::from(row[i]), f64::from(row[width + i]));
                        gate / (1.0 + (-gate).exp()) * up
                    })
                })
                .collect();
            for (a, e) in out.iter().zip(&expected) {
                assert!((f64::from(*a) - e).abs() <= 1e-6 * e.abs().max(1.0), "{a} against {e}");
            }
        }
    }

    #[test]
    fn rotation_keeps_what_lies_between_heads_and_norms() {
        let (heads, dim, tokens, stride) = (3, 10, 400, 50);
        let layout = Layout { heads, dim, token_stride: stride, head_stride: 12 };
        let half = dim / 2;
        let angles: Vec<f32> = (0..1000 * half).map(|i| i as f32 * 0.37).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let positions: Vec<i32> = (0..tokens as i32).map(|t| t * 2 + 1).collect();
        let before = noise(tokens * stride, 4);
        let mut after = before.clone();
        rotate(&mut after, layout, &positions, &cos, &sin).unwrap();
        let mut expected: Vec<f64> = before.iter().map(|&v| v.into()).collect();
        for (token, &position) in positions.iter().enumerate() {
            for head in 0..heads {
                for i in 0..half {
                    let at = layout.offset(token, head) + i;
                    let row = position as usize * half + i;
                    let (c, s) = (f64::from(cos[row]), f64::from(sin[row]));
                    let (a, b) = (f64::from(before[at]), f64::from(before[at + half]));
                    expected[at] = a * c - b * s;
                    expected[at + half] = b * c + a * s;
                }
            }
        }
        close(&after, &expected);
        assert!(rotate(&mut after, layout, &[1000; 400], &cos, &sin).is_err());
    }

    #[test]
    fn heads_are_normalised_one_by_one() {
        let layout = Layout { heads: 2, dim: 3, token_stride: 7, head_stride: 3 };
        let before = noise(21, 5);
        let weight = [0.5, 1.0, 2.0];
        let mut after = before.clone();
        rms_norm_heads(&mut after, layout, &weight, 1e-6).unwrap();
        for token in 0..3 {
            for head in 0..2 {
                let row = layout.offset(token, head)..layout.offset(token, head) + 3;
                let mut expected = [0.0; 3];
                rms_norm(&before[row.clone()], &weight, 1e-6, &mut expected).unwrap();
                assert_eq!(after[row], expected);
            }
            assert_eq!(after[token * 7 + 6], before[token * 7 + 6]);
        }
    }

    #[test]
    fn addition_covers_every_piece() {
        let mut x = noise(3 * GRAIN + 5, 6);
        let y = noise(x.len(), 7);
        let expected: Vec<f32> = x.iter().zip(&y).map(|(a, b)| a + b).collect();
        add_assign(&mut x, &y).unwrap();
        assert_eq!(x, expected);
        assert!(add_assign(&mut x, &y[1..]).is_err());
    }
}
