// 16-bit floats as bits, and what they stand for.
#pragma once

#include "common/platform.cuh"

namespace salient {

struct f16 {
    uint16_t bits;
};

struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

__device__ __forceinline__ float to_float(f16 x) {
#ifdef SALIENT_EMULATOR
    return static_cast<float>(salient_emulated_bits<_Float16>(x.bits));
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#endif
}

// The two halves of a word, the lower first.
template <typename T>
__device__ __forceinline__ void unpack(uint32_t word, float (&values)[2]) {
    values[0] = to_float(T{static_cast<uint16_t>(word)});
    values[1] = to_float(T{static_cast<uint16_t>(word >> 16)});
}

}  // namespace salient
