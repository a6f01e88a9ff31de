// A step of a model of the Llama family on a CPU, over packed weights of 4 and 8 bits.
//
// The caller (`native.py`) fills the structures below and calls `sgl_forward`: one call a step. Nothing here throws or
// allocates once the buffers have grown to the largest step. One step at a time; the caller sees to that.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "chain.h"
#include "worker.h"

using namespace sgl;

extern "C" {

struct sgl_layer {
    const float* norm_attention;  // [hidden]
    const float* norm_feed;       // [hidden]
    const float* norm_query;      // [dim], or null
    const float* norm_key;        // [dim], or null
    Matrix qkv, out, gate, up, down;
    float* kv;  // [2 kv_heads, slots, dim]: a head's keys lie together, so the next are read ahead
};

struct sgl_model {
    int32_t layers, hidden, wide, heads, kv_heads, dim, vocabulary, level;
    float eps;
    int32_t threads, slots;
    const float* norm;  // [hidden]
    const float* cos;   // [positions, dim]
    const float* sin;   // [positions, dim]
    Matrix embedding, head;
    const sgl_layer* layer;
};

struct sgl_batch {
    int64_t rows, spans, wanted;
    const int64_t* tokens;     // [rows]
    const int64_t* positions;  // [rows]
    const int64_t* slots;      // [rows]
    const SpanView* span;      // [spans]
    const int64_t* runs;       // [runs, 2]: first slot, slots
    const int64_t* want;       // [wanted] rows, rising
    float* logits;             // [wanted, vocabulary]
    float* features;           // [rows, depths, hidden]: the residual stream after so many layers
    const int32_t* depth;      // [depths], each below `layers`
    int64_t depths;
};

}  // extern "C"

namespace sgl {

class Engine {
public:
    explicit Engine(const sgl_model& model) : m_(model), worker_(model.level, model.threads), k_(worker_.k) {}

    void forward(const sgl_batch& batch) {
        const int rows = int(batch.rows), hidden = m_.hidden;
        const int width = (m_.heads + 2 * m_.kv_heads) * m_.dim, inner = m_.heads * m_.dim;
        plan_.make(batch.span, int(batch.spans), batch.runs, batch.slots);
        x_ = x_buffer_.sized(size_t(rows) * hidden);
        normed_ = normed_buffer_.sized(size_t(rows) * hidden);
        qkv_ = qkv_buffer_.sized(size_t(rows) * width);
        mixed_ = mixed_buffer_.sized(size_t(rows) * inner);
        quantised_ = quantised_buffer_.sized(rows, hidden);
        inner_ = inner_buffer_.sized(rows, inner);
        wide_ = wide_buffer_.sized(rows, m_.wide);
        states_ = states_buffer_.sized(size_t(rows) * m_.heads * plan_.supers * (kStateHead + m_.dim));
        worker_.of_rows(rows, [&](int row) { k_.matrix_row(m_.embedding, int(batch.tokens[row]), x_ + size_t(row) * hidden); });
        int live = rows;
        for (int l = 0; l < m_.layers; ++l) {
            const sgl_layer& layer = m_.layer[l];
            const bool last = l + 1 == m_.layers;
            keep_features(batch, l);
            worker_.of_rows(rows, [&](int row) { norm(layer.norm_attention, row); });
            worker_.product(layer.qkv, quantised_, rows, qkv_, false);
            worker_.of_rows(rows, [&](int row) { write(layer, batch, row, width); });
            if (last && !batch.wanted) return;
            worker_.attend(attention(layer, batch, width, inner), plan_);
            if (last) {
                live = int(batch.wanted);
                for (Rows* each : {&quantised_, &inner_, &wide_}) each->lane = Rows::lane_of(size_t(live));
            }
            // In the last layer only wanted rows go on, side by side: `want` rises, so no row is overwritten before it is read.
            if (last && live < rows) {
                for (int i = 0; i < live; ++i) {
                    const size_t from = size_t(batch.want[i]);
                    std::memmove(x_ + size_t(i) * hidden, x_ + from * hidden, sizeof(float) * hidden);
                }
            }
            const Attention a = attention(layer, batch, width, inner);
            worker_.of_rows(live, [&](int i) {
                const int row = last ? int(batch.want[i]) : i;
                k_.merge_row(a, row, inner_, i);
            });
            worker_.product(layer.out, inner_, live, x_, true);
            worker_.of_rows(live, [&](int row) { norm(layer.norm_feed, row); });
            worker_.feed(layer.gate, layer.up, quantised_, live, wide_);
            worker_.product(layer.down, wide_, live, x_, true);
        }
        worker_.of_rows(live, [&](int row) { norm(m_.norm, row); });
        worker_.product(m_.head, quantised_, live, batch.logits, false);
    }

private:
    void keep_features(const sgl_batch& batch, int layers) const {
        for (int64_t i = 0; i < batch.depths; ++i) {
            if (batch.depth[i] != layers) continue;
            for (int64_t row = 0; row < batch.rows; ++row) {
                float* const to = batch.features + (row * batch.depths + i) * m_.hidden;
                std::memcpy(to, x_ + row * m_.hidden, sizeof(float) * m_.hidden);
            }
        }
    }

