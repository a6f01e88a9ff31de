// A chain of drafts of an EAGLE-3 head (`draft/eagle/head.py` says what is computed): one call a chain.
//
// The head has one layer. Of new positions it needs K and V, and only the last one goes on to a draft. Each further draft
// reads the head's own output, the embedding of the draft before, and an entry more.
#pragma once

#include <cmath>
#include <cstring>

#include "worker.h"

extern "C" {

struct sgl_head {
    int32_t hidden, wide, heads, kv_heads, dim, drafts, level, threads;  // drafts: tokens that can be drafted
    float eps;
    int32_t norm_output, norm_before_residual, unused;
    const float* norms_fuse;    // [3, hidden], or null
    const float* norm_feature;  // [hidden]
    const float* norm_input;    // [hidden]
    const float* norm_feed;     // [hidden]
    const float* norm;          // [hidden]
    const float* cos;           // [positions, dim]
    const float* sin;           // [positions, dim]
    sgl::Matrix fuse, query, key, value, out, gate, up, down, head, embedding;  // embedding: of what can be drafted
};

struct sgl_drafts {
    int64_t rows;               // new positions, 1 or more
    const float* features;      // [rows, 3 hidden]
    const float* embedded;      // [rows, hidden]: of the tokens one position on
    const int64_t* positions;   // [rows + drafts - 1]: of the new positions, and of the chain's
    float* kv;                  // [2 kv_heads, capacity, dim]
    int64_t capacity, length;   // entries that there are; rows + drafts - 1 more have room
    int64_t drafts;             // at most
    float least;                // nothing is drafted behind a chain that is less probable
    int32_t unused;
    int32_t* tokens;            // [drafts]: numbers among what can be drafted
    float* chances;             // [drafts]
};

}  // extern "C"

namespace sgl {

class Chain {
public:
    explicit Chain(const sgl_head& head) : h_(head), worker_(head.level, head.threads), k_(worker_.k) {}

    int draft(const sgl_drafts& d) {
        const int rows = int(d.rows), hidden = h_.hidden;
        fuse(d, rows);
        step(d, d.embedded, feature_, rows, 0);
        float whole = 1.f;
        for (int i = 0; i < d.drafts; ++i) {
            if (whole < d.least) return i;
            if (i) {
                k_.matrix_row(h_.embedding, d.tokens[i - 1], embedded_);
                std::memcpy(feature_, h_.norm_output ? normed_ : x_, sizeof(float) * hidden);
                step(d, embedded_, feature_, 1, rows + i - 1);
            }
            worker_.product(h_.head, state_, 1, scores_, false);
            d.tokens[i] = k_.best_of(scores_, h_.drafts, d.chances + i);
            whole *= d.chances[i];
        }
        return int(d.drafts);
    }

private:
    // The one vector of the target's three features.
    void fuse(const sgl_drafts& d, int rows) {
        const int hidden = h_.hidden;
        const size_t count = size_t(rows);
        feature_ = feature_buffer_.sized(count * hidden);
        both_ = both_buffer_.sized(count * 3 * hidden);
        fused_ = fused_buffer_.sized(count, 3 * hidden);
        double_ = double_buffer_.sized(count, 2 * hidden);
        part_ = part_buffer_.sized(count, hidden);
        state_ = state_buffer_.sized(1, hidden);
        inner_ = inner_buffer_.sized(1, h_.heads * h_.dim);
        wide_ = wide_buffer_.sized(1, h_.wide);
        queries_ = queries_buffer_.sized(count * h_.heads * h_.dim);
        keys_ = keys_buffer_.sized(2 * count * h_.kv_heads * h_.dim);
        x_ = x_buffer_.sized(size_t(3 * hidden + h_.heads * h_.dim));
        normed_ = x_ + hidden, embedded_ = normed_ + hidden, mixed_ = embedded_ + hidden;
        scores_ = scores_buffer_.sized(size_t(h_.drafts));
        worker_.of_rows(rows, [&](int row) {
            const float* from = d.features + size_t(row) * 3 * hidden;
            if (h_.norms_fuse) {
                float* const to = both_ + size_t(row) * 3 * hidden;
                for (int i = 0; i < 3; ++i) k_.norm_row(from + i * hidden, h_.norms_fuse + i * hidden, h_.eps, to + i * hidden, part_, row);
                from = to;
            }
            k_.quantise_row(from, fused_, row);
        });
        worker_.product(h_.fuse, fused_, rows, feature_, false);
    }

