//! Which lane holds which element of a matrix, and the instructions that move 8x8 matrices.
//!
//! All the figures of PTX ISA: "Matrix Fragments for mma.m16n8k8" and its kin follow one scheme. A
//! lane is `4 * group + thread`. A register of A or B holds neighbours along k; the threads of a
//! group follow each other along k; further registers take the other 8 rows first, then the next
//! stretch of k. Accumulators hold neighbours along the columns. `wgmma` (PTX ISA: "Register
//! Fragments and Shared Memory Matrix Layouts") gives warp `w` rows `16 * w` on, in the same
//! scheme.

use super::Lanes;

/// The (row, k) of A that lane `lane` holds in place `index` of its `register`th register, where a
/// register holds `width` elements and the warp has `rows` (8 or 16) rows.
#[must_use]
#[inline(always)]
pub const fn left_position(
    rows: usize,
    width: usize,
    register: usize,
    lane: usize,
    index: usize,
) -> (usize, usize) {
    let halves = rows / 8;
    let (group, thread) = (lane / 4, lane % 4);
    let (half, stretch) = (register % halves, register / halves);
    (group + 8 * half, 4 * width * stretch + width * thread + index)
}

/// The (k, column) of B, likewise.
#[must_use]
#[inline(always)]
pub const fn right_position(
    width: usize,
    register: usize,
    lane: usize,
    index: usize,
) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    (4 * width * register + width * thread + index, group)
}

/// The (row, column) of the accumulator that lane `lane` holds as its `place`th, counting every
/// accumulator, also where two share a register. Each 8 columns take 4 places, or 2 where the warp
/// has 8 rows.
#[must_use]
#[inline(always)]
pub const fn accumulator_position(rows: usize, place: usize, lane: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    let (block, place) = (place / (rows / 4), place % (rows / 4));
    (group + 8 * (place / 2), 8 * block + 2 * thread + place % 2)
}

/// PTX ISA: ldmatrix, for `.m8n8` and `.b16`. Eight rows of 16 bytes for each of 1, 2 or 4
/// matrices, in the order of the lanes that give their addresses; a register for each matrix, the
/// others zero.
#[must_use]
pub fn load_matrices(rows: &[[u8; 16]], transposed: bool) -> [Lanes; 4] {
    let mut registers = [[0; 32]; 4];
    for (register, matrix) in registers.iter_mut().zip(rows.chunks_exact(8)) {
        for (lane, value) in register.iter_mut().enumerate() {
            let (group, thread) = (lane / 4, lane % 4);
            let half = |row: usize, column: usize| {
                u32::from(u16::from_le_bytes([
                    matrix[row][2 * column],
                    matrix[row][2 * column + 1],
                ]))
            };
            *value = if transposed {
                half(2 * thread, group) | half(2 * thread + 1, group) << 16
            } else {
                half(group, 2 * thread) | half(group, 2 * thread + 1) << 16
            };
        }
    }
    registers
}

/// PTX ISA: stmatrix, for `.m8n8` and `.b16`: the eight rows of each of `registers`' matrices, to
/// be stored at the addresses that lanes 0 to 7 give for the first, and so on.
#[must_use]
pub fn store_matrices(registers: &[Lanes], transposed: bool) -> Vec<[u8; 16]> {
    let mut rows = vec![[0; 16]; 8 * registers.len()];
    for (register, matrix) in registers.iter().zip(rows.chunks_exact_mut(8)) {
        for (lane, &value) in register.iter().enumerate() {
            let (group, thread) = (lane / 4, lane % 4);
            for (i, half) in [value as u16, (value >> 16) as u16].into_iter().enumerate() {
                let (row, column) =
                    if transposed { (2 * thread + i, group) } else { (group, 2 * thread + i) };
                matrix[row][2 * column..][..2].copy_from_slice(&half.to_le_bytes());
            }
        }
    }
    rows
}

