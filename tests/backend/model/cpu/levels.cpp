// Every level of instructions that this machine has, beside the portable one and plain loops, on random inputs.
//
// For machines whose Python is elsewhere: `make test-neon` compiles this for aarch64 and runs it in an emulator. The
// arguments are levels that must be there. What is tested:
// - whole numbers are equal, and products have the bits of plain loops with the same roundings;
// - floats differ from the portable level's by no more than kBound of their size, and a model's logits by no more than
//   kModelBound, which is that of test_quantised_llama.py;
// - a row has the same bits in any number of rows.

#include "native.cpp"
#include "sampling.cpp"

#include <cstdio>
#include <functional>
#include <random>
#include <string>

namespace {

constexpr double kBound = 1e-5, kModelBound = 2e-3;
constexpr const char* kNames[] = {"portable", "avx2", "avxvnni", "avx512", "amx", "neon"};
constexpr int kRows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 145, 255, 257, 512};

long checks = 0, failures = 0;
std::string at;

void check(bool holds, const char* what) {
    ++checks;
    if (!holds && ++failures <= 20) std::printf("FAILED %s: %s\n", at.c_str(), what);
}

bool same_bits(const float* a, const float* b, size_t count) { return !std::memcmp(a, b, count * sizeof(float)); }

void check_near(const float* got, const float* wanted, size_t count, double bound, const char* what) {
    double size = 1e-30, most = 0;
    for (size_t i = 0; i < count; ++i) {
        size = std::max(size, double(std::fabs(wanted[i])));
        most = std::max(most, double(std::fabs(got[i] - wanted[i])));
        if (std::isnan(got[i])) most = INFINITY;
    }
    check(most <= bound * size, what);
}

std::mt19937 random_bits(7);
float uniform() { return float(int32_t(random_bits())) * 0x1p-31f; }

std::vector<float> floats(size_t count, float scale = 1, float middle = 0) {
    std::vector<float> out(count);
    for (float& x : out) x = middle + scale * uniform();
    return out;
}

// Activations with outliers, and some rows of zeros and of tiny numbers.
std::vector<float> activations(int rows, int depth) {
    std::vector<float> x = floats(size_t(rows) * depth);
    for (size_t i = 0; i < x.size(); i += 5) x[i] *= 300;
    for (int r = 2; r < rows; r += 11) std::fill_n(x.begin() + size_t(r) * depth, depth, 0.f);
    for (int r = 3; r < rows; r += 11) for (int d = 0; d < depth; ++d) x[size_t(r) * depth + d] *= 1e-30f;
    return x;
}

uint16_t half_bits(float x) {  // of a number between 2^-14 and 2^15, truncated
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t(bits >> 16 & 0x8000) | uint16_t(((bits >> 23 & 255) - 112) << 10) | uint16_t(bits >> 13 & 1023);
}

struct Packed {
    std::vector<uint8_t> data;
    std::vector<float> bias;
    Matrix matrix;
    Packed(int kind, int outputs, int depth, bool biased, float scale = 1) {
        matrix = {nullptr, nullptr, kind, outputs, depth, 0};
        data.resize(2 * size_t(matrix.pairs()) * matrix.group_bytes() + kAhead);
        for (auto& byte : data) byte = uint8_t(random_bits());
        const int numbers = kind == kQ41 || kind == kQ4K ? 2 * kGroup : kGroup;
        for (size_t from = 0; from + record_bytes(kind) <= data.size(); from += record_bytes(kind)) {
            for (int i = 0; i < numbers; ++i) {
                const float value = scale * (uniform() + (random_bits() & 1 ? 1.1f : -1.1f));
                const uint16_t half = half_bits(value);
                if (kind == kQ4K) std::memcpy(&data[from + 4 * i], &value, 4);
                else std::memcpy(&data[from + 2 * i], &half, 2);
            }
        }
        if (biased) bias = floats(outputs);
        matrix.data = data.data();
        matrix.bias = biased ? bias.data() : nullptr;
    }
};

