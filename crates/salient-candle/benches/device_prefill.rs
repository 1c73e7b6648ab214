//! Prefill of a model of 32 layers and 4096 channels on a CUDA device, dense and pruned, with the
//! share of each verb. Random weights in bf16: time does not depend on them. Prints a line of JSON
//! for every length and schedule:
//!
//! ```sh
//! cargo bench -p salient-candle --features cuda --bench device_prefill [-- LENGTH...]
//! ```
//!
//! Memory is that of the weights (14.5 GB), of the dense cache (131,072 bytes a token, 17.2 GB at
//! 131,072 tokens), and of hidden states and what a block makes of them (8 GB at that length).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient::cuda::{Backend, probe};
use salient::schedule::{Plan, Schedule};
use salient::score::PredictorWeights;
use salient_candle::scorer::Learned;
use salient_candle::{Family, Model, ModelConfig, Prefill, Result};
use serde_json::json;

const LENGTHS: [usize; 4] = [4096, 16_384, 65_536, 131_072];
const WARM_UP: usize = 1;
const RUNS: usize = 5;
const PREDICTOR: usize = 1024;

fn main() -> Result<()> {
    // cargo bench says `--bench`.
    let lengths: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let lengths = if lengths.is_empty() { LENGTHS.to_vec() } else { lengths };
    let backend = probe();
    if !matches!(&backend, Backend::Cuda(driver) if !driver.software) {
        eprintln!("error: this needs a device to measure; the backend is {backend}");
        std::process::exit(1);
    }
    let device = Device::new_cuda(0)?;
    let model = model(&device, lengths.iter().copied().max().unwrap_or(0))?;
    for length in lengths {
        let mut dense = None;
        for schedule in [Schedule::dense(), Schedule::sdtp(), Schedule::late()] {
            let plan = schedule.plan(&[length], model.config().layers)?;
            let (seconds, verbs) = measure(&model, &plan)?;
            let dense = *dense.get_or_insert(seconds[1]);
            let pruning: f64 =
                verbs.iter().filter(|(name, _)| **name != "attend").map(|v| v.1).sum();
            let line = json!({
                "case": format!("prefill/{length}, 32 x 4096, 32/8 x 128 bf16"),
                "who": format!("salient, {schedule}"),
                "seconds": seconds,
                "runs": RUNS,
                "speedup": dense / seconds[1],
                "speedup_bound": salient::cost::speedup_bound(&model.config().shape(), &plan)?,
                "verbs": verbs,
                "share_of_pruning": pruning / seconds[1],
            });
            println!("{line}");
        }
    }
    Ok(())
}

/// Quartiles of the whole prefill, and the median run's time in each verb, in seconds.
fn measure(model: &Model, plan: &Plan) -> Result<([f64; 3], BTreeMap<&'static str, f64>)> {
    let vocab = model.config().vocab as u32;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let prompts = [plan
        .lens()
        .iter()
        .flat_map(|&len| 0..len)
        .map(|_| random.random_range(0..vocab))
        .collect()];
    let scorer = scorer(model, plan)?;
    let mut runs = Vec::new();
    for run in 0..WARM_UP + RUNS {
        // It waits for the device at its end.
        let prefill = model.prefill(&prompts, plan, &scorer, 0)?;
        if run >= WARM_UP {
            runs.push((prefill.elapsed.as_secs_f64(), verbs(&prefill)));
        }
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let quartiles = [1, 2, 3].map(|quarter| runs[quarter * RUNS / 4].0);
    Ok((quartiles, runs.swap_remove(RUNS / 2).1))
}

/// Seconds in each verb, by events on the stream.
fn verbs(prefill: &Prefill) -> BTreeMap<&'static str, f64> {
    let mut seconds = BTreeMap::from([("attend", prefill.attention_time.as_secs_f64())]);
    for stage in &prefill.stages {
        for (verb, time) in [
            ("score", stage.score_time),
            ("select", stage.select_time),
            ("compact", stage.compact_time),
        ] {
            *seconds.entry(verb).or_default() += time.as_secs_f64();
        }
    }
    seconds
}

fn scorer(model: &Model, plan: &Plan) -> Result<Learned> {
    let hidden = model.config().hidden;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut numbers = |len: usize, fan: usize| -> Vec<f32> {
        let spread = (fan as f32).powf(-0.5);
        (0..len).map(|_| spread * (random.random::<f32>() * 2.0 - 1.0)).collect()
    };
    let mut predictors = BTreeMap::new();
    for stage in plan.stages() {
        let weights = PredictorWeights {
            w1: numbers(PREDICTOR * hidden, hidden),
            b1: numbers(PREDICTOR, 4),
            w2: numbers(PREDICTOR, PREDICTOR),
            b2: numbers(1, 1),
            norm: Some((vec![1.0; hidden], 1e-5)),
        };
        predictors.insert(stage.layer, weights);
    }
    Learned::new(predictors, model)
}

fn model(device: &Device, context: usize) -> Result<Model> {
    let config = ModelConfig {
        family: Family::Llama,
        layers: 32,
        hidden: 4096,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        vocab: 32_000,
        context,
        rms_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: None,
        sliding_window: None,
        sliding_from: 0,
        attention_bias: false,
        qk_norm: false,
        tied: false,
    };
    // Made there, in the type that they keep: the host holds none.
    Model::new(config, |name, shape| {
        let fan = shape[shape.len() - 1] as f64;
        let (mean, spread) = if name.contains("norm") { (1.0, 0.0) } else { (0.0, fan.powf(-0.5)) };
        let weights = Tensor::randn(mean as f32, spread as f32, shape, device)?;
        Ok(weights.to_dtype(DType::BF16)?)
    })
}
