// A warp of decode: it takes every WARPS-th step of STEP entries of its block, gathers their rows
// into slots of its own, STAGES - 1 of them on their way, and keeps a running softmax (Milakov and
// Gimelshein, arXiv 1805.02867) with the output in registers.
//
// Weights go into their product as three 16-bit terms that add up to all 24 bits of them, so that
// nothing is rounded but sums: matrix operations are cheap beside the reads.
#pragma once

#include "attend/decode_shape.cuh"
#include "ptx/async_copy.cuh"

namespace salient {
namespace decoding {

// A token on its way from the list to an address.
struct Token {
    int index;
    int page;  // 0 in a contiguous cache
    bool visible;
};

template <typename T, typename KV, int DIM, int TILES, int STAGES>
struct Warp {
    using Shape = decoding::Shape<DIM, TILES, sizeof(KV), STAGES>;
    using Fragments = decoding::Fragments<T, KV>;
    static constexpr int COUNT = Fragments::COUNT;
    // Where registers are short addresses are made anew for every step, and where there is most to
    // hold, values are widened for one tile of queries at a time.
    static constexpr bool SHORT = DIM > 128 ? TILES > 1 : COUNT > 1;
    static constexpr int TOGETHER = COUNT > 1 && DIM > 128 ? 1 : TILES;

    const SalientDecodeParams& p;
    typename Shape::Shared& shared;
    typename Shape::Slot* slots;
    const List& list;
    int end;  // of the block's entries
    int sequence;
    int head;
    int lane;

    uint32_t q[TILES][DIM / 16][2];
    float out[TILES][DIM / 16][4] = {};
    float max[TILES][2];
    float sum[TILES][2] = {};
    uint32_t found = 0;     // faults, and SEEN if a key was
    uint64_t visible = 0;   // 16 bits for each step on its way, the last lowest

