// Tensor cores of sm_80 (PTX ISA: ldmatrix; mma.sync.aligned.m16n8k16, whose sections give the
// layouts of fragments).
#pragma once

#include "common/memory.cuh"
#include "ptx/convert.cuh"

namespace salient {

// Four 8 x 8 matrices of 16-bit elements; lane 8m + r points at row r of matrix m, 16 bytes in
// shared memory. words[m] holds elements 2 (lane % 4) and the next of row lane / 4 of matrix m.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

// The same, but words[m] holds the elements of rows 2 (lane % 4) and the next in column lane / 4.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

// Transposes an 8 x 8 matrix of 16-bit elements that lies in the warp's registers as load_matrices
// puts it (PTX ISA: movmatrix).
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t word) {
    uint32_t transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(word));
    return transposed;
}

template <typename T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]);

// d += a b: a is 16 x 16 in rows, b 16 x 8 in columns, both 16-bit; d is f32.
#define SALIENT_MULTIPLY_ADD(T, name)                                                         \
    template <>                                                                               \
    __device__ __forceinline__ void multiply_add<T>(float (&d)[4], const uint32_t (&a)[4],    \
                                                    const uint32_t (&b)[2]) {                 \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "           \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));     \
    }

SALIENT_MULTIPLY_ADD(f16, "f16")
SALIENT_MULTIPLY_ADD(bf16, "bf16")
#undef SALIENT_MULTIPLY_ADD

}  // namespace salient
