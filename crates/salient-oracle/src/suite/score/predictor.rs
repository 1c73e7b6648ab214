//! Scores of the predictor.

use half::{bf16, f16};
use salient::Element;
use salient::score::PredictorWeights;

use super::{FLOOR, narrow, untouched};
use crate::generate::Random;
use crate::implementation::Score;
use crate::score as oracle;
use crate::suite::{assert_accurate, assert_same_bits, magnitude, wide};
use crate::tensor;

/// Predictors of one and two outputs, with and without a norm, of odd sizes; then of all sizes that
/// kernels divide their work by.
pub fn predictors(on: &impl Score) {
    let shapes = [(1, 1, 1), (3, 5, 4), (70, 17, 9), (64, 16, 65), (576, 144, 33)];
    for (hidden, width, tokens) in shapes {
        for outputs in [1, 2] {
            for norm in [false, true] {
                for scale in [0.01, 1.0, 30.0] {
                    Case { hidden, width, tokens, outputs, norm, scale }.check(on);
                }
            }
        }
    }
    let shapes = [
        (64, 1, 0),
        (128, 32, 127),
        (136, 33, 129),
        (128, 1024, 300),
        (576, 128, 128),
        (136, 4096, 5),
        // Enough tiles for them to be of 256 tokens.
        (16, 4096, 1793),
        (1024, 129, 1),
        (4096, 64, 3),
        (8192, 32, 2),
    ];
    for (i, (hidden, width, tokens)) in shapes.into_iter().enumerate() {
        let (outputs, norm) = (1 + i % 2, i % 3 != 1);
        Case { hidden, width, tokens, outputs, norm, scale: 1.0 }.check(on);
    }
}

/// A token's score depends on its own hidden state alone, to the bit: in another place, among
/// others, beside NaN and infinities.
pub fn tokens_are_alone(on: &impl Score) {
    for (hidden, width, tokens) in [(24, 10, 131), (72, 300, 131)] {
        for norm in [false, true] {
            let case = Case { hidden, width, tokens, outputs: 2, norm, scale: 1.0 };
            case.check_alone::<f32>(on);
            case.check_alone::<f16>(on);
            case.check_alone::<bf16>(on);
        }
    }
}

/// Every documented error, with nothing written.
pub fn bad_predictors(on: &impl Score) {
    let (x, out) = (vec![bf16::ONE; 7 * 8], vec![9f32; 7]);
    let weights = random_weights(8, 4, 1, true);
    let mlp = |x: &[bf16], weights: &PredictorWeights, out: &mut [f32]| on.mlp(x, 8, weights, out);
    assert!(mlp(&x, &weights, &mut out.clone()).is_ok(), "mlp: good input rejected");
    untouched("mlp: short x", &out, |out| mlp(&x[..7 * 8 - 1], &weights, out));
    for outputs in [0, 3] {
        let weights = PredictorWeights {
            w2: vec![1.0; outputs * 4],
            b2: vec![0.0; outputs],
            ..weights.clone()
        };
        untouched("mlp: 0 or 3 outputs", &out, |out| mlp(&x, &weights, out));
    }
    let bad = PredictorWeights { w1: vec![1.0; 31], ..weights.clone() };
    untouched("mlp: short w1", &out, |out| mlp(&x, &bad, out));
    let bad = PredictorWeights { norm: Some((vec![1.0; 7], 1e-5)), ..weights.clone() };
    untouched("mlp: short norm", &out, |out| mlp(&x, &bad, out));
    let bad = PredictorWeights { b1: vec![f32::NAN; 4], ..weights };
    untouched("mlp: NaN in a bias", &out, |out| mlp(&x, &bad, out));
}

/// All that the scores of a predictor depend on.
#[derive(Debug, Clone, Copy)]
struct Case {
    hidden: usize,
    width: usize,
    tokens: usize,
    outputs: usize,
    norm: bool,
    scale: f32,
}

