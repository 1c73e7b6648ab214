//! Vector kernels that the verbs share: small matrix products in registers, exponentials and row
//! reductions. Functions that take a `simd` token are inlined into the caller's
//! [`WithSimd`] body, so that one dispatch covers a whole tile; the others dispatch themselves.

use std::sync::OnceLock;

use pulp::{Arch, Simd, WithSimd, as_arrays};
use rayon::prelude::*;

use crate::dtype::{DType, Element};

/// The vector instructions that everything runs on: the widest of the processor, or fewer if the
/// environment variable `SALIENT_SIMD` says `avx2` or `scalar` when they are first used.
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| match std::env::var("SALIENT_SIMD").as_deref() {
        Ok("scalar") => Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    })
}

/// Vectors per row of a register block.
pub(crate) const NV: usize = 3;

/// Rows of a register block: `ROWS x NV` accumulators, [`NV`] operands and a broadcast must fit the
/// vector registers.
pub(crate) const fn rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 3 }
}

/// The number of f32 lanes of a vector on this processor.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    arch().dispatch(Lanes)
}

/// Columns of a packed panel of [`Packed`]: [`NV`] vectors.
pub(crate) fn panel_width() -> usize {
    NV * lanes()
}

/// [`rows`] on this processor.
pub(crate) fn block_rows() -> usize {
    struct Rows;
    impl WithSimd for Rows {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            rows::<S>()
        }
    }
    arch().dispatch(Rows)
}

/// A buffer that begins on a cache line, for vectors that straddle two load at half the rate.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    data: Vec<f32>,
}

impl Aligned {
    const LINE: usize = 64;

    /// The first `len` elements, with whatever they held; new ones are 0.
    pub(crate) fn slice(&mut self, len: usize) -> &mut [f32] {
        let padded = len + Self::LINE / size_of::<f32>();
        if self.data.len() < padded {
            self.data.resize(padded, 0.0);
        }
        // An offset of `usize::MAX` means that none could be found.
        let start = self.data.as_ptr().align_offset(Self::LINE);
        let start = if start > padded - len { 0 } else { start };
        &mut self.data[start..start + len]
    }
}

/// `acc[i][j] += a[i][p] * b[p][j]`, summed over p: MR rows of A, each as long as `b`.
///
/// # Panics
/// If a row of A is shorter than `b`.
#[inline(always)]
pub(crate) fn multiply_rows<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    a: [&[f32]; MR],
    b: &[[S::f32s; N]],
    mut acc: [[S::f32s; N]; MR],
) -> [[S::f32s; N]; MR] {
    // No closures in vectorised code: they need not be inlined into it.
    let mut a = a;
    for row in &mut a {
        *row = &row[..b.len()];
    }
    for (p, b) in b.iter().enumerate() {
        for i in 0..MR {
            let x = simd.splat_f32s(a[i][p]);
            for j in 0..N {
                acc[i][j] = simd.mul_add_e_f32s(x, b[j], acc[i][j]);
            }
        }
    }
    acc
}

/// `acc[i][j] += a[p][i] * b[p][j]`, summed over p: A transposed, MR values of it at a time.
#[inline(always)]
pub(crate) fn multiply_columns<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    a: &[[f32; MR]],
    b: &[[S::f32s; N]],
    mut acc: [[S::f32s; N]; MR],
) -> [[S::f32s; N]; MR] {
    for (a, b) in a.iter().zip(b) {
        for i in 0..MR {
            let x = simd.splat_f32s(a[i]);
            for j in 0..N {
                acc[i][j] = simd.mul_add_e_f32s(x, b[j], acc[i][j]);
            }
        }
    }
    acc
}

/// The transpose of a block of `F32_LANES` rows: lane p of vector i is `rows[p][i]`.
///
/// # Panics
/// If there are fewer rows.
#[inline(always)]
pub(crate) fn transpose<S: Simd, const I: usize>(simd: S, rows: &[&[f32; I]]) -> [S::f32s; I] {
    const LANE: [u32; 64] = {
        let mut lane = [0; 64];
        let mut i = 0;
        while i < lane.len() {
            lane[i] = i as u32;
            i += 1;
        }
        lane
    };
    let lane = S::as_simd_u32s(&LANE[..S::F32_LANES]).0[0];
    let mut columns = [simd.splat_f32s(0.0); I];
    for (p, row) in rows[..S::F32_LANES].iter().enumerate() {
        let here = simd.equal_u32s(lane, simd.splat_u32s(p as u32));
        for i in 0..I {
            columns[i] = simd.select_f32s(here, simd.splat_f32s(row[i]), columns[i]);
        }
    }
    columns
}

