// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace jepa_edge {

/// Memory that is taken piece by piece while something is built, and given back all at once. Pieces
/// are zeroed and aligned to cache lines; large blocks ask the kernel for huge pages.
class Arena {
 public:
  template <typename T>
  T* take(std::size_t count) {
    if (count > kMost / sizeof(T)) throw std::bad_alloc();
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return used_; }

 private:
  static constexpr std::size_t kMost = std::size_t{1} << 46U;  // so that no size wraps around
  void* take_bytes(std::size_t bytes);

  struct Free {
    void operator()(void* block) const noexcept;
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
  std::byte* next_ = nullptr;
  std::size_t left_ = 0;
  std::size_t used_ = 0;
};

}  // namespace jepa_edge
