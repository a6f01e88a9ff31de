// What computes: the kernels of one level, a pool of threads, and buffers that grow. Knows nothing of models.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#include "blocks.h"
#include "levels.h"
#include "plan.h"
#include "threads.h"

namespace sgl {

// A buffer that grows, on a cache line.
template <typename T>
class Buffer {
public:
    ~Buffer() { std::free(data_); }
    T* sized(size_t count) {
        if (count > capacity_) {
            std::free(data_);
            capacity_ = count + count / 4;
            void* found = nullptr;  // not by `aligned_alloc`, which older systems of Apple lack
            if (posix_memalign(&found, 64, capacity_ * sizeof(T))) capacity_ = 0;
            data_ = static_cast<T*>(found);
            if (!capacity_) throw std::bad_alloc();
        }
        return data_;
    }

private:
    T* data_ = nullptr;
    size_t capacity_ = 0;
};

struct RowsBuffer {
    Buffer<int8_t> codes;
    Buffer<BlockScale> scales;
    Rows sized(size_t rows, int depth) {
        const size_t padded = Rows::padded(rows);
        return {codes.sized(padded * 2 * depth), scales.sized(padded * (depth / kBlock)), depth, Rows::lane_of(rows)};
    }
};

class Worker {
public:
    Worker(int level, int threads) : k(kernels_of(level)), pool_(std::max(1, threads)) {}

    // Products and norms of few values, and whatever else runs row by row.
    template <typename F>
    void of_rows(int rows, F&& work) {
        const int each = rows <= 4 ? rows : std::max(1, rows / (4 * pool_.threads()));
        const int pieces = each ? (rows + each - 1) / each : 0;
        pool_.each(pieces, [&](int piece) {
            for (int row = piece * each; row < std::min(rows, (piece + 1) * each); ++row) work(row);
        });
    }

    // Pairs of groups of outputs that make a piece of work: few where there is much to do for each.
    int pairs_of_piece(int pairs, size_t bytes, int rows) const {
        const int least = int(std::max<size_t>(1, kBytesOfPiece / std::max<size_t>(1, bytes * ((rows + 7) / 8))));
        const int fair = (pairs + 8 * pool_.threads() - 1) / (8 * pool_.threads());  // not many more pieces than pay
        return std::min(pairs, std::max(least, std::min(fair, 32)));
    }

    void product(const Matrix& w, const Rows& x, int rows, float* y, bool added) {
        const int pairs = w.pairs(), each = pairs_of_piece(pairs, 2 * w.group_bytes(), rows);
        pool_.each((pairs + each - 1) / each, [&](int piece) {
            k.multiply(w, piece * each, std::min(pairs, (piece + 1) * each), x, rows, y, added);
        });
    }

    // silu(gate) * up, quantised.
    void feed(const Matrix& gate, const Matrix& up, const Rows& x, int rows, const Rows& wide) {
        const int blocks = wide.depth / kBlock, each = pairs_of_piece(blocks, 4 * gate.group_bytes(), rows);
        pool_.each((blocks + each - 1) / each, [&](int piece) {
            k.gated(gate, up, piece * each, std::min(blocks, (piece + 1) * each), x, rows, wide);
        });
    }

    // The rows of a plan attend to their keys; what they found is merged row by row (`merge_row`).
    void attend(const Attention& a, const StepPlan& plan) {
        const size_t counts = size_t(a.kv_heads) * plan.segments.size();
        if (counts > done_.size()) done_ = std::vector<std::atomic<int32_t>>(2 * counts);
        for (size_t i = 0; i < counts; ++i) done_[i].store(0, std::memory_order_relaxed);
        pool_.each(int(plan.units.size()) * a.kv_heads, [&](int piece) {
            const auto [number, tile] = plan.units[piece / a.kv_heads];
            const int head = piece % a.kv_heads;
            const Segment& segment = plan.segments[number];
            if (segment.parent >= 0) {
                // Its pieces were begun before this one, so this ends.
                const int tiles = plan.segments[segment.parent].tiles();
                const auto& before = done_[size_t(segment.parent) * a.kv_heads + head];
                for (int turn = 0; before.load(std::memory_order_acquire) < tiles; ++turn) {
                    if (turn < 2000) pause_briefly();
                    else std::this_thread::yield();
                }
            }
            const int first = tile * kRowTile, count = std::min(kRowTile, segment.rows - first);
            k.attend(a, segment, plan.rows.data() + segment.first_row + first, count, head);
            done_[size_t(number) * a.kv_heads + head].fetch_add(1, std::memory_order_release);
        });
    }

    const Kernels& k;

private:
    static constexpr int kBytesOfPiece = 16 << 10;  // of weights: some microseconds of work for a thread

    Pool pool_;
    std::vector<std::atomic<int32_t>> done_;
};

}  // namespace sgl
