// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/color.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace jepa_edge {
namespace {

constexpr std::size_t kChannels = 3;
constexpr std::size_t kMaxSide = 65535;
constexpr std::size_t kMaxStride = std::size_t{1} << 31;
// Weights of up to 2.2 fit 16 bits, which every processor multiplies fast.
constexpr int kBits = ColorConverter::kBits;
constexpr std::int32_t kHalf = 1 << (kBits - 1);
constexpr std::size_t kChunk = 32;  // pairs of pixels

std::int16_t fixed(double weight) {
  return static_cast<std::int16_t>(std::lround(weight * (1 << kBits)));
}

std::uint8_t level(std::int32_t sum) noexcept {
  const auto whole = static_cast<std::int16_t>(sum >> kBits);
  return static_cast<std::uint8_t>(std::min<std::int16_t>(std::max<std::int16_t>(whole, 0), 255));
}

bool is_yuv(PixelFormat format) noexcept {
  return format == PixelFormat::nv12 || format == PixelFormat::yuyv || format == PixelFormat::uyvy;
}

void check(PixelFormat format, ImageSize size, std::size_t stride) {
  for (const std::size_t side : {size.height, size.width}) {
    if (side < 1 || side > kMaxSide) {
      throw std::invalid_argument("an image side is " + std::to_string(side) +
                                  ", expected 1 to 65535 pixels");
    }
  }
  const bool odd_height = format == PixelFormat::nv12 && size.height % 2 != 0;
  if (odd_height || (is_yuv(format) && size.width % 2 != 0)) {
    throw std::invalid_argument("the picture is " + std::to_string(size.height) + " x " +
                                std::to_string(size.width) +
                                ", expected an even number of pixels where two share a color");
  }
  const std::size_t row = ColorConverter::row_bytes(format, size.width);
  if (stride < row || stride > kMaxStride) {
    throw std::invalid_argument("the stride is " + std::to_string(stride) +
                                " bytes, expected a row's " + std::to_string(row) + " or more");
  }
}

}  // namespace

std::size_t ColorConverter::row_bytes(PixelFormat format, std::size_t width) noexcept {
  switch (format) {
    case PixelFormat::rgb:
    case PixelFormat::bgr:
      return 3 * width;
    case PixelFormat::rgba:
    case PixelFormat::bgra:
      return 4 * width;
    case PixelFormat::mono:
    case PixelFormat::nv12:
      return width;
    case PixelFormat::yuyv:
    case PixelFormat::uyvy:
      return 2 * width;
  }
  return 4 * width;
}

ColorConverter::ColorConverter(PixelFormat format, ImageSize size, std::size_t stride, YuvSpec yuv)
    : format_(format), size_(size), stride_(stride), bytes_(0), weights_{} {
  check(format, size, stride);
  const std::size_t rows = format == PixelFormat::nv12 ? size.height / 2 * 3 : size.height;
  bytes_ = (rows - 1) * stride + row_bytes(format, size.width);
  const double red = yuv.matrix == YuvMatrix::bt709 ? 0.2126 : 0.299;
  const double blue = yuv.matrix == YuvMatrix::bt709 ? 0.0722 : 0.114;
  const double green = 1.0 - red - blue;
  const double luma = yuv.full_range ? 1.0 : 255.0 / 219.0;
  const double chroma = yuv.full_range ? 1.0 : 255.0 / 224.0;
  weights_ = Weights{.luma = fixed(luma),
                     .red_v = fixed(2.0 * (1.0 - red) * chroma),
                     .green_u = fixed(-2.0 * (1.0 - blue) * blue / green * chroma),
                     .green_v = fixed(-2.0 * (1.0 - red) * red / green * chroma),
                     .blue_u = fixed(2.0 * (1.0 - blue) * chroma),
                     .black = static_cast<std::int16_t>(yuv.full_range ? 0 : 16)};
}

