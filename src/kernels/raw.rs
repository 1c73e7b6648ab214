// Made by bindgen from kernels/include/salient.h: see scripts/bindings.

/// A cudaStream_t.
pub type SalientStream = *mut ::core::ffi::c_void;
/// What a kernel found wrong in data that only the device sees. Kernels add to it, so the caller clears it: flags to 0, row to UINT32_MAX.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct SalientStatus {
    /// SALIENT_STATUS_*, or-ed together
    pub flags: u32,
    /// the lowest row at fault, NaN scores aside; UINT32_MAX if there is none
    pub row: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientStatus"][::core::mem::size_of::<SalientStatus>() - 8usize];
    ["Alignment of SalientStatus"][::core::mem::align_of::<SalientStatus>() - 4usize];
    [
        "Offset of field: SalientStatus::flags",
    ][::core::mem::offset_of!(SalientStatus, flags) - 0usize];
    [
        "Offset of field: SalientStatus::row",
    ][::core::mem::offset_of!(SalientStatus, row) - 4usize];
};
/// a score is NaN
pub const SALIENT_STATUS_NAN: u32 = 1;
/// more tokens are protected than the budget keeps
pub const SALIENT_STATUS_PROTECTED: u32 = 2;
/// a row keeps more tokens than its list has room for
pub const SALIENT_STATUS_CAPACITY: u32 = 4;
/// invalid cu_seqlens, spans or list lengths
pub const SALIENT_STATUS_LENGTHS: u32 = 8;
/// a list entry outside its sequence, or -1 before the end
pub const SALIENT_STATUS_INDEX: u32 = 16;
/// a list that does not ascend strictly
pub const SALIENT_STATUS_ORDER: u32 = 32;
/// a page outside the pool
pub const SALIENT_STATUS_PAGE: u32 = 64;
pub const SALIENT_F32: i32 = 0;
pub const SALIENT_F16: i32 = 1;
pub const SALIENT_BF16: i32 = 2;
pub const SALIENT_F8E4M3: i32 = 3;
/// Where the heads of a \[tokens, heads, dim\] tensor lie, in elements; multiples of 16 bytes.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct SalientStrides {
    pub token: i64,
    pub head: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientStrides"][::core::mem::size_of::<SalientStrides>() - 16usize];
    ["Alignment of SalientStrides"][::core::mem::align_of::<SalientStrides>() - 8usize];
    [
        "Offset of field: SalientStrides::token",
    ][::core::mem::offset_of!(SalientStrides, token) - 0usize];
    [
        "Offset of field: SalientStrides::head",
    ][::core::mem::offset_of!(SalientStrides, head) - 8usize];
};
/// The predictor: scores\[t\] = b2 + sum over n of w2\[n\] * gelu(rstd\[t\] * (x\[t\] . w1\[n\]) + b1\[n\]). Partial sums of every tile of columns lie in `partials` and are added in order.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientMlpParams {
    /// \[tokens, hidden\], rows x_stride elements apart; 16-byte aligned
    pub x: *const ::core::ffi::c_void,
    /// \[width, hidden\], the norm's weight folded in; 16-byte aligned
    pub w1: *const ::core::ffi::c_void,
    /// \[width\]
    pub b1: *const f32,
    /// \[width\]
    pub w2: *const f32,
    /// \[tokens\]
    pub scores: *mut f32,
    /// \[ceil(width / SALIENT_MLP_TILE), tokens\]
    pub partials: *mut f32,
    /// \[1\] tokens that exist, at most `tokens`; the rest score -inf. Or null
    pub valid: *const i32,
    /// elements; a multiple of 8
    pub x_stride: i64,
    pub b2: f32,
    /// epsilon of the RMSNorm
    pub eps: f32,
    /// 0: no norm, rstd = 1
    pub norm: i32,
    pub tokens: i32,
    /// a multiple of 8
    pub hidden: i32,
    pub width: i32,
    /// of x and w1: f16 or bf16
    pub dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientMlpParams"][::core::mem::size_of::<SalientMlpParams>() - 96usize];
    [
        "Alignment of SalientMlpParams",
    ][::core::mem::align_of::<SalientMlpParams>() - 8usize];
    [
        "Offset of field: SalientMlpParams::x",
    ][::core::mem::offset_of!(SalientMlpParams, x) - 0usize];
    [
        "Offset of field: SalientMlpParams::w1",
    ][::core::mem::offset_of!(SalientMlpParams, w1) - 8usize];
    [
        "Offset of field: SalientMlpParams::b1",
    ][::core::mem::offset_of!(SalientMlpParams, b1) - 16usize];
    [
        "Offset of field: SalientMlpParams::w2",
    ][::core::mem::offset_of!(SalientMlpParams, w2) - 24usize];
    [
        "Offset of field: SalientMlpParams::scores",
    ][::core::mem::offset_of!(SalientMlpParams, scores) - 32usize];
    [
        "Offset of field: SalientMlpParams::partials",
    ][::core::mem::offset_of!(SalientMlpParams, partials) - 40usize];
    [
        "Offset of field: SalientMlpParams::valid",
    ][::core::mem::offset_of!(SalientMlpParams, valid) - 48usize];
    [
        "Offset of field: SalientMlpParams::x_stride",
    ][::core::mem::offset_of!(SalientMlpParams, x_stride) - 56usize];
    [
        "Offset of field: SalientMlpParams::b2",
    ][::core::mem::offset_of!(SalientMlpParams, b2) - 64usize];
    [
        "Offset of field: SalientMlpParams::eps",
    ][::core::mem::offset_of!(SalientMlpParams, eps) - 68usize];
    [
        "Offset of field: SalientMlpParams::norm",
    ][::core::mem::offset_of!(SalientMlpParams, norm) - 72usize];
    [
        "Offset of field: SalientMlpParams::tokens",
    ][::core::mem::offset_of!(SalientMlpParams, tokens) - 76usize];
    [
        "Offset of field: SalientMlpParams::hidden",
    ][::core::mem::offset_of!(SalientMlpParams, hidden) - 80usize];
    [
        "Offset of field: SalientMlpParams::width",
    ][::core::mem::offset_of!(SalientMlpParams, width) - 84usize];
    [
        "Offset of field: SalientMlpParams::dtype",
    ][::core::mem::offset_of!(SalientMlpParams, dtype) - 88usize];
};
/// columns that one partial sum covers
pub const SALIENT_MLP_TILE: i32 = 128;
/// Minus the Euclidean norm of each key, per head or averaged over heads in order.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientKeynormParams {
    /// \[tokens, heads, dim\] by strides
    pub keys: *const ::core::ffi::c_void,
    /// \[heads, tokens\], or \[tokens\] if mean
    pub scores: *mut f32,
    /// elements
    pub token_stride: i64,
    /// elements
    pub head_stride: i64,
    pub tokens: i32,
    pub heads: i32,
    pub dim: i32,
    /// 1: the mean over heads
    pub mean: i32,
    pub dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientKeynormParams",
    ][::core::mem::size_of::<SalientKeynormParams>() - 56usize];
    [
        "Alignment of SalientKeynormParams",
    ][::core::mem::align_of::<SalientKeynormParams>() - 8usize];
    [
        "Offset of field: SalientKeynormParams::keys",
    ][::core::mem::offset_of!(SalientKeynormParams, keys) - 0usize];
    [
        "Offset of field: SalientKeynormParams::scores",
    ][::core::mem::offset_of!(SalientKeynormParams, scores) - 8usize];
    [
        "Offset of field: SalientKeynormParams::token_stride",
    ][::core::mem::offset_of!(SalientKeynormParams, token_stride) - 16usize];
    [
        "Offset of field: SalientKeynormParams::head_stride",
    ][::core::mem::offset_of!(SalientKeynormParams, head_stride) - 24usize];
    [
        "Offset of field: SalientKeynormParams::tokens",
    ][::core::mem::offset_of!(SalientKeynormParams, tokens) - 32usize];
    [
        "Offset of field: SalientKeynormParams::heads",
    ][::core::mem::offset_of!(SalientKeynormParams, heads) - 36usize];
    [
        "Offset of field: SalientKeynormParams::dim",
    ][::core::mem::offset_of!(SalientKeynormParams, dim) - 40usize];
    [
        "Offset of field: SalientKeynormParams::mean",
    ][::core::mem::offset_of!(SalientKeynormParams, mean) - 44usize];
    [
        "Offset of field: SalientKeynormParams::dtype",
    ][::core::mem::offset_of!(SalientKeynormParams, dtype) - 48usize];
};
pub const SALIENT_HEADS_MEAN: i32 = 0;
pub const SALIENT_HEADS_MAX: i32 = 1;
pub const SALIENT_HEADS_MAX_NORMALISED: i32 = 2;
pub const SALIENT_POOL_AVERAGE: i32 = 0;
pub const SALIENT_POOL_MAX: i32 = 1;
/// Scores pooled along the tokens of each sequence: of every token and those within half a width of it.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientPoolParams {
    /// \[heads, total\]
    pub scores: *const f32,
    /// \[heads, total\]; not where the scores lie
    pub out: *mut f32,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    pub status: *mut SalientStatus,
    pub batch: i32,
    pub heads: i32,
    pub total: i32,
    /// no sequence is longer; a longer one is a LENGTHS fault
    pub max_len: i32,
    /// SALIENT_POOL_*
    pub kind: i32,
    /// odd, up to SALIENT_MAX_POOL_WIDTH
    pub width: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientPoolParams"][::core::mem::size_of::<SalientPoolParams>() - 56usize];
    [
        "Alignment of SalientPoolParams",
    ][::core::mem::align_of::<SalientPoolParams>() - 8usize];
    [
        "Offset of field: SalientPoolParams::scores",
    ][::core::mem::offset_of!(SalientPoolParams, scores) - 0usize];
    [
        "Offset of field: SalientPoolParams::out",
    ][::core::mem::offset_of!(SalientPoolParams, out) - 8usize];
    [
        "Offset of field: SalientPoolParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientPoolParams, cu_seqlens) - 16usize];
    [
        "Offset of field: SalientPoolParams::status",
    ][::core::mem::offset_of!(SalientPoolParams, status) - 24usize];
    [
        "Offset of field: SalientPoolParams::batch",
    ][::core::mem::offset_of!(SalientPoolParams, batch) - 32usize];
    [
        "Offset of field: SalientPoolParams::heads",
    ][::core::mem::offset_of!(SalientPoolParams, heads) - 36usize];
    [
        "Offset of field: SalientPoolParams::total",
    ][::core::mem::offset_of!(SalientPoolParams, total) - 40usize];
    [
        "Offset of field: SalientPoolParams::max_len",
    ][::core::mem::offset_of!(SalientPoolParams, max_len) - 44usize];
    [
        "Offset of field: SalientPoolParams::kind",
    ][::core::mem::offset_of!(SalientPoolParams, kind) - 48usize];
    [
        "Offset of field: SalientPoolParams::width",
    ][::core::mem::offset_of!(SalientPoolParams, width) - 52usize];
};
pub const SALIENT_MAX_POOL_WIDTH: i32 = 33;
/// Percentile ranks of scores: of each, the number of scores of its sequence and head that are strictly lower, over the sequence's length. The rank of NaN is NaN, which is lower than nothing.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientRankParams {
    /// \[heads, total\]
    pub scores: *const f32,
    /// \[heads, total\]; not where the scores lie
    pub out: *mut f32,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    pub status: *mut SalientStatus,
    pub batch: i32,
    pub heads: i32,
    pub total: i32,
    /// no sequence is longer; a longer one is a LENGTHS fault
    pub max_len: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientRankParams"][::core::mem::size_of::<SalientRankParams>() - 48usize];
    [
        "Alignment of SalientRankParams",
    ][::core::mem::align_of::<SalientRankParams>() - 8usize];
    [
        "Offset of field: SalientRankParams::scores",
    ][::core::mem::offset_of!(SalientRankParams, scores) - 0usize];
    [
        "Offset of field: SalientRankParams::out",
    ][::core::mem::offset_of!(SalientRankParams, out) - 8usize];
    [
        "Offset of field: SalientRankParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientRankParams, cu_seqlens) - 16usize];
    [
        "Offset of field: SalientRankParams::status",
    ][::core::mem::offset_of!(SalientRankParams, status) - 24usize];
    [
        "Offset of field: SalientRankParams::batch",
    ][::core::mem::offset_of!(SalientRankParams, batch) - 32usize];
    [
        "Offset of field: SalientRankParams::heads",
    ][::core::mem::offset_of!(SalientRankParams, heads) - 36usize];
    [
        "Offset of field: SalientRankParams::total",
    ][::core::mem::offset_of!(SalientRankParams, total) - 40usize];
    [
        "Offset of field: SalientRankParams::max_len",
    ][::core::mem::offset_of!(SalientRankParams, max_len) - 44usize];
};
/// Softmax attention of the last queries of each sequence, made one score per token. The contract is that of salient::score: the last min(window, queries, tokens) queries of a sequence see its keys causally, aligned at the end. A query's sum of exponentials is computed, or taken from an LSE that prefill saved; a query whose LSE is -infinity counts nothing. Sequences with impossible offsets are reported and not written. q and k are 16-byte aligned. The workspace's parts are null where they are not needed: stats and sums if there is an LSE; logits but for windows of few queries, which save them instead of reading keys twice and then need no raw; maxima unless heads are normalised. A tile is SALIENT_SCORE_TILE keys, or more.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientAttentionScoreParams {
    /// \[queries, q_heads, dim\]
    pub q: *const ::core::ffi::c_void,
    /// \[total, kv_heads, dim\]
    pub k: *const ::core::ffi::c_void,
    /// \[queries, q_heads\] log of the sum of exponentials; or null
    pub lse: *const f32,
    /// \[total\], or \[kv_heads, total\] if per_kv_head
    pub scores: *mut f32,
    /// \[batch + 1\]
    pub cu_queries: *const i32,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    pub status: *mut SalientStatus,
    /// \[total / tile + batch, q_heads, window, 2\] of each tile of keys
    pub stats: *mut f32,
    /// \[batch, q_heads, window, 2\]
    pub sums: *mut f32,
    /// \[q_heads, window, total\] dot products
    pub logits: *mut f32,
    /// \[kv_heads, total\]; \[q_heads, total\] if heads are normalised
    pub raw: *mut f32,
    /// \[total / tile + batch, q_heads, 8\] largest scores of each tile
    pub maxima: *mut f32,
    pub q_strides: SalientStrides,
    pub k_strides: SalientStrides,
    /// of the dot product
    pub scale: f32,
    /// of a window's first query, and its last; weights between them are
    pub first_weight: f32,
    /// evenly spaced, and scaled to add up to 1. The larger is 1
    pub last_weight: f32,
    /// the most queries that count; without an LSE, at most SALIENT_MAX_WINDOW
    pub window: i32,
    /// SALIENT_HEADS_*
    pub heads: i32,
    /// 1: a score for every KV head and token
    pub per_kv_head: i32,
    /// SALIENT_POOL_*
    pub pool: i32,
    /// odd, up to SALIENT_MAX_POOL_WIDTH; 1: no pooling
    pub pool_width: i32,
    pub batch: i32,
    pub q_heads: i32,
    pub kv_heads: i32,
    /// a multiple of 8, up to 256
    pub dim: i32,
    pub queries: i32,
    pub total: i32,
    /// no sequence has more tokens; one that has is a LENGTHS fault
    pub max_len: i32,
    /// of q and k: f16 or bf16
    pub dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientAttentionScoreParams",
    ][::core::mem::size_of::<SalientAttentionScoreParams>() - 192usize];
    [
        "Alignment of SalientAttentionScoreParams",
    ][::core::mem::align_of::<SalientAttentionScoreParams>() - 8usize];
    [
        "Offset of field: SalientAttentionScoreParams::q",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, q) - 0usize];
    [
        "Offset of field: SalientAttentionScoreParams::k",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, k) - 8usize];
    [
        "Offset of field: SalientAttentionScoreParams::lse",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, lse) - 16usize];
    [
        "Offset of field: SalientAttentionScoreParams::scores",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, scores) - 24usize];
    [
        "Offset of field: SalientAttentionScoreParams::cu_queries",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, cu_queries) - 32usize];
    [
        "Offset of field: SalientAttentionScoreParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, cu_seqlens) - 40usize];
    [
        "Offset of field: SalientAttentionScoreParams::status",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, status) - 48usize];
    [
        "Offset of field: SalientAttentionScoreParams::stats",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, stats) - 56usize];
    [
        "Offset of field: SalientAttentionScoreParams::sums",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, sums) - 64usize];
    [
        "Offset of field: SalientAttentionScoreParams::logits",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, logits) - 72usize];
    [
        "Offset of field: SalientAttentionScoreParams::raw",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, raw) - 80usize];
    [
        "Offset of field: SalientAttentionScoreParams::maxima",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, maxima) - 88usize];
    [
        "Offset of field: SalientAttentionScoreParams::q_strides",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, q_strides) - 96usize];
    [
        "Offset of field: SalientAttentionScoreParams::k_strides",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, k_strides) - 112usize];
    [
        "Offset of field: SalientAttentionScoreParams::scale",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, scale) - 128usize];
    [
        "Offset of field: SalientAttentionScoreParams::first_weight",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, first_weight) - 132usize];
    [
        "Offset of field: SalientAttentionScoreParams::last_weight",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, last_weight) - 136usize];
    [
        "Offset of field: SalientAttentionScoreParams::window",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, window) - 140usize];
    [
        "Offset of field: SalientAttentionScoreParams::heads",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, heads) - 144usize];
    [
        "Offset of field: SalientAttentionScoreParams::per_kv_head",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, per_kv_head) - 148usize];
    [
        "Offset of field: SalientAttentionScoreParams::pool",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, pool) - 152usize];
    [
        "Offset of field: SalientAttentionScoreParams::pool_width",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, pool_width) - 156usize];
    [
        "Offset of field: SalientAttentionScoreParams::batch",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, batch) - 160usize];
    [
        "Offset of field: SalientAttentionScoreParams::q_heads",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, q_heads) - 164usize];
    [
        "Offset of field: SalientAttentionScoreParams::kv_heads",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, kv_heads) - 168usize];
    [
        "Offset of field: SalientAttentionScoreParams::dim",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, dim) - 172usize];
    [
        "Offset of field: SalientAttentionScoreParams::queries",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, queries) - 176usize];
    [
        "Offset of field: SalientAttentionScoreParams::total",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, total) - 180usize];
    [
        "Offset of field: SalientAttentionScoreParams::max_len",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, max_len) - 184usize];
    [
        "Offset of field: SalientAttentionScoreParams::dtype",
    ][::core::mem::offset_of!(SalientAttentionScoreParams, dtype) - 188usize];
};
pub const SALIENT_MAX_WINDOW: i32 = 128;
pub const SALIENT_SCORE_TILE: i32 = 128;
/// Expected attention: of query head g, x\[t\] = sum over channels j of k\[t, j\] * (mean\[j\] + sum over i of product\[i, j\] * k\[t, i\]), softmax over the tokens of a sequence behind its sinks, 0 for those; then the mean over a group's heads plus epsilon, times the norm of the token's value. `weights` holds, for every set and query head, chunks of 16 columns of the product, with the channels in the order of score/keys.cuh: the columns' 16 means in f32, one f32 that x is to be multiplied by, 12 bytes of nothing, then, with a product, for each block of 16 rows up to the columns' own and each of the 2 (f16) or 3 (bf16) terms that an element is the sum of, a 16 x 16 block as mma.m16n8k16 takes its second operand: 16 bytes a lane. The product is upper triangular; rows and columns beyond dim are 0, up to a multiple of 32.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientExpectedParams {
    /// \[total, kv_heads, dim\]; 16-byte aligned
    pub k: *const ::core::ffi::c_void,
    /// \[total, kv_heads, value_dim\]; or null: norms are 1
    pub v: *const ::core::ffi::c_void,
    /// \[sets, q_heads, head_bytes\]; 16-byte aligned
    pub weights: *const ::core::ffi::c_void,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    /// \[total\], the mean over KV heads, or \[kv_heads, total\] if per_kv_head
    pub scores: *mut f32,
    pub status: *mut SalientStatus,
    /// \[q_heads, total\]
    pub logits: *mut f32,
    /// \[batch, q_heads, 2\] largest logit, 1 / sum of exponentials
    pub totals: *mut f32,
    /// \[kv_heads, total\]; null if v is
    pub norms: *mut f32,
    pub k_strides: SalientStrides,
    /// any
    pub v_strides: SalientStrides,
    /// of a head in weights
    pub head_bytes: i64,
    pub epsilon: f32,
    /// first tokens of a sequence that the softmax leaves out
    pub sinks: i32,
    /// 1, or batch: weights of every sequence's own
    pub sets: i32,
    /// 0: there is none
    pub product: i32,
    pub per_kv_head: i32,
    pub batch: i32,
    pub q_heads: i32,
    pub kv_heads: i32,
    /// a multiple of 8, up to 256
    pub dim: i32,
    pub value_dim: i32,
    pub total: i32,
    /// no sequence is longer; a longer one is a LENGTHS fault
    pub max_len: i32,
    /// of k and v: f16 or bf16
    pub dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientExpectedParams",
    ][::core::mem::size_of::<SalientExpectedParams>() - 168usize];
    [
        "Alignment of SalientExpectedParams",
    ][::core::mem::align_of::<SalientExpectedParams>() - 8usize];
    [
        "Offset of field: SalientExpectedParams::k",
    ][::core::mem::offset_of!(SalientExpectedParams, k) - 0usize];
    [
        "Offset of field: SalientExpectedParams::v",
    ][::core::mem::offset_of!(SalientExpectedParams, v) - 8usize];
    [
        "Offset of field: SalientExpectedParams::weights",
    ][::core::mem::offset_of!(SalientExpectedParams, weights) - 16usize];
    [
        "Offset of field: SalientExpectedParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientExpectedParams, cu_seqlens) - 24usize];
    [
        "Offset of field: SalientExpectedParams::scores",
    ][::core::mem::offset_of!(SalientExpectedParams, scores) - 32usize];
    [
        "Offset of field: SalientExpectedParams::status",
    ][::core::mem::offset_of!(SalientExpectedParams, status) - 40usize];
    [
        "Offset of field: SalientExpectedParams::logits",
    ][::core::mem::offset_of!(SalientExpectedParams, logits) - 48usize];
    [
        "Offset of field: SalientExpectedParams::totals",
    ][::core::mem::offset_of!(SalientExpectedParams, totals) - 56usize];
    [
        "Offset of field: SalientExpectedParams::norms",
    ][::core::mem::offset_of!(SalientExpectedParams, norms) - 64usize];
    [
        "Offset of field: SalientExpectedParams::k_strides",
    ][::core::mem::offset_of!(SalientExpectedParams, k_strides) - 72usize];
    [
        "Offset of field: SalientExpectedParams::v_strides",
    ][::core::mem::offset_of!(SalientExpectedParams, v_strides) - 88usize];
    [
        "Offset of field: SalientExpectedParams::head_bytes",
    ][::core::mem::offset_of!(SalientExpectedParams, head_bytes) - 104usize];
    [
        "Offset of field: SalientExpectedParams::epsilon",
    ][::core::mem::offset_of!(SalientExpectedParams, epsilon) - 112usize];
    [
        "Offset of field: SalientExpectedParams::sinks",
    ][::core::mem::offset_of!(SalientExpectedParams, sinks) - 116usize];
    [
        "Offset of field: SalientExpectedParams::sets",
    ][::core::mem::offset_of!(SalientExpectedParams, sets) - 120usize];
    [
        "Offset of field: SalientExpectedParams::product",
    ][::core::mem::offset_of!(SalientExpectedParams, product) - 124usize];
    [
        "Offset of field: SalientExpectedParams::per_kv_head",
    ][::core::mem::offset_of!(SalientExpectedParams, per_kv_head) - 128usize];
    [
        "Offset of field: SalientExpectedParams::batch",
    ][::core::mem::offset_of!(SalientExpectedParams, batch) - 132usize];
    [
        "Offset of field: SalientExpectedParams::q_heads",
    ][::core::mem::offset_of!(SalientExpectedParams, q_heads) - 136usize];
    [
        "Offset of field: SalientExpectedParams::kv_heads",
    ][::core::mem::offset_of!(SalientExpectedParams, kv_heads) - 140usize];
    [
        "Offset of field: SalientExpectedParams::dim",
    ][::core::mem::offset_of!(SalientExpectedParams, dim) - 144usize];
    [
        "Offset of field: SalientExpectedParams::value_dim",
    ][::core::mem::offset_of!(SalientExpectedParams, value_dim) - 148usize];
    [
        "Offset of field: SalientExpectedParams::total",
    ][::core::mem::offset_of!(SalientExpectedParams, total) - 152usize];
    [
        "Offset of field: SalientExpectedParams::max_len",
    ][::core::mem::offset_of!(SalientExpectedParams, max_len) - 156usize];
    [
        "Offset of field: SalientExpectedParams::dtype",
    ][::core::mem::offset_of!(SalientExpectedParams, dtype) - 160usize];
};
/// The lightning indexer: logit\[m, n\] = scales\[n\] * sum over heads h of weights\[m, h\] * ReLU(q\[m, h\] . k\[n\]) for the keys n of its sequence that query m sees, -infinity for others. Which those are is told as for prefill.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientIndexerParams {
    /// \[queries, heads, dim\]; 16-byte aligned
    pub q: *const ::core::ffi::c_void,
    /// \[queries, heads\]
    pub weights: *const f32,
    /// \[keys, dim\], rows k_stride elements apart; 16-byte aligned
    pub k: *const ::core::ffi::c_void,
    /// \[keys\]; or null: 1
    pub scales: *const f32,
    /// \[batch + 1\]
    pub cu_queries: *const i32,
    /// \[batch + 1\]
    pub cu_keys: *const i32,
    /// \[queries\]; null: 0
    pub firsts: *const i32,
    /// \[queries\]; null unless sees is SALIENT_SEES_ROWS
    pub limits: *const i32,
    /// \[queries, out_stride\]; if that is 0, \[keys\], where the one query or none of a sequence has its row where the sequence's keys lie
    pub logits: *mut f32,
    /// INDEX: a first row or limit beyond the keys; row: the query
    pub status: *mut SalientStatus,
    pub q_strides: SalientStrides,
    /// a multiple of 16 bytes
    pub k_stride: i64,
    pub out_stride: i64,
    /// SALIENT_SEES_*
    pub sees: i32,
    pub batch: i32,
    /// up to SALIENT_INDEXER_MAX_HEADS
    pub heads: i32,
    /// a multiple of 16, up to SALIENT_INDEXER_MAX_DIM
    pub dim: i32,
    pub queries: i32,
    pub keys: i32,
    /// no sequence has more; one that has is a LENGTHS fault
    pub max_queries: i32,
    /// the same
    pub max_keys: i32,
    /// of q and k: f16, bf16 or e4m3
    pub dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientIndexerParams",
    ][::core::mem::size_of::<SalientIndexerParams>() - 152usize];
    [
        "Alignment of SalientIndexerParams",
    ][::core::mem::align_of::<SalientIndexerParams>() - 8usize];
    [
        "Offset of field: SalientIndexerParams::q",
    ][::core::mem::offset_of!(SalientIndexerParams, q) - 0usize];
    [
        "Offset of field: SalientIndexerParams::weights",
    ][::core::mem::offset_of!(SalientIndexerParams, weights) - 8usize];
    [
        "Offset of field: SalientIndexerParams::k",
    ][::core::mem::offset_of!(SalientIndexerParams, k) - 16usize];
    [
        "Offset of field: SalientIndexerParams::scales",
    ][::core::mem::offset_of!(SalientIndexerParams, scales) - 24usize];
    [
        "Offset of field: SalientIndexerParams::cu_queries",
    ][::core::mem::offset_of!(SalientIndexerParams, cu_queries) - 32usize];
    [
        "Offset of field: SalientIndexerParams::cu_keys",
    ][::core::mem::offset_of!(SalientIndexerParams, cu_keys) - 40usize];
    [
        "Offset of field: SalientIndexerParams::firsts",
    ][::core::mem::offset_of!(SalientIndexerParams, firsts) - 48usize];
    [
        "Offset of field: SalientIndexerParams::limits",
    ][::core::mem::offset_of!(SalientIndexerParams, limits) - 56usize];
    [
        "Offset of field: SalientIndexerParams::logits",
    ][::core::mem::offset_of!(SalientIndexerParams, logits) - 64usize];
    [
        "Offset of field: SalientIndexerParams::status",
    ][::core::mem::offset_of!(SalientIndexerParams, status) - 72usize];
    [
        "Offset of field: SalientIndexerParams::q_strides",
    ][::core::mem::offset_of!(SalientIndexerParams, q_strides) - 80usize];
    [
        "Offset of field: SalientIndexerParams::k_stride",
    ][::core::mem::offset_of!(SalientIndexerParams, k_stride) - 96usize];
    [
        "Offset of field: SalientIndexerParams::out_stride",
    ][::core::mem::offset_of!(SalientIndexerParams, out_stride) - 104usize];
    [
        "Offset of field: SalientIndexerParams::sees",
    ][::core::mem::offset_of!(SalientIndexerParams, sees) - 112usize];
    [
        "Offset of field: SalientIndexerParams::batch",
    ][::core::mem::offset_of!(SalientIndexerParams, batch) - 116usize];
    [
        "Offset of field: SalientIndexerParams::heads",
    ][::core::mem::offset_of!(SalientIndexerParams, heads) - 120usize];
    [
        "Offset of field: SalientIndexerParams::dim",
    ][::core::mem::offset_of!(SalientIndexerParams, dim) - 124usize];
    [
        "Offset of field: SalientIndexerParams::queries",
    ][::core::mem::offset_of!(SalientIndexerParams, queries) - 128usize];
    [
        "Offset of field: SalientIndexerParams::keys",
    ][::core::mem::offset_of!(SalientIndexerParams, keys) - 132usize];
    [
        "Offset of field: SalientIndexerParams::max_queries",
    ][::core::mem::offset_of!(SalientIndexerParams, max_queries) - 136usize];
    [
        "Offset of field: SalientIndexerParams::max_keys",
    ][::core::mem::offset_of!(SalientIndexerParams, max_keys) - 140usize];
    [
        "Offset of field: SalientIndexerParams::dtype",
    ][::core::mem::offset_of!(SalientIndexerParams, dtype) - 144usize];
};
pub const SALIENT_INDEXER_MAX_HEADS: i32 = 64;
pub const SALIENT_INDEXER_MAX_DIM: i32 = 128;
pub const SALIENT_BUDGET_COUNT: i32 = 0;
pub const SALIENT_BUDGET_RATIO: i32 = 1;
pub const SALIENT_BUDGET_THRESHOLD: i32 = 2;
/// the fastest that the device has for max_len
pub const SALIENT_SELECT_AUTO: i32 = 0;
/// a block per row, the row in registers: up to 16384 scores
pub const SALIENT_SELECT_BLOCK: i32 = 1;
/// a cluster per row, the row in registers: up to 131072, sm_90
pub const SALIENT_SELECT_CLUSTER: i32 = 2;
/// groups of blocks that meet in the workspace: any length
pub const SALIENT_SELECT_GRID: i32 = 3;
/// Exact top-k, or threshold, in index order. The contract is that of salient::select.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientSelectParams {
    /// \[heads, score_stride\]; head h of token t at h * score_stride + t
    pub scores: *const f32,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    /// \[batch\] tokens to keep, or null: `count` for all
    pub counts: *const i32,
    /// \[batch\] first tokens never dropped, or null: sinks_all
    pub sinks: *const i32,
    /// \[batch\] last tokens never dropped, or null: recent_all
    pub recent: *const i32,
    /// \[total\] nonzero: never dropped; or null
    pub mask: *const u8,
    /// \[total\] original positions; null if kept_positions is
    pub positions: *const i32,
    /// \[batch * heads, capacity\] ascending, -1 after the last
    pub kept: *mut i32,
    /// \[batch * heads\]
    pub kept_lens: *mut i32,
    /// \[batch * heads, capacity\], -1 after the last; or null
    pub kept_positions: *mut i32,
    /// \[heads, total\] place in the row's list, or -1; or null
    pub inverse: *mut i32,
    /// \[batch * heads + 1\] where each list starts when packed; or null
    pub cu_kept: *mut i32,
    pub status: *mut SalientStatus,
    /// workspace_bytes, 16-byte aligned; contents do not matter
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: i64,
    pub score_stride: i64,
    /// kept fraction in (0, 1\]
    pub ratio: f64,
    /// not NaN
    pub threshold: f32,
    /// SALIENT_BUDGET_*
    pub budget: i32,
    pub batch: i32,
    pub heads: i32,
    pub total: i32,
    pub count: i32,
    pub sinks_all: i32,
    pub recent_all: i32,
    pub capacity: i32,
    /// no sequence is longer; a longer one is a LENGTHS fault
    pub max_len: i32,
    /// SALIENT_SELECT_*
    pub variant: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientSelectParams",
    ][::core::mem::size_of::<SalientSelectParams>() - 184usize];
    [
        "Alignment of SalientSelectParams",
    ][::core::mem::align_of::<SalientSelectParams>() - 8usize];
    [
        "Offset of field: SalientSelectParams::scores",
    ][::core::mem::offset_of!(SalientSelectParams, scores) - 0usize];
    [
        "Offset of field: SalientSelectParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientSelectParams, cu_seqlens) - 8usize];
    [
        "Offset of field: SalientSelectParams::counts",
    ][::core::mem::offset_of!(SalientSelectParams, counts) - 16usize];
    [
        "Offset of field: SalientSelectParams::sinks",
    ][::core::mem::offset_of!(SalientSelectParams, sinks) - 24usize];
    [
        "Offset of field: SalientSelectParams::recent",
    ][::core::mem::offset_of!(SalientSelectParams, recent) - 32usize];
    [
        "Offset of field: SalientSelectParams::mask",
    ][::core::mem::offset_of!(SalientSelectParams, mask) - 40usize];
    [
        "Offset of field: SalientSelectParams::positions",
    ][::core::mem::offset_of!(SalientSelectParams, positions) - 48usize];
    [
        "Offset of field: SalientSelectParams::kept",
    ][::core::mem::offset_of!(SalientSelectParams, kept) - 56usize];
    [
        "Offset of field: SalientSelectParams::kept_lens",
    ][::core::mem::offset_of!(SalientSelectParams, kept_lens) - 64usize];
    [
        "Offset of field: SalientSelectParams::kept_positions",
    ][::core::mem::offset_of!(SalientSelectParams, kept_positions) - 72usize];
    [
        "Offset of field: SalientSelectParams::inverse",
    ][::core::mem::offset_of!(SalientSelectParams, inverse) - 80usize];
    [
        "Offset of field: SalientSelectParams::cu_kept",
    ][::core::mem::offset_of!(SalientSelectParams, cu_kept) - 88usize];
    [
        "Offset of field: SalientSelectParams::status",
    ][::core::mem::offset_of!(SalientSelectParams, status) - 96usize];
    [
        "Offset of field: SalientSelectParams::workspace",
    ][::core::mem::offset_of!(SalientSelectParams, workspace) - 104usize];
    [
        "Offset of field: SalientSelectParams::workspace_bytes",
    ][::core::mem::offset_of!(SalientSelectParams, workspace_bytes) - 112usize];
    [
        "Offset of field: SalientSelectParams::score_stride",
    ][::core::mem::offset_of!(SalientSelectParams, score_stride) - 120usize];
    [
        "Offset of field: SalientSelectParams::ratio",
    ][::core::mem::offset_of!(SalientSelectParams, ratio) - 128usize];
    [
        "Offset of field: SalientSelectParams::threshold",
    ][::core::mem::offset_of!(SalientSelectParams, threshold) - 136usize];
    [
        "Offset of field: SalientSelectParams::budget",
    ][::core::mem::offset_of!(SalientSelectParams, budget) - 140usize];
    [
        "Offset of field: SalientSelectParams::batch",
    ][::core::mem::offset_of!(SalientSelectParams, batch) - 144usize];
    [
        "Offset of field: SalientSelectParams::heads",
    ][::core::mem::offset_of!(SalientSelectParams, heads) - 148usize];
    [
        "Offset of field: SalientSelectParams::total",
    ][::core::mem::offset_of!(SalientSelectParams, total) - 152usize];
    [
        "Offset of field: SalientSelectParams::count",
    ][::core::mem::offset_of!(SalientSelectParams, count) - 156usize];
    [
        "Offset of field: SalientSelectParams::sinks_all",
    ][::core::mem::offset_of!(SalientSelectParams, sinks_all) - 160usize];
    [
        "Offset of field: SalientSelectParams::recent_all",
    ][::core::mem::offset_of!(SalientSelectParams, recent_all) - 164usize];
    [
        "Offset of field: SalientSelectParams::capacity",
    ][::core::mem::offset_of!(SalientSelectParams, capacity) - 168usize];
    [
        "Offset of field: SalientSelectParams::max_len",
    ][::core::mem::offset_of!(SalientSelectParams, max_len) - 172usize];
    [
        "Offset of field: SalientSelectParams::variant",
    ][::core::mem::offset_of!(SalientSelectParams, variant) - 176usize];
};
pub const SALIENT_SELECT_GROUP_BYTES: i32 = 32768;
pub const SALIENT_SELECT_MAX_GROUPS: i32 = 64;
pub const SALIENT_MAX_TENSORS: i32 = 16;
/// A \[rows, row_bytes\] tensor and where its kept rows go.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientRowTensor {
    /// rows src_stride bytes apart
    pub src: *const ::core::ffi::c_void,
    /// rows dst_stride bytes apart; not read by salient_rows_in_place
    pub dst: *mut ::core::ffi::c_void,
    pub src_stride: i64,
    pub dst_stride: i64,
    pub row_bytes: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientRowTensor"][::core::mem::size_of::<SalientRowTensor>() - 40usize];
    [
        "Alignment of SalientRowTensor",
    ][::core::mem::align_of::<SalientRowTensor>() - 8usize];
    [
        "Offset of field: SalientRowTensor::src",
    ][::core::mem::offset_of!(SalientRowTensor, src) - 0usize];
    [
        "Offset of field: SalientRowTensor::dst",
    ][::core::mem::offset_of!(SalientRowTensor, dst) - 8usize];
    [
        "Offset of field: SalientRowTensor::src_stride",
    ][::core::mem::offset_of!(SalientRowTensor, src_stride) - 16usize];
    [
        "Offset of field: SalientRowTensor::dst_stride",
    ][::core::mem::offset_of!(SalientRowTensor, dst_stride) - 24usize];
    [
        "Offset of field: SalientRowTensor::row_bytes",
    ][::core::mem::offset_of!(SalientRowTensor, row_bytes) - 32usize];
};
/// Kept rows of several tensors, packed in order: list entry i of sequence b goes from row cu_seqlens\[b\] + kept\[b, i\] to row cu_kept\[b\] + i.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientRowsParams {
    pub tensors: [SalientRowTensor; 16usize],
    /// \[batch, capacity\]
    pub kept: *const i32,
    /// \[batch\]
    pub kept_lens: *const i32,
    /// \[batch + 1\]
    pub cu_kept: *const i32,
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    pub status: *mut SalientStatus,
    pub tensor_count: i32,
    pub batch: i32,
    pub capacity: i32,
    /// rows of every source
    pub total: i32,
    /// rows of every destination
    pub kept_total: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientRowsParams",
    ][::core::mem::size_of::<SalientRowsParams>() - 704usize];
    [
        "Alignment of SalientRowsParams",
    ][::core::mem::align_of::<SalientRowsParams>() - 8usize];
    [
        "Offset of field: SalientRowsParams::tensors",
    ][::core::mem::offset_of!(SalientRowsParams, tensors) - 0usize];
    [
        "Offset of field: SalientRowsParams::kept",
    ][::core::mem::offset_of!(SalientRowsParams, kept) - 640usize];
    [
        "Offset of field: SalientRowsParams::kept_lens",
    ][::core::mem::offset_of!(SalientRowsParams, kept_lens) - 648usize];
    [
        "Offset of field: SalientRowsParams::cu_kept",
    ][::core::mem::offset_of!(SalientRowsParams, cu_kept) - 656usize];
    [
        "Offset of field: SalientRowsParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientRowsParams, cu_seqlens) - 664usize];
    [
        "Offset of field: SalientRowsParams::status",
    ][::core::mem::offset_of!(SalientRowsParams, status) - 672usize];
    [
        "Offset of field: SalientRowsParams::tensor_count",
    ][::core::mem::offset_of!(SalientRowsParams, tensor_count) - 680usize];
    [
        "Offset of field: SalientRowsParams::batch",
    ][::core::mem::offset_of!(SalientRowsParams, batch) - 684usize];
    [
        "Offset of field: SalientRowsParams::capacity",
    ][::core::mem::offset_of!(SalientRowsParams, capacity) - 688usize];
    [
        "Offset of field: SalientRowsParams::total",
    ][::core::mem::offset_of!(SalientRowsParams, total) - 692usize];
    [
        "Offset of field: SalientRowsParams::kept_total",
    ][::core::mem::offset_of!(SalientRowsParams, kept_total) - 696usize];
};
/// Where a lane of a cache lies: byte strides. A lane is what moves as one, a head or a part of one.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct SalientKvLayout {
    /// from a token to the next (in a page, where paged)
    pub token_stride: i64,
    pub lane_stride: i64,
    /// 0 if the cache is contiguous
    pub page_stride: i64,
    pub lanes: i32,
    /// contiguous bytes of a token in a lane
    pub lane_bytes: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientKvLayout"][::core::mem::size_of::<SalientKvLayout>() - 32usize];
    [
        "Alignment of SalientKvLayout",
    ][::core::mem::align_of::<SalientKvLayout>() - 8usize];
    [
        "Offset of field: SalientKvLayout::token_stride",
    ][::core::mem::offset_of!(SalientKvLayout, token_stride) - 0usize];
    [
        "Offset of field: SalientKvLayout::lane_stride",
    ][::core::mem::offset_of!(SalientKvLayout, lane_stride) - 8usize];
    [
        "Offset of field: SalientKvLayout::page_stride",
    ][::core::mem::offset_of!(SalientKvLayout, page_stride) - 16usize];
    [
        "Offset of field: SalientKvLayout::lanes",
    ][::core::mem::offset_of!(SalientKvLayout, lanes) - 24usize];
    [
        "Offset of field: SalientKvLayout::lane_bytes",
    ][::core::mem::offset_of!(SalientKvLayout, lane_bytes) - 28usize];
};
/// survivors keep their order
pub const SALIENT_KV_STABLE: i32 = 0;
/// survivors beyond the new length move into the holes below it
pub const SALIENT_KV_HOLE_FILL: i32 = 1;
/// Moves kept keys and values to the front of their sequence, in place, in every tensor.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientKvParams {
    /// \[tensor_count\] device pointers in device memory, keys and values in turn: tensor t is laid out as layouts\[t % 2\]
    pub tensors: *const *mut ::core::ffi::c_void,
    /// \[batch * list_heads, capacity\]
    pub kept: *const i32,
    /// \[batch * list_heads\]
    pub kept_lens: *const i32,
    /// \[batch\] tokens of every sequence
    pub lens: *const i32,
    /// \[batch\] first token of every sequence; null if paged
    pub span_starts: *const i32,
    /// \[batch, max_pages\]; null if contiguous
    pub page_table: *const i32,
    /// \[batch * list_heads, capacity\] the old token now in each place, -1 after the last; or null
    pub order: *mut i32,
    /// \[batch * max_pages\] pages without kept tokens, in table order; or null
    pub freed: *mut i32,
    /// \[1\]; null if freed is
    pub freed_count: *mut i32,
    pub status: *mut SalientStatus,
    /// of keys, of values
    pub layouts: [SalientKvLayout; 2usize],
    pub tensor_count: i32,
    pub batch: i32,
    /// 1, or a number that divides the lanes of both layouts
    pub list_heads: i32,
    pub capacity: i32,
    /// tokens that a contiguous tensor holds; 0 if paged
    pub tokens: i32,
    /// 0 if contiguous
    pub page_size: i32,
    /// pages per sequence in the table
    pub max_pages: i32,
    /// pages that a paged tensor holds
    pub pages: i32,
    /// SALIENT_KV_*
    pub mode: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    ["Size of SalientKvParams"][::core::mem::size_of::<SalientKvParams>() - 184usize];
    [
        "Alignment of SalientKvParams",
    ][::core::mem::align_of::<SalientKvParams>() - 8usize];
    [
        "Offset of field: SalientKvParams::tensors",
    ][::core::mem::offset_of!(SalientKvParams, tensors) - 0usize];
    [
        "Offset of field: SalientKvParams::kept",
    ][::core::mem::offset_of!(SalientKvParams, kept) - 8usize];
    [
        "Offset of field: SalientKvParams::kept_lens",
    ][::core::mem::offset_of!(SalientKvParams, kept_lens) - 16usize];
    [
        "Offset of field: SalientKvParams::lens",
    ][::core::mem::offset_of!(SalientKvParams, lens) - 24usize];
    [
        "Offset of field: SalientKvParams::span_starts",
    ][::core::mem::offset_of!(SalientKvParams, span_starts) - 32usize];
    [
        "Offset of field: SalientKvParams::page_table",
    ][::core::mem::offset_of!(SalientKvParams, page_table) - 40usize];
    [
        "Offset of field: SalientKvParams::order",
    ][::core::mem::offset_of!(SalientKvParams, order) - 48usize];
    [
        "Offset of field: SalientKvParams::freed",
    ][::core::mem::offset_of!(SalientKvParams, freed) - 56usize];
    [
        "Offset of field: SalientKvParams::freed_count",
    ][::core::mem::offset_of!(SalientKvParams, freed_count) - 64usize];
    [
        "Offset of field: SalientKvParams::status",
    ][::core::mem::offset_of!(SalientKvParams, status) - 72usize];
    [
        "Offset of field: SalientKvParams::layouts",
    ][::core::mem::offset_of!(SalientKvParams, layouts) - 80usize];
    [
        "Offset of field: SalientKvParams::tensor_count",
    ][::core::mem::offset_of!(SalientKvParams, tensor_count) - 144usize];
    [
        "Offset of field: SalientKvParams::batch",
    ][::core::mem::offset_of!(SalientKvParams, batch) - 148usize];
    [
        "Offset of field: SalientKvParams::list_heads",
    ][::core::mem::offset_of!(SalientKvParams, list_heads) - 152usize];
    [
        "Offset of field: SalientKvParams::capacity",
    ][::core::mem::offset_of!(SalientKvParams, capacity) - 156usize];
    [
        "Offset of field: SalientKvParams::tokens",
    ][::core::mem::offset_of!(SalientKvParams, tokens) - 160usize];
    [
        "Offset of field: SalientKvParams::page_size",
    ][::core::mem::offset_of!(SalientKvParams, page_size) - 164usize];
    [
        "Offset of field: SalientKvParams::max_pages",
    ][::core::mem::offset_of!(SalientKvParams, max_pages) - 168usize];
    [
        "Offset of field: SalientKvParams::pages",
    ][::core::mem::offset_of!(SalientKvParams, pages) - 172usize];
    [
        "Offset of field: SalientKvParams::mode",
    ][::core::mem::offset_of!(SalientKvParams, mode) - 176usize];
};
/// every one
pub const SALIENT_SEES_ALL: i32 = 0;
/// aligned at the end: query i of n over m keys sees the first m - n + i + 1
pub const SALIENT_SEES_CAUSAL: i32 = 1;
/// those from firsts\[i\] to below limits\[i\]
pub const SALIENT_SEES_ROWS: i32 = 2;
/// Attention of packed queries over the keys of their sequences. Query heads h * group up to (h + 1) * group read KV head h, where group = q_heads / kv_heads. A row that sees no key becomes 0, its LSE its sink, or -infinity. A sink that is NaN or infinity makes NaN of its head's rows. Tensors are 16-byte aligned.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientPrefillParams {
    /// \[queries, q_heads, dim\]
    pub q: *const ::core::ffi::c_void,
    /// \[keys, kv_heads, dim\]
    pub k: *const ::core::ffi::c_void,
    /// \[keys, kv_heads, dim\]
    pub v: *const ::core::ffi::c_void,
    /// \[queries, q_heads, dim\]
    pub out: *mut ::core::ffi::c_void,
    /// \[queries, q_heads\] log of the sum of exponentials; or null
    pub lse: *mut f32,
    /// \[batch + 1\]
    pub cu_queries: *const i32,
    /// \[batch\] first key row of every sequence
    pub key_starts: *const i32,
    /// \[batch\] key rows of every sequence
    pub key_lens: *const i32,
    /// \[queries\] counted from the sequence's first key; null: 0
    pub firsts: *const i32,
    /// \[queries\]; null unless sees is SALIENT_SEES_ROWS
    pub limits: *const i32,
    /// \[q_heads\] logits that join every row's sum of weights; or null
    pub attention_sink: *const f32,
    /// INDEX: a first row or limit beyond the keys; row: the query
    pub status: *mut SalientStatus,
    pub q_strides: SalientStrides,
    pub k_strides: SalientStrides,
    pub v_strides: SalientStrides,
    pub out_strides: SalientStrides,
    /// of the dot product
    pub scale: f32,
    /// scaled logits x become cap * tanh(x / cap); 0: they stay
    pub softcap: f32,
    /// a query with limit L sees no row before L - window; 0: no window
    pub window: i32,
    /// SALIENT_SEES_*
    pub sees: i32,
    pub batch: i32,
    pub q_heads: i32,
    pub kv_heads: i32,
    /// a multiple of 8, up to SALIENT_PREFILL_MAX_DIM
    pub dim: i32,
    pub queries: i32,
    /// key rows that k and v hold
    pub keys: i32,
    /// no sequence has more; one that has is a LENGTHS fault
    pub max_queries: i32,
    /// of q, k and v: f16 or bf16
    pub dtype: i32,
    /// dtype or f32
    pub out_dtype: i32,
    /// SALIENT_PREFILL_AUTO, _SM80, _SM90
    pub variant: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientPrefillParams",
    ][::core::mem::size_of::<SalientPrefillParams>() - 216usize];
    [
        "Alignment of SalientPrefillParams",
    ][::core::mem::align_of::<SalientPrefillParams>() - 8usize];
    [
        "Offset of field: SalientPrefillParams::q",
    ][::core::mem::offset_of!(SalientPrefillParams, q) - 0usize];
    [
        "Offset of field: SalientPrefillParams::k",
    ][::core::mem::offset_of!(SalientPrefillParams, k) - 8usize];
    [
        "Offset of field: SalientPrefillParams::v",
    ][::core::mem::offset_of!(SalientPrefillParams, v) - 16usize];
    [
        "Offset of field: SalientPrefillParams::out",
    ][::core::mem::offset_of!(SalientPrefillParams, out) - 24usize];
    [
        "Offset of field: SalientPrefillParams::lse",
    ][::core::mem::offset_of!(SalientPrefillParams, lse) - 32usize];
    [
        "Offset of field: SalientPrefillParams::cu_queries",
    ][::core::mem::offset_of!(SalientPrefillParams, cu_queries) - 40usize];
    [
        "Offset of field: SalientPrefillParams::key_starts",
    ][::core::mem::offset_of!(SalientPrefillParams, key_starts) - 48usize];
    [
        "Offset of field: SalientPrefillParams::key_lens",
    ][::core::mem::offset_of!(SalientPrefillParams, key_lens) - 56usize];
    [
        "Offset of field: SalientPrefillParams::firsts",
    ][::core::mem::offset_of!(SalientPrefillParams, firsts) - 64usize];
    [
        "Offset of field: SalientPrefillParams::limits",
    ][::core::mem::offset_of!(SalientPrefillParams, limits) - 72usize];
    [
        "Offset of field: SalientPrefillParams::attention_sink",
    ][::core::mem::offset_of!(SalientPrefillParams, attention_sink) - 80usize];
    [
        "Offset of field: SalientPrefillParams::status",
    ][::core::mem::offset_of!(SalientPrefillParams, status) - 88usize];
    [
        "Offset of field: SalientPrefillParams::q_strides",
    ][::core::mem::offset_of!(SalientPrefillParams, q_strides) - 96usize];
    [
        "Offset of field: SalientPrefillParams::k_strides",
    ][::core::mem::offset_of!(SalientPrefillParams, k_strides) - 112usize];
    [
        "Offset of field: SalientPrefillParams::v_strides",
    ][::core::mem::offset_of!(SalientPrefillParams, v_strides) - 128usize];
    [
        "Offset of field: SalientPrefillParams::out_strides",
    ][::core::mem::offset_of!(SalientPrefillParams, out_strides) - 144usize];
    [
        "Offset of field: SalientPrefillParams::scale",
    ][::core::mem::offset_of!(SalientPrefillParams, scale) - 160usize];
    [
        "Offset of field: SalientPrefillParams::softcap",
    ][::core::mem::offset_of!(SalientPrefillParams, softcap) - 164usize];
    [
        "Offset of field: SalientPrefillParams::window",
    ][::core::mem::offset_of!(SalientPrefillParams, window) - 168usize];
    [
        "Offset of field: SalientPrefillParams::sees",
    ][::core::mem::offset_of!(SalientPrefillParams, sees) - 172usize];
    [
        "Offset of field: SalientPrefillParams::batch",
    ][::core::mem::offset_of!(SalientPrefillParams, batch) - 176usize];
    [
        "Offset of field: SalientPrefillParams::q_heads",
    ][::core::mem::offset_of!(SalientPrefillParams, q_heads) - 180usize];
    [
        "Offset of field: SalientPrefillParams::kv_heads",
    ][::core::mem::offset_of!(SalientPrefillParams, kv_heads) - 184usize];
    [
        "Offset of field: SalientPrefillParams::dim",
    ][::core::mem::offset_of!(SalientPrefillParams, dim) - 188usize];
    [
        "Offset of field: SalientPrefillParams::queries",
    ][::core::mem::offset_of!(SalientPrefillParams, queries) - 192usize];
    [
        "Offset of field: SalientPrefillParams::keys",
    ][::core::mem::offset_of!(SalientPrefillParams, keys) - 196usize];
    [
        "Offset of field: SalientPrefillParams::max_queries",
    ][::core::mem::offset_of!(SalientPrefillParams, max_queries) - 200usize];
    [
        "Offset of field: SalientPrefillParams::dtype",
    ][::core::mem::offset_of!(SalientPrefillParams, dtype) - 204usize];
    [
        "Offset of field: SalientPrefillParams::out_dtype",
    ][::core::mem::offset_of!(SalientPrefillParams, out_dtype) - 208usize];
    [
        "Offset of field: SalientPrefillParams::variant",
    ][::core::mem::offset_of!(SalientPrefillParams, variant) - 212usize];
};
/// the fastest that the device has for these tensors
pub const SALIENT_PREFILL_AUTO: i32 = 0;
/// copies and products of sm_80: every device
pub const SALIENT_PREFILL_SM80: i32 = 1;
/// tensor copies and warpgroup products of sm_90a
pub const SALIENT_PREFILL_SM90: i32 = 2;
pub const SALIENT_PREFILL_MAX_DIM: i32 = 256;
/// Where keys or values lie: strides in elements, multiples of 16 bytes.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq)]
pub struct SalientDecodeLayout {
    /// from a token to the next (in a page, where paged)
    pub token_stride: i64,
    pub head_stride: i64,
    /// 0 if the cache is contiguous
    pub page_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientDecodeLayout",
    ][::core::mem::size_of::<SalientDecodeLayout>() - 24usize];
    [
        "Alignment of SalientDecodeLayout",
    ][::core::mem::align_of::<SalientDecodeLayout>() - 8usize];
    [
        "Offset of field: SalientDecodeLayout::token_stride",
    ][::core::mem::offset_of!(SalientDecodeLayout, token_stride) - 0usize];
    [
        "Offset of field: SalientDecodeLayout::head_stride",
    ][::core::mem::offset_of!(SalientDecodeLayout, head_stride) - 8usize];
    [
        "Offset of field: SalientDecodeLayout::page_stride",
    ][::core::mem::offset_of!(SalientDecodeLayout, page_stride) - 16usize];
};
/// Attention of one query per sequence over the keys that its lists name, in list order. Entries outside the sequence, and those on pages outside the pool, are a fault and left out; a list that does not ascend is a fault, too, and attended as it is. A sequence or list whose length cannot be counts as empty. Of an empty list the output is 0, the LSE the sink, or -inf. A sink that is NaN or infinity makes NaN of its head's rows.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientDecodeParams {
    /// \[batch, kv_heads * group, dim\] by strides; 16-byte aligned
    pub q: *const ::core::ffi::c_void,
    /// 16-byte aligned
    pub k: *const ::core::ffi::c_void,
    /// 16-byte aligned
    pub v: *const ::core::ffi::c_void,
    /// \[batch, kv_heads * group, dim\] by strides
    pub out: *mut ::core::ffi::c_void,
    /// \[batch, kv_heads * group\]; or null
    pub lse: *mut f32,
    /// \[batch\] tokens of every sequence
    pub lens: *const i32,
    /// \[batch\] first token of every sequence; null if paged
    pub span_starts: *const i32,
    /// \[batch, max_pages\]; null if contiguous
    pub page_table: *const i32,
    /// \[batch * list_heads, capacity\]; null: every token
    pub kept: *const i32,
    /// \[batch * list_heads\]; null if kept is
    pub kept_lens: *const i32,
    /// \[kv_heads * group\] logits that join every row's sum of weights; or null
    pub attention_sink: *const f32,
    /// \[kv_heads\] what the keys of a head are multiplied with; null: 1
    pub k_scales: *const f32,
    /// \[kv_heads\] and its values
    pub v_scales: *const f32,
    /// rows are those of lists; without lists, sequences
    pub status: *mut SalientStatus,
    /// \[batch * kv_heads * group, splits, dim + 2\] elements with splits = ceil(capacity / split); not used if there is but one
    pub workspace: *mut f32,
    /// of keys, of values
    pub layouts: [SalientDecodeLayout; 2usize],
    /// elements from a sequence to the next; a multiple of 8
    pub q_stride: i64,
    /// a multiple of 8
    pub q_head_stride: i64,
    pub out_stride: i64,
    pub out_head_stride: i64,
    pub scale: f32,
    /// 0: none
    pub softcap: f32,
    /// the last tokens of a sequence that are seen; 0: all
    pub window: i32,
    pub batch: i32,
    pub kv_heads: i32,
    /// query heads per KV head: 1 to 16
    pub group: i32,
    /// up to 256, a multiple of 8, or of 16 for fp8
    pub dim: i32,
    /// 1 or kv_heads; 0 without lists
    pub list_heads: i32,
    /// entries that a list, or without lists a sequence, may have
    pub capacity: i32,
    /// entries per block; a multiple of 64
    pub split: i32,
    /// tokens that a contiguous cache holds; 0 if paged
    pub tokens: i32,
    /// 0 if contiguous
    pub page_size: i32,
    /// pages per sequence in the table
    pub max_pages: i32,
    /// pages that the pool holds
    pub pages: i32,
    /// of q: f16 or bf16
    pub dtype: i32,
    /// f32 or dtype
    pub out_dtype: i32,
    /// of k and v: dtype or fp8 E4M3
    pub cache_dtype: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientDecodeParams",
    ][::core::mem::size_of::<SalientDecodeParams>() - 272usize];
    [
        "Alignment of SalientDecodeParams",
    ][::core::mem::align_of::<SalientDecodeParams>() - 8usize];
    [
        "Offset of field: SalientDecodeParams::q",
    ][::core::mem::offset_of!(SalientDecodeParams, q) - 0usize];
    [
        "Offset of field: SalientDecodeParams::k",
    ][::core::mem::offset_of!(SalientDecodeParams, k) - 8usize];
    [
        "Offset of field: SalientDecodeParams::v",
    ][::core::mem::offset_of!(SalientDecodeParams, v) - 16usize];
    [
        "Offset of field: SalientDecodeParams::out",
    ][::core::mem::offset_of!(SalientDecodeParams, out) - 24usize];
    [
        "Offset of field: SalientDecodeParams::lse",
    ][::core::mem::offset_of!(SalientDecodeParams, lse) - 32usize];
    [
        "Offset of field: SalientDecodeParams::lens",
    ][::core::mem::offset_of!(SalientDecodeParams, lens) - 40usize];
    [
        "Offset of field: SalientDecodeParams::span_starts",
    ][::core::mem::offset_of!(SalientDecodeParams, span_starts) - 48usize];
    [
        "Offset of field: SalientDecodeParams::page_table",
    ][::core::mem::offset_of!(SalientDecodeParams, page_table) - 56usize];
    [
        "Offset of field: SalientDecodeParams::kept",
    ][::core::mem::offset_of!(SalientDecodeParams, kept) - 64usize];
    [
        "Offset of field: SalientDecodeParams::kept_lens",
    ][::core::mem::offset_of!(SalientDecodeParams, kept_lens) - 72usize];
    [
        "Offset of field: SalientDecodeParams::attention_sink",
    ][::core::mem::offset_of!(SalientDecodeParams, attention_sink) - 80usize];
    [
        "Offset of field: SalientDecodeParams::k_scales",
    ][::core::mem::offset_of!(SalientDecodeParams, k_scales) - 88usize];
    [
        "Offset of field: SalientDecodeParams::v_scales",
    ][::core::mem::offset_of!(SalientDecodeParams, v_scales) - 96usize];
    [
        "Offset of field: SalientDecodeParams::status",
    ][::core::mem::offset_of!(SalientDecodeParams, status) - 104usize];
    [
        "Offset of field: SalientDecodeParams::workspace",
    ][::core::mem::offset_of!(SalientDecodeParams, workspace) - 112usize];
    [
        "Offset of field: SalientDecodeParams::layouts",
    ][::core::mem::offset_of!(SalientDecodeParams, layouts) - 120usize];
    [
        "Offset of field: SalientDecodeParams::q_stride",
    ][::core::mem::offset_of!(SalientDecodeParams, q_stride) - 168usize];
    [
        "Offset of field: SalientDecodeParams::q_head_stride",
    ][::core::mem::offset_of!(SalientDecodeParams, q_head_stride) - 176usize];
    [
        "Offset of field: SalientDecodeParams::out_stride",
    ][::core::mem::offset_of!(SalientDecodeParams, out_stride) - 184usize];
    [
        "Offset of field: SalientDecodeParams::out_head_stride",
    ][::core::mem::offset_of!(SalientDecodeParams, out_head_stride) - 192usize];
    [
        "Offset of field: SalientDecodeParams::scale",
    ][::core::mem::offset_of!(SalientDecodeParams, scale) - 200usize];
    [
        "Offset of field: SalientDecodeParams::softcap",
    ][::core::mem::offset_of!(SalientDecodeParams, softcap) - 204usize];
    [
        "Offset of field: SalientDecodeParams::window",
    ][::core::mem::offset_of!(SalientDecodeParams, window) - 208usize];
    [
        "Offset of field: SalientDecodeParams::batch",
    ][::core::mem::offset_of!(SalientDecodeParams, batch) - 212usize];
    [
        "Offset of field: SalientDecodeParams::kv_heads",
    ][::core::mem::offset_of!(SalientDecodeParams, kv_heads) - 216usize];
    [
        "Offset of field: SalientDecodeParams::group",
    ][::core::mem::offset_of!(SalientDecodeParams, group) - 220usize];
    [
        "Offset of field: SalientDecodeParams::dim",
    ][::core::mem::offset_of!(SalientDecodeParams, dim) - 224usize];
    [
        "Offset of field: SalientDecodeParams::list_heads",
    ][::core::mem::offset_of!(SalientDecodeParams, list_heads) - 228usize];
    [
        "Offset of field: SalientDecodeParams::capacity",
    ][::core::mem::offset_of!(SalientDecodeParams, capacity) - 232usize];
    [
        "Offset of field: SalientDecodeParams::split",
    ][::core::mem::offset_of!(SalientDecodeParams, split) - 236usize];
    [
        "Offset of field: SalientDecodeParams::tokens",
    ][::core::mem::offset_of!(SalientDecodeParams, tokens) - 240usize];
    [
        "Offset of field: SalientDecodeParams::page_size",
    ][::core::mem::offset_of!(SalientDecodeParams, page_size) - 244usize];
    [
        "Offset of field: SalientDecodeParams::max_pages",
    ][::core::mem::offset_of!(SalientDecodeParams, max_pages) - 248usize];
    [
        "Offset of field: SalientDecodeParams::pages",
    ][::core::mem::offset_of!(SalientDecodeParams, pages) - 252usize];
    [
        "Offset of field: SalientDecodeParams::dtype",
    ][::core::mem::offset_of!(SalientDecodeParams, dtype) - 256usize];
    [
        "Offset of field: SalientDecodeParams::out_dtype",
    ][::core::mem::offset_of!(SalientDecodeParams, out_dtype) - 260usize];
    [
        "Offset of field: SalientDecodeParams::cache_dtype",
    ][::core::mem::offset_of!(SalientDecodeParams, cache_dtype) - 264usize];
};
/// Checks device-side lists: ascending, in range, -1 after the last and only there, lengths that fit, offsets that match; and pages in the pool. Writes nothing but the status.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SalientValidateParams {
    /// \[batch + 1\]
    pub cu_seqlens: *const i32,
    /// \[batch * heads, capacity\]
    pub kept: *const i32,
    /// \[batch * heads\]
    pub kept_lens: *const i32,
    /// \[batch * heads + 1\], or null
    pub cu_kept: *const i32,
    /// \[batch, max_pages\], or null
    pub page_table: *const i32,
    pub status: *mut SalientStatus,
    pub batch: i32,
    pub heads: i32,
    pub capacity: i32,
    pub total: i32,
    pub page_size: i32,
    pub max_pages: i32,
    pub pages: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
