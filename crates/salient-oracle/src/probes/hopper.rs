//! Probes of what only compute capability 9.0 has.

use half::{bf16, f16};

// ---- swizzles ----

/// The place of 16-byte unit `unit` in row `row` of rows that are `width` bytes wide, from the
/// tables of the PTX manual (Swizzling Modes): a line of 128 bytes holds one row, two or four, and
/// the order of the units in a row changes from line to line.
fn swizzled(row: usize, unit: usize, width: usize) -> usize {
    const ORDERS: [[usize; 8]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [5, 4, 7, 6, 1, 0, 3, 2],
        [6, 7, 4, 5, 2, 3, 0, 1],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ];
    let units = width / 16;
    ORDERS[row * width / 128 % units][unit]
}

// ---- tensor copies ----

/// Bytes of shared memory that each section of the probe gives.
const BOX_BYTES: usize = 128 * 14 * 2;

/// Elements of the tensor, innermost first, and its strides in bytes.
const SIZES: [usize; 4] = [72, 10, 3, 2];
const STRIDES: [usize; 4] = [2, 160, 1632, 4912];

/// Of every section: the rank, the swizzle in bytes, the box.
const BOXES: [(usize, usize, [usize; 4]); 4] = [
    (2, 0, [24, 14, 1, 1]),
    (4, 32, [16, 14, 2, 1]),
    (3, 64, [32, 14, 2, 1]),
    (3, 128, [64, 14, 2, 1]),
];

/// Where the box begins.
const CORNER: [i64; 4] = [48, -2, 2, 1];

pub(super) fn tensor() -> Vec<u32> {
    (0..STRIDES[3] as u32).map(|i| (2 * i + 1) | ((2 * i + 2) << 16)).collect()
}

pub(super) const COPIED_WORDS: usize = BOXES.len() * BOX_BYTES / 4;

pub(super) fn check_tensor_copies(output: &[u32]) {
    let sections = output.chunks(BOX_BYTES / 4).zip(BOXES);
    for (section, (words, (rank, swizzle, extent))) in sections.enumerate() {
        let mut expected = vec![0x0007; BOX_BYTES / 2];
        (0..BOX_BYTES / 4).for_each(|i| expected[2 * i + 1] = 0);
        let rows: usize = extent[1..rank].iter().product();
        for row in 0..rows {
            for x in 0..extent[0] {
                let place = [x, row % extent[1], row / extent[1] % extent[2], 0];
                let (mut byte, mut inside) = (0, true);
                for i in 0..rank {
                    let at = CORNER[i] + place[i] as i64;
                    inside &= (0..SIZES[i] as i64).contains(&at);
                    byte += at * STRIDES[i] as i64;
                }
                let value = if inside { (byte / 2 + 1) as u16 } else { 0 };
                let unit = if swizzle == 0 { x / 8 } else { swizzled(row, x / 8, swizzle) };
                expected[row * extent[0] + unit * 8 + x % 8] = value;
            }
        }
        let found: Vec<u16> = words.iter().flat_map(|&w| [w as u16, (w >> 16) as u16]).collect();
        assert_eq!(found, expected, "section {section}");
    }
}

// ---- barriers ----

const TILE_WORDS: usize = 96;

pub(super) const PIPELINE_WORDS: usize = 7 * TILE_WORDS;

pub(super) fn check_pipeline(output: &[u32]) {
    for (i, &word) in output.iter().enumerate() {
        let (tile, place) = (i / TILE_WORDS, i % TILE_WORDS);
        assert_eq!(word as usize, tile * TILE_WORDS + TILE_WORDS - 1 - place, "word {i}");
    }
}

pub(super) fn check_named_barriers(output: &[u32]) {
    for (i, &word) in output.iter().enumerate() {
        assert_eq!(word as usize, if i < 64 { 127 - i } else { i - 64 }, "word {i}");
    }
}

// ---- multiplies ----

/// Columns of a, rows of b: two multiplies.
const DEPTH: usize = 32;
const ROWS: usize = 64;

/// Bytes of a and of b in the input of a section, and words of its output.
const A_BYTES: usize = 64 * 128;
const B_BYTES: usize = 256 * 128;
const D_WORDS: usize = 64 * 256;

/// A section of the probe.
struct Multiply {
    bf16: bool,
    /// Bytes; 0 for none.
    swizzle: usize,
    /// Whether the rows of a and the columns of b are contiguous.
    rows_major: bool,
    n: usize,
    a_in_registers: bool,
}

const fn multiply(bf16: bool, swizzle: usize, rows_major: bool, n: usize) -> Multiply {
    Multiply { bf16, swizzle, rows_major, n, a_in_registers: false }
}

