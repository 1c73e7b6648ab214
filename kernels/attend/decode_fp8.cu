// attend: decode over caches of fp8 E4M3, a byte per element: rows are copied as they are, and
// widened to the queries' type, exactly, between shared memory and the products. Scales join the
// logits and the output. Rows of 65 to 96 channels go by the way of 128, whose other channels are
// never read.
#include "attend/decode_block.cuh"

namespace salient {
namespace {

template <typename T>
int run_fp8(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    if (p.dim <= 64) return run_group<T, e4m3, 64>(p, splits, blocks, stream);
    if (p.dim <= 128) return run_group<T, e4m3, 128>(p, splits, blocks, stream);
    return run_group<T, e4m3, 256>(p, splits, blocks, stream);
}

}  // namespace

int decode_fp8(const SalientDecodeParams& p, int splits, uint32_t blocks, SalientStream stream) {
    return p.dtype == SALIENT_F16 ? run_fp8<f16>(p, splits, blocks, stream)
                                  : run_fp8<bf16>(p, splits, blocks, stream);
}

}  // namespace salient
