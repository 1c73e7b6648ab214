// score: expected attention, from query statistics, on tensor cores of sm_80.
//
// With x = k . (mean + product k), keys are the rows of a product with the statistics of each query
// head of their KV head's group, which go by in chunks of 16 columns. Sums begin at the mean; when
// a chunk's are complete, they meet the key's own channels, which the lane that holds a sum holds
// too. The product is triangular, so that half of its blocks are not there.
//
// Then, in launches of their own: the largest logit and the sum of exponentials of every sequence
// and query head, inverted; the norms of values (salient_keynorm); and the scores.
#include "common/launch.cuh"
#include "common/status.cuh"
#include "ptx/async_copy.cuh"
#include "score/keys.cuh"

namespace salient {
namespace {

using namespace keying;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

template <typename T>
struct Terms;  // that an element of the product is the sum of

template <>
struct Terms<f16> {
    static constexpr int COUNT = 2;
};

template <>
struct Terms<bf16> {
    static constexpr int COUNT = 3;
};

// A 16 x 16 block of the product: of each lane, its part of two operands of 8 columns.
struct alignas(16) Block {
    Vector lanes[32];
};

template <typename T, int DIM>
struct Chunks {
    static constexpr int TILES = DIM <= 128 ? 2 : 1;
    static constexpr int TOKENS = WARPS * 16 * TILES;
    static constexpr int TERMS = Terms<T>::COUNT;
    static constexpr int COUNT = DIM / 16;
    static constexpr int SLOTS = DIM <= 128 ? 3 : 2;

    struct Chunk {
        float mean[16];
        float factor;
        float padding[3];
        Block blocks[COUNT * TERMS];
    };

    struct Shared {
        Chunk slots[SLOTS];
    };

    static constexpr int HEADER = offsetof(Chunk, blocks);

    static __device__ __forceinline__ int blocks(const SalientExpectedParams& p, int chunk) {
        return p.product != 0 ? (chunk + 1) * TERMS : 0;
    }
};

// Copies a chunk of a head.
template <typename T, int DIM>
__device__ __forceinline__ void copy_chunk(const SalientExpectedParams& p,
                                           typename Chunks<T, DIM>::Chunk& to, const char* head,
                                           int chunk) {
    using C = Chunks<T, DIM>;
    int blocks_before = C::blocks(p, chunk) * chunk / 2;
    auto* from = head + chunk * C::HEADER + blocks_before * static_cast<int>(sizeof(Block));
    int vectors = (C::HEADER + C::blocks(p, chunk) * static_cast<int>(sizeof(Block))) / 16;
    for (int i = 0; i < vectors; i += THREADS) {
        int vector = i + static_cast<int>(threadIdx.x);
        if (vector < vectors) {
            copy_async_16(reinterpret_cast<Vector*>(&to) + vector, from + vector * 16, true);
        }
    }
}

// NaN for each group of 8 rows in which this lane holds what is not finite, or else 0.
template <typename T, int DIM, int TILES>
__device__ __forceinline__ void find_infinite(const Rows<T, DIM, TILES>& keys, float (&bad)[4]) {
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int i = 0; i < 4 * keys.BLOCKS; i++) {
            float values[2];
            unpack<T>(keys.operand[m][i / 4][i % 4], values);
            bad[2 * m + i % 2] += values[0] * 0.0f;
            bad[2 * m + i % 2] += values[1] * 0.0f;
        }
    }
}

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS, 2) logits(SalientExpectedParams p) {
    using C = Chunks<T, DIM>;
    constexpr int TILES = C::TILES;
    auto& shared = shared_memory<typename C::Shared>();
    int id = static_cast<int>(blockIdx.x), lane = static_cast<int>(lane_id());
    int kv_head = id % p.kv_heads, sequence = id / p.kv_heads % p.batch;
    int token = id / p.kv_heads / p.batch * C::TOKENS;
    Span span;
    if (!load_span(p.cu_seqlens, sequence, p.total, p.max_len, span)) {
        if (threadIdx.x == 0) report_row(p.status, SALIENT_STATUS_LENGTHS, sequence);
        return;
    }
    if (token >= span.len) return;

    int group = p.q_heads / p.kv_heads, chunks = ceil_div(p.dim, 32) * 2;
    int set = p.sets == 1 ? 0 : sequence;
    auto* weights = static_cast<const char*>(p.weights) +
                    (static_cast<int64_t>(set) * p.q_heads + kv_head * group) * p.head_bytes;
    // Step i is chunk i % chunks of head i / chunks.
    int steps = group * chunks;
    auto copy_step = [&](int step) {
        if (step < steps) {
            copy_chunk<T, DIM>(p, shared.slots[step % C::SLOTS],
                               weights + step / chunks * p.head_bytes, step % chunks);
        }
        copy_async_commit();
    };
    for (int step = 0; step < C::SLOTS - 1; step++) copy_step(step);

    int first = token + static_cast<int>(warp_id()) * 16 * TILES;
    Rows<T, DIM, TILES> keys;
    keys.load_from(static_cast<const T*>(p.k) + kv_head * p.k_strides.head +
                       static_cast<int64_t>(span.start + first) * p.k_strides.token,
                   p.k_strides.token, span.len - first, p.dim);
    float bad[4] = {};
    find_infinite(keys, bad);

    int step = 0;
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        float sums[4] = {bad[0], bad[1], bad[2], bad[3]}, factor = 0.0f;
#pragma unroll
        for (int chunk = 0; chunk < C::COUNT; chunk++) {
            if (chunk >= chunks) break;
            copy_async_wait<C::SLOTS - 2>();
            __syncthreads();
            copy_step(step + C::SLOTS - 1);
            auto& slot = shared.slots[step % C::SLOTS];
            step++;
            float d[TILES][2][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float* mean = slot.mean + 8 * half + 2 * (lane % 4);
                float low = mean[0], high = mean[1];
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    d[m][half][0] = d[m][half][2] = low;
                    d[m][half][1] = d[m][half][3] = high;
                }
            }
            factor = slot.factor;
            if (p.product != 0) {
#pragma unroll
                for (int row = 0; row <= chunk; row++) {
#pragma unroll
                    for (int term = 0; term < C::TERMS; term++) {
                        Vector b = slot.blocks[row * C::TERMS + term].lanes[lane];
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            uint32_t columns[2] = {b.words[2 * half], b.words[2 * half + 1]};
#pragma unroll
                            for (int m = 0; m < TILES; m++) {
                                multiply_add<T>(d[m][half], keys.operand[m][row], columns);
                            }
                        }
                    }
                }
            }
