//! How tensor cores sum products.
//!
//! NVIDIA does not document it; it was measured. Sources: Fasi et al., "Numerical behavior of
//! NVIDIA tensor cores" (2021); Khattak and Mikaitis, "Accurate Models of NVIDIA Tensor Cores"
//! (arXiv 2512.07004); Xie et al., "MMA-Sim" (arXiv 2511.10909). They agree on one scheme. The
//! products of a block along k are exact. They and the accumulator are aligned to the largest
//! exponent among them and cut off (toward zero) some bits below it, then summed exactly, and the
//! sum is cut off to f32, or rounded to nearest for an f16 accumulator. What differs is the length
//! of the block and the number of bits kept ([`Arithmetic`]). An instruction whose k is longer than
//! a block is a chain of blocks. Subnormals are kept. The exponent of a product is the sum of its
//! factors' exponents, so its significand is in [1, 4). Zero products do not count, a zero
//! accumulator has the exponent of a subnormal. A sum of zero is +0. NaN comes out as 0x7fffffff
//! (0x7fff in f16).

use std::ops::Range;

use half::f16;

use super::numbers::{Element, ZERO_EXPONENT, decode};

/// How sums of products are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Sums in double precision, with one rounding to nearest per instruction. No device does this:
    /// it is for tests that want errors of rounding out of the way.
    Exact,
    /// sm_80 to sm_89: blocks of 8 (f16, bf16) or 4 (tf32), 24 fraction bits. The 8-bit floats of
    /// sm_89: blocks of 16, 13 fraction bits, in the sum that comes out too.
    Sm80,
    /// sm_90: blocks of 16 (f16, bf16) or 8 (tf32), 25 fraction bits. `wgmma` of 8-bit floats:
    /// blocks of 32, 13 fraction bits, in the sum that comes out too. `mma` of 8-bit floats: ptxas
    /// makes two `mma` of f16 and an addition out of it, see [`Instruction::Warp`].
    Sm90,
    /// sm_100 and later: as sm_90, but 8-bit floats have 25 fraction bits as well. That is as
    /// published for B200 and for consumer Blackwell.
    Sm100,
}

impl Arithmetic {
    /// The arithmetic of devices of a target, as in `sm_90`; none where it is not modelled.
    #[must_use]
    pub const fn of_target(sm: u32) -> Option<Self> {
        match sm {
            80..90 => Some(Self::Sm80),
            90 => Some(Self::Sm90),
            100.. => Some(Self::Sm100),
            _ => None,
        }
    }
}

/// Which instruction does the product: they differ for 8-bit floats on sm_90.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// `mma.sync`. Where ptxas for sm_90 makes f16 instructions out of it, the first takes the
    /// first two of every four elements along k and starts at zero, the second takes the others,
    /// and the accumulator is added last, rounded to nearest (seen in ptxas 13.0's code).
    Warp,
    /// `wgmma.mma_async`.
    Warpgroup,
}

/// The type of the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// Half precision, two to a register.
    F16,
    /// Single precision.
    F32,
    /// 32-bit integers. Sums wrap around, unless they are to saturate (`.satfinite`).
    S32 {
        /// Whether sums stop at the ends of the range.
        saturate: bool,
    },
    /// Double precision.
    F64,
}

/// What the sums of one instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Integer { saturate: bool },
    Double { half: bool },
    Truncated { block: usize, fraction: i32, output: Output, accumulator_last: bool },
}

/// How the sum of a block becomes an accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Toward zero, to f32 of which the bits of the mask are kept.
    Single { mask: u32 },
    /// To the nearest f16.
    Half,
}

impl Sum {
    pub(crate) fn of(
        arithmetic: Arithmetic,
        instruction: Instruction,
        element: Element,
        accumulator: Accumulator,
    ) -> Self {
        if let Accumulator::S32 { saturate } = accumulator {
            return Self::Integer { saturate };
        }
        let (block16, fraction, float8) = match (arithmetic, instruction) {
            (Arithmetic::Exact, _) => {
                return Self::Double { half: accumulator == Accumulator::F16 };
            }
            (Arithmetic::Sm80, _) => (8, 24, (16, 13)),
            (Arithmetic::Sm90, Instruction::Warp) => (16, 25, (16, 25)),
            (Arithmetic::Sm90, Instruction::Warpgroup) => (16, 25, (32, 13)),
            (Arithmetic::Sm100, _) => (16, 25, (32, 25)),
        };
        let (block, fraction) = match element {
            Element::Tf32 => (block16 / 2, fraction),
            Element::E4m3 | Element::E5m2 => float8,
            _ => (block16, fraction),
        };
        let mask = if fraction == 13 { !0 << 10 } else { !0 };
        let single = accumulator == Accumulator::F32;
        Self::Truncated {
            block,
            fraction,
            output: if single { Output::Single { mask } } else { Output::Half },
            accumulator_last: element.is_float8() && converts_float8(arithmetic, instruction),
        }
    }
}

