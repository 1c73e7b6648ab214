//! Tensors on a CUDA device, and the runner there, against the host. Without a device each test
//! says on standard error that it did not run; with `SALIENT_NEED_DEVICE` set it fails.

#[path = "common/device.rs"]
mod against_host;
mod common;

use std::io::Write;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient::Ragged;
use salient::cuda::probe;
use salient::kernels::score::MlpWeights;
use salient::schedule::{KvAtStage, Schedule, Stages};
use salient::score::{HeadReduce, Pool, PoolKind, PredictorWeights};
use salient_candle::backend::{Backend, HostBackend, Predictor, Verbs};
use salient_candle::cuda::{CudaBackend, TensorView, tensor};
use salient_candle::scorer::{
    AttentionRule, FromLayer, KeyNorm, LastQuery, Learned, Position, Random, RankSum, Scorer,
    Window,
};
use salient_candle::{Error, Family, Model, ModelConfig, Result, reference};
use salient_lab::Oracle;
use salient_lab::train::{LossWeights, Marks, Phase, Sample, Steps, TrainOptions, Trainer};

use against_host::OnDevice;
use common::{difference, prompt, random_model, tiny};

/// A device, or a word that there is none.
fn on_device(test: &str, run: impl FnOnce(&Device) -> salient_lab::Result<()>) {
    match probe() {
        salient::cuda::Backend::Cuda(_) => Device::new_cuda(0)
            .map_err(salient_lab::Error::from)
            .and_then(|device| run(&device))
            .unwrap_or_else(|error| panic!("{error}: {error:?}")),
        backend => {
            let need = std::env::var_os("SALIENT_NEED_DEVICE").is_some();
            assert!(!need, "SALIENT_NEED_DEVICE is set, but the backend is {backend}");
            // Not by a macro that the test harness catches: a test that did not run says so.
            let says = format!("NOT RUN: {test} needs a device; the backend is {backend}\n");
            std::io::stderr().write_all(says.as_bytes()).expect("standard error is open");
        }
    }
}