#pragma unroll
            for (int m = 0; m < TILES; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    // Not to be kept for all heads.
                    int pair = static_cast<int>(keys.operand[m][chunk][i]);
                    reconsider(pair);
                    float values[2];
                    unpack<T>(static_cast<uint32_t>(pair), values);
                    sums[2 * m + i % 2] += values[0] * d[m][i / 2][2 * (i % 2)];
                    sums[2 * m + i % 2] += values[1] * d[m][i / 2][2 * (i % 2) + 1];
                }
            }
        }
        float logit = sum_of_row(sums) * factor;
        int row = first + 8 * (lane % 4) + lane / 4;
        int64_t at = static_cast<int64_t>(head) * p.total + span.start + row;
        if (lane % 4 < 2 * TILES && row < span.len) p.logits[at] = logit;
    }
}

struct Reduction {
    float of_warps[WARPS];
};

// The largest of a block's values, or their sum; in every thread.
template <typename F>
__device__ __forceinline__ float reduce(Reduction& shared, float value, F join) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        value = join(value, __shfl_xor_sync(FULL_WARP, value, step));
    }
    __syncthreads();
    if (lane_id() == 0) shared.of_warps[warp_id()] = value;
    __syncthreads();
    float whole = shared.of_warps[0];
    for (int i = 1; i < WARPS; i++) whole = join(whole, shared.of_warps[i]);
    return whole;
}