// What one output of one row is, number by number; `fused`: products and sums are rounded once.
float plain_product(const Matrix& w, int output, const Rows& x, int row, bool fused) {
    const int r = output % kGroup;
    const uint8_t* record = w.data + output / kGroup * w.group_bytes();
    float sum = 0;
    for (int b = 0; b < w.depth / kBlock; ++b, record += record_bytes(w.kind)) {
        const uint8_t* const codes = record + scale_bytes(w.kind);
        const BlockScale& s = *x.scale(row, b);
        float d, minimum = 0;
        if (w.kind == kQ4K) {
            std::memcpy(&d, record + 4 * r, 4);
            std::memcpy(&minimum, record + 4 * (kGroup + r), 4);
        } else {
            d = half_value(record + 2 * r);
            if (w.kind == kQ41) minimum = half_value(record + 2 * (kGroup + r));
        }
        int32_t dot = 0;
        for (int k = 0; k < kBlock; ++k) {
            const int g = k / 4, j = k % 4;
            const int code = w.kind == kQ80 ? codes[64 * g + 4 * r + j] - 128 : codes[64 * (g / 2) + 4 * r + j] >> 4 * (g % 2) & 15;
            dot += (w.kind == kQ40 ? code - 8 : code) * (256 * x.code(row, b)[k] + x.code(row, b)[kBlock + k]);
        }
        const float unit = d * s.scale;
        sum = fused ? std::fma(float(dot), unit, sum) : sum + float(dot) * unit;
        if (w.kind == kQ41 || w.kind == kQ4K) sum = fused ? std::fma(minimum, s.sum, sum) : sum + minimum * s.sum;
    }
    return sum;
}

struct Quantised {
    RowsBuffer buffer;
    Rows rows;
    Quantised(const Kernels& k, const float* x, int count, int depth) : rows(buffer.sized(count, depth)) {
        for (int r = 0; r < count; ++r) k.quantise_row(x + size_t(r) * depth, rows, r);
    }
    Quantised(int count, int depth) : rows(buffer.sized(count, depth)) {}
};

void check_same_rows(const Rows& a, const Rows& b, int rows, const char* what) {
    bool equal = true;
    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < a.depth / kBlock; ++i) {
            equal = equal && !std::memcmp(a.code(r, i), b.code(r, i), 2 * kBlock);
            const BlockScale &s = *a.scale(r, i), &t = *b.scale(r, i);
            equal = equal && s.scale == t.scale && s.sum == t.sum && s.offset == t.offset;
        }
    }
    check(equal, what);
}

// -- one row
void rows_and_heads(const Kernels& k, const Kernels& plain) {
    for (int depth : {32, 64, 96, 576}) {
        at = "row of " + std::to_string(depth);
        const int count = 40;
        const std::vector<float> x = activations(count, depth), weight = floats(depth, 1, 1);
        check_same_rows(Quantised(k, x.data(), count, depth).rows, Quantised(plain, x.data(), count, depth).rows, count, "quantised");
        for (float none : {std::nanf(""), INFINITY}) {
            std::vector<float> bad(x.begin(), x.begin() + depth);
            bad[depth - 3] = none;
            const Quantised q(k, bad.data(), 1, depth);
            check(std::isnan(q.rows.scale(0, depth / kBlock - 1)->scale), "a number that is none stays so");
        }
        Quantised got(count, depth), again(count, depth);
        std::vector<float> normed(x.size()), wanted(x.size());
        for (int r = 0; r < count; ++r) {
            const size_t from = size_t(r) * depth;
            k.norm_row(&x[from], weight.data(), 1e-5f, &normed[from], got.rows, r);
            plain.norm_row(&x[from], weight.data(), 1e-5f, &wanted[from], again.rows, r);
            check_near(&normed[from], &wanted[from], depth, kBound, "norm");
        }
        check_same_rows(got.rows, Quantised(plain, normed.data(), count, depth).rows, count, "norm, quantised");
    }
    for (int dim = 32; dim <= kMostHeadDim; dim += 32) {
        for (bool with_norm : {false, true}) {
            at = "head of " + std::to_string(dim);
            std::vector<float> head = floats(dim, 3), other = head;
            const std::vector<float> norm = floats(dim, 1, 1), cos = floats(dim), sin = floats(dim);
            k.rotate_head(head.data(), with_norm ? norm.data() : nullptr, 1e-5f, cos.data(), sin.data(), dim, 0.3f);
            plain.rotate_head(other.data(), with_norm ? norm.data() : nullptr, 1e-5f, cos.data(), sin.data(), dim, 0.3f);
            check_near(head.data(), other.data(), dim, kBound, "rotated");
        }
    }
}

