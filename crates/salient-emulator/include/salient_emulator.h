// What CUDA C++ gives a kernel, for a C++ compiler alone: the built-ins that the kernels use, on top
// of the hooks that the scheduler in Rust implements. Each CUDA thread is a coroutine; whatever waits
// for other threads is a call of a hook, which resumes when they have come.
#ifndef SALIENT_EMULATOR_H
#define SALIENT_EMULATOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

// Launchers and what files share carry other names here, so that all builds of the kernels fit into one
// program: those for a device, those for the emulator, and the copy whose mutants can be switched on.
#ifdef SALIENT_MUTANTS
#define salient salient_mutants
#define SALIENT_LAUNCHER(name) salient_mutated_##name
#define SALIENT_MUTATED(name) (salient_emulated_mutated(name) != 0)
#else
#define salient salient_emulated
#define SALIENT_LAUNCHER(name) salient_emulated_##name
#define SALIENT_MUTATED(name) false
#endif
#define salient_mlp SALIENT_LAUNCHER(mlp)
#define salient_keynorm SALIENT_LAUNCHER(keynorm)
#define salient_pool SALIENT_LAUNCHER(pool)
#define salient_attention_score SALIENT_LAUNCHER(attention_score)
#define salient_expected SALIENT_LAUNCHER(expected)
#define salient_indexer SALIENT_LAUNCHER(indexer)
#define salient_decode SALIENT_LAUNCHER(decode)
#define salient_select SALIENT_LAUNCHER(select)
#define salient_rows SALIENT_LAUNCHER(rows)
#define salient_rows_in_place SALIENT_LAUNCHER(rows_in_place)
#define salient_kv SALIENT_LAUNCHER(kv)
#define salient_prefill SALIENT_LAUNCHER(prefill)
#define salient_validate SALIENT_LAUNCHER(validate)

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulated {

// Where in a kernel something happens.
struct Site {
    const char* file;
    uint32_t line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, static_cast<uint32_t>(line)};
    }
};

// The running CUDA thread. The layout is that of `Thread` in src/thread.rs.
struct Thread {
    dim3 thread;
    dim3 block;
    dim3 block_size;
    dim3 grid_size;
    unsigned char* shared;
    unsigned char* const* peers;  // the shared memory of every block of the cluster
    uint32_t shared_bytes;
    uint32_t lane;
    uint32_t cluster_rank;
    uint32_t cluster_size;
};

// The layout is that of `Shape` in src/launch.rs.
struct Shape {
    dim3 grid;
    uint32_t threads;
    uint32_t cluster;
    uint32_t cooperative;
    uint64_t shared_bytes;
};

enum Access : uint32_t { LOAD, STORE, ATOMIC, SHARED_LOAD, SHARED_STORE, SHARED_ATOMIC };

// What a collective of the lanes of a warp is.
enum Collective : uint32_t { SHUFFLE, VOTE, MATCH, REDUCE, SYNC, LDMATRIX, MMA, MOVMATRIX };

enum Barrier : uint32_t { BLOCK, CLUSTER };

struct Votes {
    uint32_t count, all, any;
};

// One thread's part in a multiply of its warpgroup. The layout is that of `Multiply` in
// src/thread.rs.
struct Multiply {
    float* d;           // n / 2 accumulators
    const uint32_t* a;  // 4 words of a; null if it lies in shared memory
    uint64_t a_descriptor;
    uint64_t b_descriptor;
    uint32_t n;
    uint32_t bf16;  // or f16
    uint32_t a_transposed;
    uint32_t b_transposed;
    uint32_t accumulate;
};

// Runs once over the data of all lanes of a collective. It says what is wrong, or gives null.
typedef const char* Complete(void* const* data, uint32_t mask);

}  // namespace emulated

