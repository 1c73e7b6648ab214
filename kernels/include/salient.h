// The C ABI of the kernels: per operation a parameter struct and a launcher.
//
// Every pointer is to device memory unless it says otherwise. A launcher enqueues on `stream`, never
// allocates and never synchronises, so it may be captured into a CUDA graph; it returns a
// cudaError_t, 0 for success. Parameters are checked by the caller (src/kernels/ in Rust); launchers
// and kernels check what only they can know: capabilities, and the values of device-side lists.
//
// Ragged batches: sequence b holds tokens cu_seqlens[b] .. cu_seqlens[b + 1] of `total`. Rows of a
// selection are numbered sequence * heads + head.
#ifndef SALIENT_H
#define SALIENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A cudaStream_t.
typedef void* SalientStream;

// What a kernel found wrong in data that only the device sees. Kernels add to it, so the caller
// clears it: flags to 0, row to UINT32_MAX.
typedef struct SalientStatus {
    uint32_t flags;  // SALIENT_STATUS_*, or-ed together
    uint32_t row;    // the lowest row at fault, NaN scores aside; UINT32_MAX if there is none
} SalientStatus;

enum {
    SALIENT_STATUS_NAN = 1,         // a score is NaN
    SALIENT_STATUS_PROTECTED = 2,   // more tokens are protected than the budget keeps
    SALIENT_STATUS_CAPACITY = 4,    // a row keeps more tokens than its list has room for
    SALIENT_STATUS_LENGTHS = 8,     // invalid cu_seqlens, spans or list lengths
    SALIENT_STATUS_INDEX = 16,      // a list entry outside its sequence, or -1 before the end
    SALIENT_STATUS_ORDER = 32,      // a list that does not ascend strictly
    SALIENT_STATUS_PAGE = 64,       // a page outside the pool
};

// Element types.
enum { SALIENT_F32 = 0, SALIENT_F16 = 1, SALIENT_BF16 = 2, SALIENT_F8E4M3 = 3 };

// Where the heads of a [tokens, heads, dim] tensor lie, in elements; multiples of 16 bytes.
typedef struct SalientStrides {
    int64_t token;
    int64_t head;
} SalientStrides;

// Does on the current device what the first launch of each kernel would do besides launching: loads
// it, and lets it have its shared memory. To be called before launches are captured, for loading may
// synchronise. Launchers that are not linked are left out.
int salient_prepare(void);

#include "salient/score.h"
#include "salient/select.h"
#include "salient/compact.h"
#include "salient/attend.h"
#include "salient/validate.h"

#ifdef __cplusplus
}
#endif

#endif
