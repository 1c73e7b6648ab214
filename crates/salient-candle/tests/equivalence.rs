//! The equivalence oracle: a full-length run with dropped tokens masked equals the gathered run, at
//! every stage, for both values of `kv_at_stage`, batches above one, and through decode steps.

#[path = "common/device.rs"]
mod against_host;
mod common;

use std::fmt::Debug;

use candle_core::Tensor;
use salient::schedule::{KvAtStage, Schedule, Stages};
use salient::score::HeadReduce;
use salient_candle::scorer::{
    AttentionRule, FromLayer, KeyNorm, LastQuery, Position, Random, RankSum, Scorer, Window,
};
use salient_candle::{Family, Model, ModelConfig, Prefill, StageReport, reference};
use salient_lab::Oracle;
use salient_lab::train::Target;

use against_host::contents;
use common::{difference, prompt, random_model, tiny};

const TOLERANCE: f32 = 3e-4;

/// Original positions of a sequence's tokens that a stage kept.
fn kept_positions(stage: &StageReport, sequence: usize) -> Vec<u32> {
    let positions: Vec<u32> = stage.kept_positions.to_vec1().unwrap();
    positions[stage.kept.span(sequence).range()].to_vec()
}

/// Which prompt tokens each layer caches, by position: all, until a stage drops some.
fn cached(
    prefill: &Prefill,
    layers: usize,
    sequence: usize,
    len: usize,
    kv: KvAtStage,
) -> Vec<Vec<bool>> {
    let mut alive = vec![true; len];
    let mut cached = Vec::with_capacity(layers);
    for layer in 0..layers {
        let incoming = alive.clone();
        if let Some(stage) = prefill.stages.iter().find(|stage| stage.layer == layer) {
            alive = vec![false; len];
            for position in kept_positions(stage, sequence) {
                alive[position as usize] = true;
            }
            if kv == KvAtStage::Incoming {
                cached.push(incoming);
                continue;
            }
        }
        cached.push(alive.clone());
    }
    cached
}

/// Full-length logits of every token, with the tokens that a layer does not cache masked there. A
/// token always sees itself, so that dropped rows stay numbers; nothing reads them.
fn masked_run(model: &Model, tokens: &[u32], cached: &[Vec<bool>]) -> Tensor {
    let positions: Vec<i32> = (0..tokens.len() as i32).collect();
    let mut hidden = embed(model, tokens);
    for (layer, cached) in cached.iter().enumerate() {
        let window = model.config().window_at(layer).unwrap_or(usize::MAX);
        let mask = reference::masked(&positions, &positions, |query, key| {
            let there = cached.get(key as usize).copied().unwrap_or(true);
            query == key || (there && key < query && ((query - key) as usize) < window)
        })
        .unwrap();
        hidden = reference::block(model, layer, &hidden, &positions, &mask).unwrap();
    }
    reference::logits(model, &hidden).unwrap()
}

fn embed(model: &Model, tokens: &[u32]) -> Tensor {
    reference::embed(model, tokens).unwrap()
}

