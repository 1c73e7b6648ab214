// Copies of boxes of a tensor from device to shared memory (PTX ISA: Tensors;
// cp.async.bulk.tensor). For sm_90a; elsewhere these trap.
#pragma once

#include "common/launch.cuh"
#include "ptx/mbarrier.cuh"

#include <cuda.h>

namespace salient {

// How 16-byte units of shared memory are permuted within rows of this width in bytes: bits 4
// and up of an address are XORed with as many from bit 7 up, 1, 2 or 3 of them (PTX ISA: Swizzling
// Modes). The pattern repeats every 8 rows, and a tile begins where it does.
enum class Swizzle : uint32_t { NONE = 0, BYTES_32 = 32, BYTES_64 = 64, BYTES_128 = 128 };

// What a tensor copy knows of its tensor: a CUtensorMap. A kernel takes it inside a parameter that
// is `const __grid_constant__`, and uses its address there.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

constexpr int MAX_RANK = 5;

enum class Keep { LONG, BRIEFLY };

// A tensor of 16-bit elements and the box of it that one copy moves, innermost dimension first.
struct TensorBox {
    const void* address;          // 16-byte aligned
    uint64_t sizes[MAX_RANK];     // elements, at least 1
    uint64_t strides[MAX_RANK];   // bytes, multiples of 16; that of dimension 0 is not read
    uint32_t box[MAX_RANK];       // elements, 1 to 256; those of dimension 0 as wide as the swizzle,
                                  // or without one a multiple of 16 bytes
    Swizzle swizzle;
};

// Makes a map of a tensor of rank 1 to MAX_RANK. What lies outside the tensor is read as zeros. On
// the host; gives a cudaError_t.
inline int make_tensor_map(TensorMap& map, const TensorBox& tensor, int rank) {
    static_assert(sizeof(TensorMap) == sizeof(CUtensorMap), "");
    auto width = static_cast<uint32_t>(tensor.swizzle);
    if (width != 0 && width != tensor.box[0] * sizeof(uint16_t)) return INVALID_VALUE;
    using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    // Asked of the driver, so that nothing links to it.
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                         cudaEnableDefault, &found);
#else
    cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess) return error;
    if (found != cudaDriverEntryPointSuccess) return NOT_SUPPORTED;
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
    if (tensor.swizzle == Swizzle::BYTES_32) swizzle = CU_TENSOR_MAP_SWIZZLE_32B;
    if (tensor.swizzle == Swizzle::BYTES_64) swizzle = CU_TENSOR_MAP_SWIZZLE_64B;
    if (tensor.swizzle == Swizzle::BYTES_128) swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    cuuint64_t sizes[MAX_RANK], strides[MAX_RANK];
    cuuint32_t steps[MAX_RANK];
    for (int i = 0; i < rank; i++) {
        sizes[i] = tensor.sizes[i];
        strides[i] = tensor.strides[i];
        steps[i] = 1;
    }
    // CUresult and cudaError_t number errors alike.
    return reinterpret_cast<Encode>(entry)(
        reinterpret_cast<CUtensorMap*>(&map),
        CU_TENSOR_MAP_DATA_TYPE_UINT16, static_cast<cuuint32_t>(rank),
        const_cast<void*>(tensor.address), sizes, strides + 1, tensor.box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

// Fetches the map itself ahead of its first copy (PTX ISA: prefetch.tensormap).
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap* map) {
    if constexpr (SM_90A) {
        asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
    } else {
        unsupported();
    }
}

#define SALIENT_COPY_TENSOR(rank) \
    "cp.async.bulk.tensor." rank  \
    ".shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"

// How long L2 should keep what a copy has read (PTX ISA: createpolicy).
template <Keep KEEP>
__device__ __forceinline__ uint64_t cache_policy() {
    uint64_t policy = 0;
    if constexpr (!SM_90A) {
        unsupported();
    } else if constexpr (KEEP == Keep::LONG) {
        asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    } else {
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    }
    return policy;
}

// By one thread: copies the box that begins at element `at`, innermost dimension first, to 128-byte
// aligned shared memory, where it lies packed and then swizzled. All its bytes, zeros from outside
// the tensor among them, arrive at the barrier.
template <int RANK>
__device__ __forceinline__ void copy_tensor(void* shared, const TensorMap& map,
                                            const int32_t (&at)[RANK], Mbarrier* barrier,
                                            uint64_t policy) {
    static_assert(RANK >= 2 && RANK <= 4, "the ranks that kernels use");
    uint32_t to = shared_address(shared), arrive = shared_address(barrier);
    if constexpr (!SM_90A) {
        unsupported();
    } else if constexpr (RANK == 2) {
        asm volatile(SALIENT_COPY_TENSOR("2d") " [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
                     "l"(&map), "r"(arrive), "l"(policy), "r"(at[0]), "r"(at[1])
                     : "memory");
    } else if constexpr (RANK == 3) {
        asm volatile(SALIENT_COPY_TENSOR("3d") " [%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(to),
                     "l"(&map), "r"(arrive), "l"(policy), "r"(at[0]), "r"(at[1]), "r"(at[2])
                     : "memory");
    } else {
        asm volatile(SALIENT_COPY_TENSOR("4d") " [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(to),
                     "l"(&map), "r"(arrive), "l"(policy), "r"(at[0]), "r"(at[1]), "r"(at[2]),
                     "r"(at[3])
                     : "memory");
    }
}
#undef SALIENT_COPY_TENSOR

}  // namespace salient
