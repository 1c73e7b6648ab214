//! The suite of **score**: the relative rule against the oracle, and what must hold bit for bit.

pub mod expected;
pub mod indexer;
mod predictor;
pub mod rank;

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::sample::select;
use salient::score::{AttentionScore, HeadReduce, Per, Pool, PoolKind, QueryWeights};
use salient::{Element, Layout, Ragged, Span, View};

use super::{assert_accurate, assert_same_bits, magnitude, run_all, wide};
use crate::generate::{Random, lengths};
use crate::implementation::{Score, ScoreAttention, ScorePositions};
use crate::score as oracle;
use crate::tensor::{exact, plain};

pub use predictor::{bad_predictors, predictors, tokens_are_alone};

/// Errors below this share of the largest score are the luck of few numbers.
const FLOOR: f64 = 8.0 * f32::EPSILON as f64;

/// The queries whose attention is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// The last of each sequence.
    Last,
    /// Up to this many last ones.
    Window(usize),
    /// All.
    All,
}

/// Everything that an attention score depends on.
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
    /// Channels per head.
    pub dim: usize,
    /// Keys are `[head, token, dim]` instead of `[token, head, dim]`.
    pub head_major: bool,
    /// Which queries.
    pub queries: Queries,
    /// What is made of them.
    pub score: AttentionScore,
}

impl Case {
    fn rows(&self) -> Ragged {
        Ragged::from_lens(&self.lens).expect("lengths of a case")
    }

    /// The queries that each sequence gives.
    fn queries(&self) -> Ragged {
        let count = |&len: &usize| match self.queries {
            // A row for every sequence, read or not.
            Queries::Last => 1,
            Queries::Window(width) => len.min(width),
            Queries::All => len,
        };
        Ragged::from_lens(&self.lens.iter().map(count).collect::<Vec<_>>()).expect("few queries")
    }

    /// Those of them that exist.
    fn query_spans(&self) -> Vec<Span> {
        let queries = self.queries();
        let present = |(span, &len): (Span, &usize)| Span { len: span.len.min(len), ..span };
        queries.spans().zip(&self.lens).map(present).collect()
    }

    fn q<T: Element>(&self) -> Vec<T> {
        let len = self.queries().total() * self.kv_heads * self.group * self.dim;
        narrow(&Random::new(self.seed).normals(len, 1.5))
    }

    fn k<T: Element>(&self) -> Vec<T> {
        narrow(
            &Random::new(!self.seed).normals(self.rows().total() * self.kv_heads * self.dim, 1.5),
        )
    }

    fn layout(&self) -> Layout {
        if self.head_major {
            Layout::head_major(self.kv_heads, self.dim, self.rows().total())
        } else {
            Layout::token_major(self.kv_heads, self.dim)
        }
    }

    fn outputs(&self) -> usize {
        match self.score.per {
            Per::Token => 1,
            Per::KvHead => self.kv_heads,
        }
    }

    fn run<T: Element>(&self, on: &impl ScoreAttention, q: &[T], k: &[T]) -> Vec<f32> {
        let (rows, queries) = (self.rows(), self.queries());
        let q = View::token_major(q, self.kv_heads * self.group, self.dim);
        let k = View::new(k, self.layout());
        let mut out = vec![f32::MAX; self.outputs() * rows.total()];
        match self.queries {
            Queries::Last => on.last_query(q, k, &rows, &self.score, &mut out),
            Queries::Window(_) => on.window(q, &queries, k, &rows, &self.score, &mut out),
            Queries::All => on.columns(q, k, &rows, &self.score, &mut out),
        }
        .unwrap_or_else(|e| panic!("score: {:?} {self:?}: {e}", T::DTYPE));
        out
    }

    /// Whether an implementation takes the case in this element type.
    fn taken<T: Element>(&self, on: &impl ScoreAttention) -> bool {
        let q = Layout::token_major(self.kv_heads * self.group, self.dim);
        on.takes_attention::<T>(q, self.layout())
    }