extern "C" {
extern __thread emulated::Thread* salient_emulated_thread;

void salient_emulated_set_thread(emulated::Thread* thread);

// Checks an access and counts it. `active` is 0 for a lane whose predicate is false: it takes part in
// the warp's request and touches nothing.
void salient_emulated_access(const volatile void* address, uint32_t bytes, emulated::Access access,
                             uint32_t active, emulated::Site site);

// Waits for every lane of `mask`, then runs `complete`.
void salient_emulated_collective(uint32_t mask, emulated::Collective kind, void* data,
                                 emulated::Complete* complete, emulated::Site site);

// Waits for every thread of the block or cluster; gives how many came with `vote` nonzero.
emulated::Votes salient_emulated_barrier(emulated::Barrier barrier, uint32_t vote,
                                         emulated::Site site);

// Lets other threads run, from inside a loop that waits for them.
void salient_emulated_pause();

void salient_emulated_copy_async(void* shared, const void* global, uint32_t bytes, uint32_t copied,
                                 emulated::Site site);
void salient_emulated_copy_commit();
void salient_emulated_copy_wait(uint32_t pending);

// What the thread has stored to shared memory is seen by tensor copies and multiplies from now on.
void salient_emulated_proxy_fence();

void salient_emulated_mbarrier_init(void* barrier, uint32_t threads, emulated::Site site);
void salient_emulated_mbarrier_invalidate(void* barrier, emulated::Site site);
// Expects `bytes` more, then arrives.
void salient_emulated_mbarrier_arrive(void* barrier, uint32_t bytes, emulated::Site site);
void salient_emulated_mbarrier_wait(void* barrier, uint32_t parity, emulated::Site site);
// Arrives, and waits if `wait` is not 0.
void salient_emulated_named_barrier(uint32_t id, uint32_t threads, uint32_t wait,
                                    emulated::Site site);

// Fills the 16 words of a map, as a driver would, or gives a cudaError_t.
int salient_emulated_tensor_map(uint64_t* map, const void* address, const uint64_t* sizes,
                                const uint64_t* strides, const uint32_t* box, uint32_t swizzle,
                                uint32_t rank);
void salient_emulated_tensor_copy(void* shared, const uint64_t* map, const int32_t* at,
                                  uint32_t rank, void* barrier, emulated::Site site);

void salient_emulated_warpgroup_fence(emulated::Site site);
void salient_emulated_warpgroup_multiply(const emulated::Multiply* multiply, emulated::Site site);
void salient_emulated_warpgroup_commit(emulated::Site site);
void salient_emulated_warpgroup_wait(uint32_t pending, emulated::Site site);
void salient_emulated_set_registers(uint32_t registers, emulated::Site site);

// Whether the launch runs this mutant.
int salient_emulated_mutated(const char* name);

[[noreturn]] void salient_emulated_fail(const char* what, emulated::Site site);

int salient_emulated_launch(void* stream, const char* kernel, const emulated::Shape* shape,
                            void (*run)(void* body), void* body);
int salient_emulated_capability(void* stream);
int salient_emulated_resident_blocks(void* stream);
int salient_emulated_memset(void* stream, void* address, int value, size_t bytes);
}

namespace emulated {

inline Thread& self() { return *salient_emulated_thread; }

template <typename T>
inline void check_word(T) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    static_assert(std::is_trivially_copyable<T>::value, "");
}

template <typename T>
struct Shuffled {
    T value;
    T result;
    int source;  // the lane to read, 0 to 31
};

template <typename T>
inline T shuffle(uint32_t mask, T value, int source, Site site) {
    check_word(value);
    Shuffled<T> mine{value, value, source};
    salient_emulated_collective(
        mask, SHUFFLE, &mine,
        [](void* const* data, uint32_t mask) -> const char* {
            for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
                auto* mine = static_cast<Shuffled<T>*>(data[__builtin_ctz(rest)]);
                if (!(mask >> mine->source & 1)) return "a shuffle reads a lane outside its mask";
                mine->result = static_cast<Shuffled<T>*>(data[mine->source])->value;
            }
            return nullptr;
        },
        site);
    return mine.result;
}

struct Voted {
    uint32_t value;
    uint32_t result;
};

inline Voted& voted(void* const* data, int lane) { return *static_cast<Voted*>(data[lane]); }

template <typename Visit>
inline void for_lanes(uint32_t mask, Visit visit) {
    for (; mask != 0; mask &= mask - 1) visit(__builtin_ctz(mask));
}

inline uint32_t join(uint32_t mask, uint32_t value, Collective kind, Complete* complete,
                     Site site) {
    Voted mine{value, 0};
    salient_emulated_collective(mask, kind, &mine, complete, site);
    return mine.result;
}

inline const char* ballot(void* const* data, uint32_t mask) {
    uint32_t votes = 0;
    for_lanes(mask, [&](int lane) { votes |= voted(data, lane).value << lane; });
    for_lanes(mask, [&](int lane) { voted(data, lane).result = votes; });
    return nullptr;
}

