//! The suite of expected attention.

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use salient::score::{ExpectedAttention, Per, QueryStatistics};
use salient::{Element, Layout, Ragged, View};

use super::{FLOOR, narrow, untouched};
use crate::generate::{Random, lengths};
use crate::implementation::ScoreExpected;
use crate::score as oracle;
use crate::suite::{assert_accurate, assert_same_bits, magnitude, run_all, wide};
use crate::tensor;

/// Everything that expected attention depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What all numbers are drawn from.
    pub seed: u64,
    /// Lengths of the sequences.
    pub lens: Vec<usize>,
    /// KV heads.
    pub kv_heads: usize,
    /// Query heads per KV head.
    pub group: usize,
    /// Channels of a key.
    pub dim: usize,
    /// Channels of a value; none: no values.
    pub value_dim: Option<usize>,
    /// Keys and values are `[head, token, dim]` instead of `[token, head, dim]`.
    pub head_major: bool,
    /// Whether there is a covariance.
    pub covariance: bool,
    /// Whether every sequence has statistics of its own.
    pub own_statistics: bool,
    /// What is made of them.
    pub options: ExpectedAttention,
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl ScoreExpected) {
    run_all(&[
        ("shapes", &|| shapes(on)),
        ("options", &|| options(on)),
        ("neighbours_change_nothing", &|| neighbours_change_nothing(on)),
        ("nothing_known_is_uniform", &|| nothing_known_is_uniform(on)),
        ("what_is_not_finite_stays_where_it_reaches", &|| {
            what_is_not_finite_stays_where_it_reaches(on);
        }),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Any case of sequences up to `longest` tokens.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let shape = (1..=3usize, 1..=4usize, 1..=40usize, prop::option::of(1..=24usize), any::<bool>());
    let options = (select(&[Per::Token, Per::KvHead][..]), 0..6usize, select(&[0.0, 0.02][..]));
    let given = (any::<bool>(), any::<bool>());
    (any::<u64>(), lengths(longest), shape, options, given).prop_map(
        |(seed, lens, (kv_heads, group, dim, value_dim, head_major), options, given)| {
            let ((per, sinks, epsilon), (covariance, own_statistics)) = (options, given);
            let options = ExpectedAttention { scale: (dim as f32).powf(-0.5), epsilon, sinks, per };
            Case {
                seed,
                lens,
                kv_heads,
                group,
                dim,
                value_dim,
                head_major,
                covariance,
                own_statistics,
                options,
            }
        },
    )
}

impl Case {
    /// A plain case of these sequences.
    pub fn new(seed: u64, lens: &[usize]) -> Self {
        let options = ExpectedAttention { epsilon: 0.01, ..ExpectedAttention::new(0.25) };
        Self {
            seed,
            lens: lens.to_vec(),
            kv_heads: 2,
            group: 2,
            dim: 16,
            value_dim: Some(16),
            head_major: false,
            covariance: true,
            own_statistics: false,
            options,
        }
    }

    /// The sequences.
    ///
    /// # Panics
    /// If they are too long.
    pub fn rows(&self) -> Ragged {
        Ragged::from_lens(&self.lens).expect("lengths of a case")
    }

    fn layout(&self, dim: usize) -> Layout {
        if self.head_major {
            Layout::head_major(self.kv_heads, dim, self.rows().total())
        } else {
            Layout::token_major(self.kv_heads, dim)
        }
    }

    /// The statistics of every sequence, or of all: a covariance is B B' / dim of a random B.
    ///
    /// # Panics
    /// Never.
    pub fn statistics(&self) -> Vec<QueryStatistics> {
        let (heads, dim) = (self.kv_heads * self.group, self.dim);
        let count = if self.own_statistics { self.lens.len().max(1) } else { 1 };
        (0..count as u64)
            .map(|i| {
                let mut random = Random::new(self.seed ^ ((i + 1) << 40));
                let mean = random.normals(heads * dim, 1.0);
                let covariance = self.covariance.then(|| {
                    let mut all = Vec::new();
                    for _ in 0..heads {
                        let root = random.normals(dim * dim, 1.0);
                        for a in root.chunks_exact(dim) {
                            all.extend(root.chunks_exact(dim).map(|b| {
                                a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() / dim as f32
                            }));
                        }
                    }
                    all
                });
                QueryStatistics::new(heads, dim, mean, covariance).expect("good statistics")
            })
            .collect()
    }

    /// The keys.
    pub fn k<T: Element>(&self) -> Vec<T> {
        let len = self.rows().total() * self.kv_heads * self.dim;
        narrow(&Random::new(!self.seed).normals(len, 1.5))
    }

    /// The values.
    pub fn v<T: Element>(&self) -> Vec<T> {
        let len = self.rows().total() * self.kv_heads * self.value_dim.unwrap_or(0);
        narrow(&Random::new(self.seed + 7).normals(len, 1.5))
    }

    /// An implementation's scores.
    ///
    /// # Panics
    /// With the case, if it is refused.
    pub fn scores<T: Element>(&self, on: &impl ScoreExpected) -> Vec<f32> {
        self.run::<T>(on, &self.k(), &self.v(), &self.statistics())
    }

    fn run<T: Element>(
        &self,
        on: &impl ScoreExpected,
        k: &[T],
        v: &[T],
        statistics: &[QueryStatistics],
    ) -> Vec<f32> {
        let rows = self.rows();
        let heads = if self.options.per == Per::Token { 1 } else { self.kv_heads };
        let (k, v) = self.views(k, v);
        let mut out = vec![f32::MAX; heads * rows.total()];
        on.expected(k, v, &rows, statistics, &self.options, &mut out)
            .unwrap_or_else(|e| panic!("expected: {:?} {self:?}: {e}", T::DTYPE));
        out
    }

    fn views<'a, T>(&self, k: &'a [T], v: &'a [T]) -> (View<'a, T>, Option<View<'a, T>>) {
        let v = self.value_dim.map(|dim| View::new(v, self.layout(dim)));
        (View::new(k, self.layout(self.dim)), v)
    }

    /// Compares an implementation with the oracle in every element type.
    ///
    /// # Panics
    /// With the case, if it errs by more than the relative rule allows.
    pub fn check(&self, on: &impl ScoreExpected) {
        if !on.expected_sample().takes(self) {
            return;
        }
        self.check_type(on, &self.k::<f32>(), &self.v::<f32>(), "");
        self.check_type(on, &self.k::<f16>(), &self.v::<f16>(), "");
        self.check_type(on, &self.k::<bf16>(), &self.v::<bf16>(), "");
    }

    fn takes<T: Element>(&self, on: &impl ScoreExpected) -> bool {
        on.takes_expected::<T>(self.layout(self.dim), self.value_dim.map(|dim| self.layout(dim)))
    }

    fn check_type<T: Element>(&self, on: &impl ScoreExpected, k: &[T], v: &[T], changed: &str) {
        let (rows, statistics, options) = (self.rows(), self.statistics(), &self.options);
        let context = || format!("expected: {:?} {self:?} {changed}", T::DTYPE);
        let (k_view, v_view) = self.views(k, v);
        let exact = oracle::expected::<f64, T>(k_view, v_view, &rows, &statistics, options);
        if !self.takes::<T>(on) {
            let mut out = vec![f32::MAX; exact.len()];
            let refused = on.expected(k_view, v_view, &rows, &statistics, options, &mut out);
            assert!(refused.is_err(), "taken after all: {}", context());
            return;
        }
        let plain = tensor::plain!(on.expected_sums(), R => {
            tensor::exact(&oracle::expected::<R, T>(k_view, v_view, &rows, &statistics, options))
        });
        let actual = self.run(on, k, v, &statistics);
        let floor = FLOOR * on.expected_sums().luck() * magnitude(&exact);
        assert_accurate(&wide(&actual), &plain, &exact, floor, &context);
    }
}

/// Head sizes that kernels divide their work by and odd ones, groups of 1 to 8, ragged batches with
/// empty sequences, both layouts, with and without covariance and values.
pub fn shapes(on: &impl ScoreExpected) {
    let batches: [&[usize]; 6] = [&[], &[0], &[1], &[33, 0, 1, 64, 2], &[150, 0], &[300]];
    let shapes = [(1, 1, 1, 3), (2, 1, 8, 8), (1, 7, 64, 24), (3, 3, 80, 80), (2, 8, 40, 128)];
    for lens in batches {
        for (kv_heads, group, dim, value_dim) in shapes {
            for given in 0..4 {
                let case = Case {
                    kv_heads,
                    group,
                    dim,
                    value_dim: (given % 2 == 0).then_some(value_dim),
                    covariance: given < 2,
                    head_major: (given + dim / 8) % 2 == 0,
                    ..Case::new(dim as u64, lens)
                };
                case.scaled(1.0).check(on);
            }
        }
    }
    for (dim, len) in [(128, 520), (256, 70), (96, 257)] {
        Case { kv_heads: 1, dim, group: 3, ..Case::new(6, &[len, 31]) }.scaled(1.0).check(on);
    }
}

/// Every option, statistics of every sequence's own, attention from flat to nearly all on one
/// token.
pub fn options(on: &impl ScoreExpected) {
    let lens = [100, 0, 7, 33, 1, 4];
    for per in [Per::Token, Per::KvHead] {
        for sinks in [0, 1, 4, 1000] {
            for epsilon in [0.0, 0.05] {
                for own_statistics in [false, true] {
                    let plain = Case::new(11, &lens);
                    let options = ExpectedAttention { epsilon, sinks, per, ..plain.options };
                    Case { own_statistics, options, ..plain }.check(on);
                }
            }
        }
    }
    for scale in [0.0, -0.3, 0.7, 4.0] {
        for covariance in [false, true] {
            Case { covariance, ..Case::new(12, &[65, 257]) }.scaled(scale).check(on);
        }
    }
}

impl Case {
    /// With this many times the usual scale.
    fn scaled(mut self, factor: f32) -> Self {
        self.options.scale = factor * (self.dim as f32).powf(-0.5);
        self
    }
}

/// A sequence scores the same bits again, alone and in a batch.
pub fn neighbours_change_nothing(on: &impl ScoreExpected) {
    for own_statistics in [false, true] {
        let case = Case { own_statistics, ..Case::new(21, &[65, 0, 300, 1, 128]) };
        let (k, v): (Vec<bf16>, Vec<bf16>) = (case.k(), case.v());
        let (rows, statistics) = (case.rows(), case.statistics());
        let together = case.run(on, &k, &v, &statistics);
        let again = case.run(on, &k, &v, &statistics);
        assert_same_bits(&again, &together, &format!("expected: again: {case:?}"));
        for (sequence, span) in rows.spans().enumerate() {
            let alone = Case { lens: vec![span.len], ..case.clone() };
            let cut = |data: &[bf16], dim: usize| -> Vec<bf16> {
                data[span.start * 2 * dim..span.end() * 2 * dim].to_vec()
            };
            let own = &statistics[if own_statistics { sequence } else { 0 }];
            let out = alone.run(on, &cut(&k, 16), &cut(&v, 16), std::slice::from_ref(own));
            for head in 0..2 {
                let expected = &together[head * rows.total()..][span.range()];
                let actual = &out[head * span.len..][..span.len];
                let context = format!("expected: sequence {sequence} alone: {case:?}");
                assert_same_bits(actual, expected, &context);
            }
        }
    }
}

/// Where the statistics are 0, attention is the same to all but the sinks, exactly.
pub fn nothing_known_is_uniform(on: &impl ScoreExpected) {
    let mut case = Case { value_dim: None, ..Case::new(31, &[68, 5, 4, 12]) };
    case.options.epsilon = 0.0;
    let zeros = |covariance: bool| {
        let covariance = covariance.then(|| vec![0.0; 4 * 16 * 16]);
        QueryStatistics::new(4, 16, vec![0.0; 4 * 16], covariance).expect("good statistics")
    };
    for covariance in [false, true] {
        let scores = case.run::<f16>(on, &case.k(), &[], &[zeros(covariance)]);
        for head in scores.chunks_exact(case.rows().total()) {
            for span in case.rows().spans() {
                let each = 1.0 / (span.len.max(5) - 4) as f32;
                for (token, &score) in head[span.range()].iter().enumerate() {
                    let expected = if token < 4 { 0.0 } else { each };
                    assert_eq!(score, expected, "expected: nothing known: token {token}");
                }
            }
        }
    }
}

/// A key makes NaN of its sequence and head, a value of its own score; those of sinks less or
/// nothing.
pub fn what_is_not_finite_stays_where_it_reaches(on: &impl ScoreExpected) {
    for covariance in [false, true] {
        for per in [Per::Token, Per::KvHead] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut case = Case { covariance, ..Case::new(41, &[50, 70, 33]) };
                case.options.per = per;
                let (clean_k, clean_v): (Vec<f16>, Vec<f16>) = (case.k(), case.v());
                for token in [50 + 66, 50 + 2] {
                    let mut k = clean_k.clone();
                    k[token * 2 * 16 + 3] = f16::from_f32(bad);
                    case.check_type(on, &k, &clean_v, &format!("with {bad} in key {token}"));
                    let mut v = clean_v.clone();
                    v[token * 2 * 16 + 17] = f16::from_f32(bad);
                    case.check_type(on, &clean_k, &v, &format!("with {bad} in value {token}"));
                }
            }
        }
    }
}