    __device__ Warp(const SalientDecodeParams& p, typename Shape::Shared& shared, const List& list,
                    int end, int sequence, int head)
        : p(p),
          shared(shared),
          slots(shared.slots[warp_id()]),
          list(list),
          end(end),
          sequence(sequence),
          head(head),
          lane(static_cast<int>(lane_id())) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            int member = 8 * tile + lane / 4;
            const T* row = static_cast<const T*>(p.q) + sequence * p.q_stride +
                           (static_cast<int64_t>(head) * p.group + member) * p.q_head_stride;
#pragma unroll
            for (int i = 0; i < DIM / 16; i++) {
                uint32_t words[2];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int channel = 16 * i + Fragments::query_channel(half, lane);
                    bool exists = member < p.group && channel < p.dim;
                    auto* from = reinterpret_cast<const uint32_t*>(row + channel);
                    words[half] = exists ? *from : 0;
                }
                Fragments::arrange_queries(words);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if constexpr (Shape::SHARED_QUERIES) {
                        uint32_t* to = &shared.queries[member][8 * i + 4 * half + lane % 4];
                        if (warp_id() == 0) *to = words[half];
                    } else {
                        q[tile][i][half] = words[half];
                    }
                }
            }
            max[tile][0] = max[tile][1] = -INFINITY;
        }
        if (Shape::SHARED_QUERIES) __syncthreads();
    }

    // The fragment of 16 channels of the queries.
    __device__ __forceinline__ void load_queries(uint32_t (&words)[2], int tile, int i) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if constexpr (Shape::SHARED_QUERIES) {
                const uint32_t* row = shared.queries[8 * tile + lane / 4];
                words[half] = row[8 * i + 4 * half + lane % 4];
            } else {
                words[half] = q[tile][i][half];
            }
        }
    }

    // Lane i gets the entry before entry i of a step, -1 where there is none; lanes above STEP get
    // none.
    __device__ __forceinline__ int fetch(int first) const {
        int at = first - 1 + lane;
        bool exists = lane <= STEP && at >= 0 && at < end;
        if (!exists) return -1;
        return list.kept == nullptr ? at : list.kept[at];
    }

    // Lane i gets token i of a step.
    __device__ __forceinline__ Token look_up(int first, int before) {
        int index = __shfl_down_sync(FULL_WARP, before, 1);
        int at = first + lane;
        bool listed = lane < STEP && at < end;
        bool exists = index >= 0 && index < list.len;
        if (listed && !exists) found |= SALIENT_STATUS_INDEX;
        if (listed && exists && at > 0 && index <= before) found |= SALIENT_STATUS_ORDER;
        bool visible = listed && exists && index >= list.seen;
        int page = 0;
        if (p.page_table != nullptr && visible) {
            const int32_t* pages = p.page_table + static_cast<int64_t>(sequence) * p.max_pages;
            page = pages[index / p.page_size];
        }
        return {index, page, visible};
    }

    // Starts the copies of a step's rows; those that are not seen become zeros.
    __device__ __forceinline__ void copy(int slot, Token token) {
        int64_t row = static_cast<int64_t>(list.start) + token.index;
        if (p.page_table != nullptr) {
            bool inside = token.page >= 0 && token.page < p.pages;
            if (token.visible && !inside) found |= SALIENT_STATUS_PAGE;
            token.visible = token.visible && inside;
            row = token.index % p.page_size;
        }
        int64_t page = token.page;
        auto offset = [&](const SalientDecodeLayout& layout) {
            return head * layout.head_stride + page * layout.page_stride +
                   row * layout.token_stride;
        };
        int64_t k_at = offset(p.layouts[0]), v_at = offset(p.layouts[1]);
        uint32_t mask = __ballot_sync(FULL_WARP, token.visible);
        visible = visible << STEP | mask;
#pragma unroll
        for (int i = 0; i < STEP * Shape::CHUNKS / 32; i++) {
            int r = (32 * i + lane) / Shape::CHUNKS, chunk = (32 * i + lane) % Shape::CHUNKS;
            int64_t k_row = __shfl_sync(FULL_WARP, k_at, r);
            int64_t v_row = __shfl_sync(FULL_WARP, v_at, r);
            bool valid = (mask >> r & 1) && Shape::WIDTH * chunk < p.dim;
            int to = Shape::place(r, chunk);
            const KV* k = static_cast<const KV*>(p.k) + k_row + Shape::WIDTH * chunk;
            const KV* v = static_cast<const KV*>(p.v) + v_row + Shape::WIDTH * chunk;
            copy_async_16(slots[slot].k + to, k, valid);
            copy_async_16(slots[slot].v + to, v, valid);
        }
    }

    // The logits of a step become weights; returns the factors of what was summed before.
    __device__ __forceinline__ void soften(float (&s)[TILES][4], uint32_t mask, float scale,
                                           float (&factors)[TILES][2]) {
        if (mask != 0) found |= SEEN;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[tile][e] *= scale;
        }
        if (p.softcap != 0.0f) {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int e = 0; e < 4; e++) s[tile][e] = p.softcap * tanhf(s[tile][e]);
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                bool seen = mask >> (lane / 4 + 8 * (e / 2)) & 1;
                if (!seen) s[tile][e] = -INFINITY;
            }