inline const char* match(void* const* data, uint32_t mask) {
    for_lanes(mask, [&](int mine) {
        uint32_t same = 0;
        for_lanes(mask, [&](int lane) {
            same |= uint32_t(voted(data, lane).value == voted(data, mine).value) << lane;
        });
        voted(data, mine).result = same;
    });
    return nullptr;
}

template <typename Fold>
const char* reduce(void* const* data, uint32_t mask) {
    uint32_t result = Fold::FIRST;
    for_lanes(mask, [&](int lane) { result = Fold::fold(result, voted(data, lane).value); });
    for_lanes(mask, [&](int lane) { voted(data, lane).result = result; });
    return nullptr;
}

struct Add {
    static constexpr uint32_t FIRST = 0;
    static uint32_t fold(uint32_t a, uint32_t b) { return a + b; }
};
struct Min {
    static constexpr uint32_t FIRST = UINT32_MAX;
    static uint32_t fold(uint32_t a, uint32_t b) { return a < b ? a : b; }
};
struct Max {
    static constexpr uint32_t FIRST = 0;
    static uint32_t fold(uint32_t a, uint32_t b) { return a > b ? a : b; }
};

}  // namespace emulated

#define threadIdx (::emulated::self().thread)
#define blockIdx (::emulated::self().block)
#define blockDim (::emulated::self().block_size)
#define gridDim (::emulated::self().grid_size)

#define SALIENT_SITE ::emulated::Site site = ::emulated::Site::here()

template <typename T>
inline T __shfl_sync(uint32_t mask, T value, int source, SALIENT_SITE) {
    return emulated::shuffle(mask, value, source & 31, site);
}
template <typename T>
inline T __shfl_up_sync(uint32_t mask, T value, uint32_t delta, SALIENT_SITE) {
    int lane = static_cast<int>(emulated::self().lane);
    int source = lane - static_cast<int>(delta);
    return emulated::shuffle(mask, value, source < 0 ? lane : source, site);
}
template <typename T>
inline T __shfl_down_sync(uint32_t mask, T value, uint32_t delta, SALIENT_SITE) {
    uint32_t lane = emulated::self().lane, source = lane + delta;
    return emulated::shuffle(mask, value, static_cast<int>(source > 31 ? lane : source), site);
}
template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, uint32_t lanes, SALIENT_SITE) {
    return emulated::shuffle(mask, value, static_cast<int>((emulated::self().lane ^ lanes) & 31),
                             site);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, SALIENT_SITE) {
    return emulated::join(mask, predicate != 0, emulated::VOTE, emulated::ballot, site);
}
inline int __any_sync(uint32_t mask, int predicate, SALIENT_SITE) {
    return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, SALIENT_SITE) {
    return __ballot_sync(mask, predicate != 0, site) == mask;
}
template <typename T>
inline uint32_t __match_any_sync(uint32_t mask, T value, SALIENT_SITE) {
    static_assert(sizeof(T) == 4, "");
    return emulated::join(mask, static_cast<uint32_t>(value), emulated::MATCH, emulated::match, site);
}
inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value, SALIENT_SITE) {
    return emulated::join(mask, value, emulated::REDUCE, emulated::reduce<emulated::Add>, site);
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value, SALIENT_SITE) {
    return emulated::join(mask, value, emulated::REDUCE, emulated::reduce<emulated::Min>, site);
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value, SALIENT_SITE) {
    return emulated::join(mask, value, emulated::REDUCE, emulated::reduce<emulated::Max>, site);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, SALIENT_SITE) {
    salient_emulated_collective(mask, emulated::SYNC, nullptr, nullptr, site);
}
inline void __syncthreads(SALIENT_SITE) {
    salient_emulated_barrier(emulated::BLOCK, 0, site);
}
inline int __syncthreads_count(int predicate, SALIENT_SITE) {
    return static_cast<int>(salient_emulated_barrier(emulated::BLOCK, predicate != 0, site).count);
}
inline int __syncthreads_or(int predicate, SALIENT_SITE) {
    return salient_emulated_barrier(emulated::BLOCK, predicate != 0, site).any != 0;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

template <typename To, typename From>
inline To salient_emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline uint32_t __float_as_uint(float x) { return salient_emulated_bits<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return salient_emulated_bits<float>(x); }
// Rounded, and never contracted into a fused multiply-add (the build says -ffp-contract=off).
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }

#endif
