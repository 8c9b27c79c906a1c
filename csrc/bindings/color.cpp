// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/color.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>

namespace py = pybind11;

namespace {

using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

Bytes convert(const jepa_edge::ColorConverter& converter, const Bytes& buffer) {
  if (static_cast<std::size_t>(buffer.size()) < converter.bytes()) {
    throw py::value_error("the buffer holds " + std::to_string(buffer.size()) +
                          " bytes, expected " + std::to_string(converter.bytes()) + " or more");
  }
  const auto size = converter.size();
  Bytes pixels({static_cast<py::ssize_t>(size.height), static_cast<py::ssize_t>(size.width),
                static_cast<py::ssize_t>(3)});
  const std::span<const std::uint8_t> source(buffer.data(),
                                             static_cast<std::size_t>(buffer.size()));
  const std::span<std::uint8_t> target(pixels.mutable_data(),
                                       static_cast<std::size_t>(pixels.size()));
  {
    const py::gil_scoped_release release;
    converter.convert(source, target);
  }
  return pixels;
}

}  // namespace

void define_color(py::module_& m) {
  using jepa_edge::PixelFormat;
  py::enum_<PixelFormat>(m, "PixelFormat")
      .value("RGB", PixelFormat::rgb)
      .value("BGR", PixelFormat::bgr)
      .value("RGBA", PixelFormat::rgba)
      .value("BGRA", PixelFormat::bgra)
      .value("MONO", PixelFormat::mono)
      .value("NV12", PixelFormat::nv12)
      .value("YUYV", PixelFormat::yuyv)
      .value("UYVY", PixelFormat::uyvy);
  py::class_<jepa_edge::ColorConverter>(m, "ColorConverter")
      .def(py::init([](PixelFormat format, std::size_t height, std::size_t width,
                       std::size_t stride, bool bt709, bool full_range) {
             const auto matrix = bt709 ? jepa_edge::YuvMatrix::bt709 : jepa_edge::YuvMatrix::bt601;
             return jepa_edge::ColorConverter(
                 format, {height, width}, stride,
                 jepa_edge::YuvSpec{.matrix = matrix, .full_range = full_range});
           }),
           py::kw_only(), py::arg("format"), py::arg("height"), py::arg("width"), py::arg("stride"),
           py::arg("bt709") = false, py::arg("full_range") = false)
      .def_property_readonly("bytes", &jepa_edge::ColorConverter::bytes)
      .def("convert", &convert, py::arg("buffer").noconvert())
      .def_static("row_bytes", &jepa_edge::ColorConverter::row_bytes, py::arg("format"),
                  py::arg("width"));
}