// -- products
void product(const Kernels& k, const Kernels& plain, int kind, int outputs, int depth, int most, bool biased) {
    at = "kind " + std::to_string(kind) + " " + std::to_string(outputs) + " x " + std::to_string(depth);
    const Packed w(kind, outputs, depth, biased);
    const Matrix& m = w.matrix;
    const std::vector<float> x = activations(most, depth), before = floats(size_t(most) * outputs);
    std::vector<float> row(depth), row_plain(depth);
    for (int i = 0; i < outputs; ++i) {
        k.matrix_row(m, i, row.data());
        plain.matrix_row(m, i, row_plain.data());
        check(same_bits(row.data(), row_plain.data(), depth), "a row of the matrix");
    }
    std::vector<float> whole(size_t(most) * outputs), whole_plain(whole.size());
    {
        const Quantised q(k, x.data(), most, depth);
        k.multiply(m, 0, m.pairs(), q.rows, most, whole.data(), false);
        plain.multiply(m, 0, m.pairs(), q.rows, most, whole_plain.data(), false);
        const bool fused = &k != &plain;
        bool equal = true;
        for (int r = 0; r < most; ++r) {
            for (int i = 0; i < outputs; ++i) {
                float wanted = plain_product(m, i, q.rows, r, fused);
                if (biased) wanted = wanted + m.bias[i];
                equal = equal && wanted == whole[size_t(r) * outputs + i];
            }
            check_near(&whole[size_t(r) * outputs], &whole_plain[size_t(r) * outputs], outputs, 20 * kBound, "a product");
        }
        check(equal, "the bits of plain loops");
    }
    for (int rows : kRows) {
        if (rows > most) break;
        const Quantised q(k, x.data(), rows, depth);
        std::vector<float> y(size_t(rows) * outputs), added(before);
        k.multiply(m, 0, m.pairs(), q.rows, rows, y.data(), false);
        check(same_bits(y.data(), whole.data(), y.size()), "a row's bits in any number of rows");
        k.multiply(m, 0, m.pairs(), q.rows, rows, added.data(), true);
        for (size_t i = 0; i < y.size(); ++i) y[i] = before[i] + whole[i];
        check(same_bits(added.data(), y.data(), y.size()), "added");
    }
}

