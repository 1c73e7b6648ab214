//! **score** from attention on the emulated kernels: the conformance suite, every head size and group,
//! what they move, and that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::score::{AttentionScore, HeadReduce, Per, Pool, PoolKind, QueryWeights};
use salient::kernels::score::{AttentionPlan, AttentionShape};
use salient::kernels::{Fault, Status};
use salient::{Element, Ragged, Result, Span, View};
use salient_emulator::{AttentionRun, Device, Emulated, Launched};
use salient_oracle::generate::Random;
use salient_oracle::implementation::Sample;
use salient_oracle::score::attention;
use salient_oracle::suite::score::{self, Case, Queries};
use salient_oracle::suite::{assert_accurate, assert_same_bits, magnitude, wide};

/// Seeds and compute capabilities that the suite runs under.
const DEVICES: [(u64, i32); 2] = [(1, 80), (2, 90)];

fn devices() -> impl Iterator<Item = Emulated> {
    DEVICES.into_iter().map(|(seed, capability)| {
        let sample = Sample::one_in(8, seed);
        Emulated { seed, capability, sample, ..Emulated::default() }
    })
}

#[test]
fn shapes() {
    devices().for_each(|on| score::attention_shapes(&on));
}

#[test]
fn options() {
    devices().for_each(|on| score::attention_options(&on));
}

#[test]
fn neighbours_change_nothing() {
    devices().for_each(|on| score::neighbours_change_nothing(&on));
}

#[test]
fn the_three_are_one() {
    devices().for_each(|on| score::the_three_are_one(&on));
}

#[test]
fn nan_stays_where_it_reaches() {
    devices().for_each(|on| score::nan_stays_where_it_reaches(&on));
}

#[test]
fn pools() {
    devices().for_each(|on| score::pools(&on));
}

#[test]
fn bad_input() {
    devices().for_each(|on| score::bad_attention(&on));
}

const REDUCTIONS: [HeadReduce; 3] = [HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised];

fn plain(dim: usize) -> AttentionScore {
    AttentionScore {
        scale: (dim as f32).powf(-0.5),
        heads: HeadReduce::Mean,
        per: Per::Token,
        pool: None,
        query_weights: QueryWeights::Uniform,
    }
}

#[test]
fn every_head_size_and_group() {
    let windows = [1, 3, 20, 128].map(Queries::Window).into_iter().chain([Queries::All]);
    for (i, queries) in windows.enumerate() {
        for (j, dim) in [8, 40, 64, 96, 104, 128, 256].into_iter().enumerate() {
            let group = [1, 3, 16, 2, 7, 5][(2 * i + j) % 6];
            let per = if (i + j) % 2 == 0 { Per::Token } else { Per::KvHead };
            let score = AttentionScore { heads: REDUCTIONS[(i + j) % 3], per, ..plain(dim) };
            let (seed, kv_heads, head_major) = ((7 * i + j) as u64, 1 + j % 2, j % 3 == 0);
            let lens = vec![31, 0, 270];
            let case = Case { seed, lens, kv_heads, group, dim, head_major, queries, score };
            let capability = if j % 2 == 0 { 80 } else { 90 };
            case.check(&Emulated { seed, capability, ..Emulated::default() });
        }
    }
}

/// Queries of all tokens, and keys.
struct Problem<T> {
    q: Vec<T>,
    k: Vec<T>,
    rows: Ragged,
    kv_heads: usize,
    group: usize,
    dim: usize,
}

impl<T: Element> Problem<T> {
    fn new(lens: &[usize], kv_heads: usize, group: usize, dim: usize) -> Self {
        let rows = Ragged::from_lens(lens).unwrap();
        let mut random = Random::new(dim as u64);
        let mut normals = |len| random.normals(len, 1.5).into_iter().map(T::from_f32).collect();
        let keys = rows.total() * kv_heads * dim;
        let (q, k) = (normals(group * keys), normals(keys));
        Self { q, k, rows, kv_heads, group, dim }
    }

    fn views(&self) -> [View<'_, T>; 2] {
        let view = |data, heads| View::token_major(data, heads, self.dim);
        [view(&self.q[..], self.kv_heads * self.group), view(&self.k[..], self.kv_heads)]
    }

