// SPDX-License-Identifier: Apache-2.0
// The planner on the core's own rollouts.
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "engine.hpp"
#include "jepa_edge/engine_evaluator.hpp"
#include "jepa_edge/latent_variable.hpp"
#include "planner.hpp"

using namespace planner_binding;

namespace {

using jepa_edge::Status;

/// Keeps its Python engine alive.
struct BoundEvaluator {
  BoundEvaluator(py::object owner_, const jepa_edge::Objective& objective,
                 const std::shared_ptr<jepa_edge::LatentVariable>& variable)
      : owner(std::move(owner_)),
        engine(owner.cast<Engine&>()),
        core(*engine.rollout, objective),
        shape(objective.shape()) {
    if (variable) {
      const auto& model = engine.predictor->sizes();
      const auto& drawn = variable->sizes();
      if (drawn.latent_dim != model.latent_dim || drawn.action_dim != model.action_dim) {
        throw py::value_error("the latent variable is of another model: latents of " +
                              std::to_string(drawn.latent_dim) + " and actions of " +
                              std::to_string(drawn.action_dim) + ", expected " +
                              std::to_string(model.latent_dim) + " and " +
                              std::to_string(model.action_dim));
      }
      noise.emplace(variable, shape.tokens, engine.rollout->limits());
    }
  }

  /// Under the engine's lock.
  Status begin(const jepa_edge::Context& context, std::span<const float> goals, std::uint64_t seed,
               jepa_edge::UserObjective* user) noexcept {
    if (shape.samples < 2 || !noise) {
      return core.begin(context, goals, nullptr, user);
    }
    const Status drawn = noise->draw(seed, shape.samples, shape.horizon);
    return drawn == Status::kOk ? core.begin(context, goals, &*noise, user) : drawn;
  }

  py::object owner;
  Engine& engine;
  jepa_edge::EngineEvaluator core;
  jepa_edge::LatentShape shape;
  std::optional<jepa_edge::LatentNoise> noise;
};

/// A Python objective of latents (S, M, H, N, D) and actions (S, H, A).
class PythonObjective final : public jepa_edge::UserObjective {
 public:
  PythonObjective(py::object function, py::handle owner)
      : caller(std::move(function)), owner_(owner) {}

  Status evaluate(std::span<const float> latents, const jepa_edge::LatentShape& shape,
                  std::span<const float> actions, std::span<float> energies) noexcept override {
    const auto size = [](std::size_t value) { return static_cast<py::ssize_t>(value); };
    return caller.call(
        [&] {
          const std::size_t blocks = shape.candidates * shape.horizon;
          return py::make_tuple(
              borrow(latents.data(),
                     {size(shape.candidates), size(shape.samples), size(shape.horizon),
                      size(shape.tokens), size(shape.dim)},
                     owner_),
              borrow(actions.data(),
                     {size(shape.candidates), size(shape.horizon), size(actions.size() / blocks)},
                     owner_));
        },
        energies);
  }

  Caller caller;

 private:
  py::handle owner_;  ///< (planner, evaluator): whose memory the arrays show
};

py::object plan_on_engine(const py::object& self, const py::object& evaluator,
                          const FloatArray& history, const FloatArray& past_actions,
                          const FloatArray& goals, const py::object& objective,
                          const std::optional<FloatArray>& initial,
                          std::optional<double> deadline_s) {
  auto& planner = self.cast<BoundPlanner&>();
  auto& bound = evaluator.cast<BoundEvaluator&>();
  const auto& settings = planner.planner.settings();
  if (settings.horizon != bound.shape.horizon || settings.candidates > bound.shape.candidates ||
      settings.action_dim != bound.engine.predictor->sizes().action_dim) {
    throw py::value_error("the planner's horizon, candidates or action size is not the engine's");
  }
  if (history.ndim() != 3 || history.shape(0) < 1) {
    throw py::value_error("expected history (T, N, D)");
  }
  const jepa_edge::Context context{.history = view(history),
                                   .past_actions = view(past_actions),
                                   .frames = static_cast<std::size_t>(history.shape(0))};
  // Candidates and futures must not be drawn from the same numbers.
  const std::uint64_t noise_seed = ~settings.seed;
  const py::tuple owner = py::make_tuple(self, evaluator);
  std::optional<PythonObjective> user;
  if (!objective.is_none()) {
    user.emplace(objective, owner);
  }
  std::unique_lock<std::mutex> engine_busy(bound.engine.busy, std::defer_lock);
  return run(planner, bound.core, user ? &user->caller : nullptr, initial, deadline_s, [&] {
    engine_busy.lock();
    return bound.begin(context, view(goals), noise_seed, user ? &*user : nullptr);
  });
}

}  // namespace

void define_planner_engine(py::module_& m) {
  py::class_<BoundEvaluator>(m, "EngineEvaluator")
      .def(py::init<py::object, const jepa_edge::Objective&,
                    const std::shared_ptr<jepa_edge::LatentVariable>&>(),
           py::arg("engine"), py::arg("objective"), py::arg("latent_variable") = py::none());
  m.attr("Planner").attr("plan_on_engine") = py::cpp_function(
      plan_on_engine, py::name("plan_on_engine"), py::is_method(m.attr("Planner")),
      py::arg("evaluator"), py::arg("history").noconvert(), py::arg("past_actions").noconvert(),
      py::arg("goals").noconvert(), py::arg("objective") = py::none(),
      py::arg("initial").noconvert() = py::none(), py::arg("deadline_s") = py::none());
}
