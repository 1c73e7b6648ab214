// **select** of the C ABI: a part of salient.h, which includes it.
#pragma once

enum { SALIENT_BUDGET_COUNT = 0, SALIENT_BUDGET_RATIO = 1, SALIENT_BUDGET_THRESHOLD = 2 };

enum {
    SALIENT_SELECT_AUTO = 0,     // the fastest that the device has for max_len
    SALIENT_SELECT_BLOCK = 1,    // a block per row, the row in registers: up to 16384 scores
    SALIENT_SELECT_CLUSTER = 2,  // a cluster per row, the row in registers: up to 131072, sm_90
    SALIENT_SELECT_GRID = 3,     // groups of blocks that meet in the workspace: any length
};

// Exact top-k, or threshold, in index order. The contract is that of salient::select.
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
