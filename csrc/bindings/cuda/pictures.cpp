// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "../../cuda/picture.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::PictureFitter;
using jepa_edge::cuda::PinnedBuffer;
using jepa_edge::cuda::Stream;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using Sides = std::array<std::size_t, 4>;  // top, left, height, width

/// A fitter with memory of its own; threads that share one take turns.
class SharedFitter {
 public:
  SharedFitter(const jepa_edge::ColorConverter& picture, const jepa_edge::cuda::PictureFit& fit,
               const std::array<float, 3>& mean, const std::array<float, 3>& std)
      : fitter_(picture, fit, mean, std),
        pinned_(std::max(fitter_.bytes(), frame_bytes())),
        source_(fitter_.bytes()),
        frame_(frame_bytes()) {}

  Bytes fit(const Bytes& buffer) {
    if (static_cast<std::size_t>(buffer.size()) < fitter_.bytes()) {
      throw py::value_error("the buffer holds " + std::to_string(buffer.size()) +
                            " bytes, expected " + std::to_string(fitter_.bytes()) + " or more");
    }
    const auto out = fitter_.out();
    Bytes frame({static_cast<py::ssize_t>(out.height), static_cast<py::ssize_t>(out.width),
                 static_cast<py::ssize_t>(3)});
    const std::uint8_t* const from = buffer.data();
    std::uint8_t* const to = frame.mutable_data();
    {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      std::memcpy(pinned_.data(), from, fitter_.bytes());
      copy(source_.data(), pinned_.data(), fitter_.bytes(), cudaMemcpyHostToDevice);
      fitter_.enqueue(source_.data(), frame_.data(), nullptr, stream_.get());
      copy(pinned_.data(), frame_.data(), frame_bytes(), cudaMemcpyDeviceToHost);
      stream_.wait();
      std::memcpy(to, pinned_.data(), frame_bytes());
    }
    return frame;
  }

  /// Addresses of device memory and of a stream, as of cuda-python; 0 for an output not wanted.
  void enqueue(std::uintptr_t source, std::uintptr_t frame, std::uintptr_t normalized,
               std::uintptr_t stream) const {
    const py::gil_scoped_release release;
    fitter_.enqueue(reinterpret_cast<const std::uint8_t*>(source),
                    reinterpret_cast<std::uint8_t*>(frame), reinterpret_cast<float*>(normalized),
                    reinterpret_cast<cudaStream_t>(stream));
  }

  [[nodiscard]] std::size_t bytes() const noexcept { return fitter_.bytes(); }

 private:
  [[nodiscard]] std::size_t frame_bytes() const noexcept {
    return fitter_.out().height * fitter_.out().width * 3;
  }
  void copy(std::uint8_t* to, const std::uint8_t* from, std::size_t count,
            cudaMemcpyKind kind) const {
    jepa_edge::cuda::check(cudaMemcpyAsync(to, from, count, kind, stream_.get()),
                           "cudaMemcpyAsync of a picture");
  }

  PictureFitter fitter_;
  PinnedBuffer<std::uint8_t> pinned_;
  DeviceBuffer<std::uint8_t> source_;
  DeviceBuffer<std::uint8_t> frame_;
  Stream stream_;
  std::mutex mutex_;
};

jepa_edge::PixelFormat format_of(const std::string& name) {
  using jepa_edge::PixelFormat;
  constexpr std::pair<const char*, PixelFormat> kNames[] = {
      {"rgb", PixelFormat::rgb},   {"bgr", PixelFormat::bgr},   {"rgba", PixelFormat::rgba},
      {"bgra", PixelFormat::bgra}, {"mono", PixelFormat::mono}, {"nv12", PixelFormat::nv12},
      {"yuyv", PixelFormat::yuyv}, {"uyvy", PixelFormat::uyvy}};
  for (const auto& [known, format] : kNames) {
    if (name == known) return format;
  }
  throw py::value_error("pixel format is " + name);
}

jepa_edge::Window window_of(const Sides& sides) {
  return {sides[0], sides[1], {sides[2], sides[3]}};
}

}  // namespace

void define_pictures(py::module_& m) {
  py::class_<SharedFitter>(m, "PictureFitter")
      .def(py::init([](const std::string& pixel_format, std::size_t height, std::size_t width,
                       std::optional<std::size_t> stride, bool bt709, bool full_range,
                       const Sides& crop, const std::array<std::size_t, 2>& scaled,
                       const Sides& window, bool bicubic, const std::array<float, 3>& mean,
                       const std::array<float, 3>& std) {
             const auto format = format_of(pixel_format);
             const auto matrix = bt709 ? jepa_edge::YuvMatrix::bt709 : jepa_edge::YuvMatrix::bt601;
             const jepa_edge::ColorConverter picture(
                 format, {height, width},
                 stride.value_or(jepa_edge::ColorConverter::row_bytes(format, width)),
                 jepa_edge::YuvSpec{.matrix = matrix, .full_range = full_range});
             const jepa_edge::cuda::PictureFit fit{
                 window_of(crop),
                 {scaled[0], scaled[1]},
                 window_of(window),
                 bicubic ? jepa_edge::Filter::bicubic : jepa_edge::Filter::bilinear};
             const py::gil_scoped_release release;
             return std::make_unique<SharedFitter>(picture, fit, mean, std);
           }),
           py::kw_only(), py::arg("pixel_format"), py::arg("height"), py::arg("width"),
           py::arg("stride") = py::none(), py::arg("bt709") = false, py::arg("full_range") = false,
           py::arg("crop"), py::arg("scaled"), py::arg("window"), py::arg("bicubic") = false,
           py::arg("mean") = std::array<float, 3>{0.0F, 0.0F, 0.0F},
           py::arg("std") = std::array<float, 3>{1.0F, 1.0F, 1.0F})
      .def_property_readonly("bytes", &SharedFitter::bytes)
      .def("fit", &SharedFitter::fit, py::arg("buffer").noconvert())
      .def("enqueue", &SharedFitter::enqueue, py::arg("source"), py::arg("frame") = 0,
           py::arg("normalized") = 0, py::arg("stream") = 0);
}
