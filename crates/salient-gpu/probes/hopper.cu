// One small kernel per wrapper of ptx/ that needs sm_90a, as ptx.cu has them for the others.
#include "common/compiled.cuh"
#include "ptx/warpgroup.cuh"

namespace salient {
namespace {

// ---- tensor copies ----

constexpr uint32_t BOX_BYTES = 128 * 14 * 2;

struct alignas(1024) Box {
    Vector at[BOX_BYTES / 16];
    Mbarrier full;
};

// A box at (48, -2, 2, 1) of the tensor; out: BOX_BYTES of shared memory, of which the box has
// `bytes`.
template <int RANK>
__global__ void tensor_copies(const __grid_constant__ TensorMap map, uint32_t bytes, Vector* out) {
    auto& shared = shared_memory<Box>();
    for (uint32_t i = threadIdx.x; i < BOX_BYTES / 16; i += blockDim.x) {
        shared.at[i] = Vector{{7, 7, 7, 7}};
    }
    if (threadIdx.x == 0) {
        prefetch_tensor_map(&map);
        mbarrier_init(&shared.full, 1);
        mbarrier_init_fence();
    }
    async_proxy_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const int32_t corner[4] = {48, -2, 2, 1};
        int32_t at[RANK];
        for (int i = 0; i < RANK; i++) at[i] = corner[i];
        mbarrier_arrive_expect(&shared.full, bytes);
        copy_tensor(shared.at, map, at, &shared.full, cache_policy<Keep::LONG>());
    }
    mbarrier_wait(&shared.full, 0);
    for (uint32_t i = threadIdx.x; i < BOX_BYTES / 16; i += blockDim.x) {
        out[i] = shared.at[i];
    }
}

template <int RANK>
int copy_box(const uint32_t* in, uint32_t* out, Swizzle swizzle, uint32_t width,
             SalientStream stream) {
    TensorBox tensor{in, {72, 10, 3, 2}, {0, 160, 1632, 4912}, {width, 14, 2, 1}, swizzle};
    uint32_t bytes = 2;
    for (int i = 0; i < RANK; i++) bytes *= tensor.box[i];
    TensorMap map;
    if (int error = make_tensor_map(map, tensor, RANK)) return error;
    return launch<tensor_copies<RANK>, sizeof(Box)>({dim3(1), 32}, stream, map, bytes,
                                                    reinterpret_cast<Vector*>(out));
}

// ---- barriers ----

constexpr uint32_t TILES = 7, TILE_WORDS = 96, STAGES = 2;

struct Pipe {
    alignas(128) uint32_t stages[STAGES][TILE_WORDS + 32];
    Mbarrier full[STAGES];
    Mbarrier empty[STAGES];
};

// in and out: [TILES][TILE_WORDS]. A thread copies tiles, the warps behind its own reverse them.
__global__ void pipeline(const __grid_constant__ TensorMap map, uint32_t* out) {
    auto& shared = shared_memory<Pipe>();
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < STAGES; stage++) {
            mbarrier_init(&shared.full[stage], 1);
            mbarrier_init(&shared.empty[stage], TILE_WORDS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    for (uint32_t tile = 0; tile < TILES; tile++) {
        uint32_t stage = tile % STAGES, parity = tile / STAGES % 2;
        if (threadIdx.x == 0) {
            mbarrier_wait(&shared.empty[stage], parity ^ 1);
            mbarrier_arrive_expect(&shared.full[stage], TILE_WORDS * 4);
            // The barrier counts both halves.
            for (int32_t half = 0; half < 2; half++) {
                const int32_t at[2] = {0, static_cast<int32_t>(tile) * 8 + half * 4};
                copy_tensor(&shared.stages[stage][half * 64], map, at, &shared.full[stage],
                            cache_policy<Keep::BRIEFLY>());
            }
        } else if (threadIdx.x >= 32) {
            uint32_t thread = threadIdx.x - 32, word = TILE_WORDS - 1 - thread;
            mbarrier_wait(&shared.full[stage], parity);
            uint32_t place = word < TILE_WORDS / 2 ? word : word + 64 - TILE_WORDS / 2;
            out[tile * TILE_WORDS + thread] = shared.stages[stage][place];
            mbarrier_arrive(&shared.empty[stage]);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_invalidate(&shared.full[0]);
}

struct Words {
    uint32_t at[128];
};

// in and out: [128] words. The first two warps only arrive at barrier 1, the others wait there;
// then these reverse among themselves behind barrier 15.
__global__ void named_barriers(const uint32_t* in, uint32_t* out) {
    auto& shared = shared_memory<Words>();
    uint32_t thread = threadIdx.x;
    shared.at[thread] = in[thread];
    if (thread < 64) {
        named_barrier_arrive(1, 128);
        return;
    }
    named_barrier_sync(1, 128);
    out[thread] = shared.at[thread - 64];
    shared.at[thread - 64] = shared.at[thread];
    named_barrier_sync(15, 64);
    out[thread - 64] = shared.at[127 - thread];
}

// ---- multiplies ----

constexpr uint32_t DEPTH = 32, A_BYTES = 64 * 128, B_BYTES = 256 * 128;

struct alignas(1024) Operands {
    Vector a[A_BYTES / 16];
    Vector b[B_BYTES / 16];
};

// Where an operand of DEPTH columns lies, as the probe's input has it: its descriptor, and the
// bytes to the second half of the columns.
template <Swizzle SWIZZLE, Major MAJOR>
__device__ uint64_t describe(const void* operand, uint32_t rows, uint32_t& step) {
    constexpr uint32_t WIDTH = static_cast<uint32_t>(SWIZZLE);
    if (WIDTH == 0) {
        step = 2 * rows * 16;
        return matrix_descriptor<SWIZZLE>(operand, rows * 16, 128);
    }
    if (MAJOR == Major::K) {
        step = WIDTH == 32 ? rows * WIDTH : 32;
        return matrix_descriptor<SWIZZLE>(operand, 16, 8 * WIDTH);
    }
    step = 16 * WIDTH;
    return matrix_descriptor<SWIZZLE>(operand, DEPTH * WIDTH, 8 * WIDTH);
}

// in: what lies in shared memory; out: [128][N / 2] f32. Where a comes from registers, its place
// holds [2][128][4] words of fragments.
template <typename T, Swizzle SWIZZLE, Major MAJOR, int N, bool FROM_REGISTERS>
__global__ void __launch_bounds__(128, 1) multiplies(const Vector* in, float* out) {
    auto& shared = shared_memory<Operands>();
    for (uint32_t i = threadIdx.x; i < sizeof(Operands) / 16; i += blockDim.x) {
        reinterpret_cast<Vector*>(&shared)[i] = in[i];
    }
    registers_increase<232>();
    async_proxy_fence();
    __syncthreads();
    float d[N / 8][4];
    for (int i = 0; i < N / 2; i++) d[i / 4][i % 4] = 1000;
    uint32_t a_step, b_step;
    uint64_t a = describe<SWIZZLE, MAJOR>(shared.a, 64, a_step);
    uint64_t b = describe<SWIZZLE, MAJOR>(shared.b, N, b_step);
    uint32_t fragments[2][4];
    for (int i = 0; i < 8; i++) {
        uint32_t word = (i / 4 * 128 + threadIdx.x) * 4 + i % 4;
        fragments[i / 4][i % 4] = reinterpret_cast<const uint32_t*>(shared.a)[word];
    }
    warpgroup_hold(d);
    warpgroup_fence();
    for (int step = 0; step < 2; step++) {
        uint64_t b_now = advance(b, step * b_step);
        if constexpr (FROM_REGISTERS) {
            warpgroup_multiply<T, MAJOR>(d, fragments[step], b_now, true);
        } else {
            warpgroup_multiply<T, MAJOR, MAJOR>(d, advance(a, step * a_step), b_now, step > 0);
        }
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_hold(d);
    for (int i = 0; i < N / 2; i++) out[threadIdx.x * (N / 2) + i] = d[i / 4][i % 4];
}

template <typename T, Swizzle SWIZZLE, Major MAJOR, int N, bool FROM_REGISTERS = false>
int multiply(int section, const uint32_t* in, uint32_t* out, SalientStream stream) {
    return launch<multiplies<T, SWIZZLE, MAJOR, N, FROM_REGISTERS>, sizeof(Operands)>(
        {dim3(1), 128}, stream, reinterpret_cast<const Vector*>(in + section * sizeof(Operands) / 4),
        reinterpret_cast<float*>(out) + section * 64 * 256);
}

}  // namespace
}  // namespace salient

using namespace salient;

SALIENT_EXPORT int salient_probe_tensor_copies(const uint32_t* in, uint32_t* out,
                                               SalientStream stream) {
    constexpr uint32_t WORDS = BOX_BYTES / 4;
    if (!has_warpgroups()) return NOT_SUPPORTED;
    if (int error = copy_box<2>(in, out, Swizzle::NONE, 24, stream)) return error;
    if (int error = copy_box<4>(in, out + WORDS, Swizzle::BYTES_32, 16, stream)) return error;
    if (int error = copy_box<3>(in, out + 2 * WORDS, Swizzle::BYTES_64, 32, stream)) return error;
    return copy_box<3>(in, out + 3 * WORDS, Swizzle::BYTES_128, 64, stream);
}

SALIENT_EXPORT int salient_probe_pipeline(const uint32_t* in, uint32_t* out,
                                          SalientStream stream) {
    if (!has_warpgroups()) return NOT_SUPPORTED;
    TensorBox tensor{in, {24, 8 * TILES}, {0, 48}, {24, 4}, Swizzle::NONE};
    TensorMap map;
    if (int error = make_tensor_map(map, tensor, 2)) return error;
    return launch<pipeline, sizeof(Pipe)>({dim3(1), 128}, stream, map, out);
}

SALIENT_EXPORT int salient_probe_named_barriers(const uint32_t* in, uint32_t* out,
                                                SalientStream stream) {
    return launch<named_barriers, sizeof(Words)>({dim3(1), 128}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_multiplies(const uint32_t* in, uint32_t* out,
                                            SalientStream stream) {
    if (!has_warpgroups()) return NOT_SUPPORTED;
    constexpr Major K = Major::K, MN = Major::MN;
    using Run = int(int, const uint32_t*, uint32_t*, SalientStream);
    Run* const runs[] = {
        multiply<f16, Swizzle::NONE, K, 48>,
        multiply<bf16, Swizzle::BYTES_32, K, 16>,
        multiply<f16, Swizzle::BYTES_64, K, 96>,
        multiply<bf16, Swizzle::BYTES_128, K, 256>,
        multiply<bf16, Swizzle::NONE, MN, 80>,
        multiply<f16, Swizzle::BYTES_32, MN, 208>,
        multiply<bf16, Swizzle::BYTES_64, MN, 160>,
        multiply<f16, Swizzle::BYTES_128, MN, 128>,
        multiply<f16, Swizzle::BYTES_128, MN, 192, true>,
        multiply<bf16, Swizzle::BYTES_128, K, 112, true>,
    };
    int section = 0;
    for (Run* run : runs) {
        if (int error = run(section++, in, out, stream)) return error;
    }
    return SUCCESS;
}
