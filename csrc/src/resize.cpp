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
constexpr int kPrecisionBits = Resizer::kBits;
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

double cubic(double x) noexcept {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

bool inside(std::size_t begin, std::size_t size, std::size_t whole) {
  return checked(size) <= checked(whole) && begin <= whole - size;
}

Window checked(Window window, ImageSize scaled) {
  if (!inside(window.top, window.size.height, scaled.height) ||
      !inside(window.left, window.size.width, scaled.width)) {
    throw std::invalid_argument("the window of " + std::to_string(window.size.height) + " x " +
                                std::to_string(window.size.width) + " at " +
                                std::to_string(window.top) + ", " + std::to_string(window.left) +
                                " leaves the scaled picture of " + std::to_string(scaled.height) +
                                " x " + std::to_string(scaled.width));
  }
  return window;
}

}  // namespace

Resizer::Axis::Axis(std::size_t in, std::size_t scaled, std::size_t begin, std::size_t outputs,
                    Filter filter)
    : taps(0) {
  const double scale = static_cast<double>(in) / static_cast<double>(scaled);
  const double stretch = std::max(scale, 1.0);  // a larger image is only interpolated
  const double support = (filter == Filter::bicubic ? 2.0 : 1.0) * stretch;
  const double shrink = 1.0 / stretch;
  taps = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  first.resize(outputs);
  count.resize(outputs);
  weights.assign(outputs * taps, 0);
  std::vector<double> exact(taps);
  for (std::size_t o = 0; o < outputs; ++o) {
    const double center = (static_cast<double>(begin + o) + 0.5) * scale;
    const double low = std::max(0.0, std::trunc(center - support + 0.5));
    const double high = std::min(static_cast<double>(in), std::trunc(center + support + 0.5));
    first[o] = static_cast<std::size_t>(low);
    count[o] = static_cast<std::size_t>(high - low);
    double total = 0.0;
    for (std::size_t k = 0; k < count[o]; ++k) {
      const double x = (static_cast<double>(k) + low - center + 0.5) * shrink;
      exact[k] = filter == Filter::bicubic ? cubic(x) : triangle(x);
      total += exact[k];
    }
    for (std::size_t k = 0; k < count[o]; ++k) {
      const double share = total == 0.0 ? exact[k] : exact[k] / total;
      weights[o * taps + k] =
          static_cast<std::int32_t>(std::copysign(0.5, share) + share * (1 << kPrecisionBits));
    }
  }
}

Resizer::Resizer(ImageSize in, ImageSize out, Filter filter)
    : Resizer(in, out, filter, Window{0, 0, out}) {}

Resizer::Resizer(ImageSize in, ImageSize scaled, Filter filter, Window window)
    : in_{checked(in.height), checked(in.width)},
      scaled_(scaled),
      window_(checked(window, scaled)),
      horizontal_(in.width, scaled.width, window.left, window.size.width, filter),
      vertical_(in.height, scaled.height, window.top, window.size.height, filter),
      row_begin_(vertical_.first.front()),
      row_end_(vertical_.first.back() + vertical_.count.back()),
      rows_((row_end_ - row_begin_) * window.size.width * kChannels),
      sums_(window.size.width * kChannels) {}

void Resizer::scale_row(const std::uint8_t* source, std::uint8_t* target) const noexcept {
  if (in_.width == scaled_.width) {  // as Pillow: no pass, no rounding
    std::memcpy(target, source + window_.left * kChannels, window_.size.width * kChannels);
    return;
  }
  for (std::size_t x = 0; x < window_.size.width; ++x, target += kChannels) {
    const std::int32_t* weight = horizontal_.weights.data() + x * horizontal_.taps;
    const std::uint8_t* pixel = source + horizontal_.first[x] * kChannels;
    std::int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (std::size_t k = 0; k < horizontal_.count[x]; ++k, pixel += kChannels) {
      red += weight[k] * pixel[0];
      green += weight[k] * pixel[1];
      blue += weight[k] * pixel[2];
    }
    target[0] = clip8(red);
    target[1] = clip8(green);
    target[2] = clip8(blue);
  }
}

void Resizer::resize(const std::uint8_t* source, std::ptrdiff_t stride,
                     std::span<std::uint8_t> target) noexcept {
  const std::size_t width = window_.size.width * kChannels;
  for (std::size_t y = row_begin_; y < row_end_; ++y) {
    scale_row(source + static_cast<std::ptrdiff_t>(y) * stride,
              rows_.data() + (y - row_begin_) * width);
  }
  if (in_.height == scaled_.height) {
    std::memcpy(target.data(), rows_.data() + (window_.top - row_begin_) * width, target.size());
    return;
  }
  std::int32_t* sums = sums_.data();
  for (std::size_t y = 0; y < window_.size.height; ++y) {
    std::fill_n(sums, width, kHalf);
    for (std::size_t k = 0; k < vertical_.count[y]; ++k) {
      const std::int32_t weight = vertical_.weights[y * vertical_.taps + k];
      const std::uint8_t* row = rows_.data() + (vertical_.first[y] + k - row_begin_) * width;
      for (std::size_t i = 0; i < width; ++i) sums[i] += weight * row[i];
    }
    std::uint8_t* out = target.data() + y * width;
    for (std::size_t i = 0; i < width; ++i) out[i] = clip8(sums[i]);
  }
}

}  // namespace jepa_edge
