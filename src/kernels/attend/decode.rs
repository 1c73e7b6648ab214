//! One query per sequence.

mod params;

pub use params::{DecodeBuffers, decode_params};

use super::super::validate::Pages;
use super::super::{check_16_bits, check_tokens, lists_len, product, to_i32, to_i64};
use super::check_attention;
use crate::attend::{Attention, CacheLayout, KeyLists, Keys, PackedLists};
use crate::checks::check_len;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::layout::{Layout, PagedLayout, is_disjoint, shared_places};

/// The most query heads that may share a KV head.
const MAX_GROUP: usize = 16;

/// The most channels of a head.
const MAX_DIM: usize = 256;

/// The fewest entries per block: enough that its partial results are small beside what it reads.
const MIN_SPLIT: usize = 256;

/// The most splits of a list, but for rounding.
const SPLITS: usize = 64;

/// The entries that a block takes at a time.
const ROUND: usize = 64;

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
    pub cache: CacheLayout,
    /// Which lists there are.
    pub lists: KeyLists,
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
/// that even the capacity changes nothing. There is no other mode: decode is batch-invariant
/// always.
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
            CacheLayout::Contiguous { k, v, .. } => {
                check_len("heads of v", k.heads, v.heads)?;
                check_len("channels of v", k.dim, v.dim)?;
                (k.heads, k.dim)
            }
            CacheLayout::Paged { layout, .. } => (layout.heads, layout.dim),
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
            CacheLayout::Contiguous { k, v, tokens } => {
                check_tokens("tokens", tokens)?;
                strides("stride of k", &[k.token_stride, k.head_stride], chunk)?;
                strides("stride of v", &[v.token_stride, v.head_stride], chunk)?;
                (required("k", k, tokens)?, required("v", v, tokens)?)
            }
            CacheLayout::Paged { layout, max_pages, pages } => {
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
        let list_heads = if lists == KeyLists::PerHead(()) { kv_heads } else { 1 };
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

    /// The plan of a step over keys and lists that the host knows; everything is checked that can
    /// be. `q` and `out` say how queries and outputs lie, `dtypes` of what type they are. There is
    /// room for `spare` more entries than the longest list has, or without lists the longest
    /// sequence, so that the next steps need no other plan.
    ///
    /// # Errors
    /// Those of [`DecodePlan::new`] and of [`decode`](crate::host::attend::decode), data of queries
    /// and outputs aside.
    pub fn of<K: Element>(
        [q, out]: [Layout; 2],
        [dtype, out_dtype]: [DType; 2],
        keys: &Keys<'_, K>,
        lists: KeyLists<PackedLists<'_>>,
        attention: &Attention<'_>,
        spare: usize,
    ) -> Result<Self> {
        keys.check()?;
        lists.check(keys)?;
        attention.check_attention_sink(q.heads)?;
        attention.check_scales(keys.heads())?;
        let longest = match lists.lists() {
            None => keys.longest(),
            Some(packed) => packed.lists.lens().max().unwrap_or(0),
        };
        Self::new(DecodeShape {
            batch: keys.batch(),
            q,
            out,
            cache: keys.layout()?,
            lists: lists.kind(),
            capacity: longest + spare,
            dtype,
            cache_dtype: K::DTYPE,
            out_dtype,
            attention: attention.scalars(),
        })
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
        self.shape.lists.per_sequence(self.kv_heads)
    }
}

fn out_of_range<R>(what: &'static str, value: usize, expected: &'static str) -> Result<R> {
    Err(Error::OutOfRange { what, value: value as f64, expected })
}

/// Checks that strides are multiples of this number of elements, which are 16 bytes.
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
mod tests;
