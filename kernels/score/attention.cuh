// What the kernels of attention scores share: which keys and queries a block takes, and their
// products.
//
// Keys are the rows of mma.sync m16n8k16 and queries its columns. A warp holds its keys in
// registers, straight from device memory; queries go by through shared memory, the query heads of
// the keys' KV head one after the other.
#pragma once

#include "common/launch.cuh"
#include "common/status.cuh"
#include "ptx/async_copy.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace scoring {

constexpr float LOG2_E = 1.4426950408889634f;

// A query: its attention to a key is exp2(scale * dot - shift) * factor, in units of log2, if it
// sees the key. The difference is rounded once, so that large logits are no less exact.
struct alignas(16) Column {
    float shift;
    float factor;
    int limit;  // it sees the keys of the sequence below
    int unused;
};

// A block takes KEYS keys of one KV head; the columns of its group go by COLUMNS at a time.
template <int DIM>
struct ScoreTile {
    static constexpr int M = DIM <= 128 ? 2 : 1;  // products across a warp's keys
    static constexpr int WARPS = 8;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int WARP_KEYS = 16 * M;
    static constexpr int KEYS = WARPS * WARP_KEYS;
    static constexpr int COLUMNS = DIM <= 128 ? 64 : 32;
    static constexpr int C = DIM / 8;  // 16-byte chunks of a row

    struct Shared {
        Vector queries[2][COLUMNS * C];
        Column columns[2][COLUMNS];
        Vector parts[WARPS][COLUMNS / 2];  // largest logit and sum of two columns
    };

    // The vector that holds a chunk: four neighbouring chunks of two rows lie in different banks.
    static __device__ __forceinline__ int at(int row, int chunk) {
        return row * C + (C % 8 == 0 ? chunk ^ row % 2 * 4 : chunk);
    }
};

// The larger, or NaN if either is.
__device__ __forceinline__ float maximum(float a, float b) { return a > b || a != a ? a : b; }

// The keys of sequence b and the queries of its window; false if its offsets cannot be.
__device__ __forceinline__ bool load_window(const SalientAttentionScoreParams& p, int b, Span& keys,
                                            Span& queries) {
    bool valid = load_span(p.cu_seqlens, b, p.total, p.max_len, keys);
    valid = load_span(p.cu_queries, b, p.queries, p.queries, queries) && valid;
    int count = min_of(p.window, min_of(queries.len, keys.len));
    queries = {queries.start + queries.len - count, count};
    return valid;
}

// Where what belongs to a tile of a sequence lies among that of all: no two share a place, and none
// is beyond total / tile keys + batch.
__device__ __forceinline__ int64_t slot_of(Span keys, int b, int tile, int tile_keys) {
    return static_cast<int64_t>(keys.start) / tile_keys + b + tile;
}

// The share of query j of a window.
__device__ __forceinline__ float weight_of(const SalientAttentionScoreParams& p, Span queries,
                                           int j) {
    float count = static_cast<float>(queries.len);
    if (queries.len == 1 || p.first_weight == p.last_weight) return 1.0f / count;
    float along = static_cast<float>(j) / static_cast<float>(queries.len - 1);
    float weight = p.first_weight + (p.last_weight - p.first_weight) * along;
    return weight / (0.5f * (p.first_weight + p.last_weight) * count);
}

// The block's part of the work, and the products of one warp. WEIGHS: queries come with what makes
// attention of their logits.
template <typename T, int DIM, bool WEIGHS>
struct Scorer {
    using Tile = ScoreTile<DIM>;
    static constexpr int M = Tile::M;

    const SalientAttentionScoreParams& p;
    typename Tile::Shared& shared;
    int sequence;
    int kv_head;
    int tile;         // of keys, in the sequence
    Span keys;        // of the sequence
    Span queries;     // of its window
    bool valid;
    int group;
    int first_query;  // the first of the window that sees a key of the block, or a few before it
    int width;        // columns of a query head: queries from there on, and up to 7 that do not exist
    int columns;      // of all heads of the group
    int lane;
    Vector rows[M][2][DIM / 32];