#pragma unroll
            for (int column = 0; column < 2; column++) {
                float largest = fmaxf(s[tile][column], s[tile][column + 2]);
#pragma unroll
                for (int step = 4; step < 32; step *= 2) {
                    largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, step));
                }
                largest = fmaxf(largest, max[tile][column]);
                float shift = largest == -INFINITY ? 0.0f : largest;
                float factor = weight(max[tile][column], largest);
                max[tile][column] = largest;
                float upper = expf(s[tile][column] - shift);
                float lower = expf(s[tile][column + 2] - shift);
                sum[tile][column] = sum[tile][column] * factor + (upper + lower);
                s[tile][column] = upper;
                s[tile][column + 2] = lower;
                factors[tile][column] = factor;
            }
        }
    }

    // Adds the weighted values of a slot to the output of TOGETHER tiles.
    __device__ __forceinline__ void add_values(const typename Shape::Slot& slot,
                                               float (&s)[TILES][4], int first_tile) {
        if (SHORT) reconsider(lane);
        uint32_t terms[TOGETHER][TERMS][2];
#pragma unroll
        for (int t = 0; t < TOGETHER; t++) {
            int tile = first_tile + t;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float rest[2] = {s[tile][2 * half] * Weights<T>::FACTOR,
                                 s[tile][2 * half + 1] * Weights<T>::FACTOR};
#pragma unroll
                for (int term = 0; term < TERMS; term++) {
                    uint32_t word = 0;
#pragma unroll
                    for (int column = 0; column < 2; column++) {
                        T part = truncate<T>(rest[column]);
                        rest[column] -= to_float(part);
                        uint32_t bits = part.bits == 0 ? Weights<T>::TINY : part.bits;
                        word |= bits << (16 * column);
                    }
                    terms[t][term][half] = transpose_matrix(word);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < DIM / 16 / COUNT; i++) {
            // Keeps ptxas from starting loads sooner, for which there are no registers.
            if (TOGETHER < TILES) __syncwarp();
            uint32_t words[4];
            Fragments::load_values(words, slot.v, i, lane, Shape::place);
#pragma unroll
            for (int n = 0; n < COUNT; n++) {
                uint32_t values[4];
                Fragments::values(values, words, n);
#pragma unroll
                for (int t = 0; t < TOGETHER; t++) {
#pragma unroll
                    for (int term = 0; term < TERMS; term++) {
                        multiply_add<T>(out[first_tile + t][COUNT * i + n], values,
                                        terms[t][TERMS - 1 - term]);
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void attend(const typename Shape::Slot& slot, uint32_t mask,
                                           float scale) {
        if (SHORT) reconsider(lane);
        float s[TILES][4] = {};
#pragma unroll
        for (int i = 0; i < DIM / 16 / COUNT; i++) {
            uint32_t words[4];
            Fragments::load_keys(words, slot.k, i, lane, Shape::place);
#pragma unroll
            for (int n = 0; n < COUNT; n++) {
                uint32_t keys[4];
                Fragments::keys(keys, words, n);
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    uint32_t queries[2];
                    load_queries(queries, tile, COUNT * i + n);
                    multiply_add<T>(s[tile], keys, queries);
                }
            }
        }
        float factors[TILES][2];
        soften(s, mask, scale, factors);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < DIM / 16; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) out[tile][i][e] *= factors[tile][e % 2];
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile += TOGETHER) add_values(slot, s, tile);
    }

    // Attends over the warp's steps from entry `first` on.
    __device__ __forceinline__ void run(int first, float scale) {
        constexpr int STRIDE = STEP * Shape::WARPS, AHEAD = STAGES - 1;
        first += STEP * static_cast<int>(warp_id());
        // Steps that are wholly below what is seen.
        int skipped = max_of(0, list.begin() - first - (STEP - 1));
        first += ceil_div(skipped, STRIDE) * STRIDE;
        int steps = max_of(0, ceil_div(end - first, STRIDE));

        // Three steps at once are between the list and shared memory: its entries, then its pages,
        // then its rows are fetched.
        Token token = look_up(first, fetch(first));
        int before = fetch(first + STRIDE);
        int next = 0;
        auto advance = [&] {
            if (next < steps) copy(next % STAGES, token);
            else visible <<= STEP;
            copy_async_commit();
            next++;
            token = look_up(first + next * STRIDE, before);
            before = fetch(first + (next + 1) * STRIDE);
        };
#pragma unroll 1
        for (int i = 0; i < AHEAD; i++) advance();
#pragma unroll 1
        for (int i = 0; i < steps; i++) {
            copy_async_wait<AHEAD - 1>();
            // The step's rows are there, and no lane is at the slot that is next to be filled.
            __syncwarp();
            advance();
            uint32_t mask = static_cast<uint32_t>(visible >> (STEP * AHEAD)) & 0xffff;
            attend(slots[i % STAGES], mask, scale);
        }
        copy_async_wait<0>();
    }

    // Into shared memory.
    __device__ __forceinline__ void put(typename Shape::Parts& parts) {
        int warp = static_cast<int>(warp_id());
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int column = 0; column < 2; column++) {
                int query = 8 * tile + 2 * (lane % 4) + column;
                float total = sum[tile][column];
#pragma unroll
                for (int step = 4; step < 32; step *= 2) {
                    total += __shfl_xor_sync(FULL_WARP, total, step);
                }
                if ((found & SEEN) && total == 0.0f) total = INFINITY;
                if (lane < 4) {
                    parts.max[warp][query] = max[tile][column];
                    parts.sum[warp][query] = total;
                }
#pragma unroll
                for (int i = 0; i < DIM / 16; i++) {
                    float* to = parts.out[warp][query] + 16 * i;
                    Pair x{{out[tile][i][column] / Weights<T>::FACTOR,
                            out[tile][i][column + 2] / Weights<T>::FACTOR}};
                    int first = Fragments::out_channel(0, lane);
                    int second = Fragments::out_channel(1, lane);
                    if constexpr (sizeof(KV) == 1) {
                        *reinterpret_cast<Pair*>(to + first) = x;
                    } else {
                        to[first] = x.at[0];
                        to[second] = x.at[1];
                    }
                }
            }
        }
    }
};

}  // namespace decoding
}  // namespace salient
