// The attention of one step as segments: blocks of keys, and the rows that see them.
//
// A row's keys are its positions in blocks of 64. Spans whose block has the same slots share it: the block's keys are
// read once for the rows of all of them. A segment is a chain of blocks with the same spans. Four blocks are a super
// block; what is known of a row at the end of one does not depend on the others, so they can be computed at once.
#pragma once

#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace sgl {

constexpr int kKeys = 64;        // keys of a block
constexpr int kSuper = 4;        // blocks of a super block: enough of them for all threads
constexpr int kRowTile = 32;     // rows of one unit of work
constexpr int kMostHeadDim = 256;

struct Segment {
    int32_t parent;  // the segment with the blocks before, in the same super block; -1: none
    int32_t first_block, blocks, super;
    int32_t first_row, rows;  // in StepPlan::rows
    int32_t first_unit;
    bool opens;             // begins its super block
    const int64_t* slots;   // of its blocks, one after the other

    int tiles() const { return (rows + kRowTile - 1) / kRowTile; }
};

struct SpanView {
    int64_t first_row, rows, context_length, first_run, runs;
};

struct StepPlan {
    std::vector<Segment> segments;  // parents first
    std::vector<int32_t> rows;
    std::vector<std::pair<int32_t, int32_t>> units;  // (segment, tile), in an order that has parents first
    int supers = 1;                                  // of the longest row

    void make(const SpanView* spans, int count, const int64_t* runs, const int64_t* row_slots) {
        segments.clear();
        rows.clear();
        units.clear();
        lay_out(spans, count, runs, row_slots);
        supers = 1;
        int most = 0;
        for (int s = 0; s < count; ++s) if (spans[s].rows) most = std::max(most, blocks_[s]);
        supers = std::max(1, (most + kSuper - 1) / kSuper);
        std::vector<Group> level;
        for (int super = 0; super < supers; ++super) {
            std::vector<int32_t> all;
            for (int s = 0; s < count; ++s) if (spans[s].rows && blocks_[s] > super * kSuper) all.push_back(s);
            split(all, super * kSuper, -1, level);
        }
        while (!level.empty()) {
            std::vector<Group> next;
            for (auto& group : level) extend(group, spans, next);
            level.swap(next);
        }
        for (size_t i = 0; i < segments.size(); ++i) {
            segments[i].first_unit = int32_t(units.size());
            for (int t = 0; t < segments[i].tiles(); ++t) units.emplace_back(int32_t(i), t);
        }
    }

private:
    struct Group {
        std::vector<int32_t> spans;
        int block;
        int parent;
    };

    const int64_t* block(int span, int b) const { return slots_.data() + start_[span] + size_t(b) * kKeys; }
    int width(int span, int b) const { return int(std::min<int64_t>(kKeys, length_[span] - int64_t(b) * kKeys)); }

    void lay_out(const SpanView* spans, int count, const int64_t* runs, const int64_t* row_slots) {
        start_.resize(count), length_.resize(count), blocks_.resize(count);
        size_t total = 0;
        for (int s = 0; s < count; ++s) {
            start_[s] = total;
            length_[s] = spans[s].context_length + spans[s].rows;
            blocks_[s] = int((length_[s] + kKeys - 1) / kKeys);
            total += size_t(blocks_[s]) * kKeys;
        }
        slots_.resize(total);
        for (int s = 0; s < count; ++s) {
            int64_t* to = slots_.data() + start_[s];
            for (int64_t r = 0; r < spans[s].runs; ++r) {
                const int64_t* const run = runs + 2 * (spans[s].first_run + r);
                for (int64_t i = 0; i < run[1]; ++i) *to++ = run[0] + i;
            }
            for (int64_t i = 0; i < spans[s].rows; ++i) *to++ = row_slots[spans[s].first_row + i];
        }
    }

    bool same(int a, int b, int at) const {
        return width(a, at) == width(b, at) && !std::memcmp(block(a, at), block(b, at), sizeof(int64_t) * width(a, at));
    }

    // Groups of spans with the same block `at`.
    void split(const std::vector<int32_t>& spans, int at, int parent, std::vector<Group>& out) {
        std::unordered_multimap<uint64_t, size_t> found;
        for (const int32_t span : spans) {
            uint64_t key = uint64_t(width(span, at));
            for (int k = 0; k < width(span, at); ++k) key = (key ^ uint64_t(block(span, at)[k])) * 0x9E3779B97F4A7C15ull;
            bool joined = false;
            const auto range = found.equal_range(key);
            for (auto it = range.first; it != range.second && !joined; ++it) {
                Group& group = out[it->second];
                if (same(group.spans[0], span, at)) {
                    group.spans.push_back(span);
                    joined = true;
                }
            }
            if (!joined) {
                found.emplace(key, out.size());
                out.push_back({{span}, at, parent});
            }
        }
    }

    // The segment that begins with a group's block; what follows it goes to `next`.
    void extend(const Group& group, const SpanView* spans, std::vector<Group>& next) {
        const int end = (group.block / kSuper + 1) * kSuper;
        const int one = group.spans[0];
        int last = group.block + 1;
        auto all_share = [&](int at) {
            for (const int32_t span : group.spans) if (blocks_[span] <= at || (span != one && !same(one, span, at))) return false;
            return true;
        };
        while (last < end && blocks_[one] > last && all_share(last)) ++last;
        Segment segment{};
        segment.parent = group.parent;
        segment.first_block = group.block;
        segment.blocks = last - group.block;
        segment.super = group.block / kSuper;
        segment.opens = group.parent < 0;
        segment.slots = block(one, group.block);
        segment.first_row = int32_t(rows.size());
        for (const int32_t span : group.spans) {
            for (int64_t r = 0; r < spans[span].rows; ++r) rows.push_back(int32_t(spans[span].first_row + r));
        }
        segment.rows = int32_t(rows.size()) - segment.first_row;
        const int parent = int(segments.size());
        segments.push_back(segment);
        if (last >= end) return;
        std::vector<int32_t> longer;
        for (const int32_t span : group.spans) if (blocks_[span] > last) longer.push_back(span);
        if (!longer.empty()) split(longer, last, parent, next);
    }

    std::vector<int64_t> slots_;
    std::vector<size_t> start_;
    std::vector<int64_t> length_;
    std::vector<int> blocks_;
};

}  // namespace sgl
