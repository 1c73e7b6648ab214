// attend: prefill on the warpgroup products of sm_90a, by the schedule of FlashAttention-3 (arXiv
// 2407.08608).
//
// A block stays on its multiprocessor and works off query tiles. One warp has the copy engine bring
// queries, keys and values into a ring of stages; two warpgroups hold the logits and the output of
// 64 rows each in registers. While a group's weights of one key tile meet its values, the logits of
// the next tile are made and become weights; and the groups take turns at starting products, so
// that one's exponentials run while the other's products do. Tiles begin at multiples of KEYS from
// the sequence's first key and are summed up in order: what a row reads depends on no other
// sequence.
#include "attend/prefill_sm90.cuh"
#include "attend/prefill_warp.cuh"
#include "common/compiled.cuh"

namespace salient {
namespace {

using namespace prefilling;

// A thread of a warpgroup that multiplies.
template <typename T, int DIM>
struct Consumer {
    using Tile = Sm90Tile<DIM>;
    using Rows = Warp<T, Tile>;
    static constexpr int N = Tile::N, C = Tile::C, GROUPS = Tile::GROUPS;
    static constexpr uint32_t OWN = TURN + GROUPS;  // the barrier of the group's own warps
    // Bytes from a stage to the next, and from 8 rows to the next 8: of keys, and queries; of
    // values.
    static constexpr uint32_t K_STAGE = Tile::PANELS * Tile::K_PANEL, K_ATOM = 8 * 128;
    static constexpr uint32_t V_STAGE = Tile::V_PANELS * Tile::V_PANEL, V_ATOM = 8 * Tile::V_ROW;

    const SalientPrefillParams& p;
    typename Tile::Shared& shared;
    // From one lane, for the compiler to know that all have the same.
    uint32_t group = __shfl_sync(FULL_WARP, threadIdx.x / 128 - 1, 0);
    uint32_t slot = 0;  // key tiles so far

    __device__ void run() {
        // The first turn is that of group 0.
        if (group == GROUPS - 1) pass_turn();
        for (uint32_t taken = 0;; taken++) {
            mbarrier_wait(&shared.q_full, taken % 2);
            if (shared.work[taken % 2].last) break;
            attend(taken % 2);
        }
        if (group == 0) wait_for_turn();
    }

    __device__ void wait_for_turn() const { named_barrier_sync(TURN + group, 128 * 2); }
    __device__ void pass_turn() const {
        named_barrier_arrive(TURN + (group + 1) % GROUPS, 128 * 2);
    }

    __device__ void attend(uint32_t half) {
        Rows rows(p, shared, shared.rows[half],
                  static_cast<int>(warp_id() - 4) * Tile::WARP_ROWS);
        Together block = shared.work[half].block;
        Seen mine = shared.groups[half][group];
        bool none = mine.first >= mine.limit;
        int first = none ? INT32_MAX : first_tile<Tile>(mine), end = first;

        int tile = first_tile<Tile>(block.any);
        for (; tile < min_of(first, block.any.limit); tile += Tile::KEYS) pass_by();
        if (!none) tile = end = attend_tiles(rows, block, tile, mine.limit);
        for (; tile < block.any.limit; tile += Tile::KEYS) pass_by();

        // All warps of the group are done with its queries.
        named_barrier_sync(OWN + group, 128);
        reconsider(rows.row);
        reconsider(rows.lane);
        Work work = shared.work[half];
        rows.normalise(work.place);
        if (p.out_dtype == SALIENT_F32) {
            rows.write_floats(work.place);
        } else {
            rows.write_rounded(work.place);
        }
        bool edges = first < end && (is_edge<Tile>(block.all, first) ||
                                     is_edge<Tile>(block.all, end - Tile::KEYS));
        if (edges && any_infinite()) add_infinite(rows, work, first, end);
        async_proxy_fence();
        warp_arrive(&shared.q_free);
    }

    // A tile that no row of the group sees.
    __device__ void pass_by() {
        wait_for_keys(slot);
        warp_arrive(shared.k_free + stage_of<Tile>(slot));
        wait_for_turn();
        pass_turn();
        wait_for_values(slot);
        warp_arrive(shared.v_free + stage_of<Tile>(slot));
        slot++;
    }

    // The key tiles from `tile` on up to the limit. Gives where they end.
    __device__ int attend_tiles(Rows& rows, const Together& block, int tile, int limit) {
        float logits[1][N][4], shrink[1][2];
        uint32_t weights[1][N / 2][4];
        wait_for_keys(slot);
        wait_for_turn();
        start_logits(logits[0], slot);
        pass_turn();
        finish_logits<0>(logits[0], slot);
        weigh(rows, block, tile, logits, shrink);
        rows.rescale(shrink);
        rows.round(logits, weights);
        for (int next = tile + Tile::KEYS; next < limit; next += Tile::KEYS) {
            wait_for_keys(slot + 1);
            wait_for_turn();
            start_logits(logits[0], slot + 1);
            wait_for_values(slot);
            start_values(rows, weights[0], slot);
            pass_turn();
            finish_logits<1>(logits[0], slot + 1);
            weigh(rows, block, next, logits, shrink);
            finish_values(rows, slot);
            rows.rescale(shrink);
            rows.round(logits, weights);
            tile = next;
            slot++;
        }
        wait_for_values(slot);
        start_values(rows, weights[0], slot);
        finish_values(rows, slot);
        slot++;
        return tile + Tile::KEYS;
    }

