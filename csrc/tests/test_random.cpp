// SPDX-License-Identifier: Apache-2.0
// Statistics and the other known answers: tests/test_core.py.
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include "jepa_edge/random.hpp"
#include "support/allocation_counter.hpp"

TEST_CASE("Philox gives Random123's known answer for the digits of pi") {
  // Source: Random123 1.09, kat_vectors, "philox4x32 10".
  const auto words = jepa_edge::philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U},
                                           {0xa4093822U, 0x299f31d0U});
  CHECK(words == std::array{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U});
}

TEST_CASE("normals are the same numbers on every processor") {
  std::array<float, 6> drawn{};
  jepa_edge::standard_normal(7, 3, drawn);
  // Computed apart, in Python's float64.
  const std::array expected{0.728884001,  0.717820352,  -1.543246038,
                            -1.117998529, -0.998946111, 0.257339128};
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    // The last bit of a float may depend on the C library's log, sin and cos.
    CHECK(static_cast<double>(drawn[i]) == doctest::Approx(expected[i]).epsilon(1e-6));
  }
}

TEST_CASE("drawing allocates nothing, whatever the length") {
  std::vector<float> drawn(1003);
  const jepa_edge::testing::AllocationCounter counter;
  for (std::size_t count = 0; count < 9; ++count) {
    jepa_edge::standard_normal(1, count, std::span(drawn).first(count));
  }
  jepa_edge::standard_normal(1, 0, drawn);
  const std::size_t allocations = counter.count();
  CHECK(allocations == 0);
}
