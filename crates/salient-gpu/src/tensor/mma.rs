//! The product of small matrices that one warp computes from its registers.

use super::Lanes;
use super::arithmetic::{
    self, Accumulator, Arithmetic, Instruction, Left, Right, Sum, converts_float8,
};
use super::fragment::{accumulator_position, left_position, right_position};
use super::numbers::Element;

/// PTX ISA: mma, dense, row by column: the shape and the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    rows: usize,
    depth: usize,
    left: Element,
    right: Element,
    accumulator: Accumulator,
}

/// A shape and types that PTX does not have, or that are not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mma.m{m}n{n}k{k} of {left:?} and {right:?} with accumulators {accumulator:?}")]
pub struct Unsupported {
    m: usize,
    n: usize,
    k: usize,
    left: Element,
    right: Element,
    accumulator: Accumulator,
}

impl Mma {
    /// The instruction with this shape and these types.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new(
        (m, n, k): (usize, usize, usize),
        left: Element,
        right: Element,
        accumulator: Accumulator,
    ) -> Result<Self, Unsupported> {
        use Accumulator as To;
        let same = left == right;
        let known = match (left, accumulator) {
            (Element::F16, To::F16 | To::F32) | (Element::Bf16, To::F32) => {
                same && m == 16 && matches!(k, 8 | 16)
            }
            (Element::Tf32, To::F32) => same && m == 16 && matches!(k, 4 | 8),
            (Element::E4m3 | Element::E5m2, To::F16 | To::F32) => {
                right.is_float8() && m == 16 && matches!(k, 16 | 32)
            }
            (Element::S8 | Element::U8, To::S32 { .. }) => {
                right.is_integer() && matches!((m, k), (8, 16) | (16, 16 | 32))
            }
            (Element::F64, To::F64) => same && matches!((m, k), (8, 4) | (16, 4 | 8 | 16)),
            _ => false,
        };
        if known && n == 8 {
            Ok(Self { rows: m, depth: k, left, right, accumulator })
        } else {
            Err(Unsupported { m, n, k, left, right, accumulator })
        }
    }

    /// How many 32-bit registers A, B and the accumulators take. A double takes two, the low word
    /// first.
    #[must_use]
    pub const fn registers(&self) -> (usize, usize, usize) {
        let bytes = self.left.bytes();
        let sums = match self.accumulator {
            Accumulator::F16 => self.rows / 8,
            Accumulator::F32 | Accumulator::S32 { .. } => self.rows / 4,
            Accumulator::F64 => self.rows / 2,
        };
        (self.rows * self.depth * bytes / 128, 8 * self.depth * bytes / 128, sums)
    }

    /// `d = a * b + c`, over all lanes.
    ///
    /// # Panics
    ///
    /// If the registers are not as many as [`Self::registers`] says.
    pub fn execute(
        &self,
        arithmetic: Arithmetic,
        a: &[Lanes],
        b: &[Lanes],
        c: &[Lanes],
        d: &mut [Lanes],
    ) {
        assert_eq!((a.len(), b.len(), c.len()), self.registers(), "{self:?}");
        assert_eq!(c.len(), d.len(), "{self:?}");
        if self.left == Element::F64 {
            return self.execute_doubles(a, b, c, d);
        }
        let warp = Instruction::Warp;
        let pairs = self.left.is_float8() && converts_float8(arithmetic, warp);
        let (mut left, mut right) = (Left::new(), Right::new());
        fill_left(&mut left, self.left, self.rows, self.depth, a, pairs);
        let mut raw = [0; 8 * 32];
        match self.right.bytes() {
            1 => spread_right::<4>(b, &mut raw, |k| in_pairs(pairs, self.depth, k)),
            2 => spread_right::<2>(b, &mut raw, |k| k),
            _ => spread_right::<1>(b, &mut raw, |k| k),
        }
        right.fill(self.right, pairs, &raw[..8 * self.depth]);
        let mut sums = [[0; 8]; 16];
        let sum = Sum::of(arithmetic, warp, self.left, self.accumulator);
        read_sums(self.rows, self.accumulator, c, &mut sums);
        arithmetic::multiply(sum, self.depth, &left, &right, &mut sums);
        write_sums(self.rows, self.accumulator, &sums, d);
    }

    /// Doubles are chains of fused multiply-adds along k.
    fn execute_doubles(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let double = |registers: &[Lanes], i: usize, lane: usize| {
            let (low, high) = (registers[2 * i][lane], registers[2 * i + 1][lane]);
            f64::from_bits(u64::from(high) << 32 | u64::from(low))
        };
        let mut left = [[0.0; 16]; 16];
        let mut right = [[0.0; 8]; 16];
        for lane in 0..32 {
            for i in 0..a.len() / 2 {
                let (row, k) = left_position(self.rows, 1, i, lane, 0);
                left[row][k] = double(a, i, lane);
            }
            for i in 0..b.len() / 2 {
                let (k, column) = right_position(1, i, lane, 0);
                right[k][column] = double(b, i, lane);
            }
        }
        for (i, (c, d)) in c.as_chunks::<2>().0.iter().zip(d.as_chunks_mut::<2>().0).enumerate() {
            let [low, high] = d;
            for (lane, (low, high)) in low.iter_mut().zip(high).enumerate() {
                let (row, column) = accumulator_position(self.rows, i, lane);
                let products = left[row].iter().zip(&right).take(self.depth);
                let sum = products.fold(double(c, 0, lane), |x, (a, b)| a.mul_add(b[column], x));
                let bits = sum.to_bits();
                (*low, *high) = (bits as u32, (bits >> 32) as u32);
            }
        }
    }
}

