// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

namespace jepa_edge {

/// A batch of zero-mean Gaussians whose covariance is diagonal plus low rank:
/// Sigma = diag(variance) + factor factor^T.
/// variance (B, D) positive, factor (B, D, R) row-major. Rank R is at most kMaxRank.
struct LowRankGaussians {
  std::span<const float> variance;
  std::span<const float> factor;
  std::size_t batch;
  std::size_t dim;
  std::size_t rank;
};

inline constexpr std::size_t kMaxRank = 16;

/// Normalised innovation squared, out[b] = r_b^T Sigma_b^-1 r_b / D, through the Woodbury identity
/// in float64. residual (B, D), out (B). A residual or covariance that is not finite gives NaN.
/// Source: Bar-Shalom et al., "Estimation with Applications to Tracking and Navigation", 5.4.
/// No allocation, no throw: safe in a control loop.
void innovation_energy(const LowRankGaussians& gaussians, std::span<const float> residual,
                       std::span<float> out) noexcept;

/// Draws out[b] = sqrt(variance_b) * z_b[:D] + factor_b z_b[D:]. z (B, D + R), out (B, D).
/// No allocation, no throw.
void sample(const LowRankGaussians& gaussians, std::span<const float> z,
            std::span<float> out) noexcept;

}  // namespace jepa_edge