void ColorConverter::convert(std::span<const std::uint8_t> source,
                             std::span<std::uint8_t> target) const noexcept {
  const std::uint8_t* row = source.data();
  const std::uint8_t* chroma = row + size_.height * stride_;  // of nv12
  std::uint8_t* out = target.data();
  for (std::size_t y = 0; y < size_.height; ++y, row += stride_, out += size_.width * kChannels) {
    switch (format_) {
      case PixelFormat::nv12: {
        const std::uint8_t* pairs = chroma + y / 2 * stride_;
        yuv_row(row, 1, pairs, pairs + 1, 2, out);
        break;
      }
      case PixelFormat::yuyv:
        yuv_row(row, 2, row + 1, row + 3, 4, out);
        break;
      case PixelFormat::uyvy:
        yuv_row(row + 1, 2, row, row + 2, 4, out);
        break;
      default:
        packed_row(row, out);
    }
  }
}

void ColorConverter::packed_row(const std::uint8_t* row, std::uint8_t* target) const noexcept {
  if (format_ == PixelFormat::rgb) {
    std::memcpy(target, row, size_.width * kChannels);
    return;
  }
  const std::size_t step = row_bytes(format_, 1);
  const std::size_t green = format_ == PixelFormat::mono ? 0 : 1;
  const bool turned = format_ == PixelFormat::bgr || format_ == PixelFormat::bgra;
  const std::size_t red = turned ? 2 : 0;
  const std::size_t blue = turned || format_ == PixelFormat::mono ? 0 : 2;
  for (std::size_t x = 0; x < size_.width; ++x, row += step, target += kChannels) {
    target[0] = row[red];
    target[1] = row[green];
    target[2] = row[blue];
  }
}

void ColorConverter::yuv_row(const std::uint8_t* luma, std::size_t luma_step, const std::uint8_t* u,
                             const std::uint8_t* v, std::size_t chroma_step,
                             std::uint8_t* target) const noexcept {
  // Planes first, in loops without branches that compilers turn into vectors.
  const Weights w = weights_;
  std::int16_t bright[2][kChunk] = {}, from_u[kChunk] = {}, from_v[kChunk] = {};
  std::uint8_t red[2][kChunk], green[2][kChunk], blue[2][kChunk];
  for (std::size_t done = 0; done < size_.width / 2; done += kChunk) {
    const std::size_t pairs = std::min(kChunk, size_.width / 2 - done);
    const std::uint8_t* grey_row = luma + 2 * done * luma_step;
    const std::uint8_t* u_row = u + done * chroma_step;
    const std::uint8_t* v_row = v + done * chroma_step;
    for (std::size_t i = 0; i < pairs; ++i) {
      bright[0][i] = static_cast<std::int16_t>(grey_row[2 * i * luma_step] - w.black);
      bright[1][i] = static_cast<std::int16_t>(grey_row[(2 * i + 1) * luma_step] - w.black);
      from_u[i] = static_cast<std::int16_t>(u_row[i * chroma_step] - 128);
      from_v[i] = static_cast<std::int16_t>(v_row[i * chroma_step] - 128);
    }
    for (int side = 0; side < 2; ++side) {
      for (std::size_t i = 0; i < kChunk; ++i) {
        const std::int32_t grey = w.luma * bright[side][i] + kHalf;
        red[side][i] = level(grey + w.red_v * from_v[i]);
        green[side][i] = level(grey + w.green_u * from_u[i] + w.green_v * from_v[i]);
        blue[side][i] = level(grey + w.blue_u * from_u[i]);
      }
    }
    for (std::size_t i = 0; i < pairs; ++i, target += 2 * kChannels) {
      target[0] = red[0][i];
      target[1] = green[0][i];
      target[2] = blue[0][i];
      target[3] = red[1][i];
      target[4] = green[1][i];
      target[5] = blue[1][i];
    }
  }
}

}  // namespace jepa_edge
