//! The suite of the indexer.

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use salient::attend::RowLimit;
use salient::dtype::F8E4M3;
use salient::score::{IndexerKeys, IndexerQueries, Logits};
use salient::{Element, Layout, Ragged, Result, View};

use super::{FLOOR, narrow, untouched};
use crate::generate::Random;
use crate::implementation::ScoreIndexer;
use crate::score as oracle;
use crate::suite::{assert_accurate, assert_same_bits, magnitude, run_all, wide};
use crate::tensor;

/// Which keys a case's queries see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Those before them.
    Causal,
    /// All.
    Full,
    /// Those below a random row limit.
    Limited,
    /// Those of a random window, which may be empty.
    Windows,
}

/// Everything that logits of an indexer depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What all numbers are drawn from.
    pub seed: u64,
    /// Queries and keys of every sequence.
    pub lens: Vec<(usize, usize)>,
    /// Heads of a query.
    pub heads: usize,
    /// Channels.
    pub dim: usize,
    /// Whether keys have scales.
    pub scaled: bool,
    /// Which keys are seen.
    pub sees: Sees,
    /// Elements by which the rows of logits exceed the longest sequence; none: one row a sequence,
    /// where its tokens are.
    pub spare: Option<usize>,
}

/// The numbers of a case.
#[derive(Debug, Clone)]
pub struct Built<T> {
    /// Queries.
    pub q: Vec<T>,
    /// Keys.
    pub k: Vec<T>,
    /// Weights of heads.
    pub weights: Vec<f32>,
    /// Scales of keys.
    pub scales: Option<Vec<f32>>,
    /// First rows of windows.
    pub first: Vec<i32>,
    /// Row limits.
    pub limit: Vec<i32>,
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &impl ScoreIndexer) {
    run_all(&[
        ("shapes", &|| shapes(on)),
        ("windows", &|| windows(on)),
        ("neighbours_change_nothing", &|| neighbours_change_nothing(on)),
        ("small_numbers_are_exact", &|| small_numbers_are_exact(on)),
        ("what_is_not_finite_stays_where_it_reaches", &|| {
            what_is_not_finite_stays_where_it_reaches(on);
        }),
        ("bad_input", &|| bad_input(on)),
    ]);
}

/// Any case of sequences up to `longest` keys.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let lens = prop::collection::vec((0..40usize, 0..=longest), 0..5);
    let sees = select(&[Sees::Causal, Sees::Full, Sees::Limited, Sees::Windows][..]);
    let shape = (1..=12usize, 1..=40usize, any::<bool>(), sees, prop::option::of(0..9usize));
    (any::<u64>(), lens, shape).prop_map(|(seed, mut lens, (heads, dim, scaled, sees, spare))| {
        if spare.is_none() {
            lens.iter_mut().for_each(|(queries, _)| *queries = (*queries).min(1));
        }
        Case { seed, lens, heads, dim, scaled, sees, spare }
    })
}

impl Case {
    /// A plain case of these queries and keys.
    pub fn new(seed: u64, lens: &[(usize, usize)]) -> Self {
        let (lens, sees) = (lens.to_vec(), Sees::Causal);
        Self { seed, lens, heads: 8, dim: 32, scaled: false, sees, spare: Some(0) }
    }

    /// The queries of each sequence.
    ///
    /// # Panics
    /// If they are too many.
    pub fn queries(&self) -> Ragged {
        let lens: Vec<usize> = self.lens.iter().map(|&(queries, _)| queries).collect();
        Ragged::from_lens(&lens).expect("lengths of a case")
    }

    /// The keys of each sequence.
    ///
    /// # Panics
    /// If they are too many.
    pub fn keys(&self) -> Ragged {
        let lens: Vec<usize> = self.lens.iter().map(|&(_, keys)| keys).collect();
        Ragged::from_lens(&lens).expect("lengths of a case")
    }

    /// Where logits go.
    pub fn logits(&self) -> Logits {
        let longest = self.lens.iter().map(|&(_, keys)| keys).max().unwrap_or(0);
        self.spare.map_or(Logits::Tokens, |spare| Logits::Rows { stride: longest + spare })
    }

    fn out_len(&self) -> usize {
        match self.logits() {
            Logits::Rows { stride } => self.queries().total() * stride,
            Logits::Tokens => self.keys().total(),
        }
    }

