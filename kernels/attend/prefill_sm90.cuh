// Who does what in a block of prefill for sm_90a: its sizes, its shared memory, and the warps that
// bring keys and values.
#pragma once

#include "attend/prefill.cuh"
#include "ptx/warpgroup.cuh"

namespace salient {
namespace prefilling {

// One query tile of one head.
struct alignas(64) Work {
    Place place;
    Span keys;       // the sequence's
    Together block;  // what the tile's rows see
    int last;        // not 0: nothing, everything is done
    int unused[3];   // so that what is loaded as one has been written
};

// A block takes ROWS queries of one head, each of its GROUPS warpgroups 64 of them and each warp
// 16; keys go by in tiles. The warps of one more warpgroup serve them.
template <int DIM>
struct Sm90Tile {
    static constexpr int GROUPS = 2;
    static constexpr int THREADS = 128 * (GROUPS + 1);
    static constexpr int M = 1;
    static constexpr int WARP_ROWS = 16;
    static constexpr int GROUP_ROWS = 64;
    static constexpr int ROWS = GROUPS * GROUP_ROWS;
    static constexpr int KEYS = DIM <= 128 ? 128 : 80;
    static constexpr int STAGES = 2;
    static constexpr int N = KEYS / 8;
    static constexpr int C = DIM / 8;
    // Rows of queries and keys lie in panels of 64 channels, 128 bytes a row, as a copy brings
    // them.
    static constexpr int PANELS = ceil_div(DIM, 64);
    static constexpr int WIDTH = 8 * PANELS;
    static constexpr uint32_t Q_PANEL = 128 * ROWS, K_PANEL = 128 * KEYS;  // bytes
    // Those of values in panels that divide all channels, for a product takes whole ones.
    static constexpr Swizzle V_SWIZZLE = DIM % 64 == 0 ? Swizzle::BYTES_128 : Swizzle::BYTES_64;
    static constexpr uint32_t V_ROW = static_cast<uint32_t>(V_SWIZZLE), V_PANEL = V_ROW * KEYS;
    static constexpr int V_PANELS = 2 * DIM / V_ROW;
    static constexpr int PRODUCERS = 1, CLEANERS = 3;                    // warps
    // Registers of a thread, for all of them to have 64 Ki.
    static constexpr int FEW = 40, MANY = 232;

    struct Shared {
        Vector q[ROWS * WIDTH];  // in the end, the output
        Vector k[STAGES][KEYS * WIDTH];
        Vector v[STAGES][KEYS * C];
        Mbarrier q_full, q_free;
        Mbarrier k_full[STAGES], k_free[STAGES];
        Mbarrier v_full[STAGES], v_free[STAGES], v_raw[STAGES];
        // Of two query tiles by turns, so that the next is known before its queries have room.
        Work work[2];
        Seen groups[2][GROUPS];  // what any row of a group sees
        Seen rows[2][ROWS];
        // Whether each cleaner found such values in this work so far; the last place is nobody's.
        uint32_t infinite[CLEANERS + 1];
    };

