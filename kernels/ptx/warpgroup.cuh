// Matrix multiplies of a warpgroup, four warps whose first is a multiple of four, from shared
// memory (PTX ISA: Asynchronous Warpgroup Level Matrix Instructions; setmaxnreg). For sm_90a;
// elsewhere these trap.
//
// They run behind the threads' back: from a multiply until a wait lets its group through, its
// accumulators are neither read nor written, and its operands in shared memory are not written.
#pragma once

#include "ptx/convert.cuh"
#include "ptx/tensor_copy.cuh"

namespace salient {

// How an operand lies in shared memory: the elements along k contiguous, or those of a row of a
// (column of b).
enum class Major : uint32_t { K = 0, MN = 1 };

// Where a matrix operand lies in shared memory (PTX ISA: Matrix Descriptor Format), in rows that
// are as wide as the swizzle, 8 of them its atom: `stride` bytes from 8 rows to the next 8. If K is
// major rows are along k, and an operand of 16 elements lies within their width. If MN is, rows are
// those of k, and `leading` bytes lead from one width to the next. Without a swizzle an atom is 8
// rows of 16 bytes: with K major `leading` leads to the next 8 elements along k and `stride` to the
// next 8 rows; with MN major `stride` leads to the next 8 elements, `leading` to the next 8 rows of
// k.
template <Swizzle SWIZZLE>
__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, uint32_t leading,
                                                      uint32_t stride) {
    constexpr uint64_t MODE = SWIZZLE == Swizzle::BYTES_128  ? 1
                              : SWIZZLE == Swizzle::BYTES_64 ? 2
                              : SWIZZLE == Swizzle::BYTES_32 ? 3
                                                             : 0;
    uint64_t start = shared_address(shared);
    return (start & 0x3ffff) >> 4 | static_cast<uint64_t>(leading & 0x3ffff) >> 4 << 16 |
           static_cast<uint64_t>(stride & 0x3ffff) >> 4 << 32 | MODE << 62;
}

// The operand that begins this many bytes further on, a multiple of 16; 32 for the next 16 elements
// along the width of a swizzled row.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, uint32_t bytes) {
    return descriptor + (bytes >> 4);
}

// Before the first multiply, and wherever registers that a multiply uses were touched by anything
// else: what they hold is seen by the multiplies after it (PTX ISA: wgmma.fence).
__device__ __forceinline__ void warpgroup_fence() {
    if constexpr (SM_90A) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    } else {
        unsupported();
    }
}

// Closes the group of multiplies that were started since the last.
__device__ __forceinline__ void warpgroup_commit() {
    if constexpr (SM_90A) {
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    } else {
        unsupported();
    }
}

// Waits until at most PENDING groups are on their way. warpgroup_hold those accumulators that are
// ready.
template <int PENDING>
__device__ __forceinline__ void warpgroup_wait() {
    if constexpr (SM_90A) {
        asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    } else {
        unsupported();
    }
}

// Keeps the compiler from moving what it does with accumulators across this place: to stand before
// a fence and behind a wait.
template <int TILES>
__device__ __forceinline__ void warpgroup_hold(float (&d)[TILES][4]) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        asm volatile("" : "+f"(d[tile][0]), "+f"(d[tile][1]), "+f"(d[tile][2]), "+f"(d[tile][3])
                     :: "memory");
    }
}

// The same for operands in registers.
template <int TILES>
__device__ __forceinline__ void warpgroup_hold(uint32_t (&a)[TILES][4]) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        asm volatile("" : "+r"(a[tile][0]), "+r"(a[tile][1]), "+r"(a[tile][2]), "+r"(a[tile][3])
                     :: "memory");
    }
}

// Takes up to this many registers per thread, a multiple of 8 from 24 to 256, once they are free; by
// all warps of a warpgroup, in a kernel with launch bounds.
template <int REGISTERS>
__device__ __forceinline__ void registers_increase() {
    static_assert(REGISTERS >= 24 && REGISTERS <= 256 && REGISTERS % 8 == 0, "");
    if constexpr (SM_90A) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    } else {
        unsupported();
    }
}

