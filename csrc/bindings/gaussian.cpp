// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/gaussian.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>

namespace py = pybind11;

namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

jepa_edge::LowRankGaussians checked(const FloatArray& variance, const FloatArray& factor,
                                    const FloatArray& vector, bool vector_has_rank) {
  if (variance.ndim() != 2 || factor.ndim() != 3 || vector.ndim() != 2) {
    throw py::value_error("expected variance (B, D), factor (B, D, R) and a (B, ...) matrix");
  }
  const auto batch = variance.shape(0);
  const auto dim = variance.shape(1);
  const auto rank = factor.shape(2);
  const auto columns = vector_has_rank ? dim + rank : dim;
  if (factor.shape(0) != batch || factor.shape(1) != dim || vector.shape(0) != batch ||
      vector.shape(1) != columns) {
    throw py::value_error("shapes of variance (B, D), factor (B, D, R) and the vectors disagree");
  }
  if (rank > static_cast<py::ssize_t>(jepa_edge::kMaxRank)) {
    throw py::value_error("rank " + std::to_string(rank) + " is above the core's limit of " +
                          std::to_string(jepa_edge::kMaxRank));
  }
  return {view(variance), view(factor), static_cast<std::size_t>(batch),
          static_cast<std::size_t>(dim), static_cast<std::size_t>(rank)};
}

}  // namespace

void define_gaussian(py::module_& m) {
  m.attr("MAX_RANK") = jepa_edge::kMaxRank;
  m.def(
      "innovation_energy",
      [](const FloatArray& variance, const FloatArray& factor, const FloatArray& residual) {
        const auto gaussians = checked(variance, factor, residual, false);
        py::array_t<float> out(variance.shape(0));
        const std::span<float> out_view(out.mutable_data(), gaussians.batch);
        {
          const py::gil_scoped_release release;
          jepa_edge::innovation_energy(gaussians, view(residual), out_view);
        }
        return out;
      },
      py::arg("variance").noconvert(), py::arg("factor").noconvert(),
      py::arg("residual").noconvert());
  m.def(
      "sample",
      [](const FloatArray& variance, const FloatArray& factor, const FloatArray& z) {
        const auto gaussians = checked(variance, factor, z, true);
        py::array_t<float> out({variance.shape(0), variance.shape(1)});
        const std::span<float> out_view(out.mutable_data(), static_cast<std::size_t>(out.size()));
        {
          const py::gil_scoped_release release;
          jepa_edge::sample(gaussians, view(z), out_view);
        }
        return out;
      },
      py::arg("variance").noconvert(), py::arg("factor").noconvert(), py::arg("z").noconvert());
}
