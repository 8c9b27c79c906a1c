// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace jepa_edge::testing {

/// Counts calls of operator new in all threads since it was made: the test program replaces every
/// form of it. Checks of doctest allocate, so read count() before the first of them.
class AllocationCounter {
 public:
  AllocationCounter() noexcept;
  [[nodiscard]] std::size_t count() const noexcept;

 private:
  std::size_t before_;
};

}  // namespace jepa_edge::testing
