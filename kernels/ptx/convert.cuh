// 16-bit and 8-bit floats as bits, and what they stand for.
#pragma once

#include "common/platform.cuh"

namespace salient {

struct f16 {
    uint16_t bits;
};

struct bf16 {
    uint16_t bits;
};

// fp8 of 4 bits of exponent and 3 of mantissa, without infinities (OCP OFP8).
struct e4m3 {
    uint8_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

__device__ __forceinline__ float to_float(f16 x) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
}

__device__ __forceinline__ float to_float(e4m3 x) {
    uint32_t magnitude = x.bits & 0x7f, sign = static_cast<uint32_t>(x.bits >> 7) << 31;
    // The exponents' biases differ by 120; the product takes care of subnormals.
    float value = __uint_as_float(magnitude << 20) * 0x1p120f;
    return __uint_as_float(magnitude == 0x7f ? 0x7fffffff : __float_as_uint(value) | sign);
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
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
}

// Two floats rounded to nearest even, `low` in the lower half (PTX ISA: cvt.rn.f16x2.f32 and
// cvt.rn.bf16x2.f32, sm_80). A NaN becomes 0x7fff.
template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high);

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

// 2 to the power of x, within 2 ulp; below the least normal number, 0 (PTX ISA:
// ex2.approx.ftz.f32).
__device__ __forceinline__ float exp2_approx(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// Makes the compiler forget what it has derived from a value, and so derive it again where it is
// needed instead of keeping it in registers.
__device__ __forceinline__ void reconsider(int& value) { asm volatile("" : "+r"(value)); }

// The next value towards zero; x is not negative, and no more than the type holds.
template <typename T>
__device__ __forceinline__ T truncate(float x);

template <>
__device__ __forceinline__ bf16 truncate<bf16>(float x) {
    return {static_cast<uint16_t>(__float_as_uint(x) >> 16)};
}

template <>
__device__ __forceinline__ f16 truncate<f16>(float x) {
    uint16_t bits;
    asm("cvt.rz.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
}

// The two halves of a word, the lower first.
template <typename T>
__device__ __forceinline__ void unpack(uint32_t word, float (&values)[2]) {
    values[0] = to_float(T{static_cast<uint16_t>(word)});
    values[1] = to_float(T{static_cast<uint16_t>(word >> 16)});
}

// a * b + c of two values each, rounded once (PTX ISA: fma.rn.f16x2 and fma.rn.bf16x2, sm_80).
template <typename T>
__device__ __forceinline__ uint32_t multiply_add_pair(uint32_t a, uint32_t b, uint32_t c);

template <>
__device__ __forceinline__ uint32_t multiply_add_pair<f16>(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

template <>
__device__ __forceinline__ uint32_t multiply_add_pair<bf16>(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// How an e4m3 at the upper end of 16 bits becomes a T: its magnitude shifted to where T has
// exponent and mantissa, times 2 to the power of what the biases differ by. That makes 480 of a
// NaN; times `overflow` it leaves the range of T, which 448 does not, and times 0 it is NaN again.
template <typename T>
struct FromE4m3;

template <>
struct FromE4m3<f16> {
    static constexpr uint32_t SHIFT = 1, MAGNITUDE = 0x3f803f80;
    static constexpr uint32_t SCALE = 0x5c005c00, OVERFLOW_AT_480 = 0x58905890;  // 2^8, 146
};

template <>
struct FromE4m3<bf16> {
    static constexpr uint32_t SHIFT = 4, MAGNITUDE = 0x07f007f0;
    static constexpr uint32_t SCALE = 0x7b807b80, OVERFLOW_AT_480 = 0x7b107b10;  // 2^120, 2^119 * 9/8
};

// The e4m3 in the second and fourth byte, as two T; exact. A NaN becomes 0x7fff.
template <typename T>
__device__ __forceinline__ uint32_t widen_odd(uint32_t bytes) {
    using From = FromE4m3<T>;
    constexpr uint32_t SIGNS = 0x80008000, MINUS_ZERO = SIGNS;
    uint32_t small = (bytes >> From::SHIFT & From::MAGNITUDE) | (bytes & SIGNS);
    uint32_t value = multiply_add_pair<T>(small, From::SCALE, MINUS_ZERO);
    uint32_t beyond = multiply_add_pair<T>(value, From::OVERFLOW_AT_480, MINUS_ZERO);
    return multiply_add_pair<T>(beyond, 0, value);
}

#if __CUDA_ARCH__ >= 890

// PTX ISA: cvt.rn.f16x2.e4m3x2, sm_89.
template <>
__device__ __forceinline__ uint32_t widen_odd<f16>(uint32_t bytes) {
    uint32_t pair;
    asm("{\n\t.reg .b16 both;\n\t.reg .b32 low;\n\t"
        "prmt.b32 low, %1, 0, 0x31;\n\tcvt.u16.u32 both, low;\n\t"
        "cvt.rn.f16x2.e4m3x2 %0, both;\n\t}"
        : "=r"(pair)
        : "r"(bytes));
    return pair;
}

// By way of f16, which has fewer steps than the arithmetic above.
template <>
__device__ __forceinline__ uint32_t widen_odd<bf16>(uint32_t bytes) {
    uint32_t pair = widen_odd<f16>(bytes);
    return pack<bf16>(to_float(f16{static_cast<uint16_t>(pair)}),
                      to_float(f16{static_cast<uint16_t>(pair >> 16)}));
}

#endif

// The e4m3 in the first and third byte.
template <typename T>
__device__ __forceinline__ uint32_t widen_even(uint32_t bytes) {
    return widen_odd<T>(bytes << 8);
}

}  // namespace salient
