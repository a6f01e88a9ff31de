// Vectors of 4 floats in plain C++, which every compiler knows how to carry out. Included within a namespace.

constexpr int W = 4;
constexpr int kTile = 8;        // rows whose products are computed together
constexpr int kQueries = 3;     // queries of an attention that are computed together, each
constexpr int kKeyVectors = 4;  // with so many vectors of keys
struct F {
    float at[W];
};

template <typename G>
static inline F lanes(G value) {
    F out;
    for (int i = 0; i < W; ++i) out.at[i] = value(i);
    return out;
}
static inline F load(const float* p) { return lanes([&](int i) { return p[i]; }); }
static inline void store(float* p, F x) { for (int i = 0; i < W; ++i) p[i] = x.at[i]; }
static inline F all(float x) { return lanes([&](int) { return x; }); }
static inline F add(F a, F b) { return lanes([&](int i) { return a.at[i] + b.at[i]; }); }
static inline F sub(F a, F b) { return lanes([&](int i) { return a.at[i] - b.at[i]; }); }
static inline F mul(F a, F b) { return lanes([&](int i) { return a.at[i] * b.at[i]; }); }
static inline F quotient(F a, F b) { return lanes([&](int i) { return a.at[i] / b.at[i]; }); }
static inline F fma(F a, F b, F c) { return lanes([&](int i) { return a.at[i] * b.at[i] + c.at[i]; }); }
static inline F larger(F a, F b) { return lanes([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; }); }
static inline F magnitude(F a) { return lanes([&](int i) { return std::fabs(a.at[i]); }); }
static inline F nearest(F a) { return lanes([&](int i) { return std::nearbyintf(a.at[i]); }); }
static inline F power_of_two(F whole) { return lanes([&](int i) { return std::ldexp(1.f, int(whole.at[i])); }); }
static inline float total(F a) { return (a.at[0] + a.at[2]) + (a.at[1] + a.at[3]); }
static inline float largest(F a) { return std::max(std::max(a.at[0], a.at[1]), std::max(a.at[2], a.at[3])); }
static inline F first_of(F a, F other, int count) { return lanes([&](int i) { return i < count ? a.at[i] : other.at[i]; }); }
static inline F where_positive(F a, F b, F c) { return lanes([&](int i) { return a.at[i] >= 0.f ? b.at[i] : c.at[i]; }); }
static inline void store_codes(int8_t* to, F x) { for (int i = 0; i < W; ++i) to[i] = int8_t(x.at[i]); }

static inline float half_at(const uint8_t* p, int i) {
    uint16_t raw;
    std::memcpy(&raw, p + 2 * i, 2);
    const uint32_t sign = uint32_t(raw & 0x8000) << 16, exponent = raw >> 10 & 31, fraction = raw & 1023;
    uint32_t bits;
    if (exponent == 31) bits = sign | 0x7f800000 | fraction << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        const float small = std::ldexp(float(fraction), -24);
        return sign ? -small : small;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline void transpose(const float* const* rows, int column, float* out, int stride) {
    for (int c = 0; c < W; ++c) for (int r = 0; r < W; ++r) out[c * stride + r] = rows[r][column + c];
}

template <int K, int M>
static inline void group_product(const uint8_t* w, int blocks, const Rows& x, int row, float* out) {
    for (int m = 0; m < M; ++m) for (int r = 0; r < kGroup; ++r) out[m * kPair + r] = 0.f;
    for (int b = 0; b < blocks; ++b, w += record_bytes(K)) {
        float d[kGroup], minimum[kGroup];
        for (int r = 0; r < kGroup; ++r) {
            if (K == kQ4K) {
                std::memcpy(d + r, w + 4 * r, 4);
                std::memcpy(minimum + r, w + 4 * (kGroup + r), 4);
            } else {
                d[r] = half_at(w, r);
                minimum[r] = K == kQ41 ? half_at(w + 2 * kGroup, r) : 0.f;
            }
        }
        const uint8_t* const at = w + scale_bytes(K);
        for (int m = 0; m < M; ++m) {
            const int8_t* const c = x.code(row + m, b);
            const BlockScale& s = *x.scale(row + m, b);
            int32_t dot[kGroup];
            for (int r = 0; r < kGroup; ++r) dot[r] = K == kQ80 ? s.offset : K == kQ40 ? s.offset / 16 : 0;
            for (int g = 0; g < 8; ++g) {
                for (int r = 0; r < kGroup; ++r) {
                    for (int j = 0; j < 4; ++j) {
                        const int code = K == kQ80 ? at[64 * g + 4 * r + j] : at[64 * (g / 2) + 4 * r + j] >> 4 * (g % 2) & 15;
                        dot[r] += code * (256 * c[4 * g + j] + c[kBlock + 4 * g + j]);
                    }
                }
            }
            for (int r = 0; r < kGroup; ++r) {
                out[m * kPair + r] += float(dot[r]) * (d[r] * s.scale);
                if (K == kQ41 || K == kQ4K) out[m * kPair + r] += minimum[r] * s.sum;
            }
        }
    }
}

template <int K, int M>
static inline void pair_product(const uint8_t* w, size_t next, int blocks, const Rows& x, int row, float* out, Ahead) {
    group_product<K, M>(w, blocks, x, row, out);
    if (next) group_product<K, M>(w + next, blocks, x, row, out + kGroup);
}
