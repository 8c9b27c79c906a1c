// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace jepa_edge {
namespace {

constexpr std::size_t kChannels = 3;
constexpr std::size_t kMaxSide = 65535;
constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

std::size_t checked(std::size_t side) {
  if (side < 1 || side > kMaxSide) {
    throw std::invalid_argument("an image side is " + std::to_string(side) +
                                ", expected 1 to 65535 pixels");
  }
  return side;
}

std::uint8_t clip8(std::int32_t sum) noexcept {
  return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

double triangle(double x) noexcept { return std::max(0.0, 1.0 - std::abs(x)); }

}  // namespace

Resizer::Axis::Axis(std::size_t in, std::size_t out) : taps(0) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);  // a larger image is only interpolated
  taps = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  first.resize(out);
  count.resize(out);
  weights.assign(out * taps, 0);
  std::vector<double> exact(taps);
  for (std::size_t o = 0; o < out; ++o) {
    const double center = (static_cast<double>(o) + 0.5) * scale;
    const double low = std::max(0.0, std::trunc(center - support + 0.5));
    const double high = std::min(static_cast<double>(in), std::trunc(center + support + 0.5));
    first[o] = static_cast<std::size_t>(low);
    count[o] = static_cast<std::size_t>(high - low);
    double total = 0.0;
    for (std::size_t k = 0; k < count[o]; ++k) {
      exact[k] = triangle((static_cast<double>(k) + low - center + 0.5) / support);
      total += exact[k];
    }
    for (std::size_t k = 0; k < count[o]; ++k) {
      const double share = total == 0.0 ? exact[k] : exact[k] / total;
      weights[o * taps + k] = static_cast<std::int32_t>(0.5 + share * (1 << kPrecisionBits));
    }
  }
}

Resizer::Resizer(ImageSize in, ImageSize out)
    : in_{checked(in.height), checked(in.width)},
      out_{checked(out.height), checked(out.width)},
      horizontal_(in.width, out.width),
      vertical_(in.height, out.height),
      rows_(in.height * out.width * kChannels),
      sums_(out.width * kChannels) {}

void Resizer::resize(const std::uint8_t* source, std::ptrdiff_t stride,
                     std::span<std::uint8_t> target) noexcept {
  const std::size_t width = out_.width * kChannels;
  for (std::size_t y = 0; y < in_.height; ++y) {
    const std::uint8_t* row = source + static_cast<std::ptrdiff_t>(y) * stride;
    std::uint8_t* scaled = rows_.data() + y * width;
    if (in_.width == out_.width) {  // as Pillow: no pass, no rounding
      std::memcpy(scaled, row, width);
      continue;
    }
    for (std::size_t x = 0; x < out_.width; ++x) {
      const std::int32_t* weight = horizontal_.weights.data() + x * horizontal_.taps;
      const std::uint8_t* pixel = row + horizontal_.first[x] * kChannels;
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (std::size_t k = 0; k < horizontal_.count[x]; ++k, pixel += kChannels) {
        red += weight[k] * pixel[0];
        green += weight[k] * pixel[1];
        blue += weight[k] * pixel[2];
      }
      scaled[x * kChannels] = clip8(red);
      scaled[x * kChannels + 1] = clip8(green);
      scaled[x * kChannels + 2] = clip8(blue);
    }
  }
  if (in_.height == out_.height) {
    std::memcpy(target.data(), rows_.data(), target.size());
    return;
  }
  std::int32_t* sums = sums_.data();
  for (std::size_t y = 0; y < out_.height; ++y) {
    std::fill_n(sums, width, kHalf);
    for (std::size_t k = 0; k < vertical_.count[y]; ++k) {
      const std::int32_t weight = vertical_.weights[y * vertical_.taps + k];
      const std::uint8_t* row = rows_.data() + (vertical_.first[y] + k) * width;
      for (std::size_t i = 0; i < width; ++i) sums[i] += weight * row[i];
    }
    std::uint8_t* out = target.data() + y * width;
    for (std::size_t i = 0; i < width; ++i) out[i] = clip8(sums[i]);
  }
}

}  // namespace jepa_edge
