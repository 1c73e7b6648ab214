// score: the SDTP predictor (arXiv 2504.04514, equation 1) on tensor cores of sm_80.
//
// The norm's weight is folded into w1 and its row scale commutes with the product, so the product
// runs on raw x and the epilogue makes scores of it:
//
//     score = b2 + sum over n of w2[n] gelu(rstd (x . w1[n]) + b1[n])
//
// A block takes ROWS tokens by COLUMNS columns. K goes by in steps of STEP channels through STAGES
// slots of shared memory; every warp holds a tile of the product in registers, and squares the
// fragments of x on their way. No score depends on where in a block, or in which size of block, its
// token lies: rows meet in no sum, and every sum has a fixed order.
#include "common/launch.cuh"
#include "ptx/async_copy.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace {

constexpr int STEP = 32;          // channels per slot
constexpr int STAGES = 4;         // slots
constexpr int CHUNKS = STEP / 8;  // 16-byte chunks of a row in a slot
constexpr int GROUP = 8;          // tiles of tokens that share the columns' w1 in L2 before the next do

// The chunk of 16 bytes that holds chunk `chunk` of a row: any 8 rows at one chunk, and any 8
// chunks in a row of 128 bytes, lie in different banks.
__device__ __forceinline__ uint32_t swizzle(uint32_t row, uint32_t chunk) {
    return row * CHUNKS + (chunk ^ (row / (8 / CHUNKS) % CHUNKS));
}

template <int ROWS, int COLUMNS>
struct Tile {
    static constexpr int WARPS_N = COLUMNS > 64 ? 2 : 1;
    static constexpr int WARPS_M = ROWS / 32 / WARPS_N;
    static constexpr int WARP_ROWS = ROWS / WARPS_M;
    static constexpr int WARP_COLUMNS = COLUMNS / WARPS_N;
    static constexpr int M = WARP_ROWS / 16;    // products of a warp down
    static constexpr int N = WARP_COLUMNS / 8;  // and across
    static constexpr int SQUARED = M / WARPS_N;  // rows of products whose squares a warp sums

    struct Slot {
        Vector x[ROWS * CHUNKS];
        Vector w1[COLUMNS * CHUNKS];
    };
    struct Sums {
        float rstd[ROWS];
        float scores[WARPS_N][ROWS];
    };
    struct Shared {
        union {
            Slot slots[STAGES];
            Sums sums;  // once the slots are done with
        };
        float b1[COLUMNS];
        float w2[COLUMNS];
    };
    struct Fragments {
        uint32_t x[M][4];
        uint32_t w1[N][2];
    };
};

// x times the normal distribution function of x, within 1.5e-7 times the larger of 1 and |x|:
// x / 2 + |x| q with q = a g(a a), a = min(|x|, LIMIT), and g the host backend's polynomial in
// 2 a a / LIMIT^2 - 1. Unlike erff it has no branches, so that a thread has several on their way.
__device__ __forceinline__ float gelu(float x) {
    constexpr float LIMIT = 5.5f;
    constexpr float G[16] = {
        1.2855193e-1f, -6.417231e-2f,  4.7737796e-2f, -3.8793795e-2f, 3.2067224e-2f, -2.603615e-2f,
        2.0384807e-2f, -1.5062524e-2f, 1.0164212e-2f, -6.6506783e-3f, 4.72357e-3f,   -2.6587024e-3f,
        6.399065e-4f,  -3.567546e-4f,  6.5623666e-4f, -2.856763e-4f,
    };
    float a = fminf(fabsf(x), LIMIT), y = fmaf(a * a, 2.0f / (LIMIT * LIMIT), -1.0f), g = G[15];
#pragma unroll
    for (int i = 14; i >= 0; i--) g = fmaf(g, y, G[i]);
    return fmaf(fabsf(x), a * g, 0.5f * x);
}

// Adds over the four lanes that hold a row of a product; each gets the same bits.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

// Tokens that exist.
__device__ __forceinline__ int token_limit(const SalientMlpParams& p) {
    return p.valid == nullptr ? p.tokens : max_of(0, min_of(p.tokens, *p.valid));
}

