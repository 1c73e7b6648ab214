//! One query per sequence.

use super::super::validate::Pages;
use super::super::{
    Buffer, check_16_bits, check_tokens, dtype_code, lists_len, product, raw, to_i32, to_i64,
};
use super::check_attention;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result, check_len};
use crate::host::attend::{Attention, KeyLists, Keys};
use crate::layout::{Layout, PagedLayout, is_disjoint, shared_places};

/// The most query heads that may share a KV head.
const MAX_GROUP: usize = 16;

/// The most channels of a head.
const MAX_DIM: usize = 256;

/// The fewest entries per block; so many keep a block's partial results small beside what it reads.
const MIN_SPLIT: usize = 256;

/// The most splits of a list, but for rounding.
const SPLITS: usize = 64;

/// The entries that a block takes at a time.
const ROUND: usize = 64;

/// Which lists there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecodeLists {
    /// None: every key is read.
    Dense,
    /// One per sequence.
    Shared,
    /// One per sequence and KV head.
    PerHead,
}

/// Where keys and values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeCache {
    /// In one piece each; sequences are spans of tokens.
    Contiguous {
        /// Of keys.
        k: Layout,
        /// Of values.
        v: Layout,
        /// Tokens that both hold.
        tokens: usize,
    },
    /// On pages of two pools that are laid out alike, in any way of which a row is one piece: vLLM's
    /// `[pages, page_size, heads, dim]` ([`PagedLayout::nhd`]) and `[pages, heads, page_size, dim]`
    /// ([`PagedLayout::hnd`]) are. Its older caches, whose keys are cut into pieces of 16 bytes and
    /// whose values are transposed, are not: one value of a transposed row is 2 bytes of its 32-byte
    /// sector, so a listed row would cost up to 16 times its bytes.
    Paged {
        /// Of both pools.
        layout: PagedLayout,
        /// Pages per sequence in the page table.
        max_pages: usize,
        /// Pages that both pools hold.
        pages: usize,
    },
}

/// What is attended to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeShape {
    /// Sequences, with one query each.
    pub batch: usize,
    /// Where queries lie: a token is a sequence.
    pub q: Layout,
    /// Where outputs go.
    pub out: Layout,
    /// Where keys and values lie.
    pub cache: DecodeCache,
    /// Which lists there are.
    pub lists: DecodeLists,
    /// The room of a list; without lists, the most keys of a sequence.
    pub capacity: usize,
    /// The type of queries: f16 or bf16.
    pub dtype: DType,
    /// The type of keys and values: that of queries, or fp8.
    pub cache_dtype: DType,
    /// The type of outputs.
    pub out_dtype: DType,
    /// What is done to logits. Sinks and scales come with the buffers.
    pub attention: Attention<'static>,
}

/// A decode step of one layer.
///
/// Lists are cut into splits, a block for each. How long a split is depends on the capacity alone,
/// not on lengths, batch or heads: with one capacity a sequence gets the same bits in every batch,
/// and a captured graph serves every length. Up to a capacity of 16384 a split has 256 entries, so
/// that even the capacity changes nothing. There is no other mode: decode is batch-invariant always.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodePlan {
    shape: DecodeShape,
    kv_heads: usize,
    group: usize,
    split: usize,
    q_len: usize,
    out_len: usize,
    k_len: usize,
    v_len: usize,
    workspace_len: usize,
}

