// Reporting what only the device can see.
#pragma once

#include "common/memory.cuh"

namespace salient {

// Flags without a row: they say nothing about which.
__device__ __forceinline__ void report(SalientStatus* status, uint32_t flags) {
    atomicOr(&status->flags, flags);
}

// A row at fault. The lowest row stays, so the order of arrival changes nothing.
__device__ __forceinline__ void report_row(SalientStatus* status, uint32_t flags, int row) {
    report(status, flags);
    atomicMin(&status->row, static_cast<uint32_t>(row));
}

// A sequence's tokens.
struct Span {
    int start;
    int len;
};

// Sequence b of a ragged batch; empty, and false, if the offsets cannot be.
__device__ __forceinline__ bool load_span(const int32_t* cu_seqlens, int b, int total, int max_len,
                                          Span& span) {
    int start = cu_seqlens[b], end = cu_seqlens[b + 1];
    bool valid = 0 <= start && start <= end && end <= total && end - start <= max_len;
    span = valid ? Span{start, end - start} : Span{0, 0};
    return valid;
}

}  // namespace salient
