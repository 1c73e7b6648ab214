//! Plans hold their rules for any batch, and the text form loses nothing.

use proptest::collection::vec;
use proptest::prelude::*;
use salient::schedule::{KvAtStage, Plan, Schedule, Stages};
use salient::select::Edges;
use salient::{Error, Ragged};

fn stage_layers(plan: &Plan) -> Vec<usize> {
    plan.stages().iter().map(|stage| stage.layer).collect()
}

fn with_stages(stages: Stages) -> Schedule {
    Schedule { stages, ..Schedule::default() }
}

fn unprotected(stages: Stages) -> Schedule {
    Schedule { sinks: 0, local: 0.0, ..with_stages(stages) }
}

#[test]
fn the_papers_schedule_on_32_layers() {
    let plan = Schedule::default().plan(&[10_000], 32).unwrap();
    assert_eq!(stage_layers(&plan), [4, 7, 10, 13, 16, 19, 22, 25, 28, 31]);
    let counts: Vec<usize> = plan.stages().iter().map(|stage| stage.counts[0]).collect();
    assert_eq!(counts, [9000, 8100, 7290, 6561, 5905, 5314, 4783, 4305, 3874, 3487]);
    assert!((plan.final_keep() - 0.349).abs() < 5e-4);
    assert!((plan.work() - 0.653).abs() < 5e-4);
    assert_eq!(plan.stages()[9].edges, [Edges { sinks: 4, recent: 1000 }]);
}

#[test]
fn nine_stages_fit_30_layers() {
    let plan = Schedule::sdtp().plan(&[10_000], 30).unwrap();
    assert_eq!(stage_layers(&plan), [4, 7, 10, 13, 16, 19, 22, 25, 28]);
    assert!((plan.final_keep() - 0.387).abs() < 5e-4);
    assert!((plan.work() - 0.672).abs() < 5e-4);
}

#[test]
fn salient_does_no_more_work_than_late() {
    let work = |schedule: Schedule| schedule.plan(&[10_000], 30).unwrap().work();
    let (salient, late) = (work(Schedule::salient()), work(Schedule::late()));
    assert!(salient < late && late < 0.65, "{salient}, {late}");
}

#[test]
fn late_is_the_pilots_schedule() {
    let plan = Schedule::late().plan(&[10_000], 30).unwrap();
    assert_eq!(stage_layers(&plan), [14, 16, 18, 20, 22, 24, 26, 28]);
    assert_eq!(plan.final_keep(), 0.12);
    assert!((plan.work() - 0.648).abs() < 5e-4);
}

#[test]
fn target_ends_at_its_ratio_whatever_fits() {
    let schedule = with_stages(Stages::Target { start: 4, step: 3, stages: 10, ratio: 0.35 });
    for layers in [5, 8, 30, 32, 80] {
        let plan = schedule.plan(&[10_000], layers).unwrap();
        assert_eq!(plan.final_keep(), 0.35, "{layers} layers");
    }
    let plan = schedule.plan(&[10_000], 8).unwrap();
    assert_eq!(plan.stages()[0].counts, [5916], "the square root of 0.35");
}

#[test]
fn rows_change_at_the_stage_and_keys_as_asked() {
    let mut schedule = unprotected(Stages::Tokens(vec![(1, 5), (3, 2)]));
    let rows = |lens: &[usize]| Ragged::from_lens(lens).unwrap();
    let (whole, five, two) = (rows(&[9, 3, 0]), rows(&[5, 3, 0]), rows(&[2, 2, 0]));
    let plan = schedule.plan(&[9, 3, 0], 5).unwrap();
    for (layer, alive) in [&whole, &five, &five, &two, &two, &two].into_iter().enumerate() {
        assert_eq!(plan.rows_at(layer), alive, "layer {layer}");
        assert_eq!(plan.kv_rows_at(layer), alive, "layer {layer}");
    }
    assert_eq!(plan.tokens_per_layer(), [12, 8, 8, 4, 4]);
    assert_eq!(plan.work(), 36.0 / 60.0);
    assert_eq!(plan.stage_at(3), Some((1, &plan.stages()[1])));
    assert_eq!(plan.stage_at(2), None);

    schedule.kv_at_stage = KvAtStage::Incoming;
    let incoming = schedule.plan(&[9, 3, 0], 5).unwrap();
    for (layer, cached) in [&whole, &whole, &five, &five, &two].into_iter().enumerate() {
        assert_eq!(incoming.kv_rows_at(layer), cached, "layer {layer}");
        assert_eq!(incoming.rows_at(layer), plan.rows_at(layer), "layer {layer}");
    }
}