// Where the block and a warp of it lie, and what flows through it.
template <typename T, int ROWS, int COLUMNS>
struct Block {
    using Tile = salient::Tile<ROWS, COLUMNS>;
    using Fragments = typename Tile::Fragments;

    const SalientMlpParams& p;
    typename Tile::Shared& shared;
    int row;     // the block's first token
    int column;  // and column
    int limit;   // tokens that exist
    int warp_row;
    int warp_column;

    __device__ Block(const SalientMlpParams& p, typename Tile::Shared& shared, int row, int column,
                     int limit)
        : p(p), shared(shared), row(row), column(column), limit(limit) {
        int warp = static_cast<int>(warp_id());
        warp_row = warp / Tile::WARPS_N * Tile::WARP_ROWS;
        warp_column = warp % Tile::WARPS_N * Tile::WARP_COLUMNS;
    }

    // The first row of product i of the warp. Warps side by side begin at different ones, so that
    // the first SQUARED of each are all of them.
    __device__ int product_row(int i) const {
        int side = warp_column / Tile::WARP_COLUMNS;
        return warp_row + 16 * (i ^ (Tile::SQUARED * side));
    }

    // Starts the copies of a step of K; rows and channels that do not exist become zeros.
    __device__ void copy(int step) const {
        auto& slot = shared.slots[step % STAGES];
        int thread = static_cast<int>(threadIdx.x), chunk = thread % CHUNKS;
        int channel = step * STEP + chunk * 8;
        copy_rows<ROWS>(slot.x, static_cast<const T*>(p.x), p.x_stride, row, limit, channel);
        copy_rows<COLUMNS>(slot.w1, static_cast<const T*>(p.w1), p.hidden, column, p.width,
                           channel);
    }

    template <int COUNT>
    __device__ void copy_rows(Vector* to, const T* from, int64_t stride, int first, int end,
                              int channel) const {
        constexpr int AT_ONCE = ROWS / CHUNKS;  // there are as many threads as rows
        int thread = static_cast<int>(threadIdx.x), chunk = thread % CHUNKS;
        from += (first + thread / CHUNKS) * stride + channel;
#pragma unroll
        for (int i = 0; i < COUNT; i += AT_ONCE) {
            int r = i + thread / CHUNKS;
            if (COUNT % AT_ONCE == 0 || r < COUNT) {
                bool valid = first + r < end && channel < p.hidden;
                copy_async_16(to + swizzle(r, chunk), from + i * stride, valid);
            }
        }
    }

    // Fragments of 16 channels of a slot.
    __device__ void load_fragments(Fragments& fragments, int step, int k) const {
        auto& slot = shared.slots[step % STAGES];
        int lane = static_cast<int>(lane_id());
#pragma unroll
        for (int i = 0; i < Tile::M; i++) {
            int r = product_row(i) + lane % 16;
            load_matrices(fragments.x[i], slot.x + swizzle(r, 2 * k + lane / 16));
        }
#pragma unroll
        for (int j = 0; j < Tile::N; j += 2) {
            int r = warp_column + 8 * j + lane / 16 * 8 + lane % 8;
            uint32_t words[4];
            load_matrices(words, slot.w1 + swizzle(r, 2 * k + lane / 8 % 2));
            fragments.w1[j][0] = words[0];
            fragments.w1[j][1] = words[1];
            fragments.w1[j + 1][0] = words[2];
            fragments.w1[j + 1][1] = words[3];
        }
    }

    __device__ void multiply(float (&product)[Tile::M][Tile::N][4],
                             float (&squares)[Tile::SQUARED][2],
                             const Fragments& fragments) const {
#pragma unroll
        for (int i = 0; i < Tile::M; i++) {
#pragma unroll
            for (int j = 0; j < Tile::N; j++) {
                multiply_add<T>(product[i][j], fragments.x[i], fragments.w1[j]);
            }
        }
#pragma unroll
        for (int i = 0; i < Tile::SQUARED; i++) {
#pragma unroll
            for (int word = 0; word < 4; word++) {
                float x[2];
                unpack<T>(fragments.x[i][word], x);
                squares[i][word % 2] += x[0] * x[0];
                squares[i][word % 2] += x[1] * x[1];
            }
        }
    }

