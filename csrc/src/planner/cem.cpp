// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "search.hpp"

namespace jepa_edge {

void Planner::Search::refit_cem() noexcept {
  const double old = *settings.momentum;
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] = static_cast<float>(old * static_cast<double>(mean[i]) + (1.0 - old) * elite_mean[i]);
    std[i] = static_cast<float>(old * static_cast<double>(std[i]) + (1.0 - old) * elite_std[i]);
  }
}

}  // namespace jepa_edge
