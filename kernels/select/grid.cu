// Selection with groups of resident blocks that meet in the workspace: rows of any length, read
// once where a group has a block for every 16384 scores.
#include "select/select.cuh"
#include "select/variants.cuh"

namespace salient {

int select_grid(const SalientSelectParams& p, SalientStream stream) {
    constexpr int THREADS = 1024;
    constexpr size_t SHARED = sizeof(Grid::Shared);
    int resident = resident_blocks<select_rows<Grid, THREADS>, SHARED>(THREADS);
    if (resident < 1) return NOT_SUPPORTED;
    int wanted = max_of(ceil_div(p.max_len, BLOCK_MAX_LEN), 1);
    int size = min_of(wanted, min_of(resident, MAX_GROUP_SIZE));
    int64_t room = p.workspace_bytes / SALIENT_SELECT_GROUP_BYTES;
    if (room < 1) return INVALID_VALUE;
    int groups = min_of(min_of(p.batch * p.heads, resident / size),
                        static_cast<int>(min_of(room, int64_t(SALIENT_SELECT_MAX_GROUPS))));
    size_t used = static_cast<size_t>(groups) * SALIENT_SELECT_GROUP_BYTES;
    if (int error = clear(p.workspace, used, stream)) return error;
    Launch shape = {dim3(groups * size), THREADS, 1, true};
    return launch<select_rows<Grid, THREADS>, SHARED>(shape, stream, p, size);
}

}  // namespace salient
