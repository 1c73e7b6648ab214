// score: column sums of attention. A block owns a tile of keys and walks over the queries that see
// it, so that nothing is added up by two blocks; what a key gets, and in which order, depends on
// its sequence alone.
//
// Every query comes with the logarithm of its sum of exponentials, from prefill or from window.cu.
#include "score/attention.cuh"

namespace salient {
namespace {

using namespace scoring;

template <typename T, int DIM>
__global__ void __launch_bounds__(ScoreTile<DIM>::THREADS, 2)
    column_sums(SalientAttentionScoreParams p) {
    using Tile = ScoreTile<DIM>;
    constexpr int M = Tile::M;
    Scorer<T, DIM, true> scorer(p, shared_memory<typename Tile::Shared>());
    auto& shared = scorer.shared;
    if (!scorer.valid && scorer.tile == 0 && threadIdx.x == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, scorer.sequence);
    }
    if (!scorer.exists()) return;
    scorer.load_keys();
    int lane = scorer.lane;
    float scale = p.scale * LOG2_E;

    // Of a quad's sums, lane l has that of product l % 4 / 2 and half l % 2.
    int key = scorer.key_of(lane % 4 / 2, lane % 2);
    bool writes = lane % 4 < 2 * M && key < scorer.keys.len;
    float* raw = p.raw + scorer.keys.start + key;

    float sums[M][2] = {}, total = 0.0f;
    int head = scorer.kv_head * scorer.group, left = scorer.width;
    auto visit = [&](int tile, int n) {
        float s[M][4];
        scorer.multiply(tile, n, s);
        const Column* columns = shared.columns[tile % 2] + 8 * n + 2 * (lane % 4);
        Column of[2] = {columns[0], columns[1]};
        auto add = [&](auto sees) {
#pragma unroll
            for (int e = 0; e < 4 * M; e++) {
                int i = e / 4, h = e / 2 % 2;
                const Column& column = of[e % 2];
                float power = exp2_approx(fmaf(s[i][e % 4], scale, -column.shift));
                float sum = fmaf(power, column.factor, sums[i][h]);
                sums[i][h] = sees(scorer.key_of(i, h), column) ? sum : sums[i][h];
            }
        };
        if (scorer.all_seen(of[0].limit, of[1].limit)) {
            add([](int, const Column&) { return true; });
        } else {
            add([](int key, const Column& column) { return key < column.limit; });
        }
        left -= 8;
        if (left > 0) return;
        // All of a head.
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sums[i][h] += __shfl_xor_sync(FULL_WARP, sums[i][h], 1);
                sums[i][h] += __shfl_xor_sync(FULL_WARP, sums[i][h], 2);
            }
        }
        float value = lane % 2 == 0 ? sums[0][0] : sums[0][1];
        float other = lane % 2 == 0 ? sums[M - 1][0] : sums[M - 1][1];
        value = lane % 4 < 2 ? value : other;
        if (p.heads == SALIENT_HEADS_MEAN) total += value;
        if (p.heads == SALIENT_HEADS_MAX) total = maximum(total, value);
        if (p.heads == SALIENT_HEADS_MAX_NORMALISED) {
            if (writes) raw[static_cast<int64_t>(head) * p.total] = value;
            // No score is negative, and NaN is above all.
            uint32_t bits = writes ? __float_as_uint(value) : 0;
            float largest = __uint_as_float(__reduce_max_sync(FULL_WARP, bits));
            float* maxima = p.maxima + (scorer.slot() * p.q_heads + head) * Tile::WARPS;
            if (lane == 0) maxima[warp_id()] = largest;
        }
#pragma unroll
        for (int i = 0; i < M; i++) sums[i][0] = sums[i][1] = 0.0f;
        left = scorer.width;
        head++;
    };
    scorer.walk(visit, [](int) {});
    bool joined = p.heads != SALIENT_HEADS_MAX_NORMALISED;
    if (joined && writes) raw[static_cast<int64_t>(scorer.kv_head) * p.total] = total;
}

template <typename T, int DIM>
struct Columns {
    static int launch(const SalientAttentionScoreParams& p, SalientStream stream) {
        Launch shape;
        if (int error = blocks_of<DIM>(p, shape)) return error;
        constexpr size_t SHARED = sizeof(typename ScoreTile<DIM>::Shared);
        return salient::launch<column_sums<T, DIM>, SHARED>(shape, stream, p);
    }
};

}  // namespace

int scoring::attention_columns(const SalientAttentionScoreParams& p, SalientStream stream) {
    return dispatch<Columns>(p, stream);
}

}  // namespace salient
