/* select and compact through the C ABI: of two prompts' tokens, keep the best half of each, and move
 * their hidden states together. `scripts/example-c` builds and runs it. */
#include <cuda_runtime_api.h>
#include <salient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 2, TOTAL = 10, WIDTH = 4, CAPACITY = 3, KEPT = 5 };

/* Every call of the CUDA runtime and every launcher returns a cudaError_t. */
static void check(int error, const char* what) {
    if (error == 0) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)error));
    exit(1);
}

/* Memory on the device, with a copy of `data` or cleared. */
static void* on_device(const void* data, size_t bytes) {
    void* memory = NULL;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    if (data != NULL) {
        check(cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice), "upload");
    } else {
        check(cudaMemset(memory, 0, bytes), "clear");
    }
    return memory;
}

int main(void) {
    /* Prompts of 6 and 4 tokens, their scores, and hidden states that say which token they are of. */
    const int32_t cu_seqlens[BATCH + 1] = {0, 6, 10};
    const int32_t counts[BATCH] = {3, 2};
    const float scores[TOTAL] = {0.1f, 0.9f, 0.3f, 0.8f, 0.2f, 0.4f, 3.0f, 1.0f, 2.0f, 0.0f};
    float hidden[TOTAL][WIDTH];
    for (int token = 0; token < TOTAL; token++) {
        for (int i = 0; i < WIDTH; i++) hidden[token][i] = (float)(100 * token + i);
    }
    const SalientStatus clear = {0, UINT32_MAX};

    check(salient_prepare(), "salient_prepare");
    void* status = on_device(&clear, sizeof clear);
    int32_t* lengths = on_device(cu_seqlens, sizeof cu_seqlens);

    SalientSelectParams select;
    memset(&select, 0, sizeof select);
    select.scores = on_device(scores, sizeof scores);
    select.cu_seqlens = lengths;
    select.counts = on_device(counts, sizeof counts);
    select.kept = on_device(NULL, BATCH * CAPACITY * sizeof(int32_t));
    select.kept_lens = on_device(NULL, BATCH * sizeof(int32_t));
    select.cu_kept = on_device(NULL, (BATCH + 1) * sizeof(int32_t));
    select.status = status;
    select.score_stride = TOTAL;
    select.budget = SALIENT_BUDGET_COUNT;
    select.batch = BATCH;
    select.heads = 1;
    select.total = TOTAL;
    select.sinks_all = 1; /* the first token of each always stays */
    select.capacity = CAPACITY;
    select.max_len = 6;
    select.variant = SALIENT_SELECT_BLOCK; /* rows this short need no workspace */
    check(salient_select(&select, NULL), "salient_select");

    SalientRowsParams rows;
    memset(&rows, 0, sizeof rows);
    rows.tensors[0].src = on_device(hidden, sizeof hidden);
    rows.tensors[0].dst = on_device(NULL, KEPT * sizeof hidden[0]);
    rows.tensors[0].row_bytes = sizeof hidden[0];
    rows.tensors[0].src_stride = sizeof hidden[0];
    rows.tensors[0].dst_stride = sizeof hidden[0];
    rows.kept = select.kept;
    rows.kept_lens = select.kept_lens;
    rows.cu_kept = select.cu_kept;
    rows.cu_seqlens = lengths;
    rows.status = status;
    rows.tensor_count = 1;
    rows.batch = BATCH;
    rows.capacity = CAPACITY;
    rows.total = TOTAL;
    rows.kept_total = KEPT;
    check(salient_rows(&rows, NULL), "salient_rows");

    /* The copies wait for the launches, which were on the same stream. */
    SalientStatus found;
    float moved[KEPT][WIDTH];
    check(cudaMemcpy(&found, status, sizeof found, cudaMemcpyDeviceToHost), "status");
    check(cudaMemcpy(moved, rows.tensors[0].dst, sizeof moved, cudaMemcpyDeviceToHost), "rows");
    if (found.flags != 0) {
        fprintf(stderr, "the kernels found faults: %u\n", found.flags);
        return 1;
    }
    const float expected[KEPT] = {0, 100, 300, 600, 800};
    for (int i = 0; i < KEPT; i++) {
        printf("row %d is of token %d\n", i, (int)moved[i][0] / 100);
        if (moved[i][0] != expected[i] || moved[i][WIDTH - 1] != expected[i] + WIDTH - 1) return 1;
    }
    return 0;
}
