// SPDX-License-Identifier: Apache-2.0
// Against Pillow: tests/test_image_fit.py. Here: edges of the sizes, for the sanitizers and for
// other processors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "jepa_edge/resize.hpp"
#include "support/allocation_counter.hpp"

using jepa_edge::Filter;
using jepa_edge::ImageSize;
using jepa_edge::Resizer;
using jepa_edge::Window;

TEST_CASE("a flat picture stays flat at every size") {
  for (const ImageSize in : {ImageSize{1, 1}, {2, 3}, {17, 5}, {64, 64}}) {
    for (const ImageSize out : {ImageSize{1, 1}, {3, 2}, {5, 17}, {64, 64}, {100, 1}}) {
      for (const Filter filter : {Filter::bilinear, Filter::bicubic}) {
        Resizer resizer(in, out, filter);
        const std::vector<std::uint8_t> source(in.height * in.width * 3, 201);
        std::vector<std::uint8_t> target(out.height * out.width * 3);
        resizer.resize(source.data(), static_cast<std::ptrdiff_t>(in.width * 3), target);
        for (const auto value : target) CHECK(value == 201);
      }
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

TEST_CASE("a window is what scaling and then cutting gives") {
  constexpr ImageSize in{37, 23};
  std::vector<std::uint8_t> source(in.height * in.width * 3);
  for (std::size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<std::uint8_t>(i * 7919 % 251);
  }
  constexpr auto stride = static_cast<std::ptrdiff_t>(in.width * 3);
  for (const ImageSize scaled : {ImageSize{20, 31}, {37, 9}, {60, 23}, {37, 23}}) {
    for (const Filter filter : {Filter::bilinear, Filter::bicubic}) {
      std::vector<std::uint8_t> whole(scaled.height * scaled.width * 3);
      Resizer(in, scaled, filter).resize(source.data(), stride, whole);
      const Window window{3, 2, {scaled.height - 5, scaled.width - 4}};
      Resizer part(in, scaled, filter, window);
      CHECK(part.out() == window.size);
      std::vector<std::uint8_t> target(window.size.height * window.size.width * 3);
      part.resize(source.data(), stride, target);
      for (std::size_t y = 0; y < window.size.height; ++y) {
        const std::size_t row = window.size.width * 3;
        const std::uint8_t* cut =
            whole.data() + ((y + window.top) * scaled.width + window.left) * 3;
        CHECK(std::equal(cut, cut + row, target.data() + y * row));
      }
    }
  }
}

TEST_CASE("a window that leaves the picture is refused") {
  constexpr std::size_t huge = ~std::size_t{0};
  for (const Window window : {Window{0, 0, {5, 4}}, Window{1, 0, {4, 4}}, Window{0, 1, {4, 4}},
                              Window{huge, 0, {4, 4}}, Window{0, huge - 2, {4, 4}}}) {
    CHECK_THROWS_AS(Resizer({8, 8}, {4, 4}, Filter::bicubic, window), std::invalid_argument);
  }
}

TEST_CASE("sides that no picture has are refused") {
  CHECK_THROWS_AS(Resizer({0, 1}, {1, 1}), std::invalid_argument);
  CHECK_THROWS_AS(Resizer({1, 1}, {1, 65536}), std::invalid_argument);
}
