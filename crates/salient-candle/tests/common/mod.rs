//! Tiny models with random weights, and the real one where it is at hand.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient_candle::{Family, Model, ModelConfig};

/// A small configuration of a family; every size differs from every other.
pub fn tiny(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        layers: 6,
        hidden: 48,
        heads: 6,
        kv_heads: 2,
        head_dim: if family == Family::Qwen3 { 10 } else { 8 },
        ffn: 40,
        vocab: 101,
        context: 512,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        sliding_window: None,
        sliding_from: 0,
        attention_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        tied: false,
    }
}

/// Random weights by name, the same for the same seed.
pub struct RandomWeights {
    rng: ChaCha8Rng,
    pub tensors: HashMap<String, Tensor>,
}

impl RandomWeights {
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), tensors: HashMap::new() }
    }

    /// Builds the model and keeps its tensors.
    pub fn model(&mut self, config: ModelConfig) -> Model {
        Model::new(config, |name, shape| {
            let len: usize = shape.iter().product();
            let norm = name.contains("norm");
            let spread = if norm { 0.2 } else { 1.5 / (shape[shape.len() - 1] as f32).sqrt() };
            let values: Vec<f32> = (0..len)
                .map(|_| f32::from(norm) + spread * (self.rng.random::<f32>() * 2.0 - 1.0))
                .collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
            self.tensors.insert(name.to_owned(), tensor.clone());
            Ok(tensor)
        })
        .expect("the tiny configuration is sound")
    }
}

/// A prompt of random tokens.
pub fn prompt(len: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..vocab as u32)).collect()
}

/// The largest absolute difference.
pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let a: Vec<f32> = a.flatten_all().unwrap().to_vec1().unwrap();
    let b: Vec<f32> = b.flatten_all().unwrap().to_vec1().unwrap();
    assert!(a.iter().chain(&b).all(|v| v.is_finite()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A file of the asset cache. Missing: `None` with a loud line, or a failure where
/// `SALIENT_REQUIRE_MODEL` or `CI` is set.
pub fn asset(relative: &str) -> Option<PathBuf> {
    let home = std::env::var_os("SALIENT_HOME").map(PathBuf::from);
    let path = home.map(|home| home.join(relative));
    if let Some(path) = path.filter(|path| path.exists()) {
        return Some(path);
    }
    let required = ["SALIENT_REQUIRE_MODEL", "CI"].iter().any(|v| std::env::var_os(v).is_some());
    assert!(!required, "{relative} is not in SALIENT_HOME; scripts/test fetches it");
    eprintln!("SKIPPED: {relative} is not in SALIENT_HOME; scripts/test fetches it");
    None
}
