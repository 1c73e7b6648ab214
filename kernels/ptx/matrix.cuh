// Tensor cores of sm_80 (PTX ISA: ldmatrix; mma.sync.aligned.m16n8k16, whose sections give the
// fragment layouts that the emulation follows).
#pragma once

#include "common/memory.cuh"
#include "ptx/convert.cuh"

namespace salient {

#ifdef SALIENT_EMULATOR

namespace matrix {

struct Rows {
    const void* row;
    uint32_t* words;
};

// Lane 8m + r gives row r of matrix m; lane l gets columns 2 (l % 4) and the next of row l / 4.
inline const char* load(void* const* data, uint32_t) {
    for (int m = 0; m < 4; m++) {
        for (int lane = 0; lane < 32; lane++) {
            auto* source = static_cast<Rows*>(data[8 * m + lane / 4]);
            auto* target = static_cast<Rows*>(data[lane]);
            memcpy(&target->words[m], static_cast<const char*>(source->row) + 4 * (lane % 4), 4);
        }
    }
    return nullptr;
}

// As `load`, but lane l gets rows 2 (l % 4) and the next of column l / 4.
inline const char* load_transposed(void* const* data, uint32_t) {
    for (int m = 0; m < 4; m++) {
        for (int lane = 0; lane < 32; lane++) {
            uint16_t elements[2];
            for (int i = 0; i < 2; i++) {
                auto* source = static_cast<Rows*>(data[8 * m + 2 * (lane % 4) + i]);
                memcpy(&elements[i], static_cast<const char*>(source->row) + 2 * (lane / 4), 2);
            }
            memcpy(&static_cast<Rows*>(data[lane])->words[m], elements, 4);
        }
    }
    return nullptr;
}

// Lane l holds columns 2 (l % 4) and the next of row l / 4, before and after.
inline const char* transpose(void* const* data, uint32_t) {
    uint16_t from[8][8];
    for (int lane = 0; lane < 32; lane++) memcpy(&from[lane / 4][2 * (lane % 4)], data[lane], 4);
    for (int lane = 0; lane < 32; lane++) {
        int row = 2 * (lane % 4), column = lane / 4;
        uint16_t pair[2] = {from[row][column], from[row + 1][column]};
        memcpy(data[lane], pair, 4);
    }
    return nullptr;
}

struct Fragments {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};

template <typename T>
const char* multiply(void* const* data, uint32_t) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        auto* mine = static_cast<Fragments*>(data[lane]);
        int group = lane / 4, pair = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) {
            float values[2];
            unpack<T>(mine->a[i], values);
            float* row = a[group + 8 * (i % 2)] + pair + 8 * (i / 2);
            row[0] = values[0];
            row[1] = values[1];
        }
        for (int i = 0; i < 2; i++) {
            float values[2];
            unpack<T>(mine->b[i], values);
            b[pair + 8 * i][group] = values[0];
            b[pair + 8 * i + 1][group] = values[1];
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        auto* mine = static_cast<Fragments*>(data[lane]);
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            float sum = mine->d[i];
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            mine->d[i] = sum;
        }
    }
    return nullptr;
}

}  // namespace matrix

inline void load_by(emulated::Complete* complete, uint32_t (&words)[4], const void* row,
                    emulated::Site site) {
    salient_emulated_access(row, 16, emulated::SHARED_LOAD, 1, site);
    if (reinterpret_cast<uintptr_t>(row) % 16) {
        salient_emulated_fail("a matrix row is not aligned to 16 bytes", site);
    }
    matrix::Rows mine{row, words};
    salient_emulated_collective(FULL_WARP, emulated::LDMATRIX, &mine, complete, site);
}

inline void load_matrices(uint32_t (&words)[4], const void* row, SALIENT_SITE) {
    load_by(matrix::load, words, row, site);
}

inline void load_matrices_transposed(uint32_t (&words)[4], const void* row, SALIENT_SITE) {
    load_by(matrix::load_transposed, words, row, site);
}

inline uint32_t transpose_matrix(uint32_t word, SALIENT_SITE) {
    salient_emulated_collective(FULL_WARP, emulated::MOVMATRIX, &word, matrix::transpose, site);
    return word;
}

template <typename T>
inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         SALIENT_SITE) {
    matrix::Fragments mine{d, a, b};
    salient_emulated_collective(FULL_WARP, emulated::MMA, &mine, matrix::multiply<T>, site);
}

#else

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

#endif

}  // namespace salient