/// Whether 8-bit floats are turned into f16 by instructions before the product.
pub(crate) fn converts_float8(arithmetic: Arithmetic, instruction: Instruction) -> bool {
    arithmetic == Arithmetic::Sm90 && instruction == Instruction::Warp
}

/// The largest k of an instruction.
const DEPTH: usize = 32;

/// 16 rows of the left matrix, or 8 columns of the right one.
pub(crate) struct Panel<const ELEMENTS: usize> {
    values: [f32; ELEMENTS],
    exponents: [i32; ELEMENTS],
    finite: bool,
}

/// 16 rows of A, element (row, k) at `row * depth + k`.
pub(crate) type Left = Panel<{ 16 * DEPTH }>;
/// 8 columns of B, element (k, column) at `k * 8 + column`.
pub(crate) type Right = Panel<{ 8 * DEPTH }>;

impl<const ELEMENTS: usize> Panel<ELEMENTS> {
    /// A place for elements, to be filled where it lies: moving it takes as long as a product.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { values: [0.0; ELEMENTS], exponents: [0; ELEMENTS], finite: true }
    }

    /// Takes the raw elements, as many as there are; `as_f16` as for [`decode`].
    pub(crate) fn fill(&mut self, element: Element, as_f16: bool, raw: &[u32]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as just asked.
            return unsafe { self.fill_avx2(element, as_f16, raw) };
        }
        self.fill_anywhere(element, as_f16, raw);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn fill_avx2(&mut self, element: Element, as_f16: bool, raw: &[u32]) {
        self.fill_anywhere(element, as_f16, raw);
    }

    #[inline(always)]
    fn fill_anywhere(&mut self, element: Element, as_f16: bool, raw: &[u32]) {
        let values = &mut self.values[..raw.len()];
        self.finite = decode(element, as_f16, raw, values, &mut self.exponents);
    }

    /// Changes all signs.
    pub(crate) fn negate(&mut self) {
        for value in &mut self.values {
            *value = -*value;
        }
    }
}

/// 16 rows of 8 accumulators, raw: f16 in the low half of the word.
pub(crate) type Sums = [[u32; 8]; 16];

/// `sums += left * right`, with k = `depth`.
pub(crate) fn multiply(sum: Sum, depth: usize, left: &Left, right: &Right, sums: &mut Sums) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as just asked.
        return unsafe { multiply_avx2(sum, depth, left, right, sums) };
    }
    multiply_with(Kernels { largest, terms }, sum, depth, left, right, sums);
}

/// The same with AVX2, which the compiler does not find its way to in the two innermost loops.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(sum: Sum, depth: usize, left: &Left, right: &Right, sums: &mut Sums) {
    let kernels = Kernels {
        largest: |ea: &_, eb: &_| largest_avx2(ea, eb),
        terms: |a: &_, b: &_, scale: &_| terms_avx2(a, b, scale),
    };
    multiply_with(kernels, sum, depth, left, right, sums);
}

/// The two loops over every product, which take most of the time.
#[derive(Clone, Copy)]
struct Kernels<Largest, Terms> {
    /// [`largest`].
    largest: Largest,
    /// [`terms`].
    terms: Terms,
}

