//! The marking pass and the masked pass, against a graph of the whole model.

#[path = "../../salient-candle/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor, Var};
use common::{prompt, random_model, tiny};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient::schedule::Schedule;
use salient_candle::{Error, Family, Model, reference};
use salient_lab::train::loss::{Loss, Pairs, keep_ratio, rank};
use salient_lab::train::{LATER, Marks, MaskedText, OutputLoss, Target, Trainee, masked_pass};

const TOKENS: usize = 40;

/// Gradients by the inputs of all blocks, and their attention, from one graph of the whole model.
fn whole_graph(
    model: &Model,
    tokens: &[u32],
    scored: std::ops::Range<usize>,
) -> Vec<(Tensor, Tensor, Tensor)> {
    let positions: Vec<i32> = (0..tokens.len() as i32).collect();
    let mut hidden = reference::embed(model, tokens).unwrap();
    let mut inputs = Vec::new();
    for layer in 0..model.config().layers {
        // A variable of zeros on the way has the gradient of what it is added to.
        let tap = Var::zeros(hidden.shape(), candle_core::DType::F32, &Device::Cpu).unwrap();
        hidden = (&hidden + tap.as_tensor()).unwrap();
        let window = model.config().window_at(layer);
        let mask = reference::causal_mask(&positions, &positions, window).unwrap();
        let (next, attention) =
            reference::block_and_attention(model, layer, &hidden, &positions, &mask, None).unwrap();
        inputs.push((tap, hidden.detach(), attention.detach()));
        hidden = next;
    }
    let logits = reference::logits(model, &hidden).unwrap();
    let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
    let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
    for position in scored.filter(|&position| position > 0) {
        let row = log_p.get(position - 1).unwrap();
        loss = (loss + row.get(tokens[position] as usize).unwrap()).unwrap();
    }
    let grads = loss.backward().unwrap();
    inputs
        .into_iter()
        .map(|(tap, input, attention)| (grads.get(&tap).unwrap().clone(), input, attention))
        .collect()
}

fn floats(tensor: Tensor) -> Vec<f32> {
    tensor.to_vec1().unwrap()
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (token, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs() / largest;
        assert!(error < 1e-4, "{what}, token {token}: {actual}, expected {expected}");
    }
    assert_eq!(actual.len(), expected.len());
}

#[test]
fn marks_are_those_of_one_graph() {
    let mut sliding = tiny(Family::Llama);
    (sliding.sliding_window, sliding.sliding_from) = (Some(12), 1);
    for (config, scored) in
        [(tiny(Family::Llama), 0..TOKENS), (tiny(Family::Qwen3), 31..TOKENS), (sliding, 0..TOKENS)]
    {
        let model = random_model(config, 3);
        let tokens = prompt(TOKENS, model.config().vocab, 5);
        let layers = [1, 2, 5];
        let marks = Marks::new(&model, &tokens, scored.clone(), &layers).unwrap();
        let whole = whole_graph(&model, &tokens, scored.clone());
        for layer in layers {
            let (gradient, input, _) = &whole[layer];
            let product = (gradient * input).unwrap();
            let signed = product.sum(D::Minus1).unwrap();
            let norm =
                |x: &Tensor| floats(x.sqr().unwrap().sum(D::Minus1).unwrap().sqrt().unwrap());
            let expect = |target: Target, expected: &[f32]| {
                let what = format!("{target} at layer {layer}");
                assert_close(marks.get(layer, target).unwrap(), expected, &what);
            };
            expect(Target::Saliency, &floats(signed.abs().unwrap()));
            expect(Target::SignedSaliency, &floats(signed));
            expect(Target::SaliencyNorm, &norm(&product));
            expect(Target::GradientNorm, &norm(gradient));
            let above: Vec<Vec<Vec<Vec<f32>>>> =
                whole[layer..].iter().map(|(.., a)| a.to_vec3().unwrap()).collect();
            let first = scored.start.saturating_sub(1);
            let by_head = |key: usize| -> Vec<Vec<f32>> {
                let late = first.max(key + LATER);
                let heads = above.iter().flatten();
                heads.map(|head| head.iter().skip(late).map(|q| q[key]).collect()).collect()
            };
            let received = |key: usize| by_head(key).concat();
            let mean = |all: Vec<f32>| all.iter().sum::<f32>() / all.len().max(1) as f32;
            let max = |all: Vec<f32>| all.into_iter().fold(0.0, f32::max);
            let means: Vec<f32> = (0..TOKENS).map(|key| mean(received(key))).collect();
            let maxima: Vec<f32> = (0..TOKENS).map(|key| max(received(key))).collect();
            expect(Target::MeanAttention, &means);
            expect(Target::MaxAttention, &maxima);
            let by_head = |key: usize| mean(by_head(key).into_iter().map(max).collect());
            let head_maxima: Vec<f32> = (0..TOKENS).map(by_head).collect();
            expect(Target::HeadAttention, &head_maxima);
        }
        assert_eq!(marks.get(0, Target::Saliency), None);
    }
}

