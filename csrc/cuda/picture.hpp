// SPDX-License-Identifier: Apache-2.0
// Camera pictures become the model's frames on the device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "device.hpp"
#include "jepa_edge/color.hpp"
#include "jepa_edge/resize.hpp"

namespace jepa_edge::cuda {

/// What of a picture becomes the frame: `crop` of it is scaled to `scaled`, of which `window` is
/// taken.
struct PictureFit {
  Window crop;
  ImageSize scaled;
  Window window;
  Filter filter = Filter::bilinear;
};

/// Makes frames out of camera buffers of one kind, in one kernel; the same bytes as ColorConverter
/// and Resizer give one after the other.
class PictureFitter {
 public:
  /// mean, std: of the normalized output, for levels from 0 to 1.
  /// Throws std::invalid_argument for a crop that leaves the picture, sides that are not 1 to
  /// 65535 and a std that is not positive; CudaError without memory or device.
  PictureFitter(const ColorConverter& picture, const PictureFit& fit,
                const std::array<float, 3>& mean = {0.0F, 0.0F, 0.0F},
                const std::array<float, 3>& std = {1.0F, 1.0F, 1.0F});

  [[nodiscard]] ImageSize out() const noexcept { return out_; }
  /// Of a camera buffer.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// All on the device; may be captured. source: bytes() or more. frame: (height, width, 3) uint8;
  /// normalized: (3, height, width) float32; either may be null.
  void enqueue(const std::uint8_t* source, std::uint8_t* frame, float* normalized,
               cudaStream_t stream) const;

 private:
  struct Axis {
    explicit Axis(const Resizer::Axis& axis);
    DeviceBuffer<std::uint32_t> first;
    DeviceBuffer<std::uint32_t> count;
    DeviceBuffer<std::int32_t> weights;
    unsigned taps;
  };
  PictureFitter(const ColorConverter& picture, const PictureFit& fit, const Resizer& resizer,
                const std::array<float, 3>& mean, const std::array<float, 3>& std);

  ImageSize out_;
  std::size_t bytes_;
  ColorConverter picture_;
  Window crop_;
  Axis horizontal_;
  Axis vertical_;
  std::array<float, 3> scale_{};
  std::array<float, 3> offset_{};
};

}  // namespace jepa_edge::cuda
