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
    SALIENT_STATUS_LENGTHS = 8,     // cu_seqlens, spans or list lengths that cannot be
    SALIENT_STATUS_INDEX = 16,      // a list entry outside its sequence, or -1 before the end
    SALIENT_STATUS_ORDER = 32,      // a list that does not ascend strictly
    SALIENT_STATUS_PAGE = 64,       // a page outside the pool
};

// Element types.
enum { SALIENT_F32 = 0, SALIENT_F16 = 1, SALIENT_BF16 = 2, SALIENT_F8E4M3 = 3 };

// ---- score ----

// The predictor: scores[t] = b2 + sum over n of w2[n] * gelu(rstd[t] * (x[t] . w1[n]) + b1[n]).
// Partial sums of every tile of columns lie in `partials` and are added in order.
typedef struct SalientMlpParams {
    const void* x;            // [tokens, hidden], rows x_stride elements apart; 16-byte aligned
    const void* w1;           // [width, hidden], the norm's weight folded in; 16-byte aligned
    const float* b1;          // [width]
    const float* w2;          // [width]
    float* scores;            // [tokens]
    float* partials;          // [ceil(width / SALIENT_MLP_TILE), tokens]
    const int32_t* valid;     // [1] tokens that exist, at most `tokens`; the rest score -inf. Or null
    int64_t x_stride;         // elements; a multiple of 8
    float b2;
    float eps;                // epsilon of the RMSNorm
    int32_t norm;             // 0: no norm, rstd = 1
    int32_t tokens;
    int32_t hidden;           // a multiple of 8
    int32_t width;
    int32_t dtype;            // of x and w1: f16 or bf16
} SalientMlpParams;

enum { SALIENT_MLP_TILE = 128 };  // columns that one partial sum covers

int salient_mlp(const SalientMlpParams* params, SalientStream stream);

// Minus the Euclidean norm of each key, per head or averaged over heads in order.
typedef struct SalientKeynormParams {
    const void* keys;         // [tokens, heads, dim] by strides
    float* scores;            // [heads, tokens], or [tokens] if mean
    int64_t token_stride;     // elements
    int64_t head_stride;      // elements
    int32_t tokens;
    int32_t heads;
    int32_t dim;
    int32_t mean;             // 1: the mean over heads
    int32_t dtype;
} SalientKeynormParams;

int salient_keynorm(const SalientKeynormParams* params, SalientStream stream);

// ---- select ----

enum { SALIENT_BUDGET_COUNT = 0, SALIENT_BUDGET_RATIO = 1, SALIENT_BUDGET_THRESHOLD = 2 };

enum {
    SALIENT_SELECT_AUTO = 0,     // the fastest that the device has for max_len
    SALIENT_SELECT_BLOCK = 1,    // a block per row, the row in registers: up to 16384 scores
    SALIENT_SELECT_CLUSTER = 2,  // a cluster per row, the row in registers: up to 131072, sm_90
    SALIENT_SELECT_GRID = 3,     // groups of blocks that meet in the workspace: any length
};

// Exact top-k, or threshold, in index order. The contract is that of salient::host::select.
typedef struct SalientSelectParams {
    const float* scores;        // [heads, score_stride]; head h of token t at h * score_stride + t
    const int32_t* cu_seqlens;  // [batch + 1]
    const int32_t* counts;      // [batch] tokens to keep, or null: `count` for all
    const int32_t* sinks;       // [batch] first tokens never dropped, or null: sinks_all
    const int32_t* recent;      // [batch] last tokens never dropped, or null: recent_all
    const uint8_t* mask;        // [total] nonzero: never dropped; or null
    const int32_t* positions;   // [total] original positions; null if kept_positions is
    int32_t* kept;              // [batch * heads, capacity] ascending, -1 after the last
    int32_t* kept_lens;         // [batch * heads]
    int32_t* kept_positions;    // [batch * heads, capacity], -1 after the last; or null
    int32_t* inverse;           // [heads, total] place in the row's list, or -1; or null
    int32_t* cu_kept;           // [batch * heads + 1] where each list starts when packed; or null
    SalientStatus* status;
    void* workspace;            // workspace_bytes, 16-byte aligned; contents do not matter
    int64_t workspace_bytes;
    int64_t score_stride;
    double ratio;               // kept fraction in (0, 1]
    float threshold;            // not NaN
    int32_t budget;             // SALIENT_BUDGET_*
    int32_t batch;
    int32_t heads;
    int32_t total;
    int32_t count;
    int32_t sinks_all;
    int32_t recent_all;
    int32_t capacity;
    int32_t max_len;            // no sequence is longer; a longer one is a LENGTHS fault
    int32_t variant;            // SALIENT_SELECT_*
} SalientSelectParams;

