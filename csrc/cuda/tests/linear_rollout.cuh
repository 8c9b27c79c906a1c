// SPDX-License-Identifier: Apache-2.0
// A cheap world for tests of planning, on the device and in plain loops: linear in the latent and
// the action, with divergence where an action is too large, and spread that grows with it.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "jepa_edge/objective.hpp"
#include "jepa_edge/planner.hpp"
#include "launch.hpp"
#include "rollout.hpp"

namespace jepa_edge::cuda::testing {

struct LinearWorld {
  std::size_t tokens = 2;
  std::size_t dim = 5;
  std::size_t action_dim = 3;
  float diverges_above = 1e30F;  ///< of an action's first number
  float spread = 0.0F;

  [[nodiscard]] __host__ __device__ std::size_t latent() const { return tokens * dim; }

  /// Number i of the latent that follows.
  [[nodiscard]] __host__ __device__ float next(const float* latent, const float* action,
                                               std::size_t i) const {
    float value = 0.8F * latent[i] - 0.3F * latent[(i + 1) % (tokens * dim)];
    for (std::size_t a = 0; a < action_dim; ++a) {
      value += (static_cast<float>((3 * i + 5 * a) % 7) - 3.0F) * 0.125F * action[a];
    }
    return action[0] > diverges_above ? NAN : value;
  }
  /// What a future adds to number i.
  [[nodiscard]] __host__ __device__ float noise(std::size_t sample, std::size_t i,
                                                const float* action) const {
    const float drawn = static_cast<float>((7 * sample + 3 * i) % 5) - 2.0F;
    return spread * drawn * (action[0] < 0.0F ? -action[0] : action[0]);
  }
};

[[maybe_unused]] static __global__ void linear_step(LinearWorld world, std::size_t step,
                                                    std::size_t rows, std::size_t samples,
                                                    std::size_t horizon, const float* context,
                                                    const float* actions, float* latents) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= rows * world.latent()) {
    return;
  }
  const std::size_t row = place / world.latent();
  const std::size_t i = place % world.latent();
  float* future = latents + row * horizon * world.latent();
  const float* before = step == 0 ? context : future + (step - 1) * world.latent();
  const float* action = actions + (row / samples * horizon + step) * world.action_dim;
  future[step * world.latent() + i] = world.next(before, action, i);
}

[[maybe_unused]] static __global__ void linear_noise(LinearWorld world, std::size_t candidates,
                                                     std::size_t samples, float* latents,
                                                     std::size_t stride, const float* actions,
                                                     std::size_t action_stride) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= candidates * samples * world.latent()) {
    return;
  }
  const std::size_t row = place / world.latent();
  const std::size_t i = place % world.latent();
  latents[row * stride + i] +=
      world.noise(row % samples, i, actions + row / samples * action_stride);
}

class LinearNoise final : public DeviceNoise {
 public:
  explicit LinearNoise(const LinearWorld& world) : world_(world) {}
  void enqueue(std::size_t, std::size_t candidates, std::size_t samples, float* latents,
               std::size_t stride, const float*, std::size_t, std::size_t, const float* actions,
               std::size_t action_stride, cudaStream_t stream) override {
    launch(linear_noise, {dim3(blocks_for(candidates * samples * world_.latent(), 64)), dim3(64)},
           stream, world_, candidates, samples, latents, stride, actions, action_stride);
  }

 private:
  LinearWorld world_;
};

class LinearRollout final : public DeviceRollout {
 public:
  LinearRollout(const LinearWorld& world, const Limits& limits, std::size_t window = 3)
      : seen(limits.candidates * limits.horizon * world.action_dim),
        world_(world),
        sizes_{window, world.tokens, world.dim, world.action_dim},
        limits_(limits),
        context_(world.latent()) {}

  [[nodiscard]] const RolloutSizes& sizes() const noexcept override { return sizes_; }
  [[nodiscard]] const Limits& limits() const noexcept override { return limits_; }

