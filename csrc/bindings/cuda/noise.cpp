// SPDX-License-Identifier: Apache-2.0
#include "../../cuda/noise.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

using jepa_edge::cuda::LatentNoise;
using FloatArray = py::array_t<float, py::array::c_style>;

std::unique_ptr<LatentNoise> make_noise(const std::map<std::string, FloatArray>& given,
                                        std::size_t tokens, std::size_t candidates,
                                        std::size_t horizon, std::size_t samples) {
  jepa_edge::NamedArrays arrays;
  for (const auto& [name, array] : given) {
    std::vector<std::size_t> shape;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      shape.push_back(static_cast<std::size_t>(array.shape(axis)));
    }
    arrays[name] = {shape, {array.data(), static_cast<std::size_t>(array.size())}};
  }
  const py::gil_scoped_release release;
  return std::make_unique<LatentNoise>(arrays, tokens,
                                       jepa_edge::Limits{candidates, horizon, samples});
}

}  // namespace

void define_noise(py::module_& m) {
  py::class_<LatentNoise>(m, "LatentNoise")
      .def(py::init(&make_noise), py::arg("arrays"), py::arg("tokens"), py::kw_only(),
           py::arg("candidates"), py::arg("horizon"), py::arg("samples"));
}
