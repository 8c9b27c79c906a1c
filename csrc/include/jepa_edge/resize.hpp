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

enum class Filter {
  bilinear,  ///< triangle
  bicubic,   ///< Keys' cubic, a = -0.5
};

/// The part of a scaled picture that is wanted.
struct Window {
  std::size_t top;
  std::size_t left;
  ImageSize size;
};

/// Scales images of three interleaved 8-bit channels by an antialiased filter, with Pillow's
/// fixed-point arithmetic: the same bytes as PIL.Image.resize, BILINEAR or BICUBIC. Rows come
/// first, as in torchvision and in Pillow before 13, which since then begins with the columns where
/// the width grows and the height shrinks: bilinear bytes may then differ by 1, bicubic by more.
/// Source: Pillow, src/libImaging/Resample.c.
class Resizer {
 public:
  /// Throws std::invalid_argument unless every side is 1 to 65535.
  Resizer(ImageSize in, ImageSize out, Filter filter = Filter::bilinear);

  /// Makes the window alone: what scaling to `scaled` and then cutting it out would give.
  /// Throws std::invalid_argument for such sides, and for a window that leaves the picture.
  Resizer(ImageSize in, ImageSize scaled, Filter filter, Window window);

  /// Which inputs make each output, and their weights in fixed point: (outputs, taps) row-major.
  struct Axis {
    Axis(std::size_t in, std::size_t scaled, std::size_t begin, std::size_t outputs, Filter filter);
    std::vector<std::size_t> first;
    std::vector<std::size_t> count;
    std::vector<std::int32_t> weights;
    std::size_t taps;
  };
  /// Fractional bits of the weights: a sum is rounded to a level by adding half and shifting.
  static constexpr int kBits = 32 - 8 - 2;

  [[nodiscard]] ImageSize in() const noexcept { return in_; }
  [[nodiscard]] ImageSize out() const noexcept { return window_.size; }
  [[nodiscard]] const Axis& horizontal() const noexcept { return horizontal_; }
  [[nodiscard]] const Axis& vertical() const noexcept { return vertical_; }

  /// source: in().height rows of 3 * in().width bytes, `stride` bytes from one to the next.
  /// target: (height, width, 3) of out(). No allocation, no throw; not for two threads at once.
  void resize(const std::uint8_t* source, std::ptrdiff_t stride,
              std::span<std::uint8_t> target) noexcept;

 private:
  void scale_row(const std::uint8_t* source, std::uint8_t* target) const noexcept;

  ImageSize in_;
  ImageSize scaled_;
  Window window_;
  Axis horizontal_;
  Axis vertical_;
  std::size_t row_begin_;  // the input rows that the window is made of
  std::size_t row_end_;
  std::vector<std::uint8_t> rows_;  // (row_end - row_begin, window width, 3)
  std::vector<std::int32_t> sums_;  // (window width, 3)
};

}  // namespace jepa_edge
