//! Costs agree with counting by hand, and with the paper's table.

use proptest::collection::vec;
use proptest::prelude::*;
use salient::Error;
use salient::cost::{
    Convention, Cost, Counting, Embedding, Head, ModelShape, Pairs, decode, kv_bytes,
    predictor_flops, prefill, speedup_bound,
};
use salient::schedule::{KvAtStage, Plan, Schedule, Stages};

/// Mistral-7B as the paper counts it: keys and values of all heads.
const MISTRAL: ModelShape = ModelShape {
    layers: 32,
    hidden: 4096,
    heads: 32,
    kv_heads: 32,
    head_dim: 128,
    ffn: 14336,
    vocab: 32000,
};

const SMOLLM2: ModelShape = ModelShape {
    layers: 30,
    hidden: 576,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    ffn: 1536,
    vocab: 49152,
};

/// SDTP's Table 2, in 1e12 operations: tokens; prefill dense and pruned; with 128 generated tokens.
const TABLE_2: [(usize, [f64; 2], [f64; 2]); 6] = [
    (4 << 10, [72.51, 47.81], [74.78, 50.01]),
    (8 << 10, [158.22, 102.01], [160.70, 104.35]),
    (16 << 10, [369.22, 229.41], [372.11, 232.03]),
    (32 << 10, [949.54, 560.40], [953.25, 563.56]),
    (64 << 10, [2743.46, 1526.98], [2748.83, 1531.25]),
    (128 << 10, [8864.49, 4678.81], [8873.15, 4685.28]),
];

/// The scorer that the paper's size limit allows: a quarter of the model's width.
fn with_scorer(counting: Counting) -> Convention {
    let scoring = predictor_flops(MISTRAL.hidden, MISTRAL.hidden / 4);
    Convention { scoring, ..Convention::paper(counting) }
}

fn sdtp(kv_at_stage: KvAtStage) -> Schedule {
    Schedule { kv_at_stage, ..Schedule::sdtp() }
}

fn assert_within(tolerance: f64, actual: f64, expected: f64, what: &str) {
    let error = actual / expected - 1.0;
    assert!(error.abs() <= tolerance, "{what}: {actual} is {:.3}% off {expected}", 100.0 * error);
}

/// The largest relative difference from the six pruned prefill figures.
fn worst_pruned(schedule: &Schedule, convention: &Convention) -> f64 {
    let errors = TABLE_2.map(|(len, [_, pruned], _)| {
        let plan = schedule.plan(&[len], 32).unwrap();
        (prefill(&MISTRAL, &plan, convention).unwrap().total() / (pruned * 1e12) - 1.0).abs()
    });
    errors.into_iter().fold(0.0, f64::max)
}

#[test]
fn the_papers_unpruned_prefill() {
    let one = Schedule::dense().plan(&[1], 32).unwrap();
    let per_token = prefill(&MISTRAL, &one, &Convention::paper(Counting::Plain)).unwrap();
    assert_eq!(per_token.linear + per_token.head, 16_093_544_448.0);
    for counting in [Counting::Plain, Counting::Authors] {
        for (len, [dense, _], _) in TABLE_2 {
            let plan = Schedule::dense().plan(&[len], 32).unwrap();
            let cost = prefill(&MISTRAL, &plan, &Convention::paper(counting)).unwrap();
            assert_within(1e-4, cost.total(), dense * 1e12, &format!("{len} tokens"));
        }
    }
}

#[test]
fn the_papers_pruned_prefill() {
    let schedule = sdtp(KvAtStage::Incoming);
    let plain = worst_pruned(&schedule, &Convention::paper(Counting::Plain));
    assert!((0.02..0.03).contains(&plain), "plain reading: {plain}");
    let authors = worst_pruned(&schedule, &with_scorer(Counting::Authors));
    assert!(authors < 0.0015, "authors' counting: {authors}");
}

#[test]
fn readings_of_the_pruned_prefill_that_fit_less_well() {
    let schedule = sdtp(KvAtStage::Incoming);
    let no_scorer = Convention::paper(Counting::Authors);
    let worst = worst_pruned(&schedule, &no_scorer);
    assert!((0.005..0.006).contains(&worst), "no scorer: {worst}");
    let head_in_full = Convention { head: Head::PromptTokens, ..no_scorer };
    let worst = worst_pruned(&schedule, &head_in_full);
    assert!((0.009..0.010).contains(&worst), "head over the prompt: {worst}");
    // The authors' counting says what the block behind a stage counts, whatever it caches.
    let pruned_kv = worst_pruned(&sdtp(KvAtStage::Pruned), &with_scorer(Counting::Authors));
    assert_eq!(pruned_kv, worst_pruned(&schedule, &with_scorer(Counting::Authors)));
}

