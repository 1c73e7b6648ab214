//! **select**: plans and checks. The contract is that of [`crate::host::select`].

use std::ptr;

use super::{ALIGNMENT, Buffer, check_tokens, lists_len, product, raw, to_i32, to_i64};
use crate::error::{Error, Result};
use crate::host::select::{self as host, Edges, PerSequence, Request, ceil_share};
use crate::ragged::Ragged;

/// How many tokens to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Budget {
    /// So many of every sequence; more than the length keeps all.
    Count(usize),
    /// As many as [`SelectBuffers::counts`] says.
    Counts,
    /// The fraction kept, in (0, 1]: `ceil(ratio * len)` tokens, computed on the device.
    Ratio(f64),
    /// Every token whose score is at least this, and the protected ones.
    Threshold(f32),
}

impl Budget {
    /// The most tokens that a sequence of up to `max_len` keeps, protection aside: the room that
    /// its list needs.
    pub fn capacity(self, max_len: usize) -> usize {
        match self {
            Self::Count(count) => count.min(max_len),
            Self::Ratio(ratio) => ceil_share(ratio, max_len),
            Self::Counts | Self::Threshold(_) => max_len,
        }
    }
}

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
        match budget {
            Budget::Ratio(ratio) => host::check_ratio(ratio)?,
            Budget::Threshold(at_least) => host::check_threshold(at_least)?,
            Budget::Count(_) | Budget::Counts => {}
        }
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
        let budget = match request.budget {
            host::Budget::Count(PerSequence::All(count)) => Budget::Count(count),
            host::Budget::Count(PerSequence::Each(_)) => Budget::Counts,
            host::Budget::Ratio(ratio) => Budget::Ratio(ratio),
            host::Budget::Threshold(at_least) => Budget::Threshold(at_least),
        };
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
    /// row is at fault ([`super::Fault::Capacity`]).
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if the budget's count or ratio keeps more of the longest sequence,
    /// [`Error::Overflow`] if the lists grow too large.
    pub fn with_capacity(self, capacity: usize) -> Result<Self> {
        let needed = match self.budget {
            Budget::Count(_) | Budget::Ratio(_) => self.budget.capacity(self.shape.max_len),
            Budget::Counts | Budget::Threshold(_) => 0,
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

    /// Bytes of workspace, which start on a multiple of [`ALIGNMENT`]. What they hold does not
    /// matter, before or after.
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

/// Where a selection's buffers lie. Lengths are in elements and exact, but for the workspace and
/// for scores with a stride.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectBuffers {
    /// f32 `[heads, score_stride]`, the last head's `[total]`.
    pub scores: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// i32 `[batch]`, with [`Budget::Counts`] and no other.
    pub counts: Option<Buffer>,
    /// i32 `[batch]` first tokens never dropped, instead of the plan's.
    pub sinks: Option<Buffer>,
    /// i32 `[batch]` last tokens never dropped, instead of the plan's.
    pub recent: Option<Buffer>,
    /// u8 `[total]`, nonzero: never dropped.
    pub mask: Option<Buffer>,
    /// i32 `[total]` original positions; needed for `kept_positions`.
    pub positions: Option<Buffer>,
    /// i32 `[rows, capacity]`, written: kept tokens in ascending order, -1 after the last.
    pub kept: Buffer,
    /// i32 `[rows]`, written: the lists' lengths.
    pub kept_lens: Buffer,
    /// i32 `[rows, capacity]`, written: the kept tokens' positions, -1 after the last.
    pub kept_positions: Option<Buffer>,
    /// i32 `[heads, total]`, written: each token's place in its row's list, or -1.
    pub inverse: Option<Buffer>,
    /// i32 `[rows + 1]`, written: where each list starts when packed.
    pub cu_kept: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
    /// u8, at least [`SelectPlan::workspace_bytes`].
    pub workspace: Option<Buffer>,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`]; [`Error::Unfit`] for counts, positions or a
/// workspace that is missing, or counts that have no use; [`Error::Overflow`] where more tokens may
/// be kept than `cu_kept` can count.
pub fn params(plan: &SelectPlan, buffers: &SelectBuffers) -> Result<raw::SalientSelectParams> {
    let SelectPlan { shape, rows, budget, edges, capacity, score_stride, variant } = *plan;
    let Shape { batch, heads, total, max_len } = shape;
    let lists = lists_len(rows, capacity)?;
    let scores = product("scores", &[heads - 1, score_stride])? + total;
    if (budget == Budget::Counts) != buffers.counts.is_some() {
        let expected = "given if, and only if, the budget is a count for each sequence";
        return Err(Error::Unfit { what: "counts", expected });
    }
    if buffers.kept_positions.is_some() != buffers.positions.is_some() {
        let expected = "given if, and only if, the kept positions are asked for";
        return Err(Error::Unfit { what: "positions", expected });
    }
    let most_kept = lists.min(product("scores", &[heads, total])?);
    if buffers.cu_kept.is_some() && most_kept > i32::MAX as usize {
        return Err(Error::Overflow { what: "kept tokens of all rows" });
    }
    let workspace_bytes = plan.workspace_bytes();
    let workspace = match (buffers.workspace, workspace_bytes) {
        (_, 0) => ptr::null_mut(),
        (None, expected) => {
            return Err(Error::LengthMismatch { what: "workspace", expected, actual: 0 });
        }
        (Some(workspace), needed) => {
            workspace.holds("workspace", needed)?;
            workspace.placed("workspace", 1, ALIGNMENT)?
        }
    };
    let (ratio, threshold, count, budget) = match budget {
        Budget::Count(count) => (0.0, 0.0, count.min(max_len), raw::SALIENT_BUDGET_COUNT),
        Budget::Counts => (0.0, 0.0, 0, raw::SALIENT_BUDGET_COUNT),
        Budget::Ratio(ratio) => (ratio, 0.0, 0, raw::SALIENT_BUDGET_RATIO),
        Budget::Threshold(at_least) => (0.0, at_least, 0, raw::SALIENT_BUDGET_THRESHOLD),
    };
    Ok(raw::SalientSelectParams {
        scores: if heads == 1 || score_stride == total {
            buffers.scores.exactly("scores", scores)?
        } else {
            buffers.scores.at_least("scores", scores)?
        },
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        counts: Buffer::optional(buffers.counts, "counts", batch)?,
        sinks: Buffer::optional(buffers.sinks, "sinks", batch)?,
        recent: Buffer::optional(buffers.recent, "recent", batch)?,
        mask: Buffer::optional(buffers.mask, "mask", total)?,
        positions: Buffer::optional(buffers.positions, "positions", total)?,
        kept: buffers.kept.exactly("kept", lists)?,
        kept_lens: buffers.kept_lens.exactly("kept_lens", rows)?,
        kept_positions: Buffer::optional(buffers.kept_positions, "kept positions", lists)?,
        inverse: Buffer::optional(buffers.inverse, "inverse map", heads * total)?,
        cu_kept: Buffer::optional(buffers.cu_kept, "cu_kept", rows + 1)?,
        status: buffers.status.exactly("status", 1)?,
        workspace,
        workspace_bytes: to_i64("workspace", workspace_bytes)?,
        score_stride: to_i64("stride of the scores", score_stride)?,
        ratio,
        threshold,
        budget,
        batch: to_i32("sequences", batch)?,
        heads: to_i32("heads", heads)?,
        total: to_i32("tokens of all sequences", total)?,
        count: to_i32("count", count)?,
        sinks_all: to_i32("sinks", edges.sinks.min(max_len))?,
        recent_all: to_i32("local window", edges.recent.min(max_len))?,
        capacity: to_i32("capacity", capacity)?,
        max_len: to_i32("longest sequence", max_len)?,
        variant: match variant {
            Variant::Auto => raw::SALIENT_SELECT_AUTO,
            Variant::Block => raw::SALIENT_SELECT_BLOCK,
            Variant::Cluster => raw::SALIENT_SELECT_CLUSTER,
            Variant::Grid => raw::SALIENT_SELECT_GRID,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::select::Protect;

    const SHAPE: Shape = Shape { batch: 3, heads: 2, total: 100, max_len: 60 };

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    /// Every buffer of a plan of [`SHAPE`]'s batch.
    fn buffers(plan: &SelectPlan) -> SelectBuffers {
        let lists = plan.rows() * plan.capacity();
        SelectBuffers {
            scores: at(200),
            cu_seqlens: at(4),
            counts: None,
            sinks: Some(at(3)),
            recent: Some(at(3)),
            mask: Some(at(100)),
            positions: Some(at(100)),
            kept: at(lists),
            kept_lens: at(6),
            kept_positions: Some(at(lists)),
            inverse: Some(at(200)),
            cu_kept: Some(at(7)),
            status: at(1),
            workspace: None,
        }
    }

    fn plan(budget: Budget) -> SelectPlan {
        SelectPlan::new(SHAPE, budget).unwrap()
    }

    #[test]
    fn good_buffers_become_parameters() {
        let plan = plan(Budget::Ratio(0.5)).with_edges(Edges { sinks: 4, recent: usize::MAX });
        let raw = params(&plan, &buffers(&plan)).unwrap();
        assert_eq!((raw.batch, raw.heads, raw.total, raw.max_len), (3, 2, 100, 60));
        assert_eq!((raw.capacity, raw.sinks_all, raw.recent_all), (30, 4, 60));
        assert_eq!((raw.ratio, raw.score_stride, raw.workspace_bytes), (0.5, 100, 0));
        assert_eq!(raw.scores.addr(), 0x1000);
        assert!(raw.counts.is_null() && raw.workspace.is_null() && !raw.mask.is_null());
        let lean = SelectBuffers {
            sinks: None,
            recent: None,
            mask: None,
            positions: None,
            kept_positions: None,
            inverse: None,
            cu_kept: None,
            ..buffers(&plan)
        };
        let raw = params(&plan, &lean).unwrap();
        assert!(raw.sinks.is_null() && raw.inverse.is_null() && raw.cu_kept.is_null());
    }

    #[test]
    fn every_buffer_of_a_wrong_length_or_place_is_named() {
        let plan = plan(Budget::Count(10));
        let good = buffers(&plan);
        assert!(params(&plan, &good).is_ok());
        type Field = fn(&mut SelectBuffers) -> &mut Buffer;
        let fields: [(&str, Field); 12] = [
            ("scores", |b| &mut b.scores),
            ("cu_seqlens", |b| &mut b.cu_seqlens),
            ("sinks", |b| b.sinks.as_mut().unwrap()),
            ("recent", |b| b.recent.as_mut().unwrap()),
            ("mask", |b| b.mask.as_mut().unwrap()),
            ("positions", |b| b.positions.as_mut().unwrap()),
            ("kept", |b| &mut b.kept),
            ("kept_lens", |b| &mut b.kept_lens),
            ("kept positions", |b| b.kept_positions.as_mut().unwrap()),
            ("inverse map", |b| b.inverse.as_mut().unwrap()),
            ("cu_kept", |b| b.cu_kept.as_mut().unwrap()),
            ("status", |b| &mut b.status),
        ];
        for (name, field) in fields {
            for (longer, shift) in [(1, 0), (-1, 0), (0, 1)] {
                let mut bad = good;
                let buffer = field(&mut bad);
                let expected = buffer.len;
                buffer.len = expected.wrapping_add_signed(longer);
                buffer.address += shift;
                let error = match shift {
                    0 => Error::LengthMismatch { what: name, expected, actual: buffer.len },
                    // Bytes lie anywhere.
                    _ if name == "mask" => continue,
                    _ => Error::Misaligned { what: name, address: 0x1001, align: 4 },
                };
                assert_eq!(params(&plan, &bad).unwrap_err(), error);
            }
        }
    }

    #[test]
    fn counts_and_positions_come_with_what_needs_them() {
        let counted = plan(Budget::Counts);
        let good = SelectBuffers { counts: Some(at(3)), ..buffers(&counted) };
        assert!(params(&counted, &good).is_ok());
        assert!(params(&counted, &buffers(&counted)).is_err());
        assert!(params(&counted, &SelectBuffers { counts: Some(at(4)), ..good }).is_err());
        let ratio = plan(Budget::Ratio(1.0));
        let counts = Some(at(3));
        assert!(params(&ratio, &SelectBuffers { counts, ..buffers(&ratio) }).is_err());
        for bad in [
            SelectBuffers { positions: None, ..buffers(&ratio) },
            SelectBuffers { kept_positions: None, ..buffers(&ratio) },
        ] {
            assert!(matches!(params(&ratio, &bad), Err(Error::Unfit { .. })));
        }
    }

    #[test]
    fn capacity_follows_the_budget() {
        for (budget, capacity) in [
            (Budget::Count(7), 7),
            (Budget::Count(usize::MAX), 60),
            (Budget::Counts, 60),
            (Budget::Ratio(0.07), 5),
            (Budget::Threshold(0.0), 60),
        ] {
            let plan = plan(budget);
            assert_eq!(plan.capacity(), capacity);
            assert_eq!(plan.with_capacity(capacity + 3).unwrap().capacity(), capacity + 3);
            let known = matches!(budget, Budget::Count(_) | Budget::Ratio(_));
            assert_eq!(plan.with_capacity(capacity - 1).is_err(), known, "{budget:?}");
            assert!(plan.with_capacity(usize::MAX).is_err());
            assert!(plan.with_capacity(1 << 31).is_err());
        }
    }

    #[test]
    fn only_long_rows_need_a_workspace() {
        let long = |batch, max_len| {
            let shape = Shape { batch, heads: 1, total: 1 << 20, max_len };
            SelectPlan::new(shape, Budget::Ratio(0.1)).unwrap()
        };
        assert_eq!(long(1, 16_384).workspace_bytes(), 0);
        assert_eq!(long(1, 16_385).workspace_bytes(), 32_768);
        assert_eq!(long(1000, 16_385).workspace_bytes(), 64 * 32_768);
        assert_eq!(long(1, 9).with_variant(Variant::Grid).unwrap().workspace_bytes(), 32_768);
        let cluster = long(4, 131_072).with_variant(Variant::Cluster).unwrap();
        assert_eq!(cluster.workspace_bytes(), 0);
        assert!(long(4, 131_073).with_variant(Variant::Cluster).is_err());
        assert!(long(4, 16_385).with_variant(Variant::Block).is_err());

        let grid = plan(Budget::Count(1)).with_variant(Variant::Grid).unwrap();
        let with = |workspace| params(&grid, &SelectBuffers { workspace, ..buffers(&grid) });
        let bytes = grid.workspace_bytes();
        assert_eq!(with(Some(at(bytes + 1))).unwrap().workspace_bytes, bytes as i64);
        let mismatch =
            |actual| Error::LengthMismatch { what: "workspace", expected: bytes, actual };
        assert_eq!(with(Some(at(bytes - 1))).unwrap_err(), mismatch(bytes - 1));
        assert_eq!(with(None).unwrap_err(), mismatch(0));
        assert!(with(Some(Buffer::new(0x1008, bytes))).is_err());
    }

    #[test]
    fn heads_may_lie_apart() {
        let plan = plan(Budget::Count(1)).with_score_stride(128).unwrap();
        let with = |len| params(&plan, &SelectBuffers { scores: at(len), ..buffers(&plan) });
        assert_eq!(with(228).unwrap().score_stride, 128);
        assert!(with(256).is_ok());
        assert!(with(227).is_err());
        assert!(plan.with_score_stride(99).is_err());
        assert!(plan.with_score_stride(usize::MAX).is_err());
    }

    #[test]
    fn bad_shapes_and_budgets_are_refused() {
        for shape in [
            Shape { heads: 0, ..SHAPE },
            Shape { heads: usize::MAX, ..SHAPE },
            Shape { batch: 1 << 31, ..SHAPE },
            Shape { total: 1 << 31, ..SHAPE },
            Shape { max_len: 101, ..SHAPE },
        ] {
            assert!(SelectPlan::new(shape, Budget::Count(1)).is_err(), "{shape:?}");
        }
        for budget in [
            Budget::Ratio(0.0),
            Budget::Ratio(1.5),
            Budget::Ratio(f64::NAN),
            Budget::Threshold(f32::NAN),
        ] {
            assert!(SelectPlan::new(SHAPE, budget).is_err(), "{budget:?}");
        }
        let shape = Shape { batch: 1 << 15, heads: 1 << 10, total: 1 << 30, max_len: 1 << 12 };
        let many = SelectPlan::new(shape, Budget::Counts).unwrap();
        let lists = at(many.rows() * many.capacity());
        let buffers = SelectBuffers {
            scores: at(1 << 40),
            cu_seqlens: at((1 << 15) + 1),
            counts: Some(at(1 << 15)),
            kept: lists,
            kept_lens: at(many.rows()),
            status: at(1),
            ..SelectBuffers::default()
        };
        assert!(params(&many, &buffers).is_ok());
        let cu_kept = Some(at(many.rows() + 1));
        let error = params(&many, &SelectBuffers { cu_kept, ..buffers }).unwrap_err();
        assert_eq!(error, Error::Overflow { what: "kept tokens of all rows" });
    }

    #[test]
    fn a_request_is_checked_as_the_host_checks_it() {
        let rows = Ragged::from_lens(&[10, 0, 4]).unwrap();
        let edges = PerSequence::All(Edges { sinks: 1, recent: 2 });
        let budget = host::Budget::Ratio(0.8);
        let good =
            Request { rows: &rows, heads: 2, budget, protect: Protect { edges, mask: None } };
        let plan = SelectPlan::of(&good).unwrap();
        assert_eq!((plan.capacity(), plan.rows(), plan.shape().max_len), (8, 6, 10));
        let counts = host::Budget::Count(PerSequence::Each(&[3, 0, 9]));
        assert_eq!(SelectPlan::of(&Request { budget: counts, ..good }).unwrap().capacity(), 4);
        let few = host::Budget::Count(PerSequence::Each(&[5, 0, 2]));
        assert_eq!(
            SelectPlan::of(&Request { budget: few, ..good }),
            Err(Error::BudgetBelowProtected { row: 4, budget: 2, protected: 3 })
        );
        for budget in [host::Budget::Ratio(0.0), host::Budget::Count(PerSequence::Each(&[1]))] {
            assert!(SelectPlan::of(&Request { budget, ..good }).is_err());
        }
        assert!(SelectPlan::of(&Request { heads: 0, ..good }).is_err());
    }
}