    /// With the queries of all tokens there, of which a plan takes the last.
    fn buffers(
        &self,
        device: &Device,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        lse: Option<&[f32]>,
    ) -> AttentionRun<T> {
        let [q, k] = self.views();
        AttentionRun::new(device, plan, q, &self.rows, k, &self.rows, lse).unwrap()
    }

    fn run(
        &self,
        on: &Emulated,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        lse: Option<&[f32]>,
    ) -> (Vec<f32>, Vec<Launched>) {
        let device = on.device();
        let run = self.buffers(&device, plan, lse);
        let (status, launched) = run.launch(on, &device).unwrap();
        status.check().unwrap();
        (run.scores.read(), launched)
    }

    fn lse(&self, on: &Emulated) -> Vec<f32> {
        let [q, k] = self.views();
        on.saved_lse(q, k, &self.rows, plain(self.dim).scale).unwrap()
    }

    /// Judges scores of the last `window` queries.
    fn check(&self, actual: &[f32], score: &AttentionScore, window: usize, what: &str) {
        let [q, k] = self.views();
        let last = |span: Span| {
            let len = span.len.min(window);
            Span { start: span.end() - len, len }
        };
        let queries: Vec<Span> = self.rows.spans().map(last).collect();
        let exact = attention::<f64, T>(q, &queries, k, &self.rows, score);
        let plain = attention::<f32, T>(q, &queries, k, &self.rows, score);
        let floor = 8.0 * f64::from(f32::EPSILON) * magnitude(&exact);
        let context = || format!("{what}: {score:?}");
        assert_accurate(&wide(actual), &wide(&plain), &exact, floor, &context);
    }
}

/// A window may be the end of the queries of all tokens, and its LSE that of a prefill.
#[test]
fn windows_of_a_prefill() {
    let problem = Problem::<bf16>::new(&[70, 0, 300, 9], 2, 3, 64);
    let on = Emulated::default();
    let lse = problem.lse(&on);
    let ramp = QueryWeights::Ramp { first: 1.0, last: 1.2 };
    for (i, heads) in REDUCTIONS.into_iter().enumerate() {
        let per = if i == 1 { Per::Token } else { Per::KvHead };
        let score = AttentionScore { heads, per, query_weights: ramp, ..plain(64) };
        for window in [1, 20, 128] {
            let (scores, _) =
                problem.run(&on, |shape| AttentionPlan::window(shape, score, window), None);
            problem.check(&scores, &score, window, "no LSE");
        }
        for window in [1, 20, 128, 200, usize::MAX] {
            let plan = |shape| AttentionPlan::window_of_lse(shape, score, window);
            let (scores, _) = problem.run(&on, plan, Some(&lse));
            problem.check(&scores, &score, window, "with the LSE");
        }
    }
}

#[test]
fn queries_that_see_nothing_count_nothing() {
    let mut problem = Problem::<f16>::new(&[40, 270], 2, 2, 32);
    let (on, score) = (Emulated::default(), plain(32));
    let mut lse = problem.lse(&on);
    let heads = 4;
    let last = [39, 309];
    for (row, lse) in lse.chunks_exact_mut(heads).enumerate() {
        if !last.contains(&row) {
            lse.fill(f32::NEG_INFINITY);
        }
    }
    let columns = |shape| AttentionPlan::columns(shape, score);
    let (mut scores, _) = problem.run(&on, columns, Some(&lse));
    // Of all queries, each counts for a share.
    for span in problem.rows.spans() {
        scores[span.range()].iter_mut().for_each(|score| *score *= span.len as f32);
    }
    problem.check(&scores, &score, 1, "only the last queries");

    lse.fill(f32::NEG_INFINITY);
    problem.k[5 * 64] = f16::NAN;
    problem.k[50 * 64] = f16::INFINITY;
    let (scores, _) = problem.run(&on, columns, Some(&lse));
    assert_same_bits(&scores, &[0.0; 310], "no queries");
}

