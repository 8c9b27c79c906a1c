// SPDX-License-Identifier: Apache-2.0
#include "../../cuda/rollout.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "../../cuda/callback_rollout.hpp"
#include "../../cuda/lewm_rollout.hpp"
#include "bound_rollout.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::Limits;
using jepa_edge::Status;
using jepa_edge::cuda::check;
using jepa_edge::cuda::PredictorWeights;
using jepa_edge::cuda::RolloutSizes;
using FloatArray = py::array_t<float, py::array::c_style>;

/// Python knows no pointers to const; nothing here can change the weights.
struct BoundPredictor {
  std::shared_ptr<const PredictorWeights> weights;
};

std::span<const float> view(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

/// Under the lock: rolls out and copies the latents back.
Status run(BoundRollout& bound, const jepa_edge::Context& context, std::span<const float> actions,
           std::size_t candidates, std::size_t horizon, std::span<float> latents) {
  auto& rollout = *bound.rollout;
  const RolloutSizes& sizes = rollout.sizes();
  const Limits& limits = rollout.limits();
  const std::size_t latent = sizes.tokens * sizes.latent_dim;
  if (candidates < 1 || candidates > limits.candidates || horizon < 1 || horizon > limits.horizon ||
      actions.size() != candidates * horizon * sizes.action_dim) {
    return Status::kBadShape;
  }
  if (!std::all_of(actions.begin(), actions.end(), [](float v) { return std::isfinite(v); })) {
    return Status::kNonFiniteInput;
  }
  if (const Status status = rollout.set_context(context, bound.stream); status != Status::kOk) {
    return status;
  }
  if (bound.actions.size() == 0) {
    const std::size_t steps = limits.candidates * limits.horizon;
    bound.actions = jepa_edge::cuda::DeviceBuffer<float>(steps * sizes.action_dim);
    bound.latents = jepa_edge::cuda::DeviceBuffer<float>(steps * latent);
  }
  check(cudaMemcpyAsync(bound.actions.data(), actions.data(), actions.size_bytes(),
                        cudaMemcpyHostToDevice, bound.stream.get()),
        "copy of the actions");
  rollout.enqueue(context.frames, bound.actions.data(), candidates, horizon, 1, nullptr,
                  bound.latents.data(), bound.stream);
  check(cudaMemcpyAsync(latents.data(), bound.latents.data(), latents.size_bytes(),
                        cudaMemcpyDeviceToHost, bound.stream.get()),
        "copy of the latents");
  bound.stream.wait();
  return std::all_of(latents.begin(), latents.end(), [](float v) { return std::isfinite(v); })
             ? Status::kOk
             : Status::kNonFiniteOutput;
}

/// Status, as a number, and latents (S, H, N, D) of one context for all candidates.
py::tuple roll(BoundRollout& bound, const FloatArray& history, const FloatArray& past_actions,
               const FloatArray& actions) {
  if (history.ndim() != 3 || past_actions.ndim() != 2 || actions.ndim() != 3) {
    throw py::value_error("expected history (T, N, D), past_actions (T - 1, A), actions (S, H, A)");
  }
  const RolloutSizes& sizes = bound.rollout->sizes();
  py::array_t<float> latents({actions.shape(0), actions.shape(1),
                              static_cast<py::ssize_t>(sizes.tokens),
                              static_cast<py::ssize_t>(sizes.latent_dim)});
  const jepa_edge::Context context{.history = view(history),
                                   .past_actions = view(past_actions),
                                   .frames = static_cast<std::size_t>(history.shape(0))};
  const std::span<float> out(latents.mutable_data(), static_cast<std::size_t>(latents.size()));
  const std::span<const float> taken = view(actions);
  const auto candidates = static_cast<std::size_t>(actions.shape(0));
  const auto horizon = static_cast<std::size_t>(actions.shape(1));
  auto status = Status::kOk;
  {
    const py::gil_scoped_release release;
    const std::lock_guard lock(bound.busy);
    status = run(bound, context, taken, candidates, horizon, out);
  }
  return py::make_tuple(static_cast<int>(status), latents);
}

/// Somebody else's predictor, enqueued by Python: called with addresses on the device.
std::unique_ptr<BoundRollout> make_callback_rollout(py::function enqueue, std::size_t window,
                                                    std::size_t tokens, std::size_t latent_dim,
                                                    std::size_t action_dim, std::size_t candidates,
                                                    std::size_t horizon, std::size_t samples) {
  auto call = [enqueue = std::move(enqueue)](const float* history, const float* actions, float* out,
                                             std::size_t rows, cudaStream_t stream) {
    const py::gil_scoped_acquire acquire;
    const auto address = [](const void* pointer) {
      return reinterpret_cast<std::uintptr_t>(pointer);
    };
    enqueue(address(history), address(actions), address(out), rows, address(stream));
  };
  return std::make_unique<BoundRollout>(std::make_shared<jepa_edge::cuda::CallbackRollout>(
                                            RolloutSizes{window, tokens, latent_dim, action_dim},
                                            Limits{candidates, horizon, samples}, std::move(call)),
                                        window);
}

}  // namespace

void define_rollout(py::module_& m) {
  py::class_<BoundPredictor>(m, "Predictor")
      .def(py::init([](const std::filesystem::path& path, jepa_edge::cuda::Precision precision) {
             const py::gil_scoped_release release;
             return BoundPredictor{PredictorWeights::load(path, precision)};
           }),
           py::arg("path"), py::arg("precision"))
      .def_property_readonly("precision",
                             [](const BoundPredictor& self) { return self.weights->precision; });
  py::class_<RolloutSizes>(m, "RolloutSizes")
      .def_readonly("window", &RolloutSizes::window)
      .def_readonly("tokens", &RolloutSizes::tokens)
      .def_readonly("latent_dim", &RolloutSizes::latent_dim)
      .def_readonly("action_dim", &RolloutSizes::action_dim);
  py::class_<BoundRollout>(m, "Rollout")
      .def(py::init([](const BoundPredictor& predictor, std::size_t candidates, std::size_t horizon,
                       std::size_t samples) {
             const py::gil_scoped_release release;
             return std::make_unique<BoundRollout>(std::make_shared<jepa_edge::cuda::LewmRollout>(
                 predictor.weights, Limits{candidates, horizon, samples}));
           }),
           py::arg("predictor"), py::arg("candidates"), py::arg("horizon"), py::arg("samples") = 1)
      .def_static("from_callback", &make_callback_rollout, py::arg("enqueue"), py::kw_only(),
                  py::arg("window"), py::arg("tokens"), py::arg("latent_dim"),
                  py::arg("action_dim"), py::arg("candidates"), py::arg("horizon"),
                  py::arg("samples") = 1)
      .def_property_readonly("sizes",
                             [](const BoundRollout& self) { return self.rollout->sizes(); })
      .def_readonly("shortest_history", &BoundRollout::shortest_history)
      .def("rollout", &roll, py::arg("history").noconvert(), py::arg("past_actions").noconvert(),
           py::arg("actions").noconvert());
}