    /// The numbers.
    pub fn build<T: Element>(&self) -> Built<T> {
        let mut random = Random::new(self.seed);
        let (queries, keys) = (self.queries().total(), self.keys().total());
        let (mut first, mut limit) = (Vec::new(), Vec::new());
        for &(queries, keys) in &self.lens {
            for _ in 0..queries {
                first.push(random.below(keys + 1) as i32);
                limit.push(random.below(keys + 1) as i32);
            }
        }
        Built {
            q: narrow(&random.normals(queries * self.heads * self.dim, 1.0)),
            k: narrow(&random.normals(keys * self.dim, 1.0)),
            weights: random.normals(queries * self.heads, 0.25),
            scales: self.scaled.then(|| random.normals(keys, 1.0)),
            first,
            limit,
        }
    }

    /// Gives an operation the queries and keys of a case.
    pub fn with<T: Element, R>(
        &self,
        built: &Built<T>,
        run: impl FnOnce(&IndexerQueries<'_, T>, &IndexerKeys<'_, T>) -> R,
    ) -> R {
        let (query_rows, key_rows) = (self.queries(), self.keys());
        let queries = IndexerQueries {
            q: View::new(&built.q, self.q_layout()),
            weights: &built.weights,
            rows: &query_rows,
            limit: match self.sees {
                Sees::Causal => RowLimit::Causal,
                Sees::Full => RowLimit::Full,
                Sees::Limited => RowLimit::PerRow(&built.limit),
                Sees::Windows => RowLimit::Between { first: &built.first, limit: &built.limit },
            },
        };
        let k = View::new(&built.k[..], self.k_layout());
        run(&queries, &IndexerKeys { k, scales: built.scales.as_deref(), rows: &key_rows })
    }

    fn q_layout(&self) -> Layout {
        Layout::token_major(self.heads, self.dim)
    }

    fn k_layout(&self) -> Layout {
        Layout::token_major(1, self.dim)
    }

    /// An implementation's logits.
    ///
    /// # Errors
    /// Those of the implementation.
    pub fn run<T: Element>(&self, on: &impl ScoreIndexer, built: &Built<T>) -> Result<Vec<f32>> {
        let mut out = vec![f32::MAX; self.out_len()];
        self.with(built, |queries, keys| on.indexer(queries, keys, self.logits(), &mut out))?;
        Ok(out)
    }

    /// Compares an implementation with the oracle in every element type.
    ///
    /// # Panics
    /// With the case, if it errs by more than the relative rule allows.
    pub fn check(&self, on: &impl ScoreIndexer) {
        if !on.indexer_sample().takes(self) {
            return;
        }
        self.check_built(on, &self.build::<f32>(), "");
        self.check_built(on, &self.build::<f16>(), "");
        self.check_built(on, &self.build::<bf16>(), "");
        self.check_built(on, &self.build::<F8E4M3>(), "");
    }

    /// The same of given numbers.
    ///
    /// # Panics
    /// As [`Case::check`].
    pub fn check_built<T: Element>(&self, on: &impl ScoreIndexer, built: &Built<T>, changed: &str) {
        let context = || format!("indexer: {:?} {self:?} {changed}", T::DTYPE);
        if !on.takes_indexer::<T>(self.q_layout(), self.k_layout()) {
            assert!(self.run(on, built).is_err(), "taken after all: {}", context());
            return;
        }
        let actual = self.run(on, built).unwrap_or_else(|e| panic!("{}: {e}", context()));
        let exact: Vec<f64> =
            self.with(built, |queries, keys| oracle::indexer(queries, keys, self.logits()));
        let plain = tensor::plain!(on.indexer_sums(), R => {
            tensor::exact::<R>(&self.with(built, |queries, keys| {
                oracle::indexer(queries, keys, self.logits())
            }))
        });
        let floor = FLOOR * on.indexer_sums().luck() * magnitude(&exact);
        assert_accurate(&wide(&actual), &plain, &exact, floor, &context);
    }
}

