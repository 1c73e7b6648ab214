// A kernel that is wrong on purpose, each time in one way that the software GPU must report.
#include "common/launch.cuh"
#include "ptx/async_copy.cuh"

namespace salient {
namespace {

enum Wrong : int {
    NOTHING,
    MISSING_BARRIER,
    DIVERGENT_BARRIER,
    EARLY_EXIT,
    DIVERGENT_SHUFFLE,
    BEYOND_THE_END,
    BEFORE_THE_START,
    MISALIGNED,
    BEYOND_SHARED,
    UNAWAITED_COPY,
    ENDLESS_WAIT,
    SHARED_TOO_SMALL,
};

struct Words {
    alignas(16) uint32_t at[128];
};

struct TooMuch {
    uint32_t at[256];
};

// Reverses 128 words.
__global__ void reverse(const uint32_t* in, uint32_t* out, int wrong) {
    uint32_t thread = threadIdx.x;
    if (wrong == SHARED_TOO_SMALL) shared_memory<TooMuch>().at[thread + 128] = 0;
    auto& shared = shared_memory<Words>();
    if (wrong == EARLY_EXIT && thread == 77) return;
    if (wrong == UNAWAITED_COPY) {
        if (thread < 32) copy_async_16(&shared.at[4 * thread], in + 4 * thread, true);
        copy_async_commit();
    } else {
        uint32_t from = thread + (wrong == BEYOND_THE_END) - (wrong == BEFORE_THE_START);
        uint32_t to = wrong == BEYOND_SHARED ? thread + 1 : thread;
        shared.at[to] = in[static_cast<int>(from)];
    }
    if (wrong == MISALIGNED) {
        auto* bytes = reinterpret_cast<const unsigned char*>(in);
        reinterpret_cast<Vector*>(out)[thread / 4] = *reinterpret_cast<const Vector*>(bytes + 4);
    }
    if (wrong == DIVERGENT_SHUFFLE && thread % 32 < 16) __syncwarp();
    if (wrong == ENDLESS_WAIT) {
        while (load_acquire(in) == 0) __nanosleep(20);
    }
    if (wrong == DIVERGENT_BARRIER && thread % 32 >= 16) {
        __syncthreads();
    } else if (wrong != MISSING_BARRIER) {
        __syncthreads();
    }
    out[thread] = shared.at[127 - thread];
}

}  // namespace
}  // namespace salient

SALIENT_EXPORT int salient_probe_reverse(const uint32_t* in, uint32_t* out, int wrong,
                                         SalientStream stream) {
    using namespace salient;
    return launch<reverse, sizeof(Words)>({dim3(1), 128}, stream, in, out, wrong);
}
