// SPDX-License-Identifier: Apache-2.0
// Energies of futures: the terms are ObjectiveSettings', one block judges one candidate.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jepa_edge/objective.hpp"
#include "search.cuh"

namespace jepa_edge::cuda {

inline constexpr unsigned kMostEnergyThreads = 256;

struct EnergyView {
  ObjectiveSettings settings;
  LatentShape shape;
  ComparedPart part;
  std::uint32_t worst;        ///< futures that CVaR counts
  const float* radius;        ///< (H)
  const float* world_mean;    ///< (C)
  const float* world_whiten;  ///< (C, C)
  const float* goals;         ///< (goal_count, N, D)
  const std::uint32_t* goal_count;
  float* scratch;  ///< (S, 2 * M + C)
};

/// Sums over the threads of a block, always in the same order; all are told.
class BlockSum {
 public:
  static constexpr unsigned kGroups = 16;
  static constexpr unsigned kRoom = kMostEnergyThreads + kGroups;

  __device__ explicit BlockSum(double* room) : room_(room) {}

  __device__ double operator()(double value) const {
    room_[threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.x < kGroups) {
      double sum = 0.0;
      for (unsigned i = threadIdx.x; i < blockDim.x; i += kGroups) {
        sum += room_[i];
      }
      room_[kMostEnergyThreads + threadIdx.x] = sum;
    }
    __syncthreads();
    double total = 0.0;
    for (unsigned group = 0; group < kGroups; ++group) {
      total += room_[kMostEnergyThreads + group];
    }
    return total;
  }