    // rstd of every row of the block into shared memory.
    __device__ void scale_rows(const float (&squares)[Tile::SQUARED][2]) const {
        int lane = static_cast<int>(lane_id());
#pragma unroll
        for (int i = 0; i < Tile::SQUARED; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float mean = quad_sum(squares[i][half]) / static_cast<float>(p.hidden);
                float rstd = p.norm ? 1.0f / sqrtf(mean + p.eps) : 1.0f;
                int r = product_row(i) + 8 * half + lane / 4;
                if (lane % 4 == 0) shared.sums.rstd[r] = rstd;
            }
        }
    }

    // The second layer over the warp's columns, for every row of the warp, into shared memory.
    __device__ void sum_columns(const float (&product)[Tile::M][Tile::N][4]) const {
        int lane = static_cast<int>(lane_id());
        float rstd[Tile::M][2], sums[Tile::M][2];
#pragma unroll
        for (int i = 0; i < Tile::M; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                rstd[i][half] = shared.sums.rstd[product_row(i) + 8 * half + lane / 4];
                sums[i][half] = 0.0f;
            }
        }
#pragma unroll
        for (int j = 0; j < Tile::N; j++) {
            int c = warp_column + 8 * j + 2 * (lane % 4);
            Pair b1 = *reinterpret_cast<const Pair*>(shared.b1 + c);
            Pair w2 = *reinterpret_cast<const Pair*>(shared.w2 + c);
#pragma unroll
            for (int e = 0; e < 4; e++) {
#pragma unroll
                for (int i = 0; i < Tile::M; i++) {
                    // What a column that does not exist makes of an infinity is no number.
                    bool exists = column + c + e % 2 < p.width;
                    float h = fmaf(rstd[i][e / 2], product[i][j][e], b1.at[e % 2]);
                    sums[i][e / 2] = fmaf(w2.at[e % 2], gelu(exists ? h : 0.0f), sums[i][e / 2]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < Tile::M; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float sum = quad_sum(sums[i][half]);
                int r = product_row(i) + 8 * half + lane / 4;
                float* to = &shared.sums.scores[warp_column / Tile::WARP_COLUMNS][r];
                if (lane % 4 == 0) *to = sum;
            }
        }
    }
};

// A tile's part of the scores, or the scores themselves if it has all columns.
template <typename T, int ROWS, int COLUMNS>
__global__ void __launch_bounds__(ROWS, 256 / ROWS) mlp(SalientMlpParams p) {
    using Tile = salient::Tile<ROWS, COLUMNS>;
    auto& shared = shared_memory<typename Tile::Shared>();
    int thread = static_cast<int>(threadIdx.x), limit = token_limit(p);

    // Blocks that run together take GROUP tiles of tokens by as many of columns as there is room
    // for: both are read from L2 over and over.
    int row_tiles = ceil_div(p.tokens, ROWS), column_tiles = ceil_div(p.width, COLUMNS);
    int id = static_cast<int>(blockIdx.x), group = id / (GROUP * column_tiles) * GROUP;
    int size = min_of(GROUP, row_tiles - group), place = id - group * column_tiles;
    int row = (group + place % size) * ROWS, column_tile = place / size;

    float score = -INFINITY;
    if (row < limit) {
        Block<T, ROWS, COLUMNS> block(p, shared, row, column_tile * COLUMNS, limit);
        int steps = ceil_div(p.hidden, STEP);
#pragma unroll
        for (int step = 0; step < STAGES - 1; step++) {
            block.copy(step);
            copy_async_commit();
        }
        if (thread < COLUMNS) {
            int n = column_tile * COLUMNS + thread;
            shared.b1[thread] = n < p.width ? p.b1[n] : 0.0f;
            shared.w2[thread] = n < p.width ? p.w2[n] : 0.0f;
        }

        float product[Tile::M][Tile::N][4] = {};
        float squares[Tile::SQUARED][2] = {};
        typename Tile::Fragments fragments[2];
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        block.load_fragments(fragments[0], 0, 0);
        for (int step = 0; step < steps; step++) {
            // Into the slot of the step before, which every warp has left.
            if (step + STAGES - 1 <= steps) block.copy(step + STAGES - 1);
            copy_async_commit();
#pragma unroll
            for (int k = 0; k < STEP / 16; k++) {
                bool last = k == STEP / 16 - 1;
                if (last) {
                    copy_async_wait<STAGES - 2>();
                    __syncthreads();
                }
                // After the last step this loads zeros, which nothing uses.
                block.load_fragments(fragments[(k + 1) % 2], step + last, last ? 0 : k + 1);
                block.multiply(product, squares, fragments[k % 2]);
            }
        }

        copy_async_wait<0>();
        __syncthreads();
        block.scale_rows(squares);
        __syncthreads();
        block.sum_columns(product);
        __syncthreads();
        score = 0.0f;
#pragma unroll
        for (int warp = 0; warp < Tile::WARPS_N; warp++) {
            score += shared.sums.scores[warp][thread];
        }
    }

    int token = row + thread;
    if (column_tiles == 1) {
        if (token < p.tokens) p.scores[token] = token < limit ? score + p.b2 : -INFINITY;
    } else {
        float* partials = p.partials + static_cast<int64_t>(column_tile) * p.tokens;
        if (token < limit) partials[token] = score;
    }
}

