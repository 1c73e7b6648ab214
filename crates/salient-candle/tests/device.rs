//! The runner for devices, on tensors in host memory: all of it but the kernels.

#[path = "common/device.rs"]
mod against_host;
mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use salient::Ragged;
use salient::host::score::Predictor;
use salient::schedule::{KvAtStage, Schedule, Stages};
use salient::score::{HeadReduce, PredictorWeights};
use salient_candle::device::{DeviceModel, DevicePredictor, DeviceScorer, HostVerbs, Verbs};
use salient_candle::scorer::{AttentionRule, KeyNorm, LastQuery, Learned, Window};
use salient_candle::{Error, Family, ModelConfig};

use against_host::OnDevice;
use common::{prompt, random_model, tiny};

const HERE: OnDevice<'_> =
    OnDevice { device: &Device::Cpu, dtype: DType::F32, scores: 1e-4, logits: 1e-4 };

fn schedules() -> Vec<Schedule> {
    let stages = [
        Stages::Geometric { start: 1, step: 1, stages: 5, ratio: 0.8, floor: 0.0 },
        Stages::Geometric { start: 0, step: 2, stages: 3, ratio: 0.5, floor: 0.2 },
        Stages::Single { layer: 5, ratio: 0.3 },
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
fn it_does_what_the_packed_runner_does_for_every_family() {
    for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
        let model = random_model(tiny(family), 11);
        for schedule in schedules() {
            HERE.agrees_with_the_host(&model, &schedule, &[64, 33, 90], &KeyNorm, |_| {
                DeviceScorer::KeyNorm
            });
        }
    }
}

#[test]
fn it_scores_by_the_attention_of_the_last_tokens() {
    let model = random_model(tiny(Family::Qwen3), 13);
    let rule = AttentionRule { heads: HeadReduce::MaxNormalised, pool: 5 };
    let last = LastQuery::default();
    for schedule in schedules() {
        for window in [Window::tokens(7, rule), Window::pyramid_infer()] {
            HERE.agrees_with_the_host(&model, &schedule, &[64, 33, 90], &window, |_| {
                DeviceScorer::Window(window)
            });
        }
        HERE.agrees_with_the_host(&model, &schedule, &[64, 33, 90], &last, |_| {
            DeviceScorer::Window(Window::tokens(1, last.rule))
        });
    }
}

#[test]
fn it_does_what_the_packed_runner_does_under_a_sliding_window() {
    for (window, from) in [(7, 0), (25, 3), (400, 0)] {
        let config = ModelConfig {
            sliding_window: Some(window),
            sliding_from: from,
            tied: true,
            ..tiny(Family::Mistral)
        };
        let model = random_model(config, 12);
        for schedule in schedules() {
            HERE.agrees_with_the_host(&model, &schedule, &[60, 80], &KeyNorm, |_| {
                DeviceScorer::KeyNorm
            });
        }
    }
}

/// Predictors for stages at these layers.
fn predictors(hidden: usize, layers: &[usize]) -> BTreeMap<usize, PredictorWeights> {
    let values = |len: usize, layer: usize| {
        (0..len).map(|i| ((i * 37 + layer * 11) % 101) as f32 / 64.0 - 0.8).collect::<Vec<_>>()
    };
    let weights = |layer| PredictorWeights {
        w1: values(20 * hidden, layer),
        b1: values(20, layer + 1),
        w2: values(2 * 20, layer + 2),
        b2: vec![0.1, -0.1],
        norm: Some((vec![1.0; hidden], 1e-5)),
    };
    layers.iter().map(|&layer| (layer, weights(layer))).collect()
}

#[test]
fn predictors_score_as_in_the_packed_runner() {
    let model = random_model(tiny(Family::Llama), 13);
    let weights = predictors(model.config().hidden, &[1, 2, 3, 4, 5]);
    let built = weights.iter().map(|(&layer, weights)| {
        (layer, Predictor::new(model.config().hidden, weights.clone()).unwrap())
    });
    let learned = Learned::new(built.collect());
    for schedule in &schedules()[..2] {
        HERE.agrees_with_the_host(&model, schedule, &[70, 45], &learned, |on_device| {
            DeviceScorer::learned(weights.clone(), on_device).unwrap()
        });
    }
    // A stage where there is no predictor.
    let on_device = DeviceModel::new(&model, &Device::Cpu, DType::F32).unwrap();
    let scorer = DeviceScorer::learned(weights, &on_device).unwrap();
    let prompts = [prompt(70, 101, 1), prompt(45, 101, 2)];
    let plan = Schedule { stages: Stages::Single { layer: 0, ratio: 0.5 }, ..Schedule::sdtp() };
    let plan = plan.plan(&[70, 45], 6).unwrap();
    let says = on_device.prefill(&prompts, &plan, &scorer, 0).unwrap_err().to_string();
    assert!(says.contains("layer 0"), "{says}");
}

#[test]
fn half_precision_runs_near_single_precision() {
    let model = random_model(tiny(Family::Llama), 14);
    for (dtype, scores, logits) in [(DType::F16, 0.02, 0.02), (DType::BF16, 0.1, 0.2)] {
        let half = OnDevice { dtype, scores, logits, ..HERE };
        for schedule in &schedules()[..2] {
            half.agrees_with_the_host(&model, schedule, &[40, 64], &KeyNorm, |on_device| {
                assert_eq!(on_device.dtype(), dtype);
                DeviceScorer::KeyNorm
            });
        }
    }
}

#[test]
fn a_decoder_takes_the_steps_that_extend_takes() {
    for (family, dtype) in
        [(Family::Llama, DType::F32), (Family::Qwen3, DType::BF16), (Family::Qwen2, DType::F16)]
    {
        let model = random_model(tiny(family), 16);
        for schedule in &schedules()[..4] {
            OnDevice { dtype, ..HERE }.decodes_as_it_extends(&model, schedule, &[40, 9, 64]);
        }
    }
}

#[test]
fn a_decoder_refuses_what_it_cannot_decode() {
    let decoder = |config, reserve, tokens: &[u32], steps| {
        let model = random_model(config, 17);
        let on_device = DeviceModel::new(&model, &Device::Cpu, DType::F32).unwrap();
        let plan = Schedule::dense().plan(&[5, 3], 6).unwrap();
        let prompts = [prompt(5, 101, 1), prompt(3, 101, 2)];
        let prefill = on_device.prefill(&prompts, &plan, &DeviceScorer::KeyNorm, reserve).unwrap();
        on_device.decoder(prefill.cache, tokens, steps).map(|_| ())
    };
    let plain = || tiny(Family::Llama);
    assert!(decoder(plain(), 0, &[1, 2], 507).is_ok());
    assert!(decoder(plain(), 0, &[1, 2], 0).is_ok());
    assert!(matches!(decoder(plain(), 0, &[1, 2], 508), Err(Error::ContextExceeded { .. })));
    assert!(matches!(decoder(plain(), 0, &[1], 2), Err(Error::Salient(_))));
    assert!(matches!(decoder(plain(), 0, &[1, 101], 2), Err(Error::UnknownToken { .. })));
    let window = ModelConfig { sliding_window: Some(7), ..plain() };
    assert!(matches!(decoder(window, 0, &[1, 2], 2), Err(Error::Unsupported { .. })));
    let wide = ModelConfig { sliding_window: Some(512), ..plain() };
    assert!(decoder(wide, 0, &[1, 2], 2).is_ok());
}

#[test]
fn below_the_crossover_a_prefill_is_the_dense_one() {
    let model = random_model(tiny(Family::Llama), 18);
    let on_device = DeviceModel::new(&model, &Device::Cpu, DType::F32).unwrap();
    let stages = Stages::Single { layer: 2, ratio: 0.5 };
    let schedule = Schedule { stages, crossover: 50, ..Schedule::sdtp() };
    let run = |schedule: &Schedule, len| {
        let plan = schedule.plan(&[len], 6).unwrap();
        let scorer = DeviceScorer::KeyNorm;
        let prefill = on_device.prefill(&[prompt(len, 101, 3)], &plan, &scorer, 0).unwrap();
        (prefill.logits(&on_device).unwrap().to_vec2::<f32>().unwrap(), prefill.stages.len())
    };
    assert_eq!(run(&schedule, 49), run(&Schedule::dense(), 49));
    assert_eq!(run(&schedule, 50), run(&Schedule { crossover: 0, ..schedule.clone() }, 50));
    assert_eq!(run(&schedule, 50).1, 1);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let model = random_model(tiny(Family::Llama), 15);
    let refused = DeviceModel::new(&model, &Device::Cpu, DType::U8);
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    let on_device = DeviceModel::new(&model, &Device::Cpu, DType::F32).unwrap();
    let plan = Schedule::dense().plan(&[5], 6).unwrap();
    let run = |prompts: &[Vec<u32>], reserve| {
        on_device.prefill(prompts, &plan, &DeviceScorer::KeyNorm, reserve).map(|_| ())
    };
    assert!(run(&[vec![1; 5]], 0).is_ok());
    assert!(matches!(run(&[vec![1; 6]], 0), Err(Error::Config { .. })));
    assert!(matches!(run(&[vec![]], 0), Err(Error::EmptyPrompt { sequence: 0 })));
    assert!(matches!(run(&[vec![1; 5]], 600), Err(Error::ContextExceeded { tokens: 605, .. })));
    assert!(matches!(run(&[vec![101; 5]], 0), Err(Error::UnknownToken { id: 101, vocab: 101 })));
    let mut prefill = on_device.prefill(&[vec![1; 5]], &plan, &DeviceScorer::KeyNorm, 0).unwrap();
    assert!(on_device.extend(&[vec![1], vec![1]], &mut prefill.cache).is_err());
    assert!(on_device.extend(&[vec![1; 600]], &mut prefill.cache).is_err());
    assert_eq!(prefill.cache.next_positions(), [5]);
}

#[test]
fn verbs_refuse_lengths_that_do_not_fit() {
    let rows = Ragged::from_lens(&[30, 20]).unwrap();
    let schedule = Schedule { stages: Stages::Single { layer: 1, ratio: 0.5 }, ..Schedule::sdtp() };
    let plan = schedule.plan(&[30, 20], 4).unwrap();
    let stage = &plan.stages()[0];
    let mut verbs = HostVerbs::default();
    let scores = Tensor::zeros(50, DType::F32, &Device::Cpu).unwrap();
    let kept = verbs.select(&scores, &rows, stage).unwrap();
    let few = scores.narrow(0, 0, 49).unwrap();
    assert!(verbs.select(&few, &rows, stage).is_err());
    assert!(verbs.select(&scores, &Ragged::from_lens(&[50]).unwrap(), stage).is_err());
    assert!(verbs.select(&scores, &Ragged::from_lens(&[20, 30]).unwrap(), stage).is_ok());
    assert!(verbs.select(&scores, &Ragged::from_lens(&[5, 45]).unwrap(), stage).is_err());
    assert_eq!(verbs.rows(&kept, &[&scores, &scores]).unwrap()[1].dims(), [25]);
    assert!(verbs.rows(&kept, &[&few]).is_err());
    let weights = predictors(16, &[0]).remove(&0).unwrap();
    let predictor = DevicePredictor::new(16, weights, DType::F32, &Device::Cpu).unwrap();
    let hidden = Tensor::zeros((4, 15), DType::F32, &Device::Cpu).unwrap();
    assert!(verbs.mlp(&predictor, &hidden).is_err());
    assert!(!verbs.finish().unwrap());
    let nan = Tensor::full(f32::NAN, 50, &Device::Cpu).unwrap();
    verbs.select(&nan, &rows, stage).unwrap();
    assert!(verbs.finish().unwrap());
}
