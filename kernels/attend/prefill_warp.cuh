// A warp of prefill: logits, weights and output of its own rows, in registers.
#pragma once

#include "attend/prefill.cuh"

namespace salient {
namespace prefilling {

constexpr float LOG2_E = 1.4426950408889634f;

// What a logit is multiplied with before the exponential, once it is in its final form.
__device__ __forceinline__ float natural_scale(const SalientPrefillParams& p) {
    return p.softcap > 0.0f ? p.softcap : p.scale > 0.0f ? p.scale : 1.0f;
}

// A warp's rows and what flows through them; the products are those of sm_80.
template <typename T, typename Tile>
struct Warp {
    static constexpr int M = Tile::M, N = Tile::N, C = Tile::C;

    const SalientPrefillParams& p;
    typename Tile::Shared& shared;
    const Seen* seen;  // what each row of the block sees, in shared memory
    int row;           // the warp's first row of the block
    int lane;
    float out[M][C][4] = {};
    float largest[M][2];
    float sums[M][2] = {};  // of the weights in this thread's columns

    __device__ Warp(const SalientPrefillParams& p, typename Tile::Shared& shared,
                    const Seen* seen, int row)
        : p(p), shared(shared), seen(seen), row(row) {
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
        for (int k = 0; k < C / 2; k++) {
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
        if (p.softcap > 0.0f) {
            float factor = p.scale / p.softcap;
            change(logits, [=](float x) { return tanhf(x * factor); });
        } else if (!(p.scale > 0.0f)) {
            float factor = p.scale;
            change(logits, [=](float x) { return x * factor; });
        }
    }

    template <typename F>
    static __device__ void change(float (&logits)[M][N][4], F f) {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) logits[i][j][e] = f(logits[i][j][e]);
            }
        }
    }

