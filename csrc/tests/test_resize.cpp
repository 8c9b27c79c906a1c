// SPDX-License-Identifier: Apache-2.0
// Against Pillow: tests/test_image_fit.py. Here: edges of the sizes, for the sanitizers and for
// other processors.
#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "jepa_edge/resize.hpp"
#include "support/allocation_counter.hpp"

using jepa_edge::ImageSize;
using jepa_edge::Resizer;

TEST_CASE("a flat picture stays flat at every size") {
  for (const ImageSize in : {ImageSize{1, 1}, {2, 3}, {17, 5}, {64, 64}}) {
    for (const ImageSize out : {ImageSize{1, 1}, {3, 2}, {5, 17}, {64, 64}, {100, 1}}) {
      Resizer resizer(in, out);
      const std::vector<std::uint8_t> source(in.height * in.width * 3, 201);
      std::vector<std::uint8_t> target(out.height * out.width * 3);
      resizer.resize(source.data(), static_cast<std::ptrdiff_t>(in.width * 3), target);
      for (const auto value : target) CHECK(value == 201);
    }
  }
}

TEST_CASE("half the size is the triangle filter, rows may be padded, nothing is allocated") {
  // Four columns 0, 100, 200, 40 to two: center 1 of support 2 weighs columns 0 to 2 (3, 3, 1) / 7,
  // the other one columns 1 to 3 (1, 3, 3) / 7. The stride skips a byte that is no pixel.
  const std::vector<std::uint8_t> source{0, 0, 0, 100, 100, 100, 200, 200, 200, 40, 40, 40, 255};
  Resizer resizer({1, 4}, {1, 2});
  std::vector<std::uint8_t> target(6);
  const jepa_edge::testing::AllocationCounter counter;
  resizer.resize(source.data(), 13, target);
  const std::size_t allocated = counter.count();
  CHECK(allocated == 0);
  CHECK(target == std::vector<std::uint8_t>{71, 71, 71, 117, 117, 117});
}

TEST_CASE("sides that no picture has are refused") {
  CHECK_THROWS_AS(Resizer({0, 1}, {1, 1}), std::invalid_argument);
  CHECK_THROWS_AS(Resizer({1, 1}, {1, 65536}), std::invalid_argument);
}