// Adds the parts of a token's score, in the order of columns.
__global__ void mlp_sum(SalientMlpParams p) {
    int token = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), limit = token_limit(p);
    int tiles = ceil_div(p.width, static_cast<int>(SALIENT_MLP_TILE));
    float score = 0.0f;
#pragma unroll 8
    for (int tile = 0; tile < tiles; tile++) {
        const float* partials = p.partials + static_cast<int64_t>(tile) * p.tokens;
        score += token < limit ? partials[token] : 0.0f;
    }
    if (token < p.tokens) p.scores[token] = token < limit ? score + p.b2 : -INFINITY;
}

template <typename T, int ROWS, int COLUMNS>
int run(const SalientMlpParams& p, SalientStream stream) {
    int64_t blocks = ceil_div<int64_t>(p.tokens, ROWS) * ceil_div(p.width, COLUMNS);
    if (blocks > INT32_MAX) return INVALID_VALUE;
    constexpr size_t SHARED = sizeof(typename Tile<ROWS, COLUMNS>::Shared);
    Launch shape{dim3(static_cast<uint32_t>(blocks)), ROWS};
    return launch<mlp<T, ROWS, COLUMNS>, SHARED>(shape, stream, p);
}

template <typename T>
int run_for(const SalientMlpParams& p, SalientStream stream) {
    if (p.width <= 32) return run<T, 128, 32>(p, stream);
    if (p.width <= 64) return run<T, 128, 64>(p, stream);
    // Blocks of 256 tokens read a quarter less from L2, if there are enough of them for every
    // processor. The bits are the same.
    int column_tiles = ceil_div(p.width, static_cast<int>(SALIENT_MLP_TILE));
    bool many = ceil_div(p.tokens, 256) * static_cast<int64_t>(column_tiles) >= 256;
    return many ? run<T, 256, 128>(p, stream) : run<T, 128, 128>(p, stream);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_mlp(const SalientMlpParams* params, SalientStream stream) {
    const SalientMlpParams& p = *params;
    if (p.tokens == 0) return SUCCESS;
    // So that no token of a tile overflows.
    if (p.tokens > INT32_MAX - 256) return INVALID_VALUE;
    int error = INVALID_VALUE;
    if (p.dtype == SALIENT_F16) error = run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) error = run_for<bf16>(p, stream);
    if (error != SUCCESS || p.width <= SALIENT_MLP_TILE) return error;
    auto blocks = static_cast<uint32_t>(ceil_div(p.tokens, 256));
    return launch<mlp_sum>({dim3(blocks), 256}, stream, p);
}
