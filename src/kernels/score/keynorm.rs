//! Norms of keys: plans and checks.

use super::super::{Buffer, at_least_one, check_tokens, dtype_code, product, raw, to_i32, to_i64};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::score::Per;

/// The norms of a number of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeynormPlan {
    layout: Layout,
    dtype: DType,
    per: Per,
    tokens: usize,
    keys_len: usize,
    scores_len: usize,
}

impl KeynormPlan {
    /// A plan for `tokens` keys laid out as `layout`, scored per token (the mean over heads) or per
    /// KV head and token.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no heads or channels and for fp8, [`Error::Overflow`] where sizes
    /// do.
    pub fn new(tokens: usize, layout: Layout, dtype: DType, per: Per) -> Result<Self> {
        if dtype == DType::F8E4M3 {
            let expected = "16 or 32: f16, bf16 or f32";
            return Err(Error::OutOfRange { what: "bits of a key", value: 8.0, expected });
        }
        at_least_one("KV heads", layout.heads)?;
        at_least_one("channels of a key", layout.dim)?;
        check_tokens("tokens", tokens)?;
        to_i32("KV heads", layout.heads)?;
        to_i32("channels of a key", layout.dim)?;
        let keys_len = layout.required_len(tokens).ok_or(Error::Overflow { what: "k" })?;
        to_i64("k", layout.token_stride)?;
        to_i64("k", layout.head_stride)?;
        let scores_len = match per {
            Per::Token => tokens,
            Per::KvHead => product("scores", &[layout.heads, tokens])?,
        };
        Ok(Self { layout, dtype, per, tokens, keys_len, scores_len })
    }

    /// The type of the keys.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Scores that are written: `[tokens]`, or `[heads, tokens]`.
    pub fn scores_len(&self) -> usize {
        self.scores_len
    }
}

/// Where the buffers of key norms lie; lengths in elements.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeynormBuffers {
    /// Keys of the plan's type, at least as long as the layout asks for.
    pub keys: Buffer,
    /// f32, [`KeynormPlan::scores_len`] exactly, written.
    pub scores: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`].
pub fn keynorm_params(
    plan: &KeynormPlan,
    buffers: &KeynormBuffers,
) -> Result<raw::SalientKeynormParams> {
    let Layout { heads, dim, token_stride, head_stride } = plan.layout;
    let size = plan.dtype.size();
    buffers.keys.holds("k", plan.keys_len)?;
    Ok(raw::SalientKeynormParams {
        keys: buffers.keys.placed("k", size, size)?,
        scores: buffers.scores.exactly("scores", plan.scores_len)?,
        token_stride: to_i64("k", token_stride)?,
        head_stride: to_i64("k", head_stride)?,
        tokens: to_i32("tokens", plan.tokens)?,
        heads: to_i32("KV heads", heads)?,
        dim: to_i32("channels of a key", dim)?,
        mean: (plan.per == Per::Token).into(),
        dtype: dtype_code(plan.dtype),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    #[test]
    fn key_norms_take_any_layout() {
        let layout = Layout { heads: 2, dim: 3, token_stride: 10, head_stride: 4 };
        for (per, len, mean) in [(Per::Token, 5, 1), (Per::KvHead, 10, 0)] {
            let plan = KeynormPlan::new(5, layout, DType::F16, per).unwrap();
            let good = KeynormBuffers { keys: at(47), scores: at(len) };
            let raw = keynorm_params(&plan, &good).unwrap();
            assert_eq!((raw.mean, raw.token_stride, raw.head_stride, raw.dtype), (mean, 10, 4, 1));
            for bad in [
                KeynormBuffers { keys: at(46), ..good },
                KeynormBuffers { scores: at(len + 1), ..good },
                KeynormBuffers { keys: Buffer::new(0x1001, 47), ..good },
                KeynormBuffers { scores: Buffer::new(0x1002, len), ..good },
            ] {
                assert!(keynorm_params(&plan, &bad).is_err());
            }
        }
        let new = |tokens, layout| KeynormPlan::new(tokens, layout, DType::F32, Per::KvHead);
        assert!(new(5, Layout { heads: 0, ..layout }).is_err());
        assert!(new(5, Layout { dim: 0, ..layout }).is_err());
        assert!(new(5, Layout { token_stride: usize::MAX, ..layout }).is_err());
        assert!(new(1 << 31, layout).is_err());
        assert!(KeynormPlan::new(5, layout, DType::F8E4M3, Per::KvHead).is_err());
    }
}