// Gives back all above this many.
template <int REGISTERS>
__device__ __forceinline__ void registers_decrease() {
    static_assert(REGISTERS >= 24 && REGISTERS <= 256 && REGISTERS % 8 == 0, "");
    if constexpr (SM_90A) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
    } else {
        unsupported();
    }
}

namespace warpgroup {

template <typename T, int N>
struct Multiply;

// Lists of the operands of m64nNk16: N / 16 times 8 accumulators, as text and as constraints.
#define SALIENT_D1 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SALIENT_D2 SALIENT_D1 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SALIENT_D3 SALIENT_D2 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define SALIENT_D4 SALIENT_D3 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SALIENT_D5 SALIENT_D4 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define SALIENT_D6 SALIENT_D5 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define SALIENT_D7 SALIENT_D6 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define SALIENT_D8 SALIENT_D7 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define SALIENT_D9 SALIENT_D8 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define SALIENT_D10 SALIENT_D9 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define SALIENT_D11 SALIENT_D10 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define SALIENT_D12 SALIENT_D11 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define SALIENT_D13 SALIENT_D12 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define SALIENT_D14 SALIENT_D13 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define SALIENT_D15 SALIENT_D14 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define SALIENT_D16 SALIENT_D15 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define SALIENT_TILE(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define SALIENT_R1 SALIENT_TILE(0), SALIENT_TILE(1)
#define SALIENT_R2 SALIENT_R1, SALIENT_TILE(2), SALIENT_TILE(3)
#define SALIENT_R3 SALIENT_R2, SALIENT_TILE(4), SALIENT_TILE(5)
#define SALIENT_R4 SALIENT_R3, SALIENT_TILE(6), SALIENT_TILE(7)
#define SALIENT_R5 SALIENT_R4, SALIENT_TILE(8), SALIENT_TILE(9)
#define SALIENT_R6 SALIENT_R5, SALIENT_TILE(10), SALIENT_TILE(11)
#define SALIENT_R7 SALIENT_R6, SALIENT_TILE(12), SALIENT_TILE(13)
#define SALIENT_R8 SALIENT_R7, SALIENT_TILE(14), SALIENT_TILE(15)
#define SALIENT_R9 SALIENT_R8, SALIENT_TILE(16), SALIENT_TILE(17)
#define SALIENT_R10 SALIENT_R9, SALIENT_TILE(18), SALIENT_TILE(19)
#define SALIENT_R11 SALIENT_R10, SALIENT_TILE(20), SALIENT_TILE(21)
#define SALIENT_R12 SALIENT_R11, SALIENT_TILE(22), SALIENT_TILE(23)
#define SALIENT_R13 SALIENT_R12, SALIENT_TILE(24), SALIENT_TILE(25)
#define SALIENT_R14 SALIENT_R13, SALIENT_TILE(26), SALIENT_TILE(27)
#define SALIENT_R15 SALIENT_R14, SALIENT_TILE(28), SALIENT_TILE(29)
#define SALIENT_R16 SALIENT_R15, SALIENT_TILE(30), SALIENT_TILE(31)

// p0 to p6 are the operands behind them.
#define SALIENT_MULTIPLY(T, name, N, HALF, p0, p1, p2, p3, p4, p5, p6)                            \
    template <>                                                                                   \
    struct Multiply<T, N> {                                                                       \
        template <int A, int B>                                                                   \
        static __device__ __forceinline__ void shared(float (&d)[N / 8][4], uint64_t a, uint64_t b,\
                                                      int accumulate) {                           \
            asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, " p2 ", 0;\n\t"                \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." name "." name " {"     \
                         SALIENT_D##HALF "}, " p0 ", " p1 ", add, 1, 1, " p3 ", " p4 ";\n\t}"     \
                         : SALIENT_R##HALF                                                        \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(A), "n"(B));                      \
        }                                                                                         \
        template <int B>                                                                          \
        static __device__ __forceinline__ void registers(float (&d)[N / 8][4],                    \
                                                         const uint32_t (&a)[4], uint64_t b,      \
                                                         int accumulate) {                        \
            asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, " p5 ", 0;\n\t"                \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." name "." name " {"     \
                         SALIENT_D##HALF "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4               \
                         ", add, 1, 1, " p6 ";\n\t}"                                              \
                         : SALIENT_R##HALF                                                        \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),   \
                           "n"(B));                                                               \
        }                                                                                         \
    };