    void norm(const float* weight, int row) {
        const size_t at = size_t(row) * m_.hidden;
        k_.norm_row(x_ + at, weight, m_.eps, normed_ + at, quantised_, row);
    }

    // Rotate a row's queries and keys, and write its K and V into its slot.
    void write(const sgl_layer& layer, const sgl_batch& batch, int row, int width) {
        float* const at = qkv_ + size_t(row) * width;
        const int64_t position = batch.positions[row];
        const float* const cos = m_.cos + size_t(position) * m_.dim;
        const float* const sin = m_.sin + size_t(position) * m_.dim;
        const float factor = 1.44269504f / std::sqrt(float(m_.dim));  // scores in powers of two
        for (int h = 0; h < m_.heads + m_.kv_heads; ++h) {
            const bool query = h < m_.heads;
            k_.rotate_head(at + h * m_.dim, query ? layer.norm_query : layer.norm_key, m_.eps, cos, sin, m_.dim, query ? factor : 1.f);
        }
        for (int h = 0; h < 2 * m_.kv_heads; ++h) {
            float* const to = layer.kv + (size_t(h) * m_.slots + size_t(batch.slots[row])) * m_.dim;
            std::memcpy(to, at + size_t(m_.heads + h) * m_.dim, sizeof(float) * m_.dim);
        }
    }

    Attention attention(const sgl_layer& layer, const sgl_batch& batch, int width, int inner) const {
        return {layer.kv, qkv_, batch.positions, mixed_, states_, size_t(width), size_t(inner),
                m_.kv_heads, m_.heads / m_.kv_heads, m_.dim, plan_.supers, size_t(m_.slots)};
    }

    const sgl_model m_;
    Worker worker_;
    const Kernels& k_;
    StepPlan plan_;
    Buffer<float> x_buffer_, normed_buffer_, qkv_buffer_, mixed_buffer_, states_buffer_;
    RowsBuffer quantised_buffer_, inner_buffer_, wide_buffer_;
    float *x_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *mixed_ = nullptr, *states_ = nullptr;
    Rows quantised_{}, inner_{}, wide_{};
};

}  // namespace sgl

extern "C" {

// The version of these structures: another than `native.py` expects is not used.
int32_t sgl_version() { return 6; }

int32_t sgl_has_level(int32_t level) { return has_level(level); }

// Null when there is no memory. The structures that `model` points to must stay.
void* sgl_engine(const sgl_model* model) {
    try {
        return new Engine(*model);
    } catch (...) {
        return nullptr;
    }
}

void sgl_engine_free(void* engine) { delete static_cast<Engine*>(engine); }

// 0, or 1 when there is no memory for the step.
int32_t sgl_forward(void* engine, const sgl_batch* batch) {
    try {
        static_cast<Engine*>(engine)->forward(*batch);
        return 0;
    } catch (...) {
        return 1;
    }
}

// y [rows, outputs] = x [rows, depth] w^T + bias, x quantised row by row: a product alone, for tests and benchmarks.
void sgl_multiply(const Matrix* w, const float* x, int32_t rows, float* y, int32_t level) {
    const Kernels& k = kernels_of(level);
    RowsBuffer buffer;
    const Rows quantised = buffer.sized(size_t(rows), w->depth);
    for (int r = 0; r < rows; ++r) k.quantise_row(x + size_t(r) * w->depth, quantised, r);
    k.multiply(*w, 0, w->pairs(), quantised, rows, y, false);
}

// Null when there is no memory. What `head` points to must stay.
void* sgl_chain(const sgl_head* head) {
    try {
        return new Chain(*head);
    } catch (...) {
        return nullptr;
    }
}

void sgl_chain_free(void* chain) { delete static_cast<Chain*>(chain); }

// How many drafts were made, or -1 when there is no memory for them.
int32_t sgl_draft(void* chain, const sgl_drafts* wanted) {
    try {
        return static_cast<Chain*>(chain)->draft(*wanted);
    } catch (...) {
        return -1;
    }
}

// Row `row` of a matrix as floats.
void sgl_matrix_row(const Matrix* w, int32_t row, float* out, int32_t level) { kernels_of(level).matrix_row(*w, row, out); }

}  // extern "C"