#[test]
fn dense_drops_nothing() {
    let plan = Schedule::dense().plan(&[7, 0, 2], 3).unwrap();
    assert_eq!((plan.stages(), plan.tokens_per_layer()), (&[][..], vec![9, 9, 9]));
    assert_eq!((plan.work(), plan.final_keep()), (1.0, 1.0));
    let pruned = Schedule::sdtp().plan(&[70, 0, 20], 30).unwrap();
    assert_eq!(pruned.dense(), Schedule::dense().plan(&[70, 0, 20], 30).unwrap());
}

#[test]
fn batches_without_tokens_are_legal() {
    for lens in [&[][..], &[0, 0]] {
        let plan = Schedule::sdtp().plan(lens, 30).unwrap();
        assert_eq!((plan.stages().len(), plan.rows_at(29).total()), (9, 0));
        assert_eq!((plan.work(), plan.final_keep()), (1.0, 1.0));
    }
}

#[test]
fn a_ratio_below_the_protected_count_is_raised_to_it() {
    let plan = with_stages(Stages::Single { layer: 1, ratio: 0.01 }).plan(&[100, 5, 4], 2).unwrap();
    assert_eq!(plan.stages()[0].counts, [14, 5, 4]);
    let edges = [(4, 10), (4, 1), (4, 0)].map(|(sinks, recent)| Edges { sinks, recent });
    assert_eq!(plan.stages()[0].edges, edges);
}

#[test]
fn the_last_token_is_always_protected() {
    let plan = unprotected(Stages::Single { layer: 0, ratio: 0.01 }).plan(&[10, 1, 0], 1).unwrap();
    assert_eq!(plan.stages()[0].counts, [1, 1, 0]);
    let edges = [1, 1, 0].map(|recent| Edges { sinks: 0, recent });
    assert_eq!(plan.stages()[0].edges, edges);
}

#[test]
fn a_decimal_local_fraction_rounds_up_as_in_decimal() {
    for percent in 0..100 {
        let mut schedule = unprotected(Stages::Single { layer: 0, ratio: 1.0 });
        schedule.local = percent as f64 / 100.0;
        for len in 1..2000 {
            let plan = schedule.plan(&[len], 1).unwrap();
            let expected = (percent * len).div_ceil(100).max(1);
            assert_eq!(plan.stages()[0].edges[0].recent, expected, "{percent}% of {len}");
        }
    }
}

/// Any valid schedule whose first stage lies below layer 8; of lists at least `shortest` entries.
fn schedules(shortest: usize) -> impl Strategy<Value = Schedule> {
    let ratio = || prop_oneof![0.001..=1.0f64, Just(1.0), Just(0.5)];
    let layers = move || {
        vec(1usize..5, shortest..6).prop_map(|gaps| {
            let ends = gaps.iter().scan(0, |layer, gap| {
                *layer += gap;
                Some(*layer - 1)
            });
            ends.collect::<Vec<_>>()
        })
    };
    let descending = |mut ratios: Vec<f64>| {
        ratios.sort_by(|a, b| b.total_cmp(a));
        ratios
    };
    let geometric = (0usize..8, 1usize..5, 1usize..12, ratio(), prop_oneof![Just(0.0), 0.0..=1.0])
        .prop_map(|(start, step, stages, ratio, floor)| Stages::Geometric {
            start,
            step,
            stages,
            ratio,
            floor,
        });
    let target = (0usize..8, 1usize..5, 1usize..12, ratio())
        .prop_map(|(start, step, stages, ratio)| Stages::Target { start, step, stages, ratio });
    let ratios = (layers(), vec(ratio(), 6)).prop_map(move |(layers, ratios)| {
        Stages::Ratios(layers.into_iter().zip(descending(ratios)).collect())
    });
    let tokens = (layers(), vec(1usize..500, 6)).prop_map(|(layers, mut counts)| {
        counts.sort_by(|a, b| b.cmp(a));
        Stages::Tokens(layers.into_iter().zip(counts).collect())
    });
    let stages = prop_oneof![
        Just(Stages::None),
        Just(Schedule::sdtp().stages),
        geometric,
        target,
        (0usize..8, ratio()).prop_map(|(layer, ratio)| Stages::Single { layer, ratio }),
        ratios,
        tokens,
    ];
    let sinks = prop_oneof![Just(4), 0usize..20];
    let local = prop_oneof![Just(0.10), 0.0..1.0f64];
    let kv = prop_oneof![Just(KvAtStage::Pruned), Just(KvAtStage::Incoming)];
    let crossover = prop_oneof![Just(0), 0usize..3000];
    (stages, sinks, local, kv, crossover).prop_map(
        |(stages, sinks, local, kv_at_stage, crossover)| Schedule {
            stages,
            sinks,
            local,
            kv_at_stage,
            crossover,
        },
    )
}

