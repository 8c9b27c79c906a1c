// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>
#include <vector>

namespace jepa_edge {
namespace {

/// Long enough to bridge the serial work between two jobs of one plan, short enough not to burn a
/// core that another process could use.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPausesPerClock = 32;
constexpr std::size_t kCacheLines = 128;  // two: processors prefetch the neighbour too

void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns whether ready() came true while spinning.
template <typename Ready>
bool spin_until(Ready ready) noexcept {
  const auto give_up = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (ready()) {
        return true;
      }
      pause();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  return false;
}

}  // namespace

/// The job's fields are written while no index is handed out and read by whoever holds one, so
/// that a worker that wakes late finds either nothing or a job that is still under way: nobody
/// has to wait for it. The orders of `unclaimed` and `unfinished` keep these accesses apart.
struct ThreadPool::State {
  Erased task = nullptr;
  void* context = nullptr;
  std::int64_t count = 0;
  std::vector<std::thread> threads;
  alignas(kCacheLines) std::atomic<std::int64_t> unclaimed{0};   // hands out indices; below 0: none
  alignas(kCacheLines) std::atomic<std::int64_t> unfinished{0};  // claimed or not; 0: job done
  alignas(kCacheLines) std::atomic<std::uint32_t> jobs{0};       // what idle workers watch
  std::atomic<bool> stop{false};

  ~State() {
    stop.store(true, std::memory_order_relaxed);
    jobs.fetch_add(1, std::memory_order_release);
    jobs.notify_all();
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  /// Runs indices until none is left.
  void work(std::size_t worker) noexcept {
    std::int64_t finished = 0;
    for (;;) {
      const std::int64_t ticket = unclaimed.fetch_sub(1, std::memory_order_acquire);
      if (ticket <= 0) {
        break;
      }
      task(context, worker, static_cast<std::size_t>(count - ticket));
      ++finished;
    }
    if (finished > 0 && unfinished.fetch_sub(finished, std::memory_order_acq_rel) == finished) {
      unfinished.notify_one();
    }
  }

  void serve(std::size_t worker) noexcept {
    for (;;) {
      const std::uint32_t seen = jobs.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) {
        return;
      }
      work(worker);
      if (!spin_until([&] { return jobs.load(std::memory_order_relaxed) != seen; })) {
        jobs.wait(seen, std::memory_order_relaxed);
      }
    }
  }
};

ThreadPool::ThreadPool(std::size_t workers) : state_(std::make_unique<State>()) {
  if (workers == 0) {
    throw std::invalid_argument("a thread pool of 0 workers; expected at least 1, the caller");
  }
  state_->threads.reserve(workers - 1);
  for (std::size_t worker = 1; worker < workers; ++worker) {
    state_->threads.emplace_back([state = state_.get(), worker] { state->serve(worker); });
  }
}

ThreadPool::~ThreadPool() = default;

std::size_t ThreadPool::workers() const noexcept { return state_->threads.size() + 1; }

void ThreadPool::run_erased(std::size_t count, Erased task, void* context) noexcept {
  if (count <= 1 || workers() == 1) {
    for (std::size_t index = 0; index < count; ++index) {
      task(context, 0, index);
    }
    return;
  }
  State& state = *state_;
  state.task = task;
  state.context = context;
  state.count = static_cast<std::int64_t>(count);
  state.unfinished.store(state.count, std::memory_order_relaxed);
  state.unclaimed.store(state.count, std::memory_order_release);
  state.jobs.fetch_add(1, std::memory_order_release);
  state.jobs.notify_all();
  state.work(0);
  const auto done = [&] { return state.unfinished.load(std::memory_order_acquire) == 0; };
  if (!spin_until(done)) {
    for (auto left = state.unfinished.load(std::memory_order_acquire); left != 0;
         left = state.unfinished.load(std::memory_order_acquire)) {
      state.unfinished.wait(left, std::memory_order_acquire);
    }
  }
}

}  // namespace jepa_edge
