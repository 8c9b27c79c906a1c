// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "planner_values.hpp"

/// What the planner's bindings share: `_core.Planner` and everything that may evaluate for it.
namespace planner_binding {

/// A planner and the lock that makes calls from several threads wait for one another.
struct BoundPlanner {
  explicit BoundPlanner(jepa_edge::PlannerSettings settings) : planner(std::move(settings)) {}
  jepa_edge::Planner planner;
  std::mutex busy;
};

/// A read-only array over memory of the core. owner keeps that memory alive; what it holds changes
/// with the next iteration.
py::array borrow(const float* data, const std::vector<py::ssize_t>& shape, py::handle owner);

/// Calls a Python cost and copies its answer. The GIL is taken here. Keeps the first exception.
class Caller {
 public:
  explicit Caller(py::object function) : function_(std::move(function)) {}
  jepa_edge::Status call(const std::function<py::tuple()>& arguments,
                         std::span<float> energies) noexcept;
  /// Raises what the function raised, if it did. Needs the GIL.
  void raise() const;

 private:
  py::object function_;
  std::exception_ptr error_;
};

/// Runs a plan without the GIL, under the planner's lock. `prepare` runs under it too, before the
/// search, and may refuse.
py::object run(BoundPlanner& planner, jepa_edge::Evaluator& evaluator, const Caller* caller,
               const std::optional<FloatArray>& initial, std::optional<double> deadline_s,
               const std::function<jepa_edge::Status()>& prepare);

}  // namespace planner_binding
