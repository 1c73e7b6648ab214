// Asynchronous copies from device to shared memory (PTX ISA: cp.async, sm_80).
#pragma once

#include "common/memory.cuh"

namespace salient {

// 16 bytes, around L1; zeros if not `valid`, when `global` is not read.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// Closes the group of copies that this thread has started since the last.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING of this thread's groups are on their way.
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

}  // namespace salient