/// 2^x to a relative error of 1.2e-7 for x up to 127; results below 2^-126 are 0, NaN stays NaN.
/// Minimax polynomial of degree 6 on [-0.5, 0.5].
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the mantissa.
    let magic = simd.splat_f32s(12_582_912.0);
    let lowest = simd.splat_f32s(-127.0);
    let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
    let shifted = simd.add_f32s(x, magic);
    let fraction = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    simd.mul_f32s(exp2_fraction(simd, fraction), exp2_integer(simd, shifted))
}

/// e^x to a relative error of 2e-7; results below 2^-125 are 0, results beyond f32 infinite, NaN
/// stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let magic = simd.splat_f32s(12_582_912.0);
    let lowest = simd.splat_f32s(-87.4);
    let highest = simd.splat_f32s(89.0);
    let x = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x);
    let x = simd.select_f32s(simd.greater_than_f32s(x, highest), highest, x);
    let shifted = simd.mul_add_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), magic);
    let n = simd.sub_f32s(shifted, magic);
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let fraction = simd.mul_add_f32s(n, simd.splat_f32s(-0.693_359_4), x);
    let fraction = simd.mul_add_f32s(n, simd.splat_f32s(2.121_944_4e-4), fraction);
    let fraction = simd.mul_f32s(fraction, simd.splat_f32s(std::f32::consts::LOG2_E));
    // 2^n as 2^(n-1) * 2, for n may be 128.
    let half = exp2_integer(simd, simd.sub_f32s(shifted, simd.splat_f32s(1.0)));
    let p = exp2_fraction(simd, fraction);
    simd.mul_f32s(simd.mul_f32s(p, half), simd.splat_f32s(2.0))
}

#[inline(always)]
fn exp2_fraction<S: Simd>(simd: S, r: S::f32s) -> S::f32s {
    let mut p = simd.splat_f32s(1.559_467_8e-4);
    for c in [1.340_664_4e-3, 9.617_693e-3, 5.550_310_6e-2, 0.240_226_53, 0.693_147_24, 1.0] {
        p = simd.mul_add_f32s(p, r, simd.splat_f32s(c));
    }
    p
}

/// 2^n from `n + 1.5 * 2^23`; n = -127 gives 0.
#[inline(always)]
fn exp2_integer<S: Simd>(simd: S, shifted: S::f32s) -> S::f32s {
    let exponent = simd.wrapping_dyn_shl_u32s(
        simd.transmute_u32s_f32s(shifted),
        simd.splat_u32s(f32::MANTISSA_DIGITS - 1),
    );
    simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.splat_u32s(1f32.to_bits())))
}

/// tanh x, for soft caps, to a relative error of 3e-7: a polynomial (Cephes) near 0, where logits
/// live, and `1 - 2 / (e^2x + 1)` beyond.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let square = simd.mul_f32s(x, x);
    let mut p = simd.splat_f32s(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -0.333_332_8] {
        p = simd.mul_add_f32s(p, square, simd.splat_f32s(c));
    }
    let near = simd.mul_add_f32s(simd.mul_f32s(p, square), x, x);
    let one = simd.splat_f32s(1.0);
    let e = exp(simd, simd.add_f32s(x, x));
    let far = simd.sub_f32s(one, simd.div_f32s(simd.splat_f32s(2.0), simd.add_f32s(e, one)));
    simd.select_f32s(simd.less_than_f32s(square, simd.splat_f32s(0.625 * 0.625)), near, far)
}

/// Converts a row to f32, exact. Vectorised where it is inlined into vectorised code.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn widen<T: Element>(src: &[T], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    match T::DTYPE {
        DType::F32 => T::widen(src, dst),
        DType::F16 => {
            let bits: &[u16] = bytemuck::cast_slice(src);
            for (x, &bits) in dst.iter_mut().zip(bits) {
                let magnitude = u32::from(bits & 0x7fff) << 13;
                // The exponents' biases differ by 112; the product takes care of subnormals.
                let value = (f32::from_bits(magnitude) * 2f32.powi(112)).to_bits();
                let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 | magnitude } else { value };
                *x = f32::from_bits(special | u32::from(bits & 0x8000) << 16);
            }
        }
        DType::Bf16 => {
            let bits: &[u16] = bytemuck::cast_slice(src);
            for (x, &bits) in dst.iter_mut().zip(bits) {
                *x = f32::from_bits(u32::from(bits) << 16);
            }
        }
        DType::F8E4M3 => {
            let bits: &[u8] = bytemuck::cast_slice(src);
            for (x, &bits) in dst.iter_mut().zip(bits) {
                let magnitude = u32::from(bits & 0x7f) << 20;
                // The exponents' biases differ by 120; the product takes care of subnormals.
                let value = (f32::from_bits(magnitude) * 2f32.powi(120)).to_bits();
                let special = if bits & 0x7f == 0x7f { 0x7fff_ffff } else { value };
                *x = f32::from_bits(special | u32::from(bits & 0x80) << 24);
            }
        }
    }
}