#[test]
fn a_text_of_which_nothing_is_scored_has_no_worth() {
    let model = random_model(tiny(Family::Llama), 3);
    let tokens = prompt(TOKENS, model.config().vocab, 5);
    // Nothing precedes the first token.
    for scored in [0..1, 0..0, 7..7, TOKENS..TOKENS] {
        let marks = Marks::new(&model, &tokens, scored, &[2]).unwrap();
        for target in Target::ALL {
            assert_eq!(marks.get(2, target).unwrap(), [0.0; TOKENS], "{target}");
        }
    }
}

#[test]
fn bad_texts_and_layers_are_refused() {
    let model = random_model(tiny(Family::Llama), 3);
    let marks = |tokens: &[u32], layers: &[usize]| Marks::new(&model, tokens, 0..0, layers);
    assert!(matches!(marks(&[], &[2]), Err(Error::EmptyPrompt { sequence: 0 })));
    assert!(matches!(marks(&[1000], &[2]), Err(Error::UnknownToken { id: 1000, .. })));
    assert!(marks(&[1], &[6]).unwrap_err().to_string().contains("no layer 6: the model has 6"));
}

#[test]
fn targets_have_names_that_are_listed() {
    for target in Target::ALL {
        assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
    }
    let message = "salience".parse::<Target>().unwrap_err().to_string();
    for target in Target::ALL {
        assert!(message.contains(target.name()), "{message}");
    }
}

const OUTPUT: OutputLoss = OutputLoss { cross_entropy: 1.0, distillation: 0.5, temperature: 0.7 };
const RATIO: f64 = 0.6;

fn predictors(model: &Model, layers: &[usize]) -> BTreeMap<usize, Trainee> {
    let trainee = |layer: usize| Trainee::new(model, 5, layer == 1, layer as u64).unwrap();
    layers.iter().map(|&layer| (layer, trainee(layer))).collect()
}

/// Targets that differ from stage to stage.
fn target(layer: usize, token: usize) -> f64 {
    ((token * 7 + layer * 13) % 11) as f64
}

fn stage_loss(layer: usize, tokens: &[usize], scores: &[f64], mask: &[f64]) -> [Loss; 2] {
    let targets: Vec<f64> = tokens.iter().map(|&token| target(layer, token)).collect();
    [rank(scores, &targets, Pairs::Mean), keep_ratio(mask, RATIO)]
}

