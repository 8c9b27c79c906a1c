// SPDX-License-Identifier: Apache-2.0
#include "latent_variable.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::LatentVariable;
using jepa_edge::LatentVariableSizes;
using FloatArray = py::array_t<float, py::array::c_style>;

std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

std::shared_ptr<const LatentVariable> from_arrays(const std::map<std::string, FloatArray>& given,
                                                  const std::string& isa) {
  jepa_edge::NamedArrays arrays;
  for (const auto& [name, array] : given) {
    std::vector<std::size_t> shape;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
      shape.push_back(static_cast<std::size_t>(array.shape(axis)));
    }
    arrays[name] = {shape, view(array)};
  }
  return std::make_shared<const LatentVariable>(arrays, isa);
}

void draw(BoundNoise& bound, std::uint64_t seed, std::size_t samples, std::size_t horizon,
          bool noise_free_first) {
  const py::gil_scoped_release release;
  const std::lock_guard lock(bound.busy);
  if (bound.noise.draw(seed, samples, horizon, noise_free_first) != jepa_edge::Status::kOk) {
    const auto& limits = bound.noise.limits();
    throw std::invalid_argument(
        "got " + std::to_string(samples) + " samples over " + std::to_string(horizon) +
        " steps, expected 1 to " + std::to_string(limits.samples) + " over 1 to " +
        std::to_string(limits.horizon) + ", and mean heads where the only sample is free of noise");
  }
}

/// One step outside of an engine: before (C, M or 1, N, D), actions (C, A), latents (C, M, N, D).
FloatArray apply(BoundNoise& bound, std::size_t step, const FloatArray& before,
                 const FloatArray& actions, const FloatArray& latents) {
  const LatentVariableSizes& sizes = bound.noise.variable().sizes();
  const auto tokens = static_cast<py::ssize_t>(bound.noise.tokens());
  const auto dim = static_cast<py::ssize_t>(sizes.latent_dim);
  const auto is_latents = [&](const FloatArray& array) {
    return array.ndim() == 4 && array.shape(2) == tokens && array.shape(3) == dim;
  };
  if (!is_latents(latents) || !is_latents(before) || actions.ndim() != 2 ||
      before.shape(0) != latents.shape(0) || actions.shape(0) != latents.shape(0) ||
      (before.shape(1) != 1 && before.shape(1) != latents.shape(1)) ||
      actions.shape(1) != static_cast<py::ssize_t>(sizes.action_dim)) {
    throw py::value_error(
        "expected before (C, M or 1, N, D), actions (C, A), latents (C, M, N, D)"
        " with N = " +
        std::to_string(tokens) + ", D = " + std::to_string(dim) +
        ", A = " + std::to_string(sizes.action_dim));
  }
  FloatArray out(std::vector<py::ssize_t>(latents.shape(), latents.shape() + 4), latents.data());
  const auto samples = static_cast<std::size_t>(latents.shape(1));
  const auto latent = static_cast<std::size_t>(tokens * dim);
  const jepa_edge::StepRows rows{
      .worker = 0,
      .step = step,
      .candidate = 0,
      .candidates = static_cast<std::size_t>(latents.shape(0)),
      .samples = samples,
      .latents = out.mutable_data(),
      .stride = latent,
      .before = before.data(),
      .before_stride = latent,
      .before_divisor = before.shape(1) == 1 ? samples : 1,
      .actions = actions.data(),
      .action_stride = sizes.action_dim,
  };
  {
    const py::gil_scoped_release release;
    const std::lock_guard lock(bound.busy);
    bound.noise.apply(rows);
  }
  return out;
}

FloatArray disagreement(BoundNoise& bound) {
  std::vector<float> values;
  std::size_t candidates = 0;
  {
    const py::gil_scoped_release release;
    const std::lock_guard lock(bound.busy);
    const auto taken = bound.noise.disagreement();
    values.assign(taken.begin(), taken.end());
    candidates = taken.empty() ? 0 : bound.noise.limits().candidates;
  }
  const std::size_t horizon = candidates == 0 ? 0 : values.size() / candidates;
  return FloatArray({static_cast<py::ssize_t>(candidates), static_cast<py::ssize_t>(horizon)},
                    values.data());
}

