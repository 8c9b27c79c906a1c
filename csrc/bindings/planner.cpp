// SPDX-License-Identifier: Apache-2.0
#include "planner.hpp"

#include <algorithm>
#include <memory>
#include <string>

namespace planner_binding {
namespace {

using jepa_edge::PlanStatus;
using jepa_edge::Status;

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
  py::class_<jepa_edge::Objective> bound(m, "Objective");
  define_objective_init(
      bound, [](const jepa_edge::ObjectiveSettings& settings, jepa_edge::ObjectiveData data,
                const jepa_edge::LatentShape& shape) {
        return jepa_edge::Objective(settings, std::move(data), shape);
      });
  bound.def(
      "energies",
      [](const jepa_edge::Objective& objective, const FloatArray& latents,
         const FloatArray& goals) {
        const auto& shape = objective.shape();
        const auto same = [&](py::ssize_t axis, std::size_t size) {
          return static_cast<std::size_t>(latents.shape(axis)) == size;
        };
        if (latents.ndim() != 5 || !same(1, shape.samples) || !same(2, shape.horizon) ||
            !same(3, shape.tokens) || !same(4, shape.dim)) {
          throw py::value_error("latents have another shape than the objective's (S, M, H, N, D)");
        }
        if (goals.ndim() != 3 || static_cast<std::size_t>(goals.shape(1)) != shape.tokens ||
            static_cast<std::size_t>(goals.shape(2)) != shape.dim) {
          throw py::value_error("goals have another shape than (G, N, D)");
        }
        FloatArray out(latents.shape(0));
        const auto energies = std::span(out.mutable_data(), static_cast<std::size_t>(out.size()));
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

}  // namespace

void define_planner(py::module_& m) {
  define_objective(m);
  define_result(m);
  py::class_<BoundPlanner> bound(m, "Planner");
  define_settings_init(bound, [](jepa_edge::PlannerSettings settings) {
    return std::make_unique<BoundPlanner>(std::move(settings));
  });
  bound.def(
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