#[inline(always)]
fn multiply_with(
    kernels: Kernels<
        impl Fn(&[i32], &[[i32; 8]]) -> [i32; 8],
        impl Fn(&[f32], &[[f32; 8]], &[f32; 8]) -> [i32; 8],
    >,
    sum: Sum,
    depth: usize,
    left: &Left,
    right: &Right,
    sums: &mut Sums,
) {
    let (b, _) = right.values.as_chunks::<8>();
    let rows = left.values.chunks_exact(depth).zip(sums.iter_mut());
    match sum {
        Sum::Integer { saturate } => rows.for_each(|(a, c)| integer_row(a, b, c, saturate)),
        Sum::Double { half } => {
            let mut totals = widen_all(sums, half);
            for (a, total) in left.values.chunks_exact(depth).zip(&mut totals) {
                double_row(a, &b[..depth], total, half);
            }
            narrow_all(&totals, half, sums);
        }
        Sum::Truncated { block, fraction, output, accumulator_last } => {
            let half = output == Output::Half;
            let start = widen_all(sums, half);
            let mut totals = if accumulator_last { [[0.0; 8]; 16] } else { start };
            for first in (0..depth).step_by(block) {
                let k = first..depth.min(first + block);
                let block = Block { left, right, depth, k, fraction, output };
                block.add(&kernels, &mut totals);
            }
            if accumulator_last {
                for (total, start) in totals.as_flattened_mut().iter_mut().zip(start.as_flattened())
                {
                    *total += start;
                }
            }
            narrow_all(&totals, half, sums);
        }
    }
}