  Status set_context(const Context& context, const Stream& stream) override {
    if (context.history.size() != context.frames * world_.latent()) {
      return Status::kBadShape;
    }
    stream.wait();
    context_.upload(context.history.last(world_.latent()));
    return Status::kOk;
  }

  void enqueue(std::size_t, const float* actions, std::size_t candidates, std::size_t horizon,
               std::size_t samples, DeviceNoise* noise, float* latents,
               const Stream& stream) override {
    ++enqueued;
    check(cudaMemcpyAsync(seen.data(), actions,
                          candidates * horizon * world_.action_dim * sizeof(float),
                          cudaMemcpyDeviceToDevice, stream.get()),
          "copy of actions");
    const std::size_t rows = candidates * samples;
    for (std::size_t step = 0; step < horizon; ++step) {
      launch(linear_step, {dim3(blocks_for(rows * world_.latent(), 64)), dim3(64)}, stream.get(),
             world_, step, rows, samples, horizon, context_.data(), actions, latents);
      if (noise != nullptr) {
        noise->enqueue(step, candidates, samples, latents + step * world_.latent(),
                       horizon * world_.latent(), nullptr, 0, 1, actions + step * world_.action_dim,
                       horizon * world_.action_dim, stream.get());
      }
    }
  }

  std::size_t enqueued = 0;
  DeviceBuffer<float> seen;  ///< actions of the last rollout

 private:
  LinearWorld world_;
  RolloutSizes sizes_;
  Limits limits_;
  DeviceBuffer<float> context_;
};

/// One candidate's futures (M, H, N, D) in plain loops.
inline void linear_futures(const LinearWorld& world, const float* context, const float* actions,
                           std::size_t samples, std::size_t horizon, bool noisy, float* out) {
  const std::size_t latent = world.latent();
  for (std::size_t m = 0; m < samples; ++m) {
    for (std::size_t step = 0; step < horizon; ++step) {
      float* now = out + (m * horizon + step) * latent;
      const float* before = step == 0 ? context : now - latent;
      const float* action = actions + step * world.action_dim;
      for (std::size_t i = 0; i < latent; ++i) {
        now[i] = world.next(before, action, i) + (noisy ? world.noise(m, i, action) : 0.0F);
      }
    }
  }
}

/// The CPU core's side: its objective over plain loops.
class LinearEvaluator final : public Evaluator {
 public:
  LinearEvaluator(const LinearWorld& world, jepa_edge::Objective objective,
                  std::vector<float> context, std::vector<float> goals, bool noisy)
      : world_(world),
        objective_(std::move(objective)),
        context_(std::move(context)),
        goals_(std::move(goals)),
        noisy_(noisy) {}

  Status evaluate(std::span<const float> actions, std::size_t candidates,
                  std::span<float> energies) noexcept override {
    seen.assign(actions.begin(), actions.end());
    const LatentShape& shape = objective_.shape();
    std::vector<float> futures(shape.samples * shape.horizon * world_.latent());
    std::vector<float> scratch(objective_.scratch_size());
    const float* latest = context_.data() + context_.size() - world_.latent();
    for (std::size_t c = 0; c < candidates; ++c) {
      linear_futures(world_, latest, actions.data() + c * shape.horizon * world_.action_dim,
                     shape.samples, shape.horizon, noisy_, futures.data());
      energies[c] = objective_.energy(futures, goals_, scratch);
    }
    return Status::kOk;
  }

  std::vector<float> seen;

 private:
  LinearWorld world_;
  jepa_edge::Objective objective_;
  std::vector<float> context_, goals_;
  bool noisy_;
};

/// What lies on the device, once all work before is done.
inline std::vector<float> downloaded(const float* data, std::size_t count) {
  std::vector<float> values(count);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check(cudaMemcpy(values.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost),
        "cudaMemcpy to the host");
  return values;
}

/// Numbers that differ.
inline std::vector<float> varied(std::size_t count, float size) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = size * static_cast<float>(std::sin(1.0 + 2.0 * static_cast<double>(i)));
  }
  return values;
}

}  // namespace jepa_edge::cuda::testing
