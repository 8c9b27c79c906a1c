// SPDX-License-Identifier: Apache-2.0
// What the planners of the core and of the GPU take from Python and give back.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "jepa_edge/objective.hpp"
#include "jepa_edge/planner.hpp"

namespace planner_binding {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style>;

inline std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

inline FloatArray vector(const std::vector<float>& values) {
  return FloatArray(static_cast<py::ssize_t>(values.size()), values.data());
}

template <typename Enum>
Enum named(const std::string& name, std::initializer_list<std::pair<const char*, Enum>> known) {
  for (const auto& [candidate, value] : known) {
    if (name == candidate) {
      return value;
    }
  }
  std::string expected;
  for (const auto& entry : known) {
    expected += std::string(expected.empty() ? "" : ", ") + entry.first;
  }
  throw py::value_error("got '" + name + "', expected one of " + expected);
}

inline const char* name_of(jepa_edge::PlanStatus status) {
  switch (status) {
    case jepa_edge::PlanStatus::kOk:
      return "ok";
    case jepa_edge::PlanStatus::kBadRequest:
      return "bad_request";
    case jepa_edge::PlanStatus::kTooFewFinite:
      return "too_few_finite";
    case jepa_edge::PlanStatus::kNoTrustedCandidate:
      return "no_trusted_candidate";
    case jepa_edge::PlanStatus::kEvaluatorFailed:
      break;
  }
  return "evaluator_failed";
}

/// A PlanResult that outlives the planner's next plan.
struct Found {
  jepa_edge::PlanResult result;
  std::vector<float> actions, best_actions, energies, spread;
  py::ssize_t horizon, dim;

  Found(const jepa_edge::PlanResult& r, const jepa_edge::PlannerSettings& settings)
      : result(r),
        actions(r.actions.begin(), r.actions.end()),
        best_actions(r.best_actions.begin(), r.best_actions.end()),
        energies(r.energies.begin(), r.energies.end()),
        spread(r.spread.begin(), r.spread.end()),
        horizon(static_cast<py::ssize_t>(settings.horizon)),
        dim(static_cast<py::ssize_t>(settings.action_dim)) {}