impl DecodePlan {
    /// A plan for these shapes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for element types, numbers of heads or channels, and strides that the
    /// kernel does not take, outputs that share a place, and bad attention options;
    /// [`Error::LengthMismatch`] for heads and channels that disagree; [`Error::Overflow`] where
    /// sizes do; [`Error::Unfit`] for sinks here.
    pub fn new(shape: DecodeShape) -> Result<Self> {
        let DecodeShape { batch, q, out, cache, lists, capacity, .. } = shape;
        let DecodeShape { dtype, cache_dtype, out_dtype, attention, .. } = shape;
        check_attention(&attention)?;
        check_16_bits("bits of a query", dtype)?;
        if cache_dtype != dtype && cache_dtype != DType::F8E4M3 {
            let bits = 8 * cache_dtype.size();
            return out_of_range("bits of a key", bits, "of the queries' type, or 8");
        }
        if out_dtype != DType::F32 && out_dtype != dtype {
            let bits = 8 * out_dtype.size();
            return out_of_range("bits of an output", bits, "of the queries' type, or 32");
        }
        let (kv_heads, dim) = match cache {
            DecodeCache::Contiguous { k, v, .. } => {
                check_len("heads of v", k.heads, v.heads)?;
                check_len("channels of v", k.dim, v.dim)?;
                (k.heads, k.dim)
            }
            DecodeCache::Paged { layout, .. } => (layout.heads, layout.dim),
        };
        if kv_heads == 0 || !q.heads.is_multiple_of(kv_heads) {
            let expected = "a multiple of the number of KV heads, which is at least 1";
            return out_of_range("number of query heads", q.heads, expected);
        }
        let group = q.heads / kv_heads;
        if group > MAX_GROUP {
            return out_of_range("query heads per KV head", group, "at most 16");
        }
        check_len("channels of q", dim, q.dim)?;
        check_len("heads of out", q.heads, out.heads)?;
        check_len("channels of out", dim, out.dim)?;
        if dim == 0 || dim > MAX_DIM || !dim.is_multiple_of(8) {
            return out_of_range("channels per head", dim, "a multiple of 8 up to 256");
        }
        let chunk = 16 / cache_dtype.size();
        if !dim.is_multiple_of(chunk) {
            return out_of_range("channels per head", dim, "a multiple of 16, for fp8");
        }

        let (k_len, v_len) = match cache {
            DecodeCache::Contiguous { k, v, tokens } => {
                check_tokens("tokens", tokens)?;
                strides("stride of k", &[k.token_stride, k.head_stride], chunk)?;
                strides("stride of v", &[v.token_stride, v.head_stride], chunk)?;
                (required("k", k, tokens)?, required("v", v, tokens)?)
            }
            DecodeCache::Paged { layout, max_pages, pages } => {
                let PagedLayout { page_size, page_stride, token_stride, head_stride, .. } = layout;
                Pages { page_size, max_pages, pages }.check(batch)?;
                strides("stride of pages", &[page_stride, token_stride, head_stride], chunk)?;
                let len = bounded("pool of pages", layout.required_len(pages))?;
                (len, len)
            }
        };
        strides("stride of q", &[q.token_stride, q.head_stride], 8)?;
        to_i64("out", out.token_stride)?;
        to_i64("out", out.head_stride)?;
        let (q_len, out_len) = (required("q", q, batch)?, required("out", out, batch)?);
        if out_len > 0
            && !is_disjoint(dim, [(batch, out.token_stride), (out.heads, out.head_stride)])
        {
            return Err(shared_places(out.token_stride));
        }

        check_tokens("capacity", capacity)?;
        let list_heads = if lists == DecodeLists::PerHead { kv_heads } else { 1 };
        let lists = product("lists of kept tokens", &[batch, list_heads])?;
        to_i32("lists of kept tokens", lists)?;
        lists_len(lists, capacity)?;
        let split = capacity.div_ceil(SPLITS).next_multiple_of(ROUND).max(MIN_SPLIT);
        let splits = capacity.div_ceil(split).max(1);
        let rows = product("rows of out", &[batch, q.heads])?;
        to_i32("blocks", product("blocks", &[batch, kv_heads, splits.max(group)])?)?;
        let workspace_len = match splits {
            1 => 0,
            _ => product("workspace", &[rows, splits, dim + 2])?,
        };
        product("workspace", &[workspace_len, 4])?;
        Ok(Self { shape, kv_heads, group, split, q_len, out_len, k_len, v_len, workspace_len })
    }

    /// What it is for.
    pub fn shape(&self) -> &DecodeShape {
        &self.shape
    }

    /// The entries that a block takes.
    pub fn split(&self) -> usize {
        self.split
    }

    /// How many blocks share the longest list.
    pub fn splits(&self) -> usize {
        self.shape.capacity.div_ceil(self.split).max(1)
    }

    /// Bytes of workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_len * size_of::<f32>()
    }

    fn list_heads(&self) -> usize {
        match self.shape.lists {
            DecodeLists::Dense => 0,
            DecodeLists::Shared => 1,
            DecodeLists::PerHead => self.kv_heads,
        }
    }
}

