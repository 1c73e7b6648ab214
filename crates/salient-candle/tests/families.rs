//! Dense logits equal candle-transformers' own models on the same random weights, family by family.

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use common::{RandomWeights, difference, prompt, tiny};
use salient::schedule::Schedule;
use salient_candle::scorer::Position;
use salient_candle::{Family, Model, ModelConfig, RopeScaling};

const TOLERANCE: f32 = 2e-4;

/// Logits after the prompt, and after three more tokens one by one.
fn ours(model: &Model, prompt: &[u32], more: &[u32]) -> Vec<Tensor> {
    let plan = Schedule::dense().plan(&[prompt.len()], model.config().layers).unwrap();
    let mut prefill = model.prefill(&[prompt.to_vec()], &plan, &Position, 1).unwrap();
    let mut logits = vec![prefill.logits(model).unwrap()];
    for &token in more {
        let hidden = model.extend(&[vec![token]], &mut prefill.cache).unwrap();
        logits.push(model.predict(&hidden).unwrap());
    }
    logits
}

/// Runs `theirs(tokens, position)` over the same tokens, and compares.
fn check(
    config: ModelConfig,
    theirs: impl Fn(VarBuilder<'_>) -> Box<dyn FnMut(&Tensor, usize) -> Tensor>,
) {
    for len in [1, 2, 37, 150] {
        let mut weights = RandomWeights::new(len as u64);
        let model = weights.model(config.clone());
        let builder = VarBuilder::from_tensors(weights.tensors, DType::F32, &Device::Cpu);
        let mut theirs = theirs(builder);
        let tokens = prompt(len, config.vocab, 9);
        let more = [5, 77, 3];
        let ours = ours(&model, &tokens, &more);
        let input =
            |tokens: &[u32]| Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let flat = |logits: Tensor| logits.reshape((1, config.vocab)).unwrap();
        let first = flat(theirs(&input(&tokens), 0));
        assert!(difference(&ours[0], &first) < TOLERANCE, "prompt of {len}");
        for (step, &token) in more.iter().enumerate() {
            let next = flat(theirs(&input(&[token]), len + step));
            assert!(difference(&ours[step + 1], &next) < TOLERANCE, "step {step} after {len}");
        }
    }
}

fn llama_config(config: &ModelConfig, scaling: Option<llama::Llama3RopeConfig>) -> llama::Config {
    llama::Config {
        hidden_size: config.hidden,
        intermediate_size: config.ffn,
        vocab_size: config.vocab,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        num_key_value_heads: config.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: config.rms_eps,
        rope_theta: config.rope_theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: scaling,
        max_position_embeddings: config.context,
        tie_word_embeddings: config.tied,
    }
}

fn check_llama(config: ModelConfig, scaling: Option<llama::Llama3RopeConfig>) {
    let theirs = llama_config(&config, scaling);
    check(config, |builder| {
        let model = llama::Llama::load(builder, &theirs).unwrap();
        let mut cache = llama::Cache::new(true, DType::F32, &theirs, &Device::Cpu).unwrap();
        Box::new(move |tokens, position| model.forward(tokens, position, &mut cache).unwrap())
    });
}

#[test]
fn llama() {
    check_llama(tiny(Family::Llama), None);
}

#[test]
fn tied_head_as_in_smollm2() {
    check_llama(ModelConfig { tied: true, rope_theta: 100_000.0, ..tiny(Family::Llama) }, None);
}

#[test]
fn llama3_rope_scaling() {
    let config = ModelConfig {
        rope_scaling: Some(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64,
        }),
        ..tiny(Family::Llama)
    };
    let theirs = llama::Llama3RopeConfig {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
        rope_type: llama::Llama3RopeType::Llama3,
    };
    check_llama(config, Some(theirs));
}

#[test]
fn mistral() {
    let config = tiny(Family::Mistral);
    let theirs = mistral::Config {
        vocab_size: config.vocab,
        hidden_size: config.hidden,
        intermediate_size: config.ffn,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        head_dim: Some(config.head_dim),
        num_key_value_heads: config.kv_heads,
        hidden_act: Activation::Silu,
        max_position_embeddings: config.context,
        rms_norm_eps: config.rms_eps,
        rope_theta: config.rope_theta,
        sliding_window: None,
        use_flash_attn: false,
    };
    check(config, |builder| {
        let mut model = mistral::Model::new(&theirs, builder).unwrap();
        Box::new(move |tokens, position| model.forward(tokens, position).unwrap())
    });
}

#[test]
fn qwen2() {
    let config = tiny(Family::Qwen2);
    let theirs = qwen2::Config {
        vocab_size: config.vocab,
        hidden_size: config.hidden,
        intermediate_size: config.ffn,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        num_key_value_heads: config.kv_heads,
        max_position_embeddings: config.context,
        sliding_window: config.context,
        max_window_layers: config.layers,
        tie_word_embeddings: config.tied,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    check(config, |builder| {
        let mut model = qwen2::ModelForCausalLM::new(&theirs, builder).unwrap();
        Box::new(move |tokens, position| model.forward(tokens, position).unwrap())
    });
}

#[test]
fn qwen3() {
    let config = tiny(Family::Qwen3);
    let theirs = qwen3::Config {
        vocab_size: config.vocab,
        hidden_size: config.hidden,
        intermediate_size: config.ffn,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        head_dim: config.head_dim,
        attention_bias: false,
        num_key_value_heads: config.kv_heads,
        max_position_embeddings: config.context,
        sliding_window: None,
        max_window_layers: config.layers,
        tie_word_embeddings: config.tied,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    check(config, |builder| {
        let mut model = qwen3::ModelForCausalLM::new(&theirs, builder).unwrap();
        Box::new(move |tokens, position| model.forward(tokens, position).unwrap())
    });
}