/// A row as f32, in `buffer` if it is not yet.
#[inline(always)]
pub(crate) fn widened<'a, T: Element>(row: &'a [T], buffer: &'a mut [f32]) -> &'a [f32] {
    match T::as_f32(row) {
        Some(row) => row,
        None => {
            let wide = &mut buffer[..row.len()];
            widen(row, wide);
            wide
        }
    }
}

/// Replaces x by tanh x.
#[inline(always)]
pub(crate) fn tanh_row<S: Simd>(simd: S, row: &mut [f32]) {
    let (head, tail) = S::as_mut_simd_f32s(row);
    for x in head {
        *x = tanh(simd, *x);
    }
    let last = tanh(simd, simd.partial_load_f32s(tail));
    simd.partial_store_f32s(tail, last);
}

/// The largest value of a row, -inf for an empty one; NaN values may or may not be passed over.
#[inline(always)]
pub(crate) fn row_max<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let (head, tail) = S::as_simd_f32s(row);
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for &x in head {
        max = simd.max_f32s(max, x);
    }
    tail.iter().fold(simd.reduce_max_f32s(max), |max, &x| max.max(x))
}

/// Replaces x by `e^(x - max)` and returns the sum.
#[inline(always)]
pub(crate) fn exp_sum<S: Simd>(simd: S, row: &mut [f32], max: f32) -> f32 {
    let shift = simd.splat_f32s(max);
    let mut sum = simd.splat_f32s(0.0);
    let (head, tail) = S::as_mut_simd_f32s(row);
    for x in head {
        *x = exp(simd, simd.sub_f32s(*x, shift));
        sum = simd.add_f32s(sum, *x);
    }
    let last = exp(simd, simd.sub_f32s(simd.partial_load_f32s(tail), shift));
    simd.partial_store_f32s(tail, last);
    tail.iter().fold(simd.reduce_sum_f32s(sum), |sum, &x| sum + x)
}

/// The dot product of two rows of one length; the tail of the longer one is passed over.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a_head, a_tail) = S::as_simd_f32s(&a[..len]);
    let (b_head, b_tail) = S::as_simd_f32s(&b[..len]);
    let (a4, a_rest) = as_arrays::<4, _>(a_head);
    let (b4, b_rest) = as_arrays::<4, _>(b_head);
    let mut acc = [simd.splat_f32s(0.0); 4];
    for (a, b) in a4.iter().zip(b4) {
        for j in 0..4 {
            acc[j] = simd.mul_add_e_f32s(a[j], b[j], acc[j]);
        }
    }
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        acc[0] = simd.mul_add_e_f32s(a, b, acc[0]);
    }
    let (a, b) = (simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
    acc[1] = simd.mul_add_e_f32s(a, b, acc[1]);
    let sum = simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3]));
    simd.reduce_sum_f32s(sum)
}

/// `y += alpha * x`, over the shorter length.
#[inline(always)]
pub(crate) fn axpy<S: Simd>(simd: S, alpha: f32, x: &[f32], y: &mut [f32]) {
    let len = x.len().min(y.len());
    let factor = simd.splat_f32s(alpha);
    let (x_head, x_tail) = S::as_simd_f32s(&x[..len]);
    let (y_head, y_tail) = S::as_mut_simd_f32s(&mut y[..len]);
    for (&x, y) in x_head.iter().zip(y_head) {
        *y = simd.mul_add_e_f32s(factor, x, *y);
    }
    for (&x, y) in x_tail.iter().zip(y_tail) {
        *y += alpha * x;
    }
}

/// `x *= alpha`.
#[inline(always)]
pub(crate) fn scale<S: Simd>(simd: S, alpha: f32, x: &mut [f32]) {
    let factor = simd.splat_f32s(alpha);
    let (head, tail) = S::as_mut_simd_f32s(x);
    for x in head {
        *x = simd.mul_f32s(*x, factor);
    }
    for x in tail {
        *x *= alpha;
    }
}

