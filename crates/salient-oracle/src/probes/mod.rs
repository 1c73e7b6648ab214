//! What CUDA's built-ins and the wrappers of `kernels/ptx/` do, by the PTX manual.
//!
//! A probe is a small kernel of `crates/salient-gpu/probes/`, with its input and the check of its
//! output here: the software GPU and a device answer for the same.

mod hopper;

use half::{bf16, f16};
use salient::dtype::F8E4M3;

/// A small kernel, from words to words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Shuffles, votes, matches and reductions: `[32]` words to `[32, 10]`.
    Warp,
    /// `ldmatrix`: four 8 x 8 matrices of 16 bits to `[32, 4]` words.
    Matrices,
    /// `ldmatrix.trans`: the same, every matrix transposed.
    MatricesTransposed,
    /// `movmatrix`: one 8 x 8 matrix of 16 bits, `[32]` words to `[32]`.
    MatrixMoved,
    /// Truncation: `[32]` f32 that are not negative to `[2, 32]` words, as f16 and as bf16.
    Truncations,
    /// Pairs of f32 rounded into words: `[32, 2]` f32 to `[2, 32]` words, of f16 and of bf16.
    Packs,
    /// fp8 E4M3: `[256]` words of four to `[5, 256]` words: the first as f32, the even and the odd
    /// ones as pairs of f16, and of bf16.
    Widenings,
    /// `mma.sync` of f16: `[32, 10]` words (4 of a, 2 of b, 4 of c) to `[32, 4]` f32.
    ProductF16,
    /// The same of bf16.
    ProductBf16,
    /// `cp.async`: 128 vectors of 16 bytes, reversed by halves, the last 8 read as zeros.
    Copies,
    /// Clusters of 4 blocks, which need compute capability 9.0: `[8, 4]` words.
    Cluster,
    /// Every f16 and every bf16 as f32, `[2, 65536]`.
    Conversions,
    /// `bar.sync` and `bar.arrive`: 128 words, changed about.
    NamedBarriers,
    /// `cp.async.bulk.tensor` of every swizzle, across the edges of a tensor: what shared memory
    /// holds.
    TensorCopies,
    /// `mbarrier`: 7 tiles of 96 words on their way through two stages, each reversed.
    Pipeline,
    /// `wgmma.mma_async` of every swizzle and major, f16 and bf16, from shared memory and
    /// registers: ten sections, images of shared memory to fragments of f32.
    Multiplies,
}

impl Probe {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Warp,
        Self::Matrices,
        Self::MatricesTransposed,
        Self::MatrixMoved,
        Self::Truncations,
        Self::Packs,
        Self::Widenings,
        Self::ProductF16,
        Self::ProductBf16,
        Self::Copies,
        Self::Cluster,
        Self::Conversions,
        Self::NamedBarriers,
        Self::TensorCopies,
        Self::Pipeline,
        Self::Multiplies,
    ];

    /// The name of its launcher: `int launcher(const uint32_t* in, uint32_t* out, SalientStream)`.
    pub fn launcher(self) -> &'static str {
        match self {
            Self::Warp => "salient_probe_warp",
            Self::Matrices => "salient_probe_matrices",
            Self::MatricesTransposed => "salient_probe_matrices_transposed",
            Self::MatrixMoved => "salient_probe_matrix_moved",
            Self::Truncations => "salient_probe_truncations",
            Self::Packs => "salient_probe_packs",
            Self::Widenings => "salient_probe_widenings",
            Self::ProductF16 => "salient_probe_product_f16",
            Self::ProductBf16 => "salient_probe_product_bf16",
            Self::Copies => "salient_probe_copies",
            Self::Cluster => "salient_probe_cluster",
            Self::Conversions => "salient_probe_conversions",
            Self::NamedBarriers => "salient_probe_named_barriers",
            Self::TensorCopies => "salient_probe_tensor_copies",
            Self::Pipeline => "salient_probe_pipeline",
            Self::Multiplies => "salient_probe_multiplies",
        }
    }

    /// Whether a device of this compute capability has what it probes, 80 for 8.0.
    pub fn runs_on(self, capability: i32) -> bool {
        match self {
            Self::TensorCopies | Self::Pipeline | Self::Multiplies => capability == 90,
            Self::Cluster => capability >= 90,
            _ => true,
        }
    }

    /// What it reads; nothing, for some.
    pub fn input(self) -> Vec<u32> {
        match self {
            Self::Warp => (0..32).map(warp_word).collect(),
            Self::MatrixMoved => (0..32).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect(),
            Self::Truncations => {
                let held = PACKED.into_iter().filter(|x| (0.0..=65504.0).contains(x));
                held.cycle().take(32).map(|x| x.abs().to_bits()).collect()
            }
            Self::Packs => PACKED.iter().cycle().take(64).map(|x| x.to_bits()).collect(),
            Self::Widenings => (0..=255u8).map(|i| u32::from_le_bytes(four(i))).collect(),
            Self::Matrices | Self::MatricesTransposed => {
                (0..128).map(|i| (2 * i) | ((2 * i + 1) << 16)).collect()
            }
            Self::ProductF16 => fragments(|x| f16::from_f32(x).to_bits()),
            Self::ProductBf16 => fragments(|x| bf16::from_f32(x).to_bits()),
            Self::Copies => (0..512).collect(),
            Self::Cluster | Self::Conversions => Vec::new(),
            Self::NamedBarriers => (0..128).collect(),
            Self::TensorCopies => hopper::tensor(),
            Self::Pipeline => (0..hopper::PIPELINE_WORDS as u32).collect(),
            Self::Multiplies => hopper::operands(),
        }
    }

    /// Words that it writes.
    pub fn output_len(self) -> usize {
        match self {
            Self::Warp => 320,
            Self::MatrixMoved => 32,
            Self::Packs | Self::Truncations => 64,
            Self::Matrices | Self::MatricesTransposed | Self::ProductF16 | Self::ProductBf16 => 128,
            Self::Widenings => 5 << 8,
            Self::Copies => 512,
            Self::Cluster => 32,
            Self::Conversions => 2 << 16,
            Self::NamedBarriers => 128,
            Self::TensorCopies => hopper::COPIED_WORDS,
            Self::Pipeline => hopper::PIPELINE_WORDS,
            Self::Multiplies => hopper::PRODUCT_WORDS,
        }
    }

    /// Compares what it wrote with what the manual says.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(self, output: &[u32]) {
        assert_eq!(output.len(), self.output_len(), "words of {self:?}");
        match self {
            Self::Warp => check_warp(output),
            Self::Matrices => check_matrices(output),
            Self::MatricesTransposed => check_transposed(output),
            Self::MatrixMoved => check_moved(output),
            Self::Truncations => check_truncations(output),
            Self::Packs => check_packs(output),
            Self::Widenings => check_widenings(output),
            Self::ProductF16 | Self::ProductBf16 => check_product(output),
            Self::Copies => check_copies(output),
            Self::Cluster => check_cluster(output),
            Self::Conversions => check_conversions(output),
            Self::NamedBarriers => hopper::check_named_barriers(output),
            Self::TensorCopies => hopper::check_tensor_copies(output),
            Self::Pipeline => hopper::check_pipeline(output),
            Self::Multiplies => hopper::check_multiplies(output),
        }
    }
}

