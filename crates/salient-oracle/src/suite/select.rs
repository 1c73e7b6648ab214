//! The suite of **select**: equality with the oracle, never overlap.

use proptest::prelude::*;
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{Error, Ragged, Result, Span};

use super::run_all;
use crate::generate::{Distribution, LENGTHS, Random, distributions, lengths};
use crate::implementation::Select;
use crate::select::Selected;

/// A budget that owns its counts and may depend on the scores.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep {
    /// The same count for all.
    Count(usize),
    /// A count for each sequence.
    Counts(Vec<usize>),
    /// A fraction.
    Ratio(f64),
    /// A threshold.
    Threshold(f32),
    /// A threshold that is one of the scores (the index is taken modulo their number); 0 where that
    /// score is NaN or missing.
    AtScore(usize),
}

/// Everything a selection depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// How the scores are distributed.
    pub distribution: Distribution,
    /// What they are drawn from.
    pub seed: u64,
    /// Lengths of the sequences.
    pub lens: Vec<usize>,
    /// Rows per sequence.
    pub heads: usize,
    /// The budget.
    pub keep: Keep,
    /// Sinks and local window of every sequence.
    pub edges: Edges,
    /// One token in this many is protected by a mask; 0 is no mask.
    pub masked_one_in: usize,
}

/// A case with its tensors.
#[derive(Debug)]
struct Built {
    rows: Ragged,
    scores: Vec<f32>,
    mask: Option<Vec<bool>>,
    threshold: f32,
}

impl Case {
    /// One head and no protection.
    pub fn plain(distribution: Distribution, seed: u64, lens: &[usize], keep: Keep) -> Self {
        let edges = Edges::default();
        Self { distribution, seed, lens: lens.to_vec(), heads: 1, keep, edges, masked_one_in: 0 }
    }

    /// What an implementation answers.
    ///
    /// # Errors
    /// As the implementation says.
    pub fn run(&self, on: &impl Select) -> Result<Selected> {
        let built = self.build();
        self.run_built(on, &built)
    }

    /// Compares an implementation with the oracle.
    ///
    /// # Panics
    /// With the case, if they differ.
    pub fn check(&self, on: &impl Select) {
        if !on.sample().takes(self) {
            return;
        }
        let built = self.build();
        self.compare(self.run_built(on, &built), self.run_built(&crate::Oracle, &built));
    }

    /// Checks that the sequences `order` select the same in that batch as in the whole one.
    ///
    /// # Panics
    /// With the case, if they differ.
    pub fn check_order(&self, on: &impl Select, order: &[usize]) {
        if !on.sample().takes(&(self, order)) {
            return;
        }
        let built = self.build();
        let spans: Vec<Span> = built.rows.spans().collect();
        let gather = |head: usize| -> Vec<f32> {
            let row = &built.scores[head * built.rows.total()..];
            order.iter().flat_map(|&sequence| &row[spans[sequence].range()]).copied().collect()
        };
        let reorder_mask = |mask: &Vec<bool>| {
            order.iter().flat_map(|&sequence| &mask[spans[sequence].range()]).copied().collect()
        };
        let reordered = Self {
            lens: order.iter().map(|&sequence| self.lens[sequence]).collect(),
            keep: match &self.keep {
                Keep::Counts(counts) => {
                    Keep::Counts(order.iter().map(|&sequence| counts[sequence]).collect())
                }
                keep => keep.clone(),
            },
            ..self.clone()
        };
        let rebuilt = Built {
            rows: Ragged::from_lens(&reordered.lens).expect("lengths of a case"),
            scores: (0..self.heads).flat_map(gather).collect(),
            mask: built.mask.as_ref().map(reorder_mask),
            threshold: built.threshold,
        };
        let run = |case: &Self, built: &Built| case.run_built(on, built).map(|s| s.kept);
        let (Ok(together), Ok(reordered)) = (run(self, &built), run(&reordered, &rebuilt)) else {
            return assert!(
                self.run_built(on, &built).is_err(),
                "select: {self:?}: the sequences {order:?} are an error, the batch is not"
            );
        };
        for (new, &old) in order.iter().enumerate() {
            for head in 0..self.heads {
                let same = together[old * self.heads + head] == reordered[new * self.heads + head];
                assert!(same, "select: {self:?}: sequence {old} differs in the batch {order:?}");
            }
        }
    }

