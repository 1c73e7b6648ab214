// **validate** of the C ABI: a part of salient.h, which includes it.
#pragma once

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
