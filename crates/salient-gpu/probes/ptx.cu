// One small kernel per wrapper of ptx/ and per built-in that the kernels use. Their results are
// compared with what the PTX manual says, on the software GPU and on a device.
#include "common/launch.cuh"
#include "ptx/async_copy.cuh"
#include "ptx/cluster.cuh"
#include "ptx/matrix.cuh"

namespace salient {
namespace {

// in: [32] words; out: [32][10] words.
__global__ void warp_functions(const uint32_t* in, uint32_t* out) {
    uint32_t lane = lane_id(), x = in[lane];
    uint32_t results[10] = {
        __shfl_sync(FULL_WARP, x, static_cast<int>(x % 32)),
        __shfl_up_sync(FULL_WARP, x, 3),
        __shfl_down_sync(FULL_WARP, x, 5),
        __shfl_xor_sync(FULL_WARP, x, 9),
        __ballot_sync(FULL_WARP, x & 1),
        __match_any_sync(FULL_WARP, x % 4),
        __reduce_add_sync(FULL_WARP, x),
        __reduce_max_sync(FULL_WARP, x),
        // Halves of the warp by themselves.
        __reduce_add_sync(lane < 16 ? 0xffffu : 0xffff0000u, x),
        static_cast<uint32_t>(__syncthreads_count(x & 2)),
    };
    for (int i = 0; i < 10; i++) out[lane * 10 + i] = results[i];
}

struct Matrices {
    uint16_t rows[32][8];
};

// in: four 8 x 8 matrices of 16 bits, row after row; out: [32][4] words.
template <bool TRANSPOSED>
__global__ void matrices(const Vector* in, uint32_t* out) {
    auto& shared = shared_memory<Matrices>();
    uint32_t lane = lane_id();
    *reinterpret_cast<Vector*>(shared.rows[lane]) = in[lane];
    __syncthreads();
    uint32_t words[4];
    if (TRANSPOSED) {
        load_matrices_transposed(words, shared.rows[lane]);
    } else {
        load_matrices(words, shared.rows[lane]);
    }
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = words[i];
}

// in: per lane 4 words of a, 2 of b, 4 of c; out: [32][4] f32.
template <typename T>
__global__ void product(const uint32_t* in, float* out) {
    uint32_t lane = lane_id(), a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = in[lane * 10 + i];
    for (int i = 0; i < 2; i++) b[i] = in[lane * 10 + 4 + i];
    for (int i = 0; i < 4; i++) d[i] = __uint_as_float(in[lane * 10 + 6 + i]);
    multiply_add<T>(d, a, b);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = d[i];
}

struct Stages {
    Vector at[2][64];
};

// Two groups of copies in flight; the last 8 vectors are invalid and become zeros.
__global__ void copies(const Vector* in, Vector* out) {
    auto& shared = shared_memory<Stages>();
    uint32_t thread = threadIdx.x;
    for (int group = 0; group < 2; group++) {
        uint32_t from = group * 64 + thread;
        copy_async_16(&shared.at[group][thread], in + from, from < 120);
        copy_async_commit();
    }
    copy_async_wait<1>();
    __syncthreads();
    out[thread] = shared.at[0][63 - thread];
    copy_async_wait<0>();
    __syncthreads();
    out[64 + thread] = shared.at[1][63 - thread];
}

struct Word {
    uint32_t word;
};

// out: [blocks][cluster] words: what each block of the cluster wrote.
__global__ void cluster(uint32_t* out) {
    auto& shared = shared_memory<Word>();
    if (threadIdx.x == 0) shared.word = 100 + blockIdx.x;
    cluster_sync();
    if (threadIdx.x < cluster_size()) {
        uint32_t word = cluster_load(&shared.word, threadIdx.x);
        out[blockIdx.x * cluster_size() + threadIdx.x] = word * 10 + cluster_rank();
    }
    cluster_sync();
}

// in: all 65536 values; out: [2][65536] f32, as f16 and as bf16.
__global__ void conversions(float* out) {
    uint32_t bits = blockIdx.x * blockDim.x + threadIdx.x;
    out[bits] = to_float(f16{static_cast<uint16_t>(bits)});
    out[65536 + bits] = to_float(bf16{static_cast<uint16_t>(bits)});
}

// in: [256] words of four e4m3; out: [5][256]: the first as f32; the even ones and the odd ones, as
// pairs of f16 and of bf16.
__global__ void widenings(const uint32_t* in, uint32_t* out) {
    uint32_t i = threadIdx.x, bytes = in[i];
    out[i] = __float_as_uint(to_float(e4m3{static_cast<uint8_t>(bytes)}));
    out[256 + i] = widen_even<f16>(bytes);
    out[512 + i] = widen_odd<f16>(bytes);
    out[768 + i] = widen_even<bf16>(bytes);
    out[1024 + i] = widen_odd<bf16>(bytes);
}

// in: a fragment of an 8 x 8 matrix, [32] words; out: that of its transpose.
__global__ void matrix_moved(const uint32_t* in, uint32_t* out) {
    uint32_t lane = lane_id();
    out[lane] = transpose_matrix(in[lane]);
}

// in: [32] f32; out: [2][32] words, as f16 and as bf16.
__global__ void truncations(const uint32_t* in, uint32_t* out) {
    uint32_t lane = lane_id();
    float x = __uint_as_float(in[lane]);
    out[lane] = static_cast<uint32_t>(truncate<f16>(x).bits);
    out[32 + lane] = static_cast<uint32_t>(truncate<bf16>(x).bits);
}

// in: [32] pairs of f32; out: [2][32] words, as f16 and as bf16.
__global__ void packs(const uint32_t* in, uint32_t* out) {
    uint32_t lane = lane_id();
    float low = __uint_as_float(in[2 * lane]), high = __uint_as_float(in[2 * lane + 1]);
    out[lane] = pack<f16>(low, high);
    out[32 + lane] = pack<bf16>(low, high);
}

}  // namespace
}  // namespace salient

