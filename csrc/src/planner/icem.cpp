// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "search.hpp"

namespace jepa_edge {

std::vector<double> coloring_matrix(std::size_t horizon, double beta) {
  if (horizon < 2) {
    return {};
  }
  const auto length = static_cast<double>(horizon);
  std::vector<double> scale(horizon / 2 + 1);
  for (std::size_t k = 1; k < scale.size(); ++k) {
    scale[k] = std::pow(static_cast<double>(k) / length, -beta / 2.0);
  }
  scale[0] = scale[1];  // the constant part counts as the lowest frequency
  // irfft(rfft(x) * scale) is a circular convolution with the spectrum's inverse transform.
  std::vector<double> kernel(horizon);
  for (std::size_t lag = 0; lag < horizon; ++lag) {
    for (std::size_t k = 0; k < horizon; ++k) {
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(k * lag % horizon) / length;
      kernel[lag] += scale[std::min(k, horizon - k)] * std::cos(angle) / length;
    }
  }
  std::vector<double> matrix(horizon * horizon);
  for (std::size_t to = 0; to < horizon; ++to) {
    for (std::size_t from = 0; from < horizon; ++from) {
      matrix[to * horizon + from] = kernel[(to + horizon - from) % horizon];
    }
  }
  return matrix;
}

/// Turns white noise, laid out (S, A, H), into coloured noise, laid out (S, H, A).
void Planner::Search::color(std::span<float> out) noexcept {
  const std::size_t steps = settings.horizon;
  const std::size_t dim = settings.action_dim;
  const auto count = static_cast<double>(steps);
  for (std::size_t begin = 0; begin < out.size(); begin += size) {
    float* white = out.data() + begin;
    for (std::size_t a = 0; a < dim; ++a) {
      double total = 0.0;
      for (std::size_t to = 0; to < steps; ++to) {
        double value = 0.0;
        for (std::size_t from = 0; from < steps; ++from) {
          value += coloring[to * steps + from] * static_cast<double>(white[a * steps + from]);
        }
        row[to] = value;
        total += value;
      }
      double squares = 0.0;
      for (std::size_t to = 0; to < steps; ++to) {
        squares += (row[to] - total / count) * (row[to] - total / count);
      }
      const double deviation = std::max(std::sqrt(squares / (count - 1.0)), 1e-8);
      for (std::size_t to = 0; to < steps; ++to) {
        transposed[to * dim + a] = static_cast<float>(row[to] / deviation);
      }
    }
    std::copy(transposed.begin(), transposed.end(), white);
  }
}

void Planner::Search::keep_elites() noexcept {
  for (std::size_t k = 0; k < settings.keep_elites; ++k) {
    std::copy_n(z.data() + order[k] * size, size, kept_z.data() + k * size);
    kept_energies[k] = energies[order[k]];
  }
}

void Planner::Search::restore_elites(std::size_t count) noexcept {
  std::copy_n(kept_z.data(), count * size, z.data());
  std::copy_n(kept_energies.data(), count, energies.data());
}

void Planner::Search::refit_icem() noexcept {
  refit_cem();
  keep_elites();
}

}  // namespace jepa_edge
