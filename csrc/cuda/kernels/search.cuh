// SPDX-License-Identifier: Apache-2.0
// Where a search's numbers lie on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../portable.hpp"
#include "jepa_edge/planner.hpp"
#include "jepa_edge/status.hpp"

namespace jepa_edge::cuda {

/// How far a search got. Once its status is not kOk, no kernel changes anything any more.
struct SearchState {
  std::uint32_t iteration;  ///< done so far
  PlanStatus status;
  Status evaluator;
  std::uint32_t bad_action;  ///< whether a candidate's actions are not finite
  std::uint32_t finite;      ///< of this iteration, as the next two
  std::uint32_t diverged_now;
  std::uint32_t refused_now;
  float best_energy;
  std::uint64_t evaluated;
  std::uint64_t diverged;
  std::uint64_t refused;
};

/// All that kernels of a search are given; names and layouts as in src/planner/search.hpp.
struct SearchView {
  Method method;
  std::uint32_t candidates, horizon, dim, size, elites, keep, wanted;
  float init_std;
  double momentum, temperature;
  bool noise_is_stored, returns_mean;

  const float *action_mean, *action_std;
  const float *low, *high, *low_z, *high_z;  ///< (A), or all nullptr
  const float* noise;                        ///< (iterations or 1, S, H, A)

  float *mean, *std;
  float *z, *raw, *energies;
  float *kept_z, *kept_energies;
  std::uint32_t* order;  ///< (elites)
  double* weights;       ///< (elites)
  double* deviations;    ///< (H, A), squared
  float *actions, *best_actions, *spread, *iteration_energies;
  SearchState* state;
};

__device__ inline bool is_finite(float value) { return value - value == 0.0F; }

/// As std::clamp: what is not a number stays.
__device__ inline float clamped(float value, float low, float high) {
  return value < low ? low : high < value ? high : value;
}

__device__ inline float clamped_z(const SearchView& v, float value, std::uint32_t i) {
  return v.low == nullptr ? value : clamped(value, v.low_z[i % v.dim], v.high_z[i % v.dim]);
}

}  // namespace jepa_edge::cuda
