// SPDX-License-Identifier: Apache-2.0
// A camera buffer becomes the model's frame: color, crop, antialiased scaling and normalization in
// one kernel, in the integer arithmetic of csrc/src/color.cpp and resize.cpp: the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jepa_edge/color.hpp"
#include "jepa_edge/resize.hpp"
#include "launch.hpp"

namespace jepa_edge::cuda {

/// A camera buffer. top, left: where the part that is scaled begins, in pixels.
struct PictureSource {
  const std::uint8_t* bytes;
  std::size_t stride;
  std::size_t chroma;  ///< offset of NV12's second plane
  PixelFormat format;
  ColorConverter::Weights weights;
  unsigned top;
  unsigned left;
};

/// Resizer::Axis on the device.
struct PictureAxis {
  const std::uint32_t* first;
  const std::uint32_t* count;
  const std::int32_t* weights;
  unsigned taps;
};

/// Either of frame and normalized may be null. (value / 255 - mean) / std = value * scale + offset.
struct PictureTarget {
  std::uint8_t* frame;  ///< (height, width, 3)
  float* normalized;    ///< (3, height, width)
  unsigned height;
  unsigned width;
  float scale[3];
  float offset[3];
};

namespace picture {

struct Pixel {
  std::int32_t level[3];  ///< red, green, blue
};

__device__ inline std::int32_t clipped(std::int32_t value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

__device__ inline Pixel from_yuv(const ColorConverter::Weights& w, int luma, int u, int v) {
  constexpr int kBits = ColorConverter::kBits;
  const std::int32_t grey = w.luma * (luma - w.black) + (1 << (kBits - 1));
  const int from_u = u - 128;
  const int from_v = v - 128;
  return {{clipped((grey + w.red_v * from_v) >> kBits),
           clipped((grey + w.green_u * from_u + w.green_v * from_v) >> kBits),
           clipped((grey + w.blue_u * from_u) >> kBits)}};
}

__device__ inline Pixel read(const PictureSource& source, unsigned y, unsigned x) {
  const std::uint8_t* const row = source.bytes + y * source.stride;
  const unsigned pair = x / 2;
  switch (source.format) {
    case PixelFormat::rgb:
      return {{row[3 * x], row[3 * x + 1], row[3 * x + 2]}};
    case PixelFormat::bgr:
      return {{row[3 * x + 2], row[3 * x + 1], row[3 * x]}};
    case PixelFormat::rgba:
      return {{row[4 * x], row[4 * x + 1], row[4 * x + 2]}};
    case PixelFormat::bgra:
      return {{row[4 * x + 2], row[4 * x + 1], row[4 * x]}};
    case PixelFormat::mono:
      return {{row[x], row[x], row[x]}};
    case PixelFormat::nv12: {
      const std::uint8_t* const uv = source.bytes + source.chroma + y / 2 * source.stride;
      return from_yuv(source.weights, row[x], uv[2 * pair], uv[2 * pair + 1]);
    }
    case PixelFormat::yuyv:
      return from_yuv(source.weights, row[2 * x], row[4 * pair + 1], row[4 * pair + 3]);
    case PixelFormat::uyvy:
      return from_yuv(source.weights, row[2 * x + 1], row[4 * pair], row[4 * pair + 2]);
  }
  return {};
}

}  // namespace picture

/// One thread per pixel of the frame, which scales the input rows under it itself: neighbours read
/// the same ones from cache, and nothing lies between the passes but registers.
[[maybe_unused]] static __global__ void fit_picture(PictureSource source, PictureAxis horizontal,
                                                    PictureAxis vertical, PictureTarget target) {
  constexpr int kBits = Resizer::kBits;
  constexpr std::int32_t kHalf = 1 << (kBits - 1);
  const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= target.width || y >= target.height) return;
  const std::int32_t* const across = horizontal.weights + std::size_t{x} * horizontal.taps;
  const std::int32_t* const down = vertical.weights + std::size_t{y} * vertical.taps;
  std::int32_t sums[3] = {kHalf, kHalf, kHalf};
  for (unsigned k = 0; k < vertical.count[y]; ++k) {
    std::int32_t row[3] = {kHalf, kHalf, kHalf};
    for (unsigned j = 0; j < horizontal.count[x]; ++j) {
      const picture::Pixel pixel = picture::read(source, source.top + vertical.first[y] + k,
                                                 source.left + horizontal.first[x] + j);
      for (unsigned c = 0; c < 3; ++c) row[c] += across[j] * pixel.level[c];
    }
    // Rounded to a level between the passes, as on the CPU.
    for (unsigned c = 0; c < 3; ++c) sums[c] += down[k] * picture::clipped(row[c] >> kBits);
  }
  const std::size_t at = std::size_t{y} * target.width + x;
  const std::size_t plane = std::size_t{target.height} * target.width;
  for (unsigned c = 0; c < 3; ++c) {
    const std::int32_t level = picture::clipped(sums[c] >> kBits);
    if (target.frame != nullptr) target.frame[3 * at + c] = static_cast<std::uint8_t>(level);
    if (target.normalized != nullptr) {
      target.normalized[c * plane + at] =
          static_cast<float>(level) * target.scale[c] + target.offset[c];
    }
  }
}

}  // namespace jepa_edge::cuda
