// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/peak.hpp"

#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "arena.hpp"
#include "kernels/dispatch.hpp"
#include "packed.hpp"
#include "pass.hpp"

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

double measure_product(Precision precision, std::size_t rows, std::size_t inputs,
                       std::size_t outputs, std::string_view isa) {
  constexpr int kRuns = 30;
  const kernels::Kernels& table = kernels::require(isa);
  Arena arena;
  const std::vector<float> weight(inputs * outputs, 0.5F);
  const PackedLinear layer =
      pack_linear(arena, table, precision, {weight.data(), inputs, outputs, inputs}, nullptr);
  const std::size_t stride = padded(table, inputs);
  auto* x = arena.take<float>(rows * stride);
  const kernels::Packing packing{arena.take<std::uint32_t>(rows * stride), 0,
                                 arena.take<float>(rows), arena.take<float>(rows)};
  const auto left =
      operand(table, precision, x, stride, rows, inputs, kernels::Activation::kNone, packing);
  auto* out = arena.take<float>(rows * padded(table, outputs));
  double best = std::numeric_limits<double>::infinity();
  for (int run = 0; run < kRuns; ++run) {
    const double start = thread_seconds();
    apply(table, layer, left, rows, out, padded(table, outputs));
    best = std::min(best, 1e3 * (thread_seconds() - start));
  }
  return best;
}

}  // namespace jepa_edge
