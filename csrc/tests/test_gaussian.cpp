// SPDX-License-Identifier: Apache-2.0
// Against float64 algebra and statistics: tests/test_core.py. Here: closed forms at the edges of
// the sizes, for the sanitizers and for other processors.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "jepa_edge/gaussian.hpp"
#include "support/allocation_counter.hpp"

using jepa_edge::kMaxRank;
using jepa_edge::LowRankGaussians;

TEST_CASE("without a factor the energy is a weighted square") {
  const std::array variance{1.0F, 4.0F, 0.25F, 1.0F, 1.0F, 1.0F};
  const std::array residual{1.0F, 2.0F, 1.0F, 3.0F, 0.0F, 0.0F};
  std::array<float, 2> energy{};
  jepa_edge::innovation_energy({variance, {}, 2, 3, 0}, residual, energy);
  CHECK(energy[0] == 2.0F);
  CHECK(energy[1] == 3.0F);
}

TEST_CASE("factors on the axes widen exactly those axes, up to the highest rank") {
  // Sigma = I + diag(3, 3, ...) on the first kMaxRank of kMaxRank + 1 axes.
  constexpr std::size_t kDim = kMaxRank + 1;
  const std::vector<float> variance(kDim, 1.0F);
  std::vector<float> factor(kDim * kMaxRank, 0.0F);
  for (std::size_t i = 0; i < kMaxRank; ++i) {
    factor[i * kMaxRank + i] = std::sqrt(3.0F);
  }
  const std::vector<float> residual(kDim, 2.0F);
  std::array<float, 1> energy{};
  const LowRankGaussians gaussians{variance, factor, 1, kDim, kMaxRank};
  jepa_edge::innovation_energy(gaussians, residual, energy);
  const double expected = (static_cast<double>(kMaxRank) * 1.0 + 4.0) / static_cast<double>(kDim);
  CHECK(static_cast<double>(energy[0]) == doctest::Approx(expected).epsilon(1e-6));
}

TEST_CASE("a sample is the factor's column when only that column's noise is set") {
  constexpr std::size_t kDim = 3;
  constexpr std::size_t kRank = 2;
  const std::array variance{4.0F, 9.0F, 16.0F};
  const std::array factor{1.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F};
  const LowRankGaussians gaussians{variance, factor, 1, kDim, kRank};
  std::array<float, kDim> out{};
  const auto column = [&](std::size_t which) {
    std::array<float, kDim + kRank> z{};
    z[which] = 1.0F;
    jepa_edge::sample(gaussians, z, out);
    return out;
  };
  CHECK(column(0) == std::array{2.0F, 0.0F, 0.0F});
  CHECK(column(2) == std::array{0.0F, 0.0F, 4.0F});
  CHECK(column(3) == std::array{1.0F, 3.0F, 5.0F});
  CHECK(column(4) == std::array{2.0F, 4.0F, 6.0F});
}

TEST_CASE("neither allocates") {
  const std::vector<float> variance(8, 1.0F);
  const std::vector<float> factor(8 * kMaxRank, 0.5F);
  const std::vector<float> z(8 + 2 * kMaxRank, 1.0F);
  std::vector<float> out(8);
  const LowRankGaussians gaussians{variance, factor, 2, 4, kMaxRank};
  const jepa_edge::testing::AllocationCounter counter;
  jepa_edge::sample(gaussians, z, out);
  jepa_edge::innovation_energy(gaussians, variance, std::span(out).first(2));
  const std::size_t allocations = counter.count();
  CHECK(allocations == 0);
}