fn warp_word(lane: u32) -> u32 {
    lane * lane * 7 + 3
}

fn check_warp(output: &[u32]) {
    let input = Probe::Warp.input();
    let x = |lane: usize| input[lane];
    let bits = |of: &dyn Fn(u32) -> bool| {
        (0..32).filter(|&i| of(input[i])).map(|i| 1u32 << i).sum::<u32>()
    };
    for (lane, results) in output.chunks(10).enumerate() {
        let half = if lane < 16 { 0..16 } else { 16..32 };
        let expected = [
            x(x(lane) as usize % 32),
            x(if lane < 3 { lane } else { lane - 3 }),
            x(if lane + 5 > 31 { lane } else { lane + 5 }),
            x(lane ^ 9),
            bits(&|x| x & 1 == 1),
            bits(&|other| other % 4 == x(lane) % 4),
            input.iter().sum(),
            input.iter().fold(0, |a, &b| a.max(b)),
            input[half].iter().sum(),
            input.iter().filter(|&x| x & 2 == 2).count() as u32,
        ];
        assert_eq!(results, expected, "lane {lane}");
    }
}

fn check_matrices(output: &[u32]) {
    for (lane, words) in output.chunks(4).enumerate() {
        for (matrix, &word) in words.iter().enumerate() {
            let first = (matrix * 64 + lane / 4 * 8 + 2 * (lane % 4)) as u32;
            assert_eq!(word, first | ((first + 1) << 16), "lane {lane}, matrix {matrix}");
        }
    }
}

fn check_transposed(output: &[u32]) {
    for (lane, words) in output.chunks(4).enumerate() {
        for (matrix, &word) in words.iter().enumerate() {
            let first = (matrix * 64 + 2 * (lane % 4) * 8 + lane / 4) as u32;
            assert_eq!(word, first | (first + 8) << 16, "lane {lane}, matrix {matrix}");
        }
    }
}

fn check_moved(output: &[u32]) {
    for (lane, &word) in output.iter().enumerate() {
        let first = (2 * (lane % 4) * 8 + lane / 4) as u32;
        assert_eq!(word, first | ((first + 8) << 16), "lane {lane}");
    }
}

fn check_truncations(output: &[u32]) {
    let input = Probe::Truncations.input();
    let (halves, brains) = output.split_at(32);
    for ((&x, &half), &brain) in input.iter().zip(halves).zip(brains) {
        let x = f32::from_bits(x);
        let (half, brain) = (f16::from_bits(half as u16), bf16::from_bits(brain as u16));
        // The largest value that does not exceed x.
        assert!(half.to_f32() <= x && f16::from_bits(half.to_bits() + 1).to_f32() > x, "{x:e}");
        assert!(brain.to_f32() <= x && bf16::from_bits(brain.to_bits() + 1).to_f32() > x, "{x:e}");
    }
}

