// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/random.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <span>

namespace py = pybind11;

void define_random(py::module_& m) {
  m.def(
      "philox4x32",
      [](std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
        const auto words = jepa_edge::philox4x32(counter, key);
        return py::make_tuple(words[0], words[1], words[2], words[3]);
      },
      py::arg("counter"), py::arg("key"));
  m.def(
      "standard_normal",
      [](std::uint64_t seed, std::uint64_t stream, py::ssize_t count) {
        if (count < 0) {
          throw py::value_error("count must not be negative");
        }
        py::array_t<float> out(count);
        const std::span<float> view(out.mutable_data(), static_cast<std::size_t>(count));
        {
          const py::gil_scoped_release release;
          jepa_edge::standard_normal(seed, stream, view);
        }
        return out;
      },
      py::arg("seed"), py::arg("stream"), py::arg("count"));
}