void gated(const Kernels& k, const Kernels& plain, int kind) {
    const int depth = 96, wide = 160, most = 145;
    at = "gated, kind " + std::to_string(kind);
    const Packed gate(kind, wide, depth, false, 0.05f), up(kind, wide, depth, false, 0.05f);
    std::vector<float> x = floats(size_t(most) * depth);
    const Quantised q(k, x.data(), most, depth);
    Quantised got(most, wide), wanted(most, wide);
    k.gated(gate.matrix, up.matrix, 0, wide / kBlock, q.rows, most, got.rows);
    plain.gated(gate.matrix, up.matrix, 0, wide / kBlock, q.rows, most, wanted.rows);
    for (int r = 0; r < most; ++r) {
        for (int b = 0; b < wide / kBlock; ++b) {
            float ours[kBlock], theirs[kBlock];
            for (int i = 0; i < kBlock; ++i) {
                ours[i] = got.rows.scale(r, b)->scale * (256 * got.rows.code(r, b)[i] + got.rows.code(r, b)[kBlock + i]);
                theirs[i] = wanted.rows.scale(r, b)->scale * (256 * wanted.rows.code(r, b)[i] + wanted.rows.code(r, b)[kBlock + i]);
            }
            check_near(ours, theirs, kBlock, 2 / kLargest + 20 * kBound, "silu(gate) * up");
        }
    }
    for (int rows : kRows) {
        if (rows > most) break;
        const Quantised some(k, x.data(), rows, depth);
        Quantised out(rows, wide);
        k.gated(gate.matrix, up.matrix, 0, wide / kBlock, some.rows, rows, out.rows);
        check_same_rows(out.rows, got.rows, rows, "a row's bits in any number of rows");
    }
}

// -- attention
struct Step {  // spans over runs of slots
    std::vector<SpanView> spans;
    std::vector<int64_t> runs, positions, slots;
    void add(std::vector<std::pair<int64_t, int64_t>> context, int64_t rows, int64_t own) {
        SpanView span{int64_t(positions.size()), rows, 0, int64_t(runs.size() / 2), int64_t(context.size())};
        for (auto [first, length] : context) {
            runs.push_back(first), runs.push_back(length);
            span.context_length += length;
        }
        for (int64_t i = 0; i < rows; ++i) {
            positions.push_back(span.context_length + i);
            slots.push_back(own + i);
        }
        spans.push_back(span);
    }
};

Step mixed_step() {  // shared, private and empty runs; one row and many; a span without rows
    Step step;
    step.add({{0, 300}}, 1, 700);
    step.add({{0, 300}, {310, 0}, {400, 5}}, 3, 710);
    step.add({}, 130, 720);
    step.add({{0, 300}, {500, 70}}, 2, 900);
    step.add({{0, 64}}, 0, 0);
    step.add({{0, 64}}, 33, 910);
    return step;
}

std::vector<float> attention(const Kernels& k, const Step& step, const std::vector<float>& kv, const std::vector<float>& query, int dim) {
    const int heads = 2, group = 3, rows = int(step.positions.size()), inner = heads * group * dim;
    StepPlan plan;
    plan.make(step.spans.data(), int(step.spans.size()), step.runs.data(), step.slots.data());
    std::vector<float> mixed(size_t(rows) * inner), states(size_t(rows) * heads * group * plan.supers * (kStateHead + dim));
    const Attention a{kv.data(), query.data(), step.positions.data(), mixed.data(), states.data(), size_t(inner), size_t(inner),
                      heads, group, dim, plan.supers, kv.size() / (2 * heads * dim)};
    Quantised q(rows, inner);
    for (auto [number, tile] : plan.units) {
        const Segment& segment = plan.segments[number];
        const int first = tile * kRowTile, count = std::min(kRowTile, segment.rows - first);
        for (int head = 0; head < heads; ++head) k.attend(a, segment, plan.rows.data() + segment.first_row + first, count, head);
    }
    for (int r = 0; r < rows; ++r) k.merge_row(a, r, q.rows, r);
    check_same_rows(q.rows, Quantised(k, mixed.data(), rows, inner).rows, rows, "mixed, quantised");
    return mixed;
}

