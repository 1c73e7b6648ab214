// A kernel for sm_90a that is wrong on purpose, each time in one way that the software GPU must
// report.
#include "ptx/warpgroup.cuh"

namespace salient {
namespace {

enum Wrong : int {
    NOTHING,
    ENDLESS_PHASE,
    MORE_EXPECTED,
    LESS_EXPECTED,
    TOO_MANY_ARRIVE,
    NO_BARRIER,
    MISALIGNED_TILE,
    NO_MAP,
    UNAWAITED_COPY,
    UNAWAITED_MULTIPLY,
    TOUCHED_ACCUMULATORS,
    MISSING_FENCE,
    OVERWRITTEN_TILE,
    DIFFERENT_MULTIPLIES,
    NO_WARPGROUP,
    TOO_MANY_REGISTERS,
    NAMED_DIFFERENTLY,
    NAMED_TOO_FEW,
    BEYOND_SHARED_TILE,
    COPY_LEFT_BEHIND,
    UNFENCED_TILE,
    UNFENCED_PLACE,
};

struct alignas(1024) Tiles {
    uint16_t at[64][64];
    Mbarrier full;
    Mbarrier unused;
};

// TOUCHED: the accumulators, between two multiplies. By itself, for the compiler would move them
// about in the others, too.
template <bool TOUCHED>
__device__ void square_tile(Tiles& shared, float* out, int wrong) {
    float d[8][4] = {};
    uint64_t tile = matrix_descriptor<Swizzle::BYTES_128>(
        shared.at, 0, wrong == BEYOND_SHARED_TILE ? 4096 : 1024);
    warpgroup_hold(d);
    if (wrong != MISSING_FENCE) warpgroup_fence();
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
        uint64_t a = advance(tile, 32 * k);
        uint64_t b = wrong == DIFFERENT_MULTIPLIES && threadIdx.x >= 96 ? tile : a;
        warpgroup_multiply<f16, Major::K, Major::K>(d, a, b, k > 0);
        if (TOUCHED && k == 2) d[3][1] += 1;
    }
    warpgroup_commit();
    if (wrong == OVERWRITTEN_TILE) {
        if (threadIdx.x == 5) shared.at[9][9] = 0;
    }
    if (wrong != UNAWAITED_MULTIPLY) warpgroup_wait<0>();
    warpgroup_hold(d);
    for (int i = 0; i < 32; i++) out[threadIdx.x * 32 + i] = d[i / 4][i % 4];
    if (wrong == UNAWAITED_MULTIPLY) warpgroup_wait<0>();
}

// A tile of 64 x 64 times its transpose, by the first warpgroup; out: [128][32] f32.
__global__ void __launch_bounds__(288, 1)
    square(const __grid_constant__ TensorMap map, float* out, int wrong) {
    auto& shared = shared_memory<Tiles>();
    uint32_t thread = threadIdx.x;
    if (thread == 0) {
        mbarrier_init(&shared.full, 1);
        mbarrier_init_fence();
    }
    if (wrong == UNFENCED_PLACE && thread == 17) {
        shared.at[63][7] = 0;
    }
    __syncthreads();
    constexpr uint32_t BYTES = sizeof shared.at;
    if (thread == 128) {
        if (wrong == TOO_MANY_ARRIVE) mbarrier_arrive_expect(&shared.full, 1024);
        uint32_t expected = wrong == MORE_EXPECTED   ? BYTES + 16
                            : wrong == LESS_EXPECTED ? BYTES - 16
                                                     : BYTES;
        if (wrong != ENDLESS_PHASE) mbarrier_arrive_expect(&shared.full, expected);
        const int32_t at[2] = {0, 0};
        const TensorMap none = {};
        copy_tensor(wrong == MISALIGNED_TILE ? &shared.at[1] : shared.at,
                    wrong == NO_MAP ? none : map, at,
                    wrong == NO_BARRIER ? &shared.unused : &shared.full,
                    cache_policy<Keep::LONG>());
        if (wrong == COPY_LEFT_BEHIND) {
            mbarrier_wait(&shared.full, 0);
            copy_tensor(shared.at, map, at, &shared.full, cache_policy<Keep::LONG>());
        }
    }
    if (wrong == NO_WARPGROUP && thread >= 256) warpgroup_fence();
    if (wrong == NAMED_DIFFERENTLY) named_barrier_sync(2, thread < 32 ? 64 : 128);
    if (wrong == NAMED_TOO_FEW && thread < 64) named_barrier_sync(2, 96);
    if (thread >= 128) return;
    if (wrong == TOO_MANY_REGISTERS) registers_increase<256>();
    if (wrong != UNAWAITED_COPY) mbarrier_wait(&shared.full, 0);
    if (wrong == UNFENCED_TILE) {
        if (thread == 17) shared.at[63][7] = 0;
        named_barrier_sync(1, 128);
    }
    if (wrong == TOUCHED_ACCUMULATORS) {
        square_tile<true>(shared, out, wrong);
    } else {
        square_tile<false>(shared, out, wrong);
    }
}

}  // namespace
}  // namespace salient

SALIENT_EXPORT int salient_probe_square(const uint32_t* in, uint32_t* out, int wrong,
                                        SalientStream stream) {
    using namespace salient;
    TensorBox tensor{in, {64, 64}, {0, 128}, {64, 64}, Swizzle::BYTES_128};
    TensorMap map;
    if (int error = make_tensor_map(map, tensor, 2)) return error;
    return launch<square, sizeof(Tiles)>({dim3(1), 288}, stream, map,
                                         reinterpret_cast<float*>(out), wrong);
}
