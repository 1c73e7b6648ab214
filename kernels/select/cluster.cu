// Selection with a cluster per row: rows of up to 131072 scores, read once. For sm_90.
#include "select/select.cuh"
#include "select/variants.cuh"

namespace salient {

int select_cluster(const SalientSelectParams& p, SalientStream stream) {
    uint32_t size = 2;
    while (static_cast<int>(size) * BLOCK_MAX_LEN < p.max_len) size *= 2;
    constexpr int THREADS = 1024;
    constexpr size_t SHARED = sizeof(Cluster::Shared);
    Launch shape = {dim3(p.batch * p.heads * size), THREADS, size};
    int blocks = static_cast<int>(size);
    return launch<select_rows<Cluster, THREADS>, SHARED>(shape, stream, p, blocks);
}

}  // namespace salient