// Workspace of the grid variant: SALIENT_SELECT_GROUP_BYTES for every row, or for
// SALIENT_SELECT_MAX_GROUPS rows if there are more. Other variants take none.
enum {
    SALIENT_SELECT_GROUP_BYTES = 32768,
    SALIENT_SELECT_MAX_GROUPS = 64,
};

int salient_select(const SalientSelectParams* params, SalientStream stream);

// ---- compact ----

enum { SALIENT_MAX_TENSORS = 16 };

// A [rows, row_bytes] tensor and where its kept rows go.
typedef struct SalientRowTensor {
    const void* src;     // rows src_stride bytes apart
    void* dst;           // rows dst_stride bytes apart; not read by salient_rows_in_place
    int64_t src_stride;
    int64_t dst_stride;
    int64_t row_bytes;
} SalientRowTensor;

// Kept rows of several tensors, packed in order: list entry i of sequence b goes from row
// cu_seqlens[b] + kept[b, i] to row cu_kept[b] + i.
typedef struct SalientRowsParams {
    SalientRowTensor tensors[SALIENT_MAX_TENSORS];
    const int32_t* kept;        // [batch, capacity]
    const int32_t* kept_lens;   // [batch]
    const int32_t* cu_kept;     // [batch + 1]
    const int32_t* cu_seqlens;  // [batch + 1]
    SalientStatus* status;
    int32_t tensor_count;
    int32_t batch;
    int32_t capacity;
    int32_t total;              // rows of every source
    int32_t kept_total;         // rows of every destination
} SalientRowsParams;

// Into other buffers, which do not overlap the sources.
int salient_rows(const SalientRowsParams* params, SalientStream stream);

// To the front of the sources themselves.
int salient_rows_in_place(const SalientRowsParams* params, SalientStream stream);

// Where a lane of a cache lies: byte strides. A lane is what moves as one, a head or a part of one.
typedef struct SalientKvLayout {
    int64_t token_stride;  // from a token to the next (in a page, where paged)
    int64_t lane_stride;
    int64_t page_stride;   // 0 if the cache is contiguous
    int32_t lanes;
    int32_t lane_bytes;    // contiguous bytes of a token in a lane
} SalientKvLayout;

enum {
    SALIENT_KV_STABLE = 0,     // survivors keep their order
    SALIENT_KV_HOLE_FILL = 1,  // survivors beyond the new length move into the holes below it
};

// Moves kept keys and values to the front of their sequence, in place, in every tensor.
typedef struct SalientKvParams {
    void* const* tensors;        // [tensor_count] device pointers in device memory, keys and values
                                 // in turn: tensor t is laid out as layouts[t % 2]
    const int32_t* kept;         // [batch * list_heads, capacity]
    const int32_t* kept_lens;    // [batch * list_heads]
    const int32_t* lens;         // [batch] tokens of every sequence
    const int32_t* span_starts;  // [batch] first token of every sequence; null if paged
    const int32_t* page_table;   // [batch, max_pages]; null if contiguous
    int32_t* order;              // [batch * list_heads, capacity] the old token now in each place,
                                 // -1 after the last; or null
    int32_t* freed;              // [batch * max_pages] pages without kept tokens, in table order; or
                                 // null
    int32_t* freed_count;        // [1]; null if freed is
    SalientStatus* status;
    SalientKvLayout layouts[2];  // of keys, of values
    int32_t tensor_count;
    int32_t batch;
    int32_t list_heads;          // 1, or a number that divides the lanes of both layouts
    int32_t capacity;
    int32_t tokens;              // tokens that a contiguous tensor holds; 0 if paged
    int32_t page_size;           // 0 if contiguous
    int32_t max_pages;           // pages per sequence in the table
    int32_t pages;               // pages that a paged tensor holds
    int32_t mode;                // SALIENT_KV_*
} SalientKvParams;