    __device__ Scorer(const SalientAttentionScoreParams& p, typename Tile::Shared& shared)
        : p(p), shared(shared), lane(static_cast<int>(lane_id())) {
        // Heads of the same tokens go together, for their rows often lie together; the first keys
        // go first, for most queries see them.
        int block = static_cast<int>(blockIdx.x);
        kv_head = block % p.kv_heads;
        sequence = block / p.kv_heads % p.batch;
        tile = block / p.kv_heads / p.batch;
        valid = load_window(p, sequence, keys, queries);
        group = p.q_heads / p.kv_heads;
        int unseen = max_of(0, first_key() - (keys.len - queries.len));
        first_query = unseen / 8 * 8;
        width = ceil_div(max_of(queries.len - first_query, 1), 8) * 8;
        columns = group * width;
    }

    __device__ int first_key() const { return tile * Tile::KEYS; }
    __device__ bool exists() const { return valid && first_key() < keys.len; }
    __device__ int64_t slot() const { return slot_of(keys, sequence, tile, Tile::KEYS); }
    __device__ int tiles_of_columns() const { return ceil_div(columns, Tile::COLUMNS); }

    // The key of the sequence that half h of product i holds in this thread.
    __device__ int key_of(int i, int h) const {
        return first_key() + static_cast<int>(warp_id()) * Tile::WARP_KEYS + 16 * i + 8 * h +
               lane / 4;
    }

    // Keys into registers. Channels are taken in an order that lets a thread read 16 bytes of its
    // row at once: the first half of a chunk belongs to one product, the second to the next.
    __device__ __forceinline__ void load_keys() {
        const T* k = static_cast<const T*>(p.k) + kv_head * p.k_strides.head;
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int key = key_of(i, h);
                const T* row = k + (static_cast<int64_t>(keys.start) + key) * p.k_strides.token;
#pragma unroll
                for (int c = 0; c < DIM / 32; c++) {
                    int channel = 8 * (4 * c + lane % 4);
                    bool inside = key < keys.len && channel < p.dim;
                    auto* from = reinterpret_cast<const Vector*>(row + channel);
                    rows[i][h][c] = inside ? *from : Vector{};
                }
            }
        }
    }

    // Starts copying the queries of a tile of columns.
    __device__ __forceinline__ void copy_queries(int tile) {
        const T* q = static_cast<const T*>(p.q) +
                     static_cast<int64_t>(kv_head) * group * p.q_strides.head;
#pragma unroll 2
        for (int i = 0; i < Tile::COLUMNS * Tile::C; i += Tile::THREADS) {
            int vector = i + static_cast<int>(threadIdx.x);
            int row = vector / Tile::C, chunk = vector % Tile::C;
            int column = tile * Tile::COLUMNS + row;
            int head = column / width, j = first_query + column % width;
            bool inside = column < columns && j < queries.len && 8 * chunk < p.dim;
            const T* from = q + (static_cast<int64_t>(queries.start) + j) * p.q_strides.token +
                            head * p.q_strides.head + 8 * chunk;
            copy_async_16(shared.queries[tile % 2] + Tile::at(row, chunk), from, inside);
        }
    }

    // This thread's column of a tile, if it has one.
    __device__ __forceinline__ Column column_of(int tile) const {
        int column = tile * Tile::COLUMNS + static_cast<int>(threadIdx.x);
        int head = kv_head * group + column / width, j = first_query + column % width;
        bool inside = threadIdx.x < Tile::COLUMNS && column < columns && j < queries.len;
        Column result{0.0f, 0.0f, inside ? keys.len - queries.len + j + 1 : 0, 0};
        if (!WEIGHS) return result;
        if (p.lse != nullptr) {
            int64_t at = (static_cast<int64_t>(queries.start) + j) * p.q_heads + head;
            float lse = inside ? p.lse[at] : 0.0f;
            result.shift = lse * LOG2_E;
            result.factor = weight_of(p, queries, j);
            // A query that sees nothing.
            if (lse == -INFINITY) result.limit = 0;
        } else {
            int64_t at = (static_cast<int64_t>(sequence) * p.q_heads + head) * p.window + j;
            auto* sums = reinterpret_cast<const Pair*>(p.sums) + at;
            Pair sum = inside ? *sums : Pair{};
            result.shift = sum.at[0];
            result.factor = sum.at[1];
        }
        return result;
    }

    __device__ __forceinline__ void store_column(int tile, const Column& column) {
        if (threadIdx.x < Tile::COLUMNS) shared.columns[tile % 2][threadIdx.x] = column;
    }

    // Dot products of the warp's keys with columns 8 n .. 8 n + 7 of a tile; thread l has columns
    // 2 (l % 4) and the next.
    __device__ __forceinline__ void multiply(int tile, int n, float (&s)[M][4]) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[i][e] = 0.0f;
        }
        // Where the row's chunks c and c + 1 lie, for even c: 4 * c further on.
        const Vector* row = shared.queries[tile % 2] + 8 * n * Tile::C;
        const Vector* chunks[2] = {row + Tile::at(lane / 4, lane % 4),
                                   row + Tile::at(lane / 4, lane % 4 + 4)};