    fn build(&self) -> Built {
        let rows = Ragged::from_lens(&self.lens).expect("lengths of a case");
        let mut scores = Vec::with_capacity(self.heads * rows.total());
        for head in 0..self.heads {
            for (sequence, &len) in self.lens.iter().enumerate() {
                scores.extend(self.distribution.scores(len, self.row_seed(sequence, head)));
            }
        }
        let mut mask = Vec::with_capacity(rows.total());
        for (sequence, &len) in self.lens.iter().enumerate() {
            let mut random = Random::new(!self.row_seed(sequence, 0));
            mask.extend((0..len).map(|_| random.once_in(self.masked_one_in.max(1))));
        }
        let threshold = match self.keep {
            Keep::Threshold(at_least) => at_least,
            Keep::AtScore(index) if !scores.is_empty() => {
                let score = scores[index % scores.len()];
                if score.is_nan() { 0.0 } else { score }
            }
            _ => 0.0,
        };
        Built { rows, scores, mask: (self.masked_one_in > 0).then_some(mask), threshold }
    }

    /// A row's scores depend on the seed, its length and its place.
    fn row_seed(&self, sequence: usize, head: usize) -> u64 {
        self.seed.wrapping_add((sequence * 1009 + head) as u64)
    }

    fn run_built(&self, on: &impl Select, built: &Built) -> Result<Selected> {
        on.select(&built.scores, &self.request(built))
    }

    fn request<'a>(&'a self, built: &'a Built) -> Request<'a> {
        let budget = match &self.keep {
            Keep::Count(count) => Budget::Count(*count),
            Keep::Counts(counts) => Budget::Counts(&counts[..]),
            Keep::Ratio(ratio) => Budget::Ratio(*ratio),
            Keep::Threshold(_) | Keep::AtScore(_) => Budget::Threshold(built.threshold),
        };
        let protect = Protect { edges: PerSequence::All(self.edges), mask: built.mask.as_deref() };
        Request { rows: &built.rows, heads: self.heads, budget, protect }
    }

    fn compare(&self, actual: Result<Selected>, expected: Result<Selected>) {
        match (&actual, &expected) {
            (Ok(actual), Ok(expected)) => {
                assert_eq!(
                    actual.kept.len(),
                    expected.kept.len(),
                    "select: {self:?}: number of rows"
                );
                for (row, (actual, expected)) in actual.kept.iter().zip(&expected.kept).enumerate()
                {
                    if actual != expected {
                        panic!("select: {self:?}: row {row}: {}", difference(actual, expected));
                    }
                }
                assert_eq!(actual.saw_nan, expected.saw_nan, "select: {self:?}: saw_nan");
                let same = actual.cu_seqlens == expected.cu_seqlens;
                assert!(same, "select: {self:?}: cu_seqlens {:?}", actual.cu_seqlens);
                assert!(actual.inverse == expected.inverse, "select: {self:?}: inverse map");
            }
            (Err(actual), Err(expected)) => assert_eq!(
                std::mem::discriminant(actual),
                std::mem::discriminant(expected),
                "select: {self:?}: error {actual:?}, expected {expected:?}"
            ),
            (Ok(_), Err(expected)) => panic!("select: {self:?}: Ok, expected Err({expected:?})"),
            (Err(actual), Ok(_)) => panic!("select: {self:?}: Err({actual:?}), expected Ok"),
        }
    }
}

/// Any case of sequences up to `longest` tokens, good input all.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let keeps = (0..5usize, 0..=longest + 9, 0.01..=1f64);
    let edges = (0..9usize, 0..9usize, prop_oneof![Just(0usize), 1..9usize]);
    (distributions(), any::<u64>(), lengths(longest), 1..=4usize, keeps, edges).prop_map(
        |(
            distribution,
            seed,
            lens,
            heads,
            (kind, count, ratio),
            (sinks, recent, masked_one_in),
        )| {
            let mut random = Random::new(seed);
            let keep = match kind {
                0 => Keep::Count(count),
                1 => Keep::Counts(lens.iter().map(|len| random.below(len + 2)).collect()),
                2 => Keep::Ratio(ratio),
                3 => Keep::Threshold(random.normal()),
                _ => Keep::AtScore(count),
            };
            let edges = Edges { sinks, recent };
            Case { distribution, seed, lens, heads, keep, edges, masked_one_in }
        },
    )
}

