// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/energy.cuh"
#include "launch.hpp"
#include "objective.hpp"

namespace jepa_edge::cuda {
namespace {

DeviceBuffer<float> uploaded(const std::vector<float>& values) {
  DeviceBuffer<float> buffer(values.size());
  if (!values.empty()) {
    buffer.upload(values);
  }
  return buffer;
}

}  // namespace

Objective::Objective(const ObjectiveSettings& settings, const ObjectiveData& data,
                     const LatentShape& shape, std::size_t goals)
    // The core checks them, and says how many tokens and channels "all" are.
    : settings_(jepa_edge::Objective(settings, data, shape).settings()),
      shape_(shape),
      radius_(uploaded(data.radius)),
      world_mean_(uploaded(data.world_mean)),
      world_whiten_(uploaded(data.world_whiten)),
      scratch_(shape.candidates * (2 * shape.samples + settings_.energy_dim)),
      goal_count_(1),
      staged_count_(1) {
  const bool whole = settings_.energy_dim == shape.dim;
  part_ = {.runs = whole ? 1 : settings_.energy_tokens,
           .length = whole ? settings_.energy_tokens * shape.dim : settings_.energy_dim,
           .stride = shape.dim};
  const std::size_t warps = (part_.length + 31) / 32;
  threads_ = static_cast<unsigned>(32 * std::min<std::size_t>(warps, kMostEnergyThreads / 32));
  reserve_goals(std::max<std::size_t>(goals, 1));
}

void Objective::reserve_goals(std::size_t goals) {
  if (goals > goal_capacity_) {
    const std::size_t count = goals * shape_.tokens * shape_.dim;
    goals_ = DeviceBuffer<float>(count);
    staged_goals_ = PinnedBuffer<float>(count);
    goal_capacity_ = goals;
  }
}

Status Objective::set_goals(std::span<const float> goals, const Stream& stream) {
  const std::size_t latent = shape_.tokens * shape_.dim;
  if (goals.empty() || goals.size() % latent != 0 || goals.size() > goal_capacity_ * latent) {
    return Status::kBadShape;
  }
  if (!std::all_of(goals.begin(), goals.end(), [](float v) { return std::isfinite(v); })) {
    return Status::kNonFiniteInput;
  }
  std::copy(goals.begin(), goals.end(), staged_goals_.data());
  *staged_count_.data() = static_cast<std::uint32_t>(goals.size() / latent);
  check(cudaMemcpyAsync(goals_.data(), staged_goals_.data(), goals.size_bytes(),
                        cudaMemcpyHostToDevice, stream.get()),
        "copy of the goals");
  check(cudaMemcpyAsync(goal_count_.data(), staged_count_.data(), sizeof(std::uint32_t),
                        cudaMemcpyHostToDevice, stream.get()),
        "copy of the number of goals");
  return Status::kOk;
}

void Objective::enqueue(const float* latents, std::size_t candidates, float* energies,
                        const Stream& stream) const {
  // 0.1 * 30 is 3.0000000000000004 in double and must still count 3.
  const double worst = settings_.alpha * static_cast<double>(shape_.samples);
  const EnergyView view{
      .settings = settings_,
      .shape = shape_,
      .part = part_,
      .worst = std::clamp<std::uint32_t>(static_cast<std::uint32_t>(std::ceil(worst - 1e-9)), 1,
                                         static_cast<std::uint32_t>(shape_.samples)),
      .radius = radius_.data(),
      .world_mean = world_mean_.data(),
      .world_whiten = world_whiten_.data(),
      .goals = goals_.data(),
      .goal_count = goal_count_.data(),
      .scratch = scratch_.data()};
  launch(judge_candidates, {dim3(static_cast<unsigned>(candidates)), dim3(threads_)}, stream.get(),
         view, latents, energies);
}

}  // namespace jepa_edge::cuda