#[cfg(target_pointer_width = "64")]
const _: () = {
    [
        "Size of SalientValidateParams",
    ][::core::mem::size_of::<SalientValidateParams>() - 80usize];
    [
        "Alignment of SalientValidateParams",
    ][::core::mem::align_of::<SalientValidateParams>() - 8usize];
    [
        "Offset of field: SalientValidateParams::cu_seqlens",
    ][::core::mem::offset_of!(SalientValidateParams, cu_seqlens) - 0usize];
    [
        "Offset of field: SalientValidateParams::kept",
    ][::core::mem::offset_of!(SalientValidateParams, kept) - 8usize];
    [
        "Offset of field: SalientValidateParams::kept_lens",
    ][::core::mem::offset_of!(SalientValidateParams, kept_lens) - 16usize];
    [
        "Offset of field: SalientValidateParams::cu_kept",
    ][::core::mem::offset_of!(SalientValidateParams, cu_kept) - 24usize];
    [
        "Offset of field: SalientValidateParams::page_table",
    ][::core::mem::offset_of!(SalientValidateParams, page_table) - 32usize];
    [
        "Offset of field: SalientValidateParams::status",
    ][::core::mem::offset_of!(SalientValidateParams, status) - 40usize];
    [
        "Offset of field: SalientValidateParams::batch",
    ][::core::mem::offset_of!(SalientValidateParams, batch) - 48usize];
    [
        "Offset of field: SalientValidateParams::heads",
    ][::core::mem::offset_of!(SalientValidateParams, heads) - 52usize];
    [
        "Offset of field: SalientValidateParams::capacity",
    ][::core::mem::offset_of!(SalientValidateParams, capacity) - 56usize];
    [
        "Offset of field: SalientValidateParams::total",
    ][::core::mem::offset_of!(SalientValidateParams, total) - 60usize];
    [
        "Offset of field: SalientValidateParams::page_size",
    ][::core::mem::offset_of!(SalientValidateParams, page_size) - 64usize];
    [
        "Offset of field: SalientValidateParams::max_pages",
    ][::core::mem::offset_of!(SalientValidateParams, max_pages) - 68usize];
    [
        "Offset of field: SalientValidateParams::pages",
    ][::core::mem::offset_of!(SalientValidateParams, pages) - 72usize];
};
unsafe extern "C" {
    /// Does on the current device what the first launch of each kernel would do besides launching: loads it, and lets it have its shared memory. To be called before launches are captured, for loading may synchronise. Launchers that are not linked are left out.
    pub fn salient_prepare() -> ::core::ffi::c_int;
    pub fn salient_mlp(
        params: *const SalientMlpParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_keynorm(
        params: *const SalientKeynormParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_pool(
        params: *const SalientPoolParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_rank(
        params: *const SalientRankParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_attention_score(
        params: *const SalientAttentionScoreParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_expected(
        params: *const SalientExpectedParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_indexer(
        params: *const SalientIndexerParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_select(
        params: *const SalientSelectParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    /// Into other buffers, which do not overlap the sources.
    pub fn salient_rows(
        params: *const SalientRowsParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    /// To the front of the sources themselves.
    pub fn salient_rows_in_place(
        params: *const SalientRowsParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_kv(
        params: *const SalientKvParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_prefill(
        params: *const SalientPrefillParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_decode(
        params: *const SalientDecodeParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
    pub fn salient_validate(
        params: *const SalientValidateParams,
        stream: SalientStream,
    ) -> ::core::ffi::c_int;
}
