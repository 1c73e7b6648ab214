//! Answers that go on from a cache.

mod common;

use candle_core::Tensor;
use salient::Ragged;
use salient::schedule::Schedule;
use salient_candle::scorer::{KeyNorm, Position};
use salient_candle::{Answer, Error, Family, GenerateOptions, Model, Prefill, Sampling};
use salient_candle::{answer, generate};

use common::{prompt, random_model, tiny};

fn options(max_tokens: usize, stop: Vec<u32>) -> GenerateOptions {
    GenerateOptions { max_tokens, stop, sampling: Sampling::default() }
}

/// Prefills, and asks of a copy of the cache.
fn ask(model: &Model, prefill: &Prefill, more: &[Vec<u32>], max_tokens: usize) -> Answer {
    let mut cache = prefill.cache.copy().unwrap();
    let hidden = model.extend(more, &mut cache).unwrap();
    let lens: Vec<usize> = more.iter().map(Vec::len).collect();
    let rows = Ragged::from_lens(&lens).unwrap();
    let last: Vec<u32> = rows.spans().map(|span| span.end() as u32 - 1).collect();
    let last = Tensor::new(last, hidden.device()).unwrap();
    let logits = model.predict(&hidden.index_select(&last, 0).unwrap()).unwrap();
    answer(model, &logits, &mut cache, &options(max_tokens, vec![]), |_, _| true).unwrap()
}

#[test]
fn a_prompt_in_two_parts_is_answered_like_the_whole() {
    let config = tiny(Family::Llama);
    let model = random_model(config.clone(), 1);
    let whole = [prompt(40, config.vocab, 2), prompt(23, config.vocab, 3)];
    let plan = Schedule::dense().plan(&[40, 23], config.layers).unwrap();
    let expected =
        generate(&model, &whole, &plan, &mut Position, &options(9, vec![]), |_, _| true).unwrap();
    let cuts = [25, 4];
    let (begun, rest): (Vec<_>, Vec<_>) = whole
        .iter()
        .zip(cuts)
        .map(|(tokens, at)| (tokens[..at].to_vec(), tokens[at..].to_vec()))
        .unzip();
    let plan = Schedule::dense().plan(&cuts, config.layers).unwrap();
    let prefill = model.prefill(&begun, &plan, &Position, 0).unwrap();
    let found = ask(&model, &prefill, &rest, 9);
    assert_eq!(found.tokens, expected.tokens);
    assert_eq!((found.steps, expected.steps), (8, 8));
}

/// A question asked in between changes nothing for the next, on a pruned cache too.
#[test]
fn questions_on_copies_of_a_cache_know_nothing_of_each_other() {
    let config = tiny(Family::Qwen3);
    let model = random_model(config.clone(), 4);
    let plan = "2=0.5,4=0.25".parse::<Schedule>().unwrap().plan(&[60], config.layers).unwrap();
    let prefill = model.prefill(&[prompt(60, config.vocab, 5)], &plan, &KeyNorm, 20).unwrap();
    let questions = [6, 7].map(|seed| [prompt(11, config.vocab, seed)]);
    let first = ask(&model, &prefill, &questions[0], 12);
    let second = ask(&model, &prefill, &questions[1], 12);
    assert_ne!(first.tokens, second.tokens);
    assert_eq!(ask(&model, &prefill, &questions[0], 12).tokens, first.tokens);
    assert_eq!(prefill.cache.next_positions(), [60]);
}

#[test]
fn a_stop_token_ends_an_answer_and_impossible_sampling_is_refused_before_the_work() {
    let config = tiny(Family::Llama);
    let model = random_model(config.clone(), 1);
    let prompts = [prompt(30, config.vocab, 8)];
    let plan = Schedule::dense().plan(&[30], config.layers).unwrap();
    let run = |options: &GenerateOptions, prompts: &[Vec<u32>]| {
        generate(&model, prompts, &plan, &mut Position, options, |_, _| true)
    };
    let whole = run(&options(6, vec![]), &prompts).unwrap().tokens.remove(0);
    let stop = whole[3];
    let end = whole.iter().position(|&token| token == stop).unwrap();
    let cut = run(&options(6, vec![stop]), &prompts).unwrap();
    assert_eq!(cut.tokens[0], whole[..end]);
    assert!(run(&options(0, vec![]), &prompts).unwrap().tokens[0].is_empty());

    // Were the prompt looked at first, its token would be what is wrong.
    let sampling = Sampling { temperature: -1.0, ..Sampling::default() };
    let impossible = GenerateOptions { sampling, ..options(6, vec![]) };
    let unknown = [vec![9999; 30]];
    let refused = run(&options(6, vec![]), &unknown).unwrap_err();
    assert!(matches!(refused, Error::UnknownToken { .. }), "{refused}");
    let refused = run(&impossible, &unknown).unwrap_err();
    assert!(matches!(refused, Error::Sampling { .. }), "{refused}");
}
