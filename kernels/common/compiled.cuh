// What the code was compiled for that the device runs. That may be less than the device has: a
// build for older ones runs on it by way of their PTX.
#pragma once

#include "common/launch.cuh"

namespace salient {
namespace {

// What code has beside the instructions of sm_80.
enum Instructions : int { OF_SM_80 = 1, CLUSTERS = 2, WARPGROUPS = 3 };

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr Instructions COMPILED_FOR = WARPGROUPS;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr Instructions COMPILED_FOR = CLUSTERS;
#else
constexpr Instructions COMPILED_FOR = OF_SM_80;
#endif

// Its bounds tell the host.
__global__ void __launch_bounds__(32 * COMPILED_FOR) compiled_for() {}

inline int compiled_instructions() {
    cudaFuncAttributes attributes;
    const Kernel& kernel = kernel_of<compiled_for, 0>;
    if (cudaFuncGetAttributes(&attributes, kernel.function) != cudaSuccess) return OF_SM_80;
    return attributes.maxThreadsPerBlock / 32;
}

// Clusters are of sm_90 and what comes after it.
inline bool has_clusters() { return compiled_instructions() >= CLUSTERS; }

// wgmma and setmaxnreg are of sm_90a alone.
inline bool has_warpgroups() { return compiled_instructions() == WARPGROUPS; }

}  // namespace
}  // namespace salient
