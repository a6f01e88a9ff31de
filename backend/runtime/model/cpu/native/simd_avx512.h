// Vectors of 16 floats: AVX-512 with VNNI. Included within a namespace and within the target's pragma.

constexpr int W = 16;
constexpr int kTile = 4;        // rows whose products are computed together
constexpr int kQueries = 6;     // queries of an attention that are computed together, each
constexpr int kKeyVectors = 4;  // with so many vectors of keys
using F = __m512;

static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
static inline F all(float x) { return _mm512_set1_ps(x); }
static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F quotient(F a, F b) { return _mm512_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F larger(F a, F b) { return _mm512_max_ps(a, b); }
static inline F magnitude(F a) { return _mm512_abs_ps(a); }
static inline F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline F power_of_two(F whole) {  // 2^whole for whole numbers from -126 to 127
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127)), 23));
}
static inline float total(F a) { return _mm512_reduce_add_ps(a); }
static inline float largest(F a) { return _mm512_reduce_max_ps(a); }
static inline F first_of(F a, F other, int count) {  // lanes below `count` of a, the others of `other`
    return _mm512_mask_blend_ps(__mmask16(count >= 16 ? 0xffff : (1u << (count < 0 ? 0 : count)) - 1), other, a);
}
static inline F where_positive(F a, F b, F c) {  // b where a is at least 0, else c
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GE_OQ), c, b);
}
static inline void store_codes(int8_t* to, F x) {  // whole numbers from -127 to 127
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
static inline F halves(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// out[c][r] = rows[r][c] for 16 x 16 floats; out has a row every `stride` floats.
static inline void transpose(const float* const* rows, int column, float* out, int stride) {
    F a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = load(rows[i] + column);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    for (int j = 0; j < 4; ++j) {
        b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
        b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
        b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
        b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; ++j) {
        store(out + (0 + j) * stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88));
        store(out + (8 + j) * stride, _mm512_shuffle_f32x4(b[j], b[8 + j], 0xdd));
        store(out + (4 + j) * stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88));
        store(out + (12 + j) * stride, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xdd));
    }
}

// Products of two groups of 16 outputs, the second `next` bytes on, with M rows of a lane; `out` has a row every kPair
// floats. An activation that was read meets the codes of both groups, and there are as many sums as registers. Up to two
// groups' weights at `ahead` are asked for on the way.
template <int K, int M>
static inline void pair_product(const uint8_t* w, size_t next, int blocks, const Rows& x, int row, float* out, Ahead ahead) {
    F sum[2][M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) sum[0][m] = sum[1][m] = all(0.f);
    const int8_t* codes = x.code(row, 0);
    const BlockScale* scales = x.scale(row, 0);
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int b = 0; b < blocks; ++b, w += record_bytes(K), codes += 2 * kBlock * x.lane, scales += x.lane) {
        const uint8_t* const at = w + scale_bytes(K);
        if (ahead.one) ask_for<K>(ahead.one + size_t(b) * record_bytes(K));
        if (ahead.other) ask_for<K>(ahead.other + size_t(b) * record_bytes(K));
        const int32_t* const c = reinterpret_cast<const int32_t*>(codes);
        __m512i high[2][M], low[2][M];
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
            high[0][m] = high[1][m] = _mm512_setzero_si512();
            low[0][m] = low[1][m] = K == kQ80   ? _mm512_set1_epi32(scales[m].offset)
                                    : K == kQ40 ? _mm512_set1_epi32(scales[m].offset / 16)
                                                : _mm512_setzero_si512();
        }
        auto step = [&](int i, __m512i one, __m512i other) {
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) {
                const __m512i upper = _mm512_set1_epi32(c[16 * m + i]), lower = _mm512_set1_epi32(c[16 * m + 8 + i]);
                high[0][m] = _mm512_dpbusd_epi32(high[0][m], one, upper);
                high[1][m] = _mm512_dpbusd_epi32(high[1][m], other, upper);
                low[0][m] = _mm512_dpbusd_epi32(low[0][m], one, lower);
                low[1][m] = _mm512_dpbusd_epi32(low[1][m], other, lower);
            }
        };
        if (K == kQ80) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) step(i, _mm512_loadu_si512(at + 64 * i), _mm512_loadu_si512(at + next + 64 * i));
        } else {
            auto upper_half = [&](__m512i both) { return _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble); };
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const __m512i one = _mm512_loadu_si512(at + 64 * i), other = _mm512_loadu_si512(at + next + 64 * i);
                step(2 * i, _mm512_and_si512(one, nibble), _mm512_and_si512(other, nibble));
                step(2 * i + 1, upper_half(one), upper_half(other));
            }
        }
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g) {
            const uint8_t* const record = w + g * next;
            const F d = K == kQ4K ? load(reinterpret_cast<const float*>(record)) : halves(record);
            F minimum = d;
            if (K == kQ41) minimum = halves(record + 2 * kGroup);
            if (K == kQ4K) minimum = load(reinterpret_cast<const float*>(record) + kGroup);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) {
                const F dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[g][m], 8), low[g][m]));
                sum[g][m] = fma(dot, mul(d, all(scales[m].scale)), sum[g][m]);
                if (K == kQ41 || K == kQ4K) sum[g][m] = fma(minimum, all(scales[m].sum), sum[g][m]);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
        store(out + m * kPair, sum[0][m]);
        store(out + m * kPair + kGroup, sum[1][m]);
    }
}
