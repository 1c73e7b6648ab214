// attend: prefill on tensor cores of sm_80, by the schedule of FlashAttention-2 (arXiv 2307.08691).
//
// A block takes ROWS queries of one head and walks over the keys that any of them sees, in tiles
// that begin at multiples of KEYS: what a row sums up, and in which order, depends on no other row.
// A warp holds the logits and the output of its own rows in registers, with a running maximum and
// sum of weights (online softmax: arXiv 1805.02867). While one product runs, the operand of the
// next is on its way: values during q k, the next keys during p v.
//
// A warp passes by tiles that none of its rows sees, and compares positions only in tiles that some
// of its rows do not see whole. There, zero weights would make NaN of values that are not finite,
// so if there are any, they are taken out of the product and added by themselves.
#include "attend/prefill_warp.cuh"

namespace salient {
namespace {

using namespace prefilling;

// Starts copying COUNT rows of a head from row `first` on; those not among `rows` become zeros, and
// so do channels that do not exist.
template <int DIM, int COUNT, typename T>
__device__ __forceinline__ void copy_rows(Vector* to, const T* from, int64_t stride, int first,
                                          Seen rows, int dim) {
    using Tile = PrefillTile<DIM>;
#pragma unroll 2
    for (int i = 0; i < COUNT * Tile::C; i += Tile::THREADS) {
        int vector = i + static_cast<int>(threadIdx.x), r = vector / Tile::C;
        int chunk = vector % Tile::C;
        bool inside = rows.first <= first + r && first + r < rows.limit;
        copy_async_16(to + Tile::at(r, chunk), from + (first + r) * stride + 8 * chunk,
                      inside && 8 * chunk < dim);
    }
}

template <typename T, int DIM>
__global__ void __launch_bounds__(PrefillTile<DIM>::THREADS) prefill(SalientPrefillParams p) {
    using Tile = PrefillTile<DIM>;
    auto& shared = shared_memory<typename Tile::Shared>();

    // Causal rows see more the later they come, so the last tile of every sequence goes first. The
    // heads of a group lie side by side and find keys and values in L2.
    int heads = p.q_heads * p.batch, id = static_cast<int>(blockIdx.x);
    int tile_row = (ceil_div(p.max_queries, Tile::ROWS) - 1 - id / heads) * Tile::ROWS;
    int sequence = id % heads / p.q_heads;
    int head = id % p.q_heads, kv_head = head / (p.q_heads / p.kv_heads);
    Span queries, keys;
    if (!load_sequence(p, sequence, queries, keys)) {
        if (threadIdx.x == 0) report_row(p.status, SALIENT_STATUS_LENGTHS, sequence);
        return;
    }
    if (tile_row >= queries.len) return;

    const T* q = static_cast<const T*>(p.q) + head * p.q_strides.head +
                 queries.start * p.q_strides.token;
    const T* k = static_cast<const T*>(p.k) + kv_head * p.k_strides.head +
                 keys.start * p.k_strides.token;
    const T* v = static_cast<const T*>(p.v) + kv_head * p.v_strides.head +
                 keys.start * p.v_strides.token;
    copy_rows<DIM, Tile::ROWS>(shared.q, q, p.q_strides.token, tile_row,
                               Seen{0, queries.len}, p.dim);
    if (threadIdx.x == 0) shared.place = Place{queries, tile_row, head};

    // What every row sees; what any row of the warp sees, and what all do.
    Warp<T, Tile> warp(p, shared, shared.rows, static_cast<int>(warp_id()) * Tile::WARP_ROWS);
    bool mine = warp.lane < Tile::WARP_ROWS;
    int row = tile_row + warp.row + warp.lane;
    Seen seen = seen_by(p, queries, keys.len, mine ? row : queries.len);
    if (mine) shared.rows[warp.row + warp.lane] = seen;
    Together together;
    include(together, seen, mine && row < queries.len);
    together = over_warp(together);
    if (warp.lane == 0) shared.warps[warp_id()] = together;
    __syncthreads();
    Seen block{INT32_MAX, 0};
#pragma unroll
    for (int w = 0; w < Tile::WARPS; w++) {
        Seen other = shared.warps[w].any;
        block = {min_of(block.first, other.first), max_of(block.limit, other.limit)};
    }

    int tile = block.first / Tile::KEYS * Tile::KEYS;
    if (tile < block.limit) {
        copy_rows<DIM, Tile::KEYS>(shared.k, k, p.k_strides.token, tile, block, p.dim);
    }
    copy_async_commit();
    for (; tile < block.limit; tile += Tile::KEYS) {
        int next = tile + Tile::KEYS;
        // From shared memory, for registers are short.
        Together seen = shared.warps[warp_id()];
        bool skip = seen.any.limit <= tile || next <= seen.any.first;
        bool edge = tile < seen.all.first || seen.all.limit < next;
        copy_async_wait<0>();
        __syncthreads();
        copy_rows<DIM, Tile::KEYS>(shared.v, v, p.v_strides.token, tile, block, p.dim);
        copy_async_commit();
        uint32_t weights[Tile::M][Tile::N / 2][4];
        if (!skip) {
            float logits[Tile::M][Tile::N][4];
            reconsider(warp.lane);
            warp.dot_products(logits);
            warp.cap(logits);
            if (edge) warp.mask(logits, tile);
            float shrink[Tile::M][2];
            warp.weigh(logits, shrink);
            warp.rescale(shrink);
            warp.round(logits, weights);
        }
        copy_async_wait<0>();
        __syncthreads();
        if (next < block.limit) {
            copy_rows<DIM, Tile::KEYS>(shared.k, k, p.k_strides.token, next, block, p.dim);
        }
        copy_async_commit();
        if (!skip) {
            reconsider(warp.lane);
            if (edge && warp.any_not_finite()) {
                warp.template add_values<true>(weights, tile);
            } else {
                warp.template add_values<false>(weights, tile);
            }
        }
    }
    // Where there was no tile nobody has waited for the queries, whose place the output takes.
    copy_async_wait<0>();
    __syncthreads();

    Place at = shared.place;
    warp.normalise(at);
    if (p.out_dtype == SALIENT_F32) {
        warp.write_floats(at);
    } else {
        warp.write_rounded(at);
    }
}

template <typename T, int DIM>
int run(const SalientPrefillParams& p, SalientStream stream) {
    using Tile = PrefillTile<DIM>;
    int64_t heads = static_cast<int64_t>(p.batch) * p.q_heads;
    int64_t tiles = ceil_div(p.max_queries, Tile::ROWS);
    if (heads > INT32_MAX / tiles) return INVALID_VALUE;
    Launch shape{dim3(static_cast<uint32_t>(heads * tiles)), Tile::THREADS};
    return launch<prefill<T, DIM>, sizeof(typename Tile::Shared)>(shape, stream, p);
}

template <typename T>
int run_for(const SalientPrefillParams& p, SalientStream stream) {
    if (p.dim <= 64) return run<T, 64>(p, stream);
    if (p.dim <= 96) return run<T, 96>(p, stream);
    if (p.dim <= 128) return run<T, 128>(p, stream);
    return run<T, SALIENT_PREFILL_MAX_DIM>(p, stream);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_prefill(const SalientPrefillParams* params, SalientStream stream) {
    const SalientPrefillParams& p = *params;
    if (p.batch == 0 || p.q_heads == 0 || p.max_queries == 0) return SUCCESS;
    if (p.variant != SALIENT_PREFILL_SM80) {
        int error = launch_prefill_sm90(p, stream);
        if (error != NOT_SUPPORTED || p.variant == SALIENT_PREFILL_SM90) return error;
    }
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