/// Every documented error, with nothing written.
pub fn bad_input(on: &impl ScoreExpected) {
    let case = Case::new(0, &[4, 3]);
    let (rows, statistics, good) = (case.rows(), case.statistics(), case.options);
    let (k, v, out) = (case.k::<bf16>(), case.v::<bf16>(), vec![9f32; 2 * 7]);
    let view = |data, heads, dim| View::token_major(data, heads, dim);
    let (good_k, good_v) = (view(&k[..], 2, 16), view(&v[..], 2, 16));
    let with = |statistics: &[QueryStatistics], options: &ExpectedAttention, out: &mut [f32]| {
        on.expected(good_k, Some(good_v), &rows, statistics, options, out)
    };
    assert!(with(&statistics, &good, &mut out.clone()).is_ok(), "expected: good input rejected");
    for (what, options) in [
        ("a NaN scale", ExpectedAttention { scale: f32::NAN, ..good }),
        ("an infinite scale", ExpectedAttention { scale: f32::INFINITY, ..good }),
        ("a NaN epsilon", ExpectedAttention { epsilon: f32::NAN, ..good }),
        ("out of two heads for one", ExpectedAttention { per: Per::Token, ..good }),
    ] {
        untouched(what, &out, |out| with(&statistics, &options, out));
    }
    untouched("short out", &out[1..], |out| with(&statistics, &good, out));
    let of = |heads, dim, covariance: bool| {
        let covariance = covariance.then(|| vec![0.5; heads * dim * dim]);
        QueryStatistics::new(heads, dim, vec![0.5; heads * dim], covariance).expect("good")
    };
    for (what, statistics) in [
        ("no statistics", vec![]),
        ("three statistics for two sequences", vec![of(4, 16, true); 3]),
        ("statistics of 3 heads for 2", vec![of(3, 16, true)]),
        ("statistics of 8 channels for 16", vec![of(4, 8, true)]),
        ("statistics of different heads", vec![of(4, 16, true), of(2, 16, true)]),
        ("one covariance for two", vec![of(4, 16, true), of(4, 16, false)]),
    ] {
        untouched(what, &out, |out| with(&statistics, &good, out));
    }
    let tensors = |what, k, v| {
        untouched(what, &out, |out| on.expected(k, v, &rows, &statistics, &good, out));
    };
    tensors("short k", view(&k[1..], 2, 16), None);
    tensors("short v", good_k, Some(view(&v[1..], 2, 16)));
    tensors("v of one head", good_k, Some(view(&v[..], 1, 16)));
    tensors("no heads", view(&k[..], 0, 16), None);
}