using namespace salient;

// Every launcher takes words and gives words; those whose kernel reads nothing ignore `in`.

SALIENT_EXPORT int salient_probe_warp(const uint32_t* in, uint32_t* out, SalientStream stream) {
    return launch<warp_functions>({dim3(1), 32}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_matrices(const uint32_t* in, uint32_t* out,
                                          SalientStream stream) {
    return launch<matrices<false>, sizeof(Matrices)>({dim3(1), 32}, stream,
                                                     reinterpret_cast<const Vector*>(in), out);
}

SALIENT_EXPORT int salient_probe_matrices_transposed(const uint32_t* in, uint32_t* out,
                                                     SalientStream stream) {
    return launch<matrices<true>, sizeof(Matrices)>({dim3(1), 32}, stream,
                                                    reinterpret_cast<const Vector*>(in), out);
}

SALIENT_EXPORT int salient_probe_matrix_moved(const uint32_t* in, uint32_t* out,
                                              SalientStream stream) {
    return launch<matrix_moved>({dim3(1), 32}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_truncations(const uint32_t* in, uint32_t* out,
                                             SalientStream stream) {
    return launch<truncations>({dim3(1), 32}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_widenings(const uint32_t* in, uint32_t* out,
                                           SalientStream stream) {
    return launch<widenings>({dim3(1), 256}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_packs(const uint32_t* in, uint32_t* out, SalientStream stream) {
    return launch<packs>({dim3(1), 32}, stream, in, out);
}

SALIENT_EXPORT int salient_probe_product_f16(const uint32_t* in, uint32_t* out,
                                             SalientStream stream) {
    return launch<product<f16>>({dim3(1), 32}, stream, in, reinterpret_cast<float*>(out));
}

SALIENT_EXPORT int salient_probe_product_bf16(const uint32_t* in, uint32_t* out,
                                              SalientStream stream) {
    return launch<product<bf16>>({dim3(1), 32}, stream, in, reinterpret_cast<float*>(out));
}

SALIENT_EXPORT int salient_probe_copies(const uint32_t* in, uint32_t* out, SalientStream stream) {
    return launch<copies, sizeof(Stages)>({dim3(1), 64}, stream,
                                          reinterpret_cast<const Vector*>(in),
                                          reinterpret_cast<Vector*>(out));
}

SALIENT_EXPORT int salient_probe_cluster(const uint32_t*, uint32_t* out, SalientStream stream) {
    return launch<cluster, sizeof(Word)>({dim3(8), 32, 4}, stream, out);
}

SALIENT_EXPORT int salient_probe_conversions(const uint32_t*, uint32_t* out,
                                             SalientStream stream) {
    return launch<conversions>({dim3(256), 256}, stream, reinterpret_cast<float*>(out));
}
