// Sums over the threads of a block, in an order that does not depend on the schedule.
#pragma once

#include "common/memory.cuh"

namespace salient {

constexpr int MAX_WARPS = 32;

// The sum over the lanes from this one up.
__device__ __forceinline__ uint32_t suffix_sum(uint32_t value) {
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t above = __shfl_down_sync(FULL_WARP, value, step);
        value += lane_id() + step < 32 ? above : 0;
    }
    return value;
}

// The sum over the lanes up to this one.
__device__ __forceinline__ uint32_t prefix_sum(uint32_t value) {
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t below = __shfl_up_sync(FULL_WARP, value, step);
        value += lane_id() >= step ? below : 0;
    }
    return value;
}

// Of a value per thread: the sum over lower threads, and over all.
struct Scanned {
    uint32_t before;
    uint32_t total;
};

// Sums over the warps, given each warp's own sum in all its lanes. `sums` is free again after the
// next barrier.
__device__ __forceinline__ Scanned scan_warps(uint32_t sum, uint32_t (&sums)[MAX_WARPS]) {
    if (lane_id() == 0) sums[warp_id()] = sum;
    __syncthreads();
    bool present = lane_id() < blockDim.x / 32;
    uint32_t other = present ? sums[lane_id()] : 0;
    uint32_t before = __reduce_add_sync(FULL_WARP, lane_id() < warp_id() ? other : 0);
    return {before, __reduce_add_sync(FULL_WARP, other)};
}

__device__ __forceinline__ Scanned scan_block(uint32_t value, uint32_t (&sums)[MAX_WARPS]) {
    uint32_t inclusive = prefix_sum(value);
    uint32_t sum = __shfl_sync(FULL_WARP, inclusive, 31);
    Scanned warps = scan_warps(sum, sums);
    return {warps.before + inclusive - value, warps.total};
}

}  // namespace salient
