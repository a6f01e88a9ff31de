// A pool of threads that share the pieces of one job at a time.
//
// The caller works too. Each thread takes the next piece from a counter, so a thread that another process keeps from its
// core delays at most one piece. A thread without work spins for a moment, then sleeps: beside a busy process a spinning
// thread would hold the core that its partner needs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sgl {

inline void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    using Work = void (*)(void* with, int piece);

    explicit Pool(int threads) {
        for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> held(lock_);
            ending_ = true;
            state_.store(0);
        }
        wake_.notify_all();
        for (auto& helper : helpers_) helper.join();
    }

    int threads() const { return int(helpers_.size()) + 1; }

    // Run work(with, 0) ... work(with, pieces - 1), in that order of beginning; returns when all have ended.
    void run(int pieces, Work work, void* with) {
        if (pieces <= 1 || helpers_.empty()) {
            for (int i = 0; i < pieces; ++i) work(with, i);
            return;
        }
        const uint64_t epoch = ++epoch_ << 32;
        state_.store(epoch | kClosed);  // a late helper can no longer take a piece of the job before
        work_.store(work, std::memory_order_relaxed);
        with_.store(with, std::memory_order_relaxed);
        pieces_.store(uint32_t(pieces), std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        state_.store(epoch);
        if (sleeping_.load()) {
            { std::lock_guard<std::mutex> held(lock_); }
            wake_.notify_all();
        }
        take();
        for (int turn = 0; done_.load(std::memory_order_acquire) < pieces; ++turn) {
            if (turn < kSpinTurns) pause_briefly();
            else std::this_thread::yield();
        }
    }

    template <typename F>
    void each(int pieces, F&& work) {
        auto call = [](void* with, int piece) { (*static_cast<std::remove_reference_t<F>*>(with))(piece); };
        run(pieces, call, &work);
    }

private:
    static constexpr uint64_t kClosed = 0xffffffff;  // more pieces than any job has
    static constexpr int kSpinTurns = 2000;          // about 50 microseconds

    // Take pieces of the current job until none is left.
    void take() {
        uint64_t seen = state_.load(std::memory_order_acquire);
        while (uint32_t(seen) < pieces_.load(std::memory_order_relaxed)) {
            const Work work = work_.load(std::memory_order_relaxed);
            void* const with = with_.load(std::memory_order_relaxed);
            // Succeeds only while the job is the one that was read: its state changes before its fields do.
            if (!state_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
            work(with, int(uint32_t(seen)));
            done_.fetch_add(1, std::memory_order_release);
            seen = state_.load(std::memory_order_acquire);
        }
    }

    void help() {
        uint64_t epoch = 0;
        while (true) {
            for (int turn = 0; turn < kSpinTurns && state_.load(std::memory_order_acquire) >> 32 == epoch; ++turn) {
                pause_briefly();
            }
            if (state_.load() >> 32 == epoch) {
                std::unique_lock<std::mutex> held(lock_);
                sleeping_.fetch_add(1);
                wake_.wait(held, [&] { return ending_ || state_.load() >> 32 != epoch; });
                sleeping_.fetch_sub(1);
            }
            if (ending_.load()) return;
            epoch = state_.load(std::memory_order_acquire) >> 32;
            take();
        }
    }

    std::vector<std::thread> helpers_;
    std::mutex lock_;
    std::condition_variable wake_;
    std::atomic<bool> ending_{false};
    std::atomic<int> sleeping_{0};
    uint64_t epoch_ = 0;
    alignas(64) std::atomic<uint64_t> state_{kClosed};  // the job's number, and its next piece
    std::atomic<Work> work_{nullptr};
    std::atomic<void*> with_{nullptr};
    std::atomic<uint32_t> pieces_{0};
    alignas(64) std::atomic<int> done_{0};
};

}  // namespace sgl
