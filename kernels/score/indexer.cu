// score: the lightning indexer, on tensor cores of sm_80.
//
// In the orientation of DeepGEMM's mqa_logits: keys are the rows of the product, the heads of
// queries its columns. A block holds KEYS keys in registers for up to QUERIES queries, which go by
// through shared memory, several at a time if they have few heads; a warp has 32 of the keys. ReLU
// and weights are applied to the sums as they stand, added up over the columns of a lane and then
// over the four lanes of a row; the keys' scales come last.
//
// Queries that see none of a block's keys are not loaded, and warps pass by those that see none of
// theirs.
#include "common/launch.cuh"
#include "common/status.cuh"
#include "ptx/async_copy.cuh"
#include "score/keys.cuh"

namespace salient {
namespace {

using namespace keying;

constexpr int THREADS = 256;
constexpr int TILES = 2;                          // of 16 keys, of a warp
constexpr int KEYS = THREADS / 32 * 16 * TILES;   // of a block
constexpr int QUERIES = 32;                       // of a block
constexpr int COLUMNS = SALIENT_INDEXER_MAX_HEADS;  // of a step: heads of one query or more
constexpr int SLOTS = 2;

template <typename T, int DIM>
struct Tile {
    static constexpr int VECTORS = DIM * static_cast<int>(sizeof(T)) / 16;  // of a column
    // Such that two columns lie in different banks.
    static constexpr int STRIDE = VECTORS % 8 == 0 ? VECTORS + 4 : VECTORS;

