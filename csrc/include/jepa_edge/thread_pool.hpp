// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace jepa_edge {

/// Threads that wait for work: they spin briefly, then sleep. The caller is worker 0, so that a
/// pool of one starts no thread. One job at a time: the owner must not call it concurrently.
class ThreadPool {
 public:
  explicit ThreadPool(std::size_t workers);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] std::size_t workers() const noexcept;

  /// Calls task(worker, index) for every index below count, indices handed out one by one to
  /// whichever worker is free. Returns when all are done. No allocation; task must not throw.
  template <typename Task>
  void run(std::size_t count, Task&& task) noexcept {
    using Plain = std::remove_reference_t<Task>;
    run_erased(
        count,
        [](void* context, std::size_t worker, std::size_t index) noexcept {
          (*static_cast<Plain*>(context))(worker, index);
        },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Erased = void (*)(void* context, std::size_t worker, std::size_t index) noexcept;
  void run_erased(std::size_t count, Erased task, void* context) noexcept;

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace jepa_edge
