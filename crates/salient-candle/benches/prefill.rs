//! Prefill of SmolLM2-135M, dense and pruned, beside candle-transformers' Llama on the same
//! dequantised weights in f32. Needs `salient fetch smollm2` and `SALIENT_HOME`.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use salient::schedule::Schedule;
use salient_candle::scorer::LastQuery;
use salient_candle::{Model, load};

fn prefill(c: &mut Criterion) {
    let home = std::env::var("SALIENT_HOME").unwrap_or_default();
    let path = format!("{home}/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let Ok(loaded) = load(&path) else {
        eprintln!("SKIPPED: SALIENT_HOME does not hold the model; run `salient fetch smollm2`");
        return;
    };
    let model = loaded.model;
    let theirs = Theirs::new(&model);
    let mut group = c.benchmark_group("prefill");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(5));
    for tokens in [1024, 2048, 4096] {
        let prompt: Vec<u32> = (0..tokens as u32).map(|i| 300 + (i * 7919) % 40_000).collect();
        let run = |schedule: &Schedule| {
            let plan = schedule.plan(&[tokens], model.config().layers).unwrap();
            let prompts = std::slice::from_ref(&prompt);
            model.prefill(prompts, &plan, &LastQuery::default(), 0).unwrap().logits(&model).unwrap()
        };
        let (ours, reference) = (run(&Schedule::dense()), theirs.run(&prompt));
        let difference: Vec<f32> =
            (ours - reference).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(difference.iter().all(|&d| d < 0.02), "the dense runs disagree at {tokens}");

        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("candle-transformers", tokens), |b| {
            b.iter(|| black_box(theirs.run(&prompt)));
        });
        for (name, schedule) in
            [("dense", Schedule::dense()), ("sdtp", Schedule::sdtp()), ("late", Schedule::late())]
        {
            group.bench_function(BenchmarkId::new(name, tokens), |b| {
                b.iter(|| black_box(run(&schedule)));
            });
        }
    }
    group.finish();
}

struct Theirs {
    model: llama::Llama,
    config: llama::Config,
}

impl Theirs {
    fn new(model: &Model) -> Self {
        let c = model.config();
        let config = llama::Config {
            hidden_size: c.hidden,
            intermediate_size: c.ffn,
            vocab_size: c.vocab,
            num_hidden_layers: c.layers,
            num_attention_heads: c.heads,
            num_key_value_heads: c.kv_heads,
            use_flash_attn: false,
            rms_norm_eps: c.rms_eps,
            rope_theta: c.rope_theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: c.context,
            tie_word_embeddings: c.tied,
        };
        let tensors = model.tensors().expect("the model's tensors");
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let model = llama::Llama::load(builder, &config).expect("the same weights load");
        Self { model, config }
    }

    fn run(&self, prompt: &[u32]) -> Tensor {
        let mut cache = llama::Cache::new(true, DType::F32, &self.config, &Device::Cpu).unwrap();
        let tokens = Tensor::new(prompt, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        self.model.forward(&tokens, 0, &mut cache).unwrap()
    }
}

criterion_group!(benches, prefill);
criterion_main!(benches);
