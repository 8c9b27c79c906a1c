// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "callback_rollout.hpp"
#include "kernels/window.cuh"
#include "launch.hpp"

namespace jepa_edge::cuda {
namespace {

bool all_finite(std::span<const float> values) noexcept {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

}  // namespace

CallbackRollout::CallbackRollout(const RolloutSizes& sizes, const Limits& limits,
                                 EnqueuePredictor predictor)
    : sizes_(sizes), limits_(limits), predictor_(std::move(predictor)) {
  for (const std::size_t size : {sizes.window, sizes.tokens, sizes.latent_dim, sizes.action_dim,
                                 limits.candidates, limits.horizon, limits.samples}) {
    if (size == 0) {
      throw std::invalid_argument("every size and limit of a rollout must be at least 1");
    }
  }
  if (!predictor_) {
    throw std::invalid_argument("a rollout needs a predictor");
  }
  const std::size_t latent = sizes.tokens * sizes.latent_dim;
  const std::size_t rows = limits.candidates * limits.samples;
  const std::size_t past = (sizes.window - 1) * sizes.action_dim;
  context_ = DeviceBuffer<float>(sizes.window * latent);
  past_ = DeviceBuffer<float>(past);
  window_ = DeviceBuffer<float>(rows * sizes.window * latent);
  actions_ = DeviceBuffer<float>(rows * sizes.window * sizes.action_dim);
  predicted_ = DeviceBuffer<float>(rows * latent);
  staged_ = PinnedBuffer<float>(sizes.window * latent + past);
}

Status CallbackRollout::set_context(const Context& context, const Stream& stream) {
  if (context.batch != 1 || context.frames != sizes_.window ||
      context.history.size() != context_.size() || context.past_actions.size() != past_.size()) {
    return Status::kBadShape;
  }
  if (!all_finite(context.history) || !all_finite(context.past_actions)) {
    return Status::kNonFiniteInput;
  }
  stream.wait();  // the last copy from here may still be under way
  float* past = std::copy(context.history.begin(), context.history.end(), staged_.data());
  std::copy(context.past_actions.begin(), context.past_actions.end(), past);
  check(cudaMemcpyAsync(context_.data(), staged_.data(), context.history.size_bytes(),
                        cudaMemcpyHostToDevice, stream.get()),
        "copy of the history");
  if (past_.size() > 0) {
    check(cudaMemcpyAsync(past_.data(), past, context.past_actions.size_bytes(),
                          cudaMemcpyHostToDevice, stream.get()),
          "copy of the past actions");
  }
  return Status::kOk;
}

void CallbackRollout::enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                              std::size_t horizon, std::size_t samples, DeviceNoise* noise,
                              float* latents, const Stream& stream) {
  if (frames != sizes_.window || candidates > limits_.candidates || horizon > limits_.horizon ||
      samples > limits_.samples || (samples > 1 && noise == nullptr)) {
    throw std::invalid_argument("a rollout beyond its limits, or of samples without noise");
  }
  const std::size_t latent = sizes_.tokens * sizes_.latent_dim;
  const std::size_t rows = candidates * samples;
  const auto over = [](std::size_t items) {
    return Shape{dim3(blocks_for(items, kWindowThreads)), dim3(kWindowThreads)};
  };
  for (std::size_t step = 0; step < horizon; ++step) {
    const WindowView view{rows, samples, horizon, step, sizes_.window, latent, sizes_.action_dim};
    launch(gather_frames, over(rows * sizes_.window * latent), stream.get(), view, context_.data(),
           latents, window_.data());
    launch(gather_actions, over(rows * sizes_.window * sizes_.action_dim), stream.get(), view,
           past_.data(), actions, actions_.data());
    predictor_(window_.data(), actions_.data(), predicted_.data(), rows, stream.get());
    launch(scatter_step, over(rows * latent), stream.get(), view, predicted_.data(), latents);
    if (noise != nullptr) {
      const bool first = step == 0;
      noise->enqueue(
          step, candidates, samples, latents + step * latent, horizon * latent,
          first ? context_.data() + (sizes_.window - 1) * latent : latents + (step - 1) * latent,
          first ? 0 : horizon * latent, 1, actions + step * sizes_.action_dim,
          horizon * sizes_.action_dim, stream.get());
    }
  }
}

}  // namespace jepa_edge::cuda
