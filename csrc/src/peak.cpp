// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/peak.hpp"

#include <time.h>

#include <algorithm>
#include <cstddef>

#include "kernels/dispatch.hpp"

namespace jepa_edge {
namespace {

double thread_seconds() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

double measure_peak(Precision precision, std::string_view isa) {
  constexpr int kRuns = 15;
  constexpr std::size_t kRounds = 300'000;
  const kernels::Kernels& table = kernels::require(isa);
  double best = 0.0;
  for (int run = 0; run < kRuns; ++run) {
    const double start = thread_seconds();
    const double operations = table.spin[static_cast<std::size_t>(precision)](kRounds);
    best = std::max(best, 1e-9 * operations / (thread_seconds() - start));
  }
  return best;
}

}  // namespace jepa_edge
