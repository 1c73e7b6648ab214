//! The product of matrices that the four warps of a warpgroup compute together.
//!
//! PTX ISA: wgmma.mma_async. A caller gathers the operands once, then multiplies warp by warp.

use super::Lanes;
use super::arithmetic::{self, Accumulator, Arithmetic, Instruction, Left, Right, Sum};
use super::descriptor::{Descriptor, Major, chunks};
use super::mma::{fill_left, read_sums, write_sums};
use super::numbers::Element;

/// The shape and the types of a `wgmma.mma_async`, dense: 64 rows, `columns` columns, 32 bytes
/// along k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wgmma {
    columns: usize,
    left: Element,
    right: Element,
    accumulator: Accumulator,
}

/// A shape, types or an order of elements that PTX does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarpgroupError {
    /// The shape or the types.
    #[error("wgmma.m64n{n}k{k} of {left:?} and {right:?} with accumulators {accumulator:?}")]
    Unsupported {
        /// The columns asked for.
        n: usize,
        /// The depth asked for.
        k: usize,
        /// The type of A.
        left: Element,
        /// The type of B.
        right: Element,
        /// The type of the accumulators.
        accumulator: Accumulator,
    },
    /// Only 16-bit types may be transposed in shared memory.
    #[error("wgmma reads {0:?} from shared memory only with k as the major dimension")]
    Transposed(Element),
    /// An operand that reaches out of the block's shared memory.
    #[error(
        "wgmma reads 16 bytes at shared address {address:#x}, out of the block's {end:#x} bytes"
    )]
    OutOfBounds {
        /// Where the first chunk outside begins.
        address: u32,
        /// The end of shared memory.
        end: u32,
    },
}

/// The rows of A of one warp.
pub struct LeftOperand(Box<Left>);

/// All columns of B.
pub struct RightOperand(Vec<Right>);