/// A whole sampled rollout in the core: status, latents (S, M, H, N, D) and, with a noise-free
/// first sample, its disagreement (S, H). history (B, T, N, D), past_actions (B, T - 1, A), B = 1
/// or S.
py::tuple rollout(BoundNoise& bound, Engine& engine, const FloatArray& history,
                  const FloatArray& past_actions, const FloatArray& actions, std::size_t samples,
                  std::uint64_t seed, bool noise_free_first,
                  const std::optional<FloatArray>& start) {
  const jepa_edge::PredictorSizes& predictor = engine.predictor->sizes();
  const LatentVariableSizes& sizes = bound.noise.variable().sizes();
  if (history.ndim() != 4 || past_actions.ndim() != 3 || actions.ndim() != 3) {
    throw py::value_error(
        "expected history (B, T, N, D), past_actions (B, T - 1, A), actions (S, H, A)");
  }
  if (predictor.latent_dim != sizes.latent_dim || predictor.action_dim != sizes.action_dim ||
      predictor.tokens != bound.noise.tokens()) {
    throw py::value_error(
        "the latent variable is of another model than the engine's: " +
        std::to_string(bound.noise.tokens()) + " tokens of " + std::to_string(sizes.latent_dim) +
        ", actions of " + std::to_string(sizes.action_dim) + ", expected " +
        std::to_string(predictor.tokens) + " of " + std::to_string(predictor.latent_dim) + " and " +
        std::to_string(predictor.action_dim));
  }
  const auto candidates = static_cast<std::size_t>(actions.shape(0));
  const auto horizon = static_cast<std::size_t>(actions.shape(1));
  FloatArray latents({actions.shape(0), static_cast<py::ssize_t>(samples), actions.shape(1),
                      static_cast<py::ssize_t>(predictor.tokens),
                      static_cast<py::ssize_t>(predictor.latent_dim)});
  FloatArray epistemic({noise_free_first && sizes.members > 0 ? actions.shape(0) : py::ssize_t{0},
                        actions.shape(1)});
  const jepa_edge::Context context{view(history), view(past_actions),
                                   static_cast<std::size_t>(history.shape(1)),
                                   static_cast<std::size_t>(history.shape(0))};
  jepa_edge::Request request{};
  request.actions = view(actions);
  request.candidates = candidates;
  request.horizon = horizon;
  request.samples = samples;
  request.noise = &bound.noise;
  if (start) {
    request.start = view(*start);
  }
  const std::span<float> out(latents.mutable_data(), static_cast<std::size_t>(latents.size()));
  float* told = epistemic.mutable_data();
  auto status = jepa_edge::Status::kBadShape;
  {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(engine.busy, bound.busy);
    const auto& limits = bound.noise.limits();
    // The noise keeps scratch per worker: an engine of more threads must not meet it.
    if (candidates <= limits.candidates && engine.rollout->limits().threads <= limits.threads) {
      status = bound.noise.draw(seed, samples, horizon, noise_free_first);
    }
    if (status == jepa_edge::Status::kOk) {
      status = engine.rollout->set_context(context);
    }
    if (status == jepa_edge::Status::kOk) {
      status = engine.rollout->rollout(request, out);
      const auto taken = bound.noise.disagreement();
      std::copy_n(taken.begin(), std::min(taken.size(), candidates * horizon), told);
    }
  }
  return py::make_tuple(status, latents, epistemic);
}

}  // namespace

void define_latent_variable(py::module_& m) {
  py::class_<LatentVariable, std::shared_ptr<LatentVariable>>(m, "LatentVariable")
      .def(py::init([](const std::map<std::string, FloatArray>& arrays, const std::string& isa) {
             return std::const_pointer_cast<LatentVariable>(from_arrays(arrays, isa));
           }),
           py::arg("arrays"), py::arg("isa") = "auto")
      .def_static(
          "load",
          [](const std::filesystem::path& path, const std::string& isa) {
            return std::const_pointer_cast<LatentVariable>(LatentVariable::load(path, isa));
          },
          py::arg("path"), py::arg("isa") = "auto")
      .def_property_readonly("horizon",
                             [](const LatentVariable& self) { return self.sizes().horizon; })
      .def_property_readonly("latent_dim",
                             [](const LatentVariable& self) { return self.sizes().latent_dim; })
      .def_property_readonly("rank", [](const LatentVariable& self) { return self.sizes().rank; })
      .def_property_readonly("action_dim",
                             [](const LatentVariable& self) { return self.sizes().action_dim; })
      .def_property_readonly("members",
                             [](const LatentVariable& self) { return self.sizes().members; });

  py::class_<BoundNoise>(m, "LatentNoise")
      .def(py::init([](const std::shared_ptr<LatentVariable>& variable, std::size_t tokens,
                       std::size_t candidates, std::size_t horizon, std::size_t samples,
                       std::size_t threads) {
             return std::make_unique<BoundNoise>(
                 variable, tokens, jepa_edge::Limits{candidates, horizon, samples, threads});
           }),
           py::arg("variable"), py::arg("tokens"), py::kw_only(), py::arg("candidates"),
           py::arg("horizon"), py::arg("samples"), py::arg("threads") = 1)
      .def("draw", &draw, py::arg("seed"), py::arg("samples"), py::arg("horizon"),
           py::arg("noise_free_first") = false)
      .def("apply", &apply, py::arg("step"), py::arg("before").noconvert(),
           py::arg("actions").noconvert(), py::arg("latents").noconvert())
      .def("disagreement", &disagreement)
      .def("rollout", &rollout, py::arg("engine"), py::arg("history").noconvert(),
           py::arg("past_actions").noconvert(), py::arg("actions").noconvert(), py::kw_only(),
           py::arg("samples"), py::arg("seed") = 0, py::arg("noise_free_first") = false,
           py::arg("start").noconvert() = py::none());
}