#pragma unroll
        for (int c = 0; c < DIM / 32; c++) {
            Vector q = chunks[c % 2][c / 2 * 8];
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
#pragma unroll
                for (int i = 0; i < M; i++) {
                    const Vector &upper = rows[i][0][c], &lower = rows[i][1][c];
                    uint32_t k[4] = {upper.words[half], lower.words[half], upper.words[half + 1],
                                     lower.words[half + 1]};
                    multiply_add<T>(s[i], k, {q.words[half], q.words[half + 1]});
                }
            }
        }
    }

    // Whether every key of the warp is seen by columns with these limits, in every thread.
    __device__ __forceinline__ bool all_seen(int limit, int other) const {
        int last = first_key() + static_cast<int>(warp_id() + 1) * Tile::WARP_KEYS - 1;
        return __all_sync(FULL_WARP, last < min_of(limit, other));
    }

    // Calls visit(column tile, n) for every 8 columns, when their queries and Columns lie in
    // shared memory, and finish(column tile) behind those of a tile; all threads of the block
    // together.
    template <typename Visit, typename Finish>
    __device__ __forceinline__ void walk(Visit visit, Finish finish) {
        int tiles = tiles_of_columns();
        copy_queries(0);
        copy_async_commit();
        store_column(0, column_of(0));
#pragma unroll 1
        for (int tile = 0; tile < tiles; tile++) {
            copy_async_wait<0>();
            __syncthreads();
            // Nobody is at the other half any more.
            bool more = tile + 1 < tiles;
            Column next{};
            if (more) {
                copy_queries(tile + 1);
                next = column_of(tile + 1);
            }
            copy_async_commit();
            int count = min_of(Tile::COLUMNS, columns - tile * Tile::COLUMNS);
#pragma unroll 1
            for (int n = 0; n < count / 8; n++) visit(tile, n);
            if (more) store_column(tile + 1, next);
            finish(tile);
        }
    }
};

// Blocks of a launch with a tile of keys each.
template <int DIM>
int blocks_of(const SalientAttentionScoreParams& p, Launch& shape) {
    using Tile = ScoreTile<DIM>;
    int64_t blocks = static_cast<int64_t>(ceil_div(p.max_len, Tile::KEYS)) * p.batch * p.kv_heads;
    if (blocks > INT32_MAX) return INVALID_VALUE;
    shape = {dim3(static_cast<uint32_t>(blocks)), Tile::THREADS};
    return SUCCESS;
}

// Calls run<T, DIM>() for the params' type and channels.
template <template <typename, int> class Run>
int dispatch(const SalientAttentionScoreParams& p, SalientStream stream) {
    if (p.dtype == SALIENT_F16) {
        if (p.dim <= 64) return Run<f16, 64>::launch(p, stream);
        if (p.dim <= 96) return Run<f16, 96>::launch(p, stream);
        if (p.dim <= 128) return Run<f16, 128>::launch(p, stream);
        return Run<f16, 256>::launch(p, stream);
    }
    if (p.dtype != SALIENT_BF16) return INVALID_VALUE;
    if (p.dim <= 64) return Run<bf16, 64>::launch(p, stream);
    if (p.dim <= 96) return Run<bf16, 96>::launch(p, stream);
    if (p.dim <= 128) return Run<bf16, 128>::launch(p, stream);
    return Run<bf16, 256>::launch(p, stream);
}

// The launches, which lie in a file each.
int attention_sums(const SalientAttentionScoreParams& p, SalientStream stream);
int attention_columns(const SalientAttentionScoreParams& p, SalientStream stream);
int attention_finish(const SalientAttentionScoreParams& p, SalientStream stream);

}  // namespace scoring
}  // namespace salient