impl Case {
    fn weights(&self) -> PredictorWeights {
        random_weights(self.hidden, self.width, self.outputs, self.norm)
    }

    fn x<T: Element>(&self) -> Vec<T> {
        narrow(&Random::new(self.tokens as u64).normals(self.tokens * self.hidden, self.scale))
    }

    fn check(&self, on: &impl Score) {
        self.check_type::<f32>(on);
        self.check_type::<f16>(on);
        self.check_type::<bf16>(on);
    }

    fn run<T: Element>(&self, on: &impl Score, x: &[T]) -> Vec<f32> {
        let mut out = vec![f32::MAX; x.len() / self.hidden];
        on.mlp(x, self.hidden, &self.weights(), &mut out)
            .unwrap_or_else(|e| panic!("mlp: {:?} {self:?}: {e}", T::DTYPE));
        out
    }

    fn check_type<T: Element>(&self, on: &impl Score) {
        let (x, context) = (self.x::<T>(), || format!("mlp: {:?} {self:?}", T::DTYPE));
        if !on.takes_mlp::<T>(self.hidden, self.width) {
            let mut out = vec![f32::MAX; self.tokens];
            assert!(on.mlp(&x, self.hidden, &self.weights(), &mut out).is_err(), "{}", context());
            return;
        }
        let used = on
            .mlp_weights::<T>(self.hidden, &self.weights())
            .unwrap_or_else(|e| panic!("{}: {e}", context()));
        let exact = oracle::mlp::<f64, T>(&x, self.hidden, &used);
        let plain = tensor::plain!(on.mlp_sums(), R => {
            tensor::exact(&oracle::mlp::<R, T>(&x, self.hidden, &used))
        });
        let floor = FLOOR * on.mlp_sums().luck() * magnitude(&exact).max(1.0);
        assert_accurate(&wide(&self.run(on, &x)), &plain, &exact, floor, &context);
    }

    fn check_alone<T: Element>(&self, on: &impl Score) {
        if !on.takes_mlp::<T>(self.hidden, self.width) {
            return;
        }
        let (x, hidden) = (self.x::<T>(), self.hidden);
        let scores = self.run(on, &x);
        let context = |what: &str| format!("mlp: {what}: {:?} {self:?}", T::DTYPE);

        let reversed: Vec<T> = x.rchunks_exact(hidden).flatten().copied().collect();
        let mut back = self.run(on, &reversed);
        back.reverse();
        assert_same_bits(&back, &scores, &context("tokens in reverse"));
        let last = self.tokens - 1;
        let alone = self.run(on, &x[last * hidden..]);
        assert_same_bits(&alone, &scores[last..], &context("the last token alone"));

        let bad = [(0, f32::NAN), (70, f32::INFINITY), (last, f32::NEG_INFINITY)];
        let mut changed = x.clone();
        for (token, value) in bad {
            changed[token * hidden + token % 11] = T::from_f32(value);
        }
        for (token, (&now, &was)) in self.run(on, &changed).iter().zip(&scores).enumerate() {
            let right = match bad.iter().any(|&(at, _)| at == token) {
                true => !now.is_finite(),
                false => now.to_bits() == was.to_bits(),
            };
            let what = format!("{bad:?} make token {token} {now}, was {was}");
            assert!(right, "{}", context(&what));
        }
    }
}

fn random_weights(hidden: usize, width: usize, outputs: usize, norm: bool) -> PredictorWeights {
    let mut random = Random::new((hidden * width + outputs) as u64);
    let mut weights = |len, fan: usize| random.normals(len, (fan as f32).powf(-0.5));
    PredictorWeights {
        w1: weights(width * hidden, hidden),
        b1: weights(width, 4),
        w2: weights(outputs * width, width),
        b2: weights(outputs, 1),
        norm: norm.then(|| (weights(hidden, 1), 1e-5)),
    }
}
