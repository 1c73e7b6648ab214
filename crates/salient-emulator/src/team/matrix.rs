//! What a multiply of a warpgroup computes: operands of 16-bit floats in shared memory, described by
//! 64 bits (PTX ISA: Matrix Descriptor Format; Shared Memory Matrix Layout), and products in f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::tensor::swizzled;

/// Rows of a and d.
pub(super) const ROWS: usize = 64;

/// Columns of a, rows of b.
pub(super) const DEPTH: usize = 16;

/// Elements of the unit that lies together and is swizzled as one.
const UNIT: usize = 8;

/// Where an operand lies, offsets and strides in bytes.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    /// Bytes of the swizzle, 0 for none.
    swizzle: u32,
}

impl Descriptor {
    fn decode(bits: u64) -> Result<Self, String> {
        if bits >> 49 & 7 != 0 {
            return Err("the base offset of a matrix descriptor is emulated as 0 alone".into());
        }
        let field = |shift: u32| (bits >> shift & 0x3fff) as usize * 16;
        let swizzle = [0, 128, 64, 32][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// The offset of unit `j` along k of row `i`, where k is major.
    fn k_major(&self, i: usize, j: usize) -> usize {
        match self.swizzle as usize {
            0 => self.start + i / 8 * self.stride + i % 8 * 16 + j * self.leading,
            width => self.start + i / 8 * self.stride + i % 8 * width + j * 16,
        }
    }

    /// The offset of unit `i` along the rows, at `k`, where rows are major.
    fn row_major(&self, i: usize, k: usize) -> usize {
        match self.swizzle as usize {
            0 => self.start + i * self.stride + k / 8 * self.leading + k % 8 * 16,
            width => {
                let units = width / 16;
                let atom = i / units * self.leading + k / 8 * self.stride;
                self.start + atom + i % units * 16 + k % 8 * width
            }
        }
    }
}

/// Gives 16 bytes of shared memory at an offset, or says why they cannot be read.
pub(super) type Read<'a> = dyn Fn(usize) -> Result<[u8; 16], String> + 'a;

/// An operand's `rows` (columns of b) times DEPTH elements as f32, `[k][row]`.
pub(super) fn operand(
    read: &Read<'_>,
    descriptor: u64,
    transposed: bool,
    bf16: bool,
    rows: usize,
) -> Result<Vec<f32>, String> {
    let descriptor = Descriptor::decode(descriptor)?;
    let mut bits = vec![0u16; rows * DEPTH];
    let unit = |offset: usize| -> Result<[u16; UNIT], String> {
        let bytes = read(swizzled(offset, descriptor.swizzle))?;
        Ok(std::array::from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    };
    if transposed {
        for k in 0..DEPTH {
            for i in 0..rows / UNIT {
                let place = &mut bits[k * rows + i * UNIT..][..UNIT];
                place.copy_from_slice(&unit(descriptor.row_major(i, k))?);
            }
        }
    } else {
        for row in 0..rows {
            for j in 0..DEPTH / UNIT {
                for (i, element) in unit(descriptor.k_major(row, j))?.into_iter().enumerate() {
                    bits[(j * UNIT + i) * rows + row] = element;
                }
            }
        }
    }
    Ok(to_floats(&bits, bf16))
}

/// The rows of a that lie in registers, `[k][row]`. Lane l of warp w holds rows 16 w + l / 4 and the
/// eighth after it; word i is columns 2 (l % 4) and the next, of the second half of k from word 2, of
/// the eighth row where i is odd (PTX ISA: Matrix Fragments for wgmma.mma_async.m64nNk16).
pub(super) fn registers(words: &[[u32; 4]; 128], bf16: bool) -> Vec<f32> {
    let mut bits = vec![0u16; ROWS * DEPTH];
    for (lane, words) in words.iter().enumerate() {
        for (i, &word) in words.iter().enumerate() {
            let row = lane / 32 * 16 + lane % 32 / 4 + 8 * (i % 2);
            let k = 2 * (lane % 4) + 8 * (i / 2);
            bits[k * ROWS + row] = word as u16;
            bits[(k + 1) * ROWS + row] = (word >> 16) as u16;
        }
    }
    to_floats(&bits, bf16)
}

/// The place of element i of a thread's accumulators in d, `[row][column]`: each tile of 8 columns
/// is four elements (PTX ISA: as above, Accumulator D).
pub(super) fn place(lane: usize, i: usize, n: usize) -> usize {
    let row = lane / 32 * 16 + lane % 32 / 4 + 8 * (i / 2 % 2);
    row * n + 8 * (i / 4) + 2 * (lane % 4) + i % 2
}

fn to_floats(bits: &[u16], bf16: bool) -> Vec<f32> {
    let mut values = vec![0.0; bits.len()];
    if bf16 {
        bytemuck::cast_slice::<u16, self::bf16>(bits).convert_to_f32_slice(&mut values);
    } else {
        bytemuck::cast_slice::<u16, f16>(bits).convert_to_f32_slice(&mut values);
    }
    values
}

/// d += a b, every product added by itself and in order: d is `[row][column]`, a `[k][row]`, b
/// `[k][column]`.
pub(super) fn multiply_add(d: &mut [f32], a: &[f32], b: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs.
        return unsafe { multiply_add_avx2(d, a, b) };
    }
    multiply_add_by::<8>(d, a, b);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_add_avx2(d: &mut [f32], a: &[f32], b: &[f32]) {
    multiply_add_by::<16>(d, a, b);
}

/// So many columns at a time, which divide them, in registers.
#[inline(always)]
fn multiply_add_by<const WIDTH: usize>(d: &mut [f32], a: &[f32], b: &[f32]) {
    let n = d.len() / ROWS;
    for (row, d) in d.chunks_exact_mut(n).enumerate() {
        for (at, d) in d.chunks_exact_mut(WIDTH).enumerate() {
            let mut sums = [0.0; WIDTH];
            sums.copy_from_slice(d);
            for k in 0..DEPTH {
                let factor = a[k * ROWS + row];
                let b = &b[k * n + at * WIDTH..][..WIDTH];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += factor * b;
                }
            }
            d.copy_from_slice(&sums);
        }
    }
}
