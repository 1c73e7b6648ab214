// attend: one query per sequence over listed keys, on tensor cores of sm_80.
//
// A block takes `split` entries of the list of one KV head for the whole group of query heads, so
// that each listed row of K and V is read once. Keys are the rows of both products and the group's
// queries their 8 or 16 columns:
//
//     S = K Q'    [16 keys, 8 queries]        O' = V' P    [channels, 8 queries]
//
// A warp works alone: it takes every WARPS-th step of STEP entries, gathers their rows into slots of
// its own, STAGES of them on their way, and keeps a running softmax (Milakov and Gimelshein, arXiv
// 1805.02867) with the output in registers. Warps, then splits, are put together in order.
//
// P goes into its product as three 16-bit terms that add up to all 24 bits of it, so that nothing is
// rounded but sums: matrix operations are cheap beside the reads. Which keys a warp and a block
// take depends on places in the list and on `split` alone, never on other sequences.
#include "attend/decode.cuh"

#include "common/launch.cuh"
#include "ptx/async_copy.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace {

using namespace decoding;

constexpr int STEP = 16;  // entries
constexpr int TERMS = 3;  // of a weight

constexpr uint32_t SEEN = 1u << 31;  // no fault: a warp saw a key

// A positive term that makes no difference, in place of 0; and a factor that keeps the terms of
// weights from underflow.
template <typename T>
struct Weights;

template <>
struct Weights<f16> {
    static constexpr uint16_t TINY = 1;  // 2^-24
    static constexpr float FACTOR = 16384.0f;
};

template <>
struct Weights<bf16> {
    static constexpr uint16_t TINY = (127 - 100) << 7;  // 2^-100
    static constexpr float FACTOR = 1.0f;
};

// DIM channels, of which heads may have fewer: the others are zeros.
template <int DIM, int TILES>
struct Shape {
    static constexpr int QUERIES = 8 * TILES;
    static constexpr int CHUNKS = DIM / 8;  // 16-byte chunks of a row
    static constexpr int WARPS = DIM > 128 ? 2 : 4;
    static constexpr int STAGES = DIM > 96 ? 3 : 4;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr bool SHARED_QUERIES = DIM > 128 && TILES > 1;  // where registers are too few

    struct Slot {
        Vector k[STEP * CHUNKS];
        Vector v[STEP * CHUNKS];
    };
    struct Parts {
        float out[WARPS][QUERIES][DIM + 4];  // so that a warp's columns lie in different banks
        float max[WARPS][QUERIES];
        float sum[WARPS][QUERIES];
    };
    struct Shared {
        union {
            Slot slots[WARPS][STAGES];
            Parts parts;  // once the slots are done with
        };
        uint32_t queries[SHARED_QUERIES ? QUERIES : 1][DIM / 2 + 4];  // padded like the parts
    };

    // Where a chunk of a row lies in a slot: any 8 rows at one chunk, and any 8 chunks in order,
    // lie in different banks.
    static __device__ __forceinline__ int place(int row, int chunk) {
        return row * CHUNKS + (chunk ^ (CHUNKS % 8 == 0 ? row % 8 : row / 2 % 4));
    }
};

// A token on its way from the list to an address.
struct Token {
    int index;
    int page;  // 0 in a contiguous cache
    bool visible;
};

template <typename T, int DIM, int TILES>
struct Warp {
    using Shape = salient::Shape<DIM, TILES>;

    const SalientDecodeParams& p;
    typename Shape::Shared& shared;
    typename Shape::Slot* slots;
    const List& list;
    int end;               // of the block's entries
    const int32_t* pages;  // of the sequence
    const T* k;            // of the head
    const T* v;
    int lane;

    uint32_t q[TILES][DIM / 16][2];
    float out[TILES][DIM / 16][4] = {};
    float max[TILES][2];
    float sum[TILES][2] = {};
    uint32_t found = 0;     // faults, and SEEN if a key was
    uint64_t visible = 0;   // 16 bits for each step on its way, the last lowest

