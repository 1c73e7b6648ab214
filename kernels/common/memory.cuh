// Words of memory, and loads that see what other blocks write while the kernel runs.
#pragma once

#include "common/platform.cuh"

namespace salient {

// 16 bytes that move in one instruction.
struct alignas(16) Vector {
    uint32_t words[4];
};

// Two floats that move in one instruction.
struct alignas(8) Pair {
    float at[2];
};

// The block's dynamic shared memory.
template <typename T>
__device__ __forceinline__ T& shared_memory() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return *reinterpret_cast<T*>(dynamic_shared_memory);
}

// What other blocks may have written since the kernel began.
template <typename T>
__device__ __forceinline__ T load_fresh(const T* from) {
    return *const_cast<const volatile T*>(from);
}

// The same, and nothing behind it is read before it.
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
    uint32_t value = load_fresh(from);
    __threadfence();
    return value;
}

}  // namespace salient