#[test]
fn infinities_reach_what_the_oracle_says() {
    let score = plain(16);
    for (of_key, at, value) in [
        (true, 66, f32::INFINITY),
        (true, 299, f32::NEG_INFINITY),
        (true, 66, f32::NAN),
        (false, 296, f32::INFINITY),
        (false, 290, f32::NEG_INFINITY),
        (false, 299, f32::NAN),
    ] {
        for heads in REDUCTIONS {
            let score = AttentionScore { heads, per: Per::KvHead, ..score };
            let mut problem = Problem::<bf16>::new(&[300, 20], 2, 2, 16);
            let (data, row) = if of_key { (&mut problem.k, 32) } else { (&mut problem.q, 64) };
            data[at * row + 3] = bf16::from_f32(value);
            let on = Emulated::default();
            for window in [1, 8, 64] {
                let plan = |shape| AttentionPlan::window(shape, score, window);
                let what = format!("{value} in {at}, key {of_key}, window {window}");
                problem.check(&problem.run(&on, plan, None).0, &score, window, &what);
            }
            let lse = problem.lse(&on);
            let plan = |shape| AttentionPlan::columns(shape, score);
            let what = format!("{value} in {at}, key {of_key}, columns");
            problem.check(&problem.run(&on, plan, Some(&lse)).0, &score, usize::MAX, &what);
        }
    }
}

/// Long enough for several tiles of keys: alone and in a batch, under any seed.
fn same_bits(on: impl Fn(u64) -> Emulated) {
    let problem = Problem::<bf16>::new(&[37, 700, 1100], 1, 2, 64);
    let wide = 2 * 64;
    let start = 737;
    let alone = Problem {
        q: problem.q[start * wide..].to_vec(),
        k: problem.k[start * wide / 2..].to_vec(),
        rows: Ragged::from_lens(&[1100]).unwrap(),
        ..problem
    };
    let problem = Problem::<bf16>::new(&[37, 700, 1100], 1, 2, 64);
    let lse = problem.lse(&Emulated::default());
    for (i, heads) in REDUCTIONS.into_iter().enumerate() {
        let pool = Some(Pool { kind: PoolKind::Average, width: 7 });
        let score = AttentionScore { heads, pool, ..plain(64) };
        for (window, given) in [(1, false), (33, false), (33, true)] {
            let plan = |shape| match given {
                true => AttentionPlan::window_of_lse(shape, score, window),
                false => AttentionPlan::window(shape, score, window),
            };
            let lse_of = |from: usize| given.then_some(&lse[from * 2..]);
            let (together, _) = problem.run(&on(i as u64), plan, lse_of(0));
            let (scores, _) = alone.run(&on(7 + i as u64), plan, lse_of(start));
            let context = format!("{score:?}, {window} queries, LSE: {given}");
            assert_same_bits(&scores, &together[start..], &context);
        }
    }
}

#[test]
fn any_seed_and_batch_give_the_same_bits() {
    same_bits(|seed| {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        Emulated { seed, capability, ..Emulated::default() }
    });
}

#[test]
fn offsets_that_cannot_be_are_reported_and_change_nothing_else() {
    let problem = Problem::<bf16>::new(&[30, 10, 300], 2, 2, 32);
    let (on, score) = (Emulated::default(), plain(32));
    let lse = problem.lse(&on);
    type Edit = fn(&mut AttentionRun<bf16>);
    // And the sequences at fault.
    let edits: [(Edit, &[usize]); 6] = [
        (|run| run.cu_seqlens.write(&[0, 30, 20, 340]), &[1, 2]),
        (|run| run.cu_seqlens.write(&[0, 30, 40, 341]), &[2]),
        (|run| run.cu_seqlens.write(&[-1, 30, 40, 340]), &[0]),
        (|run| run.cu_seqlens.write(&[0, 30, i32::MAX, 340]), &[1, 2]),
        (|run| run.cu_queries.write(&[0, 30, 40, i32::MAX]), &[2]),
        (|run| run.cu_queries.write(&[i32::MIN, 30, 40, 340]), &[0]),
    ];
    for window in [1, 20, usize::MAX] {
        let plan = |shape| match window {
            usize::MAX => AttentionPlan::columns(shape, score),
            _ => AttentionPlan::window(shape, score, window),
        };
        let lse = (window == usize::MAX).then_some(&lse[..]);
        let (right, _) = problem.run(&on, plan, lse);
        for (i, (edit, faulty)) in edits.into_iter().enumerate() {
            let device = on.device();
            let mut run = problem.buffers(&device, plan, lse);
            run.scores.write(&[7.0; 340]);
            edit(&mut run);
            let (status, _) = run.launch(&on, &device).unwrap();
            assert!(status.has(Fault::Lengths), "edit {i}");
            assert_eq!(status.row(), Some(faulty[0]), "edit {i}");
            let scores = run.scores.read();
            for (sequence, span) in problem.rows.spans().enumerate() {
                let untouched = vec![7.0; span.len];
                let right = &right[span.range()];
                let expected = if faulty.contains(&sequence) { &untouched } else { right };
                let context = format!("edit {i}, sequence {sequence}");
                assert_same_bits(&scores[span.range()], expected, &context);
            }
        }
    }
}