    __device__ Warp(const SalientDecodeParams& p, typename Shape::Shared& shared, const List& list, int end,
                    int sequence, int head)
        : p(p),
          shared(shared),
          slots(shared.slots[warp_id()]),
          list(list),
          end(end),
          pages(p.page_table + static_cast<int64_t>(sequence) * p.max_pages),
          k(static_cast<const T*>(p.k) + head * p.layouts[0].head_stride),
          v(static_cast<const T*>(p.v) + head * p.layouts[1].head_stride),
          lane(static_cast<int>(lane_id())) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            int member = 8 * tile + lane / 4;
            const T* row = static_cast<const T*>(p.q) + sequence * p.q_stride +
                           (static_cast<int64_t>(head) * p.group + member) * p.q_head_stride;
#pragma unroll
            for (int i = 0; i < DIM / 8; i++) {
                auto* words = reinterpret_cast<const uint32_t*>(row + 8 * i + 2 * (lane % 4));
                uint32_t word = load_if(member < p.group && 8 * i < p.dim, words, 0u);
                if constexpr (Shape::SHARED_QUERIES) {
                    shared_store_if(warp_id() == 0, &shared.queries[member][4 * i + lane % 4], word);
                } else {
                    q[tile][i / 2][i % 2] = word;
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
                words[half] = shared_load(row + 8 * i + 4 * half + lane % 4);
            } else {
                words[half] = q[tile][i][half];
            }
        }
    }

    // Lane i gets the entry before entry i of a step; lanes above STEP get none.
    __device__ __forceinline__ int fetch(int first) const {
        int at = first - 1 + lane;
        bool exists = lane <= STEP && at >= 0 && at < end;
        return list.kept == nullptr ? at : load_if(exists, list.kept + at, -1);
    }

    // Lane i gets token i of a step.
    __device__ __forceinline__ Token look_up(int first, int before) {
        int index = __shfl_down_sync(FULL_WARP, before, 1);
        int at = first + lane;
        bool listed = lane < STEP && at < end;
        bool exists = SALIENT_MUTATED("decode/bounds") ? index >= 0
                                                       : index >= 0 && index < list.len;
        if (listed && !exists) found |= SALIENT_STATUS_INDEX;
        if (listed && exists && at > 0 && index <= before) found |= SALIENT_STATUS_ORDER;
        bool visible = listed && exists && index >= list.seen;
        int page = 0;
        if (p.page_table != nullptr) page = load_if(visible, pages + index / p.page_size, 0);
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
        int64_t k_at = page * p.layouts[0].page_stride + row * p.layouts[0].token_stride;
        int64_t v_at = page * p.layouts[1].page_stride + row * p.layouts[1].token_stride;
        uint32_t mask = __ballot_sync(FULL_WARP, token.visible);
        visible = visible << STEP | mask;
#pragma unroll
        for (int i = 0; i < STEP * Shape::CHUNKS / 32; i++) {
            int r = (32 * i + lane) / Shape::CHUNKS, chunk = (32 * i + lane) % Shape::CHUNKS;
            int64_t k_row = __shfl_sync(FULL_WARP, k_at, r);
            int64_t v_row = __shfl_sync(FULL_WARP, v_at, r);
            bool valid = (mask >> r & 1) && 8 * chunk < p.dim;
            int to = Shape::place(r, chunk);
            copy_async_16(slots[slot].k + to, k + k_row + 8 * chunk, valid);
            copy_async_16(slots[slot].v + to, v + v_row + 8 * chunk, valid);
        }
    }

    // The logits of a step become weights; returns the factors of what was summed before.
    __device__ __forceinline__ void soften(float (&s)[TILES][4], uint32_t mask, float scale,
                                           float (&factors)[TILES][2]) {
        if (mask != 0) found |= SEEN;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float logit = s[tile][e] * scale;
                if (p.softcap != 0.0f) logit = p.softcap * tanhf(logit);
                bool seen = mask >> (lane / 4 + 8 * (e / 2)) & 1;
                s[tile][e] = seen ? logit : -INFINITY;
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

    // Adds the weighted values of a slot to the output.
    __device__ __forceinline__ void add_values(const typename Shape::Slot& slot,
                                               float (&s)[TILES][4]) {
        uint32_t terms[TILES][TERMS][2];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
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
                    terms[tile][term][half] = transpose_matrix(word);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            uint32_t values[4];
            int key = lane / 16 * 8 + lane % 8;
            load_matrices_transposed(values,
                                     slot.v + Shape::place(key, 2 * i + lane / 8 % 2));
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int term = 0; term < TERMS; term++) {
                    multiply_add<T>(out[tile][i], values, terms[tile][TERMS - 1 - term]);
                }
            }
        }
    }

    __device__ __forceinline__ void attend(const typename Shape::Slot& slot, uint32_t mask,
                                           float scale) {
        float s[TILES][4] = {};
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            uint32_t keys[4];
            load_matrices(keys, slot.k + Shape::place(lane % 16, 2 * i + lane / 16));
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                uint32_t queries[2];
                load_queries(queries, tile, i);
                multiply_add<T>(s[tile], keys, queries);
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
        add_values(slot, s);
    }

    // Attends over the warp's steps from entry `first` on.
    __device__ __forceinline__ void run(int first) {
        float scale = p.softcap == 0.0f ? p.scale : p.scale / p.softcap;
        constexpr int STRIDE = STEP * Shape::WARPS, AHEAD = Shape::STAGES - 1;
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
            if (next < steps) copy(next % Shape::STAGES, token);
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
            attend(slots[i % Shape::STAGES], mask, scale);
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
                if ((found & SEEN) && max[tile][column] == -INFINITY) total = NAN;
                shared_store_if(lane < 4, &parts.max[warp][query], max[tile][column]);
                shared_store_if(lane < 4, &parts.sum[warp][query], total);
#pragma unroll
                for (int i = 0; i < DIM / 8; i++) {
                    float x = out[tile][i / 2][i % 2 * 2 + column] / Weights<T>::FACTOR;
                    shared_store(&parts.out[warp][query][8 * i + lane / 4], x);
                }
            }
        }
    }
};

