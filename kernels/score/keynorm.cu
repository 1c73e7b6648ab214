// score: minus the Euclidean norm of keys.
//
// A block takes 256 keys: a power of two of heads, up to 8, by as many tokens as that leaves. Eight
// lanes share a key, 16 bytes at a time, and every lane has four keys' loads on their way. The
// norms meet in shared memory, from where scores leave in whole lines whatever the keys' layout.
#include "common/launch.cuh"
#include "common/memory.cuh"
#include "ptx/convert.cuh"

namespace salient {
namespace {

constexpr int LOG_THREADS = 8;
constexpr int THREADS = 1 << LOG_THREADS;  // and keys of a block
constexpr int LANES = 8;                   // per key
constexpr int AT_ONCE = 4;                 // keys that a lane has on their way
constexpr int MAX_LOG_HEADS = 3;           // of a block

// What a block takes: heads, a power of two, by tokens; together THREADS keys.
struct KeyTile {
    int log_heads;

    __host__ __device__ int heads() const { return 1 << log_heads; }
    __host__ __device__ int tokens() const { return THREADS >> log_heads; }

    // Of keys in the order of heads, then tokens.
    __device__ int head(int key) const { return key >> (LOG_THREADS - log_heads); }
    __device__ int token(int key) const { return key & (tokens() - 1); }

    // Of keys in the order of tokens, then heads.
    __device__ int among_heads(int key) const { return key & (heads() - 1); }
    __device__ int over_heads(int key) const { return key >> log_heads; }

    // Where a norm lies: heads are so far apart that a warp's norms are in different banks.
    __device__ int place(int head, int token) const {
        return head * (tokens() + (32 >> log_heads)) + token;
    }
};

struct Norms {
    float at[THREADS + 32];
};

__device__ __forceinline__ float square(float x) { return x * x; }

// The sum of the squares of 16 bytes of keys.
__device__ __forceinline__ float squares(const Vector& vector, const float*) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) sum += square(__uint_as_float(vector.words[i]));
    return sum;
}

template <typename T>
__device__ __forceinline__ float squares(const Vector& vector, const T*) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float values[2];
        unpack<T>(vector.words[i], values);
        sum += square(values[0]);
        sum += square(values[1]);
    }
    return sum;
}

// The same of up to 16 bytes that may lie anywhere, in the same order.
template <typename T>
__device__ __forceinline__ float squares(const T* key, int count) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < static_cast<int>(16 / sizeof(T)); i++) {
        sum += square(to_float(i < count ? key[i] : T{}));
    }
    return sum;
}

// The norms of a block's keys, from `token` and `head` on, into shared memory.
template <typename T, bool ALIGNED>
__device__ __forceinline__ void norms_of(const SalientKeynormParams& p, Norms& norms,
                                         const KeyTile& tile, int token, int head) {
    constexpr int WIDTH = 16 / sizeof(T);
    int lane = static_cast<int>(lane_id()), first_key = static_cast<int>(warp_id()) * 32;
    bool heads_first = p.head_stride < p.token_stride;  // keys in the order in which they lie
    auto token_of = [&](int key) { return heads_first ? tile.over_heads(key) : tile.token(key); };
    auto head_of = [&](int key) { return heads_first ? tile.among_heads(key) : tile.head(key); };

    float norm = 0.0f;
#pragma unroll 1
    for (int first = 0; first < LANES; first += AT_ONCE) {
        const T* keys[AT_ONCE];
        bool exists[AT_ONCE];
        float sums[AT_ONCE] = {};
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int key = first_key + (first + i) * (32 / LANES) + lane / LANES;
            int64_t t = token + token_of(key), h = head + head_of(key);
            exists[i] = t < p.tokens && h < p.heads;
            keys[i] = static_cast<const T*>(p.keys) + t * p.token_stride + h * p.head_stride;
        }
        for (int start = 0; start < p.dim; start += LANES * WIDTH) {
            int from = start + lane % LANES * WIDTH;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                bool reads = exists[i] && from < p.dim;
                if constexpr (ALIGNED) {
                    auto* vector = reinterpret_cast<const Vector*>(keys[i] + from);
                    sums[i] += squares(reads ? *vector : Vector{}, keys[i]);
                } else {
                    sums[i] += squares(keys[i] + from, reads ? p.dim - from : 0);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float sum = sums[i];
#pragma unroll
            for (int lanes = 1; lanes < LANES; lanes *= 2) {
                sum += __shfl_xor_sync(FULL_WARP, sum, lanes);
            }
            if (lane % LANES == first + i) norm = __fsqrt_rn(sum);
        }
    }
    int key = first_key + lane % LANES * (32 / LANES) + lane / LANES;
    norms.at[tile.place(head_of(key), token_of(key))] = norm;
}

