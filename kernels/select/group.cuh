// The blocks that share a row, and how they add up what each has counted.
//
// A block alone; a cluster, through distributed shared memory; or blocks of a cooperative launch,
// through the workspace. Integer sums are the same in any order.
#pragma once

#include "common/block.cuh"
#include "ptx/cluster.cuh"

namespace salient {

constexpr int BINS = 2048;

constexpr int MAX_GROUP_SIZE = 256;  // blocks that share a row

template <bool GROUPED>
struct SelectShared {
    uint32_t bins[2][BINS];             // this block's histogram, in alternate rounds
    uint32_t totals[GROUPED ? BINS : 1];  // the group's
    uint32_t segments[BINS / 32];
    uint32_t sums[2][MAX_WARPS];
    uint32_t counts[2];                 // this block's winners above the cut, and ties
    uint32_t bin, above, inside;        // where the cut lies
};

struct Single {
    static constexpr bool GROUPED = false;
    using Shared = SelectShared<GROUPED>;

    __device__ Single(const SalientSelectParams&, Shared& shared, int) : shared(shared) {}

    __device__ int index() const { return static_cast<int>(blockIdx.x); }
    __device__ int groups() const { return static_cast<int>(gridDim.x); }
    __device__ int rank() const { return 0; }
    __device__ int size() const { return 1; }

    // The group's histogram of this round, once every block has made its own.
    __device__ const uint32_t* combine(int round) {
        __syncthreads();
        return shared.bins[round % 2];
    }

    __device__ Scanned scan(int i) { return {0, shared.counts[i]}; }
    __device__ void publish() {}
    __device__ void finish() { __syncthreads(); }

    Shared& shared;
};

struct Cluster {
    static constexpr bool GROUPED = true;
    using Shared = SelectShared<GROUPED>;

    __device__ Cluster(const SalientSelectParams&, Shared& shared, int) : shared(shared) {}

    __device__ int index() const { return static_cast<int>(blockIdx.x / cluster_size()); }
    __device__ int groups() const { return static_cast<int>(gridDim.x / cluster_size()); }
    __device__ int rank() const { return static_cast<int>(cluster_rank()); }
    __device__ int size() const { return static_cast<int>(cluster_size()); }

    __device__ const uint32_t* combine(int round) {
        cluster_sync();
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            uint32_t total = 0;
            for (uint32_t other = 0; other < cluster_size(); other++) {
                total += cluster_load(&shared.bins[round % 2][bin], other);
            }
            shared.totals[bin] = total;
        }
        __syncthreads();
        return shared.totals;
    }

    // What the blocks of lower rank have in counts[i], and what all have. A warp reads it.
    __device__ Scanned scan(int i) {
        bool present = lane_id() < cluster_size();
        uint32_t count = present ? cluster_load(&shared.counts[i], lane_id()) : 0;
        uint32_t before = __reduce_add_sync(FULL_WARP, lane_id() < cluster_rank() ? count : 0);
        return {before, __reduce_add_sync(FULL_WARP, count)};
    }

    __device__ void publish() { cluster_sync(); }

    // No block may end while another reads its shared memory.
    __device__ void finish() { cluster_sync(); }

    Shared& shared;
};

// A group's part of the workspace.
struct GridWorkspace {
    uint32_t bins[3][BINS];  // zero when a round begins to add to them
    uint32_t counts[2][MAX_GROUP_SIZE];
    uint32_t arrived;
};
static_assert(sizeof(GridWorkspace) <= SALIENT_SELECT_GROUP_BYTES, "the workspace is too small");

struct Grid {
    static constexpr bool GROUPED = true;
    using Shared = SelectShared<GROUPED>;

    __device__ Grid(const SalientSelectParams& p, Shared& shared, int size)
        : shared(shared), blocks(size) {
        auto* base = static_cast<unsigned char*>(p.workspace);
        int64_t offset = static_cast<int64_t>(index()) * SALIENT_SELECT_GROUP_BYTES;
        workspace = reinterpret_cast<GridWorkspace*>(base + offset);
    }

    __device__ int index() const { return static_cast<int>(blockIdx.x) / blocks; }
    __device__ int groups() const { return static_cast<int>(gridDim.x) / blocks; }
    __device__ int rank() const { return static_cast<int>(blockIdx.x) % blocks; }
    __device__ int size() const { return blocks; }

    // Three histograms take turns: what this round adds to was cleared two barriers ago.
    __device__ const uint32_t* combine(int round) {
        __syncthreads();
        uint32_t* bins = workspace->bins[turn];
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            uint32_t count = shared.bins[round % 2][bin];
            if (count > 0) atomicAdd(bins + bin, count);
        }
        meet();
        uint32_t* next_but_one = workspace->bins[(turn + 2) % 3];
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            shared.totals[bin] = load_fresh(bins + bin);
            if (rank() == 0) next_but_one[bin] = 0;
        }
        turn = (turn + 1) % 3;
        __syncthreads();
        return shared.totals;
    }

    __device__ Scanned scan(int i) {
        uint32_t before = 0, total = 0;
        for (int first = 0; first < blocks; first += 32) {
            int other = first + static_cast<int>(lane_id());
            uint32_t count = other < blocks ? load_fresh(&workspace->counts[i][other]) : 0;
            before += __reduce_add_sync(FULL_WARP, other < rank() ? count : 0);
            total += __reduce_add_sync(FULL_WARP, count);
        }
        return {before, total};
    }

    __device__ void publish() {
        if (threadIdx.x < 2) {
            workspace->counts[threadIdx.x][rank()] = shared.counts[threadIdx.x];
        }
        meet();
    }

    // The counts of this row have been read before those of the next are written.
    __device__ void finish() { meet(); }

    // A barrier of the group. Its blocks are resident, so that each is waited for by one thread.
    __device__ void meet() {
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t size = static_cast<uint32_t>(blocks);
            uint32_t all = (atomicAdd(&workspace->arrived, 1u) / size + 1) * size;
            while (load_acquire(&workspace->arrived) < all) __nanosleep(20);
        }
        __syncthreads();
    }

    Shared& shared;
    GridWorkspace* workspace;
    int blocks;
    int turn = 0;
};

}  // namespace salient
