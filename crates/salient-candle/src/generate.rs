//! Generation: a pruned prefill, then one token at a time.

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use salient::schedule::Plan;

use crate::cache::KvCache;
use crate::error::Result;
use crate::forward::Prefill;
use crate::model::Model;
use crate::sample::{Sampler, Sampling};
use crate::scorer::Scorer;

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// The most tokens to generate per sequence.
    pub max_tokens: usize,
    /// Tokens that end a sequence; not part of the answer.
    pub stop: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Generated tokens, and what they took.
#[derive(Debug)]
pub struct Generation {
    /// The tokens of every sequence, without the one that stopped it.
    pub tokens: Vec<Vec<u32>>,
    /// The prefill, its cache grown by the tokens.
    pub prefill: Prefill,
    /// Time from the prompt to the first token.
    pub first_token: Duration,
    /// Time of the decode steps after the first token.
    pub decode: Duration,
    /// Decode steps after the first token.
    pub steps: usize,
}

impl Generation {
    /// Decode steps per second, 0 without any.
    pub fn steps_per_second(&self) -> f64 {
        let seconds = self.decode.as_secs_f64();
        if seconds > 0.0 { self.steps as f64 / seconds } else { 0.0 }
    }
}

/// Answers prompts. `on_token(sequence, token)` sees every token as it comes, and ends generation
/// by returning `false`.
///
/// # Errors
/// Those of [`Model::prefill`], and of impossible sampling options.
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    plan: &Plan,
    scorer: &mut dyn Scorer,
    options: &GenerateOptions,
    on_token: impl FnMut(usize, u32) -> bool,
) -> Result<Generation> {
    // Impossible options are found before the work.
    Sampler::new(options.sampling)?;
    let start = Instant::now();
    scorer.prepare(model, prompts, plan)?;
    let mut prefill = model.prefill(prompts, plan, scorer, options.max_tokens)?;
    let logits = prefill.logits(model)?;
    let read = start.elapsed();
    let answer = answer(model, &logits, &mut prefill.cache, options, on_token)?;
    let Answer { tokens, first_token, decode, steps } = answer;
    Ok(Generation { tokens, prefill, first_token: read + first_token, decode, steps })
}

/// Tokens that go on from a cache, and what they took.
#[derive(Debug)]
pub struct Answer {
    /// The tokens of every sequence, without the one that stopped it.
    pub tokens: Vec<Vec<u32>>,
    /// Time to the first token.
    pub first_token: Duration,
    /// Time of the decode steps after the first token.
    pub decode: Duration,
    /// Decode steps after the first token.
    pub steps: usize,
}

/// Goes on from a cache whose last tokens predict `logits`, `[batch, vocab]`, and appends to it.
/// `on_token` is as for [`generate`].
///
/// # Errors
/// Those of [`Model::extend`], and of impossible sampling options.
pub fn answer(
    model: &Model,
    logits: &Tensor,
    cache: &mut KvCache,
    options: &GenerateOptions,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Result<Answer> {
    let start = Instant::now();
    let batch = cache.batch();
    let mut samplers = (0..batch as u64)
        .map(|sequence| {
            let seed = options.sampling.seed.wrapping_add(sequence);
            Sampler::new(Sampling { seed, ..options.sampling })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut logits = rows(logits)?;
    let mut tokens = vec![Vec::new(); batch];
    let mut open = vec![options.max_tokens > 0; batch];
    let mut first_token = None;
    let mut steps = 0;
    loop {
        let mut step = vec![Vec::new(); batch];
        for (sequence, (sampler, logits)) in samplers.iter_mut().zip(&logits).enumerate() {
            if !open[sequence] {
                continue;
            }
            let token = sampler.next(logits)?;
            let wanted = !options.stop.contains(&token) && {
                tokens[sequence].push(token);
                on_token(sequence, token)
            };
            open[sequence] = wanted && tokens[sequence].len() < options.max_tokens;
            if open[sequence] {
                step[sequence].push(token);
            }
        }
        first_token.get_or_insert_with(|| start.elapsed());
        if !open.contains(&true) {
            break;
        }
        let hidden = model.extend(&step, cache)?;
        let mut fresh = rows(&model.predict(&hidden)?)?.into_iter();
        for (logits, open) in logits.iter_mut().zip(&open) {
            if *open {
                *logits = fresh.next().unwrap_or_default();
            }
        }
        steps += 1;
    }
    let first_token = first_token.unwrap_or_default();
    let decode = start.elapsed().saturating_sub(first_token);
    Ok(Answer { tokens, first_token, decode, steps })
}

fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
}
