// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/resize.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <mutex>
#include <optional>
#include <span>

namespace py = pybind11;

namespace {

using Pixels = py::array_t<std::uint8_t>;

/// A Resizer that threads may share: they take turns.
struct SharedResizer {
  SharedResizer(jepa_edge::ImageSize in, jepa_edge::ImageSize scaled, jepa_edge::Filter filter,
                jepa_edge::Window window)
      : resizer(in, scaled, filter, window) {}
  jepa_edge::Resizer resizer;
  std::mutex mutex;
};

Pixels resize(SharedResizer& shared, const Pixels& pixels) {
  const auto in = shared.resizer.in();
  const auto out = shared.resizer.out();
  if (pixels.ndim() != 3 || pixels.shape(0) != static_cast<py::ssize_t>(in.height) ||
      pixels.shape(1) != static_cast<py::ssize_t>(in.width) || pixels.shape(2) != 3 ||
      pixels.strides(1) != 3 || pixels.strides(2) != 1) {
    throw py::value_error(
        "expected pixels (height, width, 3) uint8 of the resizer's input size, with packed rows");
  }
  Pixels result({static_cast<py::ssize_t>(out.height), static_cast<py::ssize_t>(out.width),
                 static_cast<py::ssize_t>(3)});
  const std::span<std::uint8_t> target(result.mutable_data(),
                                       static_cast<std::size_t>(result.size()));
  {
    const py::gil_scoped_release release;
    const std::lock_guard lock(shared.mutex);
    shared.resizer.resize(pixels.data(), pixels.strides(0), target);
  }
  return result;
}

}  // namespace

void define_resize(py::module_& m) {
  using jepa_edge::ImageSize;
  py::class_<SharedResizer>(m, "Resizer")
      .def(py::init([](std::size_t in_height, std::size_t in_width, std::size_t out_height,
                       std::size_t out_width, bool bicubic,
                       const std::optional<std::array<std::size_t, 4>>& window) {
             const auto filter = bicubic ? jepa_edge::Filter::bicubic : jepa_edge::Filter::bilinear;
             const auto [top, left, height, width] =
                 window.value_or(std::array<std::size_t, 4>{0, 0, out_height, out_width});
             return std::make_unique<SharedResizer>(
                 ImageSize{in_height, in_width}, ImageSize{out_height, out_width}, filter,
                 jepa_edge::Window{top, left, ImageSize{height, width}});
           }),
           py::kw_only(), py::arg("in_height"), py::arg("in_width"), py::arg("out_height"),
           py::arg("out_width"), py::arg("bicubic") = false, py::arg("window") = py::none())
      .def("resize", &resize, py::arg("pixels").noconvert());
}
