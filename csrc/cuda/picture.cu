// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/picture.cuh"
#include "picture.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr unsigned kSide = 16;  // of a block of threads

DeviceBuffer<std::uint32_t> uploaded(const std::vector<std::size_t>& values) {
  const std::vector<std::uint32_t> narrow(values.begin(), values.end());
  DeviceBuffer<std::uint32_t> buffer(narrow.size());
  buffer.upload(narrow);
  return buffer;
}

const Window& checked(const Window& crop, ImageSize size) {
  if (crop.size.height < 1 || crop.size.width < 1 || crop.size.height > size.height ||
      crop.size.width > size.width || crop.top > size.height - crop.size.height ||
      crop.left > size.width - crop.size.width) {
    throw std::invalid_argument("the crop of " + std::to_string(crop.size.height) + " x " +
                                std::to_string(crop.size.width) + " at " +
                                std::to_string(crop.top) + ", " + std::to_string(crop.left) +
                                " leaves the picture of " + std::to_string(size.height) + " x " +
                                std::to_string(size.width));
  }
  return crop;
}

}  // namespace

PictureFitter::Axis::Axis(const Resizer::Axis& axis)
    : first(uploaded(axis.first)),
      count(uploaded(axis.count)),
      weights(axis.weights.size()),
      taps(static_cast<unsigned>(axis.taps)) {
  weights.upload(axis.weights);
}

PictureFitter::PictureFitter(const ColorConverter& picture, const PictureFit& fit,
                             const std::array<float, 3>& mean, const std::array<float, 3>& std)
    : PictureFitter(
          picture, fit,
          Resizer(checked(fit.crop, picture.size()).size, fit.scaled, fit.filter, fit.window), mean,
          std) {}

PictureFitter::PictureFitter(const ColorConverter& picture, const PictureFit& fit,
                             const Resizer& resizer, const std::array<float, 3>& mean,
                             const std::array<float, 3>& std)
    : out_(resizer.out()),
      bytes_(picture.bytes()),
      picture_(picture),
      crop_(fit.crop),
      horizontal_(resizer.horizontal()),
      vertical_(resizer.vertical()) {
  for (std::size_t c = 0; c < 3; ++c) {
    if (!(std[c] > 0.0F)) {
      throw std::invalid_argument("std is " + std::to_string(std[c]) +
                                  ", expected positive numbers");
    }
    scale_[c] = static_cast<float>(1.0 / (255.0 * std[c]));
    offset_[c] = static_cast<float>(-static_cast<double>(mean[c]) / std[c]);
  }
}

void PictureFitter::enqueue(const std::uint8_t* source, std::uint8_t* frame, float* normalized,
                            cudaStream_t stream) const {
  const PictureSource from{source,
                           picture_.stride(),
                           picture_.size().height * picture_.stride(),
                           picture_.format(),
                           picture_.weights(),
                           static_cast<unsigned>(crop_.top),
                           static_cast<unsigned>(crop_.left)};
  const auto device = [](const Axis& axis) {
    return PictureAxis{axis.first.data(), axis.count.data(), axis.weights.data(), axis.taps};
  };
  PictureTarget to{};
  to.frame = frame;
  to.normalized = normalized;
  to.height = static_cast<unsigned>(out_.height);
  to.width = static_cast<unsigned>(out_.width);
  for (std::size_t c = 0; c < 3; ++c) {
    to.scale[c] = scale_[c];
    to.offset[c] = offset_[c];
  }
  launch(fit_picture,
         {dim3(blocks_for(out_.width, kSide), blocks_for(out_.height, kSide)), dim3(kSide, kSide)},
         stream, from, device(horizontal_), device(vertical_), to);
}

}  // namespace jepa_edge::cuda
