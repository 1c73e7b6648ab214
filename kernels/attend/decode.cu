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
#include "attend/decode_warp.cuh"
#include "common/launch.cuh"

namespace salient {
namespace {

using namespace decoding;

template <typename T, int DIM, int TILES>
__global__ void __launch_bounds__(Shape<DIM, TILES>::THREADS)
    decode(SalientDecodeParams p, int splits) {
    using Shape = decoding::Shape<DIM, TILES>;
    auto& shared = shared_memory<typename Shape::Shared>();
    int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    // Heads of the same tokens go together, for their rows often lie together.
    int head = block % p.kv_heads, split = block / p.kv_heads % splits;
    int sequence = block / p.kv_heads / splits;

    List list = list_of(p, sequence, head);
    if (!list.valid && split == 0 && thread == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, list.row);
    }
    int first = split * p.split, end = min_of(list.count, first + p.split);
    // What nobody will add up.
    if (splits > 1 && (end <= first || end <= list.begin())) return;

    Warp<T, DIM, TILES> warp(p, shared, list, end, sequence, head);
    warp.run(first);
    uint32_t faults = warp.found & ~SEEN;
    if (faults != 0) report_row(p.status, faults, list.row);
    __syncthreads();
    warp.put(shared.parts, head);
    if (!SALIENT_MUTATED("decode/barrier")) __syncthreads();

    for (int i = thread; i < p.group * DIM; i += Shape::THREADS) {
        int query = i / DIM, channel = i % DIM, q_head = head * p.group + query;
        bool exists = channel < p.dim;
        float largest = -INFINITY;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            largest = fmaxf(largest, shared_load(&shared.parts.max[w][query]));
        }
        Whole whole(largest);
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            whole.add(shared_load(&shared.parts.max[w][query]),
                      shared_load(&shared.parts.sum[w][query]),
                      shared_load(&shared.parts.out[w][query][channel]));
        }
        if (splits == 1) {
            write<T>(p, sequence, q_head, channel, exists, whole);
        } else {
            Part part(p, splits, sequence, q_head, split);
            store_if(exists, part.out + channel, whole.out);
            store_if(channel == 0, part.stats, largest);
            store_if(channel == 0, part.stats + 1, whole.sum);
        }
    }
}

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
        largest = fmaxf(largest, load(Part(p, splits, sequence, q_head, split).stats));
    }
    Whole whole(largest);
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        int turn = (i - begin + channel / 32) % (end - begin);
        int split = SALIENT_MUTATED("decode/order") ? begin + turn : i;
        Part part(p, splits, sequence, q_head, split);
        whole.add(load(part.stats), load(part.stats + 1),
                  load_if(channel < p.dim, part.out + channel, 0.0f));
    }
    write<T>(p, sequence, q_head, channel, channel < p.dim, whole);
}

template <typename T, int DIM, int TILES>
int run(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    using Shape = decoding::Shape<DIM, TILES>;
    Launch shape{dim3(blocks), Shape::THREADS, sizeof(typename Shape::Shared)};
    return launch("decode", decode<T, DIM, TILES>, shape, stream, p, splits);
}

template <typename T, int DIM>
int run_group(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    return p.group > 8 ? run<T, DIM, 2>(p, splits, blocks, stream)
                       : run<T, DIM, 1>(p, splits, blocks, stream);
}

template <typename T>
int run_for(const SalientDecodeParams& p, SalientStream stream) {
    int splits = max_of(1, ceil_div(p.capacity, p.split));
    int64_t heads = static_cast<int64_t>(p.batch) * p.kv_heads;
    if (max_of(heads * splits, heads * p.group) > INT32_MAX) return INVALID_VALUE;
    auto blocks = static_cast<uint32_t>(heads * splits);
    int error;
    if (p.dim <= 64) error = run_group<T, 64>(p, splits, blocks, stream);
    else if (p.dim <= 96) error = run_group<T, 96>(p, splits, blocks, stream);
    else if (p.dim <= 128) error = run_group<T, 128>(p, splits, blocks, stream);
    else error = run_group<T, 256>(p, splits, blocks, stream);
    if (error != SUCCESS || splits == 1) return error;
    auto rows = static_cast<uint32_t>(heads * p.group);
    Launch shape{dim3(rows), ceil_div(static_cast<uint32_t>(p.dim), 32u) * 32};
    return launch("decode_combine", combine<T>, shape, stream, p, splits);
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
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