    /// An implementation's scores.
    ///
    /// # Panics
    /// With the case, if it is refused.
    pub fn scores<T: Element>(&self, on: &impl ScoreAttention) -> Vec<f32> {
        self.run::<T>(on, &self.q(), &self.k())
    }

    /// Compares an implementation with the oracle in every element type that it takes.
    ///
    /// # Panics
    /// With the case, if it errs by more than the relative rule allows.
    pub fn check(&self, on: &impl ScoreAttention) {
        if !on.attention_sample().takes(self) {
            return;
        }
        self.check_type(on, &self.q::<f32>(), &self.k::<f32>(), "");
        self.check_type(on, &self.q::<f16>(), &self.k::<f16>(), "");
        self.check_type(on, &self.q::<bf16>(), &self.k::<bf16>(), "");
    }

    fn check_type<T: Element>(&self, on: &impl ScoreAttention, q: &[T], k: &[T], changed: &str) {
        if !self.taken::<T>(on) {
            return;
        }
        let rows = self.rows();
        let queries = self.query_spans();
        let q_view = View::token_major(q, self.kv_heads * self.group, self.dim);
        let k_view = View::new(k, self.layout());
        let right = oracle::attention::<f64, T>(q_view, &queries, k_view, &rows, &self.score);
        let plain = plain!(on.attention_sums(), R => {
            exact(&oracle::attention::<R, T>(q_view, &queries, k_view, &rows, &self.score))
        });
        let floor = FLOOR * on.attention_sums().luck() * magnitude(&right);
        let context = || format!("score: {:?} {self:?} {changed}", T::DTYPE);
        let actual = self.run(on, q, k);
        assert_accurate(&wide(&actual), &plain, &right, floor, &context);
    }
}

/// Any case of sequences up to `longest` tokens.
pub fn cases(longest: usize) -> impl Strategy<Value = Case> {
    let shape = (1..=3usize, 1..=4usize, 1..=40usize, any::<bool>());
    let queries = prop_oneof![
        Just(Queries::Last),
        Just(Queries::All),
        (0..=64usize).prop_map(Queries::Window),
    ];
    let heads = select(&[HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised][..]);
    let pool = (select(&[PoolKind::Average, PoolKind::Max][..]), 0..=16usize)
        .prop_map(|(kind, reach)| Pool { kind, width: 2 * reach + 1 });
    let weights = prop_oneof![
        Just(QueryWeights::Uniform),
        (0..5u8, 1..5u8).prop_map(|(a, b)| QueryWeights::Ramp { first: a.into(), last: b.into() }),
    ];
    let score = (heads, select(&[Per::Token, Per::KvHead][..]), prop::option::of(pool), weights);
    (any::<u64>(), lengths(longest), shape, queries, score).prop_map(
        |(seed, lens, (kv_heads, group, dim, head_major), queries, score)| {
            let (heads, per, pool, query_weights) = score;
            let scale = (dim as f32).powf(-0.5);
            let score = AttentionScore { scale, heads, per, pool, query_weights };
            Case { seed, lens, kv_heads, group, dim, head_major, queries, score }
        },
    )
}

/// Runs every table and property.
///
/// # Panics
/// With the case at fault.
pub fn all(on: &(impl Score + ScoreAttention + ScorePositions)) {
    run_all(&[
        ("attention_shapes", &|| attention_shapes(on)),
        ("attention_options", &|| attention_options(on)),
        ("neighbours_change_nothing", &|| neighbours_change_nothing(on)),
        ("the_three_are_one", &|| the_three_are_one(on)),
        ("nan_stays_where_it_reaches", &|| nan_stays_where_it_reaches(on)),
        ("predictors", &|| predictors(on)),
        ("tokens_are_alone", &|| tokens_are_alone(on)),
        ("pools", &|| pools(on)),
        ("key_norms", &|| key_norms(on)),
        ("random_scores", &|| random_scores(on)),
        ("positions", &|| positions(on)),
        ("bad_attention", &|| bad_attention(on)),
        ("bad_predictors", &|| bad_predictors(on)),
        ("bad_keys", &|| bad_keys(on)),
        ("bad_positions", &|| bad_positions(on)),
    ]);
}