/// Where the buffers of a decode step lie; lengths in elements, exact but for q, k, v and out, which
/// may be longer.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecodeBuffers {
    /// As [`DecodeShape::q`] says, aligned to 16 bytes.
    pub q: Buffer,
    /// The cache of keys, aligned to 16 bytes.
    pub k: Buffer,
    /// The cache of values, aligned to 16 bytes.
    pub v: Buffer,
    /// Written as [`DecodeShape::out`] says.
    pub out: Buffer,
    /// f32 `[batch, q heads]`, written.
    pub lse: Option<Buffer>,
    /// i32 `[batch]`: keys of every sequence.
    pub lens: Buffer,
    /// i32 `[batch]`: the first token of every sequence; contiguous caches only.
    pub span_starts: Option<Buffer>,
    /// i32 `[batch, max_pages]`; paged caches only.
    pub page_table: Option<Buffer>,
    /// i32 `[batch, capacity]` or `[batch * kv heads, capacity]`; with lists only.
    pub kept: Option<Buffer>,
    /// i32 `[batch]` or `[batch * kv heads]`; with lists only.
    pub kept_lens: Option<Buffer>,
    /// f32 `[kv heads]`: the [scales of keys](Attention::k_scales), 1 without.
    pub k_scales: Option<Buffer>,
    /// f32 `[kv heads]`: the [scales of values](Attention::v_scales), 1 without.
    pub v_scales: Option<Buffer>,
    /// f32 `[q heads]`: the [sinks](Attention::sinks). One that is NaN or infinity makes NaN of its
    /// head's rows.
    pub sinks: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
    /// [`DecodePlan::workspace_bytes`] bytes, aligned to 16.
    pub workspace: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], [`Error::Overlap`] of outputs and inputs, and
/// [`Error::Unfit`] for spans, pages or lists that the plan does not have, or that are missing.
pub fn decode_params(
    plan: &DecodePlan,
    buffers: &DecodeBuffers,
) -> Result<raw::SalientDecodeParams> {
    let DecodeShape { batch, q, out, cache, capacity, attention, .. } = plan.shape;
    let DecodeShape { dtype, cache_dtype, out_dtype, .. } = plan.shape;
    let lists = plan.list_heads();
    let paged = matches!(cache, DecodeCache::Paged { .. });
    for (what, given, wanted, expected) in [
        (
            "span starts",
            buffers.span_starts,
            !paged,
            "given if, and only if, the cache is contiguous",
        ),
        ("page table", buffers.page_table, paged, "given if, and only if, the cache is paged"),
        ("kept", buffers.kept, lists > 0, "given if, and only if, there are lists"),
        ("kept_lens", buffers.kept_lens, lists > 0, "given if, and only if, there are lists"),
    ] {
        if given.is_some() != wanted {
            return Err(Error::Unfit { what, expected });
        }
    }
    let placed = |what, buffer: Buffer, len, size, align| {
        buffer.holds(what, len)?;
        buffer.placed::<core::ffi::c_void>(what, size, align)
    };
    let out_size = out_dtype.size();
    let bytes = |buffer: Buffer, size| Buffer::new(buffer.address, buffer.len.saturating_mul(size));
    let size = cache_dtype.size();
    for (what, input, size) in [("q", buffers.q, 2), ("k", buffers.k, size), ("v", buffers.v, size)]
    {
        bytes(buffers.out, out_size).apart("out", bytes(input, size), what)?;
    }

    let layout = |token, head, page| -> Result<_> {
        Ok(raw::SalientDecodeLayout {
            token_stride: to_i64("strides of a cache", token)?,
            head_stride: to_i64("strides of a cache", head)?,
            page_stride: to_i64("strides of a cache", page)?,
        })
    };
    let (layouts, tokens, pages) = match cache {
        DecodeCache::Contiguous { k, v, tokens } => (
            [layout(k.token_stride, k.head_stride, 0)?, layout(v.token_stride, v.head_stride, 0)?],
            tokens,
            Pages { page_size: 0, max_pages: 0, pages: 0 },
        ),
        DecodeCache::Paged { layout: l, max_pages, pages } => (
            [layout(l.token_stride, l.head_stride, l.page_stride)?; 2],
            0,
            Pages { page_size: l.page_size, max_pages, pages },
        ),
    };
    let list_count = batch * lists;
    let workspace = buffers.workspace;
    workspace.holds("workspace", plan.workspace_bytes())?;
    Ok(raw::SalientDecodeParams {
        q: placed("q", buffers.q, plan.q_len, 2, 16)?,
        k: placed("k", buffers.k, plan.k_len, size, 16)?,
        v: placed("v", buffers.v, plan.v_len, size, 16)?,
        out: placed("out", buffers.out, plan.out_len, out_size, out_size)?,
        lse: Buffer::optional(buffers.lse, "lse", batch * q.heads)?,
        lens: buffers.lens.exactly("lengths of the sequences", batch)?,
        span_starts: Buffer::optional(buffers.span_starts, "span starts", batch)?,
        page_table: Buffer::optional(buffers.page_table, "page table", batch * pages.max_pages)?,
        kept: Buffer::optional(buffers.kept, "kept", lists_len(list_count, capacity)?)?,
        kept_lens: Buffer::optional(buffers.kept_lens, "kept_lens", list_count)?,
        sinks: Buffer::optional(buffers.sinks, "sinks", q.heads)?,
        k_scales: Buffer::optional(buffers.k_scales, "scales of k", plan.kv_heads)?,
        v_scales: Buffer::optional(buffers.v_scales, "scales of v", plan.kv_heads)?,
        status: buffers.status.exactly("status", 1)?,
        workspace: workspace.placed("workspace", 1, super::super::ALIGNMENT)?,
        layouts,
        q_stride: to_i64("q", q.token_stride)?,
        q_head_stride: to_i64("q", q.head_stride)?,
        out_stride: to_i64("out", out.token_stride)?,
        out_head_stride: to_i64("out", out.head_stride)?,
        scale: attention.scale,
        softcap: attention.softcap.unwrap_or(0.0),
        // A window of more tokens than there can be leaves them all.
        window: attention.sliding_window.map_or(0, |w| i32::try_from(w).unwrap_or(0)),
        batch: to_i32("sequences", batch)?,
        kv_heads: to_i32("KV heads", plan.kv_heads)?,
        group: to_i32("query heads per KV head", plan.group)?,
        dim: to_i32("channels per head", q.dim)?,
        list_heads: to_i32("heads of the lists", lists)?,
        capacity: to_i32("capacity", capacity)?,
        split: to_i32("split", plan.split)?,
        tokens: to_i32("tokens", tokens)?,
        page_size: to_i32("page size", pages.page_size)?,
        max_pages: to_i32("page table", pages.max_pages)?,
        pages: to_i32("pages of the pool", pages.pages)?,
        dtype: dtype_code(dtype),
        out_dtype: dtype_code(out_dtype),
        cache_dtype: dtype_code(cache_dtype),
    })
}