/// A `[k, n]` matrix in panels of [`panel_width`] columns: panel, row, column. Missing columns of
/// the last panel are 0.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    panels: Vec<f32>,
    k: usize,
    n: usize,
    width: usize,
}

impl Packed {
    /// Packs the transpose of a row-major `[n, k]` matrix, as weights of linear layers are stored.
    ///
    /// # Panics
    /// If `data` does not hold `n * k` elements.
    pub(crate) fn from_transposed<T: Element>(data: &[T], n: usize, k: usize) -> Self {
        assert_eq!(data.len(), k * n, "[n, k]");
        let mut packed = Self::zeroed(k, n);
        let width = packed.width;
        packed.panels.par_chunks_mut((width * k).max(1)).enumerate().for_each(|(j, panel)| {
            let mut wide = vec![0f32; k];
            for column in 0..width.min(n - j * width) {
                T::widen(&data[(j * width + column) * k..][..k], &mut wide);
                for (row, &value) in panel.chunks_exact_mut(width).zip(&wide) {
                    row[column] = value;
                }
            }
        });
        packed
    }

    fn zeroed(k: usize, n: usize) -> Self {
        let width = panel_width();
        Self { panels: vec![0f32; n.div_ceil(width) * width * k], k, n, width }
    }
}

/// `c = a * b` for a few rows (about a hundred), on the calling thread: `a` row-major `[m, k]`, `c`
/// row-major `[m, n]`.
///
/// # Panics
/// If the lengths of `a` and `c` are not `m * k` and `m * n` for one m.
pub(crate) fn matmul_block(a: &[f32], b: &Packed, c: &mut [f32]) {
    if c.is_empty() || b.k == 0 {
        c.fill(0.0);
        return;
    }
    assert_eq!(a.len() / b.k, c.len() / b.n, "rows of a and c");
    arch().dispatch(Product { a, b, c });
}

struct Product<'a> {
    a: &'a [f32],
    b: &'a Packed,
    c: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if rows::<S>() == 8 { self.run::<S, 8>(simd) } else { self.run::<S, 3>(simd) }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(self, simd: S) {
        // Depth of a panel that the first-level cache holds.
        const DEPTH: usize = 192;
        let Packed { ref panels, k, n, width } = *self.b;
        let m = self.c.len() / n;
        // A slice of A, rows next to each other: those of A may be a power of two apart, which
        // caches do not like.
        let mut slice = vec![0f32; if k > DEPTH { m * DEPTH } else { 0 }];
        for depth in (0..k).step_by(DEPTH) {
            let len = DEPTH.min(k - depth);
            let a = if k > DEPTH {
                for (row, source) in slice.chunks_exact_mut(len).zip(self.a.chunks_exact(k)) {
                    row.copy_from_slice(&source[depth..depth + len]);
                }
                &slice[..m * len]
            } else {
                self.a
            };
            for column in (0..n).step_by(width) {
                let panel = &panels[column * k..][depth * width..(depth + len) * width];
                let (panel, _) = as_arrays::<NV, _>(S::as_simd_f32s(panel).0);
                let valid = width.min(n - column);
                for row in (0..m).step_by(MR) {
                    // Rows past the end repeat the last one and are not stored.
                    let a: [&[f32]; MR] =
                        std::array::from_fn(|i| &a[(row + i).min(m - 1) * len..][..len]);
                    let zero = [[simd.splat_f32s(0.0); NV]; MR];
                    let acc = multiply_rows(simd, a, panel, zero);
                    for (i, acc) in acc.iter().enumerate().take(m - row) {
                        let out = &mut self.c[(row + i) * n + column..][..valid];
                        store::<S>(simd, out, acc, depth > 0);
                    }
                }
            }
        }
    }
}

/// Stores the first `out.len()` lanes of a register row, added to what is there if `add`.
#[inline(always)]
fn store<S: Simd>(simd: S, out: &mut [f32], acc: &[S::f32s; NV], add: bool) {
    if out.len() == NV * S::F32_LANES {
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, &x) in out.iter_mut().zip(acc) {
            *out = if add { simd.add_f32s(*out, x) } else { x };
        }
    } else {
        let acc: &[f32] = bytemuck::cast_slice(acc);
        for (out, &x) in out.iter_mut().zip(acc) {
            *out = if add { *out + x } else { x };
        }
    }
}

#[cfg(test)]
mod tests;
