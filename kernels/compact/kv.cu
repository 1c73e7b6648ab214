// Kept keys and values of all layers to the front of their sequence, in place, in one launch.
//
// Stable: a block moves one slice of the columns of one list in one tensor, all its tokens in
// order. Hole-fill: a block moves a tile of survivors in a group of tensors. Of every list the
// first block moves nothing: it reports, and writes what was asked for beside the move.
#include "common/launch.cuh"
#include "compact/kv.cuh"

namespace salient {
namespace {

constexpr int COLUMNS = 4;  // words of a token that a thread moves at a time

// Bytes of a token side by side in a request; a stream moves COLUMNS times as many, the narrow ones
// where wide ones are too few.
constexpr int WIDE_ROW = 64;
constexpr int NARROW_ROW = 32;

// Hole-fill: below this many blocks, groups of tensors get smaller.
constexpr int64_t ENOUGH_BLOCKS = 1024;

// A block's list and which of the list's blocks it is.
struct KvBlock {
    KvList list;
    int part;  // 0 reports
};

__device__ __forceinline__ KvBlock kv_block(const KvPlan& plan) {
    int block = static_cast<int>(blockIdx.x);
    return {load_list(plan.p, block / plan.blocks), block % plan.blocks};
}

__device__ __forceinline__ void report_block(const KvPlan& plan, const KvList& list) {
    report_list(plan.p, list);
    if (plan.p.freed != nullptr && list.head == 0) {
        write_freed(plan.p, list.sequence, shared_memory<KvShared>());
    }
}

__device__ __forceinline__ Move move_of(const SalientKvLayout& layout, const Arrival& arrival) {
    if (!arrival.moves) return no_move();
    return {offset_of(layout, arrival.from), offset_of(layout, arrival.to)};
}

// The steps of one thread down its list, for move_down. The entry of the next step is on its way
// while this step moves.
struct KvSteps {
    const SalientKvParams& p;
    const KvList& list;
    const SalientKvLayout& layout;
    int beside;  // tokens that lie side by side in the block
    int place;   // the thread's, of the next step
    int entry;   // of that place