fn check(model: &Model, schedule: &Schedule, scorer: &mut dyn Scorer, lens: &[usize]) {
    let layers = model.config().layers;
    let vocab = model.config().vocab;
    let prompts: Vec<Vec<u32>> =
        lens.iter().enumerate().map(|(i, &len)| prompt(len, vocab, i as u64)).collect();
    let plan = schedule.plan(lens, layers).unwrap();
    scorer.prepare(model, &prompts, &plan).unwrap();
    let mut prefill = model.prefill(&prompts, &plan, scorer, 2).unwrap();
    assert_eq!(prefill.stages.len(), plan.stages().len());
    for (report, stage) in prefill.stages.iter().zip(plan.stages()) {
        assert_eq!(report.kept.lens().collect::<Vec<_>>(), stage.counts);
    }
    let survivors = model.predict(&prefill.hidden).unwrap();
    let rows = prefill.rows.clone();
    let last_stage = prefill.stages.last().cloned();

    // Decode: one token each, then ragged extensions, one of them empty.
    let mut steps: Vec<Vec<Vec<u32>>> = Vec::new();
    for sizes in [[1, 1, 1], [1, 1, 1], [3, 0, 2], [1, 4, 1]] {
        steps.push((0..lens.len()).map(|i| prompt(sizes[i % 3], vocab, 99 + i as u64)).collect());
    }
    let mut stepped: Vec<Vec<Tensor>> = vec![Vec::new(); lens.len()];
    for step in &steps {
        let hidden = model.extend(step, &mut prefill.cache).unwrap();
        let logits = model.predict(&hidden).unwrap();
        let mut start = 0;
        for (sequence, tokens) in step.iter().enumerate() {
            stepped[sequence].push(logits.narrow(0, start, tokens.len()).unwrap());
            start += tokens.len();
        }
    }

    for (sequence, prompt) in prompts.iter().enumerate() {
        let cached = cached(&prefill, layers, sequence, prompt.len(), schedule.kv_at_stage);
        let mut tokens = prompt.clone();
        tokens.extend(steps.iter().flat_map(|step| &step[sequence]));
        let full = masked_run(model, &tokens, &cached);
        let span = rows.span(sequence);
        let kept: Vec<u32> = match &last_stage {
            Some(stage) => kept_positions(stage, sequence),
            None => (0..prompt.len() as u32).collect(),
        };
        let kept = Tensor::new(kept, full.device()).unwrap();
        let gathered = survivors.narrow(0, span.start, span.len).unwrap();
        let expected = full.index_select(&kept, 0).unwrap();
        let name = scorer.name();
        assert!(difference(&gathered, &expected) < TOLERANCE, "{name}: survivors of {sequence}");
        let decoded = Tensor::cat(&stepped[sequence], 0).unwrap();
        let expected = full.narrow(0, prompt.len(), tokens.len() - prompt.len()).unwrap();
        assert!(difference(&decoded, &expected) < TOLERANCE, "{name}: steps of {sequence}");
        // The caches hold what the mask says, and nothing else.
        for (layer, (cache, cached)) in prefill.cache.layers().iter().zip(&cached).enumerate() {
            let expected: Vec<u32> = (0..tokens.len())
                .filter(|&p| cached.get(p).copied().unwrap_or(true))
                .map(|p| p as u32)
                .collect();
            assert_eq!(cache.positions(sequence).unwrap(), expected, "layer {layer} of {sequence}");
        }
    }
}

fn schedules() -> Vec<Schedule> {
    let stages = [
        Stages::Geometric { start: 1, step: 1, stages: 5, ratio: 0.8, floor: 0.0 },
        Stages::Geometric { start: 0, step: 2, stages: 3, ratio: 0.5, floor: 0.2 },
        Stages::Single { layer: 5, ratio: 0.3 },
        Stages::Tokens(vec![(2, 30), (4, 17)]),
        Stages::None,
    ];
    let mut schedules = Vec::new();
    for stages in stages {
        for kv_at_stage in [KvAtStage::Pruned, KvAtStage::Incoming] {
            schedules.push(Schedule { stages: stages.clone(), kv_at_stage, ..Schedule::sdtp() });
        }
    }
    schedules
}

#[test]
fn masked_equals_gathered_for_every_schedule() {
    let model = random_model(tiny(Family::Llama), 1);
    for schedule in schedules() {
        check(&model, &schedule, &mut LastQuery::default(), &[60]);
        check(&model, &schedule, &mut LastQuery::default(), &[90, 41, 70]);
    }
}

#[test]
fn masked_equals_gathered_for_every_family() {
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        let model = random_model(tiny(family), 2);
        for schedule in &schedules()[..2] {
            check(&model, schedule, &mut KeyNorm, &[64, 33]);
        }
    }
}

#[test]
fn masked_equals_gathered_under_a_sliding_window() {
    for (window, from) in [(7, 0), (25, 3), (400, 0)] {
        let config = ModelConfig {
            sliding_window: Some(window),
            sliding_from: from,
            ..tiny(Family::Mistral)
        };
        let model = random_model(config, 3);
        for schedule in schedules() {
            check(&model, &schedule, &mut Random { seed: 5 }, &[60, 80]);
        }
    }
}

