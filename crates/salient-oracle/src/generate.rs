//! Inputs: reproducible numbers, the distributions that broke other top-k kernels, and proptest
//! strategies over them.

use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;

/// SplitMix64: a short, reproducible stream of numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A stream that depends on the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or 0 if there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.bits() % limit as u64) as usize }
    }

    /// True once in `odds`.
    pub fn once_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A normal number: mean 0, variance 1.
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    /// `len` normal numbers times `scale`.
    pub fn normals(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| scale * self.normal()).collect()
    }

    /// The numbers below `len` in random order.
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// A random ascending subset of the tokens of a sequence, each kept with probability `share`.
    pub fn subset(&mut self, len: usize, share: f64) -> Vec<i32> {
        (0..len as i32).filter(|_| self.unit() < share).collect()
    }
}

/// How scores are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// In [0, 1).
    Uniform,
    /// Mean 0, variance 1.
    Normal,
    /// One value.
    AllEqual,
    /// Two values, half of the tokens each.
    TwoValues,
    /// Denormals of both signs.
    Denormals,
    /// +0 and -0, which are equal.
    SignedZeros,
    /// Normal, with both infinities sprinkled in.
    Infinities,
    /// Normal, with NaNs of both signs sprinkled in.
    SprinkledNan,
    /// NaN but for a few numbers.
    MostlyNan,
    /// Nothing but NaN.
    AllNan,
    /// Normal, rounded to bf16: many ties.
    Bf16,
    /// Normal, rounded to three bits of mantissa: very many ties.
    Fp8,
    /// Ascending.
    Ascending,
    /// Descending.
    Descending,
    /// One value, but for one token whose last bit is one higher.
    LastBit,
    /// Positive values that differ in the low 16 bits alone.
    SharedTop16,
    /// Negative values that differ in the low 16 bits alone.
    SharedTop16Negative,
    /// On the edges of 8, 11 and 16 bit radix bins, and one bit to each side.
    BinEdges,
    /// Five eighths tied in the middle, the rest on both sides of the tie.
    TiedMiddle,
    /// Any bit pattern: NaNs, infinities and denormals among them.
    AnyBits,
}

impl Distribution {
    /// Every distribution.
    pub const ALL: [Self; 20] = [
        Self::Uniform,
        Self::Normal,
        Self::AllEqual,
        Self::TwoValues,
        Self::Denormals,
        Self::SignedZeros,
        Self::Infinities,
        Self::SprinkledNan,
        Self::MostlyNan,
        Self::AllNan,
        Self::Bf16,
        Self::Fp8,
        Self::Ascending,
        Self::Descending,
        Self::LastBit,
        Self::SharedTop16,
        Self::SharedTop16Negative,
        Self::BinEdges,
        Self::TiedMiddle,
        Self::AnyBits,
    ];

    /// `len` scores.
    pub fn scores(self, len: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        let odd_one = random.below(len);
        (0..len).map(|i| self.score(&mut random, i, len, odd_one)).collect()
    }

    fn score(self, random: &mut Random, i: usize, len: usize, odd_one: usize) -> f32 {
        let sign = |random: &mut Random| if random.once_in(2) { -1.0 } else { 1.0 };
        match self {
            Self::Uniform => random.unit() as f32,
            Self::Normal => random.normal(),
            Self::AllEqual => 0.25,
            Self::TwoValues => [-1.5, 2.0][random.below(2)],
            Self::Denormals => {
                let magnitude = f32::from_bits(1 + random.below(0x007f_ffff) as u32);
                sign(random) * magnitude
            }
            Self::SignedZeros => sign(random) * 0.0,
            Self::Infinities => match random.below(16) {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                _ => random.normal(),
            },
            Self::SprinkledNan => match random.below(16) {
                0 => f32::NAN,
                1 => -f32::NAN,
                _ => random.normal(),
            },
            Self::MostlyNan => match random.below(16) {
                0 => random.normal(),
                1 => f32::NEG_INFINITY,
                _ => f32::NAN,
            },
            Self::AllNan => f32::NAN,
            Self::Bf16 => bf16::from_f32(random.normal()).to_f32(),
            Self::Fp8 => f32::from_bits(random.normal().to_bits() & 0xfff0_0000),
            Self::Ascending => i as f32 - len as f32 / 2.0,
            Self::Descending => len as f32 / 2.0 - i as f32,
            Self::LastBit => f32::from_bits(1f32.to_bits() + u32::from(i == odd_one)),
            Self::SharedTop16 => f32::from_bits(0x3f80_0000 | random.below(1 << 16) as u32),
            Self::SharedTop16Negative => f32::from_bits(0xc180_0000 | random.below(1 << 16) as u32),
            Self::BinEdges => {
                let digit = [24, 21, 16][random.below(3)];
                let edge = (random.below(0x7f << (24 - digit)) as u32 + 1) << digit;
                let side = random.below(3) as u32;
                sign(random) * f32::from_bits((edge + side - 1).min(f32::MAX.to_bits()))
            }
            Self::TiedMiddle => match random.below(8) {
                0 => 1.0 + random.unit() as f32,
                1 => random.unit() as f32,
                2 => 1.0 + f32::EPSILON,
                _ => 1.0,
            },
            Self::AnyBits => f32::from_bits(random.bits() as u32),
        }
    }
}

/// Sequence lengths around the sizes where kernels change their minds.
pub const LENGTHS: [usize; 12] = [0, 1, 2, 31, 32, 33, 4095, 4096, 4097, 10_000, 16_384, 65_537];

/// Any distribution.
pub fn distributions() -> impl Strategy<Value = Distribution> {
    select(&Distribution::ALL[..])
}

/// Lengths of up to five sequences, empty ones among them, each at most `longest`.
pub fn lengths(longest: usize) -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![1 => Just(0), 1 => Just(1), 6 => 0..=longest];
    prop::collection::vec(length, 0..=5)
}
