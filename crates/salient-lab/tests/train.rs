//! Training runs on tiny models: they learn, stop, resume and refuse.

#[path = "../../salient-candle/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::{prompt, random_model, tiny};
use salient::schedule::Schedule;
use salient_candle::scorer::{KeyNorm, Learned, Scorer};
use salient_candle::{Family, Model};
use salient_lab::Error;
use salient_lab::train::{
    LossWeights, Marks, Phase, RankMetrics, Sample, Scale, Steps, Target, TrainOptions, Trainer,
};

const TOKENS: usize = 48;

fn model() -> Model {
    random_model(tiny(Family::Llama), 4)
}

fn options() -> TrainOptions {
    TrainOptions {
        seed: 7,
        schedule: "1=0.7,4=0.4@sinks=2,local=0.1".parse().unwrap(),
        width: 12,
        target: Target::MeanAttention,
        losses: LossWeights { keep_ratio: 1.0, distillation: 0.5, ..Default::default() },
        batch: 2,
        fast: Steps { steps: 6, warmup: 2, rate: 3e-3 },
        full: Steps { steps: 3, warmup: 1, rate: 1e-3 },
        evaluate_every: 2,
        patience: 9,
        ..Default::default()
    }
}

fn samples(model: &Model, options: &TrainOptions, seeds: std::ops::Range<u64>) -> Vec<Sample> {
    let layers = Trainer::new(model, options.clone()).unwrap().layers();
    let sample = |seed| {
        let tokens = prompt(TOKENS, model.config().vocab, seed);
        let marks = Marks::new(model, &tokens, 0..TOKENS, &layers).unwrap();
        Sample::new(model, options, tokens, 0..TOKENS, &marks).unwrap()
    };
    seeds.map(sample).collect()
}

/// Goes on to the end, or for this many steps.
fn run(trainer: &mut Trainer, model: &Model, train: &[Sample], held_out: &[Sample], steps: usize) {
    for _ in 0..steps {
        if trainer.progress().phase == Phase::Done {
            return;
        }
        trainer.step(model, train).unwrap();
        if trainer.is_due() {
            trainer.evaluate(model, held_out).unwrap();
        }
    }
}