fn batches() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![0usize..20, 0usize..3000], 0..6)
}

const LAYERS: usize = 32;

/// The plan, unless a token count is below what is protected: then no plan is right.
fn plan_unless_too_small(schedule: &Schedule, lens: &[usize]) -> Option<Plan> {
    match schedule.plan(lens, LAYERS) {
        Ok(plan) => Some(plan),
        Err(Error::BudgetBelowProtected { row, budget, protected }) => {
            assert!(matches!(schedule.stages, Stages::Tokens(_)));
            assert!(budget < protected && protected <= lens[row]);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #[test]
    fn counts_never_grow_and_hold_the_protected(schedule in schedules(1), lens in batches()) {
        let Some(plan) = plan_unless_too_small(&schedule, &lens) else { return Ok(()) };
        let mut alive = lens.clone();
        for (index, stage) in plan.stages().iter().enumerate() {
            prop_assert!(stage.layer < LAYERS);
            prop_assert_eq!(plan.stage_at(stage.layer), Some((index, stage)));
            prop_assert_eq!(&stage.rows, &Ragged::from_lens(&stage.counts).unwrap());
            for (i, &count) in stage.counts.iter().enumerate() {
                let Edges { sinks, recent } = stage.edges[i];
                prop_assert!(sinks + recent <= count && count <= alive[i]);
                prop_assert_eq!(sinks, schedule.sinks.min(lens[i]));
                let local = (schedule.local * lens[i] as f64).ceil() as usize;
                prop_assert!(recent + 1 >= local.max(1).min(lens[i] - sinks));
                prop_assert_eq!(count == 0, lens[i] == 0);
            }
            alive.clone_from(&stage.counts);
        }
        let layers: Vec<usize> = plan.stages().iter().map(|stage| stage.layer).collect();
        prop_assert!(layers.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(plan.rows_at(LAYERS), &Ragged::from_lens(&alive).unwrap());
        prop_assert!(plan.final_keep() <= plan.work() && plan.work() <= 1.0);
    }

    #[test]
    fn a_sequence_is_planned_by_itself(schedule in schedules(1), lens in batches()) {
        let Some(plan) = plan_unless_too_small(&schedule, &lens) else { return Ok(()) };
        for (i, &len) in lens.iter().enumerate() {
            let alone = schedule.plan(&[len], LAYERS).unwrap();
            if len < schedule.crossover {
                prop_assert_eq!(&alone, &alone.dense());
                prop_assert!(plan.stages().iter().all(|stage| stage.counts[i] == len));
                continue;
            }
            prop_assert_eq!(alone.stages().len(), plan.stages().len());
            for (one, all) in alone.stages().iter().zip(plan.stages()) {
                prop_assert_eq!(one.layer, all.layer);
                prop_assert_eq!((one.counts[0], one.edges[0]), (all.counts[i], all.edges[i]));
            }
        }
    }

    #[test]
    fn at_the_crossover_a_prompt_is_pruned_as_without_one(
        schedule in schedules(1),
        lens in batches(),
    ) {
        let Some(plan) = plan_unless_too_small(&schedule, &lens) else { return Ok(()) };
        let (short, long): (Vec<usize>, Vec<usize>) =
            lens.iter().partition(|&&len| len < schedule.crossover);
        let always = Schedule { crossover: 0, ..schedule };
        if long.is_empty() && !short.is_empty() {
            prop_assert_eq!(&plan, &plan.dense());
        } else if short.is_empty() && !long.is_empty() {
            prop_assert_eq!(&plan, &always.plan(&lens, LAYERS).unwrap());
        }
    }

    #[test]
    fn permuting_sequences_permutes_the_plan(
        schedule in schedules(1),
        (lens, order) in batches().prop_flat_map(|lens| {
            let order: Vec<usize> = (0..lens.len()).collect();
            (Just(lens), Just(order).prop_shuffle())
        }),
    ) {
        let Some(plan) = plan_unless_too_small(&schedule, &lens) else { return Ok(()) };
        let moved: Vec<usize> = order.iter().map(|&i| lens[i]).collect();
        let permuted = schedule.plan(&moved, LAYERS).unwrap();
        for (ours, theirs) in plan.stages().iter().zip(permuted.stages()) {
            let counts: Vec<usize> = order.iter().map(|&i| ours.counts[i]).collect();
            let edges: Vec<Edges> = order.iter().map(|&i| ours.edges[i]).collect();
            prop_assert_eq!((&counts, &edges), (&theirs.counts, &theirs.edges));
        }
    }

    #[test]
    fn text_reads_back(schedule in schedules(2)) {
        prop_assert_eq!(&schedule.to_string().parse::<Schedule>().unwrap(), &schedule);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-9:=,t@.a-z-]{0,24}") {
        match text.parse::<Schedule>() {
            Ok(schedule) => {
                prop_assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
            }
            Err(Error::InvalidSchedule { text: quoted, reason }) => {
                prop_assert_eq!(quoted, text);
                prop_assert!(!reason.is_empty());
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

#[test]
fn every_rule_of_the_grammar() {
    let geometric = |start, step, stages, ratio, floor| {
        with_stages(Stages::Geometric { start, step, stages, ratio, floor })
    };
    let cases = [
        ("dense", Schedule::dense()),
        ("sdtp", Schedule::sdtp()),
        ("late", Schedule::late()),
        ("salient", Schedule::salient()),
        ("4:3:5:0.9", geometric(4, 3, 5, 0.9, 0.0)),
        ("14:2:7:0.75:0.12", geometric(14, 2, 7, 0.75, 0.12)),
        ("12=0.35", with_stages(Stages::Single { layer: 12, ratio: 0.35 })),
        ("12=0.5,20=0.25", with_stages(Stages::Ratios(vec![(12, 0.5), (20, 0.25)]))),
        ("12=2048t", with_stages(Stages::Tokens(vec![(12, 2048)]))),
        ("12=2048t,13=5t", with_stages(Stages::Tokens(vec![(12, 2048), (13, 5)]))),
        (
            "target:4:3:10:0.35",
            with_stages(Stages::Target { start: 4, step: 3, stages: 10, ratio: 0.35 }),
        ),
        (
            "late@sinks=0,local=0.25,kv=incoming",
            Schedule {
                sinks: 0,
                local: 0.25,
                kv_at_stage: KvAtStage::Incoming,
                ..Schedule::late()
            },
        ),
        ("sdtp@crossover=512", Schedule { crossover: 512, ..Schedule::sdtp() }),
    ];
    for (text, schedule) in cases {
        assert_eq!(text.parse::<Schedule>().unwrap(), schedule);
        assert_eq!(schedule.to_string(), text);
    }
    for (long, short) in [
        ("4:3:10:0.9", "sdtp"),
        ("14:2:8:0.75:0.12", "late"),
        ("4:3:10:0.90:0.0@local=0.1,kv=pruned", "sdtp"),
    ] {
        assert_eq!(long.parse::<Schedule>().unwrap().to_string(), short);
    }
}

#[test]
fn json_reads_back() {
    let schedule: Schedule = "late@kv=incoming".parse().unwrap();
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(
        json,
        concat!(
            r#"{"stages":{"geometric":{"start":14,"step":2,"stages":8,"ratio":0.75,"floor":0.12}},"#,
            r#""sinks":4,"local":0.1,"kv_at_stage":"incoming","crossover":0}"#,
        )
    );
    for text in
        ["dense", "sdtp", "late@kv=incoming", "12=0.5,13=0.25", "12=40t", "target:4:3:9:0.2"]
    {
        let schedule: Schedule = text.parse().unwrap();
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }
}

#[test]
fn a_list_of_one_ratio_reads_back_as_a_single_stage_that_plans_the_same() {
    let list = with_stages(Stages::Ratios(vec![(12, 0.35)]));
    let single: Schedule = list.to_string().parse().unwrap();
    assert_eq!(single.stages, Stages::Single { layer: 12, ratio: 0.35 });
    assert_eq!(single.plan(&[777, 3], 30).unwrap(), list.plan(&[777, 3], 30).unwrap());
}

#[test]
fn text_errors_say_what_is_wrong() {
    let cases = [
        ("", "`` is not `dense`"),
        ("sparse", "`sparse` is not `dense`, `sdtp`, `late`"),
        ("4:3", "4 or 5 fields, and not 2"),
        ("4:3:10:0.9:0:0", "4 or 5 fields, and not 6"),
        ("target:4:3:10", "takes 4 fields"),
        ("a:3:10:0.9", "start is `a`, which is not a whole number"),
        ("4:-3:10:0.9", "step is `-3`"),
        ("4:3:1.5:0.9", "stages is `1.5`"),
        ("4:3:10:x", "ratio is `x`, which is not a number"),
        ("4:3:10:0.9:x", "floor is `x`"),
        ("4:3:10:1.9", "the ratio is 1.9, which must be above 0 and at most 1"),
        ("4:3:10:NaN", "the ratio is NaN"),
        ("4:3:10:0.9:2", "the floor is 2"),
        ("4:0:10:0.9", "the step is 0, which must be at least 1"),
        ("4:3:0:0.9", "the number of stages is 0"),
        ("target:4:3:10:0", "the ratio is 0"),
        ("12=0.5,13", "`13` is not `layer=ratio`"),
        ("12=0.5,", "`` is not `layer=ratio`"),
        ("x=0.5", "layer is `x`"),
        ("12=0.5t", "token count is `0.5`"),
        ("12=0t", "a stage's token count is 0, which must be at least 1"),
        ("12=2048", "a token count is written `12=COUNTt`"),
        ("12=0.5,13=100t", "ratios or token counts, not both"),
        ("12=0.5,12=0.4", "the stages' layers must ascend strictly, but entry 1"),
        ("12=0.4,13=0.5", "a later stage's ratio is 0.5, which must be no larger"),
        ("12=4t,13=5t", "a later stage's token count is 5, which must be no larger"),
        ("sdtp@", "`` is not an option"),
        ("sdtp@sink=4", "there is no option `sink`"),
        ("sdtp@sinks=-1", "sinks is `-1`"),
        ("sdtp@local=1", "the local fraction is 1, which must be at least 0 and below 1"),
        ("sdtp@kv=all", "kv is `all`, not `pruned` or `incoming`"),
        ("sdtp@sinks=1,sinks=2", "`sinks` is given twice"),
    ];
    for (text, words) in cases {
        let error = text.parse::<Schedule>().unwrap_err().to_string();
        assert!(error.contains(&format!("`{text}` is not valid")), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn invalid_schedules_do_not_plan() {
    let geometric = |step, stages, ratio, floor| {
        with_stages(Stages::Geometric { start: 4, step, stages, ratio, floor })
    };
    let local = |local| Schedule { local, ..Schedule::dense() };
    let out_of_range = [
        (geometric(3, 10, 0.0, 0.0), "the ratio"),
        (geometric(3, 10, -0.5, 0.0), "the ratio"),
        (geometric(3, 10, 1.1, 0.0), "the ratio"),
        (geometric(3, 10, f64::NAN, 0.0), "the ratio"),
        (geometric(3, 10, 0.9, -0.1), "the floor"),
        (geometric(3, 10, 0.9, 1.1), "the floor"),
        (geometric(3, 10, 0.9, f64::NAN), "the floor"),
        (geometric(0, 2, 0.9, 0.0), "the step"),
        (geometric(3, 0, 0.9, 0.0), "the number of stages"),
        (with_stages(Stages::Target { start: 4, step: 0, stages: 2, ratio: 0.5 }), "the step"),
        (with_stages(Stages::Target { start: 4, step: 1, stages: 2, ratio: 2.0 }), "the ratio"),
        (with_stages(Stages::Single { layer: 4, ratio: 0.0 }), "the ratio"),
        (with_stages(Stages::Ratios(vec![])), "the number of stages"),
        (with_stages(Stages::Ratios(vec![(4, 0.5), (5, f64::NAN)])), "the ratio"),
        (with_stages(Stages::Ratios(vec![(4, 0.5), (5, 0.6)])), "a later stage's ratio"),
        (with_stages(Stages::Tokens(vec![])), "the number of stages"),
        (with_stages(Stages::Tokens(vec![(4, 0)])), "a stage's token count"),
        (with_stages(Stages::Tokens(vec![(4, 50), (5, 60)])), "a later stage's token count"),
        (local(1.0), "the local fraction"),
        (local(-0.1), "the local fraction"),
        (local(f64::NAN), "the local fraction"),
    ];
    for (schedule, culprit) in out_of_range {
        match schedule.plan(&[100], 30) {
            Err(Error::OutOfRange { what, .. }) => assert_eq!(what, culprit, "{schedule:?}"),
            other => panic!("{schedule:?}: {other:?}"),
        }
    }
    for layers in [vec![(5, 0.5), (5, 0.4)], vec![(5, 0.5), (4, 0.4)]] {
        let error = with_stages(Stages::Ratios(layers)).plan(&[100], 30).unwrap_err();
        assert_eq!(error, Error::NotAscending { what: "the stages' layers", index: 1 });
    }
    assert!(geometric(0, 1, 0.9, 0.0).plan(&[100], 30).is_ok(), "one stage needs no step");
    assert!(matches!(Schedule::dense().plan(&[1], 0), Err(Error::OutOfRange { .. })));
    let too_long = Schedule::dense().plan(&[i32::MAX as usize, 1], 30);
    assert!(matches!(too_long, Err(Error::Overflow { .. })));
}

#[test]
fn stages_lie_within_the_model() {
    let beyond = [
        (Schedule::sdtp(), 4, 4),
        (Schedule::late(), 12, 14),
        (with_stages(Stages::Target { start: 30, step: 1, stages: 2, ratio: 0.5 }), 30, 30),
        (with_stages(Stages::Single { layer: 31, ratio: 0.5 }), 30, 31),
        (with_stages(Stages::Ratios(vec![(4, 0.5), (30, 0.5)])), 30, 30),
        (with_stages(Stages::Tokens(vec![(4, 50), (usize::MAX, 50)])), 30, usize::MAX),
    ];
    for (schedule, layers, layer) in beyond {
        let error = schedule.plan(&[100], layers).unwrap_err();
        assert_eq!(error, Error::StageBeyondModel { layer, layers }, "{schedule}");
    }
    let last = Schedule::sdtp().plan(&[100], 5).unwrap();
    assert_eq!(stage_layers(&last), [4]);
    let far =
        Stages::Geometric { start: 4, step: usize::MAX, stages: usize::MAX, ratio: 0.5, floor: 0. };
    assert_eq!(stage_layers(&with_stages(far).plan(&[100], 30).unwrap()), [4]);
}

#[test]
fn a_token_count_below_the_protected_is_refused() {
    let schedule = with_stages(Stages::Tokens(vec![(4, 20)]));
    assert_eq!(schedule.plan(&[160, 20, 7], 30).unwrap().stages()[0].counts, [20, 20, 7]);
    let error = schedule.plan(&[160, 161], 30).unwrap_err();
    assert_eq!(error, Error::BudgetBelowProtected { row: 1, budget: 20, protected: 21 });
}
