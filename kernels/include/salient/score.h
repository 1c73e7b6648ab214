// **score** of the C ABI: a part of salient.h, which includes it.
#pragma once

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

// How the scores of query heads become one: their mean, their maximum, or their maximum after each is
// divided by its largest in the sequence.
enum { SALIENT_HEADS_MEAN = 0, SALIENT_HEADS_MAX = 1, SALIENT_HEADS_MAX_NORMALISED = 2 };

enum { SALIENT_POOL_AVERAGE = 0, SALIENT_POOL_MAX = 1 };

// Scores pooled along the tokens of each sequence: of every token and those within half a width of it.
typedef struct SalientPoolParams {
    const float* scores;        // [heads, total]
    float* out;                 // [heads, total]; not where the scores lie
    const int32_t* cu_seqlens;  // [batch + 1]
    SalientStatus* status;
    int32_t batch;
    int32_t heads;
    int32_t total;
    int32_t max_len;            // no sequence is longer; a longer one is a LENGTHS fault
    int32_t kind;               // SALIENT_POOL_*
    int32_t width;              // odd, up to SALIENT_MAX_POOL_WIDTH
} SalientPoolParams;

enum { SALIENT_MAX_POOL_WIDTH = 33 };

int salient_pool(const SalientPoolParams* params, SalientStream stream);

// Percentile ranks of scores: of each, the number of scores of its sequence and head that are strictly
// lower, over the sequence's length. The rank of NaN is NaN, which is lower than nothing.
typedef struct SalientRankParams {
    const float* scores;        // [heads, total]
    float* out;                 // [heads, total]; not where the scores lie
    const int32_t* cu_seqlens;  // [batch + 1]
    SalientStatus* status;
    int32_t batch;
    int32_t heads;
    int32_t total;
    int32_t max_len;            // no sequence is longer; a longer one is a LENGTHS fault
} SalientRankParams;

int salient_rank(const SalientRankParams* params, SalientStream stream);

// Softmax attention of the last queries of each sequence, made one score per token. The contract is
// that of salient::score: the last min(window, queries, tokens) queries of a sequence see its
// keys causally, aligned at the end. A query's sum of exponentials is computed, or taken from an LSE
// that prefill saved; a query whose LSE is -infinity counts nothing. Sequences with impossible offsets
// are reported and not written. q and k are 16-byte aligned.
//
// The workspace's parts are null where they are not needed: stats and sums if there is an LSE; logits
// but for windows of few queries, which save them instead of reading keys twice and then need no raw;
// maxima unless heads are normalised. A tile is SALIENT_SCORE_TILE keys, or more.
typedef struct SalientAttentionScoreParams {
    const void* q;              // [queries, q_heads, dim]
    const void* k;              // [total, kv_heads, dim]
    const float* lse;           // [queries, q_heads] log of the sum of exponentials; or null
    float* scores;              // [total], or [kv_heads, total] if per_kv_head
    const int32_t* cu_queries;  // [batch + 1]
    const int32_t* cu_seqlens;  // [batch + 1]
    SalientStatus* status;
    float* stats;               // [total / tile + batch, q_heads, window, 2] of each tile of keys
    float* sums;                // [batch, q_heads, window, 2]
    float* logits;              // [q_heads, window, total] dot products
    float* raw;                 // [kv_heads, total]; [q_heads, total] if heads are normalised
    float* maxima;              // [total / tile + batch, q_heads, 8] largest scores of each tile
    SalientStrides q_strides;
    SalientStrides k_strides;
    float scale;                // of the dot product
    float first_weight;         // of a window's first query, and its last; weights between them are
    float last_weight;          // evenly spaced, and scaled to add up to 1. The larger is 1
    int32_t window;             // the most queries that count; without an LSE, at most
                                // SALIENT_MAX_WINDOW
    int32_t heads;              // SALIENT_HEADS_*
    int32_t per_kv_head;        // 1: a score for every KV head and token
    int32_t pool;               // SALIENT_POOL_*
    int32_t pool_width;         // odd, up to SALIENT_MAX_POOL_WIDTH; 1: no pooling
    int32_t batch;
    int32_t q_heads;
    int32_t kv_heads;
    int32_t dim;                // a multiple of 8, up to 256
    int32_t queries;
    int32_t total;
    int32_t max_len;            // no sequence has more tokens; one that has is a LENGTHS fault
    int32_t dtype;              // of q and k: f16 or bf16
} SalientAttentionScoreParams;