template <typename T, bool ALIGNED>
__global__ void __launch_bounds__(THREADS, 3) keynorm(SalientKeynormParams p, KeyTile tile) {
    auto& norms = shared_memory<Norms>();
    int thread = static_cast<int>(threadIdx.x);
    int head_tiles = p.mean ? 1 : ceil_div(p.heads, tile.heads());
    int token = static_cast<int>(blockIdx.x) / head_tiles * tile.tokens();
    int head = static_cast<int>(blockIdx.x) % head_tiles * tile.heads();
    if (!p.mean) {
        norms_of<T, ALIGNED>(p, norms, tile, token, head);
        __syncthreads();
        int64_t h = head + tile.head(thread);
        int t = token + tile.token(thread);
        float norm = norms.at[tile.place(tile.head(thread), tile.token(thread))];
        if (t < p.tokens && h < p.heads) p.scores[h * p.tokens + t] = -norm;
        return;
    }
    float sum = 0.0f;
    for (; head < p.heads; head += tile.heads()) {
        norms_of<T, ALIGNED>(p, norms, tile, token, head);
        __syncthreads();
        for (int h = 0; h < min_of(tile.heads(), p.heads - head); h++) {
            sum += norms.at[tile.place(h, tile.token(thread))];
        }
        __syncthreads();
    }
    bool writes = thread < tile.tokens() && token + thread < p.tokens;
    if (writes) p.scores[token + thread] = -(sum / static_cast<float>(p.heads));
}

template <typename T>
int run(const SalientKeynormParams& p, SalientStream stream) {
    constexpr int WIDTH = 16 / sizeof(T);
    bool aligned = reinterpret_cast<uintptr_t>(p.keys) % 16 == 0 && p.dim % WIDTH == 0 &&
                   p.token_stride % WIDTH == 0 && p.head_stride % WIDTH == 0;
    KeyTile tile{0};
    while (tile.log_heads < MAX_LOG_HEADS && tile.heads() < p.heads) tile.log_heads++;
    int64_t blocks = ceil_div<int64_t>(p.tokens, tile.tokens());
    if (!p.mean) blocks *= ceil_div<int64_t>(p.heads, tile.heads());
    if (blocks > INT32_MAX) return INVALID_VALUE;
    constexpr size_t SHARED = sizeof(Norms);
    Launch shape{dim3(static_cast<uint32_t>(blocks)), THREADS};
    return aligned ? launch<keynorm<T, true>, SHARED>(shape, stream, p, tile)
                   : launch<keynorm<T, false>, SHARED>(shape, stream, p, tile);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_keynorm(const SalientKeynormParams* params, SalientStream stream) {
    const SalientKeynormParams& p = *params;
    if (p.tokens == 0) return SUCCESS;
    // So that no index of a block's overflows.
    if (max_of(p.tokens, p.heads) > INT32_MAX - THREADS) return INVALID_VALUE;
    switch (p.dtype) {
        case SALIENT_F32: return run<float>(p, stream);
        case SALIENT_F16: return run<f16>(p, stream);
        case SALIENT_BF16: return run<bf16>(p, stream);
        default: return INVALID_VALUE;
    }
}