#[test]
fn the_papers_decode() {
    let convention = Convention::paper(Counting::Authors);
    let generate = |schedule: &Schedule, len: usize| -> f64 {
        let plan = schedule.plan(&[len], 32).unwrap();
        let total = |step| decode(&MISTRAL, &plan, step, &convention).unwrap().total();
        (0..128).map(total).sum::<f64>() / 1e12
    };
    // Both columns are rounded to 0.01, so their difference is known to 0.01.
    for (len, prefill, both) in TABLE_2 {
        let dense = generate(&Schedule::dense(), len);
        assert!((dense - (both[0] - prefill[0])).abs() < 0.012, "{len} tokens: {dense}");
        let pruned = generate(&sdtp(KvAtStage::Incoming), len);
        assert!((pruned - (both[1] - prefill[1])).abs() < 0.05, "{len} tokens: {pruned}");
    }
}

#[test]
fn the_papers_kv_share() {
    for (kv_at_stage, share) in [(KvAtStage::Pruned, 0.653), (KvAtStage::Incoming, 0.673)] {
        for (len, ..) in TABLE_2 {
            let plan = sdtp(kv_at_stage).plan(&[len], 32).unwrap();
            let dense = kv_bytes(&MISTRAL, &plan.dense(), 2).unwrap();
            let pruned = kv_bytes(&MISTRAL, &plan, 2).unwrap();
            assert_eq!(dense, 2 * 2 * 32 * 32 * 128 * len as u64);
            assert!((pruned as f64 / dense as f64 - share).abs() < 1e-3);
        }
    }
}

/// The default convention, counted token by token and pair by pair.
fn by_hand(shape: &ModelShape, plan: &Plan) -> Cost {
    let mut cost = Cost::default();
    for layer in 0..shape.layers {
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        for _row in 0..plan.rows_at(layer).total() {
            let products = [(shape.hidden, q), (q, shape.hidden)];
            let gated = [(shape.hidden, shape.ffn); 3];
            let weights: usize = products.iter().chain(&gated).map(|(a, b)| a * b).sum();
            cost.linear += (2 * weights) as f64;
        }
        cost.linear += (plan.kv_rows_at(layer).total() * 2 * 2 * shape.hidden * kv) as f64;
        for len in plan.rows_at(layer).lens() {
            for query in 0..len {
                let seen = query + 1;
                cost.attention += (2 * 2 * seen * shape.heads * shape.head_dim) as f64;
            }
        }
    }
    let heads = plan.lens().iter().filter(|&&len| len > 0).count();
    cost.head = (2 * heads * shape.hidden * shape.vocab) as f64;
    cost
}

/// Small enough for every figure to be an exact f64.
fn shapes() -> impl Strategy<Value = ModelShape> {
    let sizes = (1usize..40, 1usize..5, 1usize..4, 1usize..17, 1usize..50, 1usize..100);
    sizes.prop_map(|(hidden, kv_heads, group, head_dim, ffn, vocab)| ModelShape {
        layers: 12,
        hidden,
        heads: kv_heads * group,
        kv_heads,
        head_dim,
        ffn,
        vocab,
    })
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let kv = prop_oneof![Just(KvAtStage::Pruned), Just(KvAtStage::Incoming)];
    let stages = (0usize..12, 1usize..5, 1usize..6, 0.1..=1.0f64).prop_map(
        |(start, step, stages, ratio)| Stages::Geometric { start, step, stages, ratio, floor: 0.0 },
    );
    let stages = prop_oneof![1 => Just(Stages::None), 8 => stages];
    (stages, kv).prop_map(|(stages, kv_at_stage)| Schedule {
        stages,
        kv_at_stage,
        ..Schedule::default()
    })
}

fn conventions() -> impl Strategy<Value = Convention> {
    (
        prop_oneof![Just(Pairs::Visible), Just(Pairs::All), Just(Pairs::Paper)],
        prop_oneof![Just(Head::LastToken), Just(Head::KeptTokens), Just(Head::PromptTokens)],
        prop_oneof![Just(Embedding::Lookup), Just(Embedding::Product)],
        prop_oneof![Just(Counting::Plain), Just(Counting::Authors)],
        (0u32..1000).prop_map(f64::from),
    )
        .prop_map(|(pairs, head, embedding, counting, scoring)| Convention {
            pairs,
            head,
            embedding,
            counting,
            scoring,
        })
}

