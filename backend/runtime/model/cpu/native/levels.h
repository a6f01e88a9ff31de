// The kernels at each level of instructions, and which levels this machine has.
//
// All levels are in one library, and one is chosen at run time. The same text (kernels.inc, attention.inc) is compiled
// for each over its own vectors (simd_*.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "blocks.h"
#include "plan.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// GCC, and Clang that takes the dot product for some functions alone (16) or has it in all (Apple's).
#if defined(__aarch64__) && defined(__GNUC__) && \
    (!defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_DOTPROD))
#define SGL_NEON 1
#include <arm_neon.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace sgl {

constexpr int kStateHead = 16;  // floats before the sum of V in a row's state: largest score, sum of weights, unused

struct Attention {
    const float* kv;         // [2 kv_heads, slots, dim]: keys, then values
    const float* query;      // [rows, query_stride]
    const int64_t* positions;
    float* mixed;            // [rows, mixed_stride]
    float* states;           // [rows, heads, supers, kStateHead + dim]
    size_t query_stride, mixed_stride;
    int kv_heads, group, dim, supers;
    size_t slots;

    const float* key(int head, int64_t slot) const { return kv + (head * slots + size_t(slot)) * dim; }
    ptrdiff_t value() const { return ptrdiff_t(kv_heads * slots * dim); }  // from a key to its value

    float* state(int row, int head, int super) const {
        return states + ((size_t(row) * kv_heads * group + head) * supers + super) * (kStateHead + dim);
    }
};

struct Kernels {
    void (*quantise_row)(const float* x, const Rows& to, int row);
    void (*norm_row)(const float* x, const float* weight, float eps, float* normed, const Rows& to, int row);
    void (*rotate_head)(float* head, const float* norm, float eps, const float* cos, const float* sin, int dim, float factor);
    void (*multiply)(const Matrix& w, int first, int last, const Rows& x, int rows, float* y, bool added);
    void (*gated)(const Matrix& gate, const Matrix& up, int first, int last, const Rows& x, int rows, const Rows& wide);
    void (*matrix_row)(const Matrix& w, int row, float* out);
    void (*attend)(const Attention& a, const Segment& segment, const int32_t* rows, int count, int head);
    void (*merge_row)(const Attention& a, int row, const Rows& to, int at);
    int32_t (*best_of)(const float* values, int count, float* share);
};

namespace portable {
#include "simd_portable.h"
static inline float half_value(const uint8_t* p) { return half_at(p, 0); }
#include "kernels.inc"
#include "attention.inc"
}  // namespace portable

static inline float half_value(const uint8_t* p) { return portable::half_at(p, 0); }

#if defined(__x86_64__) && defined(__GNUC__)
#define SGL_X86 1
#endif

#ifdef SGL_X86

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
#include "simd_avx2.h"
#include "kernels.inc"
#include "attention.inc"
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
namespace avxvnni {
#define SGL_VNNI
#include "simd_avx2.h"
#include "kernels.inc"
#include "attention.inc"
#undef SGL_VNNI
}  // namespace avxvnni
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif
namespace avx512 {
#include "simd_avx512.h"
#include "kernels.inc"
#include "attention.inc"
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define SGL_AMX 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif
namespace amx {
#define SGL_TILES
#include "simd_avx512.h"
#include "simd_amx.h"
#include "kernels.inc"
#include "attention.inc"
#undef SGL_TILES
}  // namespace amx
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // AMX

#endif  // SGL_X86

#ifdef SGL_NEON
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#ifndef __ARM_FEATURE_DOTPROD  // else all is compiled for it, and perhaps for more
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#endif
namespace neon {
#include "simd_neon.h"
#include "kernels.inc"
#include "attention.inc"
}  // namespace neon
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // SGL_NEON

enum Level : int { kPortable = 0, kAvx2 = 1, kAvxVnni = 2, kAvx512 = 3, kAmx = 4, kNeon = 5 };

#ifdef SGL_AMX
// Whether the processor has tiles, and the kernel lets this process use them: it saves them for a process that asks.
static bool has_tiles() {
    constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3) return false;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

#ifdef SGL_NEON
static bool has_dot_product() {
#if defined(__APPLE__)
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) == 0 && found;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__ARM_FEATURE_DOTPROD)
    return true;  // compiled for nothing less
#else
    return false;
#endif
}
#endif

static bool has_level(int level) {
    if (level == kPortable) return true;
#ifdef SGL_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (level == kAvx2) return avx2;
    if (level == kAvxVnni) return avx2 && __builtin_cpu_supports("avxvnni");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (level == kAvx512) return avx512;
#ifdef SGL_AMX
    if (level == kAmx) return avx512 && has_tiles();
#endif
#endif
#ifdef SGL_NEON
    if (level == kNeon) return has_dot_product();
#endif
    return false;
}

static const Kernels& kernels_of(int level) {
#ifdef SGL_X86
#ifdef SGL_AMX
    if (level == kAmx) return amx::kernels;
#endif
    if (level == kAvx512) return avx512::kernels;
    if (level == kAvxVnni) return avxvnni::kernels;
    if (level == kAvx2) return avx2::kernels;
#endif
#ifdef SGL_NEON
    if (level == kNeon) return neon::kernels;
#endif
    (void)level;
    return portable::kernels;
}

}  // namespace sgl
