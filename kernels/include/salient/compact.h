// **compact** of the C ABI: a part of salient.h, which includes it.
#pragma once

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
