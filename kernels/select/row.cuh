// What a selection is asked for: the budget and protection of one row, and the order of its scores.
#pragma once

#include "common/status.cuh"

namespace salient {

// Scores as integers of the same order. Nothing that is a number reaches the key of the protected.
constexpr uint32_t NAN_KEY = 0;
constexpr uint32_t PROTECTED_KEY = 0xffffffffu;

__device__ __forceinline__ bool is_nan(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

// -0 and +0 are one.
__device__ __forceinline__ uint32_t key_of(uint32_t bits) {
    if (is_nan(bits)) return NAN_KEY;
    if (bits == 0x80000000u) bits = 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The smallest whole number that is no less than ratio * len, where a product that is whole but for
// rounding counts as whole: the arithmetic of the host, operation by operation.
__device__ __forceinline__ int ratio_count(double ratio, int len) {
    double share = __dmul_rn(ratio, static_cast<double>(len));
    double rounding = fmax(__dmul_rn(4 * 2.220446049250313e-16, share), 1e-9);
    double count = ceil(__dsub_rn(share, rounding));
    return min_of(static_cast<int>(fmax(count, 0.0)), len);
}

// Who wins: keys above `lowest`, and the first `ties` of those equal to it.
struct Cut {
    uint32_t lowest;
    uint32_t ties;
};

constexpr Cut KEEP_ALL = {0, 0x7fffffffu};
constexpr Cut KEEP_NONE = {0xffffffffu, 0};

// Addresses are made where they are used: pointers of every buffer would fill the registers.
struct Row {
    int index;
    int head;
    int start;  // of the sequence
    int len;
    int sinks;
    int recent_from;  // tokens from here on are protected
    int count;        // tokens to keep; means nothing where the budget is a threshold

    // Token 0 of the row in a [heads, stride] tensor.
    template <typename T>
    __device__ __forceinline__ T* in(T* tensor, int64_t stride) const {
        return tensor + head * stride + start;
    }

    // The row's list in [rows, capacity].
    __device__ __forceinline__ int32_t* list(int32_t* lists, int capacity) const {
        return lists + static_cast<int64_t>(index) * capacity;
    }
};

// The budget of a row of `len` tokens.
__device__ __forceinline__ int budget_of(const SalientSelectParams& p, int sequence, int len) {
    if (p.budget == SALIENT_BUDGET_RATIO) return ratio_count(p.ratio, len);
    int count = p.counts ? p.counts[sequence] : p.count;
    return min_of(max_of(count, 0), len);
}

// Tokens that a row will have, unless the budget is a threshold: all of its budget or none.
__device__ __forceinline__ int planned_len(const SalientSelectParams& p, int row) {
    Span span;
    load_span(p.cu_seqlens, row / p.heads, p.total, p.max_len, span);
    int count = budget_of(p, row / p.heads, span.len);
    return count <= p.capacity ? count : 0;
}

__device__ __forceinline__ Row load_row(const SalientSelectParams& p, int index, bool reports) {
    int sequence = index / p.heads, head = index % p.heads;
    Span span;
    bool valid = load_span(p.cu_seqlens, sequence, p.total, p.max_len, span);
    if (!valid && reports) report_row(p.status, SALIENT_STATUS_LENGTHS, index);
    int sinks = p.sinks ? p.sinks[sequence] : p.sinks_all;
    int recent = p.recent ? p.recent[sequence] : p.recent_all;
    int recent_from = span.len - min_of(max_of(recent, 0), span.len);
    return {index, head, span.start, span.len, sinks, recent_from, budget_of(p, sequence, span.len)};
}

}  // namespace salient
