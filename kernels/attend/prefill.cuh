// What a block of prefill attends to, and how keys and values lie in shared memory.
#pragma once

#include "common/launch.cuh"
#include "common/status.cuh"
#include "ptx/async_copy.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace prefilling {

// Key rows from `first` to below `limit`.
struct alignas(8) Seen {
    int first;
    int limit;
};

// What any of several rows sees, and what all do.
struct alignas(16) Together {
    Seen any{INT32_MAX, 0};
    Seen all{0, INT32_MAX};
};

// Where the rows of a block lie.
struct alignas(16) Place {
    Span queries;
    int first;  // row of the sequence
    int head;
};

// The variant of sm_80: a block takes ROWS queries of one head, a warp 16 * M of them; keys go by
// in tiles.
template <int DIM>
struct PrefillTile {
    static constexpr int M = DIM <= 128 ? 2 : 1;
    static constexpr int WARPS = 4;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int WARP_ROWS = 16 * M;
    static constexpr int ROWS = WARPS * WARP_ROWS;
    static constexpr int KEYS = DIM <= 96 ? 64 : DIM <= 128 ? 48 : 32;
    static constexpr int N = KEYS / 8;      // products across keys
    static constexpr int C = DIM / 8;       // and across channels; 16-byte chunks of a row
    static constexpr int WIDTH = C;         // chunks that a row has room for

    struct Shared {
        Vector q[ROWS * C];  // in the end, the output
        Vector k[KEYS * C];
        Vector v[KEYS * C];
        Seen rows[ROWS];
        Together warps[WARPS];
        Place place;
    };

    // The vector that holds chunk `chunk` of a row: any 8 rows at one chunk lie in different banks.
    static __device__ __forceinline__ int at(int row, int chunk) {
        return row * C + (chunk ^ (C % 8 == 0 ? row % 8 : row / 2 % 4));
    }
};

// Sequence b; false if its lengths cannot be.
__device__ __forceinline__ bool load_sequence(const SalientPrefillParams& p, int b, Span& queries,
                                              Span& keys) {
    bool valid = load_span(p.cu_queries, b, p.queries, p.max_queries, queries);
    keys = {p.key_starts[b], p.key_lens[b]};
    return valid && keys.start >= 0 && 0 <= keys.len && keys.len <= p.keys - keys.start;
}

// The key rows, of `len`, that query `row` of a sequence sees; none if it does not exist. What lies
// beyond the keys is reported, and cut off.
__device__ __forceinline__ Seen seen_by(const SalientPrefillParams& p, Span queries, int len,
                                        int row) {
    int token = queries.start + row;
    bool exists = row < queries.len, given = exists && p.sees == SALIENT_SEES_ROWS;
    Seen seen{0, exists ? len : 0};
    if (p.sees == SALIENT_SEES_CAUSAL && exists) {
        seen.limit = max_of(0, len - queries.len + row + 1);
    }
    seen.limit = given ? p.limits[token] : seen.limit;
    seen.first = given && p.firsts != nullptr ? p.firsts[token] : 0;
    bool inside = 0 <= seen.first && seen.first <= len && 0 <= seen.limit && seen.limit <= len;
    if (!inside) report_row(p.status, SALIENT_STATUS_INDEX, token);
    seen.limit = max_of(0, min_of(len, seen.limit));
    seen.first = max_of(0, min_of(len, seen.first));
    if (p.window > 0) seen.first = max_of(seen.first, seen.limit - p.window);
    return seen;
}

// The least and largest over the lanes of a warp.
__device__ __forceinline__ int warp_min(int x) {
    return static_cast<int>(__reduce_min_sync(FULL_WARP, static_cast<uint32_t>(x)));
}
__device__ __forceinline__ int warp_max(int x) {
    return static_cast<int>(__reduce_max_sync(FULL_WARP, static_cast<uint32_t>(x)));
}

// Takes a row in, if it exists.
__device__ __forceinline__ void include(Together& rows, Seen seen, bool exists) {
    bool sees = exists && seen.first < seen.limit;
    rows.any.first = min_of(rows.any.first, sees ? seen.first : INT32_MAX);
    rows.any.limit = max_of(rows.any.limit, sees ? seen.limit : 0);
    rows.all.first = max_of(rows.all.first, exists ? seen.first : 0);
    rows.all.limit = min_of(rows.all.limit, exists ? seen.limit : INT32_MAX);
}

// The rows of all lanes.
__device__ __forceinline__ Together over_warp(const Together& rows) {
    return {{warp_min(rows.any.first), warp_max(rows.any.limit)},
            {warp_max(rows.all.first), warp_min(rows.all.limit)}};
}

// 16-bit elements that are no number or infinite.
template <typename T>
struct Exponent;

template <>
struct Exponent<f16> {
    static constexpr uint32_t BITS = 0x7c007c00, LOWEST = 0x04000400, ONE = 0x3c00;
};

template <>
struct Exponent<bf16> {
    static constexpr uint32_t BITS = 0x7f807f80, LOWEST = 0x00800080, ONE = 0x3f80;
};

// The sign bit of every half of a word that is not finite.
template <typename T>
__device__ __forceinline__ uint32_t not_finite(uint32_t word) {
    return ((word & Exponent<T>::BITS) + Exponent<T>::LOWEST) & 0x80008000u;
}

// A word with zeros in place of what is not finite.
template <typename T>
__device__ __forceinline__ uint32_t finite(uint32_t word) {
    return word & ~((not_finite<T>(word) >> 15) * 0xffffu);
}

// 1 for every half that is infinite with this sign, or no number, or else 0.
template <typename T>
__device__ __forceinline__ uint32_t ones_where_infinite(uint32_t word, uint32_t sign) {
    uint32_t ones = 0, bits = Exponent<T>::BITS & 0xffff;
#pragma unroll
    for (int shift = 0; shift < 32; shift += 16) {
        uint32_t half = word >> shift & 0xffff, magnitude = half & 0x7fff;
        bool hit = magnitude > bits || (magnitude == bits && half >> 15 == sign);
        ones |= (hit ? Exponent<T>::ONE : 0u) << shift;
    }
    return ones;
}

}  // namespace prefilling

// The variant of sm_90a: NOT_SUPPORTED, with nothing launched, where it cannot run.
int launch_prefill_sm90(const SalientPrefillParams& p, SalientStream stream);

}  // namespace salient
