// SPDX-License-Identifier: Apache-2.0
// Which candidates are the elites, and what they make of the distribution. Sums are in double and
// in the CPU core's order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "random.cuh"
#include "search.cuh"

namespace jepa_edge::cuda {

inline constexpr unsigned kRankThreads = 64;
inline constexpr unsigned kRefitThreads = 256;

/// Ranks `count` candidates by counting the better ones; ties go to the lower index. Writes the
/// elites in order, and how many energies are what. known: energies kept from before, not counted.
/// One thread per candidate.
[[maybe_unused]] static __global__ void rank_candidates(SearchView v, std::uint32_t count,
                                                        std::uint32_t known) {
  const std::uint32_t own = blockIdx.x * blockDim.x + threadIdx.x;
  SearchState& state = *v.state;
  if (own >= count || state.status != PlanStatus::kOk) {
    return;
  }
  const float energy = v.energies[own];
  std::uint32_t rank = 0;
  std::uint32_t finite = 0;
  std::uint32_t refused = 0;
  std::uint32_t diverged = 0;
  for (std::uint32_t other = 0; other < count; ++other) {
    const float value = v.energies[other];
    if (is_finite(value)) {
      ++finite;
      rank += value < energy || (value == energy && other < own) ? 1U : 0U;
    } else if (other >= known) {
      const bool is_refused = value > 0.0F;
      refused += is_refused ? 1U : 0U;
      diverged += is_refused ? 0U : 1U;
    }
  }
  if (is_finite(energy) && rank < v.elites) {
    v.order[rank] = own;
  }
  if (own == 0) {
    state.finite = finite;
    state.refused_now = refused;
    state.diverged_now = diverged;
  }
}

/// Mean and standard deviation of column i over the elites; moves CEM's and iCEM's distribution.
__device__ inline void refit_column(const SearchView& v, std::uint32_t i, std::uint32_t chosen) {
  const auto count = static_cast<double>(chosen);
  double mean = 0.0;
  for (std::uint32_t k = 0; k < chosen; ++k) {
    mean += static_cast<double>(v.z[std::size_t{v.order[k]} * v.size + i]) / count;
  }
  double squares = 0.0;
  for (std::uint32_t k = 0; k < chosen; ++k) {
    const double apart = static_cast<double>(v.z[std::size_t{v.order[k]} * v.size + i]) - mean;
    squares = plus_product(squares, apart, apart);
  }
  const double variance = chosen > 1 ? squares / (count - 1.0) : 0.0;
  v.deviations[i] = variance;
  if (v.method != Method::kMppi) {
    const double old = v.momentum;
    v.mean[i] =
        static_cast<float>(plus_product(old * static_cast<double>(v.mean[i]), 1.0 - old, mean));
    v.std[i] = static_cast<float>(
        plus_product(old * static_cast<double>(v.std[i]), 1.0 - old, sqrt(variance)));
  }
}

/// MPPI: column i of the mean becomes the elites' average by their weights.
__device__ inline void average_column(const SearchView& v, std::uint32_t i, std::uint32_t chosen) {
  double sum = 0.0;
  double total = 0.0;
  for (std::uint32_t k = 0; k < chosen; ++k) {
    const double weight = v.weights[k];
    total += weight;
    sum = plus_product(sum, weight, static_cast<double>(v.z[std::size_t{v.order[k]} * v.size + i]));
  }
  v.mean[i] = static_cast<float>(sum / total);
}

/// Ends an iteration: its counts, the best candidate, the new distribution. One block.
[[maybe_unused]] static __global__ void refit_distribution(SearchView v, std::uint32_t count,
                                                           std::uint32_t known) {
  SearchState& state = *v.state;
  const bool first = threadIdx.x == 0;
  const PlanStatus before = state.status;
  const bool bad_action = state.bad_action != 0;
  const std::uint32_t finite = state.finite;
  const std::uint32_t chosen = finite < v.elites ? finite : v.elites;
  const float best = state.best_energy;
  const std::uint32_t iteration = state.iteration;
  __syncthreads();  // the state is written below
  if (before != PlanStatus::kOk) {
    return;
  }
  if (bad_action) {
    if (first) {
      state.status = PlanStatus::kEvaluatorFailed;
      state.evaluator = Status::kNonFiniteInput;
    }
    return;
  }
  const bool improves = finite > 0 && v.energies[v.order[0]] < best;
  if (improves) {
    for (std::uint32_t i = threadIdx.x; i < v.size; i += blockDim.x) {
      v.best_actions[i] = v.raw[std::size_t{v.order[0]} * v.size + i];
    }
  }
  if (first) {
    state.evaluated += count - known;
    state.diverged += state.diverged_now;
    state.refused += state.refused_now;
    if (improves) {
      state.best_energy = v.energies[v.order[0]];
    }
    if (finite < v.wanted) {
      state.status = finite == 0 && state.refused_now > 0 ? PlanStatus::kNoTrustedCandidate
                                                          : PlanStatus::kTooFewFinite;
    }
  }
  if (finite < v.wanted) {
    return;
  }
  if (first) {
    double total = 0.0;
    for (std::uint32_t k = 0; k < chosen; ++k) {
      total += static_cast<double>(v.energies[v.order[k]]);
    }
    v.iteration_energies[iteration] = static_cast<float>(total / static_cast<double>(chosen));
    state.iteration = iteration + 1;
  }
  for (std::uint32_t i = threadIdx.x; i < v.size; i += blockDim.x) {
    refit_column(v, i, chosen);
  }
  if (v.method == Method::kMppi) {
    const auto least = static_cast<double>(v.energies[v.order[0]]);
    for (std::uint32_t k = threadIdx.x; k < chosen; k += blockDim.x) {
      v.weights[k] = exp((least - static_cast<double>(v.energies[v.order[k]])) / v.temperature);
    }
  }
  for (std::uint32_t place = threadIdx.x; place < v.keep * v.size; place += blockDim.x) {
    const std::uint32_t elite = v.order[place / v.size];
    v.kept_z[place] = v.z[std::size_t{elite} * v.size + place % v.size];
    if (place % v.size == 0) {
      v.kept_energies[place / v.size] = v.energies[elite];
    }
  }
  __syncthreads();
  for (std::uint32_t h = threadIdx.x; h < v.horizon; h += blockDim.x) {
    double squares = 0.0;
    for (std::uint32_t a = 0; a < v.dim; ++a) {
      squares += v.deviations[h * v.dim + a];
    }
    v.spread[h] = static_cast<float>(sqrt(squares / static_cast<double>(v.dim)));
  }
  if (v.method == Method::kMppi) {
    for (std::uint32_t i = threadIdx.x; i < v.size; i += blockDim.x) {
      average_column(v, i, chosen);
    }
  }
}

}  // namespace jepa_edge::cuda
