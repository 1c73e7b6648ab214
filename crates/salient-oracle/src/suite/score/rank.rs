//! The suite of percentile ranks, which are exact.

use proptest::prelude::*;
use salient::Ragged;

use super::untouched;
use crate::generate::{Distribution, Random, distributions, lengths};
use crate::implementation::ScoreRanks;
use crate::score as oracle;
use crate::suite::{assert_same_bits, run_all};

/// Everything that ranks depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What all scores are drawn from.
    pub seed: u64,
    /// How they are distributed.
    pub distribution: Distribution,
    /// Lengths of the sequences.
    pub lens: Vec<usize>,
    /// Rows of scores.
    pub heads: usize,
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl ScoreRanks) {
    run_all(&[
        ("by_hand", &|| by_hand(on)),
        ("ranks", &|| ranks(on)),
        ("long_sequences", &|| long_sequences(on)),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Any case of sequences up to `longest` scores.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    (any::<u64>(), distributions(), lengths(longest), 1..4usize)
        .prop_map(|(seed, distribution, lens, heads)| Case { seed, distribution, lens, heads })
}

impl Case {
    /// The sequences.
    ///
    /// # Panics
    /// If they are too long.
    pub fn rows(&self) -> Ragged {
        Ragged::from_lens(&self.lens).expect("lengths of a case")
    }

    /// The scores, `[heads, total]`, drawn for each head and sequence by itself.
    pub fn scores(&self) -> Vec<f32> {
        let mut seeds = Random::new(self.seed);
        let lens = (0..self.heads).flat_map(|_| &self.lens);
        lens.flat_map(|&len| self.distribution.scores(len, seeds.bits())).collect()
    }

    /// The ranks that the definition has for scores of this case's shape.
    pub fn expected(&self, scores: &[f32]) -> Vec<f32> {
        let rows = self.rows();
        let heads = scores.chunks_exact(rows.total().max(1));
        heads
            .flat_map(|scores| rows.spans().flat_map(|span| oracle::rank(&scores[span.range()])))
            .collect()
    }

    /// The ranks of an implementation.
    ///
    /// # Panics
    /// If it refuses the case.
    pub fn run(&self, on: &impl ScoreRanks) -> Vec<f32> {
        let scores = self.scores();
        let mut ranks = vec![f32::MAX; scores.len()];
        on.rank(&scores, &self.rows(), &mut ranks)
            .unwrap_or_else(|error| panic!("rank: {self:?}: {error}"));
        ranks
    }

    /// Compares with the definition, bit by bit.
    ///
    /// # Panics
    /// With the first difference.
    pub fn check(&self, on: &impl ScoreRanks) {
        let expected = self.expected(&self.scores());
        assert_same_bits(&self.run(on), &expected, &format!("rank: {self:?}"));
    }
}

/// Ranks that anyone can count.
pub fn by_hand(on: &impl ScoreRanks) {
    let check = |scores: &[f32], lens: &[usize], expected: &[f32]| {
        let rows = Ragged::from_lens(lens).expect("short rows");
        let mut ranks = vec![f32::MAX; scores.len()];
        on.rank(scores, &rows, &mut ranks).expect("good input");
        assert_same_bits(&ranks, expected, &format!("rank: {scores:?} in {lens:?}"));
    };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    check(&[3.0, -1.0, 3.0, 100.0, 5.0], &[4, 1], &[0.25, 0.0, 0.25, 0.75, 0.0]);
    // Zeros are equal, and denormals are not zeros.
    check(&[-0.0, 0.0, -1e-45, 1e-45], &[4], &[0.25, 0.25, 0.0, 0.75]);
    // NaN counts in the length alone.
    check(&[nan, 2.0, -nan, 1.0], &[4], &[nan, 0.25, nan, 0.0]);
    check(&[inf, -inf, 0.0, nan, inf], &[5], &[0.4, 0.0, 0.2, nan, 0.4]);
    check(&[nan], &[1], &[nan]);
    // Two heads, each by itself.
    check(&[1.0, 2.0, 9.0, 4.0, 3.0, -9.0], &[2, 1], &[0.0, 0.5, 0.0, 0.5, 0.0, 0.0]);
    check(&[], &[], &[]);
    check(&[], &[0, 0], &[]);
}

/// Every distribution over sequences around the sizes of blocks; rows of several heads begin at
/// every address modulo 16 bytes.
pub fn ranks(on: &impl ScoreRanks) {
    for (seed, distribution) in (100..).step_by(100).zip(Distribution::ALL) {
        let lens = vec![129, 0, 1, 128, 1000, 2, 127, 34];
        Case { seed, distribution, lens, heads: 4 }.check(on);
    }
    for len in [1, 3, 4, 31, 32, 33, 255, 256, 257] {
        let distribution = Distribution::Fp8;
        Case { seed: 7, distribution, lens: vec![len], heads: 3 }.check(on);
    }
}

/// As many keys as every warp takes several times.
pub fn long_sequences(on: &impl ScoreRanks) {
    for distribution in [Distribution::Normal, Distribution::Bf16, Distribution::SprinkledNan] {
        Case { seed: 8, distribution, lens: vec![3, 3333], heads: 1 }.check(on);
    }
}

/// Lengths that disagree, with nothing written.
pub fn bad_input(on: &impl ScoreRanks) {
    let (rows, out) = (Ragged::from_lens(&[4, 3]).expect("short rows"), vec![9f32; 14]);
    untouched("rank: short out", &out[1..], |out| on.rank(&[1.0; 14], &rows, out));
    untouched("rank: long out", &out, |out| on.rank(&[1.0; 7], &rows, out));
    untouched("rank: no whole rows", &out[1..], |out| on.rank(&[1.0; 13], &rows, out));
    let empty = Ragged::from_lens(&[0]).expect("no rows");
    untouched("rank: scores of nothing", &out[..1], |out| on.rank(&[1.0], &empty, out));
}
