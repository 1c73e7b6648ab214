// Kept rows of several tensors in one launch: into other buffers, or to the front of their own.
//
// Work is cut by the rows of the destination, kept_total of them, whatever the lengths of the
// sequences: each destination row belongs to one thread group per slice of its words, and is
// written at most once, also where lists or offsets are wrong.
#include "common/launch.cuh"
#include "common/status.cuh"
#include "compact/moves.cuh"

namespace salient {
namespace {

constexpr int ROWS = 4;    // that a thread moves at a time
constexpr int PASSES = 4;  // over the words of a row, by a block of the gather

// Bytes of a row that a stream moves in place, at most and at least.
constexpr int WIDE_SLICE = 256;
constexpr int NARROW_SLICE = 64;

// How blocks divide one tensor.
struct Share {
    int64_t words;  // of a row
    int first;      // the first block
    int slices;     // of a row, each slice_words wide
    int word;       // bytes
    int across;     // threads along a row
    int slice_words;
};

struct Shares {
    Share of[SALIENT_MAX_TENSORS];
};

// The sequence that a destination row belongs to. Rows are asked for in ascending order.
struct Cursor {
    const SalientRowsParams& p;
    int sequence = -1;
    int begin = 0, end = 0;  // destination rows of the sequence
    Span source = {0, 0};
    bool valid = false;

    __device__ __forceinline__ explicit Cursor(const SalientRowsParams& p) : p(p) {}

    __device__ __forceinline__ void seek(int row) {
        if (row < end) return;
        // The last sequence that begins at this row or before; empty ones end there, too.
        int low = sequence + 1, high = p.batch;
        while (low < high) {
            int middle = low + (high - low) / 2;
            if (p.cu_kept[middle + 1] <= row) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        sequence = low;
        valid = low < p.batch && enter();
        if (!valid) end = row + 1;
    }

    // The sequence's lengths; false if they cannot be.
    __device__ __forceinline__ bool enter() {
        begin = p.cu_kept[sequence];
        end = p.cu_kept[sequence + 1];
        int kept = p.kept_lens[sequence];
        return load_span(p.cu_seqlens, sequence, p.total, p.total, source) && 0 <= begin &&
               begin <= end && end <= p.kept_total && kept == end - begin &&
               kept <= min_of(source.len, p.capacity);
    }
};

// The source of a destination row, NOWHERE if there is none. `reports` is set for one thread of all
// that ask for this row.
__device__ __forceinline__ int64_t source_of(Cursor& cursor, int row, bool reports) {
    const SalientRowsParams& p = cursor.p;
    bool exists = row < p.kept_total;
    if (exists) cursor.seek(row);
    exists = exists && cursor.valid && row >= cursor.begin;
    int place = row - cursor.begin;
    const int32_t* list = p.kept + static_cast<int64_t>(cursor.sequence) * p.capacity;
    int token = exists ? list[place] : 0;
    bool inside = 0 <= token && token < cursor.source.len;
    if (reports && exists) {
        int before = place > 0 ? list[place - 1] : -1;
        if (!inside) report_row(p.status, SALIENT_STATUS_INDEX, cursor.sequence);
        if (inside && before >= token) {
            report_row(p.status, SALIENT_STATUS_ORDER, cursor.sequence);
        }
    }
    return exists && inside ? static_cast<int64_t>(cursor.source.start) + token : NOWHERE;
}

// Every sequence's lengths, also of those that no row is found in; the blocks share them.
__device__ __forceinline__ void check_lengths(const SalientRowsParams& p) {
    int64_t first = static_cast<int64_t>(blockIdx.x) * thread_count() + thread_id();
    int64_t step = static_cast<int64_t>(gridDim.x) * thread_count();
    for (int64_t b = first; b < p.batch; b += step) {
        Cursor cursor(p);
        cursor.sequence = static_cast<int>(b);
        if (!cursor.enter()) report_row(p.status, SALIENT_STATUS_LENGTHS, cursor.sequence);
    }
}

// The tensor of this block.
__device__ __forceinline__ int tensor_of(const Shares& shares, int tensors) {
    int t = 0;
    while (t + 1 < tensors && static_cast<int>(blockIdx.x) >= shares.of[t + 1].first) t++;
    return t;
}

__global__ void __launch_bounds__(MOVE_THREADS) rows_gather(SalientRowsParams p, Shares shares) {
    check_lengths(p);
    int t = tensor_of(shares, p.tensor_count);
    const SalientRowTensor& tensor = p.tensors[t];
    const Share& share = shares.of[t];
    int block = static_cast<int>(blockIdx.x) - share.first;
    int slice = block % share.slices, tile = block / share.slices;
    int column = thread_id() % share.across;
    int beside = thread_count() / share.across;
    int first = tile * ROWS * beside + thread_id() / share.across;
    bool reports = t == 0 && slice == 0 && column == 0;

    Cursor cursor(p);
    Move moves[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int row = first + r * beside;
        int64_t source = source_of(cursor, row, reports);
        bool moves_row = source != NOWHERE;
        moves[r] = moves_row ? Move{source * tensor.src_stride, row * tensor.dst_stride}
                             : no_move();
    }
    const char* src = static_cast<const char*>(tensor.src);
    char* dst = static_cast<char*>(tensor.dst);
    int64_t start = static_cast<int64_t>(slice) * share.slice_words;
    int64_t end = min_of(start + share.slice_words, share.words);
    with_word(share.word, [&](auto word) {
        using Word = decltype(word);
        for (int64_t at = start; at < end; at += share.across) {
            int64_t mine = at + column;
            int64_t columns[1] = {mine < end ? mine * static_cast<int>(sizeof(Word)) : NOWHERE};
            Word words[ROWS][1];
            read_words(words, src, moves, columns);
            write_words(words, dst, moves, columns);
        }
    });
}

// The steps of one thread, for move_down.
struct RowSteps {
    Cursor cursor;
    int64_t stride;
    int row;     // the thread's first of the next step
    int beside;  // rows that lie side by side in the block
    bool reports;