    struct Shared {
        Vector columns[SLOTS][COLUMNS * STRIDE];
        float weights[QUERIES * COLUMNS];
        int first[QUERIES];
        int limit[QUERIES];
        int active[QUERIES];  // the queries that see any of the block's keys
        uint32_t mask;        // a bit for each of them
    };
};

// Queries and keys of a block.
struct Work {
    Span queries;
    Span keys;
    int query;  // the first, of the sequence
    int key;
};

// The keys that query `row` of a sequence sees, of `len`; none if it does not exist. What lies
// beyond the keys is cut off, and reported.
__device__ __forceinline__ void window_of(const SalientIndexerParams& p, const Work& work, int row,
                                          int& first, int& limit) {
    int len = work.keys.len, query = work.queries.start + row;
    bool exists = row < work.queries.len, given = exists && p.sees == SALIENT_SEES_ROWS;
    int causal = len - work.queries.len + row + 1;
    limit = !exists ? 0 : p.sees == SALIENT_SEES_CAUSAL ? max_of(0, causal) : len;
    limit = given ? p.limits[query] : limit;
    first = given && p.firsts != nullptr ? p.firsts[query] : 0;
    bool inside = 0 <= first && first <= len && 0 <= limit && limit <= len;
    if (!inside && work.key == 0) report_row(p.status, SALIENT_STATUS_INDEX, query);
    limit = max_of(0, min_of(len, limit));
    first = max_of(0, min_of(len, first));
}

// Heads of a query, padded to whole products.
__device__ __forceinline__ int padded(int heads) { return ceil_div(heads, 8) * 8; }

// Starts copying the columns of queries active[from] up to active[to].
template <typename T, int DIM>
__device__ __forceinline__ void copy_queries(const SalientIndexerParams& p, const Work& work,
                                             typename Tile<T, DIM>::Shared& shared, int slot,
                                             int from, int to) {
    using Tile = salient::Tile<T, DIM>;
    constexpr int WIDTH = 16 / sizeof(T);
    int columns = padded(p.heads), vectors = (to - from) * columns * Tile::VECTORS;
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += THREADS) {
        int column = i / Tile::VECTORS, channel = i % Tile::VECTORS * WIDTH;
        int head = column % columns;
        int query = work.queries.start + shared.active[from + column / columns];
        auto* q = static_cast<const T*>(p.q) + query * p.q_strides.token +
                  head * p.q_strides.head + channel;
        copy_async_16(shared.columns[slot] + column * Tile::STRIDE + i % Tile::VECTORS, q,
                      head < p.heads && channel < p.dim);
    }
}

// The logits of a query, without scales: of 8 keys by 4, the lane's.
template <typename T, int DIM>
__device__ __forceinline__ float logit_of(const SalientIndexerParams& p,
                                          const Rows<T, DIM, TILES>& keys, const Vector* columns,
                                          const float* weights) {
    using Tile = salient::Tile<T, DIM>;
    using P = Piece<T>;
    int lane = static_cast<int>(lane_id()), products = padded(p.heads) / 8;
    float sums[2 * TILES] = {};
    for (int product = 0; product < products; product++) {
        float d[TILES][4] = {};
        const Vector* column = columns + (8 * product + lane / 4) * Tile::STRIDE;
#pragma unroll
        for (int piece = 0; piece < keys.PIECES; piece++) {
            Vector b = column[4 * piece + lane % 4];
#pragma unroll
            for (int block = 0; block < P::BLOCKS; block++) {
                uint32_t pairs[2] = {P::pair(b, block, 0), P::pair(b, block, 1)};
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    multiply_add<typename P::Operand>(
                        d[m], keys.operand[m][piece * P::BLOCKS + block], pairs);
                }
            }
        }
#pragma unroll
        for (int side = 0; side < 2; side++) {
            int head = 8 * product + 2 * (lane % 4) + side;
            bool exists = head < p.heads;
            float weight = weights[exists ? head : 0];
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) {
                float dot = d[i / 2][2 * (i % 2) + side];
                // Not fmaxf, which passes over a NaN.
                float weighed = weight * (dot <= 0.0f ? 0.0f : dot);
                sums[i] += exists ? weighed : 0.0f;
            }
        }
    }
    return sum_of_row(sums);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS, 2) indexer(SalientIndexerParams p, int key_tiles) {
    using Tile = salient::Tile<T, DIM>;
    auto& shared = shared_memory<typename Tile::Shared>();
    int thread = static_cast<int>(threadIdx.x), lane = static_cast<int>(lane_id());
    int warp = static_cast<int>(warp_id());
    int id = static_cast<int>(blockIdx.x), sequence = id / key_tiles % p.batch;
    Work work;
    work.key = id % key_tiles * KEYS;
    work.query = id / key_tiles / p.batch * QUERIES;
    bool valid = load_span(p.cu_queries, sequence, p.queries, p.max_queries, work.queries);
    valid = load_span(p.cu_keys, sequence, p.keys, p.max_keys, work.keys) && valid;
    if (!valid) {
        if (thread == 0) report_row(p.status, SALIENT_STATUS_LENGTHS, sequence);
        return;
    }
    // Where there is a row for every sequence, there is one without a query, too.
    bool by_token = p.out_stride == 0;
    int queries = min_of(QUERIES, (by_token ? 1 : work.queries.len) - work.query);
    int64_t columns = by_token ? work.keys.len : p.out_stride;
    if (queries <= 0 || work.key >= columns) return;

    if (warp == 0) {
        int first, limit;
        window_of(p, work, work.query + lane, first, limit);
        bool sees = max_of(first, work.key) < min_of(limit, work.key + KEYS);
        uint32_t mask = __ballot_sync(FULL_WARP, sees);
        shared.first[lane] = first;
        shared.limit[lane] = limit;
        if (sees) shared.active[__popc(mask & lanes_below())] = work.query + lane;
        if (lane == 0) shared.mask = mask;
    }
    __syncthreads();
    uint32_t mask = shared.mask;
    int active = __popc(mask), at_once = COLUMNS / padded(p.heads);

    int first_key = work.key + warp * 16 * TILES, key = first_key + 8 * (lane % 4) + lane / 4;
    auto out = [&](int query) {
        int64_t row = by_token ? work.keys.start
                               : static_cast<int64_t>(work.queries.start + query) * p.out_stride;
        return p.logits + row + key;
    };
    for (int row = 0; row < queries; row++) {
        if (mask >> row & 1) continue;
        if (key < columns) *out(work.query + row) = -INFINITY;
    }
    if (active == 0) return;

    copy_queries<T, DIM>(p, work, shared, 0, 0, min_of(active, at_once));
    copy_async_commit();
    Rows<T, DIM, TILES> keys;
    keys.load_from(static_cast<const T*>(p.k) + (work.keys.start + first_key) * p.k_stride,
                   p.k_stride, work.keys.len - first_key, p.dim);
    bool scaled = p.scales != nullptr && key < work.keys.len;
    float scale = scaled ? p.scales[work.keys.start + key] : 1.0f;
    for (int i = thread; i < active * p.heads; i += THREADS) {
        int row = i / p.heads, head = i % p.heads;
        int64_t query = work.queries.start + shared.active[row];
        shared.weights[row * COLUMNS + head] = p.weights[query * p.heads + head];
    }

    for (int from = 0, slot = 0; from < active; from += at_once, slot ^= 1) {
        int to = min_of(active, from + at_once);
        copy_async_wait<0>();
        __syncthreads();
        copy_queries<T, DIM>(p, work, shared, slot ^ 1, to, min_of(active, to + at_once));
        copy_async_commit();
        for (int i = from; i < to; i++) {
            int query = shared.active[i], row = query - work.query;
            int first = shared.first[row], limit = shared.limit[row];
            float logit = -INFINITY;
            if (max_of(first, first_key) < min_of(limit, first_key + 16 * TILES)) {
                float sum = logit_of<T, DIM>(
                    p, keys,
                    shared.columns[slot] + (i - from) * padded(p.heads) * Tile::STRIDE,
                    shared.weights + i * COLUMNS);
                if (first <= key && key < limit) logit = scale * sum;
            }
            if (key < columns) *out(query) = logit;
        }
    }
}

