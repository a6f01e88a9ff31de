// Products by tiles of AMX: 16 rows times 16 outputs at a time. Included after simd_avx512.h, in the same namespace.
//
// The whole numbers are exact, and what follows them is what `pair_product` does in the same order: so a row has the
// same bits whichever computes it.

constexpr int kLeastTiled = 16;  // rows from which tiles pay
constexpr int kPanel = 64;       // blocks of depth whose weights are unpacked together
constexpr int kBlocksTiled = 2;  // blocks whose dot products are computed before they are scaled

// Some blocks of a pair of groups: codes as whole numbers with a sign, scales and minima as floats.
struct Panel {
    alignas(64) int8_t codes[2][kPanel][kGroup * kBlock];
    alignas(64) float scale[2][kPanel][kGroup], minimum[2][kPanel][kGroup];
};

template <int K>
static inline void unpack(const uint8_t* w, int blocks, int8_t (*codes)[kGroup * kBlock], float (*scale)[kGroup], float (*minimum)[kGroup]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int b = 0; b < blocks; ++b, w += record_bytes(K)) {
        store(scale[b], K == kQ4K ? load(reinterpret_cast<const float*>(w)) : halves(w));
        if (K == kQ41) store(minimum[b], halves(w + 2 * kGroup));
        if (K == kQ4K) store(minimum[b], load(reinterpret_cast<const float*>(w) + kGroup));
        const uint8_t* const at = w + scale_bytes(K);
        for (int i = 0; i < (K == kQ80 ? 8 : 4); ++i) {
            const __m512i raw = _mm512_loadu_si512(at + 64 * i);
            if (K == kQ80) {
                _mm512_store_si512(codes[b] + 64 * i, _mm512_xor_si512(raw, _mm512_set1_epi8(char(0x80))));
                continue;
            }
            __m512i first = _mm512_and_si512(raw, nibble), second = _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
            if (K == kQ40) {
                first = _mm512_sub_epi8(first, _mm512_set1_epi8(8));
                second = _mm512_sub_epi8(second, _mm512_set1_epi8(8));
            }
            _mm512_store_si512(codes[b] + 128 * i, first);
            _mm512_store_si512(codes[b] + 128 * i + 64, second);
        }
    }
}

// The tiles: 0 to 3 take dot products [rows, outputs], 4 and 5 activations (high and low bytes), 6 and 7 weights.
static inline void begin_tiles(int rows) {
    alignas(64) uint8_t config[64] = {};
    config[0] = 1;
    for (int t = 0; t < 8; ++t) {
        config[16 + 2 * t] = t == 4 || t == 5 ? kBlock : 64;    // bytes of a row
        config[48 + t] = uint8_t(t < 6 ? rows : kBlock / 4);  // rows
    }
    _tile_loadconfig(config);
}

// Dot products of some blocks: of each, the high and the low bytes' of the first group, then of the second.
using Block = int32_t[4][kLane][kGroup];
using Dots = Block[kBlocksTiled];

// The dot products of `count` blocks with a lane. A tile is stored three multiplications after its own: stored at once,
// it would hold up the next (8.5 ns for both instead of 5.3). So the last block's come with the next call, or with `end_dots`.
static inline void tile_dots(const Panel& p, int from, int count, const int8_t* codes, int lane, Dots& dots, Block*& before) {
    for (int j = 0; j < count; ++j, codes += 2 * kBlock * lane) {
        _tile_loadd(4, codes, 2 * kBlock);
        _tile_loadd(6, p.codes[0][from + j], 64);
        _tile_zero(0);
        _tile_dpbssd(0, 4, 6);
        if (before) _tile_stored(1, (*before)[1], 64);
        _tile_loadd(5, codes + kBlock, 2 * kBlock);
        _tile_zero(1);
        _tile_dpbssd(1, 5, 6);
        if (before) _tile_stored(2, (*before)[2], 64);
        _tile_loadd(7, p.codes[1][from + j], 64);
        _tile_zero(2);
        _tile_dpbssd(2, 4, 7);
        if (before) _tile_stored(3, (*before)[3], 64);
        _tile_zero(3);
        _tile_dpbssd(3, 5, 7);
        before = &dots[j];
        _tile_stored(0, (*before)[0], 64);
    }
}

static inline void end_dots(Block* before) {
    _tile_stored(1, (*before)[1], 64);
    _tile_stored(2, (*before)[2], 64);
    _tile_stored(3, (*before)[3], 64);
}

