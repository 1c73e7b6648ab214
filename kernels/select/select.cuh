// Exact selection: radix select of the k-th key, then compaction in index order.
//
// A row is cut into parts, one per block of its group. A part that fits is read once and stays in
// registers; a longer one is read again for every pass. Three histograms, of 11, 11 and 10 bits,
// find the lowest winning key; the passes end early where a bin ends exactly at the budget. A lane
// holds every 32nd key of its warp's stretch, so ballots tell each winner its place. No place
// depends on the order of atomics: the result is the same bits every time.
#pragma once

#include "select/group.cuh"
#include "select/row.cuh"

namespace salient {

constexpr int KEYS = 16;  // per thread

constexpr int ROUNDS = 3;

__device__ __forceinline__ int digit_shift(int round) { return round == 0 ? 21 : round == 1 ? 10 : 0; }

// The digit of a key in this round.
__device__ __forceinline__ uint32_t digit_of(uint32_t key, int round) {
    return round < 2 ? key >> digit_shift(round) & (BINS - 1) : key & 1023;
}

// Whether a key's digits of earlier rounds are those found.
__device__ __forceinline__ bool matches(uint32_t key, uint32_t found, int round) {
    return round == 0 || key >> digit_shift(round - 1) == found;
}

// This block's part of a row.
struct Part {
    int first;
    int end;
};

template <int THREADS>
struct Tile {
    static constexpr int SIZE = THREADS * KEYS;

    uint32_t keys[KEYS];
    int from = -1;  // the first token of the tile
    int first;      // the token of keys[0]; that of keys[j] is 32 j further
    int valid;      // keys that are there
    bool saw_nan = false;

    // Reads the scores from token `begin` on, unless they are here.
    __device__ void fill(const SalientSelectParams& p, const Row& row, int begin, int end) {
        if (from == begin) return;
        from = begin;
        first = begin + static_cast<int>(warp_id() * 32 * KEYS + lane_id());
        valid = max_of(ceil_div(end - first, 32), 0);
        const float* scores = row.in(p.scores, p.score_stride) + first;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            keys[j] = __float_as_uint(j < valid ? scores[32 * j] : 0.0f);
        }
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            int i = first + 32 * j;
            saw_nan |= j < valid && is_nan(keys[j]);
            bool edge = i < row.sinks || i >= row.recent_from;
            bool masked = p.mask && j < valid && p.mask[row.start + i] != 0;
            keys[j] = edge || masked ? PROTECTED_KEY : key_of(keys[j]);
        }
    }

    // Adds the digits of the keys that match to a histogram, equal neighbours at once: ties would
    // otherwise queue at one bin.
    __device__ void count(uint32_t* bins, uint32_t found, int round) const {
        uint32_t digit = 0, run = 0;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            if (j >= valid || !matches(keys[j], found, round)) continue;
            uint32_t next = digit_of(keys[j], round);
            if (next != digit && run > 0) {
                atomicAdd(bins + digit, run);
                run = 0;
            }
            digit = next;
            run++;
        }
        if (run > 0) atomicAdd(bins + digit, run);
    }

    // Winners above the cut in the lower half of the word, ties in the upper.
    __device__ uint32_t winners(Cut cut) const {
        uint32_t count = 0;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            if (j >= valid) continue;
            count += keys[j] > cut.lowest ? 1u : keys[j] == cut.lowest ? 1u << 16 : 0u;
        }
        return count;
    }
};

// Finds the bin in which the need-th key from the top lies. Ends with a barrier.
template <typename Shared>
__device__ void find_bin(Shared& shared, const uint32_t* bins, uint32_t need) {
    constexpr int SEGMENTS = BINS / 32;
    for (int segment = static_cast<int>(warp_id()); segment < SEGMENTS;
         segment += static_cast<int>(blockDim.x / 32)) {
        uint32_t sum = __reduce_add_sync(FULL_WARP, bins[segment * 32 + lane_id()]);
        if (lane_id() == 0) shared.segments[segment] = sum;
    }
    __syncthreads();
    if (warp_id() == 0) {
        uint32_t low = shared.segments[lane_id()];
        uint32_t high = shared.segments[lane_id() + 32];
        uint32_t in_high = __reduce_add_sync(FULL_WARP, high);
        bool is_high = need <= in_high;
        uint32_t above = is_high ? 0 : in_high;
        uint32_t segment = is_high ? 32 : 0;
        // Twice the same: the last lane from which up there are enough.
        uint32_t count = is_high ? high : low;
        for (int level = 0; level < 2; level++) {
            uint32_t upward = suffix_sum(count);
            uint32_t enough = __ballot_sync(FULL_WARP, above + upward >= need);
            int lane = 31 - __clz(static_cast<int>(enough));
            above += __shfl_sync(FULL_WARP, upward - count, lane);
            segment += static_cast<uint32_t>(lane);
            if (level == 0) {
                segment *= 32;
                count = bins[segment + lane_id()];
            } else if (lane_id() == static_cast<uint32_t>(lane)) {
                shared.bin = segment;
                shared.above = above;
                shared.inside = count;
            }
        }
    }
    __syncthreads();
}