template <typename T, int DIM>
int run(const SalientIndexerParams& p, SalientStream stream) {
    int64_t columns = p.out_stride == 0 ? p.max_keys : p.out_stride;
    int64_t key_tiles = ceil_div<int64_t>(columns, KEYS);
    int64_t query_tiles = p.out_stride == 0 ? 1 : ceil_div<int64_t>(p.max_queries, QUERIES);
    if (key_tiles == 0 || query_tiles == 0) return SUCCESS;
    if (key_tiles > INT32_MAX / p.batch / query_tiles) return INVALID_VALUE;
    auto blocks = static_cast<uint32_t>(key_tiles * p.batch * query_tiles);
    constexpr size_t SHARED = sizeof(typename Tile<T, DIM>::Shared);
    return launch<indexer<T, DIM>, SHARED>({dim3(blocks), THREADS}, stream, p,
                                           static_cast<int>(key_tiles));
}

template <typename T>
int run_for(const SalientIndexerParams& p, SalientStream stream) {
    return p.dim <= 64 ? run<T, 64>(p, stream) : run<T, 128>(p, stream);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_indexer(const SalientIndexerParams* params, SalientStream stream) {
    const SalientIndexerParams& p = *params;
    if (p.batch == 0) return SUCCESS;
    // So that no index of a block's overflows.
    if (max_of(p.keys, p.max_keys) > INT32_MAX - (1 << 16)) return INVALID_VALUE;
    if (max_of(p.queries, p.max_queries) > INT32_MAX - (1 << 16)) return INVALID_VALUE;
    if (p.out_stride > INT32_MAX - (1 << 16)) return INVALID_VALUE;
    if (p.heads < 1 || p.heads > SALIENT_INDEXER_MAX_HEADS) return INVALID_VALUE;
    if (p.dim < 16 || p.dim > SALIENT_INDEXER_MAX_DIM || p.dim % 16 != 0) return INVALID_VALUE;
    switch (p.dtype) {
        case SALIENT_F16: return run_for<f16>(p, stream);
        case SALIENT_BF16: return run_for<bf16>(p, stream);
        case SALIENT_F8E4M3: return run_for<e4m3>(p, stream);
        default: return INVALID_VALUE;
    }
}
