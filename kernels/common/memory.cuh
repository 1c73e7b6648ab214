// Every access to device and shared memory goes through these: nothing under nvcc, and under the
// emulator where accesses are checked and counted. Predicated forms keep a warp's lanes in step, so
// that they are counted as the one request that they are.
#pragma once

#include "common/platform.cuh"

namespace salient {

// 16 bytes that move in one instruction.
struct alignas(16) Vector {
    uint32_t words[4];
};

#ifdef SALIENT_EMULATOR

#define SALIENT_ACCESS(pointer, kind, active) \
    salient_emulated_access(pointer, sizeof(*(pointer)), emulated::kind, active, site)

template <typename T>
inline T load(const T* from, SALIENT_SITE) {
    SALIENT_ACCESS(from, LOAD, 1);
    return *from;
}

template <typename T>
inline T load_if(bool active, const T* from, T otherwise, SALIENT_SITE) {
    SALIENT_ACCESS(from, LOAD, active);
    return active ? *from : otherwise;
}

template <typename T>
inline void store(T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, STORE, 1);
    *to = value;
}

template <typename T>
inline void store_if(bool active, T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, STORE, active);
    if (active) *to = value;
}

template <typename T>
inline T global_add(T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, ATOMIC, 1);
    return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);
}

inline void global_or(uint32_t* to, uint32_t value, SALIENT_SITE) {
    SALIENT_ACCESS(to, ATOMIC, 1);
    __atomic_fetch_or(to, value, __ATOMIC_SEQ_CST);
}

inline void global_min(uint32_t* to, uint32_t value, SALIENT_SITE) {
    SALIENT_ACCESS(to, ATOMIC, 1);
    uint32_t seen = __atomic_load_n(to, __ATOMIC_SEQ_CST);
    while (value < seen &&
           !__atomic_compare_exchange_n(to, &seen, value, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
}

// What other blocks may have written since the kernel began.
template <typename T>
inline T load_fresh(const T* from, SALIENT_SITE) {
    SALIENT_ACCESS(from, LOAD, 1);
    return *from;
}

inline uint32_t load_acquire(const uint32_t* from, SALIENT_SITE) {
    SALIENT_ACCESS(from, ATOMIC, 1);
    return __atomic_load_n(from, __ATOMIC_SEQ_CST);
}

template <typename T>
inline T shared_load(const T* from, SALIENT_SITE) {
    SALIENT_ACCESS(from, SHARED_LOAD, 1);
    return *from;
}

template <typename T>
inline void shared_store(T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, SHARED_STORE, 1);
    *to = value;
}

template <typename T>
inline void shared_store_if(bool active, T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, SHARED_STORE, active);
    if (active) *to = value;
}

// The blocks of a cluster run on one thread of the host, so this need not be atomic.
template <typename T>
inline T shared_add(T* to, T value, SALIENT_SITE) {
    SALIENT_ACCESS(to, SHARED_ATOMIC, 1);
    T before = *to;
    *to = before + value;
    return before;
}

// The block's dynamic shared memory.
template <typename T>
inline T& shared_memory(SALIENT_SITE) {
    if (sizeof(T) > emulated::self().shared_bytes) {
        salient_emulated_fail("the launch has less shared memory than the kernel uses", site);
    }
    return *reinterpret_cast<T*>(emulated::self().shared);
}

// To be called in a loop that waits for other blocks.
inline void pause() { salient_emulated_pause(); }

#else

template <typename T>
__device__ __forceinline__ T load(const T* from) {
    return *from;
}

template <typename T>
__device__ __forceinline__ T load_if(bool active, const T* from, T otherwise) {
    return active ? *from : otherwise;
}

template <typename T>
__device__ __forceinline__ void store(T* to, T value) {
    *to = value;
}

template <typename T>
__device__ __forceinline__ void store_if(bool active, T* to, T value) {
    if (active) *to = value;
}

template <typename T>
__device__ __forceinline__ T global_add(T* to, T value) {
    return atomicAdd(to, value);
}

__device__ __forceinline__ void global_or(uint32_t* to, uint32_t value) { atomicOr(to, value); }
__device__ __forceinline__ void global_min(uint32_t* to, uint32_t value) { atomicMin(to, value); }

template <typename T>
__device__ __forceinline__ T load_fresh(const T* from) {
    return *const_cast<const volatile T*>(from);
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
    uint32_t value = *const_cast<const volatile uint32_t*>(from);
    __threadfence();
    return value;
}

template <typename T>
__device__ __forceinline__ T shared_load(const T* from) {
    return *from;
}

template <typename T>
__device__ __forceinline__ void shared_store(T* to, T value) {
    *to = value;
}

template <typename T>
__device__ __forceinline__ void shared_store_if(bool active, T* to, T value) {
    if (active) *to = value;
}

template <typename T>
__device__ __forceinline__ T shared_add(T* to, T value) {
    return atomicAdd(to, value);
}

template <typename T>
__device__ __forceinline__ T& shared_memory() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return *reinterpret_cast<T*>(dynamic_shared_memory);
}

__device__ __forceinline__ void pause() { __nanosleep(20); }

#endif

}  // namespace salient
