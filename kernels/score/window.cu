// score: attention of the last queries of a sequence, where no LSE was saved.
//
// Softmax needs each query's sum over all keys before any of its attention is known. So this goes
// in passes: the largest logit and the sum of exponentials of each query in each tile of keys;
// those of all tiles put together in order; then attention itself (columns.cu), from keys that are
// read once more. Windows of few queries save their logits in the first pass and read those
// instead.
#include "score/attention.cuh"

namespace salient {
namespace {

using namespace scoring;

// A part of a softmax: the largest logit, in units of log2, and the sum of exp2(x - max).
struct Sum {
    float max = -INFINITY;
    float sum = 0.0f;

    __device__ float shift() const { return max == -INFINITY ? 0.0f : max; }

    __device__ __forceinline__ void add(const Sum& other) {
        Sum both;
        both.max = fmaxf(max, other.max);
        float shift = both.shift();
        both.sum = sum * exp2_approx(max - shift) + other.sum * exp2_approx(other.max - shift);
        *this = both;
    }
};

template <typename T, int DIM>
__global__ void __launch_bounds__(ScoreTile<DIM>::THREADS, 2)
    window_stats(SalientAttentionScoreParams p) {
    using Tile = ScoreTile<DIM>;
    Scorer<T, DIM, false> scorer(p, shared_memory<typename Tile::Shared>());
    auto& shared = scorer.shared;
    if (!scorer.valid && scorer.tile == 0 && threadIdx.x == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, scorer.sequence);
    }
    if (!scorer.exists() || scorer.queries.len == 0) return;
    scorer.load_keys();
    int lane = scorer.lane;
    float scale = p.scale * LOG2_E;

    auto visit = [&](int tile, int n) {
        float s[Tile::M][4];
        scorer.multiply(tile, n, s);
        const Column* columns = shared.columns[tile % 2] + 8 * n + 2 * (lane % 4);
        int limits[2] = {columns[0].limit, columns[1].limit};
        if (p.logits != nullptr) {
            int column = tile * Tile::COLUMNS + 8 * n;
            int64_t head = scorer.kv_head * scorer.group + column / scorer.width;
            int query = scorer.first_query + column % scorer.width + 2 * (lane % 4);
            float* logits = p.logits + (head * p.window + query) * p.total + scorer.keys.start;
#pragma unroll
            for (int e = 0; e < 4 * Tile::M; e++) {
                int key = scorer.key_of(e / 4, e / 2 % 2);
                if (key < limits[e % 2]) logits[(e % 2) * p.total + key] = s[e / 4][e % 4];
            }
        }
        Sum of[2];
        auto sum_up = [&](auto sees) {
#pragma unroll
            for (int e = 0; e < 4 * Tile::M; e++) {
                float x = sees(e) ? s[e / 4][e % 4] * scale : -INFINITY;
                of[e % 2].max = fmaxf(of[e % 2].max, x);
            }
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) {
#pragma unroll
                for (Sum& sum : of) {
                    sum.max = fmaxf(sum.max, __shfl_xor_sync(FULL_WARP, sum.max, lanes));
                }
            }
#pragma unroll
            for (int e = 0; e < 4 * Tile::M; e++) {
                float power = exp2_approx(fmaf(s[e / 4][e % 4], scale, -of[e % 2].shift()));
                of[e % 2].sum += sees(e) ? power : 0.0f;
            }
        };
        if (scorer.all_seen(limits[0], limits[1])) {
            sum_up([](int) { return true; });
        } else {
            sum_up([&](int e) { return scorer.key_of(e / 4, e / 2 % 2) < limits[e % 2]; });
        }
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) {
#pragma unroll
            for (Sum& sum : of) sum.sum += __shfl_xor_sync(FULL_WARP, sum.sum, lanes);
        }
        Vector part{{__float_as_uint(of[0].max), __float_as_uint(of[0].sum),
                     __float_as_uint(of[1].max), __float_as_uint(of[1].sum)}};
        if (lane < 4) shared.parts[warp_id()][4 * n + lane % 4] = part;
    };

    // Of the block's warps, in their order.
    auto finish = [&](int tile) {
        __syncthreads();
        int column = tile * Tile::COLUMNS + static_cast<int>(threadIdx.x);
        int64_t head = scorer.kv_head * scorer.group + column / scorer.width;
        int query = scorer.first_query + column % scorer.width;
        if (threadIdx.x >= Tile::COLUMNS || column >= scorer.columns) return;
        if (query >= scorer.queries.len) return;
        Sum sum;
#pragma unroll
        for (int w = 0; w < Tile::WARPS; w++) {
            Pair part = reinterpret_cast<Pair*>(shared.parts[w])[threadIdx.x];
            sum.add({part.at[0], part.at[1]});
        }
        auto* stats = reinterpret_cast<Pair*>(p.stats) +
                      (scorer.slot() * p.q_heads + head) * p.window + query;
        *stats = Pair{{sum.max, sum.sum}};
    };
    scorer.walk(visit, finish);
}