fn plain_case(seed: u64, lens: &[usize], queries: Queries) -> Case {
    let score = AttentionScore {
        scale: 0.25,
        heads: HeadReduce::Mean,
        per: Per::Token,
        pool: None,
        query_weights: QueryWeights::Uniform,
    };
    let (lens, kv_heads, group, dim) = (lens.to_vec(), 2, 2, 16);
    Case { seed, lens, kv_heads, group, dim, head_major: false, queries, score }
}

/// Odd head sizes, groups of 1 to 8, ragged batches with empty sequences, both layouts.
pub fn attention_shapes(on: &impl ScoreAttention) {
    let batches: [&[usize]; 6] = [&[], &[0], &[1], &[33, 0, 1, 64, 2], &[150, 0], &[257]];
    let shapes = [(1, 1, 1), (2, 1, 3), (1, 7, 64), (3, 3, 80), (2, 8, 128)];
    for lens in batches {
        for (kv_heads, group, dim) in shapes {
            for head_major in [false, true] {
                for queries in [Queries::Last, Queries::Window(32), Queries::All] {
                    let mut case = plain_case(dim as u64, lens, queries);
                    case.score.scale = (dim as f32).powf(-0.5);
                    Case { kv_heads, group, dim, head_major, ..case }.check(on);
                }
            }
        }
    }
    // Head sizes above 128, for which kernels have tiles of their own.
    for (kv_heads, group, dim) in [(1, 3, 136), (2, 1, 192), (1, 5, 256)] {
        for (i, queries) in
            [Queries::Last, Queries::Window(20), Queries::All].into_iter().enumerate()
        {
            let mut case = plain_case(dim as u64, &[33, 0, 140, 1], queries);
            case.score.scale = (dim as f32).powf(-0.5);
            case.score.per = [Per::Token, Per::KvHead][i % 2];
            Case { kv_heads, group, dim, head_major: i == 1, ..case }.check(on);
        }
    }
    plain_case(5, &[16_384], Queries::Last).check(on);
    plain_case(6, &[4097, 31], Queries::Window(64)).check(on);
}

/// Every way to reduce heads, to weigh queries, to pool.
pub fn attention_options(on: &impl ScoreAttention) {
    let pools = [None, Some((PoolKind::Average, 7)), Some((PoolKind::Max, 33))];
    let weights = [QueryWeights::Uniform, QueryWeights::Ramp { first: 1.0, last: 1.2 }];
    let fading = QueryWeights::Ramp { first: 0.0, last: 3.0 };
    for heads in [HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised] {
        for per in [Per::Token, Per::KvHead] {
            for pool in pools.map(|pool| pool.map(|(kind, width)| Pool { kind, width })) {
                for query_weights in weights.into_iter().chain([fading]) {
                    let windows = [0, 1, 20].map(Queries::Window);
                    for queries in windows.into_iter().chain([Queries::Last, Queries::All]) {
                        let mut case = plain_case(11, &[100, 0, 7, 33, 1], queries);
                        case.score =
                            AttentionScore { heads, per, pool, query_weights, ..case.score };
                        case.check(on);
                    }
                }
            }
        }
    }
    for scale in [0.0, -0.5, 4.0] {
        let mut case = plain_case(12, &[65, 257], Queries::Window(16));
        case.score.scale = scale;
        case.check(on);
    }
}

/// A sequence scores the same bits alone and in a batch.
pub fn neighbours_change_nothing(on: &impl ScoreAttention) {
    let lens = [65, 0, 300, 1, 128];
    for queries in [Queries::Last, Queries::Window(24), Queries::All] {
        let case = plain_case(21, &lens, queries);
        let (q, k): (Vec<bf16>, Vec<bf16>) = (case.q(), case.k());
        let together = case.run(on, &q, &k);
        assert_same_bits(&case.run(on, &q, &k), &together, &format!("score: again: {case:?}"));
        for (sequence, span) in case.rows().spans().enumerate() {
            let alone = Case { lens: vec![span.len], ..case.clone() };
            let wide = case.kv_heads * case.dim;
            let given = case.queries().span(sequence);
            let q = &q[given.start * wide * case.group..given.end() * wide * case.group];
            let k = &k[span.start * wide..span.end() * wide];
            let context = format!("score: sequence {sequence} alone and in its batch: {case:?}");
            assert_same_bits(&alone.run(on, q, k), &together[span.range()], &context);
        }
    }
}