void attentions(const Kernels& k, const Kernels& plain) {
    for (int dim : {32, 64, 96, 128, 256}) {
        at = "attention of " + std::to_string(dim);
        const Step step = mixed_step();
        const size_t inner = size_t(6) * dim;
        const std::vector<float> kv = floats(size_t(2) * 2 * 1000 * dim), query = floats(step.positions.size() * inner, 0.7f);
        const std::vector<float> got = attention(k, step, kv, query, dim), wanted = attention(plain, step, kv, query, dim);
        for (size_t r = 0; r < step.positions.size(); ++r) {
            check_near(&got[r * inner], &wanted[r * inner], inner, kBound, "a row's mixture");
        }
        Step alone;
        alone.add({{0, 300}, {400, 5}}, 3, 710);
        const std::vector<float> own(query.begin() + inner, query.begin() + 4 * inner);
        check(same_bits(attention(k, alone, kv, own, dim).data(), &got[inner], 3 * inner), "a row's bits in any company");
    }
}

// -- samples
void samples(int level) {
    at = "samples";
    using namespace sgl::sampling;
    for (int vocab : {1, 31, 64, 150, 1001}) {
        for (int turn = 0; turn < 40; ++turn) {
            const std::vector<float> x = floats(vocab, 8);
            std::vector<uint32_t> mask((vocab + 31) / 32);
            for (auto& word : mask) word = uint32_t(random_bits() | random_bits());
            mask[0] |= 1;
            const bool masked = turn % 2;
            const int top = std::min(vocab, 5);
            int32_t ids[5], token;
            double stats[2];
            const float temperature = turn % 4 < 2 ? 0.8f : 0.f;
            const Ask ask{x.data(), x.data(), masked ? mask.data() : nullptr, random_bits(), turn, ids, 1.0, -INFINITY, temperature, 0,
                          kSample | kMeasure, top};
            check(sgl_sample(&ask, 1, vocab, &token, stats, level) == 0, "answered");
            const uint64_t word = sgl::sampling::mixed(ask.key, uint64_t(ask.position));
            int best = -1;
            double best_score = 0, all = 0, forbidden = 0;
            for (int i = 0; i < vocab; ++i) {
                const bool allowed = !masked || mask[i / 32] >> (i % 32) & 1;
                all += std::exp(double(x[i]));
                if (!allowed) forbidden += std::exp(double(x[i]));
                const uint32_t hash = sampling::portable::hashed<uint32_t>(uint32_t(i), uint32_t(word), uint32_t(word >> 32));
                const double score = temperature > 0 ? sampling::portable::score_of(x[i], hash, temperature) : x[i];
                if (allowed && (best < 0 || score > best_score)) best = i, best_score = score;
            }
            check(token == best, "the best score wins");
            check(std::fabs(stats[0] - std::log(all)) < 1e-8, "log-sum-exp");
            check(!masked || std::fabs(stats[1] - forbidden / all) < 1e-8, "the forbidden mass");
            std::vector<int32_t> order(vocab);
            for (int i = 0; i < vocab; ++i) order[i] = i;
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
            check(std::equal(ids, ids + top, order.begin()), "the largest");
        }
    }
}