    __device__ __forceinline__ void operator()(Move (&moves)[1]) {
        int to = place, token = entry;
        place += beside;
        entry = place < list.count ? list.entries[place] : -1;
        moves[0] = move_of(layout, stable_arrival(p, list, to, token));
    }
};

// A thread's columns from the `first` word on, `across` apart.
__device__ __forceinline__ void columns_from(const KvShare& share, const KvList& list, int bytes,
                                             int first, int across, int64_t (&columns)[COLUMNS]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        int column = first + c * across + thread_id() % across;
        columns[c] = column_of(share, list.head, bytes, column);
    }
}

__global__ void __launch_bounds__(MOST_THREADS) kv_stable(KvPlan plan) {
    const SalientKvParams& p = plan.p;
    KvBlock block = kv_block(plan);
    const KvList& list = block.list;
    if (block.part == 0) return report_block(plan, list);
    if (list.count == 0) return;
    // All slices of keys, then all slices of values.
    int part = block.part - 1, keys = ceil_div(p.tensor_count, 2) * plan.shares[0].slices;
    int kind = part < keys ? 0 : 1;
    if (kind == 1) part -= keys;
    const KvShare& share = plan.shares[kind];
    int slice = part % share.slices, tensor = part / share.slices * 2 + kind;
    char* data = static_cast<char*>(p.tensors[tensor]);
    int bytes = word_of(share, data), finer = share.word / bytes;
    int across = share.across * finer, beside = thread_count() / across;
    int64_t columns[COLUMNS];
    columns_from(share, list, bytes, slice * COLUMNS * across, across, columns);
    int place = thread_id() / across;
    KvSteps steps = {p, list, p.layouts[kind], beside, place,
                     place < list.count ? list.entries[place] : -1};
    with_word(bytes, [&](auto word) {
        int count = ceil_div(list.count, beside);
        move_down<decltype(word), 1, COLUMNS>(data, columns, count, steps);
    });
}

// Fills the tile's moves; gives how many there are.
__device__ __forceinline__ int find_holes(const SalientKvParams& p, const KvList& list, int tile,
                                          KvShared& shared) {
    int staying = count_staying(list);
    int first = tile * MOVE_THREADS, leaving = list.count - staying;
    if (first >= leaving) return 0;
    int thread = thread_id(), to, token;
    Arrival arrival = hole_arrival(p, list, staying, first + thread, to, token);
    for (int kind = 0; kind < 2; kind++) {
        shared.moves[kind][thread] = move_of(p.layouts[kind], arrival);
    }
    return min_of(leaving - first, MOVE_THREADS);
}

__global__ void __launch_bounds__(MOVE_THREADS) kv_hole_fill(KvPlan plan) {
    const SalientKvParams& p = plan.p;
    KvBlock block = kv_block(plan);
    const KvList& list = block.list;
    if (block.part == 0) return report_block(plan, list);
    if (list.count == 0) return;
    auto& shared = shared_memory<KvShared>();
    int group = (block.part - 1) % plan.groups, tile = (block.part - 1) / plan.groups;
    int count = find_holes(p, list, tile, shared);
    if (count == 0) return;
    __syncthreads();
    int first = group * plan.group_tensors;
    int last = min_of(first + plan.group_tensors, p.tensor_count);
    for (int tensor = first; tensor < last; tensor++) {
        int kind = tensor % 2;
        const KvShare& share = plan.shares[kind];
        char* data = static_cast<char*>(p.tensors[tensor]);
        int bytes = word_of(share, data), finer = share.word / bytes;
        int across = share.across * finer, beside = MOVE_THREADS / across;
        int mine = thread_id() / across;
        with_word(bytes, [&](auto word) {
            for (int at = 0; at < share.columns * finer; at += COLUMNS * across) {
                int64_t columns[COLUMNS];
                columns_from(share, list, bytes, at, across, columns);
                for (int row = 0; row < count; row += beside) {
                    Move moves[1] = {no_move()};
                    if (row + mine < count) moves[0] = shared.moves[kind][row + mine];
                    decltype(word) held[1][COLUMNS];
                    read_words(held, data, moves, columns);
                    write_words(held, data, moves, columns);
                }
            }
        });
    }
}

// The share of one layout, but for its slices. `row_bytes` bytes of a token lie side by side in a
// request.
KvShare share_of(const SalientKvLayout& layout, int list_heads, int row_bytes) {
    KvShare share = {};
    int lanes = layout.lanes / list_heads;
    int64_t lane_bytes = layout.lane_bytes;
    share.lane_stride = layout.lane_stride;
    share.list_stride = lanes * layout.lane_stride;
    // Lanes end to end are one.
    if (lanes > 1 && layout.lane_stride == lane_bytes) {
        lane_bytes *= lanes;
        lanes = 1;
    }
    uint64_t strides = layout.token_stride | layout.page_stride;
    if (lanes > 1) strides |= share.lane_stride;
    if (list_heads > 1) strides |= share.list_stride;
    share.word = word_bytes(strides | lane_bytes);
    share.lane_words = static_cast<int>(lane_bytes / share.word);
    share.columns = lanes * share.lane_words;
    share.across = threads_across(share.lane_words, min_of(row_bytes / share.word, 32));
    return share;
}

int launch_stable(KvPlan& plan, SalientStream stream) {
    const SalientKvParams& p = plan.p;
    int64_t lists = static_cast<int64_t>(p.batch) * p.list_heads, streams = 0;
    int keys = ceil_div(p.tensor_count, 2), values = p.tensor_count / 2, width = 1;
    for (int row_bytes = WIDE_ROW; row_bytes >= NARROW_ROW; row_bytes /= 2) {
        for (int kind = 0; kind < 2; kind++) {
            KvShare share = share_of(p.layouts[kind], p.list_heads, row_bytes);
            share.slices = ceil_div(share.columns, COLUMNS * share.across);
            width = max_of(width, share.across);
            plan.shares[kind] = share;
        }
        streams = int64_t(keys) * plan.shares[0].slices + int64_t(values) * plan.shares[1].slices;
        if (lists * streams >= ENOUGH_STREAMS) break;
    }
    int64_t blocks = lists * (1 + streams);
    if (blocks > INT32_MAX) return INVALID_VALUE;
    plan.blocks = static_cast<int>(1 + streams);
    uint32_t threads = stream_threads(lists * streams, width, p.capacity);
    return launch<kv_stable, sizeof(KvShared)>({dim3(blocks), threads}, stream, plan);
}

int launch_hole_fill(KvPlan& plan, SalientStream stream) {
    const SalientKvParams& p = plan.p;
    int64_t lists = static_cast<int64_t>(p.batch) * p.list_heads;
    for (int kind = 0; kind < 2; kind++) {
        plan.shares[kind] = share_of(p.layouts[kind], p.list_heads, WIDE_ROW);
    }
    plan.tiles = static_cast<int>(ceil_div(int64_t(p.capacity), int64_t(MOVE_THREADS)));
    // Tensors share the search for holes, as long as there are blocks enough.
    plan.group_tensors = max_of(p.tensor_count, 2);
    auto blocks = [&] { return int64_t(plan.tiles) * ceil_div(p.tensor_count, plan.group_tensors); };
    while (plan.group_tensors > 2 && lists * blocks() < ENOUGH_BLOCKS) {
        plan.group_tensors = max_of(plan.group_tensors / 2, 2);
    }
    plan.groups = max_of(ceil_div(p.tensor_count, plan.group_tensors), 1);
    int64_t grid = lists * (1 + blocks());
    if (grid > INT32_MAX) return INVALID_VALUE;
    plan.blocks = static_cast<int>(1 + blocks());
    return launch<kv_hole_fill, sizeof(KvShared)>({dim3(grid), MOVE_THREADS}, stream, plan);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_kv(const SalientKvParams* params, SalientStream stream) {
    for (const SalientKvLayout& layout : params->layouts) {
        // Columns are counted in 32 bits, and a few beyond the last.
        if (int64_t(layout.lanes) * layout.lane_bytes > INT32_MAX / 2) return INVALID_VALUE;
    }
    if (params->batch == 0) {
        if (params->freed_count == nullptr) return SUCCESS;
        return clear(params->freed_count, sizeof(int32_t), stream);
    }
    KvPlan plan = {};
    plan.p = *params;
    return params->mode == SALIENT_KV_STABLE ? launch_stable(plan, stream)
                                             : launch_hole_fill(plan, stream);
}