    __device__ void mask(float (&logits)[M][N][4], int tile) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                Seen mine = seen[row_of(i, h)];
#pragma unroll
                for (int j = 0; j < N; j++) {
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        int key = tile + 8 * j + 2 * (lane % 4) + e;
                        bool sees = mine.first <= key && key < mine.limit;
                        logits[i][j][2 * h + e] = sees ? logits[i][j][2 * h + e] : -INFINITY;
                    }
                }
            }
        }
    }

    // Logits become weights, and what they add up to so far is brought to the new largest logit;
    // the output is still to be multiplied with `shrink`.
    __device__ void weigh(float (&logits)[M][N][4], float (&shrink)[M][2]) {
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
                shrink[i][h] = exp2_approx(fmaf(largest[i][h], scale, -shift));
                largest[i][h] = most;
                float sum = sums[i][h] * shrink[i][h];
#pragma unroll
                for (int j = 0; j < N; j++) {
                    float low = exp2_approx(fmaf(logits[i][j][2 * h], scale, -shift));
                    float high = exp2_approx(fmaf(logits[i][j][2 * h + 1], scale, -shift));
                    sum += low + high;
                    logits[i][j][2 * h] = low;
                    logits[i][j][2 * h + 1] = high;
                }
                sums[i][h] = sum;
            }
        }
    }

    __device__ void rescale(const float (&shrink)[M][2]) {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int c = 0; c < C; c++) {
#pragma unroll
                for (int e = 0; e < 4; e++) out[i][c][e] *= shrink[i][e / 2];
            }
        }
    }

    // Weights as fragments of their product with values.
    __device__ void round(const float (&exact)[M][N][4], uint32_t (&weights)[M][N / 2][4]) const {
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    weights[i][j / 2][j % 2 * 2 + h] =
                        pack<T>(exact[i][j][2 * h], exact[i][j][2 * h + 1]);
                }
            }
        }
    }

    // Whether a value of the tile is not finite.
    __device__ bool any_not_finite() const {
        uint32_t found = 0;
#pragma unroll 4
        for (int i = lane; i < Tile::KEYS * C; i += 32) {
            Vector vector = shared.v[i];
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
                    if (APART) {
                        add_infinite(values, tile + 16 * k, c + half);
                        values[0] = finite<T>(values[0]);
                        values[1] = finite<T>(values[1]);
                    }
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
        Seen mine = seen[row_of(i, w % 2)];
        uint32_t ones = 0;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int key = first_key + w / 2 * 8 + 2 * (lane % 4) + e;
            bool sees = mine.first <= key && key < mine.limit;
            ones |= (sees ? Exponent<T>::ONE : 0u) << 16 * e;
        }
        return ones;
    }

    // Counts, for every output of product i at 16 keys, the values of a fragment that it sees and
    // that are infinite with either sign; a NaN is both.
    __device__ void count_infinite(float (&ups)[4], float (&downs)[4], const uint32_t (&values)[2],
                                   int i, int first_key) const {
        uint32_t positive[2], negative[2], sees[4];
#pragma unroll
        for (int w = 0; w < 2; w++) {
            positive[w] = ones_where_infinite<T>(values[w], 0);
            negative[w] = ones_where_infinite<T>(values[w], 1);
        }
#pragma unroll
        for (int w = 0; w < 4; w++) sees[w] = ones_where_seen(i, w, first_key);
        multiply_add<T>(ups, sees, positive);
        multiply_add<T>(downs, sees, negative);
    }

    // Adds those values of a fragment that are not finite where they are seen.
    __device__ void add_infinite(const uint32_t (&values)[2], int first_key, int c) {
        reconsider(lane);
#pragma unroll
        for (int i = 0; i < M; i++) {
            float ups[4] = {}, downs[4] = {};
            count_infinite(ups, downs, values, i, first_key);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (ups[e] > 0.0f) out[i][c][e] += INFINITY;
                if (downs[e] > 0.0f) out[i][c][e] -= INFINITY;
            }
        }
    }

    // Divides by the sums of weights, the sink among them, and writes the LSE of rows that exist.
    __device__ void normalise(const Place& at) {
        float sink = p.attention_sink != nullptr ? p.attention_sink[at.head] : -INFINITY;
#pragma unroll
        for (int i = 0; i < M; i++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float sum = sums[i][h];
                sum += __shfl_xor_sync(FULL_WARP, sum, 1);
                sum += __shfl_xor_sync(FULL_WARP, sum, 2);
                Seen mine = seen[row_of(i, h)];
                bool none = mine.first >= mine.limit;
                float most = largest[i][h] * natural_scale(p);
                float inverse = 1.0f / sum, lse = most + logf(sum);
                // Nothing but logits of -infinity: 0 / 0.
                if (largest[i][h] == -INFINITY) lse = none ? -INFINITY : NAN;
                float zero = 0.0f;
                if (sink != -INFINITY) {
                    float top = fmaxf(most, sink), shrink = expf(most - top);
                    float joined = fmaf(sum, shrink, expf(sink - top));
                    inverse = shrink / joined;
                    lse = top + logf(joined);
                    zero *= joined;
                }
#pragma unroll
                for (int c = 0; c < C; c++) {
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        out[i][c][e] = none ? zero : out[i][c][e] * inverse;
                    }
                }
                int r = at.first + row_of(i, h);
                bool asked = p.lse != nullptr && lane % 4 == 0 && r < at.queries.len;
                int64_t place = static_cast<int64_t>(at.queries.start + r) * p.q_heads + at.head;
                if (asked) p.lse[place] = lse;
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
                    if (exists) *reinterpret_cast<Pair*>(to + 8 * c) = pair;
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
                    to->words[lane % 4] = word;
                }
            }
        }
        __syncwarp();
#pragma unroll 4
        for (int i = lane; i < Tile::WARP_ROWS * Tile::WIDTH; i += 32) {
            int r = row + i / Tile::WIDTH, c = i % Tile::WIDTH;
            bool exists = at.first + r < at.queries.len && 8 * c < p.dim;
            T* to = static_cast<T*>(p.out) + at.head * p.out_strides.head +
                    (at.queries.start + at.first + r) * p.out_strides.token + 8 * c;
            if (exists) *reinterpret_cast<Vector*>(to) = shared.q[Tile::at(r, c)];
        }
    }
};

}  // namespace prefilling
}  // namespace salient