const MULTIPLIES: [Multiply; 10] = [
    multiply(false, 0, false, 48),
    multiply(true, 32, false, 16),
    multiply(false, 64, false, 96),
    multiply(true, 128, false, 256),
    multiply(true, 0, true, 80),
    multiply(false, 32, true, 208),
    multiply(true, 64, true, 160),
    multiply(false, 128, true, 128),
    Multiply { a_in_registers: true, ..multiply(false, 128, true, 192) },
    Multiply { a_in_registers: true, ..multiply(true, 128, false, 112) },
];

pub(super) const PRODUCT_WORDS: usize = MULTIPLIES.len() * D_WORDS;

// Small integers, of which both types hold sums and products exactly.

fn a(row: usize, k: usize) -> f32 {
    ((row * 7 + k * 5 + row * k) % 19) as f32 - 9.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 11 + column * 3 + k * column) % 17) as f32 - 8.0
}

impl Multiply {
    fn bits(&self, x: f32) -> u16 {
        if self.bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() }
    }

    /// The byte of element `(row, k)` of an operand of this many rows (columns, of b), from the
    /// figures of the PTX manual (Shared Memory Matrix Layout; Strides).
    fn byte(&self, rows: usize, row: usize, k: usize) -> usize {
        match (self.swizzle, self.rows_major) {
            // Core matrices of 8 rows of 16 bytes; those along the rows follow each other.
            (0, false) => k / 8 * rows * 16 + row / 8 * 128 + row % 8 * 16 + k % 8 * 2,
            (0, true) => k / 8 * rows * 16 + row / 8 * 128 + k % 8 * 16 + row % 8 * 2,
            // Tiles as wide as the swizzle, along k or along the rows.
            (width, false) => {
                let (tile, k) = (k / (width / 2), k % (width / 2));
                let unit = swizzled(row, k / 8, width);
                tile * rows * width + row * width + unit * 16 + k % 8 * 2
            }
            (width, true) => {
                let (tile, row) = (row / (width / 2), row % (width / 2));
                let unit = swizzled(k, row / 8, width);
                tile * DEPTH * width + k * width + unit * 16 + row % 8 * 2
            }
        }
    }

    /// What lies in shared memory.
    fn image(&self) -> Vec<u8> {
        // Where no element lies, a NaN of both types.
        let mut image = vec![0xff; A_BYTES + B_BYTES];
        let mut put = |byte: usize, x: f32| {
            image[byte..byte + 2].copy_from_slice(&self.bits(x).to_le_bytes());
        };
        for k in 0..DEPTH {
            for column in 0..self.n {
                put(A_BYTES + self.byte(self.n, column, k), b(k, column));
            }
            for row in 0..ROWS {
                let byte =
                    if self.a_in_registers { fragment(row, k) } else { self.byte(ROWS, row, k) };
                put(byte, a(row, k));
            }
        }
        image
    }

    fn check(&self, output: &[u32], section: usize) {
        for (thread, d) in output[..ROWS * self.n].chunks(self.n / 2).enumerate() {
            for (i, &d) in d.iter().enumerate() {
                // As the manual draws d: a warp has 16 rows, a row of four lanes 8 columns.
                let (warp, lane) = (thread / 32, thread % 32);
                let row = 16 * warp + lane / 4 + if i % 4 < 2 { 0 } else { 8 };
                let column = i / 4 * 8 + lane % 4 * 2 + i % 2;
                let before = if self.a_in_registers { 1000.0 } else { 0.0 };
                let sum: f32 = (0..DEPTH).map(|k| a(row, k) * b(k, column)).sum();
                let found = f32::from_bits(d);
                assert_eq!(found, before + sum, "section {section}, thread {thread}, element {i}");
            }
        }
    }
}

/// The byte of element `(row, k)` of a among the threads' words, `[2][128][4]`, from the manual's
/// figure of a in registers: of an 8 by 8 quarter of a warp's 16 by 16, a lane has two elements.
fn fragment(row: usize, k: usize) -> usize {
    let (step, k) = (k / 16, k % 16);
    let (warp, row) = (row / 16, row % 16);
    let lane = row % 8 * 4 + k % 8 / 2;
    let word = row / 8 + k / 8 * 2;
    ((step * 128 + warp * 32 + lane) * 4 + word) * 4 + k % 2 * 2
}

pub(super) fn operands() -> Vec<u32> {
    let images = MULTIPLIES.iter().flat_map(Multiply::image).collect::<Vec<u8>>();
    images.chunks(4).map(|bytes| u32::from_le_bytes(std::array::from_fn(|i| bytes[i]))).collect()
}

pub(super) fn check_multiplies(output: &[u32]) {
    for (section, (multiply, d)) in MULTIPLIES.iter().zip(output.chunks(D_WORDS)).enumerate() {
        multiply.check(d, section);
    }
}
