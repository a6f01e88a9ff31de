// Vectors of 4 floats: NEON with the dot product. Included within a namespace and within the target's pragma.

constexpr int W = 4;
constexpr int kTile = 8;        // rows whose products are computed together
constexpr int kQueries = 6;     // queries of an attention that are computed together, each
constexpr int kKeyVectors = 4;  // with so many vectors of keys: 24 of 32 registers
using F = float32x4_t;

static inline F load(const float* p) { return vld1q_f32(p); }
static inline void store(float* p, F x) { vst1q_f32(p, x); }
static inline F all(float x) { return vdupq_n_f32(x); }
static inline F add(F a, F b) { return vaddq_f32(a, b); }
static inline F sub(F a, F b) { return vsubq_f32(a, b); }
static inline F mul(F a, F b) { return vmulq_f32(a, b); }
static inline F quotient(F a, F b) { return vdivq_f32(a, b); }
static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
static inline F larger(F a, F b) { return vmaxq_f32(a, b); }
static inline F magnitude(F a) { return vabsq_f32(a); }
static inline F nearest(F a) { return vrndnq_f32(a); }
static inline F power_of_two(F whole) {  // 2^whole for whole numbers from -126 to 127
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127)), 23));
}
static inline float total(F a) { return vaddvq_f32(a); }
static inline float largest(F a) { return vmaxvq_f32(a); }
static inline F first_of(F a, F other, int count) {  // lanes below `count` of a, the others of `other`
    const int32x4_t lane = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(lane, vdupq_n_s32(count)), a, other);
}
static inline F where_positive(F a, F b, F c) { return vbslq_f32(vcgezq_f32(a), b, c); }
static inline void store_codes(int8_t* to, F x) {  // whole numbers from -127 to 127
    const int16x4_t words = vmovn_s32(vcvtq_s32_f32(x));
    const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
    std::memcpy(to, &bytes, sizeof bytes);
}
static inline F halves(const uint8_t* p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }

static inline void transpose(const float* const* rows, int column, float* out, int stride) {
    F a[4];
    for (int i = 0; i < 4; ++i) a[i] = load(rows[i] + column);
    for (int half = 0; half < 2; ++half) {
        const F even = half ? vzip2q_f32(a[0], a[2]) : vzip1q_f32(a[0], a[2]);
        const F odd = half ? vzip2q_f32(a[1], a[3]) : vzip1q_f32(a[1], a[3]);
        store(out + 2 * half * stride, vzip1q_f32(even, odd));
        store(out + (2 * half + 1) * stride, vzip2q_f32(even, odd));
    }
}

// Four outputs of a block times 16 of 32 activations of 8 bits: the codes of 4 fours in depth.
static inline int32x4_t dot_fours(int32x4_t sum, const int8x16_t* code, const int8_t* c) {
    const int8x16_t active = vld1q_s8(c);
    sum = vdotq_laneq_s32(sum, code[0], active, 0);
    sum = vdotq_laneq_s32(sum, code[1], active, 1);
    sum = vdotq_laneq_s32(sum, code[2], active, 2);
    return vdotq_laneq_s32(sum, code[3], active, 3);
}

// A vector has the codes of four outputs, and the dot product takes numbers with signs: codes of 4 bits have none to lose,
// and those of 8 bits lose their 128 here.
template <int K, int M>
static inline void group_product(const uint8_t* w, int blocks, const Rows& x, int row, float* out) {
    F sum[kGroup / W][M];
    for (int part = 0; part < kGroup / W; ++part) for (int m = 0; m < M; ++m) sum[part][m] = all(0.f);
    const int8_t* codes = x.code(row, 0);
    const BlockScale* scales = x.scale(row, 0);
    for (int b = 0; b < blocks; ++b, w += record_bytes(K), codes += 2 * kBlock * x.lane, scales += x.lane) {
        if (M <= kFewRows) ask_for<K>(w + kAhead);
        for (int part = 0; part < kGroup / W; ++part) {
            const int first = part * W;  // output
            const uint8_t* const at = w + scale_bytes(K) + 4 * first;
            int8x16_t code[8];
            if (K == kQ80) {
                for (int i = 0; i < 8; ++i) code[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(at + 64 * i), vdupq_n_u8(0x80)));
            } else {
                for (int i = 0; i < 4; ++i) {
                    const uint8x16_t both = vld1q_u8(at + 64 * i);
                    code[2 * i] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                    code[2 * i + 1] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
                }
            }
            const F d = K == kQ4K ? load(reinterpret_cast<const float*>(w) + first) : halves(w + 2 * first);
            F minimum = d;
            if (K == kQ41) minimum = halves(w + 2 * (kGroup + first));
            if (K == kQ4K) minimum = load(reinterpret_cast<const float*>(w) + kGroup + first);
            for (int m = 0; m < M; ++m) {
                const int8_t* const c = codes + 2 * kBlock * m;
                const BlockScale& s = scales[m];
                int32x4_t high = vdupq_n_s32(0), low = vdupq_n_s32(K == kQ40 ? s.offset / 16 : 0);
                for (int half = 0; half < 2; ++half) {
                    high = dot_fours(high, code + 4 * half, c + 16 * half);
                    low = dot_fours(low, code + 4 * half, c + kBlock + 16 * half);
                }
                const F dot = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(high, 8), low));
                sum[part][m] = fma(dot, mul(d, all(s.scale)), sum[part][m]);
                if (K == kQ41 || K == kQ4K) sum[part][m] = fma(minimum, all(s.sum), sum[part][m]);
            }
        }
    }
    for (int part = 0; part < kGroup / W; ++part) for (int m = 0; m < M; ++m) store(out + m * kPair + part * W, sum[part][m]);
}

template <int K, int M>
static inline void pair_product(const uint8_t* w, size_t next, int blocks, const Rows& x, int row, float* out, Ahead) {
    group_product<K, M>(w, blocks, x, row, out);
    if (next) group_product<K, M>(w + next, blocks, x, row, out + kGroup);
}