// Counts in the bins of this thread that are above one, for the blocks' shares of the winners.
__device__ __forceinline__ uint32_t count_above(const uint32_t* bins, uint32_t bin) {
    uint32_t sum = 0;
    for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x) {
        sum += i > bin ? bins[i] : 0;
    }
    return sum;
}

__device__ __forceinline__ void clear_bins(uint32_t* bins) {
    for (uint32_t i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
}

// The cut, and this block's share of it: winners above it of this thread, and ties of the block.
struct Found {
    Cut cut;
    uint32_t above;
    uint32_t ties;
};

// Finds the cut that leaves row.count of the keys, 0 < row.count < row.len. bins[0] is clear.
template <typename Group, int THREADS>
__device__ Found find_cut(Group& group, typename Group::Shared& shared, Tile<THREADS>& tile,
                          const SalientSelectParams& p, const Row& row, Part part) {
    uint32_t need = static_cast<uint32_t>(row.count), found = 0, above = 0, ties = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t* mine = shared.bins[round % 2];
        for (int from = part.first; from < part.end; from += Tile<THREADS>::SIZE) {
            tile.fill(p, row, from, part.end);
            tile.count(mine, found, round);
        }
        const uint32_t* bins = group.combine(round);
        clear_bins(shared.bins[(round + 1) % 2]);
        find_bin(shared, bins, need);
        uint32_t bin = shared.bin, inside = shared.inside;
        need -= shared.above;
        bool crowded = round == 0 && bin == BINS - 1 && inside > need;
        if (crowded && group.rank() == 0 && threadIdx.x == 0) {
            report_row(p.status, SALIENT_STATUS_PROTECTED, row.index);
        }
        found = round == 2 ? found << 10 | bin : found << 11 | bin;
        if (Group::GROUPED) {
            above += count_above(mine, bin);
            ties = mine[bin];
        }
        uint32_t lowest = found << digit_shift(round);
        if (inside == need && lowest > 0) {
            // The bin is kept whole: all of it lies above the key below its first.
            if (threadIdx.x == 0) above += ties;
            return {{lowest - 1, 0}, above, 0};
        }
    }
    return {{found, need}, above, ties};
}

// Writes the winners of a part, from place `above + min(ties, cut.ties)` on.
template <int THREADS>
__device__ void emit(const SalientSelectParams& p, const Row& row, Tile<THREADS>& tile, Part part,
                     Cut cut, uint32_t above, uint32_t ties, uint32_t (&sums)[2][MAX_WARPS]) {
    int32_t* list = row.list(p.kept, p.capacity);
    int turn = 0;
    for (int from = part.first; from < part.end; from += Tile<THREADS>::SIZE, turn ^= 1) {
        tile.fill(p, row, from, part.end);
        uint32_t sum = __reduce_add_sync(FULL_WARP, tile.winners(cut));
        Scanned warps = scan_warps(sum, sums[turn]);
        uint32_t a = above + (warps.before & 0xffff), t = ties + (warps.before >> 16);
        bool any_ties = sum >> 16 > 0;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            int i = tile.first + 32 * j;
            uint32_t key = tile.keys[j];
            bool inside = j < tile.valid, wins = inside && key > cut.lowest;
            bool tied = inside && key == cut.lowest;
            uint32_t winners = __ballot_sync(FULL_WARP, wins);
            uint32_t tied_lanes = any_ties ? __ballot_sync(FULL_WARP, tied) : 0;
            uint32_t tied_before = t + __popc(tied_lanes & lanes_below());
            bool kept = wins || (tied && tied_before < cut.ties);
            uint32_t place = a + __popc(winners & lanes_below()) + min_of(tied_before, cut.ties);
            if (kept) list[place] = i;
            if (p.kept_positions) {
                int position = kept ? p.positions[row.start + i] : 0;
                if (kept) row.list(p.kept_positions, p.capacity)[place] = position;
            }
            if (p.inverse) {
                int entry = kept ? static_cast<int>(place) : -1;
                if (inside) row.in(p.inverse, p.total)[i] = entry;
            }
            a += __popc(winners);
            t += __popc(tied_lanes);
        }
        above += warps.total & 0xffff;
        ties += warps.total >> 16;
    }
}