enum { SALIENT_MAX_WINDOW = 128, SALIENT_SCORE_TILE = 128 };

int salient_attention_score(const SalientAttentionScoreParams* params, SalientStream stream);

// Expected attention: of query head g, x[t] = sum over channels j of k[t, j] * (mean[j] + sum over i of
// product[i, j] * k[t, i]), softmax over the tokens of a sequence behind its sinks, 0 for those; then
// the mean over a group's heads plus epsilon, times the norm of the token's value.
//
// `weights` holds, for every set and query head, chunks of 16 columns of the product, with the channels
// in the order of score/keys.cuh: the columns' 16 means in f32, one f32 that x is to be multiplied by,
// 12 bytes of nothing, then, with a product, for each block of 16 rows up to the columns' own and each
// of the 2 (f16) or 3 (bf16) terms that an element is the sum of, a 16 x 16 block as mma.m16n8k16 takes
// its second operand: 16 bytes a lane. The product is upper triangular; rows and columns beyond dim are
// 0, up to a multiple of 32.
typedef struct SalientExpectedParams {
    const void* k;              // [total, kv_heads, dim]; 16-byte aligned
    const void* v;              // [total, kv_heads, value_dim]; or null: norms are 1
    const void* weights;        // [sets, q_heads, head_bytes]; 16-byte aligned
    const int32_t* cu_seqlens;  // [batch + 1]
    float* scores;              // [total], the mean over KV heads, or [kv_heads, total] if per_kv_head
    SalientStatus* status;
    float* logits;              // [q_heads, total]
    float* totals;              // [batch, q_heads, 2] largest logit, 1 / sum of exponentials
    float* norms;               // [kv_heads, total]; null if v is
    SalientStrides k_strides;
    SalientStrides v_strides;   // any
    int64_t head_bytes;         // of a head in weights
    float epsilon;
    int32_t sinks;              // first tokens of a sequence that the softmax leaves out
    int32_t sets;               // 1, or batch: weights of every sequence's own
    int32_t product;            // 0: there is none
    int32_t per_kv_head;
    int32_t batch;
    int32_t q_heads;
    int32_t kv_heads;
    int32_t dim;                // a multiple of 8, up to 256
    int32_t value_dim;
    int32_t total;
    int32_t max_len;            // no sequence is longer; a longer one is a LENGTHS fault
    int32_t dtype;              // of k and v: f16 or bf16
} SalientExpectedParams;

int salient_expected(const SalientExpectedParams* params, SalientStream stream);

// The lightning indexer: logit[m, n] = scales[n] * sum over heads h of weights[m, h] * ReLU(q[m, h] .
// k[n]) for the keys n of its sequence that query m sees, -infinity for others. Which those are is told
// as for prefill.
typedef struct SalientIndexerParams {
    const void* q;              // [queries, heads, dim]; 16-byte aligned
    const float* weights;       // [queries, heads]
    const void* k;              // [keys, dim], rows k_stride elements apart; 16-byte aligned
    const float* scales;        // [keys]; or null: 1
    const int32_t* cu_queries;  // [batch + 1]
    const int32_t* cu_keys;     // [batch + 1]
    const int32_t* firsts;      // [queries]; null: 0
    const int32_t* limits;      // [queries]; null unless sees is SALIENT_SEES_ROWS
    float* logits;              // [queries, out_stride]; if that is 0, [keys], where the one query or
                                // none of a sequence has its row where the sequence's keys lie
    SalientStatus* status;      // INDEX: a first row or limit beyond the keys; row: the query
    SalientStrides q_strides;
    int64_t k_stride;           // a multiple of 16 bytes
    int64_t out_stride;
    int32_t sees;               // SALIENT_SEES_*
    int32_t batch;
    int32_t heads;              // up to SALIENT_INDEXER_MAX_HEADS
    int32_t dim;                // a multiple of 16, up to SALIENT_INDEXER_MAX_DIM
    int32_t queries;
    int32_t keys;
    int32_t max_queries;        // no sequence has more; one that has is a LENGTHS fault
    int32_t max_keys;           // the same
    int32_t dtype;              // of q and k: f16, bf16 or e4m3
} SalientIndexerParams;

enum { SALIENT_INDEXER_MAX_HEADS = 64, SALIENT_INDEXER_MAX_DIM = 128 };

int salient_indexer(const SalientIndexerParams* params, SalientStream stream);
