// Thread-block clusters and distributed shared memory (PTX ISA: barrier.cluster, mapa,
// ld.shared::cluster). For sm_90; on older architectures these trap.
#pragma once

#include "common/memory.cuh"

namespace salient {

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
    return size;
}

// Every thread of the cluster arrives and waits; writes before it are seen after it. Not the
// aligned form, which is undefined where a warp has not converged.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::
                     : "memory");
#else
    __trap();
#endif
}

// The word of the block of that rank that lies where `mine` lies in this block.
template <typename T>
__device__ __forceinline__ T cluster_load(const T* mine, uint32_t rank) {
    static_assert(sizeof(T) == 4, "words only");
    uint32_t word = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    asm volatile(
        "{\n\t.reg .b32 remote;\n\t"
        "mapa.shared::cluster.u32 remote, %1, %2;\n\t"
        "ld.shared::cluster.b32 %0, [remote];\n\t}"
        : "=r"(word)
        : "r"(address), "r"(rank)
        : "memory");
#else
    __trap();
#endif
    T value;
    memcpy(&value, &word, sizeof value);
    return value;
}

}  // namespace salient
