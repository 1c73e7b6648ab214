// attend: one query per sequence over listed keys, on tensor cores of sm_80.
//
// A block takes `split` entries of the list of one KV head for the whole group of query heads, so
// that each listed row of K and V is read once. Keys are the rows of both products and the group's
// queries their 8 or 16 columns:
//
//     S = K Q'    [16 keys, 8 queries]        O' = V' P    [channels, 8 queries]
//
// Warps work alone (decode_warp.cuh); warps, then splits, are put together in order. Which keys a
// warp and a block take depends on places in the list and on `split` alone, never on other
// sequences.
#include "attend/decode_block.cuh"

namespace salient {
namespace {

// Puts together the splits of a row, which is a block's, in order; a thread has a channel.
template <typename T>
__global__ void combine(SalientDecodeParams p, int splits) {
    int q_heads = p.kv_heads * p.group, block = static_cast<int>(blockIdx.x);
    int sequence = block / q_heads, q_head = block % q_heads;
    int channel = static_cast<int>(threadIdx.x);
    List list = list_of(p, sequence, q_head / p.group);
    int begin = list.begin() / p.split, end = ceil_div(list.count, p.split);
    float largest = -INFINITY;
#pragma unroll 8
    for (int split = begin; split < end; split++) {
        largest = fmaxf(largest, Part(p, splits, sequence, q_head, split).stats[0]);
    }
    Whole whole(largest);
#pragma unroll 4
    for (int split = begin; split < end; split++) {
        Part part(p, splits, sequence, q_head, split);
        whole.add(part.stats[0], part.stats[1], channel < p.dim ? part.out[channel] : 0.0f);
    }
    write<T>(p, sequence, q_head, channel, channel < p.dim, whole);
}

template <typename T>
int run_for(const SalientDecodeParams& p, SalientStream stream) {
    int splits = max_of(1, ceil_div(p.capacity, p.split));
    int64_t heads = static_cast<int64_t>(p.batch) * p.kv_heads;
    if (max_of(heads * splits, heads * p.group) > INT32_MAX) return INVALID_VALUE;
    auto blocks = static_cast<uint32_t>(heads * splits);
    int error;
    if (p.cache_dtype == SALIENT_F8E4M3) error = decode_fp8(p, splits, blocks, stream);
    else if (p.dim <= 64) error = run_group<T, T, 64>(p, splits, blocks, stream);
    else if (p.dim <= 96) error = run_group<T, T, 96>(p, splits, blocks, stream);
    else if (p.dim <= 128) error = run_group<T, T, 128>(p, splits, blocks, stream);
    else error = run_group<T, T, 256>(p, splits, blocks, stream);
    if (error != SUCCESS || splits == 1) return error;
    auto rows = static_cast<uint32_t>(heads * p.group);
    Launch shape{dim3(rows), ceil_div(static_cast<uint32_t>(p.dim), 32u) * 32};
    return launch<combine<T>>(shape, stream, p, splits);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_decode(const SalientDecodeParams* params, SalientStream stream) {
    const SalientDecodeParams& p = *params;
    if (p.batch == 0 || p.kv_heads == 0 || p.group == 0) return SUCCESS;
    // So that no entry of a step overflows.
    if (p.capacity > INT32_MAX - (1 << 16) || p.group > 16) return INVALID_VALUE;
    if (p.dim < 8 || p.dim > 256 || p.dim % 8 != 0) return INVALID_VALUE;
    if (p.split < 64 || p.split % 64 != 0) return INVALID_VALUE;
    if (p.cache_dtype != p.dtype && p.cache_dtype != SALIENT_F8E4M3) return INVALID_VALUE;
    if (p.cache_dtype == SALIENT_F8E4M3 && p.dim % 16 != 0) return INVALID_VALUE;
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
