//! A warp's registers: a row of 32 lanes each.

use bytemuck::{Pod, Zeroable};

/// 32 bits of every lane. A 64-bit register is two rows, one behind the other, that hold 32 words
/// of 64 bits; narrower ones lie in the low bits of a row, with zeros above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Row(pub(crate) [u32; 32]);

/// A 32-bit value of every lane.
pub(crate) type Words = [u32; 32];
/// A 64-bit value of every lane.
pub(crate) type Longs = [u64; 32];

/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// The registers of a warp. What was declared, constants and special registers are all rows, so an
/// operand is a row's index and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct Registers {
    pub(crate) rows: Vec<Row>,
    /// A bit for every lane.
    pub(crate) predicates: Vec<u32>,
}

impl Registers {
    #[inline(always)]
    pub(crate) fn words(&self, row: u32) -> &Words {
        &self.rows[row as usize].0
    }

    #[inline(always)]
    pub(crate) fn longs(&self, row: u32) -> &Longs {
        let rows: &[Row] = &self.rows[row as usize..row as usize + 2];
        bytemuck::from_bytes(bytemuck::cast_slice::<Row, u8>(rows))
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub(crate) fn set_words(&mut self, row: u32, mask: u32, values: &Words) {
        let to = &mut self.rows[row as usize].0;
        if mask == FULL {
            *to = *values;
        } else {
            for lane in 0..32 {
                to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_longs(&mut self, row: u32, mask: u32, values: &Longs) {
        let rows: &mut [Row] = &mut self.rows[row as usize..row as usize + 2];
        let to: &mut Longs = bytemuck::from_bytes_mut(bytemuck::cast_slice_mut::<Row, u8>(rows));
        if mask == FULL {
            *to = *values;
        } else {
            for lane in 0..32 {
                to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    /// A predicate operand: an index, doubled, plus one if it is negated.
    #[inline(always)]
    pub(crate) fn predicate(&self, operand: u32) -> u32 {
        self.predicates[(operand >> 1) as usize] ^ 0u32.wrapping_sub(operand & 1)
    }

    /// Writes the lanes of a mask into a predicate, by its index.
    #[inline(always)]
    pub(crate) fn set_predicate(&mut self, index: u32, mask: u32, values: u32) {
        let to = &mut self.predicates[index as usize];
        *to = *to & !mask | values & mask;
    }
}