/// The largest sum of two exponents along k, for each of 8 columns.
#[inline(always)]
fn largest(ea: &[i32], eb: &[[i32; 8]]) -> [i32; 8] {
    let mut largest = [ZERO_EXPONENT; 8];
    for (&ea, eb) in ea.iter().zip(eb) {
        for n in 0..8 {
            largest[n] = largest[n].max(ea + eb[n]);
        }
    }
    largest
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn largest_avx2(ea: &[i32], eb: &[[i32; 8]]) -> [i32; 8] {
    use std::arch::x86_64::{_mm256_add_epi32, _mm256_max_epi32, _mm256_set1_epi32};
    let mut largest = _mm256_set1_epi32(ZERO_EXPONENT);
    for (&ea, eb) in ea.iter().zip(eb) {
        let e = _mm256_add_epi32(_mm256_set1_epi32(ea), bytemuck::cast(*eb));
        largest = _mm256_max_epi32(largest, e);
    }
    bytemuck::cast(largest)
}

/// The sum of the products along k, each times the column's scale and cut off to an integer. It is
/// of use if 32 bits hold it; sums that are not plain come out wrong and are thrown away.
#[inline(always)]
fn terms(a: &[f32], b: &[[f32; 8]], scale: &[f32; 8]) -> [i32; 8] {
    let mut sum = [0i32; 8];
    for (&a, b) in a.iter().zip(b) {
        for n in 0..8 {
            sum[n] = sum[n].wrapping_add((a * b[n] * scale[n]) as i32);
        }
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn terms_avx2(a: &[f32], b: &[[f32; 8]], scale: &[f32; 8]) -> [i32; 8] {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_cvttps_epi32, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_si256,
    };
    let scale = bytemuck::cast(*scale);
    let mut sum = _mm256_setzero_si256();
    for (&a, b) in a.iter().zip(b) {
        let product = _mm256_mul_ps(_mm256_set1_ps(a), bytemuck::cast(*b));
        sum = _mm256_add_epi32(sum, _mm256_cvttps_epi32(_mm256_mul_ps(product, scale)));
    }
    bytemuck::cast(sum)
}

/// The values of bytes and their sums are below 2^24, so f32 is exact.
#[inline(always)]
fn integer_row(a: &[f32], b: &[[f32; 8]], c: &mut [u32; 8], saturate: bool) {
    let mut total = [0f32; 8];
    for (&a, b) in a.iter().zip(b) {
        for n in 0..8 {
            total[n] += a * b[n];
        }
    }
    for n in 0..8 {
        let (x, y) = (c[n] as i32, total[n] as i32);
        c[n] = if saturate { x.saturating_add(y) } else { x.wrapping_add(y) } as u32;
    }
}

#[inline(always)]
fn double_row(a: &[f32], b: &[[f32; 8]], c: &mut [f32; 8], half: bool) {
    let mut total = c.map(f64::from);
    for (&a, b) in a.iter().zip(b) {
        for n in 0..8 {
            total[n] += f64::from(a) * f64::from(b[n]);
        }
    }
    for n in 0..8 {
        c[n] = if half { nearest_half(total[n]) } else { total[n] as f32 };
    }
}

/// A stretch of k that is summed at once.
struct Block<'a> {
    left: &'a Left,
    right: &'a Right,
    depth: usize,
    k: Range<usize>,
    fraction: i32,
    output: Output,
}

/// Of each accumulator: the scale that makes the last bit kept 1, its inverse, and whether a sum of
/// 32-bit integers does.
struct Scales {
    there: [[f32; 8]; 16],
    back: [[f64; 8]; 16],
    plain: [[bool; 8]; 16],
}

impl Block<'_> {
    /// Adds the block's products. Each step is a loop over all accumulators, which becomes vector
    /// code.
    #[inline(always)]
    fn add(
        &self,
        kernels: &Kernels<
            impl Fn(&[i32], &[[i32; 8]]) -> [i32; 8],
            impl Fn(&[f32], &[[f32; 8]], &[f32; 8]) -> [i32; 8],
        >,
        c: &mut [[f32; 8]; 16],
    ) {
        if !(self.left.finite && self.right.finite) {
            (0..16).for_each(|row| self.any_row(row, &mut c[row]));
            return;
        }
        let (_, eb) = self.columns();
        let mut exponents = [[0; 8]; 16];
        for (row, exponents) in exponents.iter_mut().enumerate() {
            *exponents = (kernels.largest)(self.row(row).1, eb);
        }
        let scales = scales(&exponents, c, self.fraction);
        let mut totals = [[0f64; 8]; 16];
        for (row, totals) in totals.iter_mut().enumerate() {
            self.plain_row(row, kernels, &scales.there[row], totals);
        }
        for (row, c) in c.iter_mut().enumerate() {
            if scales.plain[row] != [true; 8] {
                self.any_row(row, c);
                // Goes through the last step unchanged, as it is rounded already.
                totals[row] = c.map(f64::from);
                continue;
            }
            for n in 0..8 {
                let accumulator = f64::from((c[n] * scales.there[row][n]).trunc());
                totals[row][n] = (totals[row][n] + accumulator) * scales.back[row][n];
            }
        }
        let sums = c.as_flattened_mut().iter_mut().zip(totals.as_flattened());
        // The choice between the loops, not in one, leaves them without branches.
        match self.output {
            Output::Single { mask } => sums.for_each(|(c, &x)| *c = single(x, mask)),
            Output::Half => sums.for_each(|(c, &x)| *c = nearest_half(x)),
        }
    }

    /// The sum of a row's products in units of the last bit kept. Up to 8 terms of 27 bits fit 31
    /// bits; f64 holds all of them exactly.
    #[inline(always)]
    fn plain_row(
        &self,
        row: usize,
        kernels: &Kernels<
            impl Fn(&[i32], &[[i32; 8]]) -> [i32; 8],
            impl Fn(&[f32], &[[f32; 8]], &[f32; 8]) -> [i32; 8],
        >,
        scale: &[f32; 8],
        totals: &mut [f64; 8],
    ) {
        for (a, b) in self.row(row).0.chunks(8).zip(self.columns().0.chunks(8)) {
            let part = (kernels.terms)(a, b, scale);
            for n in 0..8 {
                totals[n] += f64::from(part[n]);
            }
        }
    }

    /// A row's sums, whatever the numbers are.
    #[cold]
    fn any_row(&self, row: usize, c: &mut [f32; 8]) {
        let ((a, ea), (b, eb)) = (self.row(row), self.columns());
        for (n, c) in c.iter_mut().enumerate() {
            let ec = accumulator_exponent(*c);
            let products =
                (0..a.len()).map(|k| (f64::from(a[k]) * f64::from(b[k][n]), ea[k] + eb[k][n]));
            let terms = products.chain([(f64::from(*c), ec)]);
            // Finite terms cannot overflow f64, so this shows what infinities and NaN come to.
            let special: f64 = terms.clone().map(|(x, _)| x).sum();
            if !special.is_finite() {
                *c = special as f32;
                continue;
            }
            let largest = terms.clone().map(|(_, e)| e).fold(ec, i32::max);
            let unit = power(self.fraction - largest);
            // From +0, which it stays when all terms are zero.
            let total = terms.fold(0.0, |total, (x, _)| total + (x * unit).trunc());
            *c = round(total * power(largest - self.fraction), self.output);
        }
    }

    /// A row of A, its numbers and their exponents.
    #[inline(always)]
    fn row(&self, row: usize) -> (&[f32], &[i32]) {
        let k = row * self.depth + self.k.start..row * self.depth + self.k.end;
        (&self.left.values[k.clone()], &self.left.exponents[k])
    }

    /// The columns of B, likewise.
    #[inline(always)]
    fn columns(&self) -> (&[[f32; 8]], &[[i32; 8]]) {
        let k = self.k.clone();
        let (b, eb) = (self.right.values.as_chunks().0, self.right.exponents.as_chunks().0);
        (&b[k.clone()], &eb[k])
    }
}