 private:
  double* room_;  ///< shared memory, (kRoom)
};

/// Adds not-a-number where what energies leave out of a latent is not finite.
__device__ inline double rest_of(const EnergyView& v, const float* latent) {
  const std::size_t behind = v.shape.dim - v.settings.energy_dim;
  const std::size_t seen = v.settings.energy_tokens * v.shape.dim;
  double sum = 0.0;
  for (std::size_t i = threadIdx.x; i < behind * v.settings.energy_tokens; i += blockDim.x) {
    const float value = latent[i / behind * v.shape.dim + v.settings.energy_dim + i % behind];
    sum += static_cast<double>(value - value);
  }
  for (std::size_t i = seen + threadIdx.x; i < v.shape.tokens * v.shape.dim; i += blockDim.x) {
    sum += static_cast<double>(latent[i] - latent[i]);
  }
  return sum;
}

/// Distance of a latent (N * D) to the nearest goal; not a number where that is not known.
__device__ inline double nearest_goal(const EnergyView& v, const float* latent,
                                      const BlockSum& sum) {
  const std::uint32_t goals = *v.goal_count;
  double least = HUGE_VAL;
  bool ordered = true;
  for (std::uint32_t g = 0; g < goals; ++g) {
    const float* goal = v.goals + g * v.shape.tokens * v.shape.dim;
    double own = g == 0 ? rest_of(v, latent) : 0.0;
    for (std::size_t run = 0; run < v.part.runs; ++run) {
      for (std::size_t i = threadIdx.x; i < v.part.length; i += blockDim.x) {
        const std::size_t place = run * v.part.stride + i;
        const double apart = static_cast<double>(latent[place]) - static_cast<double>(goal[place]);
        own += v.settings.distance == Distance::kSquares ? apart * apart : fabs(apart);
      }
    }
    double distance = sum(own);
    if (v.settings.distance == Distance::kAbsolute) {
      distance /= static_cast<double>(v.part.runs * v.part.length);
    }
    ordered = ordered && distance == distance;
    least = distance < least ? distance : least;
  }
  return ordered ? least : static_cast<double>(NAN);
}

/// Variance over the futures at step h, mean over the numbers that count.
__device__ inline double spread_at(const EnergyView& v, const float* futures, std::size_t h,
                                   const BlockSum& sum) {
  const std::size_t latent = v.shape.tokens * v.shape.dim;
  const std::size_t stride = v.shape.horizon * latent;
  const auto count = static_cast<double>(v.shape.samples);
  double own = 0.0;
  for (std::size_t run = 0; run < v.part.runs; ++run) {
    for (std::size_t i = threadIdx.x; i < v.part.length; i += blockDim.x) {
      const float* first = futures + h * latent + run * v.part.stride + i;
      double mean = 0.0;
      for (std::size_t m = 0; m < v.shape.samples; ++m) {
        mean += static_cast<double>(first[m * stride]) / count;
      }
      for (std::size_t m = 0; m < v.shape.samples; ++m) {
        const double apart = static_cast<double>(first[m * stride]) - mean;
        own += apart * apart;
      }
    }
  }
  return sum(own) / ((count - 1.0) * static_cast<double>(v.part.runs * v.part.length));
}

/// One number for the energies of the futures; the result is thread 0's. sorted: (M) scratch.
__device__ inline double risk_over(const EnergyView& v, const float* energies, float* sorted,
                                   const BlockSum& sum) {
  const auto samples = static_cast<std::uint32_t>(v.shape.samples);
  std::uint32_t counted = samples;
  if (v.settings.risk == Risk::kCvar) {
    double unordered = 0.0;
    for (std::uint32_t m = threadIdx.x; m < samples; m += blockDim.x) {
      const float energy = energies[m];
      unordered += energy == energy ? 0.0 : 1.0;
      std::uint32_t rank = 0;
      for (std::uint32_t other = 0; other < samples; ++other) {
        rank += energies[other] > energy || (energies[other] == energy && other < m) ? 1U : 0U;
      }
      sorted[rank] = energy;
    }
    if (sum(unordered) > 0.0) {
      return static_cast<double>(NAN);
    }
    energies = sorted;
    counted = v.worst;
  }
  if (threadIdx.x != 0) {
    return 0.0;
  }
  double mean = 0.0;
  for (std::uint32_t m = 0; m < counted; ++m) {
    mean += static_cast<double>(energies[m]);
  }
  mean /= static_cast<double>(counted);
  if (v.settings.risk != Risk::kMeanPlusStd || counted < 2) {
    return mean;
  }
  double squares = 0.0;
  for (std::uint32_t m = 0; m < counted; ++m) {
    const double apart = static_cast<double>(energies[m]) - mean;
    squares += apart * apart;
  }
  return mean + v.settings.kappa * sqrt(squares / (static_cast<double>(counted) - 1.0));
}

/// Squared whitened distance per dimension from what was recorded, mean over futures and steps.
/// centred: (C) scratch.
__device__ inline double world_energy(const EnergyView& v, const float* futures,
                                      std::size_t trusted, float* centred, const BlockSum& sum) {
  const std::size_t latent = v.shape.tokens * v.shape.dim;
  const std::size_t dim = v.settings.energy_dim;
  const float share = 1.0F / static_cast<float>(v.settings.energy_tokens);
  const std::size_t rows = v.shape.samples * trusted;
  double own = 0.0;
  for (std::size_t row = 0; row < rows; ++row) {
    const float* at = futures + (row / trusted * v.shape.horizon + row % trusted) * latent;
    for (std::size_t d = threadIdx.x; d < dim; d += blockDim.x) {
      float total = 0.0F;
      for (std::size_t n = 0; n < v.settings.energy_tokens; ++n) {
        total += at[n * v.shape.dim + d];
      }
      centred[d] = total * share - v.world_mean[d];
    }
    __syncthreads();
    for (std::size_t column = threadIdx.x; column < dim; column += blockDim.x) {
      float white = 0.0F;
      for (std::size_t d = 0; d < dim; ++d) {
        white += centred[d] * v.world_whiten[d * dim + column];
      }
      own += static_cast<double>(white) * static_cast<double>(white);
    }
    __syncthreads();
  }
  return sum(own) / static_cast<double>(rows * dim);
}

/// latents (S, M, H, N, D), energies (S). One block per candidate. The marks are Evaluator's.
[[maybe_unused]] static __global__ void judge_candidates(EnergyView v, const float* latents,
                                                         float* energies) {
  __shared__ double room[BlockSum::kRoom];
  const BlockSum sum(room);
  const std::size_t latent = v.shape.tokens * v.shape.dim;
  const std::size_t samples = v.shape.samples;
  const float* futures = latents + blockIdx.x * samples * v.shape.horizon * latent;
  float* scratch = v.scratch + blockIdx.x * (2 * samples + v.settings.energy_dim);
  std::size_t trusted = v.shape.horizon;
  double total = 0.0;
  if (v.settings.trust_horizon || v.settings.spread_weight > 0.0) {
    double discount = 1.0;
    for (std::size_t h = 0; h < v.shape.horizon; ++h) {
      const double excess = spread_at(v, futures, h, sum) - static_cast<double>(v.radius[h]);
      discount *= v.settings.spread_discount;
      if (excess != excess) {
        if (threadIdx.x == 0) {
          energies[blockIdx.x] = NAN;
        }
        return;
      }
      if (excess > 0.0) {
        trusted = h < trusted ? h : trusted;
        total +=
            v.settings.spread_weight > 0.0 ? v.settings.spread_weight * discount * excess : 0.0;
      }
    }
    if (!v.settings.trust_horizon) {
      trusted = v.shape.horizon;
    } else if (trusted == 0) {
      if (threadIdx.x == 0) {
        energies[blockIdx.x] = static_cast<float>(HUGE_VAL);
      }
      return;
    }
  }
  const std::size_t steps = v.settings.goal_steps < trusted ? v.settings.goal_steps : trusted;
  for (std::size_t m = 0; m < samples; ++m) {
    double distance = 0.0;
    for (std::size_t h = trusted - steps; h < trusted; ++h) {
      distance += nearest_goal(v, futures + (m * v.shape.horizon + h) * latent, sum);
    }
    if (threadIdx.x == 0) {
      scratch[m] = static_cast<float>(distance / static_cast<double>(steps));
    }
  }
  __syncthreads();
  total += risk_over(v, scratch, scratch + samples, sum);
  if (v.settings.world_weight > 0.0) {
    total +=
        v.settings.world_weight * world_energy(v, futures, trusted, scratch + 2 * samples, sum);
  }
  if (threadIdx.x == 0) {
    const auto energy = static_cast<float>(total);
    energies[blockIdx.x] = is_finite(energy) ? energy : NAN;
  }
}

}  // namespace jepa_edge::cuda
