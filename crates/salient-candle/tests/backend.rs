//! The host backend of the runner, and greedy decoding on it; on a CUDA device see `cuda.rs`.

#[path = "common/device.rs"]
mod against_host;
mod common;

use candle_core::{DType, Device, Tensor};
use salient::Ragged;
use salient::schedule::{KvAtStage, Schedule, Stages};
use salient::score::{Pool, PoolKind, PredictorWeights};
use salient_candle::backend::{Backend, HostBackend, Predictor, Verbs};
use salient_candle::scorer::KeyNorm;
use salient_candle::{Error, Family, ModelConfig};

use against_host::OnDevice;
use common::{prompt, random_model, tiny};

fn schedules() -> Vec<Schedule> {
    let stages = [
        Stages::Geometric { start: 1, step: 1, stages: 5, ratio: 0.8, floor: 0.0 },
        Stages::Geometric { start: 0, step: 2, stages: 3, ratio: 0.5, floor: 0.2 },
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
fn a_decoder_takes_the_steps_that_extend_takes() {
    let here = OnDevice { device: &Device::Cpu, dtype: DType::F32, scores: 0.0, logits: 0.0 };
    for family in [Family::Llama, Family::Qwen3, Family::Qwen2] {
        let model = random_model(tiny(family), 16);
        for schedule in schedules() {
            here.decodes_as_it_extends(&model, &schedule, &[40, 9, 64]);
        }
    }
}

#[test]
fn a_decoder_refuses_what_it_cannot_decode() {
    let decoder = |config, tokens: &[u32], steps| {
        let model = random_model(config, 17);
        let plan = Schedule::dense().plan(&[5, 3], 6).unwrap();
        let prompts = [prompt(5, 101, 1), prompt(3, 101, 2)];
        let prefill = model.prefill(&prompts, &plan, &KeyNorm, 0).unwrap();
        model.decoder(prefill.cache, tokens, steps).map(|_| ())
    };
    let plain = || tiny(Family::Llama);
    assert!(decoder(plain(), &[1, 2], 507).is_ok());
    assert!(decoder(plain(), &[1, 2], 0).is_ok());
    assert!(matches!(decoder(plain(), &[1, 2], 508), Err(Error::ContextExceeded { .. })));
    assert!(matches!(decoder(plain(), &[1], 2), Err(Error::Salient(_))));
    assert!(matches!(decoder(plain(), &[1, 101], 2), Err(Error::UnknownToken { .. })));
    let window = ModelConfig { sliding_window: Some(7), ..plain() };
    assert!(matches!(decoder(window, &[1, 2], 2), Err(Error::Unsupported { .. })));
    let wide = ModelConfig { sliding_window: Some(512), ..plain() };
    assert!(decoder(wide, &[1, 2], 2).is_ok());
}

#[test]
fn what_cannot_be_run_is_refused() {
    let model = random_model(tiny(Family::Llama), 15);
    for dtype in [DType::U8, DType::F16, DType::BF16] {
        let refused = model.to_device(&Device::Cpu, dtype).err().unwrap();
        assert!(matches!(refused, Error::Unsupported { supported: "f32", .. }), "{refused}");
    }
    let plan = Schedule::dense().plan(&[5], 6).unwrap();
    let run = |prompts: &[Vec<u32>], reserve| {
        model.prefill(prompts, &plan, &KeyNorm, reserve).map(|_| ())
    };
    assert!(run(&[vec![1; 5]], 0).is_ok());
    assert!(matches!(run(&[vec![1; 6]], 0), Err(Error::Config { .. })));
    assert!(matches!(run(&[vec![]], 0), Err(Error::EmptyPrompt { sequence: 0 })));
    assert!(matches!(run(&[vec![1; 5]], 600), Err(Error::ContextExceeded { tokens: 605, .. })));
    assert!(matches!(run(&[vec![101; 5]], 0), Err(Error::UnknownToken { id: 101, vocab: 101 })));
    let mut prefill = model.prefill(&[vec![1; 5]], &plan, &KeyNorm, 0).unwrap();
    assert!(model.extend(&[vec![1], vec![1]], &mut prefill.cache).is_err());
    assert!(model.extend(&[vec![1; 600]], &mut prefill.cache).is_err());
    assert_eq!(prefill.cache.next_positions(), [5]);
    let nothing = model.extend(&[vec![]], &mut prefill.cache).unwrap();
    assert_eq!(nothing.dims(), [0, model.config().hidden]);
}

#[test]
fn verbs_refuse_lengths_that_do_not_fit() {
    let rows = Ragged::from_lens(&[30, 20]).unwrap();
    let schedule = Schedule { stages: Stages::Single { layer: 1, ratio: 0.5 }, ..Schedule::sdtp() };
    let plan = schedule.plan(&[30, 20], 4).unwrap();
    let stage = &plan.stages()[0];
    let mut backend = HostBackend;
    let scores = Tensor::zeros(50, DType::F32, &Device::Cpu).unwrap();
    let kept = backend.select(&scores, &rows, stage).unwrap();
    let few = scores.narrow(0, 0, 49).unwrap();
    assert!(backend.select(&few, &rows, stage).is_err());
    assert!(backend.select(&scores, &Ragged::from_lens(&[50]).unwrap(), stage).is_err());
    assert!(backend.select(&scores, &Ragged::from_lens(&[20, 30]).unwrap(), stage).is_ok());
    assert!(backend.select(&scores, &Ragged::from_lens(&[5, 45]).unwrap(), stage).is_err());
    assert_eq!(backend.rows(&kept, &[&scores, &scores]).unwrap()[1].dims(), [25]);
    assert!(backend.rows(&kept, &[&few]).is_err());
    let bytes = scores.to_dtype(DType::U8).unwrap();
    assert!(matches!(backend.rows(&kept, &[&bytes]), Err(Error::Unsupported { .. })));
    assert!(backend.rank(&few, &rows).is_err());
    let pool = Pool { kind: PoolKind::Average, width: 3 };
    assert!(backend.pool(&few, &rows, &pool).is_err());
    assert!(backend.pool(&scores, &rows, &Pool { width: 2, ..pool }).is_err());
    let weights = PredictorWeights {
        w1: vec![0.1; 20 * 16],
        b1: vec![0.0; 20],
        w2: vec![0.1; 20],
        b2: vec![0.0],
        norm: None,
    };
    let predictor = Predictor::new(16, weights, DType::F32, &Device::Cpu).unwrap();
    let hidden = Tensor::zeros((4, 15), DType::F32, &Device::Cpu).unwrap();
    assert!(backend.mlp(&predictor, &hidden).is_err());
    let nan = Tensor::full(f32::NAN, 50, &Device::Cpu).unwrap();
    let refused = backend.select(&nan, &rows, stage).err().unwrap();
    assert!(matches!(refused, Error::NanScore { layer: Some(1) }), "{refused}");
}

#[test]
fn rows_of_both_types_move_in_one_pass() {
    let rows = Ragged::from_lens(&[6, 4]).unwrap();
    let schedule = Schedule {
        stages: Stages::Single { layer: 1, ratio: 0.5 },
        sinks: 0,
        local: 0.0,
        ..Schedule::sdtp()
    };
    let plan = schedule.plan(&[6, 4], 4).unwrap();
    let mut backend = HostBackend;
    let scores = [0f32, 5., 1., 4., 2., 3., 9., 1., 8., 0.];
    let scores = Tensor::new(&scores, &Device::Cpu).unwrap();
    let kept = backend.select(&scores, &rows, &plan.stages()[0]).unwrap();
    let positions = Tensor::arange(0u32, 10, &Device::Cpu).unwrap();
    let keys = Tensor::arange(0f32, 40., &Device::Cpu).unwrap().reshape((10, 2, 2)).unwrap();
    let moved = backend.rows(&kept, &[&positions, &keys]).unwrap();
    // The last token of a sequence always stays.
    assert_eq!(moved[0].to_vec1::<u32>().unwrap(), [1, 3, 5, 6, 9]);
    assert_eq!(moved[1].dims(), [5, 2, 2]);
    let first = moved[1].narrow(1, 0, 1).unwrap().narrow(2, 0, 1).unwrap();
    let first = first.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(first, [4., 12., 20., 24., 36.]);
}
