// SPDX-License-Identifier: Apache-2.0
#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "jepa_edge/random.hpp"

namespace jepa_edge {

Planner::Search::Search(PlannerSettings given)
    : settings(checked(std::move(given))),
      size(settings.horizon * settings.action_dim),
      mean(size),
      std(size),
      z(settings.candidates * size),
      raw(settings.candidates * size),
      energies(settings.candidates),
      order(settings.candidates),
      elite_mean(size),
      elite_std(size),
      noise_is_stored(settings.iterations * settings.candidates * size * sizeof(float) <=
                      kStoredNoise),
      best_actions(size),
      actions(size),
      iteration_energies(settings.iterations),
      spread(settings.horizon) {
  for (std::size_t a = 0; a < settings.low.size(); ++a) {
    low_z.push_back((settings.low[a] - settings.action_mean[a]) / settings.action_std[a]);
    high_z.push_back((settings.high[a] - settings.action_mean[a]) / settings.action_std[a]);
  }
  if (settings.method == Method::kIcem) {
    kept_z.resize(settings.keep_elites * size);
    kept_energies.resize(settings.keep_elites);
    coloring = coloring_matrix(settings.horizon, settings.noise_beta);
    row.resize(settings.horizon);
    transposed.resize(size);
  }
  const std::size_t all = settings.candidates * size;
  noise.resize(noise_is_stored ? settings.iterations * all : all);
  if (noise_is_stored) {
    for (std::size_t i = 0; i < settings.iterations; ++i) {
      draw_noise(i, std::span(noise).subspan(i * all, population(settings, i) * size));
    }
  }
}

void Planner::Search::draw_noise(std::size_t iteration, std::span<float> out) noexcept {
  standard_normal(settings.seed, iteration, out);
  if (!coloring.empty()) {
    color(out);
  }
}

void Planner::Search::reset(std::span<const float> initial) noexcept {
  const std::size_t dim = settings.action_dim;
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] = initial.empty()
                  ? 0.0F
                  : (initial[i] - settings.action_mean[i % dim]) / settings.action_std[i % dim];
  }
  std::fill(std.begin(), std.end(), static_cast<float>(settings.init_std));
  std::fill(spread.begin(), spread.end(), static_cast<float>(settings.init_std));
  clamp_z(mean.data());
  to_raw(mean.data(), best_actions.data());
}

std::size_t population(const PlannerSettings& settings, std::size_t iteration) noexcept {
  if (settings.method != Method::kIcem) {
    return settings.candidates;
  }
  const double shrunk = static_cast<double>(settings.candidates) *
                        std::pow(settings.population_decay, -static_cast<double>(iteration));
  return std::min(settings.candidates,
                  std::max(static_cast<std::size_t>(shrunk), 2 * settings.elites));
}

std::size_t Planner::Search::kept(std::size_t iteration) const noexcept {
  return settings.method == Method::kIcem && iteration > 0 ? settings.keep_elites : 0;
}

void Planner::Search::clamp_z(float* values) const noexcept {
  if (!low_z.empty()) {
    const std::size_t dim = settings.action_dim;
    for (std::size_t h = 0; h < settings.horizon; ++h) {
      for (std::size_t a = 0; a < dim; ++a) {
        values[h * dim + a] = std::clamp(values[h * dim + a], low_z[a], high_z[a]);
      }
    }
  }
}

void Planner::Search::to_raw(const float* from, float* to) const noexcept {
  const std::size_t dim = settings.action_dim;
  for (std::size_t h = 0; h < settings.horizon; ++h, from += dim, to += dim) {
    for (std::size_t a = 0; a < dim; ++a) {
      to[a] = settings.action_mean[a] + settings.action_std[a] * from[a];
    }
    for (std::size_t a = 0; a < settings.low.size(); ++a) {
      to[a] = std::clamp(to[a], settings.low[a], settings.high[a]);
    }
  }
}

void Planner::Search::draw(std::size_t iteration) noexcept {
  const std::size_t count = population(settings, iteration);
  const std::size_t first = kept(iteration);
  if (first > 0) {
    restore_elites(first);
  }
  std::span<const float> drawn;
  if (noise_is_stored) {
    drawn = std::span(noise).subspan(iteration * settings.candidates * size, count * size);
  } else {
    const auto room = std::span(noise).first(count * size);
    draw_noise(iteration, room);
    drawn = room;
  }
  std::copy(mean.begin(), mean.end(), z.data() + first * size);
  for (std::size_t s = first + 1; s < count; ++s) {
    for (std::size_t i = 0; i < size; ++i) {
      z[s * size + i] = mean[i] + std[i] * drawn[s * size + i];
    }
  }
  for (std::size_t s = 0; s < count; ++s) {
    clamp_z(z.data() + s * size);
    to_raw(z.data() + s * size, raw.data() + s * size);
  }
}

std::size_t Planner::Search::select(std::size_t candidates) noexcept {
  std::size_t finite = 0;
  for (std::size_t s = 0; s < candidates; ++s) {
    if (std::isfinite(energies[s])) {
      order[finite++] = static_cast<std::uint32_t>(s);
    }
  }
  chosen = std::min(settings.elites, finite);
  const auto better = [this](std::uint32_t a, std::uint32_t b) noexcept {
    return energies[a] < energies[b] || (energies[a] == energies[b] && a < b);
  };
  const auto begin = order.begin();
  const auto middle = begin + static_cast<std::ptrdiff_t>(chosen);
  std::nth_element(begin, middle, begin + static_cast<std::ptrdiff_t>(finite), better);
  std::sort(begin, middle, better);
  return finite;
}

void Planner::Search::summarize() noexcept {
  std::fill(elite_mean.begin(), elite_mean.end(), 0.0);
  std::fill(elite_std.begin(), elite_std.end(), 0.0);
  const auto count = static_cast<double>(chosen);
  for (std::size_t k = 0; k < chosen; ++k) {
    const float* candidate = z.data() + order[k] * size;
    for (std::size_t i = 0; i < size; ++i) {
      elite_mean[i] += static_cast<double>(candidate[i]) / count;
    }
  }
  for (std::size_t k = 0; k < chosen; ++k) {
    const float* candidate = z.data() + order[k] * size;
    for (std::size_t i = 0; i < size; ++i) {
      const double apart = static_cast<double>(candidate[i]) - elite_mean[i];
      elite_std[i] += apart * apart;
    }
  }
  for (std::size_t h = 0; h < settings.horizon; ++h) {
    double squares = 0.0;
    for (std::size_t a = 0; a < settings.action_dim; ++a) {
      double& entry = elite_std[h * settings.action_dim + a];
      entry = chosen > 1 ? entry / (count - 1.0) : 0.0;
      squares += entry;
      entry = std::sqrt(entry);
    }
    spread[h] = static_cast<float>(std::sqrt(squares / static_cast<double>(settings.action_dim)));
  }
}

void Planner::Search::refit() noexcept {
  switch (settings.method) {
    case Method::kCem:
      return refit_cem();
    case Method::kIcem:
      return refit_icem();
    case Method::kMppi:
      return refit_mppi();
  }
}

}  // namespace jepa_edge
