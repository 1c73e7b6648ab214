// The kernel of decode: a block's entries. Each file that includes it has its own copy.
#pragma once

#include "attend/decode_warp.cuh"
#include "common/launch.cuh"

namespace salient {

// Where fp8 caches are read: a file of its own, for compilers to work side by side.
int decode_fp8(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream);

namespace {

using namespace decoding;

template <typename T, typename KV, int DIM, int TILES, int STAGES>
__global__ void __launch_bounds__(Shape<DIM, TILES, sizeof(KV), STAGES>::THREADS)
    decode(SalientDecodeParams p, int splits) {
    using Shape = decoding::Shape<DIM, TILES, sizeof(KV), STAGES>;
    // There is always room for most stages.
    if (SM_90A && STAGES < most_stages(DIM, sizeof(KV))) unsupported();
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

    Warp<T, KV, DIM, TILES, STAGES> warp(p, shared, list, end, sequence, head);
    warp.run(first, logit_scale(p, head));
    uint32_t faults = warp.found & ~SEEN;
    if (faults != 0) report_row(p.status, faults, list.row);
    __syncthreads();
    warp.put(shared.parts);
    __syncthreads();

    for (int i = thread; i < p.group * DIM; i += Shape::THREADS) {
        int query = i / DIM, channel = i % DIM, q_head = head * p.group + query;
        bool exists = channel < p.dim;
        float largest = -INFINITY;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            largest = fmaxf(largest, shared.parts.max[w][query]);
        }
        Whole whole(largest);
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            whole.add(shared.parts.max[w][query], shared.parts.sum[w][query],
                      shared.parts.out[w][query][channel]);
        }
        if (splits == 1) {
            write<T>(p, sequence, q_head, channel, exists, whole);
        } else {
            Part part(p, splits, sequence, q_head, split);
            if (exists) part.out[channel] = whole.out;
            if (channel == 0) {
                part.stats[0] = largest;
                part.stats[1] = whole.sum;
            }
        }
    }
}

// With as many stages as the device has room for; the bits are the same.
template <typename T, typename KV, int DIM, int TILES, int STAGES = most_stages(DIM, sizeof(KV))>
int run(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    using Shape = decoding::Shape<DIM, TILES, sizeof(KV), STAGES>;
    constexpr size_t SHARED = sizeof(typename Shape::Shared);
    if constexpr (SHARED > SHARED_EVERYWHERE) {
        if (SHARED > shared_limit()) {
            return run<T, KV, DIM, TILES, STAGES - 1>(p, splits, blocks, stream);
        }
    }
    Launch shape{dim3(blocks), Shape::THREADS};
    return launch<decode<T, KV, DIM, TILES, STAGES>, SHARED, SHARED>(shape, stream, p, splits);
}

template <typename T, typename KV, int DIM>
int run_group(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    return p.group > 8 ? run<T, KV, DIM, 2>(p, splits, blocks, stream)
                       : run<T, KV, DIM, 1>(p, splits, blocks, stream);
}

}  // namespace
}  // namespace salient