#define SALIENT_MULTIPLIES(T, name)                                                               \
    SALIENT_MULTIPLY(T, name, 16, 1, "%8", "%9", "%10", "%11", "%12", "%13", "%14")               \
    SALIENT_MULTIPLY(T, name, 32, 2, "%16", "%17", "%18", "%19", "%20", "%21", "%22")             \
    SALIENT_MULTIPLY(T, name, 48, 3, "%24", "%25", "%26", "%27", "%28", "%29", "%30")             \
    SALIENT_MULTIPLY(T, name, 64, 4, "%32", "%33", "%34", "%35", "%36", "%37", "%38")             \
    SALIENT_MULTIPLY(T, name, 80, 5, "%40", "%41", "%42", "%43", "%44", "%45", "%46")             \
    SALIENT_MULTIPLY(T, name, 96, 6, "%48", "%49", "%50", "%51", "%52", "%53", "%54")             \
    SALIENT_MULTIPLY(T, name, 112, 7, "%56", "%57", "%58", "%59", "%60", "%61", "%62")            \
    SALIENT_MULTIPLY(T, name, 128, 8, "%64", "%65", "%66", "%67", "%68", "%69", "%70")            \
    SALIENT_MULTIPLY(T, name, 144, 9, "%72", "%73", "%74", "%75", "%76", "%77", "%78")            \
    SALIENT_MULTIPLY(T, name, 160, 10, "%80", "%81", "%82", "%83", "%84", "%85", "%86")           \
    SALIENT_MULTIPLY(T, name, 176, 11, "%88", "%89", "%90", "%91", "%92", "%93", "%94")           \
    SALIENT_MULTIPLY(T, name, 192, 12, "%96", "%97", "%98", "%99", "%100", "%101", "%102")        \
    SALIENT_MULTIPLY(T, name, 208, 13, "%104", "%105", "%106", "%107", "%108", "%109", "%110")    \
    SALIENT_MULTIPLY(T, name, 224, 14, "%112", "%113", "%114", "%115", "%116", "%117", "%118")    \
    SALIENT_MULTIPLY(T, name, 240, 15, "%120", "%121", "%122", "%123", "%124", "%125", "%126")    \
    SALIENT_MULTIPLY(T, name, 256, 16, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

SALIENT_MULTIPLIES(f16, "f16")
SALIENT_MULTIPLIES(bf16, "bf16")

}  // namespace warpgroup

// d = a b, plus d if `accumulate`: a is 64 x 16 and b 16 x N, of 16-bit floats, both in shared
// memory; d is f32, N = 8 TILES a multiple of 16 up to 256 (PTX ISA: wgmma.mma_async). Lane l of
// warp w of the warpgroup holds, in d[tile][i], row 16 w + l / 4 + 8 (i / 2), column 8 tile + 2 (l
// % 4) + i % 2.
template <typename T, Major A, Major B, int TILES>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[TILES][4], uint64_t a, uint64_t b,
                                                   bool accumulate) {
    if constexpr (SM_90A) {
        using Multiply = warpgroup::Multiply<T, 8 * TILES>;
        Multiply::template shared<static_cast<int>(A), static_cast<int>(B)>(d, a, b, accumulate);
    } else {
        unsupported();
    }
}

// The same with rows 16 w to 16 w + 15 of a in the registers of warp w, as multiply_add takes them.
template <typename T, Major B, int TILES>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[TILES][4], const uint32_t (&a)[4],
                                                   uint64_t b, bool accumulate) {
    if constexpr (SM_90A) {
        using Multiply = warpgroup::Multiply<T, 8 * TILES>;
        Multiply::template registers<static_cast<int>(B)>(d, a, b, accumulate);
    } else {
        unsupported();
    }
}

}  // namespace salient