/// Checks keys and lists that the host knows: spans and pages that the cache holds, and lists that
/// ascend within their sequence.
///
/// # Errors
/// Those of [`decode`](crate::host::attend::decode).
pub fn check_decode_keys<T: Element>(keys: &Keys<'_, T>, lists: &KeyLists<'_>) -> Result<()> {
    keys.check()?;
    crate::host::attend::check_lists(keys, lists)
}

fn out_of_range<R>(what: &'static str, value: usize, expected: &'static str) -> Result<R> {
    Err(Error::OutOfRange { what, value: value as f64, expected })
}

/// Checks that strides are multiples of so many elements, which are 16 bytes.
fn strides(what: &'static str, strides: &[usize], chunk: usize) -> Result<()> {
    for &stride in strides {
        if !stride.is_multiple_of(chunk) {
            return out_of_range(what, stride, "a multiple of 16 bytes");
        }
        to_i64(what, stride)?;
    }
    Ok(())
}

/// The elements that a layout needs, where their bytes can be counted.
fn required(what: &'static str, layout: Layout, tokens: usize) -> Result<usize> {
    bounded(what, layout.required_len(tokens))
}

fn bounded(what: &'static str, len: Option<usize>) -> Result<usize> {
    len.filter(|&len| len <= isize::MAX as usize / 4).ok_or(Error::Overflow { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(len: usize) -> Buffer {
        Buffer::new(0x10000, len)
    }

    fn shape() -> DecodeShape {
        let (k, tokens) = (Layout::token_major(2, 64), 40);
        DecodeShape {
            batch: 3,
            q: Layout::token_major(8, 64),
            out: Layout::token_major(8, 64),
            cache: DecodeCache::Contiguous { k, v: k, tokens },
            lists: DecodeLists::PerHead,
            capacity: 300,
            dtype: DType::Bf16,
            cache_dtype: DType::Bf16,
            out_dtype: DType::F32,
            attention: Attention::new(0.125),
        }
    }

    fn paged() -> DecodeShape {
        let layout = PagedLayout::hnd(5, 2, 64);
        let cache = DecodeCache::Paged { layout, max_pages: 4, pages: 9 };
        DecodeShape { cache, lists: DecodeLists::Dense, capacity: 20, ..shape() }
    }

    fn buffers(shape: &DecodeShape, plan: &DecodePlan) -> DecodeBuffers {
        let paged = matches!(shape.cache, DecodeCache::Paged { .. });
        let lists = shape.lists != DecodeLists::Dense;
        let rows = 3 * plan.list_heads();
        DecodeBuffers {
            q: at(3 * 8 * 64),
            k: at(plan.k_len),
            v: at(plan.v_len),
            out: Buffer::new(0x1000000, 3 * 8 * 64),
            lse: Some(at(24)),
            lens: at(3),
            span_starts: (!paged).then_some(at(3)),
            page_table: paged.then_some(at(12)),
            kept: lists.then_some(at(rows * 300)),
            kept_lens: lists.then_some(at(rows)),
            sinks: Some(at(8)),
            k_scales: Some(at(2)),
            v_scales: Some(at(2)),
            status: at(1),
            workspace: at(plan.workspace_bytes()),
        }
    }

    #[test]
    fn fp8_caches_have_their_own_rules() {
        let fp8 = |dim: usize, stride: usize| {
            let q = Layout::token_major(8, dim);
            let k = Layout { token_stride: stride, ..Layout::token_major(2, dim) };
            let cache = DecodeCache::Contiguous { k, v: k, tokens: 40 };
            DecodePlan::new(DecodeShape { q, out: q, cache, cache_dtype: DType::F8E4M3, ..shape() })
        };
        let plan = fp8(64, 128).unwrap();
        let raw = decode_params(&plan, &buffers(&shape(), &plan)).unwrap();
        assert_eq!((raw.dtype, raw.cache_dtype, raw.k_scales.is_null()), (2, 3, false));
        assert!(fp8(72, 144).is_err() && fp8(64, 136).is_err());
        // The output may begin where so many bytes of keys end.
        let (q, out) = (Buffer::new(0x100000, 1536), Buffer::new(0x10000 + plan.k_len, 1536));
        let beside = DecodeBuffers { q, out, ..buffers(&shape(), &plan) };
        assert!(decode_params(&plan, &beside).is_ok());
    }

    #[test]
    fn good_buffers_become_parameters() {
        let plan = DecodePlan::new(shape()).unwrap();
        assert_eq!((plan.split(), plan.splits()), (256, 2));
        assert_eq!(plan.workspace_bytes(), 24 * 2 * 66 * 4);
        let raw = decode_params(&plan, &buffers(&shape(), &plan)).unwrap();
        assert_eq!((raw.batch, raw.kv_heads, raw.group, raw.dim), (3, 2, 4, 64));
        assert_eq!((raw.list_heads, raw.capacity, raw.tokens, raw.dtype), (2, 300, 40, 2));
        assert_eq!((raw.window, raw.softcap), (0, 0.0));
        assert!(raw.page_table.is_null());

        let plan = DecodePlan::new(paged()).unwrap();
        assert_eq!(plan.workspace_bytes(), 0);
        let raw = decode_params(&plan, &buffers(&paged(), &plan)).unwrap();
        assert_eq!((raw.page_size, raw.max_pages, raw.pages, raw.list_heads), (5, 4, 9, 0));
        assert_eq!(raw.layouts[1].page_stride, 5 * 2 * 64);
        assert!(raw.kept.is_null() && raw.span_starts.is_null());
    }

    #[test]
    fn splits_follow_the_capacity_alone() {
        for (capacity, split) in
            [(0, 256), (1, 256), (16384, 256), (16385, 320), (131072, 2048), (1 << 20, 16384)]
        {
            let plan = DecodePlan::new(DecodeShape { capacity, ..shape() }).unwrap();
            assert_eq!(plan.split(), split, "{capacity}");
            assert!(plan.splits() <= SPLITS && plan.splits() * split >= capacity);
            let other = DecodeShape { batch: 7, lists: DecodeLists::Dense, capacity, ..shape() };
            assert_eq!(DecodePlan::new(other).unwrap().split(), split);
        }
    }

    #[test]
    fn bad_buffers_are_refused() {
        type Field = fn(&mut DecodeBuffers) -> Option<&mut Buffer>;
        let fields: [(Field, usize); 15] = [
            (|b| Some(&mut b.q), 16),
            (|b| Some(&mut b.k), 16),
            (|b| Some(&mut b.v), 16),
            (|b| Some(&mut b.out), 4),
            (|b| b.lse.as_mut(), 4),
            (|b| Some(&mut b.lens), 4),
            (|b| b.span_starts.as_mut(), 4),
            (|b| b.page_table.as_mut(), 4),
            (|b| b.kept.as_mut(), 4),
            (|b| b.kept_lens.as_mut(), 4),
            (|b| b.sinks.as_mut(), 4),
            (|b| b.k_scales.as_mut(), 4),
            (|b| b.v_scales.as_mut(), 4),
            (|b| Some(&mut b.status), 4),
            (|b| Some(&mut b.workspace), 16),
        ];
        for shape in [shape(), paged()] {
            let plan = DecodePlan::new(shape).unwrap();
            let good = buffers(&shape, &plan);
            for (field, align) in fields {
                let (mut short, mut askew) = (good, good);
                let Some(buffer) = field(&mut short).filter(|buffer| buffer.len > 0) else {
                    continue;
                };
                buffer.len -= 1;
                let error = decode_params(&plan, &short);
                assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
                field(&mut askew).expect("as before").address += align / 2;
                let error = decode_params(&plan, &askew);
                assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
            }
            let overlap = DecodeBuffers { out: Buffer::new(0x10000, 3 * 8 * 64), ..good };
            assert!(matches!(decode_params(&plan, &overlap), Err(Error::Overlap { .. })));
            for wrong in [
                DecodeBuffers { span_starts: good.page_table.map(|_| at(3)), ..good },
                DecodeBuffers { page_table: good.span_starts.map(|_| at(12)), ..good },
                DecodeBuffers { kept: good.kept.xor(Some(at(0))), ..good },
                DecodeBuffers { kept_lens: good.kept_lens.xor(Some(at(0))), ..good },
            ] {
                assert!(matches!(decode_params(&plan, &wrong), Err(Error::Unfit { .. })));
            }
        }
    }

    #[test]
    fn shapes_that_the_kernel_cannot_take_are_refused() {
        let good = shape();
        let kv = Layout::token_major(2, 64);
        let cache = |k, v| DecodeCache::Contiguous { k, v, tokens: 40 };
        let narrow = Layout::token_major(8, 60);
        let wide = Layout::token_major(8, 264);
        let bad = [
            DecodeShape { dtype: DType::F32, cache_dtype: DType::F32, ..good },
            DecodeShape { dtype: DType::F8E4M3, cache_dtype: DType::F8E4M3, ..good },
            DecodeShape { cache_dtype: DType::F16, ..good },
            DecodeShape { cache_dtype: DType::F32, ..good },
            DecodeShape { out_dtype: DType::F16, ..good },
            DecodeShape { out_dtype: DType::F8E4M3, ..good },
            DecodeShape { q: Layout::token_major(7, 64), ..good },
            DecodeShape { out: Layout::token_major(4, 64), ..good },
            DecodeShape { out: Layout { token_stride: 0, ..good.out }, ..good },
            DecodeShape { q: Layout { token_stride: 8 * 64 + 4, ..good.q }, ..good },
            DecodeShape { cache: cache(kv, Layout::token_major(4, 64)), ..good },
            DecodeShape { cache: cache(kv, Layout::token_major(2, 72)), ..good },
            DecodeShape { cache: cache(Layout { head_stride: 68, ..kv }, kv), ..good },
            DecodeShape {
                cache: cache(Layout { token_stride: usize::MAX / 8 * 8, ..kv }, kv),
                ..good
            },
            DecodeShape {
                cache: DecodeCache::Contiguous { k: kv, v: kv, tokens: 1 << 31 },
                ..good
            },
            DecodeShape { q: narrow, out: narrow, cache: cache(narrow, narrow), ..good },
            DecodeShape { q: wide, out: wide, cache: cache(wide, wide), ..good },
            DecodeShape { capacity: 1 << 31, ..good },
            DecodeShape { batch: 1 << 31, ..good },
            DecodeShape { attention: Attention::new(f32::NAN), ..good },
            DecodeShape {
                attention: Attention { sinks: Some(&[0.0; 8]), ..good.attention },
                ..good
            },
        ];
        for (i, shape) in bad.into_iter().enumerate() {
            assert!(DecodePlan::new(shape).is_err(), "shape {i}");
        }
        let grouped = |heads| {
            let one = Layout::token_major(1, 64);
            let q = Layout::token_major(heads, 64);
            DecodePlan::new(DecodeShape { q, out: q, cache: cache(one, one), ..good })
        };
        assert!(grouped(16).is_ok() && grouped(0).is_ok());
        assert!(grouped(17).is_err());
    }
}
