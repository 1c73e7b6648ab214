//! The predictor and the norms of keys.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::kernels::score::MlpPlan;
use salient::score::Per;
use salient::{Result, View};
use salient_oracle::suite::assert_same_bits;

use crate::place::on_device;
use crate::runs::problem::{mlp_weights, values};
use crate::runs::score::{run_keynorm, run_mlp};
use crate::{device, same_in_any_order};

#[test]
fn the_same_in_any_order() {
    let (hidden, width, tokens) = (136, 200, 140);
    let (x, weights) = (values::<bf16>(tokens * hidden, 1), mlp_weights(hidden, width));
    let keys = values::<f16>(90 * 3 * 40, 2);
    let keys = View::token_major(&keys[..], 3, 40);
    same_in_any_order("predictor and norms", || {
        let device = device()?;
        let plan = MlpPlan::new(weights.shape(), tokens)?;
        let scores = run_mlp(&device, &x, &weights, &plan, None)?.scores;
        let per_token = run_keynorm(&device, keys, 90, Per::Token, 0)?.scores;
        Ok([scores, per_token, run_keynorm(&device, keys, 90, Per::KvHead, 0)?.scores])
    });
}

/// Long batches go in blocks of 256 tokens, short ones in blocks of 128.
#[test]
fn a_token_scores_the_same_in_a_long_batch() {
    on_device("a_token_scores_the_same_in_a_long_batch", || {
        let device = device()?;
        let (hidden, width, tokens) = (72, 4096, 1800);
        let (x, weights) = (values::<bf16>(tokens * hidden, 3), mlp_weights(hidden, width));
        let scores = |x: &[bf16]| -> Result<Vec<f32>> {
            let plan = MlpPlan::new(weights.shape(), x.len() / hidden)?;
            Ok(run_mlp(&device, x, &weights, &plan, None)?.scores)
        };
        let (long, short) = (scores(&x)?, scores(&x[1500 * hidden..])?);
        assert_same_bits(&short, &long[1500..], "the last 300 tokens alone");
        Ok(())
    });
}

#[test]
fn tokens_beyond_the_valid_ones_score_least() {
    on_device("tokens_beyond_the_valid_ones_score_least", || {
        let device = device()?;
        for (width, tokens) in [(40, 300), (150, 300)] {
            let hidden = 64;
            let (x, weights) = (values::<f16>(tokens * hidden, 4), mlp_weights(hidden, width));
            let plan = MlpPlan::new(weights.shape(), tokens)?;
            let all = run_mlp(&device, &x, &weights, &plan, None)?.scores;
            for valid in [-1, i32::MIN, 0, 1, 128, 129, 299, 300, 1000, i32::MAX] {
                let exist = valid.clamp(0, 300) as usize;
                // What does not exist is not looked at.
                let mut x = x.clone();
                x[exist * hidden..].fill(f16::NAN);
                let some = run_mlp(&device, &x, &weights, &plan, Some(valid))?.scores;
                assert_same_bits(&some[..exist], &all[..exist], &format!("{valid} valid tokens"));
                let least = some[exist..].iter().all(|&score| score == f32::NEG_INFINITY);
                assert!(least, "{valid} valid tokens");
            }
        }
        Ok(())
    });
}

#[test]
fn hidden_states_may_lie_apart() {
    on_device("hidden_states_may_lie_apart", || {
        let device = device()?;
        let (hidden, width, tokens, stride) = (72, 33, 130, 96);
        let (x, weights) = (values::<bf16>(tokens * hidden, 5), mlp_weights(hidden, width));
        let plan = MlpPlan::new(weights.shape(), tokens)?;
        let dense = run_mlp(&device, &x, &weights, &plan, None)?.scores;
        let mut apart = vec![bf16::NAN; (tokens - 1) * stride + hidden];
        for (token, x) in x.chunks_exact(hidden).enumerate() {
            apart[token * stride..][..hidden].copy_from_slice(x);
        }
        let plan = plan.with_x_stride(stride)?;
        let scores = run_mlp(&device, &apart, &weights, &plan, None)?.scores;
        assert_same_bits(&scores, &dense, "hidden states 96 elements apart");
        Ok(())
    });
}

/// Sixteen bytes at a time or one element at a time: the sum has one order.
#[test]
fn key_norms_do_not_depend_on_alignment() {
    fn check<T: DeviceElement + Default>() -> Result<()> {
        let device = device()?;
        let (tokens, heads, dim) = (100, 3, 64);
        let keys = values::<T>(tokens * heads * dim, 8);
        let keys = View::token_major(&keys[..], heads, dim);
        let norms = |skip| -> Result<Vec<f32>> {
            Ok(run_keynorm(&device, keys, tokens, Per::KvHead, skip)?.scores)
        };
        assert_same_bits(&norms(1)?, &norms(0)?, "keys one element away from an aligned address");
        Ok(())
    }
    on_device("key_norms_do_not_depend_on_alignment", || {
        check::<f32>()?;
        check::<f16>()?;
        check::<bf16>()
    });
}