/// Takes the products' largest exponents. A sum is not plain if its accumulator is not finite or an
/// exponent is out of the range in which products and scales are normal f32.
#[inline(always)]
fn scales(exponents: &[[i32; 8]; 16], c: &[[f32; 8]; 16], fraction: i32) -> Scales {
    const LOWEST: i32 = -102;
    const HIGHEST: i32 = 120;
    let mut scales =
        Scales { there: [[0.0; 8]; 16], back: [[0.0; 8]; 16], plain: [[false; 8]; 16] };
    let (there, back) = (scales.there.as_flattened_mut(), scales.back.as_flattened_mut());
    let plain = scales.plain.as_flattened_mut();
    let (exponents, c) = (exponents.as_flattened(), c.as_flattened());
    let mut shifts = [0; 128];
    for n in 0..128 {
        let e = exponents[n].max(accumulator_exponent(c[n]));
        // Where all terms are zero the exponent does not matter.
        let zero = (exponents[n] < ZERO_LIMIT) & (c[n] == 0.0);
        plain[n] = (zero | (e >= LOWEST)) & (e <= HIGHEST);
        shifts[n] = fraction - e.clamp(LOWEST, HIGHEST);
    }
    for n in 0..128 {
        there[n] = f32::from_bits(((127 + shifts[n]) as u32) << 23);
    }
    for n in 0..128 {
        back[n] = f64::from_bits(((1023 - shifts[n]) as u64) << 52);
    }
    scales
}

/// Sums of exponents below this are of a product with zero.
const ZERO_LIMIT: i32 = -500;

/// 2^n for n in the range of normal f64.
fn power(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

#[inline(always)]
fn accumulator_exponent(c: f32) -> i32 {
    ((c.to_bits() << 1 >> 24) as i32).max(1) - 127
}

#[inline(always)]
fn round(x: f64, output: Output) -> f32 {
    match output {
        Output::Single { mask } => single(x, mask),
        Output::Half => nearest_half(x),
    }
}

#[inline(always)]
fn single(x: f64, mask: u32) -> f32 {
    f32::from_bits(toward_zero(x).to_bits() & mask)
}

/// Cuts off. Numbers of 2^128 and more become infinite: the exponent overflows.
#[inline(always)]
fn toward_zero(x: f64) -> f32 {
    const LIMIT: f64 = (1u128 << 127) as f64 * 2.0;
    let nearest = x as f32;
    let farther = (f64::from(nearest).abs() > x.abs()) & (x.abs() < LIMIT);
    f32::from_bits(nearest.to_bits() - u32::from(farther))
}

/// Rounds to the nearest f16 by way of an f32 whose last bit is set where bits were lost, which
/// keeps ties apart.
#[inline(always)]
fn nearest_half(x: f64) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    let cut = toward_zero(x);
    let odd = cut.to_bits() | u32::from(f64::from(cut) != x && cut.is_finite());
    f16::from_f32(f32::from_bits(odd)).to_f32()
}

/// Accumulators as f32.
#[inline(always)]
fn widen_all(raw: &Sums, half: bool) -> [[f32; 8]; 16] {
    let mut wide = [[0.0; 8]; 16];
    for (wide, &raw) in wide.as_flattened_mut().iter_mut().zip(raw.as_flattened()) {
        *wide = if half { f16::from_bits(raw as u16).to_f32() } else { f32::from_bits(raw) };
    }
    wide
}

/// The raw bits of accumulators; every NaN becomes the one that tensor cores make.
#[inline(always)]
fn narrow_all(wide: &[[f32; 8]; 16], half: bool, raw: &mut Sums) {
    for (raw, &wide) in raw.as_flattened_mut().iter_mut().zip(wide.as_flattened()) {
        *raw = match (wide.is_nan(), half) {
            (true, true) => 0x7fff,
            (true, false) => 0x7fff_ffff,
            (false, true) => u32::from(f16::from_f32(wide).to_bits()),
            (false, false) => wide.to_bits(),
        };
    }
}

#[cfg(test)]
#[path = "arithmetic_tests.rs"]
mod tests;