    // Some positions, of which the last one goes on: to `x_`, `normed_` and `state_`. `before`: positions of this call
    // before these.
    void step(const sgl_drafts& d, const float* embedded, const float* feature, int rows, int before) {
        const int hidden = h_.hidden, inner = h_.heads * h_.dim, of_kv = h_.kv_heads * h_.dim;
        for (Rows* each : {&double_, &part_}) each->lane = Rows::lane_of(size_t(rows));
        worker_.of_rows(rows, [&](int row) {
            const size_t at = size_t(row) * hidden;
            float* const to = both_ + 2 * at;
            k_.norm_row(embedded + at, h_.norm_input, h_.eps, to, part_, row);
            k_.norm_row(feature + at, h_.norm_feature, h_.eps, to + hidden, part_, row);
            k_.quantise_row(to, double_, row);
        });
        const float* const last = h_.norm_before_residual ? both_ + size_t(2 * rows - 1) * hidden : feature + size_t(rows - 1) * hidden;
        std::memcpy(x_, last, sizeof(float) * hidden);
        float* const values = keys_ + size_t(rows) * of_kv;
        worker_.product(h_.query, double_, rows, queries_, false);
        worker_.product(h_.key, double_, rows, keys_, false);
        worker_.product(h_.value, double_, rows, values, false);
        const int64_t first = d.length + before;
        for (int row = 0; row < rows; ++row) {
            const size_t position = size_t(d.positions[before + row]) * h_.dim;
            for (int h = 0; h < h_.kv_heads; ++h) {
                float* const key = keys_ + size_t(row) * of_kv + h * h_.dim;
                k_.rotate_head(key, nullptr, h_.eps, h_.cos + position, h_.sin + position, h_.dim, 1.f);
                const size_t slot = size_t(first + row);
                std::memcpy(d.kv + (size_t(h) * d.capacity + slot) * h_.dim, key, sizeof(float) * h_.dim);
                std::memcpy(d.kv + (size_t(h_.kv_heads + h) * d.capacity + slot) * h_.dim,
                            values + size_t(row) * of_kv + h * h_.dim, sizeof(float) * h_.dim);
            }
        }
        float* const query = queries_ + size_t(rows - 1) * inner;
        const size_t position = size_t(d.positions[before + rows - 1]) * h_.dim;
        const float factor = 1.44269504f / std::sqrt(float(h_.dim));  // scores in powers of two
        for (int h = 0; h < h_.heads; ++h) {
            k_.rotate_head(query + h * h_.dim, nullptr, h_.eps, h_.cos + position, h_.sin + position, h_.dim, factor);
        }
        attend(d, query, first + rows - 1);
        worker_.product(h_.out, inner_, 1, x_, true);
        k_.norm_row(x_, h_.norm_feed, h_.eps, normed_, state_, 0);
        worker_.feed(h_.gate, h_.up, state_, 1, wide_);
        worker_.product(h_.down, wide_, 1, x_, true);
        k_.norm_row(x_, h_.norm, h_.eps, normed_, state_, 0);
    }

    // One query row, entry number `entry`, attends to the entries up to itself.
    void attend(const sgl_drafts& d, const float* query, int64_t entry) {
        const SpanView span{0, 1, entry, 0, 1};
        const int64_t run[2] = {0, entry};
        plan_.make(&span, 1, run, &entry);
        const int inner = h_.heads * h_.dim;
        const Attention a{d.kv, query, &entry, mixed_, states_.sized(size_t(h_.heads) * plan_.supers * (kStateHead + h_.dim)),
                          size_t(inner), size_t(inner), h_.kv_heads, h_.heads / h_.kv_heads, h_.dim, plan_.supers, size_t(d.capacity)};
        worker_.attend(a, plan_);
        k_.merge_row(a, 0, inner_, 0);
    }

    const sgl_head h_;
    Worker worker_;
    const Kernels& k_;
    StepPlan plan_;
    Buffer<float> feature_buffer_, both_buffer_, queries_buffer_, keys_buffer_, x_buffer_, scores_buffer_, states_;
    RowsBuffer fused_buffer_, double_buffer_, part_buffer_, state_buffer_, inner_buffer_, wide_buffer_;
    float *feature_ = nullptr, *both_ = nullptr, *queries_ = nullptr, *keys_ = nullptr, *x_ = nullptr, *normed_ = nullptr;
    float *embedded_ = nullptr, *mixed_ = nullptr, *scores_ = nullptr;
    Rows fused_{}, double_{}, part_{}, state_{}, inner_{}, wide_{};
};

}  // namespace sgl
