// How rows of a cache come out of shared memory as fragments of products, of 16-bit T whatever the
// cache holds.
#pragma once

#include "attend/decode.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace decoding {

// A load gives words of COUNT fragments, of 16 channels and 16 keys each. `place` is where a chunk
// of a row lies.
template <typename T, typename KV>
struct Fragments {
    static constexpr int COUNT = 1;

    template <typename Place>
    static __device__ __forceinline__ void load_keys(uint32_t (&words)[4], const Vector* rows,
                                                     int i, int lane, Place place) {
        load_matrices(words, rows + place(lane % 16, 2 * i + lane / 16));
    }

    template <typename Place>
    static __device__ __forceinline__ void load_values(uint32_t (&words)[4], const Vector* rows,
                                                       int i, int lane, Place place) {
        int key = lane / 16 * 8 + lane % 8;
        load_matrices_transposed(words, rows + place(key, 2 * i + lane / 8 % 2));
    }

    // Fragment n of those loaded.
    static __device__ __forceinline__ void keys(uint32_t (&fragment)[4],
                                                const uint32_t (&words)[4], int) {
#pragma unroll
        for (int w = 0; w < 4; w++) fragment[w] = words[w];
    }
    static __device__ __forceinline__ void values(uint32_t (&fragment)[4],
                                                  const uint32_t (&words)[4], int n) {
        keys(fragment, words, n);
    }

    // The first of the two channels, of 16, in word `half` of a lane's queries.
    static __device__ __forceinline__ int query_channel(int half, int lane) {
        return 8 * half + 2 * (lane % 4);
    }

    static __device__ __forceinline__ void arrange_queries(uint32_t (&)[2]) {}

    // The channel, of 16, of half `half` of a lane's output.
    static __device__ __forceinline__ int out_channel(int half, int lane) {
        return 8 * half + lane / 4;
    }
};

// Neighbouring fp8 of a row go through matrix loads in pairs and are parted when they are widened,
// so the channels of a fragment are in another order: of every four the keys' have 0 and 2 in the
// first word and 1 and 3 in the second, and the values' even ones come before the odd ones. Queries
// and the output follow.
template <typename T>
struct Fragments<T, e4m3> {
    static constexpr int COUNT = 2;

    template <typename Place>
    static __device__ __forceinline__ void load_keys(uint32_t (&words)[4], const Vector* rows,
                                                     int i, int lane, Place place) {
        load_matrices(words, rows + place(lane % 16, 2 * i + lane / 16));
    }

    template <typename Place>
    static __device__ __forceinline__ void load_values(uint32_t (&words)[4], const Vector* rows,
                                                       int i, int lane, Place place) {
        load_matrices_transposed(words, rows + place(lane % 16, 2 * i + lane / 16));
    }

    static __device__ __forceinline__ void keys(uint32_t (&fragment)[4],
                                                const uint32_t (&words)[4], int n) {
        fragment[0] = widen_even<T>(words[2 * n]);
        fragment[1] = widen_even<T>(words[2 * n + 1]);
        fragment[2] = widen_odd<T>(words[2 * n]);
        fragment[3] = widen_odd<T>(words[2 * n + 1]);
    }

    static __device__ __forceinline__ void values(uint32_t (&fragment)[4],
                                                  const uint32_t (&words)[4], int n) {
        fragment[0] = widen_even<T>(words[2 * n]);
        fragment[1] = widen_odd<T>(words[2 * n]);
        fragment[2] = widen_even<T>(words[2 * n + 1]);
        fragment[3] = widen_odd<T>(words[2 * n + 1]);
    }

    static __device__ __forceinline__ int query_channel(int half, int lane) {
        return 4 * (lane % 4) + 2 * half;
    }

    static __device__ __forceinline__ void arrange_queries(uint32_t (&words)[2]) {
        uint32_t even = (words[0] & 0xffff) | words[1] << 16;
        words[1] = words[0] >> 16 | (words[1] & 0xffff0000);
        words[0] = even;
    }

    static __device__ __forceinline__ int out_channel(int half, int lane) {
        return 2 * (lane / 4) + half;
    }
};

}  // namespace decoding
}  // namespace salient
