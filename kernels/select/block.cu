// Selection with a block per row: rows of up to 16384 scores, read once.
#include "select/select.cuh"
#include "select/variants.cuh"

namespace salient {
namespace {

template <int THREADS>
int launch_rows(const SalientSelectParams& p, SalientStream stream) {
    constexpr size_t SHARED = sizeof(Single::Shared);
    Launch shape = {dim3(p.batch * p.heads), THREADS};
    return launch<select_rows<Single, THREADS>, SHARED>(shape, stream, p, 1);
}

}  // namespace

int select_block(const SalientSelectParams& p, SalientStream stream) {
    if (p.max_len <= 128 * KEYS) return launch_rows<128>(p, stream);
    if (p.max_len <= 512 * KEYS) return launch_rows<512>(p, stream);
    return launch_rows<1024>(p, stream);
}

}  // namespace salient
