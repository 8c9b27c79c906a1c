// SPDX-License-Identifier: Apache-2.0
#include "arena.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jepa_edge {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20U;
constexpr std::size_t kBlock = 2 * kHugePage;

constexpr std::size_t round_up(std::size_t value, std::size_t to) noexcept {
  return (value + to - 1) / to * to;
}

}  // namespace

void Arena::Free::operator()(void* block) const noexcept { std::free(block); }

void* Arena::take_bytes(std::size_t bytes) {
  // One line beyond each piece: vector loads of a last, partial vector may reach past its end.
  const std::size_t size = round_up(bytes, kLine) + kLine;
  if (size > left_) {
    const std::size_t block = round_up(std::max(size, kBlock), kHugePage);
    void* memory = std::aligned_alloc(kHugePage, block);
    if (memory == nullptr) throw std::bad_alloc();
    blocks_.emplace_back(memory);
#if defined(__linux__)
    madvise(memory, block, MADV_HUGEPAGE);  // a wish: without huge pages all is well, only slower
#endif
    next_ = static_cast<std::byte*>(memory);
    left_ = block;
  }
  std::byte* piece = next_;
  std::memset(piece, 0, size);
  next_ += size;
  left_ -= size;
  used_ += size;
  return piece;
}

}  // namespace jepa_edge