/// More queries than keys: the last ones, as many as there are keys.
#[test]
fn queries_without_keys_are_left_out() {
    let problem = Problem::<bf16>::new(&[30, 10], 1, 2, 32);
    let (on, score) = (Emulated::default(), plain(32));
    let device = on.device();
    let plan = |shape| AttentionPlan::window(shape, score, 16);
    let mut run = problem.buffers(&device, plan, None);
    run.cu_seqlens.write(&[0, 30, 33]);
    run.scores.write(&[7.0; 40]);
    let (status, _) = run.launch(&on, &device).unwrap();
    assert_eq!(status, Status::CLEAR);
    let rows = Ragged::from_lens(&[30, 3]).unwrap();
    let [q, k] = problem.views();
    let queries = [Span { start: 14, len: 16 }, Span { start: 37, len: 3 }];
    let exact = attention::<f64, bf16>(q, &queries, k, &rows, &score);
    let scores = run.scores.read();
    assert_accurate(&wide(&scores[..33]), &exact, &exact, 1e-6, &|| "fewer keys".to_owned());
    assert_eq!(scores[33..], [7.0; 7]);
}

fn assert_few_conflicts(launched: &Launched) {
    let shared = &launched.traffic.shared;
    let sites = &launched.traffic.shared_sites;
    assert!(shared.ways() <= 1.1, "{}: {} ways: {sites:?}", launched.kernel, shared.ways());
}

fn kernels(launched: &[Launched]) -> Vec<&str> {
    launched.iter().map(|launched| launched.kernel.as_str()).collect()
}

/// Bytes that a kernel reads of a buffer, in whole sectors.
fn read(launched: &Launched, name: &str) -> usize {
    let read = launched.traffic.buffer(name).read;
    assert_eq!(read.sectors, read.least_sectors, "{}: {name}", launched.kernel);
    read.bytes as usize
}

fn written(launched: &Launched, name: &str) -> usize {
    launched.traffic.buffer(name).written.bytes as usize
}

const LEN: usize = 640;
const KV_HEADS: usize = 2;
const GROUP: usize = 4;

/// For every tile of keys, the queries of a head that may see one of them, from a multiple of 8 on.
fn seen(window: usize, tile: usize) -> usize {
    let first = |key: usize| (key + window).saturating_sub(LEN) / 8 * 8;
    (0..LEN).step_by(tile).map(|key| window - first(key)).sum()
}

#[test]
fn keys_are_read_once_for_logits_and_once_for_attention() {
    let on = Emulated { counting: true, capability: 80, ..Emulated::default() };
    for (dim, tile) in [(64, 256), (96, 256), (128, 256), (256, 128)] {
        let problem = Problem::<bf16>::new(&[LEN], KV_HEADS, GROUP, dim);
        let (window, score) = (64, plain(dim));
        let plan = |shape| AttentionPlan::window(shape, score, window);
        let (_, launched) = problem.run(&on, plan, None);
        let names = ["window_stats", "window_sums", "attention_columns", "attention_finish"];
        assert_eq!(kernels(&launched), names);
        let (heads, tiles) = (KV_HEADS * GROUP, LEN.div_ceil(tile));
        let columns = heads * seen(window, tile);
        for i in [0, 2] {
            assert_eq!(read(&launched[i], "k"), LEN * KV_HEADS * dim * 2);
            assert_eq!(read(&launched[i], "q"), columns * dim * 2);
            let flops = columns * tile * dim * 2;
            assert_eq!(launched[i].traffic.matrix_operations as usize, flops, "{dim}");
        }
        // A largest logit and a sum for each query and tile; then for each query.
        assert_eq!(written(&launched[0], "workspace"), columns * 8);
        let stats = launched[1].traffic.buffer("workspace").read.bytes as usize;
        assert!(stats <= columns * 8 && stats > columns * 8 * (tiles - 1) / tiles);
        assert_eq!(written(&launched[1], "workspace"), heads * window * 8);
        assert_eq!(read(&launched[2], "workspace"), columns * 8);
        assert_eq!(written(&launched[2], "workspace"), KV_HEADS * LEN * 4);
        assert_eq!(read(&launched[3], "workspace"), KV_HEADS * LEN * 4);
        assert_eq!(written(&launched[3], "scores"), LEN * 4);
        launched.iter().for_each(assert_few_conflicts);
    }
}