// Where each list starts when packed, by the first block. Not for thresholds, whose lengths are
// known only when all rows are done.
template <int THREADS>
__device__ void write_offsets(const SalientSelectParams& p, uint32_t (&sums)[2][MAX_WARPS]) {
    int rows = p.batch * p.heads, turn = 0;
    uint32_t before = 0;
    if (threadIdx.x == 0) p.cu_kept[0] = 0;
    for (int first = 0; first < rows; first += THREADS, turn ^= 1) {
        int row = first + static_cast<int>(threadIdx.x);
        uint32_t len = row < rows ? static_cast<uint32_t>(planned_len(p, row)) : 0;
        Scanned scanned = scan_block(len, sums[turn]);
        if (row < rows) p.cu_kept[row + 1] = static_cast<int32_t>(before + scanned.before + len);
        before += scanned.total;
    }
    __syncthreads();
}

// Winners above a threshold's cut in this thread's share of a part.
template <int THREADS>
__device__ uint32_t count_winners(const SalientSelectParams& p, const Row& row,
                                  Tile<THREADS>& tile, Part part, Cut cut) {
    uint32_t above = 0;
    for (int from = part.first; from < part.end; from += Tile<THREADS>::SIZE) {
        tile.fill(p, row, from, part.end);
        above += tile.winners(cut) & 0xffff;
    }
    return above;
}

// How many tokens come before this block's part, and how many there are in all.
struct Places {
    uint32_t above;
    uint32_t ties;
    uint32_t total;
};

template <typename Group>
__device__ Places share_places(Group& group, typename Group::Shared& shared, Found found) {
    uint32_t above = scan_block(found.above, shared.sums[0]).total;
    if (threadIdx.x == 0) {
        shared.counts[0] = above;
        shared.counts[1] = found.ties;
    }
    __syncthreads();
    group.publish();
    Scanned winners = group.scan(0), ties = group.scan(1);
    return {winners.before, ties.before, winners.total + min_of(ties.total, found.cut.ties)};
}

template <typename Group, int THREADS>
__device__ void select_row(Group& group, typename Group::Shared& shared,
                           const SalientSelectParams& p, int index) {
    bool leader = group.rank() == 0 && threadIdx.x == 0;
    Row row = load_row(p, index, leader);
    int share = ceil_div(ceil_div(row.len, group.size()), 32) * 32;
    Part part = {min_of(group.rank() * share, row.len), min_of((group.rank() + 1) * share, row.len)};
    bool is_threshold = p.budget == SALIENT_BUDGET_THRESHOLD, overfull = false;

    clear_bins(shared.bins[0]);
    __syncthreads();
    Tile<THREADS> tile;
    Found found = {KEEP_NONE, 0, 0};
    Places places = {0, 0, 0};
    if (is_threshold) {
        found.cut = {key_of(__float_as_uint(p.threshold)) - 1, 0};
        found.above = count_winners(p, row, tile, part, found.cut);
        places = share_places(group, shared, found);
        overfull = places.total > static_cast<uint32_t>(p.capacity);
    } else if (row.count > p.capacity) {
        overfull = true;
    } else if (row.count == row.len) {
        found.cut = KEEP_ALL;
        places = {static_cast<uint32_t>(part.first), 0, static_cast<uint32_t>(row.len)};
    } else if (row.count > 0) {
        found = find_cut(group, shared, tile, p, row, part);
        if (Group::GROUPED) places = share_places(group, shared, found);
        places.total = static_cast<uint32_t>(row.count);
    }
    if (overfull) {
        if (leader) report_row(p.status, SALIENT_STATUS_CAPACITY, index);
        found.cut = KEEP_NONE;
        places = {0, 0, 0};
    }

    __syncthreads();
    emit(p, row, tile, part, found.cut, places.above, places.ties, shared.sums);
    int first_empty = static_cast<int>(places.total) + group.rank() * THREADS;
    for (int i = first_empty + static_cast<int>(threadIdx.x); i < p.capacity;
         i += group.size() * THREADS) {
        row.list(p.kept, p.capacity)[i] = -1;
        if (p.kept_positions) row.list(p.kept_positions, p.capacity)[i] = -1;
    }
    if (leader) p.kept_lens[index] = static_cast<int32_t>(places.total);
    if (__syncthreads_or(tile.saw_nan) && threadIdx.x == 0) report(p.status, SALIENT_STATUS_NAN);
}

template <typename Group, int THREADS>
__global__ void __launch_bounds__(THREADS) select_rows(SalientSelectParams p, int group_size) {
    auto& shared = shared_memory<typename Group::Shared>();
    Group group(p, shared, group_size);
    for (int row = group.index(); row < p.batch * p.heads; row += group.groups()) {
        select_row<Group, THREADS>(group, shared, p, row);
        group.finish();
    }
    bool has_offsets = p.cu_kept && p.budget != SALIENT_BUDGET_THRESHOLD;
    if (has_offsets && blockIdx.x == 0) write_offsets<THREADS>(p, shared.sums);
}

}  // namespace salient
