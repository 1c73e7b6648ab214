// score: the end of attention scores. Heads become one, and neighbours are pooled.
//
// A block has 128 tokens of one row of scores, and up to 16 on either side of them, one for each
// thread; what pooling looks at lies in shared memory.
#include "score/attention.cuh"

namespace salient {
namespace {

using namespace scoring;

constexpr int TOKENS = 128;  // of a block
constexpr int REACH = SALIENT_MAX_POOL_WIDTH / 2;
constexpr int THREADS = TOKENS + 2 * REACH;
constexpr int HEADS = 32;    // whose largest scores are at hand

struct Shared {
    float scores[THREADS];
    float largest[HEADS];
};

// A block's tokens, and the one of this thread.
struct Tokens {
    int row;
    int sequence;
    Span span;
    int first;
    int token;    // of the sequence; may not be there
    bool near;    // it is, and pooling looks at it
    bool valid;

    // `load` finds the sequence; false if it cannot be.
    template <typename Load>
    __device__ Tokens(int rows, int batch, int width, Load load) {
        int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
        row = block % rows;
        sequence = block / rows % batch;
        first = block / rows / batch * TOKENS;
        valid = load(sequence, span);
        token = first + thread - REACH;
        near = first < span.len && 0 <= token && token < span.len &&
               first - width / 2 <= token && token < first + TOKENS + width / 2;
    }