    __device__ void wait_for_keys(uint32_t slot) const {
        mbarrier_wait(shared.k_full + stage_of<Tile>(slot), phase_of<Tile>(slot));
    }

    __device__ void wait_for_values(uint32_t slot) const {
        mbarrier_wait(shared.v_full + stage_of<Tile>(slot), phase_of<Tile>(slot));
    }

    __device__ void start_logits(float (&logits)[N][4], uint32_t slot) const {
        auto* q = shared.q + group * Tile::GROUP_ROWS * 8;
        uint64_t a = matrix_descriptor<Swizzle::BYTES_128>(q, 0, K_ATOM);
        uint64_t b = matrix_descriptor<Swizzle::BYTES_128>(shared.k[0], 0, K_ATOM);
        b = advance(b, static_cast<uint32_t>(stage_of<Tile>(slot)) * K_STAGE);
        warpgroup_hold(logits);
        warpgroup_fence();
#pragma unroll
        for (uint32_t k = 0; k < C / 2; k++) {
            uint32_t panel = k / 4, inside = k % 4 * 32;
            warpgroup_multiply<T, Major::K, Major::K>(
                logits, advance(a, panel * Tile::Q_PANEL + inside),
                advance(b, panel * Tile::K_PANEL + inside), k > 0);
        }
        warpgroup_commit();
    }

    // PENDING products may be under way behind it.
    template <int PENDING>
    __device__ void finish_logits(float (&logits)[N][4], uint32_t slot) const {
        warpgroup_wait<PENDING>();
        warpgroup_hold(logits);
        warp_arrive(shared.k_free + stage_of<Tile>(slot));
    }

    __device__ void weigh(Rows& rows, const Together& block, int tile, float (&logits)[1][N][4],
                          float (&shrink)[1][2]) const {
        rows.cap(logits);
        if (is_edge<Tile>(block.all, tile)) rows.mask(logits, tile);
        rows.weigh(logits, shrink);
    }

    __device__ void start_values(Rows& rows, uint32_t (&weights)[N / 2][4], uint32_t slot) const {
        uint64_t b = matrix_descriptor<Tile::V_SWIZZLE>(shared.v[0], Tile::V_PANEL, V_ATOM);
        b = advance(b, static_cast<uint32_t>(stage_of<Tile>(slot)) * V_STAGE);
        warpgroup_hold(rows.out[0]);
        warpgroup_hold(weights);
        warpgroup_fence();
#pragma unroll
        for (uint32_t k = 0; k < N / 2; k++) {
            warpgroup_multiply<T, Major::MN>(rows.out[0], weights[k], advance(b, k * 2 * V_ATOM),
                                             true);
        }
        warpgroup_commit();
    }

    __device__ void finish_values(Rows& rows, uint32_t slot) const {
        warpgroup_wait<0>();
        warpgroup_hold(rows.out[0]);
        warp_arrive(shared.v_free + stage_of<Tile>(slot));
    }

    // Whether values were cleaned away, maybe beyond what the group sees.
    __device__ bool any_infinite() const {
        uint32_t found = 0;
#pragma unroll
        for (int i = 0; i <= Tile::CLEANERS; i++) found |= shared.infinite[i];
        return found != 0;
    }

    // Adds the values that were cleaned away to the outputs that see them. They are still in device
    // memory, and the outputs already are.
    __device__ void add_infinite(const Rows& rows, const Work& work, int from, int to) const {
        int head = work.place.head / (p.q_heads / p.kv_heads);
        int channel = rows.lane / 4, pair = 2 * (rows.lane % 4);
        const T* v = static_cast<const T*>(p.v) + head * p.v_strides.head + channel;
        Seen any = work.block.any;
        __syncwarp();
#pragma unroll 1
        for (int c = 0; 8 * c < p.dim; c++) {
            float ups[4] = {}, downs[4] = {};
#pragma unroll 1
            for (int first = from; first < to; first += 16) {
                if (!is_edge<Tile>(work.block.all, first / Tile::KEYS * Tile::KEYS)) continue;
                uint32_t values[2] = {};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int key = first + pair + e / 2 * 8 + e % 2;
                    const T* at = v + (work.keys.start + key) * p.v_strides.token + 8 * c;
                    bool inside = any.first <= key && key < any.limit;
                    uint32_t bits = inside ? at->bits : 0;
                    values[e / 2] |= bits << e % 2 * 16;
                }
                rows.count_infinite(ups, downs, values, 0, first);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = work.place.first + rows.row_of(0, e / 2);
                int64_t at = work.place.head * p.out_strides.head + 8 * c + pair + e % 2 +
                             (work.place.queries.start + row) * p.out_strides.token;
                bool exists = row < work.place.queries.len;
                float sum = (ups[e] > 0.0f ? INFINITY : 0.0f) - (downs[e] > 0.0f ? INFINITY : 0.0f);
                if (p.out_dtype == SALIENT_F32) {
                    add_to(exists && sum != 0.0f, static_cast<float*>(p.out) + at, sum);
                } else {
                    add_to(exists && sum != 0.0f, static_cast<T*>(p.out) + at, sum);
                }
            }
        }
    }