#[test]
fn the_last_query_reads_keys_once() {
    let on = Emulated { counting: true, capability: 80, ..Emulated::default() };
    let (dim, heads) = (128, KV_HEADS * GROUP);
    let problem = Problem::<bf16>::new(&[LEN], KV_HEADS, GROUP, dim);
    let score = plain(dim);
    let (_, launched) = problem.run(&on, |shape| AttentionPlan::window(shape, score, 1), None);
    assert_eq!(kernels(&launched), ["window_stats", "window_sums", "attention_finish"]);
    assert_eq!(read(&launched[0], "k"), LEN * KV_HEADS * dim * 2);
    let tiles = LEN.div_ceil(256);
    assert_eq!(written(&launched[0], "workspace"), LEN * heads * 4 + tiles * heads * 8);
    let finish = launched[2].traffic.buffer("workspace").read.bytes as usize;
    // The logits, and a pair for each head in each warp.
    assert_eq!(finish, LEN * heads * 4 + LEN / 128 * 5 * heads * 8);
    launched.iter().for_each(assert_few_conflicts);
    // With an LSE there is but one pass, too.
    let lse = problem.lse(&on);
    let plan = |shape| AttentionPlan::window_of_lse(shape, score, 1);
    let (_, launched) = problem.run(&on, plan, Some(&lse));
    assert_eq!(kernels(&launched), ["attention_columns", "attention_finish"]);
    assert_eq!(read(&launched[0], "k"), LEN * KV_HEADS * dim * 2);
}

#[test]
fn columns_read_keys_once_and_queries_once_per_tile_of_keys() {
    let on = Emulated { counting: true, capability: 80, ..Emulated::default() };
    for (dim, tile) in [(64, 256), (256, 128)] {
        let problem = Problem::<bf16>::new(&[LEN], KV_HEADS, GROUP, dim);
        let lse = problem.lse(&Emulated::default());
        for heads in REDUCTIONS {
            let score = AttentionScore { heads, ..plain(dim) };
            let plan = |shape| AttentionPlan::columns(shape, score);
            let (_, launched) = problem.run(&on, plan, Some(&lse));
            assert_eq!(kernels(&launched), ["attention_columns", "attention_finish"]);
            let columns = KV_HEADS * GROUP * seen(LEN, tile);
            assert_eq!(read(&launched[0], "k"), LEN * KV_HEADS * dim * 2);
            assert_eq!(read(&launched[0], "q"), columns * dim * 2);
            assert_eq!(launched[0].traffic.buffer("lse").read.bytes as usize, columns * 4);
            let flops = columns * tile * dim * 2;
            assert_eq!(launched[0].traffic.matrix_operations as usize, flops);
            let (rows, maxima) = match heads {
                HeadReduce::MaxNormalised => (KV_HEADS * GROUP, LEN.div_ceil(tile) * 8),
                _ => (KV_HEADS, 0),
            };
            assert_eq!(written(&launched[0], "workspace"), rows * (LEN + maxima) * 4);
            launched.iter().for_each(assert_few_conflicts);
        }
    }
}

/// Mistakes made on purpose: each is seen.
#[test]
fn mutants_are_caught() {
    type Property = fn(&Emulated);
    fn bits(on: &Emulated) {
        same_bits(|seed| Emulated { seed: on.seed + seed, ..*on });
    }
    let mutants: [(&str, Property); 4] = [
        ("attention_score/barrier", |on| score::neighbours_change_nothing(on)),
        ("attention_score/bounds", |on| score::neighbours_change_nothing(on)),
        ("attention_score/order", bits),
        ("pool/barrier", |on| score::pools(on)),
    ];
    for (mutant, property) in mutants {
        let on = Emulated { seed: 1, mutant: Some(mutant), ..Emulated::default() };
        let caught = catch_unwind(AssertUnwindSafe(|| property(&on))).is_err();
        assert!(caught, "{mutant} passes");
    }
    // The same copy of the kernels, doing nothing wrong.
    let on = Emulated { seed: 1, mutant: Some("none"), ..Emulated::default() };
    score::neighbours_change_nothing(&on);
    score::pools(&on);
}
