// The launcher of select: which variant, and the offsets of lists whose lengths come last.
#include "common/block.cuh"
#include "common/compiled.cuh"
#include "select/variants.cuh"

namespace salient {
namespace {

struct Sums {
    uint32_t at[2][MAX_WARPS];
};

// Where each list starts when packed: sums of kept_lens, by one block.
__global__ void __launch_bounds__(1024) add_lens(const int32_t* kept_lens, int32_t* cu_kept,
                                                 int rows) {
    auto& sums = shared_memory<Sums>().at;
    uint32_t before = 0;
    int turn = 0;
    if (threadIdx.x == 0) cu_kept[0] = 0;
    for (int first = 0; first < rows; first += static_cast<int>(blockDim.x), turn ^= 1) {
        int row = first + static_cast<int>(threadIdx.x);
        uint32_t len = static_cast<uint32_t>(row < rows ? kept_lens[row] : 0);
        Scanned scanned = scan_block(len, sums[turn]);
        if (row < rows) cu_kept[row + 1] = static_cast<int32_t>(before + scanned.before + len);
        before += scanned.total;
    }
}

int variant_of(const SalientSelectParams& p) {
    if (p.variant != SALIENT_SELECT_AUTO) return p.variant;
    if (p.max_len <= BLOCK_MAX_LEN) return SALIENT_SELECT_BLOCK;
    bool clusters = p.max_len <= CLUSTER_MAX_LEN && has_clusters();
    return clusters ? SALIENT_SELECT_CLUSTER : SALIENT_SELECT_GRID;
}

int select_rows(const SalientSelectParams& p, SalientStream stream) {
    switch (variant_of(p)) {
        case SALIENT_SELECT_BLOCK:
            return p.max_len <= BLOCK_MAX_LEN ? select_block(p, stream) : INVALID_VALUE;
        case SALIENT_SELECT_CLUSTER:
            if (p.max_len > CLUSTER_MAX_LEN) return INVALID_VALUE;
            return has_clusters() ? select_cluster(p, stream) : NOT_SUPPORTED;
        case SALIENT_SELECT_GRID:
            return select_grid(p, stream);
        default:
            return INVALID_VALUE;
    }
}

}  // namespace
}  // namespace salient

SALIENT_EXPORT int salient_select(const SalientSelectParams* params, SalientStream stream) {
    using namespace salient;
    const SalientSelectParams& p = *params;
    int rows = p.batch * p.heads;
    if (rows > 0) {
        if (int error = select_rows(p, stream)) return error;
    }
    bool last = rows == 0 || p.budget == SALIENT_BUDGET_THRESHOLD;
    if (!p.cu_kept || !last) return SUCCESS;
    return launch<add_lens, sizeof(Sums)>({dim3(1), 1024}, stream, p.kept_lens, p.cu_kept, rows);
}