fn random(shape: &[usize], dtype: DType, seed: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn near(actual: &Tensor, expected: &Tensor, tolerance: f32) -> Result<()> {
    let difference = difference(&actual.to_device(&Device::Cpu)?, expected);
    assert!(difference < tolerance, "{difference}");
    Ok(())
}

fn weights(hidden: usize, seed: u64) -> Result<PredictorWeights> {
    Ok(PredictorWeights {
        w1: values(&random(&[40, hidden], DType::F32, seed)?)?,
        b1: values(&random(&[40], DType::F32, seed + 1)?)?,
        w2: values(&random(&[2, 40], DType::F32, seed + 2)?)?,
        b2: vec![0.1, -0.1],
        norm: Some((vec![1.0; hidden], 1e-5)),
    })
}

#[test]
fn slices_become_tensors_and_tensors_views() {
    on_device("slices_become_tensors_and_tensors_views", |device| {
        let cuda = device.as_cuda_device()?;
        let stream = cuda.cuda_stream();
        let numbers: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let slice = || stream.clone_htod(&numbers).map_err(salient::Error::from);
        assert!(matches!(tensor(slice()?, (5, 5), cuda), Err(Error::Salient(_))));
        let made = tensor(slice()?, (6, 4), cuda)?;
        assert_eq!(made.to_vec2::<f32>()?[5], [20.0, 21.0, 22.0, 23.0]);
        let rows = made.narrow(0, 2, 3)?;
        let locked = TensorView::packed("rows", &rows)?;
        let seen = stream.clone_dtoh(&locked.elements::<f32>()?).map_err(salient::Error::from)?;
        assert_eq!(seen, numbers[8..20]);
        assert!(matches!(locked.elements::<bf16>(), Err(Error::TensorType { .. })));
        assert_eq!(locked.bytes()?.len(), 12 * 4);
        let gapped = made.narrow(1, 0, 2)?;
        assert!(matches!(TensorView::packed("x", &gapped), Err(Error::TensorLayout { .. })));
        let host = made.to_device(&Device::Cpu)?;
        assert!(matches!(TensorView::packed("x", &host), Err(Error::TensorPlace { .. })));
        Ok(())
    });
}

#[test]
fn scores_are_near_the_hosts() {
    on_device("scores_are_near_the_hosts", |device| {
        let (tokens, hidden) = (1341, 64);
        let mut backend = CudaBackend::new(device.as_cuda_device()?)?;
        let mut host = HostBackend;
        let used = |dtype| -> Result<PredictorWeights> {
            Ok(match dtype {
                DType::F16 => MlpWeights::<f16>::new(hidden, weights(hidden, 1)?)?.as_used(),
                _ => MlpWeights::<bf16>::new(hidden, weights(hidden, 1)?)?.as_used(),
            })
        };
        for dtype in [DType::F16, DType::BF16] {
            let x = random(&[tokens, hidden], dtype, 2)?;
            let there = Predictor::new(hidden, weights(hidden, 1)?, dtype, device)?;
            let here = Predictor::new(hidden, used(dtype)?, dtype, &Device::Cpu)?;
            let actual = backend.mlp(&there, &x.to_device(device)?)?;
            near(&actual, &host.mlp(&here, &x.to_dtype(DType::F32)?)?, 1e-3)?;
            assert!(backend.mlp(&here, &x.to_device(device)?).is_err());
            assert!(host.mlp(&there, &x).is_err());
            assert!(backend.mlp(&there, &x).is_err());
        }
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // As they lie between queries and values, and on their own.
            let fused = random(&[tokens, 8, 24], dtype, 3)?;
            let keys = fused.narrow(1, 4, 2)?;
            let expected = host.keynorm(&keys.to_dtype(DType::F32)?)?;
            let there = fused.to_device(device)?.narrow(1, 4, 2)?;
            near(&backend.keynorm(&there)?, &expected, 1e-4)?;
            near(&backend.keynorm(&there.contiguous()?)?, &expected, 1e-4)?;
        }
        // Of hidden states in f32 the predictor sees what bf16 holds.
        let x = random(&[tokens, hidden], DType::F32, 2)?;
        let there = Predictor::new(hidden, weights(hidden, 1)?, DType::F32, device)?;
        let here = Predictor::new(hidden, used(DType::BF16)?, DType::F32, &Device::Cpu)?;
        let seen = x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
        let actual = backend.mlp(&there, &x.to_device(device)?)?;
        near(&actual, &host.mlp(&here, &seen)?, 1e-3)?;
        Ok(())
    });
}

#[test]
fn scores_of_scores_are_the_hosts() {
    on_device("scores_of_scores_are_the_hosts", |device| {
        let rows = Ragged::from_lens(&[300, 1, 0, 2000, 41])?;
        let mut backend = CudaBackend::new(device.as_cuda_device()?)?;
        let mut host = HostBackend;
        // Of few values, so that ties are everywhere.
        let scores = ((random(&[rows.total()], DType::F32, 4)? * 8.0)?.round()? / 8.0)?;
        let there = scores.to_device(device)?;
        assert_eq!(values(&backend.rank(&there, &rows)?)?, values(&host.rank(&scores, &rows)?)?);
        for width in [1, 9, 17] {
            let pool = Pool { kind: PoolKind::Average, width };
            let expected = host.pool(&scores, &rows, &pool)?;
            near(&backend.pool(&there, &rows, &pool)?, &expected, 1e-6)?;
        }
        backend.finish()?;
        assert!(backend.rank(&scores, &rows).is_err());
        Ok(())
    });
}