fn parts(cost: Cost) -> [f64; 4] {
    [cost.linear, cost.attention, cost.head, cost.scoring]
}

proptest! {
    #[test]
    fn the_default_counts_what_is_done(
        shape in shapes(),
        schedule in schedules(),
        lens in vec(0usize..60, 0..4),
    ) {
        let plan = Schedule { kv_at_stage: KvAtStage::Pruned, ..schedule }.plan(&lens, 12).unwrap();
        let cost = prefill(&shape, &plan, &Convention::default()).unwrap();
        prop_assert_eq!(cost, by_hand(&shape, &plan));
    }

    #[test]
    fn a_batch_costs_what_its_sequences_cost(
        shape in shapes(),
        schedule in schedules(),
        convention in conventions(),
        lens in vec(0usize..200, 0..5),
        step in 0usize..50,
    ) {
        let costs = |lens: &[usize]| {
            let plan = schedule.plan(lens, 12).unwrap();
            let first = parts(prefill(&shape, &plan, &convention).unwrap());
            let next = parts(decode(&shape, &plan, step, &convention).unwrap());
            (first, next, kv_bytes(&shape, &plan, 2).unwrap())
        };
        let (first, next, bytes) = costs(&lens);
        let alone: Vec<_> = lens.iter().map(|&len| costs(&[len])).collect();
        for part in 0..4 {
            prop_assert_eq!(first[part], alone.iter().map(|one| one.0[part]).sum::<f64>());
            prop_assert_eq!(next[part], alone.iter().map(|one| one.1[part]).sum::<f64>());
        }
        prop_assert_eq!(bytes, alone.iter().map(|one| one.2).sum::<u64>());
    }

    #[test]
    fn pruning_never_costs_more(
        shape in shapes(),
        schedule in schedules(),
        convention in conventions(),
        lens in vec(0usize..200, 0..5),
    ) {
        let plan = schedule.plan(&lens, 12).unwrap();
        let free_scorer = Convention { scoring: 0.0, ..convention };
        let pruned = parts(prefill(&shape, &plan, &free_scorer).unwrap());
        let dense = parts(prefill(&shape, &plan.dense(), &free_scorer).unwrap());
        for part in 0..4 {
            prop_assert!(pruned[part] <= dense[part], "part {}", part);
        }
        prop_assert!(speedup_bound(&shape, &plan).unwrap() >= 1.0);
    }

    #[test]
    fn a_step_sees_one_key_more_than_the_last(
        shape in shapes(),
        schedule in schedules(),
        lens in vec(1usize..200, 1..5),
        step in 0usize..50,
    ) {
        let plan = schedule.plan(&lens, 12).unwrap();
        let at = |step| decode(&shape, &plan, step, &Convention::default()).unwrap();
        let (now, next) = (at(step), at(step + 1));
        let per_key = 4 * shape.heads * shape.head_dim * shape.layers * lens.len();
        prop_assert_eq!(next.attention - now.attention, per_key as f64);
        prop_assert_eq!((now.linear, now.head), (next.linear, next.head));
    }

    #[test]
    fn the_scorer_is_paid_for_what_comes_to_each_stage(
        shape in shapes(),
        schedule in schedules(),
        lens in vec(0usize..200, 0..5),
        scoring in (0u32..1000).prop_map(f64::from),
    ) {
        let plan = schedule.plan(&lens, 12).unwrap();
        let cost = prefill(&shape, &plan, &Convention { scoring, ..Default::default() }).unwrap();
        let mut alive: usize = lens.iter().sum();
        let mut scored = 0;
        for stage in plan.stages() {
            scored += alive;
            alive = stage.rows.total();
        }
        prop_assert_eq!(cost.scoring, scoring * scored as f64);
    }
}

/// The mean over all selections that a stage can make of the keys its queries see.
fn mean_seen(len: usize, kept: usize, sinks: usize, recent: usize) -> f64 {
    let middle = sinks..len - recent;
    let (mut selections, mut seen) = (0usize, 0usize);
    for mask in 0u32..1 << middle.len() {
        if mask.count_ones() as usize != kept - sinks - recent {
            continue;
        }
        let is_kept = |&row: &usize| !middle.contains(&row) || mask >> (row - sinks) & 1 == 1;
        selections += 1;
        seen += (0..len).filter(is_kept).map(|row| row + 1).sum::<usize>();
    }
    seen as f64 / selections as f64
}

