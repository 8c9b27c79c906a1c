// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdint>
#include <new>
#include <thread>

#include "support/allocation_counter.hpp"

using jepa_edge::testing::AllocationCounter;

// Calls, not new-expressions: the compiler may leave out the allocation of one.
TEST_CASE("every form of allocation is counted") {
  constexpr std::align_val_t kWide{256};
  const AllocationCounter counter;
  ::operator delete(::operator new(0));
  ::operator delete[](::operator new[](5));
  ::operator delete(::operator new(5, std::nothrow), std::nothrow);
  ::operator delete[](::operator new[](5, std::nothrow), std::nothrow);
  void* const wide = ::operator new(5, kWide);
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(wide) % 256 == 0;
  ::operator delete(wide, kWide);
  ::operator delete[](::operator new[](300, kWide), kWide);
  ::operator delete(::operator new(5, kWide, std::nothrow), kWide, std::nothrow);
  ::operator delete[](::operator new[](5, kWide, std::nothrow), kWide, std::nothrow);
  const std::size_t allocations = counter.count();
  CHECK(allocations == 8);
  CHECK(is_aligned);
}

TEST_CASE("other threads' allocations count too") {
  const AllocationCounter counter;
  std::thread([] {
    for (int i = 0; i < 100; ++i) {
      ::operator delete(::operator new(8));
    }
  }).join();
  CHECK(counter.count() >= 100);
}