/// The last query is a window of one; columns are a window of all, uniform.
pub fn the_three_are_one(on: &impl ScoreAttention) {
    for (queries, window) in [(Queries::Last, 1), (Queries::All, usize::MAX)] {
        let case = plain_case(31, &[40, 128, 1], queries);
        let (q, k): (Vec<bf16>, Vec<bf16>) = (case.q(), case.k());
        let same = Case { queries: Queries::Window(window), ..case.clone() };
        let context = format!("score: {queries:?} as a window: {case:?}");
        let (one, other) = (case.run(on, &q, &k), same.run(on, &q, &k));
        let (one, other) = (wide(&one), wide(&other));
        assert_accurate(&one, &other, &other, FLOOR * magnitude(&other), &|| context.clone());
    }
}

/// A NaN in a key or query reaches the scores that the definition says, in its own sequence.
pub fn nan_stays_where_it_reaches(on: &impl ScoreAttention) {
    for queries in [Queries::Window(8), Queries::All] {
        for heads in [HeadReduce::Mean, HeadReduce::Max] {
            for per in [Per::Token, Per::KvHead] {
                let mut case = plain_case(41, &[50, 70, 33], queries);
                case.score = AttentionScore { heads, per, ..case.score };
                case.check_nan::<f32>(on);
                case.check_nan::<f16>(on);
                case.check_nan::<bf16>(on);
            }
        }
    }
}

impl Case {
    fn check_nan<T: Element>(&self, on: &impl ScoreAttention) {
        let (q, mut k): (Vec<T>, Vec<T>) = (self.q(), self.k());
        k[(50 + 66) * self.kv_heads * self.dim + 3] = T::from_f32(f32::NAN);
        self.check_type(on, &q, &k, "with NaN in key 66 of sequence 1");
        let (mut q, k): (Vec<T>, Vec<T>) = (self.q(), self.k());
        let token = self.queries().span(1).end() - 4;
        q[token * self.kv_heads * self.group * self.dim] = T::from_f32(f32::NAN);
        self.check_type(on, &q, &k, "with NaN in query -4 of sequence 1");
    }
}

/// Pooling by every width over ragged rows of several heads.
pub fn pools(on: &impl ScoreAttention) {
    let rows = Ragged::from_lens(&[0, 1, 2, 40, 0, 17, 100]).expect("short rows");
    let scores = Random::new(51).normals(3 * rows.total(), 1.0);
    for kind in [PoolKind::Average, PoolKind::Max] {
        for width in (1..=33).step_by(2) {
            let pool = Pool { kind, width };
            let mut actual = vec![f32::MAX; scores.len()];
            let context = || format!("{pool:?} over {rows:?}");
            on.pool(&scores, &rows, &pool, &mut actual)
                .unwrap_or_else(|e| panic!("{}: {e}", context()));
            let pooled = |scores: &[f64]| -> Vec<f64> {
                let heads = scores.chunks_exact(rows.total());
                heads
                    .flat_map(|scores| {
                        rows.spans().flat_map(|span| oracle::pool(&scores[span.range()], &pool))
                    })
                    .collect()
            };
            let exact = pooled(&wide(&scores));
            assert_accurate(&wide(&actual), &exact, &exact, FLOOR * magnitude(&exact), &context);
        }
    }
}