#[test]
fn selections_and_rows_are_the_hosts() {
    on_device("selections_and_rows_are_the_hosts", |device| {
        let lens = [300, 1, 20_000, 41];
        let rows = Ragged::from_lens(&lens)?;
        let stages = Stages::Geometric { start: 1, step: 1, stages: 3, ratio: 0.6, floor: 0.0 };
        let plan = Schedule { stages, ..Schedule::sdtp() }.plan(&lens, 4)?;
        let mut backend = CudaBackend::new(device.as_cuda_device()?)?;
        let mut host = HostBackend;
        // Of few values, so that ties are everywhere.
        let scores = ((random(&[rows.total()], DType::F32, 4)? * 8.0)?.round()? / 8.0)?;
        let tensors = [
            Tensor::arange(0u32, rows.total() as u32, &Device::Cpu)?,
            random(&[rows.total(), 2, 10], DType::F32, 6)?,
            random(&[rows.total(), 48], DType::BF16, 5)?,
            random(&[rows.total(), 7], DType::F16, 7)?,
        ];
        let there: Vec<Tensor> =
            tensors.iter().map(|tensor| tensor.to_device(device)).collect::<Result<_, _>>()?;
        let stage = &plan.stages()[0];
        let expected = host.select(&scores, &rows, stage)?;
        let actual = backend.select(&scores.to_device(device)?, &rows, stage)?;
        // The host moves no halves, which f32 holds.
        let single = tensors.iter().map(|tensor| match tensor.dtype() {
            DType::BF16 | DType::F16 => tensor.to_dtype(DType::F32),
            _ => Ok(tensor.clone()),
        });
        let single: Vec<Tensor> = single.collect::<Result<_, _>>()?;
        let expected = host.rows(&expected, &single.iter().collect::<Vec<_>>())?;
        let actual = backend.rows(&actual, &there.iter().collect::<Vec<_>>())?;
        for ((actual, expected), given) in actual.iter().zip(&expected).zip(&tensors) {
            assert_eq!((actual.dims(), actual.dtype()), (expected.dims(), given.dtype()));
            assert_eq!(values(actual)?, values(expected)?);
        }
        backend.finish()?;
        let nan = Tensor::full(f32::NAN, rows.total(), device)?;
        let kept = backend.select(&nan, &rows, stage)?;
        assert!(matches!(backend.finish(), Err(Error::NanScore { layer: None })));
        assert!(backend.rows(&kept, &[&there[0].narrow(0, 1, 9)?]).is_err());
        assert!(backend.rows(&kept, &[&tensors[0]]).is_err());
        assert!(backend.select(&scores, &rows, stage).is_err());
        Ok(())
    });
}

fn schedules() -> [Schedule; 4] {
    let geometric = Stages::Geometric { start: 1, step: 1, stages: 5, ratio: 0.8, floor: 0.0 };
    let single = Stages::Single { layer: 3, ratio: 0.4 };
    [
        Schedule { stages: geometric.clone(), ..Schedule::sdtp() },
        Schedule { stages: geometric, kv_at_stage: KvAtStage::Incoming, ..Schedule::sdtp() },
        Schedule { stages: single, ..Schedule::sdtp() },
        Schedule::dense(),
    ]
}

#[test]
fn pruned_prefill_agrees_with_the_host() {
    on_device("pruned_prefill_agrees_with_the_host", |device| {
        let there = OnDevice { device, dtype: DType::F32, scores: 1e-3, logits: 1e-3 };
        for family in [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3] {
            let windowed = |window, from| ModelConfig {
                sliding_window: Some(window),
                sliding_from: from,
                ..tiny(family)
            };
            for config in [tiny(family), windowed(25, 0), windowed(7, 3)] {
                let model = random_model(config, 21);
                for schedule in schedules() {
                    let lens = [64, 33, 300];
                    there.agrees_with_the_host(&model, &schedule, &lens, |_| Box::new(KeyNorm));
                }
            }
        }
        Ok(())
    });
}

/// The predictors of a test model at the layers of its stages.
fn learned(model: &Model) -> Learned {
    let hidden = model.config().hidden;
    let by_layer = (1..6).map(|layer| (layer, weights(hidden, layer as u64).expect("random")));
    Learned::new(by_layer.collect(), model).expect("weights fit the model")
}

