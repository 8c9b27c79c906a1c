// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/gaussian.hpp"

#include <array>
#include <cmath>
#include <limits>

namespace jepa_edge {
namespace {

using Capacitance = std::array<std::array<double, kMaxRank>, kMaxRank>;

/// Returns b^T M^-1 b for a symmetric positive definite M (R, R), by Cholesky; NaN if it is not.
double inverse_quadratic_form(Capacitance& m, std::array<double, kMaxRank>& b,
                              std::size_t rank) noexcept {
  double form = 0.0;
  for (std::size_t i = 0; i < rank; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double entry = m[i][j];
      for (std::size_t k = 0; k < j; ++k) {
        entry -= m[i][k] * m[j][k];
      }
      if (i == j) {
        if (!(entry > 0.0)) {
          return std::numeric_limits<double>::quiet_NaN();
        }
        m[i][i] = std::sqrt(entry);
      } else {
        m[i][j] = entry / m[j][j];
      }
    }
    for (std::size_t k = 0; k < i; ++k) {
      b[i] -= m[i][k] * b[k];
    }
    b[i] /= m[i][i];
    form += b[i] * b[i];
  }
  return form;
}

}  // namespace

void innovation_energy(const LowRankGaussians& gaussians, std::span<const float> residual,
                       std::span<float> out) noexcept {
  const auto [variance, factor, batch, dim, rank] = gaussians;
  for (std::size_t b = 0; b < batch; ++b) {
    const auto v = variance.subspan(b * dim, dim);
    const auto r = residual.subspan(b * dim, dim);
    const auto f = factor.subspan(b * dim * rank, dim * rank);
    // Woodbury: r^T Sigma^-1 r = r^T V^-1 r - (F^T V^-1 r)^T (I + F^T V^-1 F)^-1 (F^T V^-1 r).
    Capacitance capacitance{};
    std::array<double, kMaxRank> projected{};
    double form = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
      const double precision = 1.0 / static_cast<double>(v[d]);
      const double weighted = static_cast<double>(r[d]) * precision;
      form += static_cast<double>(r[d]) * weighted;
      for (std::size_t i = 0; i < rank; ++i) {
        const double f_i = static_cast<double>(f[d * rank + i]);
        projected[i] += f_i * weighted;
        for (std::size_t j = 0; j <= i; ++j) {
          capacitance[i][j] += f_i * precision * static_cast<double>(f[d * rank + j]);
        }
      }
    }
    for (std::size_t i = 0; i < rank; ++i) {
      capacitance[i][i] += 1.0;
    }
    form -= inverse_quadratic_form(capacitance, projected, rank);
    out[b] = static_cast<float>(form / static_cast<double>(dim));
  }
}

void sample(const LowRankGaussians& gaussians, std::span<const float> z,
            std::span<float> out) noexcept {
  const auto [variance, factor, batch, dim, rank] = gaussians;
  for (std::size_t b = 0; b < batch; ++b) {
    const auto z_b = z.subspan(b * (dim + rank), dim + rank);
    for (std::size_t d = 0; d < dim; ++d) {
      float value = std::sqrt(variance[b * dim + d]) * z_b[d];
      for (std::size_t i = 0; i < rank; ++i) {
        value += factor[(b * dim + d) * rank + i] * z_b[dim + i];
      }
      out[b * dim + d] = value;
    }
  }
}

}  // namespace jepa_edge