/// Norms of keys in every layout, per token and per head, NaN and infinities among them.
pub fn key_norms(on: &impl Score) {
    let shapes =
        [(70, 1, 1), (70, 2, 3), (70, 3, 80), (300, 8, 128), (33, 12, 64), (1, 5, 256), (0, 2, 8)];
    for (tokens, heads, dim) in shapes {
        let packed = Layout { token_stride: (heads + 2) * dim, ..Layout::token_major(heads, dim) };
        let layouts = [
            Layout::token_major(heads, dim),
            Layout::head_major(heads, dim, tokens),
            packed,
            Layout { token_stride: heads * dim + 1, ..packed },
        ];
        for layout in layouts {
            let len = layout.required_len(tokens).expect("a small tensor");
            let mut values = Random::new(dim as u64).normals(len, 2.0);
            if tokens >= 70 {
                values[layout.offset(3, heads - 1)] = f32::NAN;
                values[layout.offset(69, 0) + dim - 1] = f32::NEG_INFINITY;
            }
            for per in [Per::Token, Per::KvHead] {
                check_norms::<f32>(on, &values, layout, tokens, per);
                check_norms::<f16>(on, &values, layout, tokens, per);
                check_norms::<bf16>(on, &values, layout, tokens, per);
            }
        }
    }
}

fn check_norms<T: Element>(
    on: &impl Score,
    values: &[f32],
    layout: Layout,
    tokens: usize,
    per: Per,
) {
    let values: Vec<T> = narrow(values);
    let k = View::new(&values[..], layout);
    let exact = oracle::key_norms::<f64, T>(k, tokens, per);
    let plain = wide(&oracle::key_norms::<f32, T>(k, tokens, per));
    let mut actual = vec![f32::MAX; exact.len()];
    let context = || format!("keynorm {per:?} of {tokens} tokens, {layout:?}, {:?}", T::DTYPE);
    on.keynorm(k, per, &mut actual).unwrap_or_else(|e| panic!("{}: {e}", context()));
    assert_accurate(&wide(&actual), &plain, &exact, FLOOR * magnitude(&exact), &context);
}

/// Uniform numbers in [0, 1) that depend on seed and position alone.
pub fn random_scores(on: &impl ScorePositions) {
    let run = |seed, positions: &[i32]| {
        let mut out = vec![f32::MAX; positions.len()];
        on.random(seed, positions, &mut out)
            .unwrap_or_else(|e| panic!("random: seed {seed}, {} positions: {e}", positions.len()));
        out
    };
    let all: Vec<i32> = (0..4096).collect();
    let scores = run(5, &all);
    assert!(scores.iter().all(|s| (0.0..1.0).contains(s)), "random: a score outside [0, 1)");
    let mean = scores.iter().sum::<f32>() / 4096.0;
    let below = scores.iter().filter(|&&s| s < 0.25).count();
    assert!((mean - 0.5).abs() < 0.03 && (900..1150).contains(&below), "random: not uniform");
    let some: Vec<i32> = vec![4000, 3, 77];
    let expected: Vec<f32> = some.iter().map(|&p| scores[p as usize]).collect();
    assert_same_bits(&run(5, &some), &expected, "random: other neighbours");
    assert_ne!(run(6, &all), scores, "random: another seed, the same scores");
    assert!(run(5, &[]).is_empty());
}

/// The index in the sequence, exact.
pub fn positions(on: &impl ScorePositions) {
    let rows = Ragged::from_lens(&[3, 0, 1, 5000]).expect("short rows");
    let mut out = vec![f32::MAX; rows.total()];
    on.position(&rows, &mut out).expect("good input");
    let expected: Vec<f32> = rows.lens().flat_map(|len| (0..len).map(|i| i as f32)).collect();
    assert_same_bits(&out, &expected, "position");
}

