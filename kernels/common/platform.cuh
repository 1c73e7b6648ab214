// What every kernel knows: its architecture, its place in the block, and a little arithmetic.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime.h>

#include "include/salient.h"

// A launcher: the one kind of symbol that leaves an object.
#define SALIENT_EXPORT extern "C" __attribute__((visibility("default")))

namespace salient {

// Whether this is code for sm_90a, the one architecture that has wgmma and setmaxnreg.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool SM_90A = true;
#else
constexpr bool SM_90A = false;
#endif

// In place of instructions that the architecture lacks: nothing behind it is compiled.
__device__ __forceinline__ void unsupported() {
    __trap();
    __builtin_unreachable();
}

constexpr uint32_t FULL_WARP = 0xffffffffu;

__device__ __forceinline__ uint32_t lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ uint32_t warp_id() { return threadIdx.x / 32; }

// A bit for every lane below this one.
__device__ __forceinline__ uint32_t lanes_below() { return (1u << lane_id()) - 1; }

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

template <typename T>
__host__ __device__ constexpr T min_of(T a, T b) {
    return a < b ? a : b;
}

template <typename T>
__host__ __device__ constexpr T max_of(T a, T b) {
    return a < b ? b : a;
}

}  // namespace salient
