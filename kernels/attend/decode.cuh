// What the two kernels of decode share: which entries a list has, and how parts of a row's softmax
// are put together.
#pragma once

#include "common/status.cuh"
#include "ptx/convert.cuh"

namespace salient {
namespace decoding {

// A key's weight is never 0, lest it made NaN of an infinite value: this is far below the last bit
// of any sum that has a number in it.
constexpr float LEAST = 1e-37f;

// The entries of one list. Without a list entry i is token i.
struct List {
    const int32_t* kept;  // null: every token
    int row;              // of the status
    int count;            // entries
    int len;              // tokens of the sequence
    int start;            // its first token in a contiguous cache
    int seen;             // the first token that the window leaves
    bool valid;

    // The first entry that may be seen.
    __device__ __forceinline__ int begin() const { return kept == nullptr ? seen : 0; }
};

__device__ __forceinline__ List list_of(const SalientDecodeParams& p, int sequence, int head) {
    List list;
    int64_t room = p.tokens;
    list.start = 0;
    list.len = p.lens[sequence];
    if (p.page_table == nullptr) {
        list.start = p.span_starts[sequence];
        room = list.start < 0 ? -1 : room - list.start;
    } else {
        room = static_cast<int64_t>(p.page_size) * p.max_pages;
    }
    list.kept = nullptr;
    list.row = sequence;
    list.count = list.len;
    if (p.kept != nullptr) {
        list.row = sequence * p.list_heads + (p.list_heads > 1 ? head : 0);
        list.kept = p.kept + static_cast<int64_t>(list.row) * p.capacity;
        list.count = p.kept_lens[list.row];
    }
    list.valid = 0 <= list.len && list.len <= room && 0 <= list.count && list.count <= p.capacity;
    if (!list.valid) list.count = list.len = 0;
    list.seen = p.window == 0 ? 0 : max_of(0, list.len - p.window);
    return list;
}

// What part of a row's softmax with largest logit `max` weighs in the whole.
__device__ __forceinline__ float weight(float max, float largest) {
    float shift = largest == -INFINITY ? 0.0f : largest;
    return fmaxf(expf(max - shift), LEAST);
}

// What dot products are multiplied with: the scale of the head's keys is part of it.
__device__ __forceinline__ float logit_scale(const SalientDecodeParams& p, int head) {
    float scale = p.softcap == 0.0f ? p.scale : p.scale / p.softcap;
    return scale * (p.k_scales != nullptr ? p.k_scales[head] : 1.0f);
}

// A row put together from parts, in their order. The sum of a part whose logits are all -inf is
// infinite, and counts if there is nothing else.
struct Whole {
    float largest;
    float sum = 0.0f;
    float out = 0.0f;

    __device__ explicit Whole(float largest) : largest(largest) {}

    __device__ __forceinline__ void add(float max, float part_sum, float part_out) {
        float factor = weight(max, largest);
        bool counts = max != -INFINITY || largest == -INFINITY;
        sum += counts ? part_sum * factor : 0.0f;
        out += part_out * factor;
    }

    // Adds a sink, a logit without a value; -inf is none. Without one, weights that are all 0 have
    // no mean.
    __device__ __forceinline__ void join(float sink) {
        if (sum == INFINITY) sum = sink == -INFINITY ? NAN : 0.0f;
        if (sink == -INFINITY) return;
        float top = fmaxf(largest, sink), factor = weight(largest, top);
        sum = sum * factor + expf(sink - top);
        out *= factor;
        largest = top;
    }

    __device__ __forceinline__ float mean() const { return sum == 0.0f ? 0.0f : out / sum; }
    __device__ __forceinline__ float lse() const { return largest + logf(sum); }
};

// A channel of a row, if it exists, and with channel 0 the row's LSE; both with the row's sink.
template <typename T>
__device__ __forceinline__ void write(const SalientDecodeParams& p, int sequence, int q_head,
                                      int channel, bool exists, Whole whole) {
    whole.join(p.attention_sink != nullptr ? p.attention_sink[q_head] : -INFINITY);
    int64_t at = sequence * p.out_stride + q_head * p.out_head_stride + channel;
    float scale = p.v_scales != nullptr ? p.v_scales[q_head / p.group] : 1.0f;
    float mean = whole.mean() * scale;
    bool wide = p.out_dtype == SALIENT_F32;
    if (exists && wide) static_cast<float*>(p.out)[at] = mean;
    if (exists && !wide) static_cast<T*>(p.out)[at] = round_to<T>(mean);
    int64_t row = static_cast<int64_t>(sequence) * p.kv_heads * p.group + q_head;
    if (p.lse != nullptr && channel == 0) p.lse[row] = whole.lse();
}

// A split's part of a row, in the workspace.
struct Part {
    float* out;    // [dim]
    float* stats;  // largest logit, sum

    __device__ Part(const SalientDecodeParams& p, int splits, int sequence, int q_head,
                    int split) {
        int64_t rows = static_cast<int64_t>(p.batch) * p.kv_heads * p.group;
        int64_t row = static_cast<int64_t>(sequence) * p.kv_heads * p.group + q_head;
        int64_t at = row * splits + split;
        out = p.workspace + at * p.dim;
        stats = p.workspace + rows * splits * p.dim + at * 2;
    }
};

}  // namespace decoding
}  // namespace salient