/// Every documented error of attention and pooling, with nothing written.
pub fn bad_attention(on: &impl ScoreAttention) {
    let rows = Ragged::from_lens(&[4, 3]).expect("short rows");
    let queries = Ragged::from_lens(&[2, 3]).expect("short rows");
    let (q, k) = (vec![bf16::ONE; 7 * 4 * 8], vec![bf16::ONE; 7 * 2 * 8]);
    let out = vec![9f32; 7];
    let score = plain_case(0, &[], Queries::All).score;
    let view = |len: usize, heads| View::token_major(&q[..len], heads, 8);
    let keys = |len: usize, heads| View::token_major(&k[..len], heads, 8);
    let (good_q, good_k) = (view(5 * 4 * 8, 4), keys(7 * 2 * 8, 2));
    let window = |score: &AttentionScore, out: &mut [f32]| {
        on.window(good_q, &queries, good_k, &rows, score, out)
    };
    assert!(window(&score, &mut out.clone()).is_ok(), "score: good input rejected");
    let pool = |width| Some(Pool { kind: PoolKind::Max, width });
    let ramp = |first, last| QueryWeights::Ramp { first, last };
    let bad_scores = [
        ("a pool of 4", AttentionScore { pool: pool(4), ..score }),
        ("a pool of 35", AttentionScore { pool: pool(35), ..score }),
        ("a pool of 0", AttentionScore { pool: pool(0), ..score }),
        ("a NaN scale", AttentionScore { scale: f32::NAN, ..score }),
        ("a negative ramp", AttentionScore { query_weights: ramp(-1.0, 1.0), ..score }),
        ("a ramp of zeros", AttentionScore { query_weights: ramp(0.0, 0.0), ..score }),
        ("a NaN ramp", AttentionScore { query_weights: ramp(f32::NAN, 1.0), ..score }),
    ];
    for (what, score) in bad_scores {
        untouched(what, &out, |out| window(&score, out));
    }
    untouched("short out", &out[1..], |out| window(&score, out));
    let per = AttentionScore { per: Per::KvHead, ..score };
    untouched("out of one head for two", &out, |out| window(&per, out));
    untouched("short q", &out, |out| {
        on.window(view(5 * 4 * 8 - 1, 4), &queries, good_k, &rows, &score, out)
    });
    untouched("short k", &out, |out| {
        on.window(good_q, &queries, keys(7 * 2 * 8 - 1, 2), &rows, &score, out)
    });
    untouched("3 query heads over 2 KV heads", &out, |out| {
        on.window(view(5 * 3 * 8, 3), &queries, good_k, &rows, &score, out)
    });
    untouched("different head sizes", &out, |out| {
        on.window(View::token_major(&q, 4, 4), &queries, good_k, &rows, &score, out)
    });
    let more = Ragged::from_lens(&[2, 4]).expect("short rows");
    untouched("more queries than keys", &out, |out| {
        on.window(View::token_major(&q, 4, 8), &more, good_k, &rows, &score, out)
    });
    let pool = Pool { kind: PoolKind::Max, width: 3 };
    untouched("pool: short out", &out[1..], |out| on.pool(&[1.0; 7], &rows, &pool, out));
}

/// Lengths that disagree, with nothing written.
pub fn bad_keys(on: &impl Score) {
    let (k, out) = (vec![1f32; 7 * 2 * 8], vec![9f32; 7]);
    let keys = |len: usize, heads| View::token_major(&k[..len], heads, 8);
    untouched("keynorm: out of 7 for 2 heads", &out, |out| {
        on.keynorm(keys(7 * 2 * 8, 2), Per::KvHead, out)
    });
    untouched("keynorm: short k", &out, |out| on.keynorm(keys(7 * 2 * 8 - 1, 2), Per::Token, out));
    untouched("keynorm: no heads", &out, |out| on.keynorm(keys(0, 0), Per::Token, out));
}

/// Lengths that disagree, with nothing written.
pub fn bad_positions(on: &impl ScorePositions) {
    let (rows, out) = (Ragged::from_lens(&[4, 3]).expect("short rows"), vec![9f32; 7]);
    untouched("random: short out", &out, |out| on.random(1, &[0; 8], out));
    untouched("position: short out", &out[1..], |out| on.position(&rows, out));
}

fn untouched(what: &str, before: &[f32], run: impl FnOnce(&mut [f32]) -> salient::Result<()>) {
    let mut out = before.to_vec();
    assert!(run(&mut out).is_err(), "score: bad input accepted: {what}");
    assert_same_bits(&out, before, &format!("score: written despite an Err: {what}"));
}

fn narrow<T: Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}