#[test]
fn predictors_prune_in_half_precision_near_the_host() {
    on_device("predictors_prune_in_half_precision_near_the_host", |device| {
        let model = random_model(tiny(Family::Llama), 22);
        // Scores of these predictors go up to 40. In the same types on the host, scores differed by
        // up to 0.2 and 1.2, logits by up to 0.01 and 0.1.
        for (dtype, scores, logits) in [(DType::F16, 0.5, 0.03), (DType::BF16, 4.0, 0.3)] {
            let there = OnDevice { device, dtype, scores, logits };
            for schedule in schedules() {
                there.agrees_with_the_host(&model, &schedule, &[70, 300], |model| {
                    Box::new(learned(model))
                });
            }
        }
        Ok(())
    });
}

#[test]
fn kernels_attend_near_the_host() {
    on_device("kernels_attend_near_the_host", |device| {
        let config = ModelConfig { head_dim: 16, ..tiny(Family::Llama) };
        let model = random_model(config, 23);
        for (dtype, scores, logits) in [(DType::F16, 0.02, 0.03), (DType::BF16, 0.1, 0.3)] {
            let there = OnDevice { device, dtype, scores, logits };
            for schedule in schedules() {
                let lens = [64, 33, 300];
                there.agrees_with_the_host(&model, &schedule, &lens, |_| Box::new(KeyNorm));
                there.agrees_with_the_host(&model, &schedule, &lens, |_| {
                    Box::new(Window::tokens(24, LastQuery::default().rule))
                });
            }
        }
        Ok(())
    });
}

/// Every scorer that the command offers, and the presets' compositions of them.
#[test]
fn every_scorer_prunes_as_on_the_host() {
    on_device("every_scorer_prunes_as_on_the_host", |device| {
        let config = ModelConfig { head_dim: 16, context: 1024, ..tiny(Family::Llama) };
        let model = random_model(config, 25);
        let normalised = AttentionRule { heads: HeadReduce::MaxNormalised, pool: 5 };
        let schedule = &schedules()[0];
        // 140 queries of a prompt of 700 tokens are more than the kernel takes without an LSE.
        let check = |dtype, scores: f32, logits, lens: &[usize], of: &dyn Fn(&Model) -> _| {
            OnDevice { device, dtype, scores, logits }
                .agrees_with_the_host(&model, schedule, lens, of);
        };
        type Of<'a> = &'a dyn Fn(&Model) -> Box<dyn Scorer>;
        let exact: [Of<'_>; 2] = [&|_| Box::new(Random { seed: 3 }), &|_| Box::new(Position)];
        let near: [Of<'_>; 4] = [
            &|_| Box::new(LastQuery::lazyllm()),
            &|_| Box::new(LastQuery::default()),
            &|_| Box::new(Window::tokens(16, normalised)),
            &|_| Box::new(Window::pyramid_infer()),
        ];
        let ranks: Of<'_> = &|model| {
            Box::new(FromLayer {
                layer: 3,
                earlier: Box::new(learned(model).pooled(17)),
                later: Box::new(RankSum(vec![
                    Box::new(LastQuery::default()),
                    Box::new(Window::tokens(24, LastQuery::default().rule)),
                    Box::new(learned(model).pooled(9)),
                ])),
            })
        };
        let oracle: Of<'_> = &|_| Box::new(Oracle::default());
        for (dtype, logits) in [(DType::F32, 1e-3), (DType::F16, 0.03), (DType::BF16, 0.3)] {
            let rounding = if dtype == DType::BF16 { 0.1 } else { 0.02 };
            for of in exact {
                check(dtype, 1e-6, logits, &[64, 33], of);
            }
            for of in near {
                check(dtype, rounding, logits, &[64, 33], of);
            }
            check(dtype, rounding, logits, &[700], near[3]);
            // Of predictors' scores as above; a rank moves as far as its neighbours are near.
            check(dtype, 4.0, logits, &[70, 300], ranks);
        }
        check(DType::F32, 1e-3, 1e-3, &[40, 33], oracle);
        check(DType::BF16, 10.0, 0.3, &[40, 33], oracle);
        Ok(())
    });
}