/// What [`masked_pass`] does, in one graph: the loss as a tensor, and the shares alive.
fn masked_graph(
    model: &Model,
    predictors: &BTreeMap<usize, Trainee>,
    text: &MaskedText<'_>,
    random: &mut ChaCha8Rng,
) -> (Tensor, Vec<f64>) {
    let cpu = &Device::Cpu;
    let tokens = text.tokens.len();
    let positions: Vec<i32> = (0..tokens as i32).collect();
    let mask = reference::causal_mask(&positions, &positions, None).unwrap();
    let mut keep = Tensor::ones(tokens, DType::F32, cpu).unwrap();
    let mut hidden = reference::embed(model, text.tokens).unwrap();
    let mut dense = hidden.clone();
    let mut loss = Tensor::new(0f32, cpu).unwrap();
    let mut alive = Vec::new();
    for layer in 0..model.config().layers {
        dense = reference::block(model, layer, &dense, &positions, &mask).unwrap();
        if let Some((_, stage)) = text.plan.stage_at(layer) {
            let edges = stage.edges[0];
            let free = |t: &usize| *t >= edges.sinks && *t < tokens - edges.recent;
            let noise: Vec<f32> = (0..tokens)
                .map(|_| random.random_range(f64::EPSILON..1.0))
                .map(|uniform: f64| (uniform / (1.0 - uniform)).ln() as f32)
                .collect();
            let came: Vec<f32> = keep.to_vec1().unwrap();
            let ranked: Vec<usize> =
                (0..tokens).filter(free).filter(|&token| came[token] == 1.0).collect();
            let scores = predictors[&layer].scores(&hidden).unwrap();
            let soft = (&scores + Tensor::new(noise, cpu).unwrap()).unwrap() / OUTPUT.temperature;
            let soft = candle_nn::ops::sigmoid(&soft.unwrap()).unwrap();
            let mut straight = Vec::new();
            for token in 0..tokens {
                let (soft, before) = (soft.get(token).unwrap(), keep.get(token).unwrap());
                let hard = f32::from(soft.to_scalar::<f32>().unwrap() >= 0.5);
                let there = f64::from(hard - soft.to_scalar::<f32>().unwrap());
                let one = (soft + there).unwrap();
                let kept =
                    if free(&token) { (one * before).unwrap() } else { one.ones_like().unwrap() };
                straight.push(kept);
            }
            keep = Tensor::stack(&straight, 0).unwrap();
            // Pairs by the formula, the ratio by its own.
            let (mut pairs, mut count) = (Tensor::new(0f32, cpu).unwrap(), 0f64);
            for (i, &left) in ranked.iter().enumerate() {
                for &right in &ranked[i + 1..] {
                    let order = target(layer, left) - target(layer, right);
                    let order = if order == 0.0 { 0.0 } else { order.signum() };
                    let margin = scores.get(left).unwrap() - scores.get(right).unwrap();
                    let margin = (margin.unwrap() * -order).unwrap();
                    pairs =
                        (pairs + (margin.exp().unwrap() + 1.0).unwrap().log().unwrap()).unwrap();
                    count += 1.0;
                }
            }
            let kept: Vec<Tensor> = ranked.iter().map(|&token| keep.get(token).unwrap()).collect();
            let share = Tensor::stack(&kept, 0).unwrap().mean_all().unwrap();
            let excess = (share - RATIO).unwrap().sqr().unwrap();
            loss = ((loss + (pairs / count).unwrap()).unwrap() + excess).unwrap();
            alive.push(keep.mean_all().unwrap().to_scalar::<f32>().unwrap().into());
        }
        hidden =
            reference::block_and_attention(model, layer, &hidden, &positions, &mask, Some(&keep))
                .unwrap()
                .0;
    }
    let log = |hidden: &Tensor| {
        let logits = reference::logits(model, hidden).unwrap();
        candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap()
    };
    let (student, teacher) = (log(&hidden), log(&dense).detach());
    let last: Vec<f32> = keep.to_vec1().unwrap();
    let (mut judged, mut rows) = (Tensor::new(0f32, cpu).unwrap(), 0f64);
    let predicts = text.scored.start - 1..text.scored.end - 1;
    for (row, &alive) in last.iter().enumerate().filter(|(row, _)| predicts.contains(row)) {
        if alive == 1.0 {
            let (student, teacher) = (student.get(row).unwrap(), teacher.get(row).unwrap());
            let likely = student.get(text.tokens[row + 1] as usize).unwrap();
            let apart = (teacher.exp().unwrap() * (teacher - student).unwrap()).unwrap();
            let apart = (apart.sum_all().unwrap() * OUTPUT.distillation).unwrap();
            judged = ((judged - likely).unwrap() + apart).unwrap();
            rows += 1.0;
        }
    }
    assert!(rows > 5.0, "too few rows are left to compare");
    ((loss + (judged / rows).unwrap()).unwrap(), alive)
}