    template <typename O>
    static __device__ void add_to(bool active, O* to, float sum) {
        if (active) *to = round_to<O>(to_float(*to) + sum);
    }
};

template <typename T, int DIM>
__global__ void __launch_bounds__(Sm90Tile<DIM>::THREADS, 1)
    prefill_sm90(const __grid_constant__ Sm90Params a) {
    using Tile = Sm90Tile<DIM>;
    if constexpr (SM_90A) {
        auto& shared = shared_memory<typename Tile::Shared>();
        init_barriers<DIM>(shared);
        if (threadIdx.x < 128) {
            registers_decrease<Tile::FEW>();
            if (warp_id() < Tile::PRODUCERS) {
                Producer<T, DIM>{a, shared}.run();
            } else {
                clean<T, DIM>(shared);
            }
        } else {
            registers_increase<Tile::MANY>();
            Consumer<T, DIM>{a.p, shared}.run();
        }
    } else {
        unsupported();
    }
}

// A map of a tensor of `tokens` rows of which a copy takes `rows`, as many channels as the swizzle
// is wide; false if there is none.
bool make_map(TensorMap& map, const SalientPrefillParams& p, const void* address, int tokens,
              int heads, const SalientStrides& strides, int rows, Swizzle swizzle) {
    constexpr int64_t LIMIT = int64_t{1} << 40;
    // Where there is but one, the stride means nothing.
    int64_t head = 2 * (heads > 1 ? strides.head : p.dim);
    int64_t token = 2 * (tokens > 1 ? strides.token : p.dim);
    if (head <= 0 || head >= LIMIT || token <= 0 || token >= LIMIT) return false;
    TensorBox tensor{};
    tensor.address = address;
    tensor.sizes[0] = static_cast<uint64_t>(p.dim);
    tensor.sizes[1] = static_cast<uint64_t>(heads);
    tensor.sizes[2] = static_cast<uint64_t>(max_of(1, tokens));
    tensor.strides[1] = static_cast<uint64_t>(head);
    tensor.strides[2] = static_cast<uint64_t>(token);
    tensor.box[0] = static_cast<uint32_t>(swizzle) / 2;
    tensor.box[1] = 1;
    tensor.box[2] = static_cast<uint32_t>(rows);
    tensor.swizzle = swizzle;
    return make_tensor_map(map, tensor, 3) == SUCCESS;
}

template <typename T, int DIM>
int run(const SalientPrefillParams& p, SalientStream stream) {
    using Tile = Sm90Tile<DIM>;
    int64_t heads = static_cast<int64_t>(p.batch) * p.q_heads;
    int64_t tiles = ceil_div(p.max_queries, Tile::ROWS);
    if (heads > INT32_MAX / tiles) return INVALID_VALUE;
    Sm90Params params{p, {}, {}, {}};
    constexpr Swizzle WIDE = Swizzle::BYTES_128;
    if (!make_map(params.q, p, p.q, p.queries, p.q_heads, p.q_strides, Tile::ROWS, WIDE) ||
        !make_map(params.k, p, p.k, p.keys, p.kv_heads, p.k_strides, Tile::KEYS, WIDE) ||
        !make_map(params.v, p, p.v, p.keys, p.kv_heads, p.v_strides, Tile::KEYS,
                  Tile::V_SWIZZLE)) {
        return NOT_SUPPORTED;
    }
    constexpr size_t BYTES = sizeof(typename Tile::Shared);
    int64_t blocks = resident_blocks<prefill_sm90<T, DIM>, BYTES>(Tile::THREADS);
    if (blocks == 0) return NOT_SUPPORTED;
    dim3 grid(static_cast<uint32_t>(min_of(blocks, heads * tiles)));
    return launch<prefill_sm90<T, DIM>, BYTES, SHARED_OF_SM_90>({grid, Tile::THREADS}, stream,
                                                                params);
}

template <typename T>
int run_for(const SalientPrefillParams& p, SalientStream stream) {
    if (p.dim <= 64) return run<T, 64>(p, stream);
    if (p.dim <= 96) return run<T, 96>(p, stream);
    if (p.dim <= 128) return run<T, 128>(p, stream);
    return run<T, SALIENT_PREFILL_MAX_DIM>(p, stream);
}

}  // namespace

int launch_prefill_sm90(const SalientPrefillParams& p, SalientStream stream) {
    if (!has_warpgroups()) return NOT_SUPPORTED;
    if (p.dtype == SALIENT_F16) return run_for<f16>(p, stream);
    if (p.dtype == SALIENT_BF16) return run_for<bf16>(p, stream);
    return INVALID_VALUE;
}

}  // namespace salient
