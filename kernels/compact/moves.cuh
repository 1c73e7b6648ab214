// Rows of bytes from one place to another: what the kernels of compact share.
//
// A row is a number of words, the widest that every address allows. `across` threads lie side by
// side along the words of a row, so that their accesses meet in sectors; the other threads of the
// block take other rows.
#pragma once

#include "common/memory.cuh"

namespace salient {

// Threads of a block. A stream of steps cannot be cut up, so launches of few streams have blocks of
// more threads; and narrower slices of rows, if there are fewer than ENOUGH_STREAMS even then.
constexpr int MOVE_THREADS = 128;
constexpr int MOST_THREADS = 512;
constexpr int64_t ENOUGH_STREAMS = 64;

// The threads of a block among this many streams, each `width` threads wide and `rows` rows long.
inline int stream_threads(int64_t streams, int64_t width, int64_t rows) {
    int threads = MOVE_THREADS;
    while (threads < MOST_THREADS && streams * threads < ENOUGH_STREAMS * MOST_THREADS &&
           threads < width * rows) {
        threads *= 2;
    }
    return threads;
}

__device__ __forceinline__ int thread_id() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int thread_count() { return static_cast<int>(blockDim.x); }

// Bytes of the widest word that divides all whose bits are or-ed together here.
__host__ __device__ inline int word_bytes(uint64_t bits) {
    bits |= sizeof(Vector);
    return static_cast<int>(bits & (~bits + 1));
}

// Calls f with a word of this many bytes.
template <typename F>
__device__ __forceinline__ void with_word(int bytes, F f) {
    switch (bytes) {
        case 16: return f(Vector());
        case 8: return f(uint64_t());
        case 4: return f(uint32_t());
        case 2: return f(uint16_t());
        default: return f(uint8_t());
    }
}

// The threads that lie along a row of `words` words: no more than `most`, a power of two.
__host__ __device__ inline int threads_across(int64_t words, int most) {
    int across = most;
    while (across > 1 && across > words) across /= 2;
    return across;
}

// A row's bytes from here to there, counted from where the tensors begin.
struct alignas(16) Move {
    int64_t from;  // NOWHERE: nothing moves
    int64_t to;
};

constexpr int64_t NOWHERE = -1;

__device__ __forceinline__ Move no_move() { return {NOWHERE, NOWHERE}; }

// Columns are byte offsets in a row; NOWHERE where a thread has none.
template <typename Word, int ROWS, int COLUMNS>
__device__ __forceinline__ void read_words(Word (&words)[ROWS][COLUMNS], const char* src,
                                           const Move (&moves)[ROWS],
                                           const int64_t (&columns)[COLUMNS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            bool active = moves[r].from != NOWHERE && columns[c] != NOWHERE;
            auto* from = reinterpret_cast<const Word*>(src + moves[r].from + columns[c]);
            words[r][c] = active ? *from : Word();
        }
    }
}

template <typename Word, int ROWS, int COLUMNS>
__device__ __forceinline__ void write_words(const Word (&words)[ROWS][COLUMNS], char* dst,
                                            const Move (&moves)[ROWS],
                                            const int64_t (&columns)[COLUMNS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            bool active = moves[r].from != NOWHERE && columns[c] != NOWHERE;
            auto* to = reinterpret_cast<Word*>(dst + moves[r].to + columns[c]);
            if (active) *to = words[r][c];
        }
    }
}

// Moves rows of one tensor down, in place, in a stream of steps. next(moves) gives the thread's
// rows of the following step, no_move() behind the last. Over all steps and rows of the block, in
// order, destinations ascend, and no source lies below its own destination. So what a step writes
// is never a source of a later one, and reads may run ahead of writes; but it may be a source of
// the same step in another thread, which the barrier sees read.
template <typename Word, int ROWS, int COLUMNS, typename Next>
__device__ __forceinline__ void move_down(char* tensor, const int64_t (&columns)[COLUMNS],
                                          int steps, Next& next) {
    Move now[ROWS], then[ROWS];
    Word held[ROWS][COLUMNS], ahead[ROWS][COLUMNS];
    next(now);
    read_words(held, tensor, now, columns);
    for (int step = 0; step < steps; step++) {
        next(then);
        read_words(ahead, tensor, then, columns);
        __syncthreads();
        write_words(held, tensor, now, columns);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            now[r] = then[r];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) held[r][c] = ahead[r][c];
        }
    }
}

}  // namespace salient
