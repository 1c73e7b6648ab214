//! Percentile ranks of scores: plans and checks.

use super::super::{Buffer, at_least_one, check_tokens, product, raw, to_i32};
use crate::checks::check_len;
use crate::error::Result;

/// Percentile ranks of `[heads, total]` scores inside their sequences
/// ([`crate::host::score::rank`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankPlan {
    heads: usize,
    batch: usize,
    total: usize,
    max_len: usize,
    len: usize,
}

impl RankPlan {
    /// A plan for sequences of at most `max_len` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for no heads;
    /// [`Error::Overflow`](crate::Error::Overflow) where sizes do.
    pub fn new(heads: usize, batch: usize, total: usize, max_len: usize) -> Result<Self> {
        at_least_one("heads", heads)?;
        check_tokens("tokens", total)?;
        check_tokens("tokens", max_len)?;
        to_i32("heads of all sequences", product("heads", &[heads, batch])?)?;
        let len = product("scores", &[heads, total])?;
        Ok(Self { heads, batch, total, max_len, len })
    }

    /// Scores, and ranks: `[heads, total]`.
    pub fn scores_len(&self) -> usize {
        self.len
    }
}

/// Where the buffers of a ranking lie; lengths in elements, exact.
#[derive(Debug, Clone, Copy, Default)]
pub struct RankBuffers {
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
pub fn rank_params(plan: &RankPlan, buffers: &RankBuffers) -> Result<raw::SalientRankParams> {
    let RankPlan { heads, batch, total, max_len, len } = *plan;
    check_len("out", len, buffers.out.len)?;
    let params = raw::SalientRankParams {
        scores: buffers.scores.exactly("scores", len)?,
        out: buffers.out.exactly("out", len)?,
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        status: buffers.status.exactly("status", 1)?,
        batch: to_i32("batch", batch)?,
        heads: to_i32("heads", heads)?,
        total: to_i32("tokens", total)?,
        max_len: to_i32("tokens", max_len)?,
    };
    let in_bytes = |buffer: Buffer| Buffer::new(buffer.address, 4 * buffer.len);
    in_bytes(buffers.out).apart("out", in_bytes(buffers.scores), "scores")?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn ranking_is_checked() {
        let plan = RankPlan::new(2, 3, 10, 7).unwrap();
        assert_eq!(plan.scores_len(), 20);
        let good = RankBuffers {
            scores: Buffer::new(0x1000, 20),
            out: Buffer::new(0x1050, 20),
            cu_seqlens: Buffer::new(0x2000, 4),
            status: Buffer::new(0x3000, 1),
        };
        let sizes = |raw: raw::SalientRankParams| (raw.batch, raw.heads, raw.total, raw.max_len);
        assert_eq!(rank_params(&plan, &good).map(sizes), Ok((3, 2, 10, 7)));
        let over = RankBuffers { out: Buffer::new(0x104c, 20), ..good };
        let expected = Error::Overlap { what: "out", other: "scores" };
        assert_eq!(rank_params(&plan, &over), Err(expected));
        for wrong in [
            RankBuffers { scores: Buffer::new(0x1000, 19), ..good },
            RankBuffers { out: Buffer::new(0x1050, 19), ..good },
            RankBuffers { cu_seqlens: Buffer::new(0x2000, 3), ..good },
        ] {
            assert!(matches!(rank_params(&plan, &wrong), Err(Error::LengthMismatch { .. })));
        }
        let askew = RankBuffers { scores: Buffer::new(0x1001, 20), ..good };
        assert!(matches!(rank_params(&plan, &askew), Err(Error::Misaligned { .. })));
        assert!(RankPlan::new(0, 3, 10, 7).is_err());
        assert!(RankPlan::new(1, 1, usize::MAX, 7).is_err());
        assert!(RankPlan::new(1 << 20, 1 << 20, 10, 7).is_err());
    }
}
