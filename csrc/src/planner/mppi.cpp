// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "search.hpp"

namespace jepa_edge {

/// The mean becomes the elites' softmax average; the standard deviation stays.
void Planner::Search::refit_mppi() noexcept {
  std::fill(elite_mean.begin(), elite_mean.end(), 0.0);
  const auto least = static_cast<double>(energies[order[0]]);
  double total = 0.0;
  for (std::size_t k = 0; k < chosen; ++k) {
    const auto energy = static_cast<double>(energies[order[k]]);
    const double weight = std::exp((least - energy) / settings.temperature);
    total += weight;
    const float* candidate = z.data() + order[k] * size;
    for (std::size_t i = 0; i < size; ++i) {
      elite_mean[i] += weight * static_cast<double>(candidate[i]);
    }
  }
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] = static_cast<float>(elite_mean[i] / total);
  }
}

}  // namespace jepa_edge
