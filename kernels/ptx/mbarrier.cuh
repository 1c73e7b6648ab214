// Barriers in shared memory that count threads and bytes (PTX ISA: mbarrier), and the fence between
// ordinary writes and asynchronous reads (PTX ISA: fence.proxy.async). For sm_90a; elsewhere these
// trap. And named barriers (PTX ISA: bar), for any architecture.
#pragma once

#include "common/memory.cuh"

namespace salient {

// Lies in shared memory. Its phases are numbered from 0; one ends when as many threads as it counts
// have arrived and every byte that they expect is there, and the next begins.
struct alignas(8) Mbarrier {
    uint64_t state;
};

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// By one thread, before any other uses the barrier: mbarrier_init_fence, then __syncthreads.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, uint32_t threads) {
    if constexpr (SM_90A) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                     "r"(threads)
                     : "memory");
    } else {
        unsupported();
    }
}

// Makes the inits of this thread known to tensor copies (PTX ISA: fence.mbarrier_init,
// fence.proxy.async).
__device__ __forceinline__ void mbarrier_init_fence() {
    if constexpr (SM_90A) {
        asm volatile(
            "fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::
                : "memory");
    } else {
        unsupported();
    }
}

// Counts this thread in; what it wrote before is seen by those who wait for the phase.
__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
    if constexpr (SM_90A) {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                     : "memory");
    } else {
        unsupported();
    }
}

// The same, and lets the phase wait for this many bytes more. The copies that bring them are started
// after it, so that the phase cannot end between.
__device__ __forceinline__ void mbarrier_arrive_expect(Mbarrier* barrier, uint32_t bytes) {
    if constexpr (SM_90A) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                         shared_address(barrier)),
                     "r"(bytes)
                     : "memory");
    } else {
        unsupported();
    }
}

// Until the phase of that parity (its number modulo 2) has ended: the one that runs, or the one
// before. So with parity 1 a fresh barrier lets through at once.
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
    if constexpr (SM_90A) {
        uint32_t done;
        do {
            asm volatile(
                "{\n\t.reg .pred done;\n\t"
                "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
                "selp.u32 %0, 1, 0, done;\n\t}"
                : "=r"(done)
                : "r"(shared_address(barrier)), "r"(parity)
                : "memory");
        } while (done == 0);
    } else {
        unsupported();
    }
}

// Before its place in shared memory is used for something else.
__device__ __forceinline__ void mbarrier_invalidate(Mbarrier* barrier) {
    if constexpr (SM_90A) {
        asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
                     : "memory");
    } else {
        unsupported();
    }
}

// What this thread wrote to shared memory is seen by tensor copies and warpgroup multiplies that
// start after it, in this thread or behind a barrier.
__device__ __forceinline__ void async_proxy_fence() {
    if constexpr (SM_90A) {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    } else {
        unsupported();
    }
}

// Waits until `threads` threads, whole warps, have come to barrier `id`, by either function. From 1
// to 15: 0 is that of __syncthreads.
__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Is counted, and does not wait.
__device__ __forceinline__ void named_barrier_arrive(uint32_t id, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace salient
