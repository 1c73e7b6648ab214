// **attend** of the C ABI: a part of salient.h, which includes it.
#pragma once

// Which of its sequence's key rows a query sees.
enum {
    SALIENT_SEES_ALL = 0,     // every one
    SALIENT_SEES_CAUSAL = 1,  // aligned at the end: query i of n over m keys sees the first m - n + i + 1
    SALIENT_SEES_ROWS = 2,    // those from firsts[i] to below limits[i]
};

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
    const float* attention_sink;  // [q_heads] logits that join every row's sum of weights; or null
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
    const float* attention_sink;  // [kv_heads * group] logits that join every row's sum of
                                  // weights; or null
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