#[test]
fn masked_equals_gathered_for_every_scorer() {
    let model = random_model(tiny(Family::Llama), 4);
    let rule = AttentionRule { heads: HeadReduce::MaxNormalised, pool: 5 };
    let mut scorers: Vec<Box<dyn Scorer>> = vec![
        Box::new(LastQuery::lazyllm()),
        Box::new(LastQuery::default()),
        Box::new(Window::tokens(16, rule)),
        Box::new(Window::pyramid_infer()),
        Box::new(KeyNorm),
        Box::new(Random { seed: 3 }),
        Box::new(Position),
        Box::new(Oracle::default()),
        Box::new(FromLayer {
            layer: 3,
            earlier: Box::new(Oracle::new(Target::MeanAttention)),
            later: Box::new(RankSum(vec![Box::new(KeyNorm), Box::new(LastQuery::default())])),
        }),
    ];
    for schedule in &schedules()[..2] {
        for scorer in &mut scorers {
            check(&model, schedule, scorer.as_mut(), &[50, 71]);
        }
    }
}

/// Logits, and what every layer caches.
fn everything(model: &Model, prefill: &Prefill) -> (Vec<Vec<f32>>, impl PartialEq + Debug) {
    (prefill.logits(model).unwrap().to_vec2().unwrap(), contents(&prefill.cache))
}

#[test]
fn below_the_crossover_a_prefill_is_the_dense_one_bit_for_bit() {
    let model = random_model(tiny(Family::Llama), 6);
    for schedule in schedules().into_iter().filter(|schedule| schedule.stages != Stages::None) {
        let schedule = Schedule { crossover: 60, ..schedule };
        let always = Schedule { crossover: 0, ..schedule.clone() };
        let run = |schedule: &Schedule, lens: &[usize]| {
            let plan = schedule.plan(lens, 6).unwrap();
            let prompts: Vec<_> = lens.iter().map(|&len| prompt(len, 101, len as u64)).collect();
            let mut scorer = Oracle::default();
            scorer.prepare(&model, &prompts, &plan).unwrap();
            model.prefill(&prompts, &plan, &scorer, 0).unwrap()
        };
        let identity = run(&schedule, &[59, 3]);
        assert!(identity.stages.is_empty());
        let dense = run(&Schedule::dense(), &[59, 3]);
        assert_eq!(everything(&model, &identity), everything(&model, &dense));
        let (at, pruned) = (run(&schedule, &[60, 90]), run(&always, &[60, 90]));
        assert!(!at.stages.is_empty());
        assert_eq!(everything(&model, &at), everything(&model, &pruned));

        // Beside a longer one, a short prompt goes through the stages whole.
        let mixed = run(&schedule, &[59, 90]);
        let short = run(&schedule, &[59]);
        for (layer, alone) in mixed.cache.layers().iter().zip(short.cache.layers()) {
            assert_eq!(layer.positions(0).unwrap(), alone.positions(0).unwrap());
        }
        let logits = mixed.logits(&model).unwrap().narrow(0, 0, 1).unwrap();
        assert!(difference(&logits, &short.logits(&model).unwrap()) < 1e-5);
    }
}

#[test]
fn a_sequence_gets_the_same_bits_alone_and_in_a_batch() {
    let model = random_model(tiny(Family::Llama), 5);
    let schedule = &schedules()[0];
    let prompts: Vec<Vec<u32>> =
        [40, 77, 12].iter().map(|&len| prompt(len, 101, len as u64)).collect();
    let run = |prompts: &[Vec<u32>]| {
        let lens: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let plan = schedule.plan(&lens, 6).unwrap();
        model.prefill(prompts, &plan, &LastQuery::default(), 0).unwrap()
    };
    let together = run(&prompts);
    for (sequence, prompt) in prompts.iter().enumerate() {
        let alone = run(std::slice::from_ref(prompt));
        let batch = together.stages.iter().map(|stage| kept_positions(stage, sequence));
        assert!(alone.stages.iter().map(|stage| kept_positions(stage, 0)).eq(batch));
        let logits = together.logits(&model).unwrap().narrow(0, sequence, 1).unwrap();
        assert!(difference(&alone.logits(&model).unwrap(), &logits) < 1e-5);
    }
}