int salient_kv(const SalientKvParams* params, SalientStream stream);

// ---- attend ----

// Which of its sequence's key rows a query sees.
enum {
    SALIENT_SEES_ALL = 0,     // every one
    SALIENT_SEES_CAUSAL = 1,  // aligned at the end: query i of n over m keys sees the first m - n + i + 1
    SALIENT_SEES_ROWS = 2,    // those from firsts[i] to below limits[i]
};

// Where the heads of a [tokens, heads, dim] tensor lie, in elements; multiples of 16 bytes.
typedef struct SalientStrides {
    int64_t token;
    int64_t head;
} SalientStrides;

// Attention of packed queries over the keys of their sequences. Query heads h * group up to
// (h + 1) * group read KV head h, where group = q_heads / kv_heads. A row that sees no key becomes 0,
// its LSE its sink, or -infinity. A sink that is NaN or infinity makes NaN of its head's rows.
// Tensors are 16-byte aligned.
typedef struct SalientPrefillParams {
    const void* q;              // [queries, q_heads, dim]
    const void* k;              // [keys, kv_heads, dim]
    const void* v;              // [keys, kv_heads, dim]
    void* out;                  // [queries, q_heads, dim]
    float* lse;                 // [queries, q_heads] log of the sum of exponentials; or null
    const int32_t* cu_queries;  // [batch + 1]
    const int32_t* key_starts;  // [batch] first key row of every sequence
    const int32_t* key_lens;    // [batch] key rows of every sequence
    const int32_t* firsts;      // [queries] counted from the sequence's first key; null: 0
    const int32_t* limits;      // [queries]; null unless sees is SALIENT_SEES_ROWS
    const float* sinks;         // [q_heads] logits that join every row's sum of weights; or null
    SalientStatus* status;      // INDEX: a first row or limit beyond the keys; row: the query
    SalientStrides q_strides;
    SalientStrides k_strides;
    SalientStrides v_strides;
    SalientStrides out_strides;
    float scale;                // of the dot product
    float softcap;              // scaled logits x become cap * tanh(x / cap); 0: they stay
    int32_t window;             // a query with limit L sees no row before L - window; 0: no window
    int32_t sees;               // SALIENT_SEES_*
    int32_t batch;
    int32_t q_heads;
    int32_t kv_heads;
    int32_t dim;                // a multiple of 8, up to SALIENT_PREFILL_MAX_DIM
    int32_t queries;
    int32_t keys;               // key rows that k and v hold
    int32_t max_queries;        // no sequence has more; one that has is a LENGTHS fault
    int32_t dtype;              // of q, k and v: f16 or bf16
    int32_t out_dtype;          // dtype or f32
    int32_t variant;            // SALIENT_PREFILL_AUTO, _SM80, _SM90
} SalientPrefillParams;

enum {
    SALIENT_PREFILL_AUTO = 0,  // the fastest that the device has for these tensors
    SALIENT_PREFILL_SM80 = 1,  // copies and products of sm_80: every device
    SALIENT_PREFILL_SM90 = 2,  // tensor copies and warpgroup products of sm_90a
};

enum { SALIENT_PREFILL_MAX_DIM = 256 };

int salient_prefill(const SalientPrefillParams* params, SalientStream stream);