// -- a model
struct Model {
    static constexpr int kHidden = 64, kWide = 96, kHeads = 3, kDim = 32, kVocab = 77, kLayers = 2, kSlots = 1000;
    std::vector<Packed> matrices;
    std::vector<std::vector<float>> kv;
    std::vector<float> norm = floats(kHidden, 0.2f, 1), head_norm = floats(kDim, 0.2f, 1), cos = floats(600 * kDim), sin = floats(600 * kDim);
    Model() {
        for (int l = 0; l < kLayers; ++l) {
            matrices.emplace_back(kQ41, (kHeads + 2) * kDim, kHidden, true, 0.01f);
            matrices.emplace_back(kQ40, kHidden, kHeads * kDim, false, 0.01f);
            matrices.emplace_back(kQ4K, kWide, kHidden, false, 0.01f);
            matrices.emplace_back(kQ4K, kWide, kHidden, false, 0.01f);
            matrices.emplace_back(kQ80, kHidden, kWide, false, 0.001f);
        }
        matrices.emplace_back(kQ80, kVocab, kHidden, false, 0.005f);
    }
    std::vector<float> logits(int level, const Step& step, const std::vector<int64_t>& want) {
        kv.assign(kLayers, std::vector<float>(size_t(2) * kSlots * kDim, 0.1f));
        std::vector<sgl_layer> layers;
        for (int l = 0; l < kLayers; ++l) {
            const Packed* const m = &matrices[5 * l];
            layers.push_back({norm.data(), norm.data(), head_norm.data(), head_norm.data(), m[0].matrix, m[1].matrix, m[2].matrix,
                              m[3].matrix, m[4].matrix, kv[l].data()});
        }
        const Matrix& head = matrices.back().matrix;
        const sgl_model model{kLayers, kHidden, kWide, kHeads, 1, kDim, kVocab, level, 1e-5f, 2, kSlots, norm.data(), cos.data(),
                              sin.data(), head, head, layers.data()};
        std::vector<int64_t> tokens;
        for (int64_t slot : step.slots) tokens.push_back(slot % kVocab);  // of a slot, whatever rows are beside it
        std::vector<float> out(want.size() * kVocab);
        const sgl_batch batch{int64_t(tokens.size()), int64_t(step.spans.size()), int64_t(want.size()), tokens.data(), step.positions.data(),
                              step.slots.data(), step.spans.data(), step.runs.data(), want.data(), out.data(), nullptr, nullptr, 0};
        void* const engine = sgl_engine(&model);
        check(engine && sgl_forward(engine, &batch) == 0, "a step");
        sgl_engine_free(engine);
        return out;
    }
};

void models(int level) {
    at = "model";
    Model model;
    for (int rows : kRows) {
        Step step;
        step.add({}, rows, 0);
        std::vector<int64_t> all(rows);
        for (int r = 0; r < rows; ++r) all[r] = r;
        const std::vector<float> got = model.logits(level, step, all), wanted = model.logits(kPortable, step, all);
        check_near(got.data(), wanted.data(), got.size(), kModelBound, "logits");
        const std::vector<float> last = model.logits(level, step, {rows - 1});
        check(same_bits(last.data(), &got[size_t(rows - 1) * Model::kVocab], Model::kVocab), "a row's bits, wanted alone");
    }
    const std::vector<int64_t> want = {0, 1, 2, 3, 50, 134, 135, 150};
    const std::vector<float> got = model.logits(level, mixed_step(), want), wanted = model.logits(kPortable, mixed_step(), want);
    check_near(got.data(), wanted.data(), got.size(), kModelBound, "logits over runs");
    Step alone;
    alone.add({{0, 300}, {400, 5}}, 3, 710);
    const std::vector<float> own = model.logits(level, alone, {0, 1, 2});
    check(same_bits(own.data(), &got[Model::kVocab], own.size()), "a row's bits in any company");
}

}  // namespace

int main(int count, char** names) {
    for (int level = 0; level < int(sizeof kNames / sizeof *kNames); ++level) {
        if (!sgl_has_level(level)) continue;
        for (int i = 1; i < count; ++i) if (names[i] && std::string(names[i]) == kNames[level]) names[i] = nullptr;
        const Kernels &k = kernels_of(level), &plain = kernels_of(kPortable);
        const long before = checks, failed = failures;
        rows_and_heads(k, plain);
        for (int kind : {kQ40, kQ41, kQ4K, kQ80}) {
            product(k, plain, kind, 16, 32, 512, false);
            product(k, plain, kind, 50, 96, 512, true);
            product(k, plain, kind, 33, 160, 145, true);
            product(k, plain, kind, 64, 64, 512, false);
            product(k, plain, kind, 40, 32 * 131, 33, false);
            gated(k, plain, kind);
        }
        attentions(k, plain);
        samples(level);
        models(level);
        std::printf("%s: %ld checks, %ld failed\n", kNames[level], checks - before, failures - failed);
    }
    for (int i = 1; i < count; ++i) {
        if (names[i]) std::printf("this machine has no level %s\n", names[i]), ++failures;
    }
    return failures != 0;
}
