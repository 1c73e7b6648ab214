// attend: prefill on tensor cores of sm_80, by the schedule of FlashAttention-2 (arXiv 2307.08691).
//
// A block takes ROWS queries of one head and walks over the keys that any of them sees, in tiles that
// begin at multiples of KEYS: what a row sums up, and in which order, depends on no other row. A warp
// holds the logits and the output of its own rows in registers, with a running maximum and sum of
// weights (online softmax: arXiv 1805.02867). While one product runs, the operand of the next is on
// its way: values during q k, the next keys during p v.
//
// A warp passes by tiles that none of its rows sees, and compares positions only in tiles that some
// of its rows do not see whole. There, zero weights would make NaN of values that are not finite, so
// if there are any, they are taken out of the product and added by themselves.
#include "attend/prefill.cuh"

namespace salient {
namespace {

constexpr float LOG2_E = 1.4426950408889634f;

struct alignas(8) Pair {
    float at[2];
};

// The least and largest over the lanes of a warp.
__device__ __forceinline__ int warp_min(int x) {
    return static_cast<int>(__reduce_min_sync(FULL_WARP, static_cast<uint32_t>(x)));
}
__device__ __forceinline__ int warp_max(int x) {
    return static_cast<int>(__reduce_max_sync(FULL_WARP, static_cast<uint32_t>(x)));
}

// What a logit is multiplied with before the exponential, once it is in its final form.
__device__ __forceinline__ float natural_scale(const SalientPrefillParams& p) {
    return p.softcap > 0.0f ? p.softcap : p.scale > 0.0f ? p.scale : 1.0f;
}

// A warp's rows and what flows through them.
template <typename T, int DIM>
struct Warp {
    using Tile = PrefillTile<DIM>;
    static constexpr int M = Tile::M, N = Tile::N, C = Tile::C;

    const SalientPrefillParams& p;
    typename Tile::Shared& shared;
    int row;  // the warp's first row of the block
    int lane;
    float out[M][C][4] = {};
    float largest[M][2];
    float sums[M][2] = {};  // of the weights in this thread's columns

    __device__ Warp(const SalientPrefillParams& p, typename Tile::Shared& shared)
        : p(p), shared(shared) {
        row = static_cast<int>(warp_id()) * Tile::WARP_ROWS;
        lane = static_cast<int>(lane_id());
#pragma unroll
        for (int i = 0; i < M; i++) largest[i][0] = largest[i][1] = -INFINITY;
    }

    // The row of the block that half h of product i holds in this thread.
    __device__ int row_of(int i, int h) const { return row + 16 * i + 8 * h + lane / 4; }

    __device__ void dot_products(float (&logits)[M][N][4]) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) logits[i][j][e] = 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t q[M][4];
#pragma unroll
            for (int i = 0; i < M; i++) {
                int r = row + 16 * i + lane % 16;
                load_matrices(q[i], shared.q + Tile::at(r, 2 * k + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < N; j += 2) {
                int key = 8 * j + lane / 16 * 8 + lane % 8;
                uint32_t words[4];
                load_matrices(words, shared.k + Tile::at(key, 2 * k + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < M; i++) {
                    multiply_add<T>(logits[i][j], q[i], {words[0], words[1]});
                    multiply_add<T>(logits[i][j + 1], q[i], {words[2], words[3]});
                }
            }
        }
    }

    // What is done to logits other than scaling, which the exponential does.
    __device__ void cap(float (&logits)[M][N][4]) const {
        bool capped = p.softcap > 0.0f;
        if (!capped && p.scale > 0.0f) return;
        float factor = capped ? p.scale / p.softcap : p.scale;
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float x = logits[i][j][e] * factor;
                    logits[i][j][e] = capped ? tanhf(x) : x;
                }
            }
        }
    }

    __device__ void mask(float (&logits)[M][N][4], int tile) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                Seen seen = shared_load(shared.rows + row_of(i, h));