/// Heads from 1 to 64, head sizes that kernels take and odd ones, rows and tokens, with and without
/// scales, ragged batches with empty sequences on either side.
pub fn shapes(on: &impl ScoreIndexer) {
    let batches: [&[(usize, usize)]; 7] = [
        &[],
        &[(0, 0)],
        &[(1, 1)],
        &[(3, 0), (0, 5), (1, 40)],
        &[(33, 33), (2, 300), (0, 0), (5, 17)],
        &[(70, 257)],
        &[(1, 700), (1, 31)],
    ];
    let shapes = [(1, 1), (3, 16), (8, 128), (64, 64), (12, 48), (33, 20), (32, 112)];
    for lens in batches {
        for (i, (heads, dim)) in shapes.into_iter().enumerate() {
            let sees = [Sees::Causal, Sees::Full][i % 2];
            let plain = Case { heads, dim, sees, scaled: i % 3 == 0, ..Case::new(i as u64, lens) };
            Case { spare: Some(i), ..plain.clone() }.check(on);
            if lens.iter().all(|&(queries, _)| queries <= 1) {
                Case { spare: None, ..plain }.check(on);
            }
        }
    }
}

/// Row limits and windows, empty and whole ones among them, queries with no or many keys.
pub fn windows(on: &impl ScoreIndexer) {
    let batches: [&[(usize, usize)]; 3] =
        [&[(40, 300), (2, 3), (9, 0)], &[(100, 20)], &[(64, 513), (31, 31)]];
    for lens in batches {
        for sees in [Sees::Causal, Sees::Full, Sees::Limited, Sees::Windows] {
            for (heads, spare) in [(4, 0), (16, 3)] {
                let case = Case { sees, heads, spare: Some(spare), ..Case::new(2, lens) };
                Case { scaled: heads == 4, ..case }.check(on);
            }
        }
    }
    for sees in [Sees::Limited, Sees::Windows] {
        Case { sees, spare: None, ..Case::new(3, &[(1, 300), (0, 40), (1, 600)]) }.check(on);
    }
}

/// A sequence has the same logits again, alone and in a batch; a query alone and among others.
pub fn neighbours_change_nothing(on: &impl ScoreIndexer) {
    let lens = [(20, 65), (3, 0), (45, 300), (1, 1)];
    let case = Case { sees: Sees::Full, heads: 24, ..Case::new(21, &lens) };
    let built = case.build::<bf16>();
    let run = |case: &Case, built: &Built<bf16>| {
        case.run(on, built).unwrap_or_else(|e| panic!("indexer: {case:?}: {e}"))
    };
    let together = run(&case, &built);
    assert_same_bits(&run(&case, &built), &together, "indexer: again");
    for (sequence, (queries, keys)) in case.queries().spans().zip(case.keys().spans()).enumerate() {
        for picked in [0..queries.len, 0..queries.len.min(1), queries.len / 2..queries.len] {
            let alone = Case { lens: vec![(picked.len(), keys.len)], ..case.clone() };
            let first = queries.start + picked.start;
            let part = Built {
                q: built.q[first * 24 * 32..][..picked.len() * 24 * 32].to_vec(),
                k: built.k[keys.start * 32..][..keys.len * 32].to_vec(),
                weights: built.weights[first * 24..][..picked.len() * 24].to_vec(),
                ..built.clone()
            };
            for (i, row) in run(&alone, &part).chunks(keys.len.max(1)).enumerate() {
                let expected = &together[(first + i) * 300..][..keys.len];
                let context = format!("indexer: query {i} of {picked:?} of sequence {sequence}");
                assert_same_bits(row, expected, &context);
            }
        }
    }
}

/// Numbers whose products add up exactly in f32 give exactly that.
pub fn small_numbers_are_exact(on: &impl ScoreIndexer) {
    let case = Case { scaled: true, heads: 24, dim: 64, ..Case::new(31, &[(9, 90), (40, 300)]) };
    let mut random = Random::new(31);
    let mut whole =
        |len: usize| -> Vec<f32> { (0..len).map(|_| random.below(9) as f32 - 4.0).collect() };
    let built = Built {
        q: narrow::<f16>(&whole(49 * 24 * 64)),
        k: narrow(&whole(390 * 64)),
        weights: whole(49 * 24).iter().map(|w| w / 4.0).collect(),
        scales: Some(whole(390)),
        ..case.build()
    };
    let exact: Vec<f64> =
        case.with(&built, |queries, keys| oracle::indexer(queries, keys, case.logits()));
    let actual = case.run(on, &built).unwrap_or_else(|e| panic!("indexer: {case:?}: {e}"));
    assert_eq!(wide(&actual), exact, "indexer: {case:?}");
}