// Scale the dot products of `count` blocks, a number known to the compiler or not, and add them to `out`.
template <int K, typename Count>
static inline void scale_dots(const Panel& p, int from, Count count, const BlockScale* scales, int lane, int rows, const Dots& dots,
                              float (*out)[kPair]) {
    for (int g = 0; g < 2; ++g) {
        F d[kBlocksTiled], minimum[kBlocksTiled];
        for (int j = 0; j < count; ++j) {
            d[j] = load(p.scale[g][from + j]);
            minimum[j] = load(p.minimum[g][from + j]);
        }
#pragma GCC unroll 4
        for (int m = 0; m < rows; ++m) {
            F sum = load(out[m] + g * kGroup);
            for (int j = 0; j < count; ++j) {
                const BlockScale& s = scales[j * lane + m];
                const __m512i high = _mm512_load_si512(dots[j][2 * g][m]), low = _mm512_load_si512(dots[j][2 * g + 1][m]);
                const F dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
                sum = fma(dot, mul(d[j], all(s.scale)), sum);
                if (K == kQ41 || K == kQ4K) sum = fma(minimum[j], all(s.sum), sum);
            }
            store(out[m] + g * kGroup, sum);
        }
    }
}

// Up to 16 rows of a lane times the blocks of a panel, added to `out`. Blocks are scaled while the next are multiplied, and
// the same blocks of the groups at `next` (unless null) are asked for.
template <int K>
static inline void tile_product(const Panel& p, int blocks, const Rows& x, int row, int first_block, int rows, float (*out)[kPair],
                                const uint8_t* const* next) {
    alignas(64) Dots dots[2];
    Block* before = nullptr;
    const int lane = x.lane;
    const int8_t* const codes = x.code(row, first_block);
    const BlockScale* const scales = x.scale(row, first_block);
    auto begin = [&](int from, int count) { tile_dots(p, from, count, codes + 2 * kBlock * lane * from, lane, dots[from / kBlocksTiled % 2], before); };
    auto end = [&](int from, auto count) { scale_dots<K>(p, from, count, scales + from * lane, lane, rows, dots[from / kBlocksTiled % 2], out); };
    begin(0, std::min(kBlocksTiled, blocks));
    int from = 0;
    for (; from + kBlocksTiled <= blocks; from += kBlocksTiled) {
        const int left = blocks - from - kBlocksTiled;
        for (int g = 0; next && g < 2; ++g) {
            for (int j = 0; j < kBlocksTiled; ++j) ask_for<K>(next[g] + size_t(from + j) * record_bytes(K));
        }
        if (left > 0) begin(from + kBlocksTiled, std::min(kBlocksTiled, left));
        else end_dots(before);
        end(from, std::integral_constant<int, kBlocksTiled>{});
    }
    if (from < blocks) {
        end_dots(before);
        end(from, blocks - from);
    }
}

template <int K>
static void tiled(const Matrix& w, int group, int groups, const Rows& x, int row, int rows, float (*out)[kPair], bool more) {
    Panel panel;
    for (int m = 0; m < rows; ++m) for (int i = 0; i < kPair; i += W) store(out[m] + i, all(0.f));
    begin_tiles(x.lane);
    const int all_blocks = w.depth / kBlock;
    for (int first = 0; first < all_blocks; first += kPanel) {
        const int blocks = std::min(kPanel, all_blocks - first);
        const uint8_t* next[2];
        for (int i = 0; i < 2; ++i) {  // an odd last group is computed twice
            const uint8_t* const data = w.data + (group + std::min(i, groups - 1)) * w.group_bytes() + size_t(first) * record_bytes(K);
            unpack<K>(data, blocks, panel.codes[i], panel.scale[i], panel.minimum[i]);
            next[i] = data + 2 * w.group_bytes();
        }
        for (int m = 0; m < rows; m += kLane) {
            tile_product<K>(panel, blocks, x, row + m, first, std::min(kLane, rows - m), out + m, more && !m ? next : nullptr);
        }
    }
    _tile_release();
}

static void tiled_products(const Matrix& w, int group, int groups, const Rows& x, int row, int rows, float (*out)[kPair], bool more) {
    switch (w.kind) {
        case kQ40: return tiled<kQ40>(w, group, groups, x, row, rows, out, more);
        case kQ41: return tiled<kQ41>(w, group, groups, x, row, rows, out, more);
        case kQ4K: return tiled<kQ4K>(w, group, groups, x, row, rows, out, more);
        default: return tiled<kQ80>(w, group, groups, x, row, rows, out, more);
    }
}