    // Writes the score of every token of the block that is not there for its neighbours alone. All
    // threads of the block together.
    __device__ __forceinline__ void pool(float (&scores)[THREADS], float score, int kind, int width,
                                         float* out) const {
        int thread = static_cast<int>(threadIdx.x);
        scores[thread] = score;
        __syncthreads();
        bool writes = near && first <= token && token < first + TOKENS;
        if (width > 1 && writes) {
            int begin = max_of(0, token - width / 2), end = min_of(span.len, token + width / 2 + 1);
            const float* from = scores + thread - token;
            score = from[begin];
            for (int i = begin + 1; i < end; i++) {
                float other = from[i];
                score = kind == SALIENT_POOL_MAX ? maximum(score, other) : score + other;
            }
            if (kind == SALIENT_POOL_AVERAGE) score /= static_cast<float>(end - begin);
        }
        if (writes) out[span.start + token] = score;
    }
};

// What a head made of logits that were saved pays to a token.
__device__ __forceinline__ float attention_to(const SalientAttentionScoreParams& p,
                                              const Tokens& at, Span queries, int head) {
    int64_t row = static_cast<int64_t>(head) * p.window;
    const float* logits = p.logits + row * p.total + at.span.start + at.token;
    auto* sums = reinterpret_cast<const Pair*>(p.sums) +
                 static_cast<int64_t>(at.sequence) * p.q_heads * p.window + row;
    float score = 0.0f;
    for (int j = 0; j < queries.len; j++) {
        bool sees = at.near && at.token <= at.span.len - queries.len + j;
        Pair sum = sums[j];
        float dot = sees ? logits[static_cast<int64_t>(j) * p.total] : 0.0f;
        float power = exp2_approx(fmaf(dot, p.scale * LOG2_E, -sum.at[0]));
        score = sees ? fmaf(power, sum.at[1], score) : score;
    }
    return score;
}

// Largest scores of `count` heads from `head` on, a warp each in turn.
__device__ __forceinline__ void find_largest(const SalientAttentionScoreParams& p, const Tokens& at,
                                             int head, int count, int tile_keys, Shared& shared) {
    constexpr int WARPS = 8;  // of the kernel that wrote them
    int lane = static_cast<int>(lane_id());
    int64_t slot = slot_of(at.span, at.sequence, 0, tile_keys);
    for (int i = static_cast<int>(warp_id()); i < count; i += THREADS / 32) {
        uint32_t largest = 0;
        for (int n = lane; n < ceil_div(at.span.len, tile_keys) * WARPS; n += 32) {
            int64_t row = (slot + n / WARPS) * p.q_heads + head + i;
            largest = max_of(largest, __float_as_uint(p.maxima[row * WARPS + n % WARPS]));
        }
        float found = __uint_as_float(__reduce_max_sync(FULL_WARP, largest));
        // So that 0 / 0 is 0.
        if (lane == 0) shared.largest[i] = found == 0.0f ? 1.0f : found;
    }
}

// SAVED: from logits; else from raw scores, of KV heads or, if heads are normalised, of query
// heads.
template <bool SAVED>
__global__ void __launch_bounds__(THREADS)
    finish_scores(SalientAttentionScoreParams p, int tile_keys) {
    auto& shared = shared_memory<Shared>();
    Span queries;
    Tokens at(p.per_kv_head ? p.kv_heads : 1, p.batch, p.pool_width,
              [&](int b, Span& span) { return load_window(p, b, span, queries); });
    if (!at.valid || at.first >= at.span.len) return;

    // The rows that become one.
    bool normalised = p.heads == SALIENT_HEADS_MAX_NORMALISED;
    int group = p.q_heads / p.kv_heads, heads = p.per_kv_head ? group : p.q_heads;
    int rows = normalised || SAVED ? heads : heads / group, first = at.row * rows;
    const float* raw = p.raw + at.span.start + at.token;
    float score = 0.0f;
    if (!SAVED && normalised) {
        for (int r = first; r < first + rows; r += HEADS) {
            int count = min_of(HEADS, first + rows - r);
            find_largest(p, at, r, count, tile_keys, shared);
            __syncthreads();
            for (int i = 0; i < count; i++) {
                float other = at.near ? raw[static_cast<int64_t>(r + i) * p.total] : 0.0f;
                score = maximum(score, other / shared.largest[i]);
            }
            __syncthreads();
        }
    } else {
        for (int r = first; r < first + rows; r++) {
            float other;
            if constexpr (SAVED) {
                other = attention_to(p, at, queries, r);
            } else {
                other = at.near ? raw[static_cast<int64_t>(r) * p.total] : 0.0f;
            }
            score = p.heads == SALIENT_HEADS_MAX ? maximum(score, other) : score + other;
        }
        if (p.heads == SALIENT_HEADS_MEAN) score /= static_cast<float>(heads);
    }
    float* out = p.scores + static_cast<int64_t>(at.row) * p.total;
    at.pool(shared.scores, score, p.pool, p.pool_width, out);
}

__global__ void __launch_bounds__(THREADS) pool(SalientPoolParams p) {
    auto& shared = shared_memory<Shared>();
    Tokens at(p.heads, p.batch, p.width, [&](int b, Span& span) {
        return load_span(p.cu_seqlens, b, p.total, p.max_len, span);
    });
    if (!at.valid && at.first == 0 && threadIdx.x == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, at.sequence);
    }
    if (!at.valid || at.first >= at.span.len) return;
    int64_t row = static_cast<int64_t>(at.row) * p.total;
    float score = at.near ? p.scores[row + at.span.start + at.token] : 0.0f;
    at.pool(shared.scores, score, p.kind, p.width, p.out + row);
}

int shape_of(int rows, int batch, int max_len, Launch& shape) {
    int64_t blocks = static_cast<int64_t>(ceil_div(max_len, TOKENS)) * batch * rows;
    if (blocks > INT32_MAX) return INVALID_VALUE;
    shape = {dim3(static_cast<uint32_t>(blocks)), THREADS};
    return SUCCESS;
}

}  // namespace

int scoring::attention_finish(const SalientAttentionScoreParams& p, SalientStream stream) {
    Launch shape;
    if (int error = shape_of(p.per_kv_head ? p.kv_heads : 1, p.batch, p.max_len, shape)) {
        return error;
    }
    int tile_keys = p.dim <= 128 ? ScoreTile<128>::KEYS : ScoreTile<256>::KEYS;
    constexpr size_t SHARED = sizeof(Shared);
    return p.logits != nullptr
               ? launch<finish_scores<true>, SHARED>(shape, stream, p, tile_keys)
               : launch<finish_scores<false>, SHARED>(shape, stream, p, tile_keys);
}

}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_pool(const SalientPoolParams* params, SalientStream stream) {
    const SalientPoolParams& p = *params;
    if (p.batch == 0 || p.heads == 0 || p.max_len == 0 || p.total == 0) return SUCCESS;
    Launch shape;
    if (int error = shape_of(p.heads, p.batch, p.max_len, shape)) return error;
    return launch<pool, sizeof(Shared)>(shape, stream, p);
}