constexpr int QUERIES = 32;  // of a block that adds up
constexpr int PARTS = 8;     // in which it adds up tiles, a warp each

struct Parts {
    Pair at[PARTS][QUERIES];
};

// Adds up what the tiles of keys have of 32 queries of a head.
__global__ void __launch_bounds__(QUERIES* PARTS)
    window_sums(SalientAttentionScoreParams p, int tile_keys) {
    auto& parts = shared_memory<Parts>();
    int blocks = ceil_div(p.window, QUERIES), block = static_cast<int>(blockIdx.x);
    int head = block / blocks % p.q_heads, sequence = block / blocks / p.q_heads;
    int lane = static_cast<int>(lane_id()), part = static_cast<int>(warp_id());
    int query = block % blocks * QUERIES + lane;
    Span keys, queries;
    if (!load_window(p, sequence, keys, queries)) return;
    bool inside = query < queries.len;
    int tiles = inside ? ceil_div(keys.len - queries.len + query + 1, tile_keys) : 0;
    Sum sum;
#pragma unroll 8
    for (int tile = part; tile < ceil_div(keys.len, tile_keys); tile += PARTS) {
        auto* stats = reinterpret_cast<const Pair*>(p.stats) +
                      (slot_of(keys, sequence, tile, tile_keys) * p.q_heads + head) * p.window +
                      query;
        Pair of = tile < tiles ? *stats : Pair{{-INFINITY, 0.0f}};
        sum.add({of.at[0], of.at[1]});
    }
    parts.at[part][lane] = Pair{{sum.max, sum.sum}};
    __syncthreads();
    if (part > 0) return;
    sum = Sum{};
    for (int i = 0; i < PARTS; i++) {
        Pair of = parts.at[i][lane];
        sum.add({of.at[0], of.at[1]});
    }
    // Nothing but logits of -infinity: 0 / 0.
    if (sum.max == -INFINITY) sum.sum = NAN;
    auto* sums = reinterpret_cast<Pair*>(p.sums) +
                 (static_cast<int64_t>(sequence) * p.q_heads + head) * p.window + query;
    if (inside) *sums = Pair{{sum.shift(), weight_of(p, queries, query) / sum.sum}};
}

template <typename T, int DIM>
struct Stats {
    static int launch(const SalientAttentionScoreParams& p, SalientStream stream) {
        Launch shape;
        if (int error = blocks_of<DIM>(p, shape)) return error;
        constexpr size_t SHARED = sizeof(typename ScoreTile<DIM>::Shared);
        int error = salient::launch<window_stats<T, DIM>, SHARED>(shape, stream, p);
        if (error != SUCCESS) return error;
        int64_t blocks = static_cast<int64_t>(ceil_div(p.window, QUERIES)) * p.batch * p.q_heads;
        if (blocks > INT32_MAX) return INVALID_VALUE;
        shape = {dim3(static_cast<uint32_t>(blocks)), QUERIES * PARTS};
        int tile_keys = ScoreTile<DIM>::KEYS;
        return salient::launch<window_sums, sizeof(Parts)>(shape, stream, p, tile_keys);
    }
};

}  // namespace

int scoring::attention_sums(const SalientAttentionScoreParams& p, SalientStream stream) {
    return dispatch<Stats>(p, stream);
}

}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_attention_score(const SalientAttentionScoreParams* params,
                                           SalientStream stream) {
    const SalientAttentionScoreParams& p = *params;
    if (p.batch == 0 || p.max_len == 0 || p.total == 0) return SUCCESS;
    if (p.dim < 8 || p.dim > 256 || p.dim % 8 != 0) return INVALID_VALUE;
    if (p.lse == nullptr && p.window > SALIENT_MAX_WINDOW) return INVALID_VALUE;
    if (p.lse == nullptr && p.window > 0) {
        if (int error = scoring::attention_sums(p, stream)) return error;
    }
    if (p.logits == nullptr) {
        if (int error = scoring::attention_columns(p, stream)) return error;
    }
    return scoring::attention_finish(p, stream);
}