#pragma unroll
                for (int j = 0; j < N; j++) {
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        int key = tile + 8 * j + 2 * (lane % 4) + e;
                        bool sees = seen.first <= key && key < seen.limit;
                        logits[i][j][2 * h + e] = sees ? logits[i][j][2 * h + e] : -INFINITY;
                    }
                }
            }
        }
    }

    // Logits become weights, as fragments of their product with values; what was summed up so far is
    // brought to the new largest logit.
    __device__ void weigh(float (&logits)[M][N][4], uint32_t (&weights)[M][N / 2][4]) {
        float scale = natural_scale(p) * LOG2_E;
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float most = largest[i][h];
#pragma unroll
                for (int j = 0; j < N; j++) {
                    most = fmaxf(most, fmaxf(logits[i][j][2 * h], logits[i][j][2 * h + 1]));
                }
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
                // A row that has seen nothing yet has no weights to shift.
                float shift = most == -INFINITY ? 0.0f : most * scale;
                float shrink = exp2_approx(fmaf(largest[i][h], scale, -shift));
                largest[i][h] = most;
                float sum = sums[i][h] * shrink;
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float low = exp2_approx(fmaf(logits[i][j][2 * h], scale, -shift));
                    float high = exp2_approx(fmaf(logits[i][j][2 * h + 1], scale, -shift));
                    sum += low + high;
                    weights[i][j / 2][j % 2 * 2 + h] = pack<T>(low, high);
                }
                sums[i][h] = sum;
#pragma unroll
                for (int c = 0; c < C; c++) {
                    out[i][c][2 * h] *= shrink;
                    out[i][c][2 * h + 1] *= shrink;
                }
            }
        }
    }

    // Whether a value of the tile is not finite.
    __device__ bool any_not_finite() const {
        uint32_t found = 0;
#pragma unroll 4
        for (int i = lane; i < Tile::KEYS * C; i += 32) {
            Vector vector = shared_load(shared.v + i);
#pragma unroll
            for (int w = 0; w < 4; w++) found |= not_finite<T>(vector.words[w]);
        }
        return __any_sync(FULL_WARP, found != 0);
    }

    // Adds weighted values. APART: those that are not finite go to the rows that see them and no
    // others.
    template <bool APART>
    __device__ void add_values(const uint32_t (&weights)[M][N / 2][4], int tile) {
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
#pragma unroll
            for (int c = 0; c < C; c += 2) {
                uint32_t words[4];
                load_matrices_transposed(
                    words, shared.v + Tile::at(16 * k + lane % 16, c + lane / 16));
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t values[2] = {words[2 * half], words[2 * half + 1]};
                    if (APART) add_infinite(values, tile + 16 * k, c + half);
#pragma unroll
                    for (int i = 0; i < M; i++) {
                        multiply_add<T>(out[i][c + half], weights[i][k], values);
                    }
                }
            }
        }
    }

    // Word w of a fragment of product i: 1 where the row sees the key, or else 0.
    __device__ uint32_t ones_where_seen(int i, int w, int first_key) const {
        Seen seen = shared_load(shared.rows + row_of(i, w % 2));
        uint32_t ones = 0;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int key = first_key + w / 2 * 8 + 2 * (lane % 4) + e;
            bool sees = seen.first <= key && key < seen.limit;
            ones |= (sees ? Exponent<T>::ONE : 0u) << 16 * e;
        }
        return ones;
    }

    // Adds the values that are not finite where they are seen, and takes them out.
    __device__ void add_infinite(uint32_t (&values)[2], int first_key, int c) {
        reconsider(lane);
        uint32_t positive[2], negative[2];
#pragma unroll
        for (int w = 0; w < 2; w++) {
            positive[w] = ones_where_infinite<T>(values[w], 0);
            negative[w] = ones_where_infinite<T>(values[w], 1);
            values[w] &= ~((not_finite<T>(values[w]) >> 15) * 0xffffu);
        }
#pragma unroll
        for (int i = 0; i < M; i++) {
            uint32_t sees[4];
#pragma unroll
            for (int w = 0; w < 4; w++) sees[w] = ones_where_seen(i, w, first_key);
            float ups[4] = {}, downs[4] = {};
            multiply_add<T>(ups, sees, positive);
            multiply_add<T>(downs, sees, negative);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (ups[e] > 0.0f) out[i][c][e] += INFINITY;
                if (downs[e] > 0.0f) out[i][c][e] -= INFINITY;
            }
        }
    }

    // Divides by the sums of weights, and writes the LSE of rows that exist.
    __device__ void normalise(const Place& at) {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float sum = sums[i][h];
                sum += __shfl_xor_sync(FULL_WARP, sum, 1);
                sum += __shfl_xor_sync(FULL_WARP, sum, 2);
                Seen seen = shared_load(shared.rows + row_of(i, h));
                bool none = seen.first >= seen.limit;
                float inverse = 1.0f / sum;
#pragma unroll
                for (int c = 0; c < C; c++) {
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        out[i][c][e] = none ? 0.0f : out[i][c][e] * inverse;
                    }
                }
                float lse = fmaf(largest[i][h], natural_scale(p), logf(sum));
                // Nothing but logits of -infinity: 0 / 0.
                if (largest[i][h] == -INFINITY) lse = NAN;
                int r = at.first + row_of(i, h);
                bool asked = p.lse != nullptr && lane % 4 == 0 && r < at.queries.len;
                int64_t place = static_cast<int64_t>(at.queries.start + r) * p.q_heads + at.head;
                store_if(asked, p.lse + place, none ? -INFINITY : lse);
            }
        }
    }

    __device__ void write_floats(const Place& at) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = at.first + row_of(i, h);
                float* to = static_cast<float*>(p.out) + at.head * p.out_strides.head +
                            (at.queries.start + r) * p.out_strides.token + 2 * (lane % 4);
