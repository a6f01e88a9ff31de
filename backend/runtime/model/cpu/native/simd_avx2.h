// Vectors of 8 floats: AVX2, with or without AVX-VNNI (SGL_VNNI). Included within a namespace and the target's pragma.

constexpr int W = 8;
constexpr int kTile = 8;        // rows whose products are computed together
constexpr int kQueries = 3;     // queries of an attention that are computed together, each
constexpr int kKeyVectors = 4;  // with so many vectors of keys
using F = __m256;

static inline F load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
static inline F all(float x) { return _mm256_set1_ps(x); }
static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
static inline F quotient(F a, F b) { return _mm256_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F larger(F a, F b) { return _mm256_max_ps(a, b); }
static inline F magnitude(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
static inline F nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline F power_of_two(F whole) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23));
}
static inline float total(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float largest(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline F first_of(F a, F other, int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)));
}
static inline F where_positive(F a, F b, F c) { return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GE_OQ)); }
static inline void store_codes(int8_t* to, F x) {
    const __m256i whole = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
}
static inline F halves(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

static inline void transpose(const float* const* rows, int column, float* out, int stride) {
    F a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = load(rows[i] + column);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
        store(out + j * stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
        store(out + (4 + j) * stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
    }
}

#ifndef SGL_VNNI
// Codes of 8 outputs times 32 activations of 8 bits.
template <int K>
static inline __m256i whole_dot(const __m256i* code, const int32_t* c) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (K == kQ80) {
        // Codes of 8 bits would overflow 16-bit sums, so the sign moves to the activation: |w| * (x sign(w)).
        __m256i dot = _mm256_setzero_si256();
        for (int i = 0; i < 8; ++i) {
            const __m256i weight = _mm256_xor_si256(code[i], _mm256_set1_epi8(char(0x80)));
            const __m256i active = _mm256_sign_epi8(_mm256_set1_epi32(c[i]), weight);
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weight), active), ones));
        }
        return dot;
    }
    // Eight sums of two products of at most 15 * 127 fit into 16 bits.
    __m256i words = _mm256_maddubs_epi16(code[0], _mm256_set1_epi32(c[0]));
    for (int i = 1; i < 8; ++i) words = _mm256_add_epi16(words, _mm256_maddubs_epi16(code[i], _mm256_set1_epi32(c[i])));
    return _mm256_madd_epi16(words, ones);
}
#endif

// Half a group at a time: there are 16 registers. `half` is 0 for outputs 0 to 7, 1 for 8 to 15.
template <int K, int M>
static inline void half_product(const uint8_t* w, int half, int blocks, const Rows& x, int row, float* out) {
    F sum[M];
    for (int m = 0; m < M; ++m) sum[m] = all(0.f);
    const int8_t* codes = x.code(row, 0);
    const BlockScale* scales = x.scale(row, 0);
    const __m256i low = _mm256_set1_epi8(15);
    for (int b = 0; b < blocks; ++b, w += record_bytes(K), codes += 2 * kBlock * x.lane, scales += x.lane) {
        if (M <= kFewRows && half == 0) ask_for<K>(w + kAhead);
        const F d = K == kQ4K ? load(reinterpret_cast<const float*>(w) + 8 * half) : halves(w + 16 * half);
        F minimum = d;
        if (K == kQ41) minimum = halves(w + 2 * kGroup + 16 * half);
        if (K == kQ4K) minimum = load(reinterpret_cast<const float*>(w) + kGroup + 8 * half);
        const uint8_t* const at = w + scale_bytes(K) + 32 * half;
        __m256i code[8];
        if (K == kQ80) {
            for (int i = 0; i < 8; ++i) code[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 64 * i));
        } else {
            for (int i = 0; i < 4; ++i) {
                const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 64 * i));
                code[2 * i] = _mm256_and_si256(both, low);
                code[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            }
        }
        for (int m = 0; m < M; ++m) {
            const int32_t* const c = reinterpret_cast<const int32_t*>(codes + 2 * kBlock * m);
            const BlockScale& s = scales[m];
#ifdef SGL_VNNI
            __m256i high = _mm256_setzero_si256(), low_sum = _mm256_setzero_si256();
            if (K == kQ80) low_sum = _mm256_set1_epi32(s.offset);
            for (int i = 0; i < 8; ++i) {
                high = _mm256_dpbusd_avx_epi32(high, code[i], _mm256_set1_epi32(c[i]));
                low_sum = _mm256_dpbusd_avx_epi32(low_sum, code[i], _mm256_set1_epi32(c[8 + i]));
            }
#else
            const __m256i high = whole_dot<K>(code, c), low_sum = whole_dot<K>(code, c + 8);
#endif
            __m256i dot = _mm256_add_epi32(_mm256_slli_epi32(high, 8), low_sum);
            if (K == kQ40) dot = _mm256_add_epi32(dot, _mm256_set1_epi32(s.offset / 16));
            sum[m] = fma(_mm256_cvtepi32_ps(dot), mul(d, all(s.scale)), sum[m]);
            if (K == kQ41 || K == kQ4K) sum[m] = fma(minimum, all(s.sum), sum[m]);
        }
    }
    for (int m = 0; m < M; ++m) store(out + m * kPair + 8 * half, sum[m]);
}

template <int K, int M>
static inline void group_product(const uint8_t* w, int blocks, const Rows& x, int row, float* out) {
    half_product<K, M>(w, 0, blocks, x, row, out);
    half_product<K, M>(w, 1, blocks, x, row, out);
}

template <int K, int M>
static inline void pair_product(const uint8_t* w, size_t next, int blocks, const Rows& x, int row, float* out, Ahead) {
    group_product<K, M>(w, blocks, x, row, out);
    if (next) group_product<K, M>(w + next, blocks, x, row, out + kGroup);
}
