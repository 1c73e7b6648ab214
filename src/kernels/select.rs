//! **select**: plans and checks. The contract is that of [`crate::select`].

mod params;

pub use params::{SelectBuffers, params};

use super::{check_tokens, lists_len, product, raw, to_i32};
use crate::error::{Error, Result};
use crate::ragged::Ragged;
use crate::select::{Budget, Edges, PerSequence, Request};

/// Which kernel runs. The selection is the same, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Variant {
    /// The fastest that the device has for the longest sequence.
    #[default]
    Auto,
    /// A block per row: up to [`Variant::BLOCK_LEN`] tokens.
    Block,
    /// A cluster of blocks per row: up to [`Variant::CLUSTER_LEN`] tokens, sm_90 or later.
    Cluster,
    /// Groups of blocks that meet in the workspace: any length.
    Grid,
}

impl Variant {
    /// The longest sequence of [`Variant::Block`].
    pub const BLOCK_LEN: usize = 16_384;
    /// The longest sequence of [`Variant::Cluster`].
    pub const CLUSTER_LEN: usize = 131_072;

    fn longest(self) -> usize {
        match self {
            Self::Block => Self::BLOCK_LEN,
            Self::Cluster => Self::CLUSTER_LEN,
            Self::Auto | Self::Grid => usize::MAX,
        }
    }
}

/// What the host knows of a ragged batch and its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Rows per sequence: 1 selects per sequence, the number of KV heads selects per head.
    pub heads: usize,
    /// Tokens of all sequences.
    pub total: usize,
    /// No sequence is longer.
    pub max_len: usize,
}

impl Shape {
    /// The shape of a batch that the host knows.
    pub fn of(rows: &Ragged, heads: usize) -> Self {
        let max_len = rows.lens().max().unwrap_or(0);
        Self { batch: rows.batch(), heads, total: rows.total(), max_len }
    }

    /// Rows: `batch * heads`.
    pub(super) fn rows(&self) -> Result<usize> {
        super::at_least_one("heads", self.heads)?;
        let rows = product("rows", &[self.batch, self.heads])?;
        to_i32("rows", rows)?;
        check_tokens("tokens of all sequences", self.total)?;
        Ok(rows)
    }
}

/// A selection as far as the host knows it ahead of the launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectPlan {
    shape: Shape,
    rows: usize,
    budget: Budget,
    edges: Edges,
    capacity: usize,
    score_stride: usize,
    variant: Variant,
}

impl SelectPlan {
    /// A plan without protection, with just enough room for the budget and the scores of one head
    /// after the other.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no heads, a sequence longer than all, a ratio outside (0, 1] or a
    /// NaN threshold; [`Error::Overflow`] for more rows or tokens than an i32 counts.
    pub fn new(shape: Shape, budget: Budget) -> Result<Self> {
        let rows = shape.rows()?;
        if shape.max_len > shape.total {
            return Err(Error::OutOfRange {
                what: "longest sequence",
                value: shape.max_len as f64,
                expected: "no longer than all sequences",
            });
        }
        budget.check()?;
        let capacity = budget.capacity(shape.max_len);
        lists_len(rows, capacity)?;
        product("scores", &[shape.heads, shape.total])?;
        let (edges, score_stride, variant) = (Edges::default(), shape.total, Variant::Auto);
        Ok(Self { shape, rows, budget, edges, capacity, score_stride, variant })
    }

    /// The plan of a request whose values the host knows: everything is checked that can be, and
    /// the lists have just enough room. Values per sequence go to the device as
    /// [`SelectBuffers::counts`], [`SelectBuffers::sinks`], [`SelectBuffers::recent`] and
    /// [`SelectBuffers::mask`].
    ///
    /// # Errors
    /// Those of [`crate::host::select::select`], scores aside.
    pub fn of(request: &Request<'_>) -> Result<Self> {
        request.check()?;
        let mut capacity = 0;
        for sequence in 0..request.rows.batch() {
            capacity = capacity.max(request.bounds(sequence)?.count.unwrap_or(0));
        }
        let budget = request.budget.kind();
        let plan = Self::new(Shape::of(request.rows, request.heads), budget)?;
        let plan = match request.protect.edges {
            PerSequence::All(edges) => plan.with_edges(edges),
            PerSequence::Each(_) => plan,
        };
        match budget {
            Budget::Threshold(_) => Ok(plan),
            _ => plan.with_capacity(capacity),
        }
    }

    /// Protects the first and last tokens of every sequence, where
    /// [`SelectBuffers::sinks`] and [`SelectBuffers::recent`] do not say otherwise.
    pub fn with_edges(self, edges: Edges) -> Self {
        Self { edges, ..self }
    }

    /// Gives every list room for `capacity` tokens. Where counts or a threshold may keep more, the
    /// row is at fault ([`crate::Fault::Capacity`]).
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if the budget's count or ratio keeps more of the longest sequence,
    /// [`Error::Overflow`] if the lists grow too large.
    pub fn with_capacity(self, capacity: usize) -> Result<Self> {
        let needed = match self.budget {
            Budget::Count(_) | Budget::Ratio(_) => self.budget.capacity(self.shape.max_len),
            Budget::Counts(()) | Budget::Threshold(_) => 0,
        };
        if capacity < needed {
            let what = "capacity of the lists of kept tokens";
            return Err(Error::LengthMismatch { what, expected: needed, actual: capacity });
        }
        to_i32("capacity of the lists of kept tokens", capacity)?;
        lists_len(self.rows, capacity)?;
        Ok(Self { capacity, ..self })
    }

    /// Puts head `h`'s scores at `h * stride`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if heads would overlap, [`Error::Overflow`] if the scores grow too
    /// large.
    pub fn with_score_stride(self, stride: usize) -> Result<Self> {
        if stride < self.shape.total {
            return Err(Error::OutOfRange {
                what: "stride of the scores",
                value: stride as f64,
                expected: "no less than the tokens of all sequences",
            });
        }
        product("scores", &[self.shape.heads, stride])?;
        Ok(Self { score_stride: stride, ..self })
    }

    /// Chooses the kernel.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the longest sequence is too long for it.
    pub fn with_variant(self, variant: Variant) -> Result<Self> {
        if self.shape.max_len > variant.longest() {
            return Err(Error::OutOfRange {
                what: "longest sequence",
                value: self.shape.max_len as f64,
                expected: match variant {
                    Variant::Block => "at most 16384 for a block per row",
                    _ => "at most 131072 for a cluster per row",
                },
            });
        }
        Ok(Self { variant, ..self })
    }

    /// The batch.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Rows: `batch * heads`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The room of a list.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of workspace, which start on a multiple of [`ALIGNMENT`](super::ALIGNMENT). What they
    /// hold does not matter, before or after.
    pub fn workspace_bytes(&self) -> usize {
        let grid = match self.variant {
            Variant::Grid => true,
            Variant::Auto => self.shape.max_len > Variant::BLOCK_LEN,
            Variant::Block | Variant::Cluster => false,
        };
        let groups = self.rows.min(raw::SALIENT_SELECT_MAX_GROUPS as usize);
        if grid { raw::SALIENT_SELECT_GROUP_BYTES as usize * groups } else { 0 }
    }
}

#[cfg(test)]
mod tests;
