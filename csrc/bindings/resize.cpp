// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/resize.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <mutex>
#include <span>

namespace py = pybind11;

namespace {

using Pixels = py::array_t<std::uint8_t>;

/// A Resizer that threads may share: they take turns.
struct SharedResizer {
  SharedResizer(jepa_edge::ImageSize in, jepa_edge::ImageSize out) : resizer(in, out) {}
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
  py::class_<SharedResizer>(m, "Resizer")
      .def(py::init([](std::size_t in_height, std::size_t in_width, std::size_t out_height,
                       std::size_t out_width) {
             return std::make_unique<SharedResizer>(jepa_edge::ImageSize{in_height, in_width},
                                                    jepa_edge::ImageSize{out_height, out_width});
           }),
           py::kw_only(), py::arg("in_height"), py::arg("in_width"), py::arg("out_height"),
           py::arg("out_width"))
      .def("resize", &resize, py::arg("pixels").noconvert());
}