#[test]
fn training_follows_the_host() {
    on_device("training_follows_the_host", |device| {
        let host = random_model(tiny(Family::Llama), 4);
        let there = host.to_device(device, DType::F32)?;
        let options = TrainOptions {
            schedule: "1=0.7,4=0.4".parse()?,
            width: 12,
            losses: LossWeights { keep_ratio: 1.0, distillation: 0.5, ..Default::default() },
            batch: 2,
            fast: Steps { steps: 8, warmup: 2, rate: 3e-3 },
            full: Steps { steps: 3, warmup: 1, rate: 1e-3 },
            evaluate_every: 4,
            ..Default::default()
        };
        let run = |model: &Model| -> salient_lab::Result<(Vec<f64>, Vec<f32>)> {
            let mut samples = Vec::new();
            for seed in 0..3 {
                let tokens = prompt(48, model.config().vocab, seed);
                let marks = Marks::new(model, &tokens, 0..48, &[1, 4])?;
                samples.push(Sample::new(model, &options, tokens, 0..48, &marks)?);
            }
            let (mut trainer, mut losses) = (Trainer::new(model, options.clone())?, Vec::new());
            while trainer.progress().phase != Phase::Done {
                losses.push(trainer.step(model, &samples)?.loss);
                if trainer.is_due() {
                    trainer.evaluate(model, &samples)?;
                }
            }
            let of_key_norm = trainer.metrics_of(&KeyNorm, &host, &samples)?;
            assert_eq!(of_key_norm.len(), 2);
            let hidden = reference::inputs(&host, &prompt(48, host.config().vocab, 9), &[1])?;
            let hidden = hidden[&1].to_device(model.device())?;
            Ok((losses, trainer.predictors()[&1].scores(&hidden)?.to_vec1()?))
        };
        let (expected, actual) = (run(&host)?, run(&there)?);
        assert_eq!(actual.0.len(), 11);
        for (actual, expected) in actual.0.iter().zip(&expected.0) {
            assert!((actual - expected).abs() < 1e-2 * expected.abs(), "{actual}, not {expected}");
        }
        for (actual, expected) in actual.1.iter().zip(&expected.1) {
            assert!((actual - expected).abs() < 1e-2, "{actual}, not {expected}");
        }
        Ok(())
    });
}

#[test]
fn a_captured_step_decodes_as_steps_do() {
    on_device("a_captured_step_decodes_as_steps_do", |device| {
        let model = random_model(ModelConfig { head_dim: 16, ..tiny(Family::Qwen3) }, 24);
        for dtype in [DType::F16, DType::BF16] {
            let there = OnDevice { device, dtype, scores: 0.0, logits: 0.0 };
            for schedule in schedules() {
                there.decodes_as_it_extends(&model, &schedule, &[64, 33, 300]);
            }
        }
        let single = model.to_device(device, DType::F32)?;
        let plan = Schedule::dense().plan(&[5], model.config().layers)?;
        let prefill = single.prefill(&[vec![1; 5]], &plan, &KeyNorm, 0)?;
        let refused = single.decoder(prefill.cache, &[1], 2).map(|_| ());
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_nan_score_is_found_and_its_scorer_named() {
    struct Nan;
    impl Scorer for Nan {
        fn name(&self) -> String {
            "nan".into()
        }

        fn score(&self, stage: &mut salient_candle::scorer::StageInput<'_>) -> Result<Tensor> {
            Ok(Tensor::full(f32::NAN, stage.rows().total(), stage.model().device())?)
        }
    }
    on_device("a_nan_score_is_found_and_its_scorer_named", |device| {
        let model = random_model(tiny(Family::Llama), 26).to_device(device, DType::F16)?;
        let plan = schedules()[2].plan(&[30], model.config().layers)?;
        let says = model.prefill(&[vec![1; 30]], &plan, &Nan, 0).unwrap_err().to_string();
        assert!(says.contains("`nan`") && says.contains("NaN"), "{says}");
        Ok(())
    });
}
