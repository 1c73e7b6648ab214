// Everything that a first launch would do besides launching, for all kernels at once.
#include "common/launch.cuh"

namespace salient {
namespace {

int prepare() {
    size_t limit = shared_limit();
    for (const Kernel* kernel = Kernel::listed; kernel != nullptr; kernel = kernel->next) {
        // Loads it, where the driver is lazy.
        cudaFuncAttributes attributes;
        if (int error = cudaFuncGetAttributes(&attributes, kernel->function)) return error;
        // Others are not launched here.
        if (kernel->shared_bytes > limit) continue;
        if (int error = allow_shared(*kernel)) return error;
    }
    return SUCCESS;
}

}  // namespace
}  // namespace salient

SALIENT_EXPORT int salient_prepare(void) { return salient::prepare(); }