    __device__ __forceinline__ void operator()(Move (&moves)[ROWS]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t source = source_of(cursor, row, reports);
            // Only offsets that are wrong can lead up.
            if (source != NOWHERE && source < row) {
                if (reports) report_row(cursor.p.status, SALIENT_STATUS_LENGTHS, cursor.sequence);
                source = NOWHERE;
            }
            bool moves_row = source != NOWHERE && source != row;
            moves[r] = moves_row ? Move{source * stride, row * stride} : no_move();
            row += beside;
        }
    }
};

__global__ void __launch_bounds__(MOST_THREADS) rows_down(SalientRowsParams p, Shares shares) {
    check_lengths(p);
    int t = tensor_of(shares, p.tensor_count);
    const SalientRowTensor& tensor = p.tensors[t];
    const Share& share = shares.of[t];
    int slice = static_cast<int>(blockIdx.x) - share.first;
    int column = thread_id() % share.across;
    int beside = thread_count() / share.across;
    int64_t mine = static_cast<int64_t>(slice) * share.across + column;
    int64_t columns[1] = {mine < share.words ? mine * share.word : NOWHERE};
    bool reports = t == 0 && slice == 0 && column == 0;
    RowSteps steps = {Cursor(p), tensor.src_stride,
                      thread_id() / share.across, beside, reports};
    // In place the source is written, too.
    char* data = const_cast<char*>(static_cast<const char*>(tensor.src));
    int count = ceil_div(p.kept_total, ROWS * beside);
    with_word(share.word, [&](auto word) {
        move_down<decltype(word), ROWS, 1>(data, columns, count, steps);
    });
}

uint64_t bits_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

int launch_rows(const SalientRowsParams& p, SalientStream stream) {
    if (p.batch == 0 || p.tensor_count == 0) return SUCCESS;
    Shares shares = {};
    int64_t blocks = 0;
    for (int t = 0; t < p.tensor_count; t++) {
        const SalientRowTensor& tensor = p.tensors[t];
        Share& share = shares.of[t];
        share.word = word_bytes(bits_of(tensor.src) | bits_of(tensor.dst) | tensor.src_stride |
                                tensor.dst_stride | tensor.row_bytes);
        share.words = tensor.row_bytes / share.word;
        share.across = threads_across(share.words, 32);
        share.slice_words = PASSES * share.across;
        int64_t slices = ceil_div(share.words, static_cast<int64_t>(share.slice_words));
        int64_t tiles = ceil_div(p.kept_total, ROWS * MOVE_THREADS / share.across);
        share.first = static_cast<int>(blocks);
        share.slices = static_cast<int>(slices);
        blocks += slices * max_of(tiles, int64_t(1));
        if (slices > INT32_MAX || blocks > INT32_MAX) return INVALID_VALUE;
    }
    return launch<rows_gather>({dim3(blocks), MOVE_THREADS}, stream, p, shares);
}

int launch_rows_in_place(const SalientRowsParams& p, SalientStream stream) {
    if (p.batch == 0 || p.tensor_count == 0) return SUCCESS;
    Shares shares = {};
    int64_t streams = 0;
    int width = 1;
    for (int bytes = WIDE_SLICE; bytes >= NARROW_SLICE; bytes /= 2) {
        streams = 0;
        for (int t = 0; t < p.tensor_count; t++) {
            const SalientRowTensor& tensor = p.tensors[t];
            Share& share = shares.of[t];
            share.word = word_bytes(bits_of(tensor.src) | tensor.src_stride | tensor.row_bytes);
            share.words = tensor.row_bytes / share.word;
            share.across = threads_across(share.words, min_of(bytes / share.word, 32));
            share.first = static_cast<int>(streams);
            width = max_of(width, share.across);
            streams += ceil_div(share.words, static_cast<int64_t>(share.across));
            if (streams > INT32_MAX) return INVALID_VALUE;
        }
        if (streams >= ENOUGH_STREAMS) break;
    }
    uint32_t threads = stream_threads(streams, width, p.kept_total / ROWS);
    return launch<rows_down>({dim3(streams), threads}, stream, p, shares);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_rows(const SalientRowsParams* params, SalientStream stream) {
    return launch_rows(*params, stream);
}

SALIENT_EXPORT int salient_rows_in_place(const SalientRowsParams* params, SalientStream stream) {
    return launch_rows_in_place(*params, stream);
}