#[test]
fn the_masked_pass_is_that_of_one_graph() {
    let model = random_model(tiny(Family::Llama), 8);
    let tokens = prompt(TOKENS, model.config().vocab, 6);
    let schedule: Schedule = "1=0.8,3=0.5,4=0.3@sinks=2,local=0.1".parse().unwrap();
    let plan = schedule.plan(&[TOKENS], model.config().layers).unwrap();
    let text = MaskedText { tokens: &tokens, scored: 4..TOKENS, plan: &plan };
    let predictors = predictors(&model, &[1, 3, 4]);
    let random = || ChaCha8Rng::seed_from_u64(2);
    let pass =
        masked_pass(&model, &predictors, &text, &OUTPUT, &stage_loss, &mut random()).unwrap();
    let (loss, alive) = masked_graph(&model, &predictors, &text, &mut random());
    assert_eq!(pass.alive, alive);
    assert!(alive[0] < 1.0 && alive[2] < alive[0], "{alive:?}");
    let expected = f64::from(loss.to_scalar::<f32>().unwrap());
    let value = pass.cross_entropy + OUTPUT.distillation * pass.distillation + pass.stages;
    assert!((value - expected).abs() < 1e-4 * expected, "{value}, expected {expected}");
    let grads = loss.backward().unwrap();
    for (layer, trainee) in &predictors {
        for ((part, var), gradient) in trainee.parts().zip(&pass.gradients[layer]) {
            let what = format!("{part} of layer {layer}");
            let expected = floats(grads.get(var).unwrap().flatten_all().unwrap());
            assert_close(&floats(gradient.flatten_all().unwrap()), &expected, &what);
        }
    }
}

#[test]
fn masks_that_keep_all_change_nothing() {
    let model = random_model(tiny(Family::Llama), 8);
    let positions: Vec<i32> = (0..TOKENS as i32).collect();
    let mask = reference::causal_mask(&positions, &positions, None).unwrap();
    let hidden = reference::embed(&model, &prompt(TOKENS, 101, 1)).unwrap();
    let keep = Tensor::ones(TOKENS, DType::F32, &Device::Cpu).unwrap();
    let kept = reference::block_and_attention(&model, 0, &hidden, &positions, &mask, Some(&keep));
    let plain = reference::block(&model, 0, &hidden, &positions, &mask).unwrap();
    assert!(common::difference(&kept.unwrap().0, &plain) < 1e-4);
}

#[test]
fn plans_and_predictors_that_do_not_fit_are_refused() {
    let model = random_model(tiny(Family::Llama), 8);
    let tokens = prompt(TOKENS, 101, 6);
    let schedule: Schedule = "1=0.8,3=0.5".parse().unwrap();
    let refused = |tokens: &[u32], length: usize, layers: &[usize]| {
        let plan = schedule.plan(&[length], 6).unwrap();
        let text = MaskedText { tokens, scored: 0..tokens.len(), plan: &plan };
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let predictors = predictors(&model, layers);
        masked_pass(&model, &predictors, &text, &OUTPUT, &stage_loss, &mut random)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&tokens, TOKENS + 1, &[1, 3]).contains("lengths [41], the text of 40"));
    assert!(refused(&tokens, TOKENS, &[1]).contains("layer 3 has no predictor"));
    assert!(refused(&[], 0, &[1, 3]).contains("empty"));
}