#[test]
fn a_run_learns_what_it_is_shown() {
    let model = model();
    let options = TrainOptions {
        fast: Steps { steps: 120, warmup: 5, rate: 1e-2 },
        full: Steps { steps: 0, warmup: 0, rate: 0.0 },
        batch: 3,
        ..options()
    };
    let train = samples(&model, &options, 0..3);
    let mut trainer = Trainer::new(&model, options).unwrap();
    let before = trainer.metrics(&train).unwrap();
    run(&mut trainer, &model, &train, &train, usize::MAX);
    for (layer, after) in trainer.metrics(&train).unwrap() {
        let before = before[&layer];
        assert!(after.pair_accuracy > 0.85, "layer {layer}: {before:?}, then {after:?}");
        assert!(after.kendall_tau > before.kendall_tau && after.overlap >= before.overlap);
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_as_if_it_had_not_been() {
    let (model, options) = (model(), options());
    let (train, held_out) = (samples(&model, &options, 0..5), samples(&model, &options, 5..7));
    let mut whole = Trainer::new(&model, options.clone()).unwrap();
    run(&mut whole, &model, &train, &held_out, usize::MAX);
    assert_eq!(whole.progress().phase, Phase::Done);
    let expected = whole.to_file(&model).unwrap();
    // In the first phase, at its end, in the second.
    for stop in [3, 6, 7] {
        let mut first = Trainer::new(&model, options.clone()).unwrap();
        run(&mut first, &model, &train, &held_out, stop);
        let checkpoint = first.checkpoint(&model, "texts").unwrap();
        let mut second = Trainer::resume(&model, options.clone(), "texts", &checkpoint).unwrap();
        assert_eq!(second.progress(), first.progress());
        run(&mut second, &model, &train, &held_out, usize::MAX);
        assert!(second.to_file(&model).unwrap() == expected, "stopped after {stop} steps");
    }
    let other = TrainOptions { seed: 8, ..options };
    let mut reseeded = Trainer::new(&model, other).unwrap();
    run(&mut reseeded, &model, &train, &held_out, usize::MAX);
    assert!(reseeded.to_file(&model).unwrap() != expected, "the seed changes nothing");
}

#[test]
fn a_moved_model_trains_to_the_same_bytes() {
    let (model, options) = (model(), options());
    let trained = |model: &Model| {
        let train = samples(model, &options, 0..3);
        let mut trainer = Trainer::new(model, options.clone()).unwrap();
        run(&mut trainer, model, &train, &train, usize::MAX);
        trainer.to_file(model).unwrap()
    };
    let moved = model.to_device(&candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
    assert_eq!(moved.fingerprint(), model.fingerprint());
    assert!(trained(&moved) == trained(&model));
}

#[test]
fn the_second_phase_says_what_its_mask_left() {
    let (model, options) = (model(), options());
    let train = samples(&model, &options, 0..2);
    let mut trainer = Trainer::new(&model, options.clone()).unwrap();
    assert!(trainer.step(&model, &train).unwrap().alive.is_empty());
    run(&mut trainer, &model, &train, &train, options.fast.steps - 1);
    assert_eq!(trainer.progress().phase, Phase::Full);
    // 48 tokens; 2 sinks and the last 5, which a mask never drops.
    let alive = trainer.step(&model, &train).unwrap().alive;
    assert!(alive.len() == 2 && alive[0] < 1.0 && alive[1] < alive[0], "{alive:?}");
    assert!(alive[1] >= 7.0 / TOKENS as f64, "{alive:?}");
}

#[test]
fn a_phase_ends_when_evaluations_bring_nothing() {
    let model = model();
    // Without a rate nothing ever gets better.
    let still = Steps { steps: 100, warmup: 0, rate: 0.0 };
    let options = TrainOptions { fast: still, full: still, patience: 2, ..options() };
    let train = samples(&model, &options, 0..2);
    let mut trainer = Trainer::new(&model, options).unwrap();
    run(&mut trainer, &model, &train, &train, 6);
    // A first evaluation, and two that bring nothing, every 2 steps.
    assert_eq!(trainer.progress().phase, Phase::Full);
    run(&mut trainer, &model, &train, &train, 6);
    assert_eq!(trainer.progress().phase, Phase::Done);
}

#[test]
fn a_run_that_diverges_says_where_and_stays_as_it_was() {
    let model = model();
    let wild = Steps { steps: 50, warmup: 0, rate: 1e38 };
    let options = TrainOptions { fast: wild, ..options() };
    let train = samples(&model, &options, 0..2);
    let mut trainer = Trainer::new(&model, options).unwrap();
    let good = trainer.to_file(&model).unwrap();
    let error = loop {
        match trainer.step(&model, &train) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let step = trainer.progress().step;
    assert!(matches!(error, Error::Diverged { phase: Phase::Fast, step: at, .. } if at == step));
    assert!(error.to_string().contains(&format!("fast phase, step {step}")), "{error}");
    assert!(trainer.to_file(&model).unwrap() == good, "the best are from before");
}

#[test]
fn predictors_go_into_a_file_and_come_back() {
    let (model, options) = (model(), options());
    let train = samples(&model, &options, 0..2);
    let mut trainer = Trainer::new(&model, options.clone()).unwrap();
    run(&mut trainer, &model, &train, &train, usize::MAX);
    let file = trainer.to_file(&model).unwrap();
    let path = Path::new("predictors.safetensors");
    let learned = Learned::from_bytes(&file, path, &model).unwrap();
    let info = Learned::info(&file, path).unwrap().unwrap();
    assert_eq!(info.schedule, options.schedule.to_string());
    assert_eq!(info.trained_on, "attention-mean");

    let tokens = prompt(TOKENS, model.config().vocab, 20);
    let plan = options.schedule.plan(&[TOKENS], model.config().layers).unwrap();
    let prefill = model.prefill(std::slice::from_ref(&tokens), &plan, &learned, 0).unwrap();
    let hidden = salient_candle::reference::inputs(&model, &tokens, &[1]).unwrap();
    let expected: Vec<f32> =
        trainer.predictors()[&1].scores(&hidden[&1]).unwrap().to_vec1().unwrap();
    let scores: Vec<f32> = prefill.stages[0].scores.to_vec1().unwrap();
    for (actual, expected) in scores.iter().zip(&expected) {
        assert!((actual - expected).abs() < 1e-4, "{actual}, expected {expected}");
    }

    let pooled = Learned::from_bytes(&file, path, &model).unwrap().pooled(5);
    let smooth = model.prefill(std::slice::from_ref(&tokens), &plan, &pooled, 0).unwrap();
    let around = |t: usize| &expected[t.saturating_sub(2)..(t + 3).min(TOKENS)];
    let smooth: Vec<f32> = smooth.stages[0].scores.to_vec1().unwrap();
    for (t, actual) in smooth.iter().enumerate() {
        let mean = around(t).iter().sum::<f32>() / around(t).len() as f32;
        assert!((actual - mean).abs() < 1e-4, "{actual}, expected {mean}");
    }

    let other = random_model(tiny(Family::Llama), 5);
    let error = Learned::from_bytes(&file, path, &other).unwrap_err().to_string();
    let named = [model.fingerprint(), other.fingerprint()];
    assert!(named.iter().all(|name| error.contains(*name)), "{error}");
    let elsewhere: Schedule = "2=0.5".parse().unwrap();
    let both = [options.schedule.clone(), elsewhere.clone()];
    assert!(Learned::for_schedules(&file, path, &model, &both[..1]).is_ok());
    let error = Learned::for_schedules(&file, path, &model, &both).unwrap_err().to_string();
    let named = [info.schedule.as_str(), "2=0.5", "[1, 4]", "layer 2"];
    assert!(named.iter().all(|name| error.contains(name)), "{error}");
    let plan = elsewhere.plan(&[TOKENS], model.config().layers).unwrap();
    let error = model.prefill(&[tokens], &plan, &learned, 0).unwrap_err().to_string();
    assert!(error.contains("layer 2") && error.contains("[1, 4]"), "{error}");
    assert_eq!(learned.name(), "predictor");
}

#[test]
fn other_scorers_are_measured_on_the_same_texts() {
    let (model, options) = (model(), options());
    let tokens = prompt(TOKENS, model.config().vocab, 3);
    let marks = Marks::new(&model, &tokens, 0..TOKENS, &[1, 4]).unwrap();
    let sample = Sample::new(&model, &options, tokens.clone(), 0..TOKENS, &marks).unwrap();
    let trainer = Trainer::new(&model, options.clone()).unwrap();
    let measured = trainer.metrics_of(&KeyNorm, &model, &[sample]).unwrap();

    // The first stage of a prefill sees the same hidden states.
    let plan = options.schedule.plan(&[TOKENS], model.config().layers).unwrap();
    let prefill = model.prefill(&[tokens], &plan, &KeyNorm, 0).unwrap();
    let free = 2..TOKENS - plan.stages()[0].edges[0].recent;
    let worth = &marks.get(1, options.target).unwrap()[free.clone()];
    let keep = plan.stages()[0].rows.total() - (TOKENS - free.len());
    let scores: Vec<f32> = prefill.stages[0].scores.to_vec1().unwrap();
    let expected = RankMetrics::new(&scores[free], worth, keep);
    assert_eq!(measured[&1], expected);
    assert!(measured[&4] != expected);
}

#[test]
fn marks_go_into_a_file_and_come_back_for_the_same_model_and_text_alone() {
    let model = model();
    let tokens = prompt(TOKENS, model.config().vocab, 3);
    let (all, end) = (0..TOKENS, 40..TOKENS);
    let marks = Marks::new(&model, &tokens, all.clone(), &[4, 1]).unwrap();
    let bytes = marks.to_bytes(&model, &tokens, &all).unwrap();
    let read = |bytes: &[u8], model: &Model, tokens: &[u32], scored| {
        Marks::from_bytes(bytes, model, tokens, scored).map_err(|error| error.to_string())
    };
    let back = read(&bytes, &model, &tokens, &all).unwrap();
    assert_eq!(back, marks);
    assert!(back.layers().into_iter().eq([1, 4]));
    assert_eq!(back.to_bytes(&model, &tokens, &all).unwrap(), bytes);
    // What is marked on the way to other layers is the same.
    let fewer = Marks::new(&model, &tokens, all.clone(), &[4]).unwrap();
    assert!(Target::ALL.iter().all(|&target| fewer.get(4, target) == marks.get(4, target)));

    let other = random_model(tiny(Family::Llama), 5);
    let error = read(&bytes, &other, &tokens, &all).unwrap_err();
    let named = [model.fingerprint(), other.fingerprint()];
    assert!(named.iter().all(|name| error.contains(*name)), "{error}");
    let mut changed = tokens.clone();
    changed[7] += 1;
    assert!(read(&bytes, &model, &changed, &all).unwrap_err().contains("text"));
    assert!(read(&bytes, &model, &tokens, &end).unwrap_err().contains("text"));
    for cut in [0, 7, 100, bytes.len() - 1] {
        let error = read(&bytes[..cut], &model, &tokens, &all).unwrap_err();
        assert!(error.contains("no marks"), "{error}");
    }
    let trainer = Trainer::new(&model, options()).unwrap();
    let predictors = trainer.to_file(&model).unwrap();
    assert!(read(&predictors, &model, &tokens, &all).unwrap_err().contains("no marks"));
    // A file from before a target was known: every tensor of it under another name.
    let old = replaced(&bytes, b"attention-max", b"attention-old");
    let error = read(&old, &model, &tokens, &all).unwrap_err();
    assert!(error.contains("no marks") && error.contains("layer.1.attention-max"), "{error}");
}

#[test]
fn marks_that_are_no_numbers_are_refused() {
    let (model, options) = (model(), options());
    let tokens = prompt(TOKENS, model.config().vocab, 6);
    let marks = Marks::new(&model, &tokens, 0..TOKENS, &[1, 4]).unwrap();
    let mut bytes = marks.to_bytes(&model, &tokens, &(0..TOKENS)).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff);
    let marks = Marks::from_bytes(&bytes, &model, &tokens, &(0..TOKENS)).unwrap();
    let error = Sample::new(&model, &options, tokens, 0..TOKENS, &marks).unwrap_err().to_string();
    assert!(error.contains("layer 1 has a mark of NaN, at token 0"), "{error}");
}

/// With every occurrence of a word replaced by one as long.
fn replaced(bytes: &[u8], word: &[u8], by: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for start in 0..bytes.len() - word.len() {
        if bytes[start..].starts_with(word) {
            bytes[start..start + word.len()].copy_from_slice(by);
        }
    }
    bytes
}

#[test]
fn checkpoints_of_other_runs_are_refused() {
    let (model, options) = (model(), options());
    let trainer = Trainer::new(&model, options.clone()).unwrap();
    let checkpoint = trainer.checkpoint(&model, "these texts").unwrap();
    let resume = |model: &Model, options: &TrainOptions, data: &str, bytes: &[u8]| {
        Trainer::resume(model, options.clone(), data, bytes).unwrap_err().to_string()
    };
    let data = resume(&model, &options, "those texts", &checkpoint);
    assert!(data.contains("these texts") && data.contains("those texts"), "{data}");
    let wider = TrainOptions { width: 13, ..options.clone() };
    let wider = resume(&model, &wider, "these texts", &checkpoint);
    assert!(wider.contains("\"width\":12") && wider.contains("\"width\":13"), "{wider}");
    let other = random_model(tiny(Family::Llama), 5);
    assert!(resume(&other, &options, "these texts", &checkpoint).contains("model"));
    let torn = resume(&model, &options, "these texts", &checkpoint[..checkpoint.len() / 2]);
    assert!(torn.contains("no checkpoint"), "{torn}");
    let file = trainer.to_file(&model).unwrap();
    assert!(resume(&model, &options, "these texts", &file).contains("no checkpoint"));
}

#[test]
fn texts_and_options_that_do_not_fit_are_refused() {
    let (model, options) = (model(), options());
    let sample = |len: usize, marked: usize, layers: &[usize]| {
        let marks = Marks::new(&model, &prompt(marked, 101, 1), 0..marked, layers).unwrap();
        Sample::new(&model, &options, prompt(len, 101, 1), 0..len, &marks)
    };
    let short = sample(2, 2, &[1, 4]).unwrap_err();
    let Error::TextTooShort { tokens: 2, layer: 1, least } = short else { panic!("{short}") };
    let dropped = |len| len - options.schedule.plan(&[len], 6).unwrap().stages()[0].rows.total();
    assert!(dropped(least - 1) == 0 && dropped(least) > 0, "{short}");
    let missing = sample(TOKENS, TOKENS, &[1]).unwrap_err().to_string();
    assert!(missing.contains("layer 4 has marks of 0 tokens of 48"), "{missing}");
    assert!(sample(TOKENS, TOKENS - 1, &[1, 4]).is_err());

    let refused = |options: TrainOptions| Trainer::new(&model, options).unwrap_err().to_string();
    assert!(refused(TrainOptions { batch: 0, ..options.clone() }).contains("`batch` is 0"));
    assert!(refused(TrainOptions { decay: -1.0, ..options.clone() }).contains("`decay` is -1"));
    assert!(refused(TrainOptions { temperature: 0.0, ..options.clone() }).contains("temperature"));
    let dense = TrainOptions { schedule: Schedule::dense(), ..options.clone() };
    assert!(refused(dense).contains("no stage"));
    let nothing = LossWeights { rank: 0.0, mse: 0.0, ..options.losses };
    assert!(refused(TrainOptions { losses: nothing, ..options.clone() }).contains("first phase"));
    let signed =
        TrainOptions { target: Target::SignedSaliency, scale: Scale::Log, ..options.clone() };
    assert!(refused(signed).contains("saliency-signed"));
    let unknown = serde_json::from_str::<TrainOptions>(r#"{"losses": {"rnak": 1.0}}"#);
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("rnak") && unknown.contains("divergence"), "{unknown}");
    let target = serde_json::from_str::<TrainOptions>(r#"{"target": "salience"}"#);
    assert!(target.unwrap_err().to_string().contains("attention-mean"));
}
