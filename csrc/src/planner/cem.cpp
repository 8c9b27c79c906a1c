// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "search.hpp"

namespace jepa_edge {

void Planner::Search::refit_cem() noexcept {
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] = static_cast<float>(elite_mean[i]);
    std[i] = static_cast<float>(elite_std[i]);
  }
}

}  // namespace jepa_edge