/// The rows of A that a warp's registers hold. With `pairs`, k is in the order of [`in_pairs`].
#[inline(always)]
pub(crate) fn fill_left(
    panel: &mut Left,
    element: Element,
    rows: usize,
    depth: usize,
    registers: &[Lanes],
    pairs: bool,
) {
    let mut raw = [0; 16 * 32];
    match element.bytes() {
        1 => spread_left::<4>(rows, depth, registers, &mut raw),
        2 => spread_left::<2>(rows, depth, registers, &mut raw),
        _ => spread_left::<1>(rows, depth, registers, &mut raw),
    }
    if pairs {
        for row in raw.chunks_exact_mut(depth) {
            let mut ordered = [0; 32];
            for (k, &x) in row.iter().enumerate() {
                ordered[in_pairs(pairs, depth, k)] = x;
            }
            row.copy_from_slice(&ordered[..depth]);
        }
    }
    panel.fill(element, pairs, &raw[..16 * depth]);
}

/// Where the first two of every four elements come first, then the others: the place of element k.
const fn in_pairs(pairs: bool, depth: usize, k: usize) -> usize {
    if pairs { k / 4 * 2 + k % 2 + k % 4 / 2 * (depth / 2) } else { k }
}

/// The four threads of a group have neighbours along k.
#[inline(always)]
fn spread_left<const WIDTH: usize>(
    rows: usize,
    depth: usize,
    registers: &[Lanes],
    raw: &mut [u32; 16 * 32],
) {
    for (register, lanes) in registers.iter().enumerate() {
        for (group, words) in lanes.as_chunks::<4>().0.iter().enumerate() {
            let (row, k) = left_position(rows, WIDTH, register, 4 * group, 0);
            let (places, _) = raw[row * depth + k..][..4 * WIDTH].as_chunks_mut::<WIDTH>();
            for (place, &word) in places.iter_mut().zip(words) {
                for (index, x) in place.iter_mut().enumerate() {
                    *x = part::<WIDTH>(word, index);
                }
            }
        }
    }
}

/// Equal threads of the groups have neighbours along the columns. `place` may move a k elsewhere.
#[inline(always)]
fn spread_right<const WIDTH: usize>(
    registers: &[Lanes],
    raw: &mut [u32; 8 * 32],
    place: impl Fn(usize) -> usize,
) {
    for (register, lanes) in registers.iter().enumerate() {
        for thread in 0..4 {
            for index in 0..WIDTH {
                let (k, _) = right_position(WIDTH, register, thread, index);
                let columns = &mut raw[8 * place(k)..][..8];
                for (group, x) in columns.iter_mut().enumerate() {
                    *x = part::<WIDTH>(lanes[4 * group + thread], index);
                }
            }
        }
    }
}

/// One of the `WIDTH` elements of a register.
#[inline(always)]
const fn part<const WIDTH: usize>(word: u32, index: usize) -> u32 {
    let bits = 32 / WIDTH;
    word >> (bits * index) & (u32::MAX >> (32 - bits))
}

/// Puts the accumulators of 8 columns in their rows.
#[inline(always)]
pub(crate) fn read_sums(
    rows: usize,
    accumulator: Accumulator,
    registers: &[Lanes],
    sums: &mut arithmetic::Sums,
) {
    let halves = accumulator == Accumulator::F16;
    for place in 0..rows / 4 {
        let lanes = if halves { &registers[place / 2] } else { &registers[place] };
        for (lane, &word) in lanes.iter().enumerate() {
            let (row, column) = accumulator_position(rows, place, lane);
            sums[row][column] = if halves { part::<2>(word, place % 2) } else { word };
        }
    }
}

/// Undoes [`read_sums`].
#[inline(always)]
pub(crate) fn write_sums(
    rows: usize,
    accumulator: Accumulator,
    sums: &arithmetic::Sums,
    registers: &mut [Lanes],
) {
    let halves = accumulator == Accumulator::F16;
    for place in 0..rows / 4 {
        let lanes = if halves { &mut registers[place / 2] } else { &mut registers[place] };
        for (lane, word) in lanes.iter_mut().enumerate() {
            let (row, column) = accumulator_position(rows, place, lane);
            let x = sums[row][column];
            *word = if halves && place % 2 == 1 { *word | x << 16 } else { x };
        }
    }
}

#[cfg(test)]
#[path = "mma_tests.rs"]
mod tests;