    static __device__ __forceinline__ int at(int row, int chunk) {
        return (chunk / 8 * ROWS + row) * 8 + (chunk ^ row) % 8;
    }
};

// Parameters and the maps of their tensors.
struct Sm90Params {
    SalientPrefillParams p;
    TensorMap q, k, v;
};

// Of the stage that key tile number `slot` of the block lies in.
template <typename Tile>
__device__ __forceinline__ int stage_of(uint32_t slot) {
    return static_cast<int>(slot % Tile::STAGES);
}
template <typename Tile>
__device__ __forceinline__ uint32_t phase_of(uint32_t slot) {
    return slot / Tile::STAGES % 2;
}

// Numbers of named barriers, of some of which there is one per group.
enum : uint32_t { CLEAN = 1, TURN = 2 };

// By one lane of every warp, once all have done what they announce.
__device__ __forceinline__ void warp_arrive(Mbarrier* barrier) {
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier);
}

template <int DIM>
__device__ __forceinline__ void init_barriers(typename Sm90Tile<DIM>::Shared& shared) {
    using Tile = Sm90Tile<DIM>;
    constexpr uint32_t WARPS = 4 * Tile::GROUPS;
    if (threadIdx.x <= Tile::CLEANERS) shared.infinite[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
        mbarrier_init(&shared.q_full, 1);
        mbarrier_init(&shared.q_free, WARPS + Tile::CLEANERS);
        for (int stage = 0; stage < Tile::STAGES; stage++) {
            mbarrier_init(shared.k_full + stage, 1);
            mbarrier_init(shared.k_free + stage, WARPS);
            mbarrier_init(shared.v_full + stage, 1);
            mbarrier_init(shared.v_free + stage, WARPS);
            mbarrier_init(shared.v_raw + stage, 1);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
}

// The key tiles that a query tile sees, and whether some row of it does not see one whole.
template <typename Tile>
__device__ __forceinline__ int first_tile(Seen any) {
    return any.first / Tile::KEYS * Tile::KEYS;
}
template <typename Tile>
__device__ __forceinline__ bool is_edge(Seen all, int tile) {
    return tile < all.first || all.limit < tile + Tile::KEYS;
}

// The warp that finds work and has queries, keys and values copied.
template <typename T, int DIM>
struct Producer {
    using Tile = Sm90Tile<DIM>;

    const Sm90Params& a;
    typename Tile::Shared& shared;
    int lane = static_cast<int>(lane_id());
    uint32_t slot = 0;   // key tiles so far
    uint32_t given = 0;  // query tiles so far

    // Longest first: causal rows see more the later they come, so the last tile of every sequence
    // goes first; and every other round the other way about, so that no block has the longest of
    // each. The heads of a group lie side by side and find keys and values in L2.
    __device__ void run() {
        const SalientPrefillParams& p = a.p;
        for (uint32_t round = 0;; round++) {
            int blocks = static_cast<int>(gridDim.x), heads = p.q_heads * p.batch;
            int tiles = ceil_div(p.max_queries, Tile::ROWS);
            // Registers are few: all this is had again in every round.
            reconsider(blocks);
            reconsider(heads);
            reconsider(tiles);
            uint32_t grid = static_cast<uint32_t>(blocks);
            uint32_t id = round * grid + (round % 2 == 0 ? blockIdx.x : grid - 1 - blockIdx.x);
            if (id >= static_cast<uint32_t>(heads * tiles)) break;
            int rank = static_cast<int>(id) / heads, rest = static_cast<int>(id) % heads;
            Work work{};
            int sequence = rest / p.q_heads;
            work.place.head = rest % p.q_heads;
            work.place.first = (tiles - 1 - rank) * Tile::ROWS;
            bool valid = load_sequence(p, sequence, work.place.queries, work.keys);
            if (!valid && lane == 0) report_row(p.status, SALIENT_STATUS_LENGTHS, sequence);
            if (valid && work.place.first < work.place.queries.len) fetch(work);
        }
        Work none{};
        none.last = 1;
        if (lane == 0) shared.work[given % 2] = none;
        wait_for_queries();
        warp_arrive(&shared.q_full);
    }

    __device__ void fetch(Work& work) {
        constexpr int EACH = Tile::GROUP_ROWS / 32;
        const SalientPrefillParams& p = a.p;
        uint32_t half = given % 2;
        Together& block = work.block;
        // One row after the other: registers are few.
#pragma unroll 1
        for (int g = 0; g < Tile::GROUPS; g++) {
            Together group;
#pragma unroll 1
            for (int i = 0; i < EACH; i++) {
                int of_block = Tile::GROUP_ROWS * g + 32 * i + lane;
                int row = work.place.first + of_block;
                bool exists = row < work.place.queries.len;
                Seen seen = seen_by(p, work.place.queries, work.keys.len, row);
                shared.rows[half][of_block] = seen;
                include(group, seen, exists);
                include(block, seen, exists);
            }
            Seen any = over_warp(group).any;
            if (lane == 0) shared.groups[half][g] = any;
        }
        block = over_warp(block);
        if (lane == 0) shared.work[half] = work;
        int head = work.place.head / (p.q_heads / p.kv_heads), first = first_tile<Tile>(block.any);
        bool sees = first < block.any.limit;
        // Before there is room for the queries, the first keys are on their way.
        if (sees) {
            fetch_keys(head, work.keys.start + first);
        }
        wait_for_queries();
        __syncwarp();
        if (lane == 0) {
            uint64_t briefly = cache_policy<Keep::BRIEFLY>();
            mbarrier_arrive_expect(&shared.q_full, sees ? Tile::PANELS * Tile::Q_PANEL : 0);
            for (int i = 0; i < (sees ? Tile::PANELS : 0); i++) {
                copy_tensor(shared.q + i * 8 * Tile::ROWS, a.q,
                            {64 * i, work.place.head, work.place.queries.start + work.place.first},
                            &shared.q_full, briefly);
            }
        }
        given++;

        for (int tile = first; sees && tile < block.any.limit; tile += Tile::KEYS) {
            int row = work.keys.start + tile;
            if (tile > first) fetch_keys(head, row);
            Mbarrier* full = is_edge<Tile>(block.all, tile) ? shared.v_raw : shared.v_full;
            fetch_tile<Tile::V_PANELS, Tile::V_PANEL>(shared.v, full, shared.v_free, a.v, head,
                                                      row);
            slot++;
        }
    }

    // Until everybody is done with the queries before.
    __device__ void wait_for_queries() { mbarrier_wait(&shared.q_free, given % 2 ^ 1); }

    __device__ void fetch_keys(int head, int row) {
        fetch_tile<Tile::PANELS, Tile::K_PANEL>(shared.k, shared.k_full, shared.k_free, a.k, head,
                                                row);
    }

    // Starts copying a tile of keys or values, PANELS of PANEL bytes, to its stage, once that is
    // free. Rows beyond the sequence come along.
    template <int PANELS, uint32_t PANEL>
    __device__ void fetch_tile(Vector (&to)[Tile::STAGES][PANELS * PANEL / 16], Mbarrier* full,
                               Mbarrier* free, const TensorMap& map, int head, int row) {
        constexpr int CHANNELS = PANEL / Tile::KEYS / sizeof(T);
        int stage = stage_of<Tile>(slot);
        mbarrier_wait(free + stage, phase_of<Tile>(slot) ^ 1);
        if (lane == 0) {
            uint64_t keep = cache_policy<Keep::LONG>();
            mbarrier_arrive_expect(full + stage, PANELS * PANEL);
            for (int i = 0; i < PANELS; i++) {
                copy_tensor(to[stage] + i * PANEL / 16, map, {CHANNELS * i, head, row},
                            full + stage, keep);
            }
        }
        __syncwarp();
    }
};

// The warps that clean values, for a weight of 0 makes NaN of one that is not finite. Tiles that
// some row does not see whole come to them first. They write zeros over such values, and over all
// that belongs to no key that any row sees; and they tell if they found any in the rest.
template <typename T, int DIM>
__device__ void clean(typename Sm90Tile<DIM>::Shared& shared) {
    using Tile = Sm90Tile<DIM>;
    int lane = static_cast<int>(lane_id());
    int cleaner = static_cast<int>(warp_id()) - Tile::PRODUCERS;
    uint32_t slot = 0, cleaned = 0;  // a bit per stage: the parity of its cleanings so far
    for (uint32_t taken = 0;; taken++) {
        mbarrier_wait(&shared.q_full, taken % 2);
        Work work = shared.work[taken % 2];
        if (work.last) break;
        Seen any = work.block.any;
        uint32_t found = 0;
        for (int tile = first_tile<Tile>(any); tile < any.limit; tile += Tile::KEYS, slot++) {
            if (!is_edge<Tile>(work.block.all, tile)) continue;
            int stage = stage_of<Tile>(slot);
            mbarrier_wait(shared.v_raw + stage, cleaned >> stage & 1);
            cleaned ^= 1u << stage;
            for (int i = 32 * cleaner; i < Tile::KEYS * Tile::C; i += 32 * Tile::CLEANERS) {
                int key = tile + (i + lane) / static_cast<int>(Tile::V_ROW / 16) % Tile::KEYS;
                bool inside = any.first <= key && key < any.limit;
                Vector* place = shared.v[stage] + i + lane;
                Vector vector = *place;
                uint32_t bad = 0;
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    bad |= not_finite<T>(vector.words[w]);
                    vector.words[w] = inside ? finite<T>(vector.words[w]) : 0;
                }
                found |= inside ? bad : 0;
                if (!inside || bad != 0) *place = vector;
            }
            found = static_cast<uint32_t>(__any_sync(FULL_WARP, found != 0));
            if (lane == 0) shared.infinite[cleaner] = found;
            async_proxy_fence();
            named_barrier_sync(CLEAN, 32 * Tile::CLEANERS);
            if (cleaner == 0 && lane == 0) mbarrier_arrive(shared.v_full + stage);
        }
        warp_arrive(&shared.q_free);
    }
}

}  // namespace prefilling
}  // namespace salient
