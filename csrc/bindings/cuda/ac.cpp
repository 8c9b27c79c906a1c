// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>
#include <pybind11/stl/filesystem.h>

#include <memory>
#include <utility>

#include "../../cuda/ac_rollout.hpp"
#include "bound_rollout.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::cuda::AcRollout;
using jepa_edge::cuda::AcWeights;

/// Python knows no pointers to const; nothing here can change the weights.
struct BoundAcPredictor {
  std::shared_ptr<const AcWeights> weights;
};

struct BoundAcRollout : BoundRollout {
  explicit BoundAcRollout(std::shared_ptr<AcRollout> given)
      : BoundRollout(given), own(std::move(given)) {}
  std::shared_ptr<AcRollout> own;
};

}  // namespace

/// After define_rollout, whose Rollout it extends.
void define_ac(py::module_& m) {
  py::class_<BoundAcPredictor>(m, "AcPredictor")
      .def(py::init([](const std::filesystem::path& path, jepa_edge::cuda::Precision precision) {
             const py::gil_scoped_release release;
             return BoundAcPredictor{AcWeights::load(path, precision)};
           }),
           py::arg("path"), py::arg("precision"))
      .def_property_readonly("precision",
                             [](const BoundAcPredictor& self) { return self.weights->precision; })
      .def_property_readonly("bytes",
                             [](const BoundAcPredictor& self) { return self.weights->bytes; });
  py::class_<BoundAcRollout, BoundRollout>(m, "AcRollout")
      .def(py::init([](const BoundAcPredictor& predictor, std::size_t candidates,
                       std::size_t horizon, std::size_t samples, std::size_t chunk) {
             const py::gil_scoped_release release;
             return std::make_unique<BoundAcRollout>(std::make_shared<AcRollout>(
                 predictor.weights, jepa_edge::Limits{candidates, horizon, samples}, chunk));
           }),
           py::arg("predictor"), py::arg("candidates"), py::arg("horizon"), py::arg("samples") = 1,
           py::arg("chunk") = 16)
      .def_property_readonly("chunk", [](const BoundAcRollout& self) { return self.own->chunk(); })
      .def_property_readonly("workspace_bytes", [](const BoundAcRollout& self) {
        return self.own->workspace_bytes();
      });
}
