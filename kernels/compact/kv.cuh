// The lists and the caches of a KV compaction, as a block sees them.
#pragma once

#include "common/status.cuh"
#include "compact/moves.cuh"

namespace salient {

// How the launch cuts the columns of a list up: the words of all lanes that follow it, lane by
// lane.
struct KvShare {
    int64_t list_stride;  // bytes from a list's lanes to the next list's
    int64_t lane_stride;
    int word;        // bytes, as far as the layout tells; the tensor's address may ask for less
    int lane_words;  // of a token in a lane
    int columns;     // of all lanes of a list
    int across;      // threads along a token
    int slices;      // stable only: blocks per list and tensor
};

struct KvPlan {
    SalientKvParams p;
    KvShare shares[2];  // of keys, of values
    int tiles;          // hole-fill only: tiles of moves per list
    int groups;         // hole-fill only: groups of tensors
    int group_tensors;
    int blocks;         // per list: one that reports, and those that move
};

// A list and the sequence that it belongs to.
struct KvList {
    const int32_t* entries;
    const int32_t* pages;  // null if the cache is contiguous
    int row;
    int sequence;
    int head;
    int start;  // first token, if contiguous
    int len;    // tokens of the sequence
    int count;  // entries; 0 if a length cannot be
    bool valid;
};

__device__ __forceinline__ int pages_of(const SalientKvParams& p, int tokens) {
    return tokens / p.page_size + (tokens % p.page_size != 0);
}

__device__ __forceinline__ KvList load_list(const SalientKvParams& p, int row) {
    KvList list;
    list.row = row;
    list.sequence = row / p.list_heads;
    list.head = row % p.list_heads;
    list.entries = p.kept + static_cast<int64_t>(row) * p.capacity;
    list.pages = nullptr;
    list.start = 0;
    list.len = p.lens[list.sequence];
    list.count = p.kept_lens[row];
    list.valid = 0 <= list.count && list.count <= min_of(list.len, p.capacity);
    if (p.page_table != nullptr) {
        list.pages = p.page_table + static_cast<int64_t>(list.sequence) * p.max_pages;
        list.valid = list.valid && pages_of(p, list.len) <= p.max_pages;
    } else {
        list.start = p.span_starts[list.sequence];
        list.valid = list.valid && list.start >= 0 && list.len <= p.tokens - list.start;
    }
    if (!list.valid) list.count = 0;
    return list;
}

// Where a token is: a page and a slot in it. The page is -1 if there is none.
struct Place {
    int page;
    int slot;
};

// The place of a token of the sequence.
__device__ __forceinline__ Place place_of(const SalientKvParams& p, const KvList& list, bool exists,
                                          int token) {
    if (list.pages == nullptr) return {exists ? 0 : -1, list.start + token};
    int index = token / p.page_size;
    int page = exists ? list.pages[index] : -1;
    return {0 <= page && page < p.pages ? page : -1, token - index * p.page_size};
}

__device__ __forceinline__ int64_t offset_of(const SalientKvLayout& layout, Place place) {
    return place.page * layout.page_stride + place.slot * layout.token_stride;
}

// The byte offset of a column of the list's tokens, in words of `bytes`; NOWHERE beyond the last.
__device__ __forceinline__ int64_t column_of(const KvShare& share, int head, int bytes, int column) {
    int finer = share.word / bytes;
    if (column >= share.columns * finer) return NOWHERE;
    int lane = column / (share.lane_words * finer);
    return head * share.list_stride + lane * share.lane_stride +
           (column - lane * share.lane_words * finer) * bytes;
}

// The widest word that a tensor allows.
__device__ __forceinline__ int word_of(const KvShare& share, const void* tensor) {
    return word_bytes(reinterpret_cast<uintptr_t>(tensor) | share.word);
}

// The first place of the list whose entry is no less than `token`.
__device__ __forceinline__ int lower_bound(const int32_t* entries, int count, int token) {
    int low = 0, high = count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (entries[middle] < token) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Hole number `hole` among the first `staying` entries: list[j] - j tokens before list[j] are not
// in the list, which grows with j. Distinct holes have distinct places below hole + staying + 1,
// whatever the list holds: a search for a later hole goes right wherever one for an earlier does.
__device__ __forceinline__ int place_of_hole(const int32_t* entries, int staying, int hole) {
    int low = 0, high = staying;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (entries[middle] - middle <= hole) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return hole + low;
}

// A token of the list and the place that it comes to.
struct Arrival {
    bool moves;
    Place from;
    Place to;
};

// What comes to place `to` of a stable list. Equal is there already; a token from below is out of
// order, and stays.
__device__ __forceinline__ Arrival stable_arrival(const SalientKvParams& p, const KvList& list,
                                                  int to, int token) {
    bool moves = to < list.count && to < token && token < list.len;
    Arrival arrival = {moves, place_of(p, list, moves, token), place_of(p, list, moves, to)};
    arrival.moves = arrival.from.page >= 0 && arrival.to.page >= 0;
    return arrival;
}

// What comes to hole number `hole`, at `to`, when survivors fill holes: those at or beyond the new
// length, list.count.
__device__ __forceinline__ Arrival hole_arrival(const SalientKvParams& p, const KvList& list,
                                                int staying, int hole, int& to, int& token) {
    bool exists = hole < list.count - staying;
    token = exists ? list.entries[staying + hole] : -1;
    bool moves = list.count <= token && token < list.len;
    to = moves ? place_of_hole(list.entries, staying, hole) : 0;
    Arrival arrival = {moves, place_of(p, list, moves, token), place_of(p, list, moves, to)};
    arrival.moves = arrival.from.page >= 0 && arrival.to.page >= 0;
    return arrival;
}

// How many entries of the list stay where they are when holes are filled.
__device__ __forceinline__ int count_staying(const KvList& list) {
    return lower_bound(list.entries, list.count, list.count);
}

// One block per list says what is wrong with it, and writes which token is where.
__device__ __forceinline__ void report_list(const SalientKvParams& p, const KvList& list) {
    int thread = thread_id();
    bool stable = p.mode == SALIENT_KV_STABLE;
    if (!list.valid && thread == 0) report_row(p.status, SALIENT_STATUS_LENGTHS, list.row);
    int32_t* order = p.order;
    if (order != nullptr) order += static_cast<int64_t>(list.row) * p.capacity;
    for (int i = thread; i < p.capacity; i += thread_count()) {
        bool exists = i < list.count;
        int token = exists ? list.entries[i] : -1;
        int before = exists && i > 0 ? list.entries[i - 1] : -1;
        bool inside = 0 <= token && token < list.len;
        bool paged = exists && inside && list.pages != nullptr;
        uint32_t flags = 0;
        if (exists && !inside) flags |= SALIENT_STATUS_INDEX;
        if (inside && token <= before) flags |= SALIENT_STATUS_ORDER;
        if (paged && place_of(p, list, true, token).page < 0) flags |= SALIENT_STATUS_PAGE;
        if (paged && place_of(p, list, true, i).page < 0) flags |= SALIENT_STATUS_PAGE;
        if (flags != 0) report_row(p.status, flags, list.row);
        // A place that nothing comes to keeps its token.
        int there = exists ? i : -1;
        if (stable && stable_arrival(p, list, i, token).moves) there = token;
        if (order != nullptr) order[i] = there;
    }
    if (stable || order == nullptr) return;
    __syncthreads();
    int staying = count_staying(list);
    for (int hole = thread; hole < list.count - staying; hole += thread_count()) {
        int to, token;
        bool comes = hole_arrival(p, list, staying, hole, to, token).moves;
        if (comes) order[to] = token;
    }
}

// The pages of a sequence that no kept token lies in, behind those of the sequences before. Where a
// length cannot be, nothing is freed.
__device__ __forceinline__ int freed_pages(const SalientKvParams& p, int sequence, int& first) {
    first = 0;
    int longest = 0;
    for (int head = 0; head < p.list_heads; head++) {
        KvList list = load_list(p, sequence * p.list_heads + head);
        if (!list.valid) return 0;
        longest = max_of(longest, list.count);
    }
    first = pages_of(p, longest);
    return pages_of(p, p.lens[sequence]) - first;
}

struct KvShared {
    // Hole-fill: the moves of the tile, for keys and for values.
    Move moves[2][MOVE_THREADS];
    // Freed pages of all sequences before.
    int freed;
};

// One block per sequence lists its freed pages.
__device__ __forceinline__ void write_freed(const SalientKvParams& p, int sequence,
                                            KvShared& shared) {
    int thread = thread_id(), before = 0, first;
    for (int b = thread; b < sequence; b += thread_count()) before += freed_pages(p, b, first);
    if (thread == 0) shared.freed = 0;
    __syncthreads();
    if (before > 0) atomicAdd(&shared.freed, before);
    __syncthreads();
    before = shared.freed;
    int count = freed_pages(p, sequence, first);
    const int32_t* pages = p.page_table + static_cast<int64_t>(sequence) * p.max_pages + first;
    for (int i = thread; i < count; i += thread_count()) {
        int page = pages[i];
        if (page < 0 || page >= p.pages) {
            report_row(p.status, SALIENT_STATUS_PAGE, sequence * p.list_heads);
        }
        p.freed[before + i] = page;
    }
    if (sequence + 1 == p.batch && thread == 0) *p.freed_count = before + count;
}

}  // namespace salient