impl Wgmma {
    /// The instruction with 64 rows, `n` columns, depth `k` and these types.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new(
        (n, k): (usize, usize),
        left: Element,
        right: Element,
        accumulator: Accumulator,
    ) -> Result<Self, WarpgroupError> {
        use Accumulator as To;
        let types = match (left, accumulator) {
            (Element::F16, To::F16 | To::F32) | (Element::Bf16 | Element::Tf32, To::F32) => {
                left == right
            }
            (Element::E4m3 | Element::E5m2, To::F16 | To::F32) => right.is_float8(),
            (Element::S8 | Element::U8, To::S32 { .. }) => right.is_integer(),
            _ => false,
        };
        // Integers have 8, 16, 24, 32 and then multiples of 16 columns.
        let step = if left.is_integer() && n > 32 { 16 } else { 8 };
        if types && k * left.bytes() == 32 && n % step == 0 && (8..=256).contains(&n) {
            Ok(Self { columns: n, left, right, accumulator })
        } else {
            Err(WarpgroupError::Unsupported { n, k, left, right, accumulator })
        }
    }

    /// How many registers the accumulators take in each warp.
    #[must_use]
    pub const fn accumulators(&self) -> usize {
        self.columns / 8 * self.registers_of_block()
    }

    /// The accumulator registers of 8 columns.
    const fn registers_of_block(&self) -> usize {
        if matches!(self.accumulator, Accumulator::F16) { 2 } else { 4 }
    }

    const fn depth(&self) -> usize {
        32 / self.left.bytes()
    }

    /// A warp's rows of A from its registers, negated on demand.
    #[must_use]
    pub fn left_from_registers(&self, registers: &[Lanes; 4], negate: bool) -> LeftOperand {
        let mut panel = Box::new(Left::new());
        fill_left(&mut panel, self.left, 16, self.depth(), registers, false);
        if negate {
            panel.negate();
        }
        LeftOperand(panel)
    }

    /// Rows `16 * warp` and up of A, from shared memory (byte 0 of the slice has shared address 0).
    ///
    /// # Errors
    ///
    /// If the order of elements does not exist for the type, or if the rows reach out of `shared`.
    pub fn left_from_shared(
        &self,
        shared: &[u8],
        descriptor: &Descriptor,
        major: Major,
        warp: usize,
        negate: bool,
    ) -> Result<LeftOperand, WarpgroupError> {
        let depth = self.depth();
        let mut raw = [0; 16 * 32];
        let rows = 16 * warp..16 * warp + 16;
        gather(shared, descriptor, major, self.left, rows, |row, k, x| raw[row * depth + k] = x)?;
        let mut panel = Box::new(Left::new());
        panel.fill(self.left, false, &raw[..16 * depth]);
        if negate {
            panel.negate();
        }
        Ok(LeftOperand(panel))
    }

    /// All of B, from shared memory (byte 0 of the slice has shared address 0).
    ///
    /// # Errors
    ///
    /// As [`Self::left_from_shared`].
    pub fn right_from_shared(
        &self,
        shared: &[u8],
        descriptor: &Descriptor,
        major: Major,
        negate: bool,
    ) -> Result<RightOperand, WarpgroupError> {
        let depth = self.depth();
        let mut raw = vec![0; depth * self.columns];
        gather(shared, descriptor, major, self.right, 0..self.columns, |column, k, x| {
            raw[(column / 8 * depth + k) * 8 + column % 8] = x;
        })?;
        let mut panels = Vec::with_capacity(self.columns / 8);
        for raw in raw.chunks_exact(8 * depth) {
            let panel = panels.push_mut(Right::new());
            panel.fill(self.right, false, raw);
            if negate {
                panel.negate();
            }
        }
        Ok(RightOperand(panels))
    }

    /// The bytes of shared memory that A takes, for all four warps.
    #[must_use]
    pub fn left_ranges(&self, descriptor: &Descriptor, major: Major) -> Vec<std::ops::Range<u32>> {
        descriptor.ranges(major, self.left, 64)
    }

    /// The bytes of shared memory that B takes.
    #[must_use]
    pub fn right_ranges(&self, descriptor: &Descriptor, major: Major) -> Vec<std::ops::Range<u32>> {
        descriptor.ranges(major, self.right, self.columns as u32)
    }

    /// One warp's `d = a * b + d`, or `d = a * b` if not `accumulate` (`scale-d`).
    ///
    /// # Panics
    ///
    /// If `d` is not as long as [`Self::accumulators`], or `right` is of another instruction.
    pub fn multiply(
        &self,
        arithmetic: Arithmetic,
        left: &LeftOperand,
        right: &RightOperand,
        accumulate: bool,
        d: &mut [Lanes],
    ) {
        assert_eq!(d.len(), self.accumulators(), "{self:?}");
        assert_eq!(right.0.len(), self.columns / 8, "{self:?}");
        let sum = Sum::of(arithmetic, Instruction::Warpgroup, self.left, self.accumulator);
        for (right, d) in right.0.iter().zip(d.chunks_exact_mut(self.registers_of_block())) {
            let mut sums = [[0; 8]; 16];
            if accumulate {
                read_sums(16, self.accumulator, d, &mut sums);
            }
            arithmetic::multiply(sum, self.depth(), &left.0, right, &mut sums);
            write_sums(16, self.accumulator, &sums, d);
        }
    }
}

/// Reads rows of A or columns of B; `place` takes the row or column, counted from the first of
/// `mn`, the k, and the raw element.
fn gather(
    shared: &[u8],
    descriptor: &Descriptor,
    major: Major,
    element: Element,
    mn: std::ops::Range<usize>,
    mut place: impl FnMut(usize, usize, u32),
) -> Result<(), WarpgroupError> {
    let bytes = element.bytes();
    if major == Major::Mn && bytes != 2 {
        return Err(WarpgroupError::Transposed(element));
    }
    let per_chunk = 16 / bytes;
    let (first_line, first_column) = match major {
        Major::K => (mn.start, 0),
        Major::Mn => (0, mn.start / per_chunk),
    };
    for (line, column) in chunks(major, element, mn.len() as u32) {
        let address =
            descriptor.chunk(major, line + first_line as u32, column + first_column as u32);
        let start = address as usize;
        let Some(chunk) = shared.get(start..start + 16) else {
            return Err(WarpgroupError::OutOfBounds { address, end: shared.len() as u32 });
        };
        let (line, first) = (line as usize, column as usize * per_chunk);
        for (i, x) in chunk.chunks_exact(bytes).enumerate() {
            let x = x.iter().rev().fold(0, |x, &byte| x << 8 | u32::from(byte));
            match major {
                Major::K => place(line, first + i, x),
                Major::Mn => place(first + i, line, x),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "warpgroup_tests.rs"]
mod tests;
