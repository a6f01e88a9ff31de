// Samples and log-probabilities from rows of logits, for `sample/compiled.py`. Knows nothing of the model.
//
// `sampling.inc` has the work, compiled for each level of instructions.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

namespace sgl {
namespace sampling {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kGroup = 64;                        // logits
constexpr int kNan = -1, kNothingAllowed = -2;    // in place of a token
constexpr int kSample = 1, kMeasure = 2;          // what is asked of a row

// What is asked of a row, as `compiled.py` packs it.
struct Ask {
    const float* raw;      // [vocab] the model's logits
    const float* row;      // [vocab] those after penalties, bias and bans; the same if there are none
    const uint32_t* mask;  // id i has bit i % 32 of word i / 32; null: all ids are allowed
    uint64_t key;
    int64_t position;
    int32_t* top_ids;  // [top]
    double top_p, log_min_p;
    float temperature;
    int32_t top_k, kind, top;
};

// A row at work. `maxima`: of each group, of what may be sampled.
struct Row {
    const float* x;
    const uint32_t* mask;
    int vocab, groups;
    float* maxima;
    float peak;
    int best;
};

// ln(2)^i / i!, the highest power first: 2^f for f in -1/2 .. 1/2.
constexpr double kPowers[] = {
    0x1.e8cac7351bb25p-32, 0x1.e4cf5158b8ecap-28, 0x1.b5253d395e7c4p-24, 0x1.62c0223a5c824p-20,
    0x1.ffcbfc588b0c7p-17, 0x1.430912f86c787p-13, 0x1.5d87fe78a6731p-10, 0x1.3b2ab6fba4e77p-7,
    0x1.c6b08d704a0c0p-5,  0x1.ebfbdff82c58fp-3,  0x1.62e42fefa39efp-1,  0x1p0,
};
constexpr int kPowersCount = int(sizeof kPowers / sizeof *kPowers);

static uint64_t mixed(uint64_t key, uint64_t value) {
    uint64_t z = key * 0x9E3779B97F4A7C15u + value * 0xD1342543DE82EF95u + 0x632BE59BD9B4E019u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#define SGL_VECTOR 16
namespace portable {
#include "sampling.inc"
}
#undef SGL_VECTOR

#if defined(__x86_64__) && defined(__GNUC__)

#define SGL_VECTOR 32
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace avx2 {
#include "sampling.inc"
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SGL_VECTOR

#define SGL_VECTOR 64
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
namespace avx512 {
#include "sampling.inc"
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SGL_VECTOR

#endif

using Answer = void (*)(const Ask&, int, float*, int32_t*, double*);

// `level` is one of levels.h: portable, avx2, avxvnni, avx512, amx, neon. The last is `portable`: a compiler
// for aarch64 makes NEON of vectors of 16 bytes.
static Answer answer_of(int level) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (level >= 3) return avx512::answer;
    if (level > 0) return avx2::answer;
#endif
    (void)level;
    return portable::answer;
}

}  // namespace sampling
}  // namespace sgl

extern "C" {

// Answer `count` asks: a token each (or what stands for one), and two numbers where a row is measured: its log-sum-exp, and
// the mass that its mask forbids. 0, or 1 when there is no memory.
int32_t sgl_sample(const sgl::sampling::Ask* asks, int64_t count, int32_t vocab, int32_t* tokens, double* stats, int32_t level) {
    try {
        thread_local std::vector<float> scratch;
        scratch.resize(4 * size_t((vocab + sgl::sampling::kGroup - 1) / sgl::sampling::kGroup));
        const auto answer = sgl::sampling::answer_of(level);
        for (int64_t i = 0; i < count; ++i) answer(asks[i], vocab, scratch.data(), tokens + i, stats + 2 * i);
        return 0;
    } catch (...) {
        return 1;
    }
}

}  // extern "C"