fn difference(actual: &[i32], expected: &[i32]) -> String {
    let at = actual.iter().zip(expected).take_while(|(a, e)| a == e).count();
    format!(
        "kept {} tokens, expected {}; entry {at} is {:?}, expected {:?}",
        actual.len(),
        expected.len(),
        actual.get(at),
        expected.get(at)
    )
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl Select) {
    run_all(&[
        ("every_distribution_length_and_count", &|| every_distribution_length_and_count(on)),
        ("one_long_row", &|| one_long_row(on)),
        ("thresholds", &|| thresholds(on)),
        ("ratios", &|| ratios(on)),
        ("protection", &|| protection(on)),
        ("a_budget_below_the_protected_is_rejected", &|| {
            a_budget_below_the_protected_is_rejected(on)
        }),
        ("heads_and_ragged_batches", &|| heads_and_ragged_batches(on)),
        ("neighbours_change_nothing", &|| neighbours_change_nothing(on)),
        ("the_same_every_time", &|| the_same_every_time(on)),
        ("rules_by_hand", &|| rules_by_hand(on)),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Each distribution at each length with the counts at which kernels err.
pub fn every_distribution_length_and_count(on: &impl Select) {
    for distribution in Distribution::ALL {
        for len in LENGTHS {
            let edge = [0, 1, len.saturating_sub(1), len, len + 7];
            let inner = [len / 2, len * 35 / 100, 2048, 2049];
            for count in edge.into_iter().chain(inner) {
                let seed = (len * 31 + count) as u64;
                Case::plain(distribution, seed, &[len], Keep::Count(count)).check(on);
            }
        }
    }
}

/// A million tokens.
pub fn one_long_row(on: &impl Select) {
    let len = 1 << 20;
    for distribution in [Distribution::Normal, Distribution::TiedMiddle] {
        Case::plain(distribution, 1, &[len], Keep::Count(len * 35 / 100)).check(on);
    }
}

/// Thresholds that are no score, some score, infinite and zero of either sign.
pub fn thresholds(on: &impl Select) {
    for distribution in Distribution::ALL {
        for len in [0, 1, 33, 4097] {
            let fixed = [0.0, -0.0, 0.25, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE];
            let keeps = fixed.map(Keep::Threshold).into_iter();
            for keep in keeps.chain([0, 5, 17].map(Keep::AtScore)) {
                let mut case = Case::plain(distribution, len as u64, &[len, 0, len / 2], keep);
                case.check(on);
                case.edges = Edges { sinks: 4, recent: 3 };
                case.masked_one_in = 5;
                case.check(on);
            }
        }
    }
}

/// Ratios whose product with a length is whole, but not in floating point, among them.
pub fn ratios(on: &impl Select) {
    let lens: Vec<usize> = (0..=120).collect();
    for percent in 1..=100u32 {
        let keep = Keep::Ratio(f64::from(percent) / 100.0);
        Case::plain(Distribution::Bf16, percent.into(), &lens, keep).check(on);
    }
    let mut ratio = 1.0;
    for stage in 0..10 {
        ratio *= 0.9;
        Case::plain(Distribution::Fp8, stage, &[4096, 1000, 10], Keep::Ratio(ratio)).check(on);
    }
}

/// Sinks, local window and mask, alone and overlapping, under budgets from just enough to all.
pub fn protection(on: &impl Select) {
    let edges = [(0, 0), (4, 0), (0, 10), (4, 10), (40, 40), (usize::MAX, 0), (3, usize::MAX)];
    for distribution in Distribution::ALL {
        for (sinks, recent) in edges {
            for masked_one_in in [0, 1, 7] {
                for len in [1, 5, 33, 257] {
                    for keep in [Keep::Count(len), Keep::Count(len / 2 + 1), Keep::Ratio(0.6)] {
                        let mut case = Case::plain(distribution, len as u64, &[len], keep);
                        case.edges = Edges { sinks, recent };
                        case.masked_one_in = masked_one_in;
                        case.check(on);
                    }
                }
            }
        }
    }
}

/// One token fewer than the protected ones is an error that names the row; as many are kept alone.
pub fn a_budget_below_the_protected_is_rejected(on: &impl Select) {
    let mut case =
        Case::plain(Distribution::Normal, 3, &[100, 20, 100], Keep::Counts(vec![14, 14, 14]));
    case.heads = 2;
    case.edges = Edges { sinks: 4, recent: 10 };
    case.check(on);
    case.keep = Keep::Counts(vec![14, 13, 14]);
    let expected = Error::BudgetBelowProtected { row: 2, budget: 13, protected: 14 };
    assert_eq!(case.run(on), Err(expected), "select: {case:?}");
    case.keep = Keep::Ratio(0.13);
    assert!(
        matches!(case.run(on), Err(Error::BudgetBelowProtected { row: 0, .. })),
        "select: {case:?}"
    );
    case.keep = Keep::Threshold(f32::INFINITY);
    case.check(on);
}

/// Several heads, empty sequences between full ones, a count for each sequence.
pub fn heads_and_ragged_batches(on: &impl Select) {
    let batches: [&[usize]; 5] =
        [&[], &[0], &[0, 0, 5, 0], &[33, 0, 1, 4097, 32], &[100, 100, 100, 0, 7]];
    for distribution in Distribution::ALL {
        for lens in batches {
            for heads in [1, 2, 3, 8] {
                let counts = lens.iter().enumerate().map(|(i, len)| (len * (i + 1)) / 6).collect();
                for keep in [Keep::Counts(counts), Keep::Count(30), Keep::Ratio(0.35)] {
                    let mut case = Case::plain(distribution, heads as u64, lens, keep);
                    case.heads = heads;
                    case.check(on);
                }
            }
        }
    }
}

/// A row selects the same alone, in a batch, and in the batch turned round.
pub fn neighbours_change_nothing(on: &impl Select) {
    let lens = [33, 4097, 0, 257, 4096];
    for distribution in Distribution::ALL {
        for keep in [Keep::Ratio(0.4), Keep::Counts(vec![30, 2000, 0, 256, 5000])] {
            let mut case = Case::plain(distribution, 4, &lens, keep);
            case.heads = 2;
            case.edges = Edges { sinks: 4, recent: 2 };
            case.check_order(on, &[4, 3, 2, 1, 0]);
            for sequence in 0..lens.len() {
                case.check_order(on, &[sequence]);
            }
        }
    }
}

/// Five runs, one answer.
pub fn the_same_every_time(on: &impl Select) {
    for distribution in [Distribution::TiedMiddle, Distribution::AnyBits, Distribution::AllEqual] {
        let mut case = Case::plain(distribution, 9, &[4097, 65_537, 33], Keep::Ratio(0.35));
        case.heads = 3;
        if !on.sample().takes(&case) {
            continue;
        }
        let first = case.run(on);
        for run in 1..5 {
            assert_eq!(case.run(on), first, "select: {case:?}: run {run}");
        }
    }
}

/// The contract's rules on rows short enough to read, independent of the oracle.
pub fn rules_by_hand(on: &impl Select) {
    let nan = f32::NAN;
    let inf = f32::INFINITY;
    let keeps = |scores: &[f32], budget: Budget<&[usize]>, sinks, recent, expected: &[i32]| {
        let context = format!("select: {scores:?} {budget:?}, sinks {sinks}, recent {recent}");
        let rows = Ragged::from_lens(&[scores.len()]).expect("a short row");
        let mut request = plain_request(&rows, budget);
        request.protect.edges = PerSequence::All(Edges { sinks, recent });
        let selected = on.select(scores, &request).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(selected.kept, [expected], "{context}");
        let has_nan = scores.iter().any(|score| score.is_nan());
        assert_eq!(selected.saw_nan, has_nan, "{context}: saw_nan");
    };
    let count = |k| Budget::Count(k);
    keeps(&[1.0, 3.0, 2.0], count(2), 0, 0, &[1, 2]);
    keeps(&[1.0, 1.0, 1.0, 1.0], count(2), 0, 0, &[0, 1]);
    keeps(&[-0.0, 0.0, -0.0, 0.0], count(3), 0, 0, &[0, 1, 2]);
    keeps(&[nan, -inf, 1.0, nan], count(2), 0, 0, &[1, 2]);
    keeps(&[nan, -inf, -nan, nan], count(2), 0, 0, &[0, 1]);
    keeps(&[nan, nan, nan], count(2), 0, 0, &[0, 1]);
    keeps(&[nan, -nan, 7.0], count(2), 0, 0, &[0, 2]);
    keeps(&[nan, 1.0], count(2), 0, 0, &[0, 1]);
    keeps(&[inf, f32::MAX, inf, f32::MAX], count(3), 0, 0, &[0, 1, 2]);
    keeps(&[0.0, f32::from_bits(1), -f32::from_bits(1)], count(1), 0, 0, &[1]);
    keeps(&[9.0, 8.0, 7.0, 0.0, 1.0], count(3), 0, 2, &[0, 3, 4]);
    keeps(&[0.0, 1.0, 9.0, 8.0], count(2), 1, 0, &[0, 2]);
    keeps(&[nan, 1.0, 2.0], count(1), 1, 0, &[0]);
    keeps(&[1.0, 2.0, 3.0], Budget::Threshold(2.0), 0, 0, &[1, 2]);
    keeps(&[-0.0, 0.0, -1.0, nan], Budget::Threshold(0.0), 0, 0, &[0, 1]);
    keeps(&[-0.0, 0.0, -1.0, nan], Budget::Threshold(-0.0), 0, 1, &[0, 1, 3]);
    keeps(&[1.0; 10], Budget::Ratio(0.3), 0, 0, &[0, 1, 2]);
    keeps(&[1.0, 2.0, 3.0], Budget::Ratio(0.34), 0, 0, &[1, 2]);
}

/// Every documented error.
pub fn bad_input(on: &impl Select) {
    let rows = Ragged::from_lens(&[3, 2]).expect("short rows");
    let scores = [0.0; 5];
    let good = plain_request(&rows, Budget::Ratio(0.5));
    let rejects = |what: &str, scores: &[f32], request: Request<'_>| {
        assert!(on.select(scores, &request).is_err(), "select: bad input accepted: {what}");
    };
    assert!(on.select(&scores, &good).is_ok(), "select: good input rejected");
    rejects("too few scores", &scores[..4], good);
    rejects("too many scores", &[0.0; 6], good);
    rejects("scores of one head for two", &scores, Request { heads: 2, ..good });
    rejects("no heads", &scores, Request { heads: 0, ..good });
    rejects("heads that overflow", &scores, Request { heads: usize::MAX / 2, ..good });
    for ratio in [0.0, -0.5, 1.0 + 1e-9, f64::NAN, f64::INFINITY] {
        let budget = Budget::Ratio(ratio);
        rejects(&format!("ratio {ratio}"), &scores, Request { budget, ..good });
    }
    let budget = Budget::Threshold(f32::NAN);
    rejects("a NaN threshold", &scores, Request { budget, ..good });
    let budget = Budget::Counts(&[1][..]);
    rejects("one count for two sequences", &scores, Request { budget, ..good });
    let protect =
        Protect { edges: PerSequence::Each(&[Edges { sinks: 0, recent: 0 }]), mask: None };
    rejects("one edge for two sequences", &scores, Request { protect, ..good });
    let protect = Protect { edges: good.protect.edges, mask: Some(&[false; 4]) };
    rejects("a short mask", &scores, Request { protect, ..good });
}

fn plain_request<'a>(rows: &'a Ragged, budget: Budget<&'a [usize]>) -> Request<'a> {
    let protect = Protect { edges: PerSequence::All(Edges::default()), mask: None };
    Request { rows, heads: 1, budget, protect }
}
