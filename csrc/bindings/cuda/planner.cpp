// SPDX-License-Identifier: Apache-2.0
#include "../../cuda/planner.hpp"

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "../../cuda/noise.hpp"
#include "../planner_values.hpp"
#include "bound_rollout.hpp"

namespace py = pybind11;
using namespace planner_binding;

namespace {

using jepa_edge::cuda::LatentNoise;

/// `_cuda.Objective`: what candidates are judged by, until a planner takes it to the device.
struct Objective {
  jepa_edge::ObjectiveSettings settings;
  jepa_edge::ObjectiveData data;
  jepa_edge::LatentShape shape;
};

/// Keeps its Python rollout and noise alive.
struct BoundPlanner {
  BoundPlanner(jepa_edge::PlannerSettings settings, const Objective& objective, py::object rollout_,
               py::object noise_)
      : owner(py::make_tuple(rollout_, noise_)), rollout(rollout_.cast<BoundRollout&>()) {
    const auto& sizes = rollout.rollout->sizes();
    const auto& shape = objective.shape;
    if (shape.tokens != sizes.tokens || shape.dim != sizes.latent_dim ||
        shape.horizon != settings.horizon || shape.candidates != settings.candidates) {
      throw py::value_error("the objective's sizes are not those of the rollout and the search");
    }
    LatentNoise* noise = noise_.is_none() ? nullptr : &noise_.cast<LatentNoise&>();
    const py::gil_scoped_release release;
    if (noise != nullptr) {
      if (noise->sizes().latent_dim != sizes.latent_dim || noise->tokens() != sizes.tokens ||
          noise->sizes().action_dim != sizes.action_dim) {
        throw std::invalid_argument("the latent variable is of another model than the rollout's");
      }
      // Candidates and futures must not be drawn from the same numbers.
      noise->draw(~settings.seed, shape.samples, shape.horizon);
    }
    planner.emplace(std::move(settings), objective.settings, objective.data, *rollout.rollout,
                    shape.samples, noise);
  }

  py::tuple owner;
  BoundRollout& rollout;
  std::optional<jepa_edge::cuda::Planner> planner;
};

Found plan(BoundPlanner& bound, const FloatArray& history, const FloatArray& past_actions,
           const FloatArray& goals, const std::optional<FloatArray>& initial,
           std::optional<double> deadline_s) {
  if (history.ndim() != 3 || goals.ndim() != 3) {
    throw py::value_error("expected history (T, N, D) and goals (G, N, D)");
  }
  jepa_edge::PlanRequest request{.deadline_s = deadline_s};
  if (initial) {
    request.initial = view(*initial);
    if (request.initial.empty()) {
      throw py::value_error("initial is empty, expected (H, A)");
    }
  }
  const jepa_edge::Context context{.history = view(history),
                                   .past_actions = view(past_actions),
                                   .frames = static_cast<std::size_t>(history.shape(0))};
  const auto count = static_cast<std::size_t>(goals.shape(0));
  const std::span<const float> wanted = view(goals);
  // A predictor of Python's takes the GIL at capture: never wait for the lock with the GIL.
  const py::gil_scoped_release release;
  const std::lock_guard lock(bound.rollout.busy);
  bound.planner->reserve_goals(count);
  return {bound.planner->plan(context, wanted, request), bound.planner->settings()};
}

}  // namespace

void define_planner(py::module_& m) {
  py::class_<Objective> objective(m, "Objective", py::module_local());
  define_objective_init(
      objective, [](const jepa_edge::ObjectiveSettings& settings, jepa_edge::ObjectiveData data,
                    const jepa_edge::LatentShape& shape) {
        return Objective{settings, std::move(data), shape};
      });
  py::class_<jepa_edge::PlannerSettings> settings(m, "Settings");
  define_settings_init(settings, [](jepa_edge::PlannerSettings given) { return given; });
  define_result(m);
  py::class_<BoundPlanner>(m, "Planner", py::module_local())
      .def(py::init<jepa_edge::PlannerSettings, const Objective&, py::object, py::object>(),
           py::arg("settings"), py::arg("objective"), py::arg("rollout"),
           py::arg("noise") = py::none())
      .def("plan", &plan, py::arg("history").noconvert(), py::arg("past_actions").noconvert(),
           py::arg("goals").noconvert(), py::arg("initial").noconvert() = py::none(),
           py::arg("deadline_s") = py::none());
}
