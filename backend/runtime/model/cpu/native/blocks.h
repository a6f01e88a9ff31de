// How weights and activations lie in memory: blocks of 32 along the depth of a product.
//
// A weight matrix [outputs, depth] is cut into groups of 16 outputs. A group is one record a block, in order of depth:
// the scales of the 16 outputs, their minima (kinds that have them), and their codes. Codes lie so that one 64-byte
// vector has four neighbours in depth of all 16 outputs: lane r, byte j is output r at depth 4 g + j. In kinds of 4 bits
// such a vector has two: g in the low halves, g + 1 in the high ones. All levels of instructions read this one packing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sgl {

constexpr int kBlock = 32;         // weights of a block
constexpr int kGroup = 16;         // outputs of a group
constexpr int kPair = 2 * kGroup;  // outputs of two groups: a block of what they feed
constexpr int kLane = 16;          // rows whose codes lie together
constexpr int kStretch = 128;        // rows for which a group's weights are unpacked once

enum Kind : int32_t {
    kQ40 = 0,  // d (code - 8); d in float16 (GGUF's Q4_0)
    kQ41 = 1,  // d code + m; both in float16 (GGUF's Q4_1)
    kQ4K = 2,  // d code + m; both in float32 (GGUF's Q4_K and whatever has finer scales)
    kQ80 = 3,  // d (code - 128); d in float16 (GGUF's Q8_0)
};

constexpr int code_bytes(int kind) { return kind == kQ80 ? kGroup * kBlock : kGroup * kBlock / 2; }
constexpr int scale_bytes(int kind) { return kind == kQ4K ? 8 * kGroup : kind == kQ41 ? 4 * kGroup : 2 * kGroup; }
constexpr int record_bytes(int kind) { return scale_bytes(kind) + code_bytes(kind); }

// Ask for a record of weights before it is needed. With few rows a product waits for memory, and the processor alone
// reads too little ahead: one core reads 12.8 GB/s of weights without this and 21.7 with it.
constexpr int kFewRows = 4;    // up to which a row's weights are asked for as they pass by,
constexpr int kAhead = 4096;   // so many bytes ahead
template <int K>
inline void ask_for(const uint8_t* record) {
#ifdef __GNUC__
    for (int i = 0; i < record_bytes(K); i += 64) __builtin_prefetch(record + i);
#endif
}

// Weights to ask for, record by record; null: none.
struct Ahead {
    const uint8_t *one, *other;
};

struct Matrix {
    const uint8_t* data;
    const float* bias;  // [outputs], or null
    int32_t kind, outputs, depth, unused;

    int pairs() const { return (outputs + kPair - 1) / kPair; }
    size_t group_bytes() const { return size_t(depth / kBlock) * record_bytes(kind); }
};

// 32 activations as whole numbers of 16 bits: value = scale * (256 * high + low). With 8 bits alone, a few large
// activations of a block would leave its others too coarse.
struct BlockScale {
    float scale;
    float sum;       // scale * (sum of the whole numbers)
    int32_t offset;  // -128 * (sum of the whole numbers)
    int32_t unused;
};
constexpr float kLargest = 127 * 256;  // the whole number of a block's largest activation

// Rows of quantised activations. The same block of up to 16 rows lies together, so a kernel reaches all of them by
// constant distances from one address, and a tile of AMX is one piece of memory.
struct Rows {
    int8_t* codes;       // [rows / lane, depth / 32, lane, 64]: the high bytes of a block, then its low bytes
    BlockScale* scales;  // [rows / lane, depth / 32, lane]
    int depth, lane;

    // For `rows` rows. A lane is as wide as there are rows, at most 16; the last one is filled up to whole 16.
    static int lane_of(size_t rows) { return int(rows < kLane ? rows : kLane); }
    static size_t padded(size_t rows) { return rows < kLane ? rows : (rows + kLane - 1) / kLane * kLane; }

    size_t place(int row, int block) const { return (size_t(row / kLane) * (depth / kBlock) + block) * lane + row % kLane; }
    int8_t* code(int row, int block) const { return codes + 2 * kBlock * place(row, block); }
    BlockScale* scale(int row, int block) const { return scales + place(row, block); }
};

}  // namespace sgl