/// PTX ISA: movmatrix: the 8x8 matrix of 16-bit elements in a register, transposed.
#[must_use]
pub fn transpose_matrix(register: &Lanes) -> Lanes {
    let half =
        |row: usize, column: usize| register[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (group, thread) = (lane / 4, lane % 4);
        half(2 * thread, group) | half(2 * thread + 1, group) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matrix `m`'s element (row, column) is `100 * m + 10 * row + column`.
    fn numbered_rows(matrices: usize) -> Vec<[u8; 16]> {
        let row = |i: usize| {
            let mut bytes = [0; 16];
            for column in 0..8 {
                let number = (100 * (i / 8) + 10 * (i % 8) + column) as u16;
                bytes[2 * column..][..2].copy_from_slice(&number.to_le_bytes());
            }
            bytes
        };
        (0..8 * matrices).map(row).collect()
    }

    #[test]
    fn load_gives_lane_its_pair() {
        let plain = load_matrices(&numbered_rows(4), false);
        // The manual's figure: thread 0 has row 0, elements 0 and 1; thread 5 row 1, 2 and 3;
        // thread 31 row 7, 6 and 7.
        for (m, register) in plain.iter().enumerate() {
            let m = 100 * m as u32;
            assert_eq!(register[0], m | (m + 1) << 16);
            assert_eq!(register[5], (m + 12) | (m + 13) << 16);
            assert_eq!(register[31], (m + 76) | (m + 77) << 16);
        }
        let transposed = load_matrices(&numbered_rows(2), true);
        assert_eq!(transposed[0][0], 10 << 16);
        assert_eq!(transposed[1][5], 121 | 131 << 16);
        assert_eq!(transposed[1][31], 167 | 177 << 16);
        assert_eq!(transposed[2..], [[0; 32]; 2]);
    }

    #[test]
    fn store_undoes_load() {
        for transposed in [false, true] {
            for matrices in [1, 2, 4] {
                let rows = numbered_rows(matrices);
                let registers = load_matrices(&rows, transposed);
                assert_eq!(store_matrices(&registers[..matrices], transposed), rows);
            }
        }
    }

    #[test]
    fn transposition_is_a_transposed_load() {
        let rows = numbered_rows(1);
        let plain = load_matrices(&rows, false)[0];
        assert_eq!(transpose_matrix(&plain), load_matrices(&rows, true)[0]);
    }

    /// The columns of A's figure for mma.m16n8k16 with 16-bit elements, as the manual words it.
    #[test]
    fn left_positions_are_those_of_the_manual() {
        for lane in 0..32 {
            let (group, thread) = (lane >> 2, lane % 4);
            for i in 0..8 {
                // m16n8k16, .f16 and .bf16
                let row = if matches!(i, 0 | 1 | 4 | 5) { group } else { group + 8 };
                let k = thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 };
                assert_eq!(left_position(16, 2, i / 2, lane, i % 2), (row, k));
            }
            for i in 0..16 {
                // m16n8k32, bytes
                let row = if matches!(i, 0..4 | 8..12) { group } else { group + 8 };
                let k = thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 };
                assert_eq!(left_position(16, 4, i / 4, lane, i % 4), (row, k));
            }
            for i in 0..4 {
                // m16n8k8, .tf32
                let row = if matches!(i, 0 | 2) { group } else { group + 8 };
                let k = if i < 2 { thread } else { thread + 4 };
                assert_eq!(left_position(16, 1, i, lane, 0), (row, k));
            }
            // m8n8k4, .f64, and m8n8k16, bytes
            assert_eq!(left_position(8, 1, 0, lane, 0), (group, thread));
            assert_eq!(left_position(8, 4, 0, lane, 3), (group, thread * 4 + 3));
            for i in 0..8 {
                // m16n8k16, .f64
                let k = if i % 2 == 0 { i * 2 + thread } else { i * 2 - 2 + thread };
                assert_eq!(left_position(16, 1, i, lane, 0), (group + 8 * (i % 2), k));
            }
        }
    }

    #[test]
    fn right_and_accumulator_positions_are_those_of_the_manual() {
        for lane in 0..32 {
            let (group, thread) = (lane >> 2, lane % 4);
            for i in 0..4 {
                let k = thread * 2 + (i & 1) + if i < 2 { 0 } else { 8 };
                assert_eq!(right_position(2, i / 2, lane, i % 2), (k, group));
                let row = if i < 2 { group } else { group + 8 };
                assert_eq!(accumulator_position(16, i, lane), (row, thread * 2 + (i & 1)));
            }
            for i in 0..8 {
                let k = thread * 4 + (i & 3) + if i < 4 { 0 } else { 16 };
                assert_eq!(right_position(4, i / 4, lane, i % 4), (k, group));
            }
            for i in 0..2 {
                assert_eq!(right_position(1, i, lane, 0), (thread + 4 * i, group));
                assert_eq!(accumulator_position(8, i, lane), (group, thread * 2 + i));
            }
            // wgmma: registers d4 to d7 are the next 8 columns.
            assert_eq!(accumulator_position(16, 6, lane), (group + 8, 8 + thread * 2));
            assert_eq!(accumulator_position(16, 127, lane), (group + 8, 248 + thread * 2 + 1));
        }
    }
}
