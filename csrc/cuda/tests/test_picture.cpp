// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "picture.hpp"

namespace {

using jepa_edge::ColorConverter;
using jepa_edge::Filter;
using jepa_edge::ImageSize;
using jepa_edge::PixelFormat;
using jepa_edge::Resizer;
using jepa_edge::YuvMatrix;
using jepa_edge::YuvSpec;
using jepa_edge::cuda::check;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::PictureFit;
using jepa_edge::cuda::PictureFitter;
using jepa_edge::cuda::Stream;

template <typename T>
std::vector<T> on_host(const DeviceBuffer<T>& buffer) {
  std::vector<T> values(buffer.size());
  check(cudaMemcpy(values.data(), buffer.data(), values.size() * sizeof(T), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  return values;
}

std::vector<std::uint8_t> drawn(std::size_t count) {
  std::minstd_rand random(11);
  std::vector<std::uint8_t> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 8U);
  return bytes;
}

struct Frame {
  std::vector<std::uint8_t> levels;
  std::vector<float> normalized;
};

constexpr std::array<float, 3> kMean{0.485F, 0.456F, 0.406F};
constexpr std::array<float, 3> kStd{0.229F, 0.224F, 0.225F};

Frame on_device(const ColorConverter& picture, const PictureFit& fit,
                const std::vector<std::uint8_t>& bytes) {
  const PictureFitter fitter(picture, fit, kMean, kStd);
  DeviceBuffer<std::uint8_t> source(bytes.size());
  source.upload(bytes);
  const std::size_t count = fitter.out().height * fitter.out().width * 3;
  const DeviceBuffer<std::uint8_t> levels(count);
  const DeviceBuffer<float> normalized(count);
  const Stream stream;
  fitter.enqueue(source.data(), levels.data(), normalized.data(), stream.get());
  stream.wait();
  return {on_host(levels), on_host(normalized)};
}

/// Color, crop, scaling: one after the other, on the CPU.
std::vector<std::uint8_t> on_cpu(const ColorConverter& picture, const PictureFit& fit,
                                 const std::vector<std::uint8_t>& bytes) {
  const ImageSize size = picture.size();
  std::vector<std::uint8_t> rgb(size.height * size.width * 3);
  picture.convert(bytes, rgb);
  Resizer resizer(fit.crop.size, fit.scaled, fit.filter, fit.window);
  std::vector<std::uint8_t> frame(resizer.out().height * resizer.out().width * 3);
  resizer.resize(rgb.data() + (fit.crop.top * size.width + fit.crop.left) * 3,
                 static_cast<std::ptrdiff_t>(size.width * 3), frame);
  return frame;
}

}  // namespace

TEST_CASE("a picture on the device has the bytes of the CPU's color and scaling") {
  const std::vector<std::uint8_t> bytes = drawn(4 * 48 * 48);
  const PictureFit fits[] = {
      {{0, 0, {24, 32}}, {24, 32}, {0, 0, {24, 32}}, Filter::bilinear},  // untouched
      {{0, 4, {24, 24}}, {10, 10}, {0, 0, {10, 10}}, Filter::bilinear},  // the middle, scaled
      {{0, 0, {24, 32}}, {15, 20}, {3, 4, {9, 12}}, Filter::bicubic},    // scaled, the middle
      {{3, 5, {20, 10}}, {31, 17}, {0, 0, {31, 17}}, Filter::bicubic},   // enlarged
  };
  for (const PixelFormat format :
       {PixelFormat::rgb, PixelFormat::bgr, PixelFormat::rgba, PixelFormat::bgra, PixelFormat::mono,
        PixelFormat::nv12, PixelFormat::yuyv, PixelFormat::uyvy}) {
    CAPTURE(static_cast<int>(format));
    const std::size_t stride = ColorConverter::row_bytes(format, 32) + 7;
    for (const YuvSpec yuv : {YuvSpec{}, YuvSpec{YuvMatrix::bt709, true}}) {
      const ColorConverter picture(format, {24, 32}, stride, yuv);
      for (const PictureFit& fit : fits) {
        const Frame frame = on_device(picture, fit, bytes);
        REQUIRE(frame.levels == on_cpu(picture, fit, bytes));
        const std::size_t plane = frame.levels.size() / 3;
        for (std::size_t i = 0; i < frame.levels.size(); ++i) {
          const std::size_t c = i % 3;
          const double expected = (frame.levels[i] / 255.0 - kMean[c]) / kStd[c];
          REQUIRE(std::fabs(frame.normalized[c * plane + i / 3] - expected) < 1e-5);
        }
      }
    }
  }
}

TEST_CASE("a crop that leaves the picture is refused, and a std that is not positive") {
  const ColorConverter picture(PixelFormat::rgb, {24, 32}, 96);
  const PictureFit outside{{4, 0, {24, 32}}, {8, 8}, {0, 0, {8, 8}}};
  CHECK_THROWS_WITH_AS(PictureFitter(picture, outside),
                       "the crop of 24 x 32 at 4, 0 leaves the picture of 24 x 32",
                       std::invalid_argument);
  const PictureFit whole{{0, 0, {24, 32}}, {8, 8}, {0, 0, {8, 8}}};
  CHECK_THROWS_AS(PictureFitter(picture, whole, kMean, {1.0F, 0.0F, 1.0F}), std::invalid_argument);
}
