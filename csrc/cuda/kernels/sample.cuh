// SPDX-License-Identifier: Apache-2.0
// Candidates of an iteration, and the ends of a search.
#pragma once

#include <cstddef>
#include <cstdint>

#include "random.cuh"
#include "search.cuh"

namespace jepa_edge::cuda {

inline constexpr unsigned kSampleThreads = 128;

__device__ inline float to_raw(const SearchView& v, float z, std::uint32_t i) {
  const std::uint32_t a = i % v.dim;
  const float raw = plus_product(v.action_mean[a], v.action_std[a], z);
  return v.low == nullptr ? raw : clamped(raw, v.low[a], v.high[a]);
}

/// Where a search starts. initial: (H, A) raw, or nullptr. One thread per number of a candidate.
[[maybe_unused]] static __global__ void start_search(SearchView v, const float* initial) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) {
    *v.state = {};
    v.state->best_energy = static_cast<float>(HUGE_VAL);
  }
  if (i < v.horizon) {
    v.spread[i] = v.init_std;
  }
  if (i < v.size) {
    const std::uint32_t a = i % v.dim;
    const float given =
        initial == nullptr ? 0.0F : (initial[i] - v.action_mean[a]) / v.action_std[a];
    v.mean[i] = clamped_z(v, given, i);
    v.std[i] = v.init_std;
    v.best_actions[i] = to_raw(v, v.mean[i], i);
  }
}

/// Fills the first `count` rows of z and raw: `kept` elites, the mean, drawn ones. One thread per
/// number.
[[maybe_unused]] static __global__ void draw_candidates(SearchView v, std::uint32_t count,
                                                        std::uint32_t kept) {
  const std::size_t place = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (place >= std::size_t{count} * v.size || v.state->status != PlanStatus::kOk) {
    return;
  }
  const auto candidate = static_cast<std::uint32_t>(place / v.size);
  const auto i = static_cast<std::uint32_t>(place % v.size);
  float value;
  if (candidate < kept) {
    value = v.kept_z[place];
    if (i == 0) {
      v.energies[candidate] = v.kept_energies[candidate];
    }
  } else if (candidate == kept) {
    value = v.mean[i];
  } else {
    const std::size_t drawn =
        v.noise_is_stored ? std::size_t{v.state->iteration} * v.candidates * v.size : 0;
    value = plus_product(v.mean[i], v.std[i], v.noise[drawn + place]);
  }
  value = clamped_z(v, value, i);
  const float raw = to_raw(v, value, i);
  v.z[place] = value;
  v.raw[place] = raw;
  if (!is_finite(raw)) {
    v.state->bad_action = 1;
  }
}

/// What is returned. One thread per number of a candidate.
[[maybe_unused]] static __global__ void finish_search(SearchView v) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < v.size) {
    v.actions[i] = v.returns_mean ? to_raw(v, v.mean[i], i) : v.best_actions[i];
  }
}

}  // namespace jepa_edge::cuda
