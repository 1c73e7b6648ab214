// What a warp of decode has to itself: how many queries it takes at once, how rows lie in its
// slots, and what its block adds up at the end.
#pragma once

#include "attend/decode_fragments.cuh"

namespace salient {
namespace decoding {

constexpr int STEP = 16;  // entries
constexpr int TERMS = 3;  // of a weight

constexpr uint32_t SEEN = 1u << 31;  // no fault: a warp saw a key

// A positive term that makes no difference, in place of 0; and a factor that keeps the terms of
// weights from underflow.
template <typename T>
struct Weights;

template <>
struct Weights<f16> {
    static constexpr uint16_t TINY = 1;  // 2^-24
    static constexpr float FACTOR = 16384.0f;
};

template <>
struct Weights<bf16> {
    static constexpr uint16_t TINY = (127 - 100) << 7;  // 2^-100
    static constexpr float FACTOR = 1.0f;
};

// Slots of a warp, for DIM channels of SIZE bytes.
constexpr int most_stages(int dim, int size) { return dim * size > 192 ? 3 : 4; }

// DIM channels of SIZE bytes in the cache, of which heads may have fewer: the others are zeros.
template <int DIM, int TILES, int SIZE, int STAGES>
struct Shape {
    static constexpr int QUERIES = 8 * TILES;
    static constexpr int WIDTH = 16 / SIZE;      // channels of a 16-byte chunk of a row
    static constexpr int CHUNKS = DIM / WIDTH;
    static constexpr int WARPS = DIM > 128 ? 2 : 4;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr bool SHARED_QUERIES = DIM > 128 && TILES > 1;  // where registers are too few

    struct Slot {
        Vector k[STEP * CHUNKS];
        Vector v[STEP * CHUNKS];
    };
    struct Parts {
        float out[WARPS][QUERIES][DIM + 4];  // so that a warp's columns lie in different banks
        float max[WARPS][QUERIES];
        float sum[WARPS][QUERIES];
    };
    struct Shared {
        union {
            Slot slots[WARPS][STAGES];
            Parts parts;  // once the slots are done with
        };
        uint32_t queries[SHARED_QUERIES ? QUERIES : 1][DIM / 2 + 4];  // padded like the parts
    };

    // Where a chunk of a row lies in a slot: any 8 rows at one chunk, and any 8 chunks in order,
    // lie in different banks.
    static __device__ __forceinline__ int place(int row, int chunk) {
        return row * CHUNKS + (chunk ^ (CHUNKS % 8 == 0 ? row % 8 : row / 2 % 4));
    }
};

}  // namespace decoding
}  // namespace salient