#pragma unroll
                for (int c = 0; c < C; c++) {
                    Pair pair{{out[i][c][2 * h], out[i][c][2 * h + 1]}};
                    bool exists = r < at.queries.len && 8 * c < p.dim;
                    store_if(exists, reinterpret_cast<Pair*>(to + 8 * c), pair);
                }
            }
        }
    }

    // By way of shared memory, where the warp's queries were, to write whole sectors.
    __device__ void write_rounded(const Place& at) const {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
#pragma unroll
                for (int c = 0; c < C; c++) {
                    uint32_t word = pack<T>(out[i][c][2 * h], out[i][c][2 * h + 1]);
                    Vector* to = shared.q + Tile::at(row_of(i, h), c);
                    shared_store(to->words + lane % 4, word);
                }
            }
        }
        __syncwarp();
#pragma unroll 4
        for (int i = lane; i < Tile::WARP_ROWS * C; i += 32) {
            int r = row + i / C, c = i % C;
            Vector vector = shared_load(shared.q + Tile::at(r, c));
            bool exists = at.first + r < at.queries.len && 8 * c < p.dim;
            T* to = static_cast<T*>(p.out) + at.head * p.out_strides.head +
                    (at.queries.start + at.first + r) * p.out_strides.token + 8 * c;
            store_if(exists, reinterpret_cast<Vector*>(to), vector);
        }
    }
};

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
        bool inside = rows.first <= first + r &&
                      (SALIENT_MUTATED("prefill/bounds") || first + r < rows.limit);
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
    shared_store_if(threadIdx.x == 0, &shared.place, Place{queries, tile_row, head});

    // What every row sees; what any row of the warp sees, and what all do.
    Warp<T, DIM> warp(p, shared);
    bool mine = warp.lane < Tile::WARP_ROWS;
    int row = tile_row + warp.row + warp.lane;
    Seen seen = seen_by(p, queries, keys.len, mine ? row : queries.len);
    shared_store_if(mine, shared.rows + warp.row + (mine ? warp.lane : 0), seen);
    bool exists = mine && row < queries.len, sees = exists && seen.first < seen.limit;
    Seen any{warp_min(sees ? seen.first : INT32_MAX), warp_max(sees ? seen.limit : 0)};
    Seen all{warp_max(exists ? seen.first : 0), warp_min(exists ? seen.limit : INT32_MAX)};
    shared_store_if(warp.lane == 0, shared.warps + warp_id(), WarpSeen{any, all});
    __syncthreads();
    Seen block{INT32_MAX, 0};
#pragma unroll
    for (int w = 0; w < Tile::WARPS; w++) {
        Seen other = shared_load(shared.warps + w).any;
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
        WarpSeen seen = shared_load(shared.warps + warp_id());
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
            warp.weigh(logits, weights);
        }
        copy_async_wait<0>();
        if (!SALIENT_MUTATED("prefill/barrier")) __syncthreads();
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
    copy_async_wait<0>();

    Place at = shared_load(&shared.place);
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
    Launch shape{dim3(static_cast<uint32_t>(heads * tiles)), Tile::THREADS,
                 sizeof(typename Tile::Shared)};
    return launch("prefill", prefill<T, DIM>, shape, stream, p);
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
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
