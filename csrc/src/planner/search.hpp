// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "jepa_edge/planner.hpp"

namespace jepa_edge {

/// The settings, or std::invalid_argument where they contradict one another.
[[nodiscard]] PlannerSettings checked(PlannerSettings settings);

/// Candidates of an iteration; those of iCEM decay.
[[nodiscard]] std::size_t population(const PlannerSettings& settings,
                                     std::size_t iteration) noexcept;

/// More bytes of noise than this are drawn anew in every plan.
inline constexpr std::size_t kStoredNoise = std::size_t{16} << 20U;

/// Everything a search reserves, and its steps. Rows are candidates of H * A numbers: elites kept
/// from the last iteration first, then the mean, then drawn ones.
struct Planner::Search {
  explicit Search(PlannerSettings given);

  PlannerSettings settings;
  std::size_t size;                  ///< H * A
  std::vector<float> low_z, high_z;  ///< (A), or empty

  std::vector<float> mean, std;      ///< (H, A) z-scored: the distribution
  std::vector<float> z, raw;         ///< (S, H, A)
  std::vector<float> energies;       ///< (S)
  std::vector<std::uint32_t> order;  ///< (S), the first `chosen` are the elites, best first
  std::size_t chosen = 0;
  std::vector<double> elite_mean, elite_std;  ///< (H, A)

  std::vector<float> kept_z, kept_energies;  ///< iCEM: (keep, H, A) and (keep)
  std::vector<double> coloring;              ///< iCEM: (H, H), empty where noise stays white
  std::vector<double> row;                   ///< iCEM: (H)
  std::vector<float> transposed;             ///< iCEM: (H, A)

  /// Noise depends on the seed alone, so it is drawn once, unless that takes too much memory.
  std::vector<float> noise;  ///< (iterations or 1, S, H, A)
  bool noise_is_stored;

  std::vector<float> best_actions, actions, iteration_energies, spread;

  void reset(std::span<const float> initial) noexcept;
  [[nodiscard]] std::size_t kept(std::size_t iteration) const noexcept;
  /// Fills rows of z and raw.
  void draw(std::size_t iteration) noexcept;
  /// Chooses the elites among the finite energies; returns how many are finite.
  std::size_t select(std::size_t candidates) noexcept;
  /// Mean and standard deviation (ddof 1) over the elites, z-scored.
  void summarize() noexcept;
  /// Moves the distribution towards the elites.
  void refit() noexcept;

  void to_raw(const float* from, float* to) const noexcept;
  void clamp_z(float* values) const noexcept;

  // One file each.
  void draw_noise(std::size_t iteration, std::span<float> out) noexcept;
  void refit_cem() noexcept;
  void refit_icem() noexcept;
  void keep_elites() noexcept;
  void restore_elites(std::size_t count) noexcept;
  void color(std::span<float> out) noexcept;
  void refit_mppi() noexcept;
};

/// The (H, H) map of white noise to noise of spectrum f^-beta, before rows are scaled to unit std.
/// Source: stable-worldmodel 0.1.1, solver/icem.py: irfft(rfft(white) * f^(-beta / 2)).
[[nodiscard]] std::vector<double> coloring_matrix(std::size_t horizon, double beta);

}  // namespace jepa_edge
