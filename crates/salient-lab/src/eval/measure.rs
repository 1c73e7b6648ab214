//! Losses from logits, and which tokens of a prompt a piece of its text became.

use std::ops::Range;

use crate::error::{Error, Result};

/// The negative log-likelihood of `token`, in nats, under the softmax of `logits`.
///
/// # Errors
/// When there is no such token, or a logit is not finite.
pub fn nll(logits: &[f32], token: u32) -> Result<f64> {
    let log_probabilities = log_softmax(logits)?;
    match log_probabilities.get(token as usize) {
        Some(value) => Ok(-value),
        None => Err(Error::Invalid(format!("token {token} of {} logits", logits.len()))),
    }
}

/// The divergence KL(dense || pruned), in nats, between the softmaxes of two rows of logits.
///
/// # Errors
/// When the rows differ in length, or a logit is not finite.
pub fn kl(dense: &[f32], pruned: &[f32]) -> Result<f64> {
    if dense.len() != pruned.len() {
        let (dense, pruned) = (dense.len(), pruned.len());
        return Err(Error::Invalid(format!("{dense} dense logits but {pruned} pruned ones")));
    }
    let (dense, pruned) = (log_softmax(dense)?, log_softmax(pruned)?);
    let sum: f64 = dense.iter().zip(&pruned).map(|(p, q)| p.exp() * (p - q)).sum();
    // Equal distributions may come out a rounding below zero.
    Ok(sum.max(0.0))
}

/// The share of `marked` positions that are among the `kept` ones, both ascending; nothing where no
/// position is marked.
pub fn share_alive(marked: &[u32], kept: &[u32]) -> Option<f64> {
    let alive = marked.iter().filter(|position| kept.binary_search(position).is_ok()).count();
    (!marked.is_empty()).then(|| alive as f64 / marked.len() as f64)
}

/// The tokens that hold any byte of `span`, a range of the text that `tokens` tokens decode to.
/// `decoded_len(n)` is the number of bytes that the first `n` tokens decode to.
///
/// # Errors
/// Those of `decoded_len`.
pub fn token_span<E>(
    span: Range<usize>,
    tokens: usize,
    decoded_len: impl Fn(usize) -> Result<usize, E>,
) -> Result<Range<usize>, E> {
    // The least number of tokens that decode to at least `bytes` bytes.
    let least = |bytes: usize| {
        let (mut low, mut high) = (0, tokens);
        while low < high {
            let middle = low.midpoint(high);
            if decoded_len(middle)? >= bytes { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    };
    // Token t holds the byte b if t tokens decode to b bytes at most, and t + 1 to more.
    let start = least(span.start + 1)?.saturating_sub(1);
    Ok(start..least(span.end)?.max(start))
}

fn log_softmax(logits: &[f32]) -> Result<Vec<f64>> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::Invalid("the model predicts logits that are not finite".into()));
    }
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|logit| f64::from(logit - greatest));
    let log_sum = shifted().map(f64::exp).sum::<f64>().ln();
    Ok(shifted().map(|logit| logit - log_sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose softmax is (1/8, 2/8, 5/8), shifted so far that exp alone would overflow.
    fn eighths(shift: f32) -> [f32; 3] {
        [1.0_f32, 2.0, 5.0].map(|odds| odds.ln() + shift)
    }

    #[test]
    fn nll_is_minus_the_log_of_the_probability() {
        for shift in [0.0, 100.0, -1000.0] {
            for (token, probability) in [(0, 0.125_f64), (1, 0.25), (2, 0.625)] {
                let nll = nll(&eighths(shift), token).unwrap();
                assert!((nll + probability.ln()).abs() < 1e-4, "{nll} at {shift}");
            }
        }
    }

    /// 1/8 ln(1/4) + 2/8 ln(1) + 5/8 ln(5/2), the pruned run saying (4/8, 2/8, 2/8).
    #[test]
    fn kl_is_as_computed_by_hand() {
        let pruned = [4.0_f32, 2.0, 2.0].map(f32::ln);
        let by_hand = 0.125 * 0.25_f64.ln() + 0.625 * 2.5_f64.ln();
        assert!((kl(&eighths(3.0), &pruned).unwrap() - by_hand).abs() < 1e-6);
        let reverse = 0.5 * 4.0_f64.ln() + 0.25 * 0.4_f64.ln();
        assert!((kl(&pruned, &eighths(3.0)).unwrap() - reverse).abs() < 1e-6);
        assert_eq!(kl(&pruned, &pruned).unwrap(), 0.0);
    }

    #[test]
    fn what_has_no_loss_is_refused() {
        assert!(matches!(nll(&[0.0; 3], 3), Err(Error::Invalid(_))));
        assert!(matches!(nll(&[0.0, f32::NAN], 0), Err(Error::Invalid(_))));
        assert!(matches!(kl(&[0.0; 3], &[0.0; 2]), Err(Error::Invalid(_))));
        assert!(matches!(kl(&[0.0], &[f32::INFINITY]), Err(Error::Invalid(_))));
    }

    #[test]
    fn shares_count_marked_tokens_only() {
        assert_eq!(share_alive(&[3, 5, 6, 9], &[0, 1, 5, 9, 12]), Some(0.5));
        assert_eq!(share_alive(&[3], &[]), Some(0.0));
        assert_eq!(share_alive(&[], &[1]), None);
    }

    /// Against a walk over all tokens, for every range of a text cut unevenly, with tokens that
    /// decode to nothing at the ends and in the middle.
    #[test]
    fn spans_are_the_tokens_that_hold_a_byte_of_them() {
        let lens = [0, 3, 1, 0, 4, 2, 2, 0];
        let before = |n: usize| lens[..n].iter().sum::<usize>();
        let total = before(lens.len());
        for start in 0..total {
            for end in start + 1..=total {
                let holds = |t: &usize| before(*t) < end && before(t + 1) > start;
                let holders: Vec<_> = (0..lens.len()).filter(holds).collect();
                let expected = holders[0]..holders[holders.len() - 1] + 1;
                let found = token_span(start..end, lens.len(), |n| Ok::<_, ()>(before(n)));
                assert_eq!(found, Ok(expected), "{start}..{end}");
            }
        }
    }
}