/// NaN and infinities are where the definition has them, and nowhere outside windows.
pub fn what_is_not_finite_stays_where_it_reaches(on: &impl ScoreIndexer) {
    for sees in [Sees::Causal, Sees::Windows] {
        for heads in [1, 5, 8] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let case = Case { sees, heads, ..Case::new(41, &[(30, 50), (40, 70)]) };
                let built = case.build::<f16>();
                let mut key = built.clone();
                key.k[(50 + 33) * 32 + 3] = f16::from_f32(bad);
                case.check_built(on, &key, &format!("with {bad} in key 83"));
                let mut query = built.clone();
                query.q[((30 + 21) * heads + heads - 1) * 32 + 9] = f16::from_f32(bad);
                case.check_built(on, &query, &format!("with {bad} in query 51"));
                let mut weight = built;
                weight.weights[11 * heads] = bad;
                case.check_built(on, &weight, &format!("with {bad} as weight of query 11"));
            }
            let case = Case { sees, heads, ..Case::new(42, &[(30, 50), (40, 70)]) };
            let mut built = case.build::<F8E4M3>();
            built.k[(50 + 33) * 32 + 3] = narrow(&[f32::NAN])[0];
            built.q[12 * heads * 32] = narrow(&[f32::NAN])[0];
            case.check_built(on, &built, "with NaN in key 83 and query 12");
        }
    }
}

/// Every documented error, with nothing written.
pub fn bad_input(on: &impl ScoreIndexer) {
    let case = Case { sees: Sees::Windows, scaled: true, ..Case::new(0, &[(2, 4), (1, 3)]) };
    let built = case.build::<bf16>();
    let out = vec![9f32; 3 * 4];
    assert!(case.run(on, &built).is_ok(), "indexer: good input rejected");
    let refused = |what: &str, built: &Built<bf16>| {
        untouched(what, &out, |out| {
            case.with(built, |queries, keys| on.indexer(queries, keys, case.logits(), out))
        });
    };
    let short = |data: &[f32]| data[1..].to_vec();
    refused("short q", &Built { q: built.q[1..].to_vec(), ..built.clone() });
    refused("short k", &Built { k: built.k[1..].to_vec(), ..built.clone() });
    refused("short weights", &Built { weights: short(&built.weights), ..built.clone() });
    let scales = built.scales.as_deref().map(short);
    refused("short scales", &Built { scales, ..built.clone() });
    for row in [-1, 4, i32::MAX] {
        let rows = vec![0, 0, row];
        refused("first rows beyond the keys", &Built { first: rows.clone(), ..built.clone() });
        refused("row limits beyond the keys", &Built { limit: rows, ..built.clone() });
    }
    refused("few row limits", &Built { limit: vec![0; 2], ..built.clone() });
    let with = |what: &str, logits, out: &[f32]| {
        untouched(what, out, |out| {
            case.with(&built, |queries, keys| on.indexer(queries, keys, logits, out))
        });
    };
    with("short out", Logits::Rows { stride: 4 }, &out[1..]);
    with("rows of 3 for 4 keys", Logits::Rows { stride: 3 }, &out[..9]);
    with("two queries for one row", Logits::Tokens, &out[..7]);
    let three = Ragged::from_lens(&[2, 1, 0]).expect("short rows");
    untouched("three sequences for two", &out, |out| {
        case.with(&built, |queries, keys| {
            let queries = IndexerQueries { rows: &three, ..*queries };
            on.indexer(&queries, keys, case.logits(), out)
        })
    });
    for (what, heads, dim) in [("no heads", 0, 32), ("other channels", 16, 16)] {
        untouched(what, &out, |out| {
            case.with(&built, |queries, keys| {
                let q = View::token_major(&built.q[..], heads, dim);
                on.indexer(&IndexerQueries { q, ..*queries }, keys, case.logits(), out)
            })
        });
    }
    untouched("two heads of keys", &out, |out| {
        case.with(&built, |queries, keys| {
            let k = View::token_major(&built.k[..], 2, 16);
            on.indexer(queries, &IndexerKeys { k, ..*keys }, case.logits(), out)
        })
    });
}