/// Ties to even up and down, the edges of both types, subnormals, and what is no number.
const PACKED: [f32; 21] = [
    0.0,
    -0.0,
    1.0,
    -2.5,
    1.000_488_3,
    1.001_464_8,
    1.003_906_3,
    1.011_718_8,
    65504.0,
    65519.0,
    65520.0,
    -1e30,
    f32::MAX,
    5.96e-8,
    2.98e-8,
    3e-8,
    6.1e-5,
    1e-40,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn check_packs(output: &[u32]) {
    let input: Vec<f32> = Probe::Packs.input().into_iter().map(f32::from_bits).collect();
    let rounders: [fn(f32) -> u16; 2] =
        [|x| f16::from_f32(x).to_bits(), |x| bf16::from_f32(x).to_bits()];
    for (words, round) in output.chunks(32).zip(rounders) {
        for (pair, &word) in input.chunks(2).zip(words) {
            for (&x, bits) in pair.iter().zip([word as u16, (word >> 16) as u16]) {
                let expected = if x.is_nan() { 0x7fff } else { round(x) };
                assert_eq!(bits, expected, "{x:e}");
            }
        }
    }
}

/// Every value in every place, among others.
fn four(i: u8) -> [u8; 4] {
    [i, i.wrapping_mul(3), i.wrapping_mul(5) ^ 0x55, !i]
}

fn check_widenings(output: &[u32]) {
    let value = |bits: u8| F8E4M3::from_bits(bits).to_f32();
    let half = |bits: u16| f16::from_bits(bits).to_f32();
    let brain = |bits: u16| bf16::from_bits(bits).to_f32();
    let of: [&dyn Fn(u16) -> f32; 2] = [&half, &brain];
    for (i, &word) in output.iter().enumerate() {
        let (kind, bytes) = (i / 256, four((i % 256) as u8));
        let widened = match kind {
            0 => vec![(bytes[0], f32::from_bits(word))],
            _ => {
                let (of, odd) = (of[(kind - 1) / 2], (kind - 1) % 2);
                vec![(bytes[odd], of(word as u16)), (bytes[odd + 2], of((word >> 16) as u16))]
            }
        };
        for (bits, actual) in widened {
            let expected = value(bits);
            let same = actual.to_bits() == expected.to_bits();
            assert!(same || (actual.is_nan() && expected.is_nan()), "{bits:#x}: {actual}, {kind}");
        }
    }
}

// Small integers, of which both types hold sums and products exactly.

fn a(row: usize, k: usize) -> f32 {
    ((row * 5 + k * 3) % 17) as f32 - 8.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 7 + column * 2) % 13) as f32 - 6.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 8 + column) as f32
}

/// The elements of a, b and c in lanes, from the tables of the PTX manual for m16n8k16.
fn fragments(bits: impl Fn(f32) -> u16) -> Vec<u32> {
    let pack = |low, high| u32::from(bits(low)) | (u32::from(bits(high)) << 16);
    let mut words = Vec::new();
    for lane in 0..32 {
        let (group, pair) = (lane / 4, 2 * (lane % 4));
        for (row, k) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
            let (row, k) = (group + row, pair + k);
            words.push(pack(a(row, k), a(row, k + 1)));
        }
        for k in [pair, pair + 8] {
            words.push(pack(b(k, group), b(k + 1, group)));
        }
        for (row, column) in [(0, 0), (0, 1), (8, 0), (8, 1)] {
            words.push(c(group + row, pair + column).to_bits());
        }
    }
    words
}

fn check_product(output: &[u32]) {
    for (lane, d) in output.chunks(4).enumerate() {
        for (i, &d) in d.iter().enumerate() {
            let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let sum: f32 = (0..16).map(|k| a(row, k) * b(k, column)).sum();
            assert_eq!(f32::from_bits(d), c(row, column) + sum, "lane {lane}, element {i}");
        }
    }
}

fn check_copies(output: &[u32]) {
    for (i, vector) in output.chunks(4).enumerate() {
        let from = i / 64 * 64 + 63 - i % 64;
        let expected: Vec<u32> =
            (0..4).map(|j| if from < 120 { (from * 4 + j) as u32 } else { 0 }).collect();
        assert_eq!(vector, expected, "vector {i}");
    }
}

fn check_cluster(output: &[u32]) {
    for (i, &word) in output.iter().enumerate() {
        let (block, peer) = (i as u32 / 4, i as u32 % 4);
        assert_eq!(word, (100 + block / 4 * 4 + peer) * 10 + block % 4, "word {i}");
    }
}

fn check_conversions(output: &[u32]) {
    for (i, &value) in output.iter().enumerate() {
        let (bits, value) = (i as u16, f32::from_bits(value));
        let expected = if i < 1 << 16 {
            f16::from_bits(bits).to_f32()
        } else {
            bf16::from_bits(bits).to_f32()
        };
        assert!(value == expected || (value.is_nan() && expected.is_nan()), "{i}: {value}");
    }
}