// Where keys or values lie: strides in elements, multiples of 16 bytes.
typedef struct SalientDecodeLayout {
    int64_t token_stride;  // from a token to the next (in a page, where paged)
    int64_t head_stride;
    int64_t page_stride;   // 0 if the cache is contiguous
} SalientDecodeLayout;

// Attention of one query per sequence over the keys that its lists name, in list order. Entries
// outside the sequence, and those on pages outside the pool, are a fault and left out; a list that
// does not ascend is a fault, too, and attended as it is. A sequence or list whose length cannot be
// counts as empty. Of an empty list the output is 0, the LSE the sink, or -inf. A sink that is NaN or
// infinity makes NaN of its head's rows.
typedef struct SalientDecodeParams {
    const void* q;               // [batch, kv_heads * group, dim] by strides; 16-byte aligned
    const void* k;               // 16-byte aligned
    const void* v;               // 16-byte aligned
    void* out;                   // [batch, kv_heads * group, dim] by strides
    float* lse;                  // [batch, kv_heads * group]; or null
    const int32_t* lens;         // [batch] tokens of every sequence
    const int32_t* span_starts;  // [batch] first token of every sequence; null if paged
    const int32_t* page_table;   // [batch, max_pages]; null if contiguous
    const int32_t* kept;         // [batch * list_heads, capacity]; null: every token
    const int32_t* kept_lens;    // [batch * list_heads]; null if kept is
    const float* sinks;          // [kv_heads * group] logits that join every row's sum of weights;
                                 // or null
    const float* k_scales;       // [kv_heads] what the keys of a head are multiplied with; null: 1
    const float* v_scales;       // [kv_heads] and its values
    SalientStatus* status;       // rows are those of lists; without lists, sequences
    float* workspace;            // [batch * kv_heads * group, splits, dim + 2] elements with splits =
                                 // ceil(capacity / split); not used if there is but one
    SalientDecodeLayout layouts[2];  // of keys, of values
    int64_t q_stride;            // elements from a sequence to the next; a multiple of 8
    int64_t q_head_stride;       // a multiple of 8
    int64_t out_stride;
    int64_t out_head_stride;
    float scale;
    float softcap;               // 0: none
    int32_t window;              // the last tokens of a sequence that are seen; 0: all
    int32_t batch;
    int32_t kv_heads;
    int32_t group;               // query heads per KV head: 1 to 16
    int32_t dim;                 // up to 256, a multiple of 8, or of 16 for fp8
    int32_t list_heads;          // 1 or kv_heads; 0 without lists
    int32_t capacity;            // entries that a list, or without lists a sequence, may have
    int32_t split;               // entries per block; a multiple of 64
    int32_t tokens;              // tokens that a contiguous cache holds; 0 if paged
    int32_t page_size;           // 0 if contiguous
    int32_t max_pages;           // pages per sequence in the table
    int32_t pages;               // pages that the pool holds
    int32_t dtype;               // of q: f16 or bf16
    int32_t out_dtype;           // f32 or dtype
    int32_t cache_dtype;         // of k and v: dtype or fp8 E4M3
} SalientDecodeParams;

int salient_decode(const SalientDecodeParams* params, SalientStream stream);

// ---- validate ----

// Checks device-side lists: ascending, in range, -1 after the last and only there, lengths that fit,
// offsets that match; and pages in the pool. Writes nothing but the status.
typedef struct SalientValidateParams {
    const int32_t* cu_seqlens;  // [batch + 1]
    const int32_t* kept;        // [batch * heads, capacity]
    const int32_t* kept_lens;   // [batch * heads]
    const int32_t* cu_kept;     // [batch * heads + 1], or null
    const int32_t* page_table;  // [batch, max_pages], or null
    SalientStatus* status;
    int32_t batch;
    int32_t heads;
    int32_t capacity;
    int32_t total;
    int32_t page_size;
    int32_t max_pages;
    int32_t pages;
} SalientValidateParams;

int salient_validate(const SalientValidateParams* params, SalientStream stream);

#ifdef __cplusplus
}
#endif

#endif
