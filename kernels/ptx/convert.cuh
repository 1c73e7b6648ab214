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

// The nearest value, ties to even. A NaN becomes 0x7fff.
template <typename T>
__device__ __forceinline__ T round_to(float x);

template <>
__device__ __forceinline__ float round_to<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 round_to<bf16>(float x) {
    uint32_t bits = __float_as_uint(x);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {static_cast<uint16_t>(x == x ? rounded : 0x7fff)};
}

template <>
__device__ __forceinline__ f16 round_to<f16>(float x) {
#ifdef SALIENT_EMULATOR
    return {x == x ? salient_emulated_bits<uint16_t>(static_cast<_Float16>(x)) : uint16_t(0x7fff)};
#else
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
#endif
}

// Two floats rounded to nearest even, `low` in the lower half (PTX ISA: cvt.rn.f16x2.f32 and
// cvt.rn.bf16x2.f32, sm_80). A NaN becomes 0x7fff.
template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high);

#ifdef SALIENT_EMULATOR

template <typename T>
inline uint32_t pack(float low, float high) {
    return round_to<T>(low).bits | static_cast<uint32_t>(round_to<T>(high).bits) << 16;
}

inline void reconsider(int&) {}

// 2 to the power of x, within 2 ulp; below the least normal number, 0 (PTX ISA: ex2.approx.ftz.f32).
inline float exp2_approx(float x) {
    float power = exp2f(x);
    return power < 0x1p-126f ? 0.0f : power;
}

#else

// Makes the compiler forget what it has derived from a value, and so derive it again where it is
// needed instead of keeping it in registers.
__device__ __forceinline__ void reconsider(int& value) { asm volatile("" : "+r"(value)); }

template <>
__device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

__device__ __forceinline__ float exp2_approx(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

#endif

// The next value towards zero; x is not negative, and no more than the type holds.
template <typename T>
__device__ __forceinline__ T truncate(float x);

template <>
__device__ __forceinline__ bf16 truncate<bf16>(float x) {
    return {static_cast<uint16_t>(__float_as_uint(x) >> 16)};
}

template <>
__device__ __forceinline__ f16 truncate<f16>(float x) {
#ifdef SALIENT_EMULATOR
    auto bits = salient_emulated_bits<uint16_t>(static_cast<_Float16>(x));
    return {static_cast<uint16_t>(bits - (to_float(f16{bits}) > x ? 1 : 0))};
#else
    uint16_t bits;
    asm("cvt.rz.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
#endif
}

// The two halves of a word, the lower first.
template <typename T>
__device__ __forceinline__ void unpack(uint32_t word, float (&values)[2]) {
    values[0] = to_float(T{static_cast<uint16_t>(word)});
    values[1] = to_float(T{static_cast<uint16_t>(word >> 16)});
}

}  // namespace salient