template <typename T, int DIM, int TILES>
__global__ void __launch_bounds__(Shape<DIM, TILES>::THREADS)
    decode(SalientDecodeParams p, int splits) {
    using Shape = salient::Shape<DIM, TILES>;
    auto& shared = shared_memory<typename Shape::Shared>();
    int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    // Heads of the same tokens go together, for their rows often lie together.
    int head = block % p.kv_heads, split = block / p.kv_heads % splits;
    int sequence = block / p.kv_heads / splits;

    List list = list_of(p, sequence, head);
    if (!list.valid && split == 0 && thread == 0) {
        report_row(p.status, SALIENT_STATUS_LENGTHS, list.row);
    }
    int first = split * p.split, end = min_of(list.count, first + p.split);
    // What nobody will add up.
    if (splits > 1 && (end <= first || end <= list.begin())) return;

    Warp<T, DIM, TILES> warp(p, shared, list, end, sequence, head);
    warp.run(first);
    uint32_t faults = warp.found & ~SEEN;
    if (faults != 0) report_row(p.status, faults, list.row);
    __syncthreads();
    warp.put(shared.parts);
    if (!SALIENT_MUTATED("decode/barrier")) __syncthreads();

    for (int i = thread; i < p.group * DIM; i += Shape::THREADS) {
        int query = i / DIM, channel = i % DIM, q_head = head * p.group + query;
        bool exists = channel < p.dim;
        float largest = -INFINITY;
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            largest = fmaxf(largest, shared_load(&shared.parts.max[w][query]));
        }
        Whole whole(largest);
#pragma unroll
        for (int w = 0; w < Shape::WARPS; w++) {
            whole.add(shared_load(&shared.parts.max[w][query]),
                      shared_load(&shared.parts.sum[w][query]),
                      shared_load(&shared.parts.out[w][query][channel]));
        }
        if (splits == 1) {
            write<T>(p, sequence, q_head, channel, exists, whole);
        } else {
            Part part(p, splits, sequence, q_head, split);
            store_if(exists, part.out + channel, whole.out);
            store_if(channel == 0, part.stats, largest);
            store_if(channel == 0, part.stats + 1, whole.sum);
        }
    }
}