#[test]
fn pairs_with_incoming_keys_are_the_mean_over_all_selections() {
    let shape = ModelShape { layers: 1, hidden: 1, heads: 1, kv_heads: 1, ..SMOLLM2 };
    for len in 1..14usize {
        for kept in 1..=len {
            let sinks = (kept - 1).min(2);
            let schedule = Schedule {
                stages: Stages::Tokens(vec![(0, kept)]),
                sinks,
                local: 0.0,
                kv_at_stage: KvAtStage::Incoming,
                crossover: 0,
            };
            let plan = schedule.plan(&[len], 1).unwrap();
            let cost = prefill(&shape, &plan, &Convention::default()).unwrap();
            let expected = 4.0 * shape.head_dim as f64 * mean_seen(len, kept, sinks, 1);
            assert_within(1e-12, cost.attention, expected, &format!("{kept} of {len}"));
        }
    }
}

#[test]
fn incoming_keys_cost_their_projections() {
    let stages = Stages::Single { layer: 3, ratio: 0.5 };
    let pruned = Schedule { stages, ..Schedule::default() };
    let incoming = Schedule { kv_at_stage: KvAtStage::Incoming, ..pruned.clone() };
    let cost = |schedule: &Schedule| {
        let plan = schedule.plan(&[1000], 30).unwrap();
        prefill(&SMOLLM2, &plan, &Convention::default()).unwrap().linear
    };
    assert_eq!(cost(&incoming) - cost(&pruned), 500.0 * 4.0 * 576.0 * 192.0);
}

#[test]
fn the_bound_of_no_tokens_and_no_stages_is_one() {
    let plan = Schedule::sdtp().plan(&[0, 0], 30).unwrap();
    assert_eq!(speedup_bound(&SMOLLM2, &plan).unwrap(), 1.0);
    let plan = Schedule::dense().plan(&[500], 30).unwrap();
    assert_eq!(speedup_bound(&SMOLLM2, &plan).unwrap(), 1.0);
}

#[test]
fn long_prompts_gain_towards_the_share_of_pairs() {
    let mut last = 1.0;
    for len in [1 << 10, 1 << 13, 1 << 16, 1 << 20, 1 << 25] {
        let plan = Schedule::sdtp().plan(&[len], 32).unwrap();
        let bound = speedup_bound(&MISTRAL, &plan).unwrap();
        assert!(bound > last, "{len} tokens: {bound} after {last}");
        last = bound;
    }
    // The mean of the squared shares alive.
    assert_within(2e-3, last, 1.0 / 0.46848, "attention alone");
}

#[test]
fn wrong_shapes_are_refused() {
    let plan = Schedule::dense().plan(&[10], 30).unwrap();
    let zero = |what, shape| {
        let error = prefill(&shape, &plan, &Convention::default()).unwrap_err();
        assert_eq!(error, Error::OutOfRange { what, value: 0.0, expected: "at least 1" });
    };
    zero("layers", ModelShape { layers: 0, ..SMOLLM2 });
    zero("hidden", ModelShape { hidden: 0, ..SMOLLM2 });
    zero("heads", ModelShape { heads: 0, ..SMOLLM2 });
    zero("kv_heads", ModelShape { kv_heads: 0, ..SMOLLM2 });
    zero("head_dim", ModelShape { head_dim: 0, ..SMOLLM2 });
    zero("ffn", ModelShape { ffn: 0, ..SMOLLM2 });
    zero("vocab", ModelShape { vocab: 0, ..SMOLLM2 });

    let ungrouped = ModelShape { kv_heads: 2, ..SMOLLM2 };
    let error = decode(&ungrouped, &plan, 0, &Convention::default()).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { what: "heads", .. }), "{error}");
    let error = speedup_bound(&MISTRAL, &plan).unwrap_err();
    assert!(matches!(error, Error::LengthMismatch { expected: 32, actual: 30, .. }), "{error}");
    for scoring in [f64::NAN, f64::INFINITY, -1.0] {
        let convention = Convention { scoring, ..Convention::default() };
        assert!(prefill(&SMOLLM2, &plan, &convention).is_err());
        assert!(decode(&SMOLLM2, &plan, 0, &convention).is_err());
    }
    let huge = ModelShape { head_dim: usize::MAX, ..SMOLLM2 };
    assert!(matches!(kv_bytes(&huge, &plan, 2), Err(Error::Overflow { .. })));
}

#[test]
fn shapes_and_conventions_read_back() {
    let json = serde_json::to_string(&SMOLLM2).unwrap();
    assert_eq!(serde_json::from_str::<ModelShape>(&json).unwrap(), SMOLLM2);
    let convention = with_scorer(Counting::Authors);
    let json = serde_json::to_string(&convention).unwrap();
    assert_eq!(serde_json::from_str::<Convention>(&json).unwrap(), convention);
}
