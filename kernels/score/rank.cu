// score: percentile ranks. Of each score, the share of its sequence's scores that are lower.
//
// Counted, not sorted: a block has 128 scores of one row, and each of its warps holds all of them,
// four a lane. The sequence's scores that they are compared with, the keys, are taken in turn by
// the warps, 128 at a time: by way of shared memory, from where all lanes read the same four.
// Warps meet once, when their counts are added.
#include "common/launch.cuh"
#include "common/status.cuh"

namespace salient {
namespace {

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int PER_LANE = 4;
constexpr int SCORES = 32 * PER_LANE;  // of a block
constexpr int KEYS = 32 * 4;           // that a warp takes at a time: 16 bytes a lane

struct Shared {
    Vector keys[WARPS][KEYS / 4];
    int lower[WARPS][SCORES];
};

__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }

// Four keys from index `at` on, where 16 bytes begin. Where the sequence has none they are NaN,
// which is lower than nothing.
__device__ __forceinline__ Vector load_keys(const float* keys, int len, int at) {
    if (0 <= at && at <= len - 4) return *reinterpret_cast<const Vector*>(keys + at);
    Vector edge;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bool exists = 0 <= at + i && at + i < len;
        edge.words[i] = __float_as_uint(exists ? keys[at + i] : not_a_number());
    }
    return edge;
}

__global__ void __launch_bounds__(THREADS) rank(SalientRankParams p) {
    auto& shared = shared_memory<Shared>();
    int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    int lane = static_cast<int>(lane_id()), warp = static_cast<int>(warp_id());
    int row = block % p.heads, sequence = block / p.heads % p.batch;
    int first = block / p.heads / p.batch * SCORES;
    Span span;
    bool valid = load_span(p.cu_seqlens, sequence, p.total, p.max_len, span);
    if (!valid && first == 0 && thread == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, sequence);
    }
    if (!valid || first >= span.len) return;

    int64_t start = static_cast<int64_t>(row) * p.total + span.start;
    const float* keys = p.scores + start;
    float scores[PER_LANE];
    int lower[PER_LANE] = {};
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        int token = first + 32 * i + lane;
        scores[i] = token < span.len ? keys[token] : not_a_number();
    }

    // Keys are taken from the last 16 bytes that begin at the sequence's first or before it.
    int lead = static_cast<int>(reinterpret_cast<uintptr_t>(keys) / sizeof(float) % 4);
    int at = warp * KEYS + 4 * lane - lead;
    Vector next = load_keys(keys, span.len, at);
#pragma unroll 1
    for (int run = warp * KEYS - lead; run < span.len; run += WARPS * KEYS) {
        shared.keys[warp][lane] = next;
        __syncwarp();
        // On their way during the comparisons.
        at += WARPS * KEYS;
        next = load_keys(keys, span.len, at);
        // Counted as floats, up to 128, which is exact: comparisons and sums of floats are work for
        // different units.
        float of_run[PER_LANE] = {};
#pragma unroll 8
        for (int i = 0; i < KEYS / 4; i++) {
            Vector four = shared.keys[warp][i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float key = __uint_as_float(four.words[j]);
#pragma unroll
                for (int k = 0; k < PER_LANE; k++) of_run[k] += key < scores[k] ? 1.0f : 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < PER_LANE; k++) lower[k] += static_cast<int>(of_run[k]);
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) shared.lower[warp][32 * i + lane] = lower[i];
    __syncthreads();

    int token = first + thread;
    if (thread >= SCORES || token >= span.len) return;
    int sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += shared.lower[i][thread];
    float score = keys[token], share = static_cast<float>(sum) / static_cast<float>(span.len);
    p.out[start + token] = isnan(score) ? not_a_number() : share;
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_rank(const SalientRankParams* params, SalientStream stream) {
    const SalientRankParams& p = *params;
    if (p.batch == 0 || p.heads == 0 || p.max_len == 0 || p.total == 0) return SUCCESS;
    int64_t blocks = static_cast<int64_t>(ceil_div(p.max_len, SCORES)) * p.batch * p.heads;
    if (blocks > INT32_MAX) return INVALID_VALUE;
    Launch shape{dim3(static_cast<uint32_t>(blocks)), THREADS};
    return launch<rank, sizeof(Shared)>(shape, stream, p);
}
