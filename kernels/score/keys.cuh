// Rows of a tensor as operands of mma.m16n8k16, straight from where they lie: a lane takes 16 bytes
// of a row at a time, the four lanes of a row 64. So a product's channels stand in another order
// than in memory, the same for both operands: of 16-bit elements, row i of operand block s is
// channel
//
//     32 (s / 2) + 8 (i % 8 / 2) + 4 (s % 2) + 2 (i / 8) + i % 2
#pragma once

#include "common/memory.cuh"
#include "ptx/convert.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace keying {

// How the 16 bytes that a lane holds of a row become operands.
template <typename T>
struct Piece {
    using Operand = T;
    static constexpr int CHANNELS = 8;  // of a lane
    static constexpr int BLOCKS = 2;    // of 16 channels, of the four lanes together

    // Rows 8 half + 2 (lane % 4) and the next of operand block `block`.
    static __device__ __forceinline__ uint32_t pair(const Vector& piece, int block, int half) {
        return piece.words[2 * block + half];
    }
};

template <>
struct Piece<e4m3> {
    using Operand = f16;
    static constexpr int CHANNELS = 16;
    static constexpr int BLOCKS = 4;

    static __device__ __forceinline__ uint32_t pair(const Vector& piece, int block, int half) {
        uint32_t word = piece.words[block];
        return half == 0 ? widen_even<f16>(word) : widen_odd<f16>(word);
    }
};

// TILES * 16 rows of up to DIM channels as the first operand: row `lane / 4` of tile m, and 8 more.
template <typename T, int DIM, int TILES>
struct Rows {
    using P = Piece<T>;
    static constexpr int PIECES = DIM / (4 * P::CHANNELS);
    static constexpr int BLOCKS = PIECES * P::BLOCKS;

    uint32_t operand[TILES][BLOCKS][4];

    // Rows from `rows` on, `stride` elements apart, of which `count` exist; others become 0.
    __device__ __forceinline__ void load_from(const T* rows, int64_t stride, int count, int dim) {
        int lane = static_cast<int>(lane_id());
#pragma unroll
        for (int m = 0; m < TILES; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = 16 * m + 8 * half + lane / 4;
                Vector pieces[PIECES];
#pragma unroll
                for (int i = 0; i < PIECES; i++) {
                    int channel = (4 * i + lane % 4) * P::CHANNELS;
                    auto* from = reinterpret_cast<const Vector*>(rows + row * stride + channel);
                    pieces[i] = row < count && channel < dim ? *from : Vector{};
                }
#pragma unroll
                for (int i = 0; i < BLOCKS; i++) {
#pragma unroll
                    for (int right = 0; right < 2; right++) {
                        operand[m][i][2 * right + half] =
                            P::pair(pieces[i / P::BLOCKS], i % P::BLOCKS, right);
                    }
                }
            }
        }
    }
};

// Of a value for each of up to four groups of 8 rows, every lane's share: the sum over the four
// lanes of row `lane / 4` of group `lane % 4`.
__device__ __forceinline__ float sum_of_row(const float (&values)[4]) {
    bool upper = lane_id() & 2, odd = lane_id() & 1;
    float pair[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float theirs = upper ? values[i] : values[2 + i];
        float mine = upper ? values[2 + i] : values[i];
        pair[i] = mine + __shfl_xor_sync(FULL_WARP, theirs, 2);
    }
    float theirs = odd ? pair[0] : pair[1], mine = odd ? pair[1] : pair[0];
    return mine + __shfl_xor_sync(FULL_WARP, theirs, 1);
}

}  // namespace keying
}  // namespace salient
