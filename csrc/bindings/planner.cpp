// SPDX-License-Identifier: Apache-2.0
#include "planner.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "jepa_edge/objective.hpp"

namespace planner_binding {
namespace {

using jepa_edge::PlanStatus;
using jepa_edge::Status;

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

const char* name_of(PlanStatus status) {
  switch (status) {
    case PlanStatus::kOk:
      return "ok";
    case PlanStatus::kBadRequest:
      return "bad_request";
    case PlanStatus::kTooFewFinite:
      return "too_few_finite";
    case PlanStatus::kNoTrustedCandidate:
      return "no_trusted_candidate";
    case PlanStatus::kEvaluatorFailed:
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

FloatArray vector(const std::vector<float>& values) {
  return FloatArray(static_cast<py::ssize_t>(values.size()), values.data());
}

/// Evaluates by a Python function of actions (S, H, A).
class CallableEvaluator final : public jepa_edge::Evaluator {
 public:
  CallableEvaluator(Caller& caller, py::handle owner, const jepa_edge::PlannerSettings& settings)
      : caller_(caller), owner_(owner), settings_(settings) {}

  Status evaluate(std::span<const float> actions, std::size_t candidates,
                  std::span<float> energies) noexcept override {
    return caller_.call(
        [&] {
          return py::make_tuple(borrow(
              actions.data(),
              {static_cast<py::ssize_t>(candidates), static_cast<py::ssize_t>(settings_.horizon),
               static_cast<py::ssize_t>(settings_.action_dim)},
              owner_));
        },
        energies);
  }

 private:
  Caller& caller_;
  py::handle owner_;
  const jepa_edge::PlannerSettings& settings_;
};

}  // namespace

std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

py::array borrow(const float* data, const std::vector<py::ssize_t>& shape, py::handle owner) {
  FloatArray array(shape, data, owner);
  array.attr("setflags")(py::arg("write") = false);
  return array;
}

Status Caller::call(const std::function<py::tuple()>& arguments,
                    std::span<float> energies) noexcept {
  const py::gil_scoped_acquire acquire;
  try {
    const auto answer = py::array_t < float,
               py::array::c_style | py::array::forcecast > ::ensure(function_(*arguments()));
    if (!answer) {
      throw py::type_error("the evaluator returned no array of numbers");
    }
    if (answer.ndim() != 1 || static_cast<std::size_t>(answer.size()) != energies.size()) {
      throw py::value_error("expected one energy per candidate, shape (" +
                            std::to_string(energies.size()) + ",), got " +
                            std::to_string(answer.size()) + " numbers in " +
                            std::to_string(answer.ndim()) + " dimensions");
    }
    std::copy_n(answer.data(), energies.size(), energies.begin());
    return Status::kOk;
  } catch (...) {
    error_ = std::current_exception();
    return Status::kFailed;
  }
}

void Caller::raise() const {
  if (error_) {
    std::rethrow_exception(error_);
  }
}

py::object run(BoundPlanner& planner, jepa_edge::Evaluator& evaluator, const Caller* caller,
               const std::optional<FloatArray>& initial, std::optional<double> deadline_s,
               const std::function<Status()>& prepare) {
  jepa_edge::PlanRequest request;
  if (initial) {
    request.initial = view(*initial);
    if (request.initial.empty()) {
      throw py::value_error("initial is empty, expected (H, A)");
    }
  }
  request.deadline_s = deadline_s;
  std::optional<Found> found;
  {
    // A Python cost takes the GIL while the lock is held: never wait for the lock with the GIL.
    const py::gil_scoped_release release;
    const std::lock_guard lock(planner.busy);
    const Status status = prepare();
    jepa_edge::PlanResult result;
    if (status == Status::kOk) {
      result = planner.planner.plan(evaluator, request);
    } else {
      result.status = PlanStatus::kEvaluatorFailed;
      result.evaluator = status;
    }
    found.emplace(result, planner.planner.settings());
  }
  if (caller != nullptr) {
    caller->raise();
  }
  return py::cast(std::move(*found));
}

}  // namespace planner_binding

using namespace planner_binding;

void define_planner_engine(py::module_& m);

namespace {

void define_objective(py::module_& m) {
  py::class_<jepa_edge::Objective>(m, "Objective")
      .def(py::init([](std::size_t candidates, std::size_t samples, std::size_t horizon,
                       std::size_t tokens, std::size_t dim, std::size_t goal_steps,
                       const std::string& risk, double kappa, double alpha, double world_weight,
                       double spread_weight, double spread_discount, bool trust_horizon,
                       std::vector<float> radius, std::vector<float> world_mean,
                       std::vector<float> world_whiten, const std::string& distance,
                       std::size_t energy_tokens, std::size_t energy_dim) {
             using jepa_edge::Distance;
             using jepa_edge::Risk;
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
                 .distance = named<Distance>(
                     distance, {{"l2", Distance::kSquares}, {"l1", Distance::kAbsolute}}),
                 .energy_tokens = energy_tokens,
                 .energy_dim = energy_dim};
             return jepa_edge::Objective(
                 settings, {std::move(radius), std::move(world_mean), std::move(world_whiten)},
                 {candidates, samples, horizon, tokens, dim});
           }),
           py::kw_only(), py::arg("candidates"), py::arg("samples"), py::arg("horizon"),
           py::arg("tokens"), py::arg("dim"), py::arg("goal_steps"), py::arg("risk"),
           py::arg("kappa"), py::arg("alpha"), py::arg("world_weight"), py::arg("spread_weight"),
           py::arg("spread_discount"), py::arg("trust_horizon"), py::arg("radius"),
           py::arg("world_mean"), py::arg("world_whiten"), py::arg("distance"),
           py::arg("energy_tokens"), py::arg("energy_dim"))
      .def(
          "energies",
          [](const jepa_edge::Objective& objective, const FloatArray& latents,
             const FloatArray& goals) {
            const auto& shape = objective.shape();
            const auto same = [&](py::ssize_t axis, std::size_t size) {
              return static_cast<std::size_t>(latents.shape(axis)) == size;
            };
            if (latents.ndim() != 5 || !same(1, shape.samples) || !same(2, shape.horizon) ||
                !same(3, shape.tokens) || !same(4, shape.dim)) {
              throw py::value_error(
                  "latents have another shape than the objective's (S, M, H, N, D)");
            }
            if (goals.ndim() != 3 || static_cast<std::size_t>(goals.shape(1)) != shape.tokens ||
                static_cast<std::size_t>(goals.shape(2)) != shape.dim) {
              throw py::value_error("goals have another shape than (G, N, D)");
            }
            FloatArray out(latents.shape(0));
            const auto energies =
                std::span(out.mutable_data(), static_cast<std::size_t>(out.size()));
            {
              const py::gil_scoped_release release;
              std::vector<float> scratch(objective.scratch_size());
              const std::size_t each = shape.samples * shape.horizon * shape.tokens * shape.dim;
              for (std::size_t s = 0; s < energies.size(); ++s) {
                energies[s] =
                    objective.energy(view(latents).subspan(s * each, each), view(goals), scratch);
              }
            }
            return out;
          },
          py::arg("latents").noconvert(), py::arg("goals").noconvert());
}

void define_result(py::module_& m) {
  py::class_<Found>(m, "PlanResult")
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

BoundPlanner* make_planner(const std::string& method, std::size_t horizon, std::size_t action_dim,
                           std::size_t candidates, std::size_t elites, std::size_t iterations,
                           double init_std, std::uint64_t seed, const std::string& returned,
                           std::vector<float> action_mean, std::vector<float> action_std,
                           std::vector<float> low, std::vector<float> high, double noise_beta,
                           std::size_t keep_elites, std::optional<double> momentum,
                           double population_decay, bool deterministic, double temperature) {
  using jepa_edge::Method;
  using jepa_edge::Returned;
  return new BoundPlanner({
      .method = named<Method>(
          method, {{"cem", Method::kCem}, {"icem", Method::kIcem}, {"mppi", Method::kMppi}}),
      .horizon = horizon,
      .action_dim = action_dim,
      .candidates = candidates,
      .elites = elites,
      .iterations = iterations,
      .init_std = init_std,
      .seed = seed,
      .returned = named<Returned>(returned, {{"mean", Returned::kMean}, {"best", Returned::kBest}}),
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
}

}  // namespace

void define_planner(py::module_& m) {
  define_objective(m);
  define_result(m);
  py::class_<BoundPlanner>(m, "Planner")
      .def(py::init(&make_planner), py::kw_only(), py::arg("method"), py::arg("horizon"),
           py::arg("action_dim"), py::arg("candidates"), py::arg("elites"), py::arg("iterations"),
           py::arg("init_std"), py::arg("seed"), py::arg("returned"), py::arg("action_mean"),
           py::arg("action_std"), py::arg("low"), py::arg("high"), py::arg("noise_beta"),
           py::arg("keep_elites"), py::arg("momentum"), py::arg("population_decay"),
           py::arg("deterministic"), py::arg("temperature"))
      .def(
          "plan",
          [](const py::object& self, py::object evaluate, const std::optional<FloatArray>& initial,
             std::optional<double> deadline_s) {
            auto& planner = self.cast<BoundPlanner&>();
            Caller caller(std::move(evaluate));
            CallableEvaluator evaluator(caller, self, planner.planner.settings());
            return run(planner, evaluator, &caller, initial, deadline_s,
                       [] { return jepa_edge::Status::kOk; });
          },
          py::arg("evaluate"), py::arg("initial").noconvert() = py::none(),
          py::arg("deadline_s") = py::none());
  m.def(
      "shift_plan",
      [](const FloatArray& plan, std::size_t blocks, const std::optional<FloatArray>& fill) {
        if (plan.ndim() != 2 || (fill && (fill->ndim() != 1 || fill->size() != plan.shape(1)))) {
          throw py::value_error("expected plan (H, A) and fill (A)");
        }
        FloatArray moved({plan.shape(0), plan.shape(1)}, plan.data());
        jepa_edge::shift_plan(
            std::span(moved.mutable_data(), static_cast<std::size_t>(moved.size())),
            static_cast<std::size_t>(plan.shape(1)), blocks,
            fill ? view(*fill) : std::span<const float>{});
        return moved;
      },
      py::arg("plan").noconvert(), py::arg("blocks"), py::arg("fill").noconvert() = py::none());
  define_planner_engine(m);
}
