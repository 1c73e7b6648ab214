//! Pooling of scores along tokens: plans and checks.

use super::super::{Buffer, at_least_one, check_tokens, product, raw, to_i32};
use crate::checks::check_len;
use crate::error::Result;
use crate::score::{Pool, PoolKind};

/// Pooling of `[heads, total]` scores along the tokens of their sequences
/// ([`crate::host::score::pool`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPlan {
    heads: usize,
    batch: usize,
    total: usize,
    max_len: usize,
    pool: Pool,
    len: usize,
}

impl PoolPlan {
    /// A plan for sequences of at most `max_len` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a width that is even or above 33, or no
    /// heads; [`Error::Overflow`](crate::Error::Overflow) where sizes do.
    pub fn new(
        heads: usize,
        batch: usize,
        total: usize,
        max_len: usize,
        pool: Pool,
    ) -> Result<Self> {
        pool.check()?;
        at_least_one("heads", heads)?;
        check_tokens("tokens", total)?;
        check_tokens("tokens", max_len)?;
        to_i32("heads of all sequences", product("heads", &[heads, batch])?)?;
        let len = product("scores", &[heads, total])?;
        Ok(Self { heads, batch, total, max_len, pool, len })
    }

    /// Scores: `[heads, total]`.
    pub fn scores_len(&self) -> usize {
        self.len
    }
}

/// Where the buffers of a pooling lie; lengths in elements, exact.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolBuffers {
    /// f32 `[heads, total]`.
    pub scores: Buffer,
    /// f32 `[heads, total]`, written; apart from the scores.
    pub out: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`](crate::Error::LengthMismatch),
/// [`Error::Misaligned`](crate::Error::Misaligned), [`Error::Overlap`](crate::Error::Overlap).
pub fn pool_params(plan: &PoolPlan, buffers: &PoolBuffers) -> Result<raw::SalientPoolParams> {
    let PoolPlan { heads, batch, total, max_len, pool, len } = *plan;
    check_len("out", len, buffers.out.len)?;
    let params = raw::SalientPoolParams {
        scores: buffers.scores.exactly("scores", len)?,
        out: buffers.out.exactly("out", len)?,
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        status: buffers.status.exactly("status", 1)?,
        batch: to_i32("batch", batch)?,
        heads: to_i32("heads", heads)?,
        total: to_i32("tokens", total)?,
        max_len: to_i32("tokens", max_len)?,
        kind: pool_code(pool.kind),
        width: to_i32("pool width", pool.width)?,
    };
    let in_bytes = |buffer: Buffer| Buffer::new(buffer.address, 4 * buffer.len);
    in_bytes(buffers.out).apart("out", in_bytes(buffers.scores), "scores")?;
    Ok(params)
}

/// A kind of pooling in the C ABI.
pub(super) fn pool_code(kind: PoolKind) -> i32 {
    match kind {
        PoolKind::Average => raw::SALIENT_POOL_AVERAGE,
        PoolKind::Max => raw::SALIENT_POOL_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn pooling_is_checked() {
        let pool = Pool { kind: PoolKind::Max, width: 3 };
        let plan = PoolPlan::new(2, 3, 10, 7, pool).unwrap();
        let good = PoolBuffers {
            scores: Buffer::new(0x1000, 20),
            out: Buffer::new(0x1050, 20),
            cu_seqlens: Buffer::new(0x2000, 4),
            status: Buffer::new(0x3000, 1),
        };
        assert_eq!(pool_params(&plan, &good).map(|raw| (raw.kind, raw.width)), Ok((1, 3)));
        let over = PoolBuffers { out: Buffer::new(0x104c, 20), ..good };
        let expected = Error::Overlap { what: "out", other: "scores" };
        assert_eq!(pool_params(&plan, &over), Err(expected));
        let short = PoolBuffers { out: Buffer::new(0x1050, 19), ..good };
        assert!(matches!(pool_params(&plan, &short), Err(Error::LengthMismatch { .. })));
        for width in [0, 2, 35] {
            assert!(PoolPlan::new(2, 3, 10, 7, Pool { width, ..pool }).is_err());
        }
        assert!(PoolPlan::new(0, 3, 10, 7, pool).is_err());
    }
}
