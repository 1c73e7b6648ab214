//! The real model: golden values of the dequantised SmolLM2-135M-Instruct, a dense needle, and its
//! pruned twin. Needs `salient fetch test`; skips loudly without.

mod common;

use std::path::Path;
use std::sync::OnceLock;

use candle_core::{D, Device, Tensor};
use common::{asset, random_model, tiny};
use salient::schedule::Schedule;
use salient_candle::scorer::{LastQuery, Position, Scorer};
use salient_candle::{Family, GenerateOptions, Loaded, Message, Preset, Sampling, generate, load};
use salient_lab::train::{Marks, RankMetrics, Target};

const GGUF: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const SPEECH: &str = "texts/sotu/1981_jimmy_carter_d.txt";
const ESSAYS: &str = "texts/essays.json";

fn smollm2(path: &Path) -> &'static Loaded {
    static MODEL: OnceLock<Loaded> = OnceLock::new();
    MODEL.get_or_init(|| load(path).expect("the fetched model loads"))
}

fn speech_tokens(loaded: &Loaded) -> Option<Vec<u32>> {
    let text = std::fs::read_to_string(asset(SPEECH)?).unwrap();
    Some(loaded.tokenizer.encode(&text).unwrap())
}

#[test]
fn weights_are_dequantised_exactly() {
    let Some(path) = asset(GGUF) else { return };
    let mut file = std::fs::File::open(path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    let mut tensor = |name: &str| {
        content.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap()
    };
    let q: Vec<f32> = tensor("blk.0.attn_q.weight").flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(q[..4], [-0.096_313_48, 0.157_348_63, -0.096_313_48, -0.730_468_75]);
    let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
    assert!((sum(&q) - 59.22322).abs() < 1e-3, "{}", sum(&q));
    let down: Vec<f32> = tensor("blk.3.ffn_down.weight").flatten_all().unwrap().to_vec1().unwrap();
    assert!((sum(&down) - 81.66989).abs() < 1e-3, "{}", sum(&down));
}

#[test]
fn token_ids_are_exact() {
    let Some(path) = asset(GGUF) else { return };
    let Some(ids) = speech_tokens(smollm2(&path)) else { return };
    assert_eq!(
        ids[..16],
        [2068, 260, 5061, 282, 260, 1797, 1918, 42, 378, 2888, 282, 260, 4353, 314, 2139, 30]
    );
    let checksum: u64 = ids[..1024].iter().zip(1..).map(|(&id, i)| i * u64::from(id)).sum();
    assert_eq!(checksum, 2_269_856_321);
}

#[test]
fn perplexity_and_next_tokens_are_golden() {
    let Some(path) = asset(GGUF) else { return };
    let loaded = smollm2(&path);
    let Some(ids) = speech_tokens(loaded) else { return };
    let run = |len: usize| {
        let plan = Schedule::dense().plan(&[len], 30).unwrap();
        let prefill = loaded.model.prefill(&[ids[..len].to_vec()], &plan, &Position, 0).unwrap();
        loaded.model.predict(&prefill.hidden).unwrap()
    };
    let logits = run(1024).narrow(0, 0, 1023).unwrap();
    let targets = Tensor::new(&ids[1..1024], &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
    let picked: Vec<f32> =
        log_p.gather(&targets, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let nll = -picked.iter().map(|&v| f64::from(v)).sum::<f64>() / 1023.0;
    assert!((nll.exp() - 21.2448).abs() < 0.001, "perplexity {}", nll.exp());

    let last: Vec<f32> = run(256).get(255).unwrap().to_vec1().unwrap();
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
    assert_eq!(order[..4], [1867, 746, 808, 1791]);
    for (&id, golden) in order.iter().zip([16.637, 16.517, 16.003, 15.741]) {
        assert!((last[id] - golden).abs() < 2e-3, "{id}: {} against {golden}", last[id]);
    }
}

/// Essay text of about `tokens` tokens with one fact in it, as a chat prompt with the answer's
/// beginning as RULER gives it, and the fact's number.
fn needle(loaded: &Loaded, essays: &str, tokens: usize, item: usize) -> (Vec<u32>, String) {
    let number = (1_234_567 + item * 756_839).to_string();
    let city = ["Lisbon", "Oslo", "Quito", "Cairo", "Hanoi"][item % 5];
    let start = 40_000 + item * 30_000;
    let text: String = essays.chars().skip(start).take(tokens * 4 - 600).collect();
    let sentences: Vec<&str> = text.split_inclusive(". ").collect();
    let at = 1 + (sentences.len() - 2) * (2 * item + 1) / 10;
    let context = format!(
        "{}One of the special magic numbers for {city} is: {number}. {}",
        sentences[..at].concat(),
        sentences[at..].concat()
    );
    let prompt = format!(
        "Some special magic numbers are hidden within the following text. Make sure to memorize it. \
         I will quiz you about the numbers afterwards.\n{context}\nWhat is the special magic number \
         for {city} mentioned in the provided text?"
    );
    let mut tokens = loaded.tokenizer.encode_chat(&[Message::user(prompt)]).unwrap();
    let answer = format!("The special magic number for {city} mentioned in the provided text is");
    tokens.extend(loaded.tokenizer.encode_more(&answer).unwrap());
    (tokens, number)
}

/// How many of five needles at depths 10% to 90% come back.
fn found(schedule: &Schedule, scorer: &mut dyn Scorer) -> Option<usize> {
    let loaded = smollm2(&asset(GGUF)?);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(asset(ESSAYS)?).unwrap()).unwrap();
    let essays = json["text"].as_str().unwrap();
    let options = GenerateOptions {
        max_tokens: 32,
        stop: loaded.tokenizer.stop().to_vec(),
        sampling: Sampling::default(),
    };
    let mut right = 0;
    for item in 0..5 {
        let (prompt, number) = needle(loaded, essays, 1024, item);
        assert!((800..1300).contains(&prompt.len()), "{} tokens", prompt.len());
        let plan = schedule.plan(&[prompt.len()], 30).unwrap();
        let answer =
            generate(&loaded.model, &[prompt], &plan, scorer, &options, |_, _| true).unwrap();
        let text = loaded.tokenizer.decode(&answer.tokens[0]).unwrap();
        eprintln!("wanted {number}: {text}");
        right += usize::from(text.contains(&number));
    }
    Some(right)
}

#[test]
fn a_dense_run_finds_every_needle() {
    let Some(right) = found(&Schedule::dense(), &mut Position) else { return };
    assert_eq!(right, 5);
}

#[test]
fn a_pruned_run_finds_every_needle() {
    let Some(right) = found(&Schedule::late(), &mut LastQuery::default()) else { return };
    assert_eq!(right, 5);
}

#[test]
fn dropping_the_middle_loses_the_needle() {
    // Sinks and recent tokens alone cannot answer: what the test above finds, the scorer found.
    let Some(right) = found(&Schedule::late(), &mut Position) else { return };
    assert!(right <= 2, "{right} of 5");
}

/// Predictors that come with the crate order tokens of a text that they were not trained on.
#[test]
fn shipped_predictors_foresee_what_they_were_trained_towards() {
    let (Some(path), Some(essays)) = (asset(GGUF), asset(ESSAYS)) else { return };
    let Loaded { model, tokenizer, .. } = smollm2(&path);
    let essays: serde_json::Value =
        serde_json::from_slice(&std::fs::read(essays).unwrap()).unwrap();
    let text: String = essays["text"].as_str().unwrap().chars().skip(500_000).take(2500).collect();
    let mut tokens = tokenizer.encode(&text).unwrap();
    tokens.truncate(384);
    let asked = tokens.len();
    let question = "\n\nQuestion: What does the author think that people should do?\nAnswer:";
    tokens.extend(tokenizer.encode_more(question).unwrap());
    let layers = [4, 7];
    for (preset, target, tokens, scored, least) in [
        (Preset::Sdtp, Target::Saliency, &tokens[..asked], 0, 0.57),
        // Pooled: not the order that the predictors were trained for, but near it.
        (Preset::SalientAgnostic, Target::HeadAttention, &tokens[..], asked, 0.6),
    ] {
        assert!(preset.knows(model).unwrap());
        let marks = Marks::new(model, tokens, scored..tokens.len(), &layers).unwrap();
        for layer in layers {
            let schedule: Schedule = format!("{layer}=0.5").parse().unwrap();
            let plan = schedule.plan(&[tokens.len()], model.config().layers).unwrap();
            let scorer = preset.scorer(model, &[schedule]).unwrap();
            let prefill = model.prefill(&[tokens.to_vec()], &plan, scorer.as_ref(), 0).unwrap();
            let free = 4..tokens.len() - tokens.len().div_ceil(10);
            let scores: Vec<f32> = prefill.stages[0].scores.to_vec1().unwrap();
            let worth = &marks.get(layer, target).unwrap()[free.clone()];
            let metrics = RankMetrics::new(&scores[free.clone()], worth, free.len() / 2);
            assert!(metrics.pair_accuracy > least, "{preset:?} at {layer}: {metrics:?}");
        }
    }
    let beyond: Schedule = "5=0.5".parse().unwrap();
    for preset in Preset::ALL {
        let error = preset.scorer(model, std::slice::from_ref(&beyond)).err().unwrap().to_string();
        assert!(error.contains("5=0.5") && error.contains("layer 5"), "{error}");
    }
}

#[test]
fn shipped_predictors_are_refused_by_other_models() {
    let model = random_model(tiny(Family::Llama), 1);
    for preset in Preset::ALL {
        assert!(!preset.knows(&model).unwrap());
        // Their shapes are others too.
        let error = preset.scorer(&model, &[]).err().unwrap();
        assert!(matches!(error, salient_candle::Error::OtherModel { .. }), "{error}");
        assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        let named = preset.schedule().to_string() == preset.name();
        assert!(named || preset == Preset::SalientAgnostic, "{preset:?}");
    }
    let error = "other".parse::<Preset>().unwrap_err().to_string();
    assert!(
        error.contains("other") && error.contains("sdtp, salient, salient-agnostic"),
        "{error}"
    );
}