// Puts together the splits of a row, which is a block's, in order; a thread has a channel.
template <typename T>
__global__ void combine(SalientDecodeParams p, int splits) {
    int q_heads = p.kv_heads * p.group, block = static_cast<int>(blockIdx.x);
    int sequence = block / q_heads, q_head = block % q_heads;
    int channel = static_cast<int>(threadIdx.x);
    List list = list_of(p, sequence, q_head / p.group);
    int begin = list.begin() / p.split, end = ceil_div(list.count, p.split);
    float largest = -INFINITY;
#pragma unroll 8
    for (int split = begin; split < end; split++) {
        largest = fmaxf(largest, load(Part(p, splits, sequence, q_head, split).stats));
    }
    Whole whole(largest);
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        int turn = (i - begin + channel / 32) % (end - begin);
        int split = SALIENT_MUTATED("decode/order") ? begin + turn : i;
        Part part(p, splits, sequence, q_head, split);
        whole.add(load(part.stats), load(part.stats + 1),
                  load_if(channel < p.dim, part.out + channel, 0.0f));
    }
    write<T>(p, sequence, q_head, channel, channel < p.dim, whole);
}

template <typename T, int DIM, int TILES>
int run(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    using Shape = salient::Shape<DIM, TILES>;
    Launch shape{dim3(blocks), Shape::THREADS, sizeof(typename Shape::Shared)};
    return launch("decode", decode<T, DIM, TILES>, shape, stream, p, splits);
}

template <typename T, int DIM>
int run_group(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    return p.group > 8 ? run<T, DIM, 2>(p, splits, blocks, stream)
                       : run<T, DIM, 1>(p, splits, blocks, stream);
}

template <typename T>
int run_for(const SalientDecodeParams& p, SalientStream stream) {
    int splits = max_of(1, ceil_div(p.capacity, p.split));
    int64_t heads = static_cast<int64_t>(p.batch) * p.kv_heads;
    if (max_of(heads * splits, heads * p.group) > INT32_MAX) return INVALID_VALUE;
    auto blocks = static_cast<uint32_t>(heads * splits);
    int error;
    if (p.dim <= 64) error = run_group<T, 64>(p, splits, blocks, stream);
    else if (p.dim <= 96) error = run_group<T, 96>(p, splits, blocks, stream);
    else if (p.dim <= 128) error = run_group<T, 128>(p, splits, blocks, stream);
    else error = run_group<T, 256>(p, splits, blocks, stream);
    if (error != SUCCESS || splits == 1) return error;
    auto rows = static_cast<uint32_t>(heads * p.group);
    Launch shape{dim3(rows), ceil_div(static_cast<uint32_t>(p.dim), 32u) * 32};
    return launch("decode_combine", combine<T>, shape, stream, p, splits);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_decode(const SalientDecodeParams* params, SalientStream stream) {
    const SalientDecodeParams& p = *params;
    if (p.batch == 0 || p.kv_heads == 0 || p.group == 0) return SUCCESS;
    // So that no entry of a step overflows.
    if (p.capacity > INT32_MAX - (1 << 16) || p.group > 16) return INVALID_VALUE;
    if (p.dim < 8 || p.dim > 256 || p.dim % 8 != 0) return INVALID_VALUE;
    if (p.split < 64 || p.split % 64 != 0) return INVALID_VALUE;
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}
