// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace jepa_edge {

/// Height and width in pixels.
struct ImageSize {
  std::size_t height;
  std::size_t width;
  bool operator==(const ImageSize&) const = default;
};

/// Scales images of three interleaved 8-bit channels by the antialiased triangle filter, with
/// Pillow's fixed-point arithmetic: the same bytes as PIL.Image.resize(..., BILINEAR). Where the
/// width grows and the height shrinks, Pillow rounds in the other order: bytes may differ by 1.
/// Source: Pillow, src/libImaging/Resample.c.
class Resizer {
 public:
  /// Throws std::invalid_argument unless every side is 1 to 65535.
  Resizer(ImageSize in, ImageSize out);

  [[nodiscard]] ImageSize in() const noexcept { return in_; }
  [[nodiscard]] ImageSize out() const noexcept { return out_; }

  /// source: in().height rows of 3 * in().width bytes, `stride` bytes from one to the next.
  /// target: (height, width, 3) of out(). No allocation, no throw; not for two threads at once.
  void resize(const std::uint8_t* source, std::ptrdiff_t stride,
              std::span<std::uint8_t> target) noexcept;

 private:
  /// Which inputs make each output, and their weights in fixed point: (outputs, taps) row-major.
  struct Axis {
    Axis(std::size_t in, std::size_t out);
    std::vector<std::size_t> first;
    std::vector<std::size_t> count;
    std::vector<std::int32_t> weights;
    std::size_t taps;
  };

  ImageSize in_;
  ImageSize out_;
  Axis horizontal_;
  Axis vertical_;
  std::vector<std::uint8_t> rows_;  // (in.height, out.width, 3)
  std::vector<std::int32_t> sums_;  // (out.width, 3)
};

}  // namespace jepa_edge
