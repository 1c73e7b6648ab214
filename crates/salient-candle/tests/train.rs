//! The marking pass, against a graph of the whole model.

mod common;

use candle_core::{D, Device, Tensor, Var};
use common::{prompt, random_model, tiny};
use salient_candle::train::{LATER, Marks, Target};
use salient_candle::{Error, Family, Model, reference};

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
            reference::block_and_attention(model, layer, &hidden, &positions, &mask).unwrap();
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
        let whole = whole_graph(&model, &tokens, scored);
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
            let received = |key: usize| -> Vec<f32> {
                let heads = above.iter().flatten();
                heads.flat_map(|head| head.iter().skip(key + LATER).map(move |q| q[key])).collect()
            };
            let mean = |all: Vec<f32>| all.iter().sum::<f32>() / all.len().max(1) as f32;
            let max = |all: Vec<f32>| all.into_iter().fold(0.0, f32::max);
            let means: Vec<f32> = (0..TOKENS).map(|key| mean(received(key))).collect();
            let maxima: Vec<f32> = (0..TOKENS).map(|key| max(received(key))).collect();
            expect(Target::MeanAttention, &means);
            expect(Target::MaxAttention, &maxima);
        }
        assert_eq!(marks.get(0, Target::Saliency), None);
    }
}

#[test]
fn a_text_of_which_nothing_is_scored_has_no_saliency() {
    let model = random_model(tiny(Family::Llama), 3);
    let tokens = prompt(TOKENS, model.config().vocab, 5);
    // Nothing precedes the first token.
    for scored in [0..1, 7..7, TOKENS..TOKENS] {
        let marks = Marks::new(&model, &tokens, scored, &[2]).unwrap();
        assert_eq!(marks.get(2, Target::GradientNorm).unwrap(), [0.0; TOKENS]);
        assert!(marks.get(2, Target::MeanAttention).unwrap()[0] > 0.0);
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