  /// (H, A), or (0, A) where the request was refused.
  [[nodiscard]] FloatArray matrix(const std::vector<float>& values) const {
    const std::vector<py::ssize_t> shape{values.empty() ? 0 : horizon, dim};
    return FloatArray(shape, values.data());
  }
};

/// Each module has its own.
inline void define_result(py::module_& m) {
  py::class_<Found>(m, "PlanResult", py::module_local())
      .def_property_readonly("status", [](const Found& f) { return name_of(f.result.status); })
      .def_property_readonly("evaluator_status",
                             [](const Found& f) { return static_cast<int>(f.result.evaluator); })
      .def_property_readonly("actions", [](const Found& f) { return f.matrix(f.actions); })
      .def_property_readonly("best_actions",
                             [](const Found& f) { return f.matrix(f.best_actions); })
      .def_property_readonly("energies", [](const Found& f) { return vector(f.energies); })
      .def_property_readonly("spread", [](const Found& f) { return vector(f.spread); })
      .def_property_readonly("best_energy", [](const Found& f) { return f.result.best_energy; })
      .def_property_readonly("iterations", [](const Found& f) { return f.result.iterations; })
      .def_property_readonly("deadline_hit", [](const Found& f) { return f.result.deadline_hit; })
      .def_property_readonly("evaluated", [](const Found& f) { return f.result.evaluated; })
      .def_property_readonly("diverged", [](const Found& f) { return f.result.diverged; })
      .def_property_readonly("refused", [](const Found& f) { return f.result.refused; })
      .def_property_readonly("time_s", [](const Found& f) { return f.result.time_s; })
      .def_property_readonly("evaluate_s", [](const Found& f) { return f.result.evaluate_s; });
}

/// Binds make(PlannerSettings) as the constructor that takes their keywords.
template <typename Class, typename Make>
void define_settings_init(Class& bound, Make make) {
  using jepa_edge::Method;
  using jepa_edge::Returned;
  bound.def(
      py::init([make](const std::string& method, std::size_t horizon, std::size_t action_dim,
                      std::size_t candidates, std::size_t elites, std::size_t iterations,
                      double init_std, std::uint64_t seed, const std::string& returned,
                      std::vector<float> action_mean, std::vector<float> action_std,
                      std::vector<float> low, std::vector<float> high, double noise_beta,
                      std::size_t keep_elites, std::optional<double> momentum,
                      double population_decay, bool deterministic, double temperature) {
        return make(jepa_edge::PlannerSettings{
            .method = named<Method>(
                method, {{"cem", Method::kCem}, {"icem", Method::kIcem}, {"mppi", Method::kMppi}}),
            .horizon = horizon,
            .action_dim = action_dim,
            .candidates = candidates,
            .elites = elites,
            .iterations = iterations,
            .init_std = init_std,
            .seed = seed,
            .returned =
                named<Returned>(returned, {{"mean", Returned::kMean}, {"best", Returned::kBest}}),
            .action_mean = std::move(action_mean),
            .action_std = std::move(action_std),
            .low = std::move(low),
            .high = std::move(high),
            .noise_beta = noise_beta,
            .keep_elites = keep_elites,
            .momentum = momentum,
            .population_decay = population_decay,
            .deterministic = deterministic,
            .temperature = temperature,
        });
      }),
      py::kw_only(), py::arg("method"), py::arg("horizon"), py::arg("action_dim"),
      py::arg("candidates"), py::arg("elites"), py::arg("iterations"), py::arg("init_std"),
      py::arg("seed"), py::arg("returned"), py::arg("action_mean"), py::arg("action_std"),
      py::arg("low"), py::arg("high"), py::arg("noise_beta"), py::arg("keep_elites"),
      py::arg("momentum"), py::arg("population_decay"), py::arg("deterministic"),
      py::arg("temperature"));
}

/// Binds make(ObjectiveSettings, ObjectiveData, LatentShape) as the constructor that takes their
/// keywords.
template <typename Class, typename Make>
void define_objective_init(Class& bound, Make make) {
  using jepa_edge::Distance;
  using jepa_edge::Risk;
  bound.def(
      py::init([make](std::size_t candidates, std::size_t samples, std::size_t horizon,
                      std::size_t tokens, std::size_t dim, std::size_t goal_steps,
                      const std::string& risk, double kappa, double alpha, double world_weight,
                      double spread_weight, double spread_discount, bool trust_horizon,
                      std::vector<float> radius, std::vector<float> world_mean,
                      std::vector<float> world_whiten, const std::string& distance,
                      std::size_t energy_tokens, std::size_t energy_dim) {
        const jepa_edge::ObjectiveSettings settings{
            .goal_steps = goal_steps,
            .risk = named<Risk>(risk, {{"mean", Risk::kMean},
                                       {"mean_plus_std", Risk::kMeanPlusStd},
                                       {"cvar", Risk::kCvar}}),
            .kappa = kappa,
            .alpha = alpha,
            .world_weight = world_weight,
            .spread_weight = spread_weight,
            .spread_discount = spread_discount,
            .trust_horizon = trust_horizon,
            .distance = named<Distance>(distance,
                                        {{"l2", Distance::kSquares}, {"l1", Distance::kAbsolute}}),
            .energy_tokens = energy_tokens,
            .energy_dim = energy_dim};
        return make(settings,
                    jepa_edge::ObjectiveData{std::move(radius), std::move(world_mean),
                                             std::move(world_whiten)},
                    jepa_edge::LatentShape{candidates, samples, horizon, tokens, dim});
      }),
      py::kw_only(), py::arg("candidates"), py::arg("samples"), py::arg("horizon"),
      py::arg("tokens"), py::arg("dim"), py::arg("goal_steps"), py::arg("risk"), py::arg("kappa"),
      py::arg("alpha"), py::arg("world_weight"), py::arg("spread_weight"),
      py::arg("spread_discount"), py::arg("trust_horizon"), py::arg("radius"),
      py::arg("world_mean"), py::arg("world_whiten"), py::arg("distance"), py::arg("energy_tokens"),
      py::arg("energy_dim"));
}

}  // namespace planner_binding
