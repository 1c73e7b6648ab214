// The checker of device-side lists: reads each entry once and writes nothing but the status.
#include "common/launch.cuh"
#include "common/status.cuh"

namespace salient {
namespace {

constexpr int THREADS = 256;
constexpr int ENTRIES = 8;  // of a thread
constexpr int64_t TILE = THREADS * ENTRIES;

__device__ __forceinline__ int64_t entry_of(int tile, int entry) {
    return tile * TILE + entry * THREADS + threadIdx.x;
}

// Entries of one list. The lane below has the entry before, but for a warp's first lane.
__device__ __forceinline__ void check_entries(const SalientValidateParams& p, int row, int tile) {
    Span span;
    load_span(p.cu_seqlens, row / p.heads, p.total, p.total, span);
    int count = p.kept_lens[row];
    const int32_t* list = p.kept + static_cast<int64_t>(row) * p.capacity;
    uint32_t flags = 0;
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
        int64_t i = entry_of(tile, e);
        bool exists = i < p.capacity, first = lane_id() == 0 && i > 0;
        int token = exists ? list[i] : -1;
        int below = __shfl_up_sync(FULL_WARP, token, 1);
        int before = exists && first ? list[i - 1] : first ? -1 : below;
        if (!exists) continue;
        if (i >= count) {
            if (token != -1) flags |= SALIENT_STATUS_LENGTHS;
        } else if (token < 0 || token >= span.len) {
            flags |= SALIENT_STATUS_INDEX;
        } else if (i > 0 && token <= before) {
            flags |= SALIENT_STATUS_ORDER;
        }
    }
    if (flags != 0) report_row(p.status, flags, row);
}

// The length of one list, and the offsets around it.
__device__ __forceinline__ void check_lengths(const SalientValidateParams& p, int row) {
    int b = row / p.heads;
    Span span;
    bool valid = load_span(p.cu_seqlens, b, p.total, p.total, span);
    int count = p.kept_lens[row];
    valid = valid && (b > 0 || span.start == 0);
    valid = valid && 0 <= count && count <= min_of(span.len, p.capacity);
    if (p.cu_kept != nullptr) {
        int start = p.cu_kept[row], end = p.cu_kept[row + 1];
        valid = valid && (row > 0 ? start >= 0 : start == 0);
        valid = valid && end >= start && end - start == count;
    }
    if (p.page_table != nullptr) {
        valid = valid && ceil_div(int64_t(span.len), int64_t(p.page_size)) <= p.max_pages;
    }
    if (!valid) report_row(p.status, SALIENT_STATUS_LENGTHS, row);
}

// The pages that hold a sequence's tokens.
__device__ __forceinline__ void check_pages(const SalientValidateParams& p, int b, int tile) {
    Span span;
    load_span(p.cu_seqlens, b, p.total, p.total, span);
    int64_t used = ceil_div(int64_t(span.len), int64_t(p.page_size));
    int64_t end = min_of(used, int64_t(p.max_pages));
    const int32_t* pages = p.page_table + static_cast<int64_t>(b) * p.max_pages;
    bool outside = false;
#pragma unroll
    for (int e = 0; e < ENTRIES; e++) {
        int64_t i = entry_of(tile, e);
        int page = i < end ? pages[i] : 0;
        outside = outside || (i < end && (page < 0 || page >= p.pages));
    }
    if (outside) report_row(p.status, SALIENT_STATUS_PAGE, b * p.heads);
}

// The first blocks check lists, `tiles` for each; the others check pages.
__global__ void __launch_bounds__(THREADS) validate(SalientValidateParams p, int tiles,
                                                    int page_tiles) {
    int block = static_cast<int>(blockIdx.x), lists = p.batch * p.heads * tiles;
    if (block >= lists) {
        block -= lists;
        return check_pages(p, block / page_tiles, block % page_tiles);
    }
    int row = block / tiles, tile = block % tiles;
    if (tile == 0 && threadIdx.x == 0) check_lengths(p, row);
    check_entries(p, row, tile);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_validate(const SalientValidateParams* params, SalientStream stream) {
    const SalientValidateParams& p = *params;
    int64_t tiles = max_of(ceil_div(int64_t(p.capacity), TILE), int64_t(1));
    int64_t page_tiles = p.page_table == nullptr ? 0 : ceil_div(int64_t(p.max_pages), TILE);
    int64_t blocks = p.batch * (p.heads * tiles + page_tiles);
    if (blocks == 0) return SUCCESS;
    if (blocks > INT32_MAX) return INVALID_VALUE;
    return launch<validate>({dim3(blocks), THREADS}, stream, p, static_cast<int>(tiles),
                            static_cast<int>(page_tiles));
}
