//! SmolLM2-135M-Instruct answers a question on a CUDA device with the tokens that it answers with
//! on the host, dense and pruned, by steps and by a captured graph:
//! `cargo run --release --features cuda --example cuda_answer`, after `salient fetch smollm2`.
//!
//! On the software GPU that takes minutes, hence no test: `scripts/candle-software-gpu --generate`.

use std::path::Path;

use candle_core::{DType, Device};
use salient::schedule::{Plan, Schedule};
use salient_candle::scorer::KeyNorm;
use salient_candle::{GenerateOptions, Message, Model, Result, Sampling, generate, load};

const MODEL: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
/// As many tokens as the answer has. What would follow it is no clear choice.
const TOKENS: usize = 7;

fn main() -> Result<()> {
    let home = std::env::var_os("SALIENT_HOME").expect("SALIENT_HOME says where the model is");
    let loaded = load(Path::new(&home).join(MODEL))?;
    let device = Device::new_cuda(0)?;
    let question = Message::user("What is the capital of France?");
    let prompt = loaded.tokenizer.encode_chat(&[question])?;
    for schedule in [Schedule::dense(), "10=0.7".parse()?] {
        let plan = schedule.plan(&[prompt.len()], loaded.model.config().layers)?;
        let expected = by_steps(&loaded.model, &prompt, &plan)?;
        println!("{schedule}: {}", loaded.tokenizer.decode(&expected)?);
        for dtype in [DType::F32, DType::F16] {
            let model = loaded.model.to_device(&device, dtype)?;
            // In half precision, steps are captured into a graph.
            let tokens = match dtype {
                DType::F32 => by_steps(&model, &prompt, &plan)?,
                _ => by_decoder(&model, &prompt, &plan)?,
            };
            let text = loaded.tokenizer.decode(&tokens)?;
            assert_eq!(tokens, expected, "{}, {schedule}: {text}", dtype.as_str());
            println!("    the same in {} on the device", dtype.as_str());
        }
    }
    Ok(())
}

fn by_steps(model: &Model, prompt: &[u32], plan: &Plan) -> Result<Vec<u32>> {
    let options =
        GenerateOptions { max_tokens: TOKENS, stop: vec![], sampling: Sampling::default() };
    let prompt = [prompt.to_vec()];
    let answer = generate(model, &prompt, plan, &mut KeyNorm, &options, |_, _| true)?;
    Ok(answer.tokens.concat())
}

fn by_decoder(model: &Model, prompt: &[u32], plan: &Plan) -> Result<Vec<u32>> {
    let prefill = model.prefill(&[prompt.to_vec()], plan, &KeyNorm, TOKENS)?;
    let mut tokens = prefill.logits(model)?.argmax(1)?.to_vec1()?;
    let mut decoder = model.decoder(prefill.cache, &tokens, TOKENS - 1)?;
    while tokens.len() < TOKENS {
        tokens.extend(decoder.step()?);
    }
    Ok(tokens)
}
