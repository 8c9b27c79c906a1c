// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "jepa_edge/resize.hpp"

namespace jepa_edge {

/// How a camera buffer holds its pixels; rows lie one after another.
enum class PixelFormat {
  rgb,   ///< 3 bytes a pixel
  bgr,   ///< 3 bytes a pixel
  rgba,  ///< 4 bytes a pixel, the last is left out
  bgra,  ///< 4 bytes a pixel, the last is left out
  mono,  ///< 1 byte a pixel, full range
  nv12,  ///< height rows of Y, then height / 2 rows of U V pairs, each for 2 x 2 pixels
  yuyv,  ///< Y U Y V for 2 pixels (YUY2, yuv422_yuy2)
  uyvy,  ///< U Y V Y for 2 pixels (yuv422)
};

enum class YuvMatrix { bt601, bt709 };

/// Limited range has black at 16 and white at 235, as cameras send it; full range 0 and 255.
struct YuvSpec {
  YuvMatrix matrix = YuvMatrix::bt601;
  bool full_range = false;
};

/// Turns camera buffers into RGB. Pixels that share a U V pair get that very pair (nearest), as in
/// OpenCV and libyuv; results are within one level of the formulas in real numbers.
/// Source: ITU-R BT.601-7, sections 2.5.1 to 2.5.3; BT.709-6, section 3.
class ColorConverter {
 public:
  /// stride: bytes from one row to the next, of both planes of nv12.
  /// Throws std::invalid_argument for sides that are not 1 to 65535, odd ones that the format
  /// cannot have, and a stride that is shorter than a row or of more than 2^31 bytes.
  ColorConverter(PixelFormat format, ImageSize size, std::size_t stride, YuvSpec yuv = {});

  [[nodiscard]] ImageSize size() const noexcept { return size_; }

  /// Fixed point: what one level of Y, U or V adds to red, green and blue.
  struct Weights {
    std::int16_t luma, red_v, green_u, green_v, blue_u, black;
  };
  /// Fractional bits of the weights: a sum is rounded to a level by adding half and shifting.
  static constexpr int kBits = 13;

  [[nodiscard]] const Weights& weights() const noexcept { return weights_; }
  [[nodiscard]] std::size_t stride() const noexcept { return stride_; }
  [[nodiscard]] PixelFormat format() const noexcept { return format_; }

  /// The fewest bytes that hold a picture: the last row needs no padding.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// source: bytes() or more. target: size().height * size().width * 3. No allocation, no throw;
  /// for any number of threads.
  void convert(std::span<const std::uint8_t> source, std::span<std::uint8_t> target) const noexcept;

  /// Bytes of one row of pixels without padding.
  static std::size_t row_bytes(PixelFormat format, std::size_t width) noexcept;

 private:
  void packed_row(const std::uint8_t* row, std::uint8_t* target) const noexcept;
  void yuv_row(const std::uint8_t* luma, std::size_t luma_step, const std::uint8_t* u,
               const std::uint8_t* v, std::size_t chroma_step, std::uint8_t* target) const noexcept;

  PixelFormat format_;
  ImageSize size_;
  std::size_t stride_;
  std::size_t bytes_;
  Weights weights_;
};

}  // namespace jepa_edge
