//! **attend**, one row at a time.

use salient::Element;

use crate::real::{Real, dot, real};

/// What one query row of one head reads: its output, and the log of the sum of exponentials of its
/// scaled logits. `seen` holds the key and value of every token it sees; none: 0 and -infinity.
pub fn row<R: Real, T: Element>(
    query: &[T],
    seen: &[(&[T], &[T])],
    dim: usize,
    scale: f32,
    softcap: Option<f32>,
) -> (Vec<R>, R) {
    let logits: Vec<R> = seen
        .iter()
        .map(|(key, _)| {
            let logit = R::of(scale.into()) * dot::<R, T>(query, key);
            match softcap.map(|cap| R::of(cap.into())) {
                Some(cap) => cap * (logit / cap).tanh(),
                None => logit,
            }
        })
        .collect();
    let mut out = vec![R::of(0.0); dim];
    let Some(largest) = logits.iter().copied().reduce(R::maximum) else {
        return (out, R::of(f64::NEG_INFINITY));
    };
    let mut sum = R::of(0.0);
    for (&logit, (_, value)) in logits.iter().zip(seen) {
        let weight = (logit - largest).exp();
        sum += weight;
        for (out, &value) in out.iter_mut().zip(*value) {
            *out += weight * real(value);
        }
    }
    out.iter_mut().for_each(|out| *out = *out / sum);
    (out, largest + sum.ln())
}