// A block per sequence and query head. A NaN among logits is no largest one, but makes the sum NaN.
__global__ void __launch_bounds__(THREADS) totals(SalientExpectedParams p) {
    auto& shared = shared_memory<Reduction>();
    int head = static_cast<int>(blockIdx.x) % p.q_heads;
    int sequence = static_cast<int>(blockIdx.x) / p.q_heads;
    Span span;
    if (!load_span(p.cu_seqlens, sequence, p.total, p.max_len, span)) return;
    const float* row = p.logits + static_cast<int64_t>(head) * p.total + span.start;
    int first = p.sinks + static_cast<int>(threadIdx.x);
    float largest = -INFINITY;
    for (int i = first; i < span.len; i += THREADS) largest = fmaxf(largest, row[i]);
    largest = reduce(shared, largest, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0.0f;
    for (int i = first; i < span.len; i += THREADS) sum += expf(row[i] - largest);
    sum = reduce(shared, sum, [](float a, float b) { return a + b; });
    float* to = p.totals + 2 * static_cast<int64_t>(blockIdx.x);
    if (threadIdx.x == 0) {
        to[0] = largest;
        to[1] = 1.0f / sum;
    }
}

// A thread has a token, of one KV head or of all.
__global__ void __launch_bounds__(THREADS) scores(SalientExpectedParams p) {
    int rows = p.per_kv_head ? p.kv_heads : 1, id = static_cast<int>(blockIdx.x);
    int row = id % rows, sequence = id / rows % p.batch;
    int index = id / rows / p.batch * THREADS + static_cast<int>(threadIdx.x);
    Span span;
    if (!load_span(p.cu_seqlens, sequence, p.total, p.max_len, span)) return;
    bool exists = index < span.len, counts = exists && index >= p.sinks;
    int64_t token = span.start + index;
    int group = p.q_heads / p.kv_heads;
    int kv_heads = p.per_kv_head ? 1 : p.kv_heads;
    float sum = 0.0f;
    for (int kv_head = row; kv_head < row + kv_heads; kv_head++) {
        float attention = 0.0f;
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
            const float* total = p.totals + 2 * (static_cast<int64_t>(sequence) * p.q_heads + head);
            float largest = total[0], factor = total[1];
            float logit = counts ? p.logits[static_cast<int64_t>(head) * p.total + token] : 0.0f;
            attention += counts ? expf(logit - largest) * factor : 0.0f;
        }
        bool weighs = exists && p.norms != nullptr;
        // The norm, negated, as a score of keys.
        float norm = -(weighs ? p.norms[static_cast<int64_t>(kv_head) * p.total + token] : -1.0f);
        sum += (attention / static_cast<float>(group) + p.epsilon) * norm;
    }
    float score = p.per_kv_head ? sum : sum / static_cast<float>(p.kv_heads);
    if (exists) p.scores[static_cast<int64_t>(row) * p.total + token] = score;
}

template <typename T, int DIM>
int run(const SalientExpectedParams& p, SalientStream stream) {
    using C = Chunks<T, DIM>;
    int64_t rows = p.per_kv_head ? p.kv_heads : 1;
    int64_t logit_blocks = ceil_div<int64_t>(p.max_len, C::TOKENS) * p.batch * p.kv_heads;
    int64_t score_blocks = ceil_div<int64_t>(p.max_len, THREADS) * p.batch * rows;
    int64_t total_blocks = static_cast<int64_t>(p.batch) * p.q_heads;
    if (max_of(max_of(logit_blocks, score_blocks), total_blocks) > INT32_MAX) return INVALID_VALUE;
    auto grid = [](int64_t blocks) { return dim3(static_cast<uint32_t>(blocks)); };
    constexpr size_t SHARED = sizeof(typename C::Shared);
    Launch shape{grid(logit_blocks), THREADS};
    if (int error = launch<logits<T, DIM>, SHARED>(shape, stream, p)) return error;
    shape = {grid(total_blocks), THREADS};
    if (int error = launch<totals, sizeof(Reduction)>(shape, stream, p)) return error;
    if (p.v != nullptr) {
        SalientKeynormParams norms{};
        norms.keys = p.v;
        norms.scores = p.norms;
        norms.token_stride = p.v_strides.token;
        norms.head_stride = p.v_strides.head;
        norms.tokens = p.total;
        norms.heads = p.kv_heads;
        norms.dim = p.value_dim;
        norms.dtype = p.dtype;
        if (int error = salient_keynorm(&norms, stream)) return error;
    }
    return launch<scores>({grid(score_blocks), THREADS}, stream, p);
}

template <typename T>
int run_for(const SalientExpectedParams& p, SalientStream stream) {
    if (p.dim <= 64) return run<T, 64>(p, stream);
    if (p.dim <= 128) return run<T, 128>(p, stream);
    return run<T, 256>(p, stream);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_expected(const SalientExpectedParams* params, SalientStream stream) {
    const SalientExpectedParams& p = *params;
    if (p.total == 0 || p.batch == 0) return SUCCESS;
    // So that no index of a block's overflows.
    if (max_of(p.total, p.max_len) > INT32_MAX - (1 << 16)) return INVALID_VALUE;
    if (p.sinks > INT32_MAX - (1 << 16)) return INVALID_VALUE;
    if (p.dim < 8 || p.dim > 256 || p.dim % 8 != 0 || p.value_dim < 1) return INVALID_VALUE;
    if (p.kv_heads < 1 || p.q_heads % p.kv_heads != 0) return INVALID_VALUE;
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
