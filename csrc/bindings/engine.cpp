// SPDX-License-Identifier: Apache-2.0
#include "engine.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "jepa_edge/peak.hpp"
#include "jepa_edge/predictor.hpp"
#include "jepa_edge/safetensors.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::Precision;
using jepa_edge::Predictor;
using jepa_edge::PredictorSizes;
using FloatArray = py::array_t<float, py::array::c_style>;

std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

std::unique_ptr<Engine> make_engine(std::shared_ptr<Predictor> predictor, std::size_t candidates,
                                    std::size_t horizon, std::size_t samples, std::size_t threads) {
  auto engine = std::make_unique<Engine>();
  engine->predictor = std::move(predictor);
  const py::gil_scoped_release release;
  engine->rollout = std::make_unique<jepa_edge::RolloutEngine>(
      engine->predictor, jepa_edge::Limits{candidates, horizon, samples, threads});
  return engine;
}

/// Status and latents (S, H, N, D). Shapes other than of the arrays' own axes are the core's to
/// check; the Python class in front says what they should have been.
py::tuple rollout(Engine& engine, const FloatArray& history, const FloatArray& past_actions,
                  const FloatArray& actions, const std::optional<FloatArray>& start) {
  if (history.ndim() != 4 || past_actions.ndim() != 3 || actions.ndim() != 3) {
    throw py::value_error(
        "expected history (B, T, N, D), past_actions (B, T - 1, A), actions (S, H, A)");
  }
  const PredictorSizes& sizes = engine.predictor->sizes();
  py::array_t<float> latents({actions.shape(0), actions.shape(1),
                              static_cast<py::ssize_t>(sizes.tokens),
                              static_cast<py::ssize_t>(sizes.latent_dim)});
  const jepa_edge::Context context{view(history), view(past_actions),
                                   static_cast<std::size_t>(history.shape(1)),
                                   static_cast<std::size_t>(history.shape(0))};
  jepa_edge::Request request{};
  request.actions = view(actions);
  request.candidates = static_cast<std::size_t>(actions.shape(0));
  request.horizon = static_cast<std::size_t>(actions.shape(1));
  if (start) request.start = view(*start);
  const std::span<float> out(latents.mutable_data(), static_cast<std::size_t>(latents.size()));
  auto status = jepa_edge::Status::kOk;
  {
    const py::gil_scoped_release release;
    const std::lock_guard lock(engine.busy);
    status = engine.rollout->set_context(context);
    if (status == jepa_edge::Status::kOk) status = engine.rollout->rollout(request, out);
  }
  return py::make_tuple(status, latents);
}

}  // namespace

void define_engine(py::module_& m) {
  py::register_exception<jepa_edge::FileError>(m, "FileError", PyExc_ValueError);
  py::enum_<jepa_edge::Status>(m, "Status")
      .value("OK", jepa_edge::Status::kOk)
      .value("NON_FINITE_INPUT", jepa_edge::Status::kNonFiniteInput)
      .value("NON_FINITE_OUTPUT", jepa_edge::Status::kNonFiniteOutput)
      .value("BAD_SHAPE", jepa_edge::Status::kBadShape)
      .value("FAILED", jepa_edge::Status::kFailed);
  py::enum_<Precision>(m, "Precision")
      .value("FLOAT32", Precision::kFloat32)
      .value("BFLOAT16", Precision::kBFloat16)
      .value("INT8", Precision::kInt8);
  py::class_<PredictorSizes>(m, "PredictorSizes")
      .def_readonly("window", &PredictorSizes::window)
      .def_readonly("tokens", &PredictorSizes::tokens)
      .def_readonly("latent_dim", &PredictorSizes::latent_dim)
      .def_readonly("action_dim", &PredictorSizes::action_dim);
  // pybind11 knows no pointers to const; nothing here can change a predictor.
  py::class_<Predictor, std::shared_ptr<Predictor>>(m, "Predictor")
      .def(py::init(
               [](const std::filesystem::path& path, Precision precision, const std::string& isa) {
                 const py::gil_scoped_release release;
                 return std::const_pointer_cast<Predictor>(Predictor::load(path, precision, isa));
               }),
           py::arg("path"), py::arg("precision"), py::arg("isa") = "auto")
      .def_property_readonly("sizes", &Predictor::sizes,
                             py::return_value_policy::reference_internal)
      .def_property_readonly("precision", &Predictor::precision)
      .def_property_readonly("isa", [](const Predictor& self) { return std::string(self.isa()); })
      .def_property_readonly("packed_bytes", &Predictor::packed_bytes);
  py::class_<Engine>(m, "Engine")
      .def(py::init(&make_engine), py::arg("predictor"), py::arg("candidates"), py::arg("horizon"),
           py::arg("samples") = 1, py::arg("threads") = 1)
      .def("rollout", &rollout, py::arg("history").noconvert(), py::arg("past_actions").noconvert(),
           py::arg("actions").noconvert(), py::arg("start").noconvert() = py::none());
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const std::string_view name : jepa_edge::available_isas()) names.emplace_back(name);
    return names;
  });
  m.def(
      "fastest_precisions",
      [](const std::string& isa) { return jepa_edge::fastest_precisions(isa); },
      py::arg("isa") = "auto");
  m.def(
      "measure_peak",
      [](Precision precision, const std::string& isa) {
        const py::gil_scoped_release release;
        return jepa_edge::measure_peak(precision, isa);
      },
      py::arg("precision"), py::arg("isa") = "auto");
  m.def(
      "measure_product",
      [](Precision precision, std::size_t rows, std::size_t inputs, std::size_t outputs,
         const std::string& isa) {
        const py::gil_scoped_release release;
        return jepa_edge::measure_product(precision, rows, inputs, outputs, isa);
      },
      py::arg("precision"), py::arg("rows"), py::arg("inputs"), py::arg("outputs"),
      py::arg("isa") = "auto");
}
