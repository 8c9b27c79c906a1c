// SPDX-License-Identifier: Apache-2.0
// Against the ITU's formulas: tests/test_pixels.py. Here: ends of buffers, for the sanitizers and
// for other processors.
#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "jepa_edge/color.hpp"
#include "support/allocation_counter.hpp"

using jepa_edge::ColorConverter;
using jepa_edge::PixelFormat;
using jepa_edge::YuvMatrix;

namespace {

constexpr PixelFormat kFormats[] = {PixelFormat::rgb,  PixelFormat::bgr,  PixelFormat::rgba,
                                    PixelFormat::bgra, PixelFormat::mono, PixelFormat::nv12,
                                    PixelFormat::yuyv, PixelFormat::uyvy};

}  // namespace

TEST_CASE("a buffer of the fewest bytes is read and nothing beyond it, without allocating") {
  for (const PixelFormat format : kFormats) {
    for (const std::size_t padding : {0, 3}) {
      const std::size_t stride = ColorConverter::row_bytes(format, 6) + padding;
      const ColorConverter converter(format, {4, 6}, stride);
      const std::vector<std::uint8_t> source(converter.bytes(), 128);
      std::vector<std::uint8_t> target(4 * 6 * 3);
      const jepa_edge::testing::AllocationCounter counter;
      converter.convert(source, target);
      const std::size_t allocated = counter.count();
      CHECK(allocated == 0);
      const bool yuv =
          format == PixelFormat::nv12 || format == PixelFormat::yuyv || format == PixelFormat::uyvy;
      for (const auto value : target) CHECK(value == (yuv ? 130 : 128));  // (128 - 16) 255 / 219
    }
  }
}

TEST_CASE("white, black and the primaries of BT.601 come out") {
  const ColorConverter converter(PixelFormat::yuyv, {1, 2}, 4);
  std::vector<std::uint8_t> target(6);
  const auto first = [&](std::uint8_t y, std::uint8_t u, std::uint8_t v) {
    converter.convert(std::vector<std::uint8_t>{y, u, y, v}, target);
    return std::vector<std::uint8_t>(target.begin(), target.begin() + 3);
  };
  CHECK(first(235, 128, 128) == std::vector<std::uint8_t>{255, 255, 255});
  CHECK(first(16, 128, 128) == std::vector<std::uint8_t>{0, 0, 0});
  CHECK(first(81, 90, 240) == std::vector<std::uint8_t>{254, 0, 0});
  CHECK(first(145, 54, 34) == std::vector<std::uint8_t>{0, 255, 1});
  CHECK(first(41, 240, 110) == std::vector<std::uint8_t>{0, 0, 255});
}

TEST_CASE("layouts that no picture has are refused") {
  const auto make = [](PixelFormat format, jepa_edge::ImageSize size, std::size_t stride) {
    return ColorConverter(format, size, stride);
  };
  CHECK_THROWS_AS(make(PixelFormat::nv12, {3, 4}, 4), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::nv12, {4, 3}, 4), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::yuyv, {4, 3}, 8), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::uyvy, {4, 4}, 7), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::rgb, {0, 4}, 12), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::rgb, {4, 65536}, 1 << 20), std::invalid_argument);
  CHECK_THROWS_AS(make(PixelFormat::mono, {4, 4}, ~std::size_t{0}), std::invalid_argument);
}
