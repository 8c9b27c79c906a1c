// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/objective.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace jepa_edge {
namespace {

constexpr std::size_t kLanes = 8;  // independent sums, for the compiler to vectorize in this order

void require(bool holds, const std::string& message) {
  if (!holds) {
    throw std::invalid_argument(message);
  }
}

bool all_finite(std::span<const float> values) noexcept {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

double square(double value) noexcept { return value * value; }

/// Sum over pairs of numbers of a term of their difference.
template <typename Term>
double sum_apart(const float* a, const float* b, std::size_t count, Term term) noexcept {
  std::array<double, kLanes> sums{};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += term(static_cast<double>(a[i + lane]) - static_cast<double>(b[i + lane]));
    }
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) {
    sums[lane] += term(static_cast<double>(a[i]) - static_cast<double>(b[i]));
  }
  double total = 0.0;
  for (const double sum : sums) {
    total += sum;
  }
  return total;
}

// The whitening matrix is held in panels of kColumns columns and meets kRows latents at a time:
// their products stay in registers.
constexpr std::size_t kColumns = 8;
constexpr std::size_t kRows = 4;

/// (D, D) as (ceil(D / kColumns), D, kColumns), missing columns zero.
std::vector<float> paneled(const std::vector<float>& matrix, std::size_t dim) {
  const std::size_t panels = (dim + kColumns - 1) / kColumns;
  std::vector<float> result(panels * dim * kColumns);
  for (std::size_t row = 0; row < dim; ++row) {
    for (std::size_t column = 0; column < dim; ++column) {
      result[(column / kColumns * dim + row) * kColumns + column % kColumns] =
          matrix[row * dim + column];
    }
  }
  return result;
}

/// Mean over the first tokens of a latent (N, D), minus the recorded one (C), into every kRows-th
/// number of out.
void centre(const float* latent, std::size_t tokens, std::size_t stride,
            std::span<const float> mean, float* out) noexcept {
  const float share = 1.0F / static_cast<float>(tokens);
  for (std::size_t d = 0; d < mean.size(); ++d) {
    float total = 0.0F;
    for (std::size_t n = 0; n < tokens; ++n) {
      total += latent[n * stride + d];
    }
    out[d * kRows] = total * share - mean[d];
  }
}

/// Adds the squared norms of whitened latents. centred (D, kRows), panels as above.
double squared_norms(const float* centred, const std::vector<float>& panels,
                     std::size_t dim) noexcept {
  std::array<double, kRows> squares{};
  for (std::size_t panel = 0; panel < panels.size(); panel += dim * kColumns) {
    float white[kRows][kColumns] = {};
    for (std::size_t d = 0; d < dim; ++d) {
      const float* weights = panels.data() + panel + d * kColumns;
      for (std::size_t row = 0; row < kRows; ++row) {
        const float factor = centred[d * kRows + row];
        for (std::size_t column = 0; column < kColumns; ++column) {
          white[row][column] += factor * weights[column];
        }
      }
    }
    for (std::size_t row = 0; row < kRows; ++row) {
      for (const float value : white[row]) {
        squares[row] += square(static_cast<double>(value));
      }
    }
  }
  return squares[0] + squares[1] + squares[2] + squares[3];
}

}  // namespace

double risk_of(std::span<float> energies, const ObjectiveSettings& settings) noexcept {
  std::size_t counted = energies.size();
  if (settings.risk == Risk::kCvar) {
    // 0.1 * 30 is 3.0000000000000004 in double and must still count 3.
    const double worst = settings.alpha * static_cast<double>(energies.size());
    counted = std::clamp<std::size_t>(static_cast<std::size_t>(std::ceil(worst - 1e-9)), 1,
                                      energies.size());
    // An order needs comparable numbers.
    for (const float energy : energies) {
      if (std::isnan(energy)) {
        return std::numeric_limits<double>::quiet_NaN();
      }
    }
    std::partial_sort(energies.begin(), energies.begin() + static_cast<std::ptrdiff_t>(counted),
                      energies.end(), std::greater<>());
  }
  const auto count = static_cast<double>(counted);
  double mean = 0.0;
  for (const float energy : energies.first(counted)) {
    mean += static_cast<double>(energy);
  }
  mean /= count;
  if (settings.risk != Risk::kMeanPlusStd || counted < 2) {
    return mean;
  }
  double squares = 0.0;
  for (const float energy : energies) {
    squares += square(static_cast<double>(energy) - mean);
  }
  return mean + settings.kappa * std::sqrt(squares / (count - 1.0));
}

double step_spread(std::span<const float> latents, std::size_t samples, std::size_t horizon,
                   std::size_t step, const ComparedPart& part) noexcept {
  if (samples < 2) {
    return 0.0;
  }
  const std::size_t stride = latents.size() / samples;
  const auto count = static_cast<double>(samples);
  double total = 0.0;
  for (std::size_t run = 0; run < part.runs; ++run) {
    const float* first = latents.data() + step * (stride / horizon) + run * part.stride;
    for (std::size_t begin = 0; begin < part.length; begin += kLanes) {
      const std::size_t lanes = std::min(kLanes, part.length - begin);
      std::array<double, kLanes> mean{};
      std::array<double, kLanes> squares{};
      for (std::size_t m = 0; m < samples; ++m) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          mean[lane] += static_cast<double>(first[m * stride + begin + lane]) / count;
        }
      }
      for (std::size_t m = 0; m < samples; ++m) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          squares[lane] +=
              square(static_cast<double>(first[m * stride + begin + lane]) - mean[lane]);
        }
      }
      for (std::size_t lane = 0; lane < lanes; ++lane) {
        total += squares[lane];
      }
    }
  }
  return total / ((count - 1.0) * static_cast<double>(part.runs * part.length));
}

Objective::Objective(const ObjectiveSettings& settings, ObjectiveData data,
                     const LatentShape& shape)
    : settings_(settings), data_(std::move(data)), shape_(shape) {
  settings_.energy_tokens = settings.energy_tokens == 0 ? shape.tokens : settings.energy_tokens;
  settings_.energy_dim = settings.energy_dim == 0 ? shape.dim : settings.energy_dim;
  const auto number = [](auto value) { return std::to_string(value); };
  require(shape.candidates > 0 && shape.samples > 0 && shape.horizon > 0 && shape.tokens > 0 &&
              shape.dim > 0,
          "every size of the latents must be at least 1");
  require(settings.goal_steps >= 1 && settings.goal_steps <= shape.horizon,
          "goal_steps is " + number(settings.goal_steps) + ", expected 1 to the horizon, " +
              number(shape.horizon));
  require(settings_.energy_tokens <= shape.tokens && settings_.energy_dim <= shape.dim,
          "energy_tokens " + number(settings_.energy_tokens) + " and energy_dim " +
              number(settings_.energy_dim) + " exceed the latent, (" + number(shape.tokens) + ", " +
              number(shape.dim) + ")");
  // Whole tokens lie one behind the other.
  const bool whole = settings_.energy_dim == shape.dim;
  part_ = {.runs = whole ? 1 : settings_.energy_tokens,
           .length = whole ? settings_.energy_tokens * shape.dim : settings_.energy_dim,
           .stride = shape.dim};
  require(settings.alpha > 0.0 && settings.alpha <= 1.0,
          "alpha is " + number(settings.alpha) + ", expected above 0, at most 1");
  for (const double weight : {settings.kappa, settings.world_weight, settings.spread_weight}) {
    require(weight >= 0.0 && std::isfinite(weight),
            "kappa, world_weight and spread_weight must be finite and not negative, got " +
                number(weight));
  }
  require(
      settings.spread_discount > 0.0 && settings.spread_discount <= 1.0,
      "spread_discount is " + number(settings.spread_discount) + ", expected above 0, at most 1");
  if (settings.world_weight > 0.0) {
    const std::size_t dim = settings_.energy_dim;
    require(
        data_.world_mean.size() == dim && data_.world_whiten.size() == dim * dim &&
            all_finite(data_.world_mean) && all_finite(data_.world_whiten),
        "world_weight needs a finite world_mean (C) and world_whiten (C, C), C = energy_dim = " +
            number(dim));
    data_.world_whiten = paneled(data_.world_whiten, dim);
  }
  if (settings.spread_weight > 0.0 || settings.trust_horizon) {
    require(shape.samples >= 2,
            "spread_weight and trust_horizon need at least 2 samples per candidate, got " +
                number(shape.samples));
    require(data_.radius.size() == shape.horizon && all_finite(data_.radius),
            "spread_weight and trust_horizon need a finite radius per step, (H), H = " +
                number(shape.horizon) + ", got " + number(data_.radius.size()));
  }
}

std::size_t Objective::scratch_size() const noexcept {
  return shape_.samples + kRows * settings_.energy_dim;
}

/// Whether the tokens and channels of a latent (N, D) that energies leave out are finite. Those
/// that they see need no look: a distance from them is not finite either.
bool Objective::rest_is_finite(const float* latent) const noexcept {
  const std::size_t behind = shape_.dim - settings_.energy_dim;
  for (std::size_t n = 0; behind > 0 && n < settings_.energy_tokens; ++n) {
    if (!all_finite({latent + n * shape_.dim + settings_.energy_dim, behind})) {
      return false;
    }
  }
  const std::size_t seen = settings_.energy_tokens * shape_.dim;
  return all_finite({latent + seen, shape_.tokens * shape_.dim - seen});
}

/// Distance of a latent (N * D) to the nearest of goals (G, N * D).
double Objective::goal_distance(const float* latent, std::span<const float> goals) const noexcept {
  double least = std::numeric_limits<double>::infinity();
  bool ordered = rest_is_finite(latent);
  for (std::size_t begin = 0; begin < goals.size(); begin += shape_.tokens * shape_.dim) {
    double distance = 0.0;
    for (std::size_t run = 0; run < part_.runs; ++run) {
      const float* predicted = latent + run * part_.stride;
      const float* goal = goals.data() + begin + run * part_.stride;
      distance +=
          settings_.distance == Distance::kSquares
              ? sum_apart(predicted, goal, part_.length, [](double v) { return v * v; })
              : sum_apart(predicted, goal, part_.length, [](double v) { return std::abs(v); });
    }
    if (settings_.distance == Distance::kAbsolute) {
      distance /= static_cast<double>(part_.runs * part_.length);
    }
    ordered = ordered && !std::isnan(distance);
    least = std::min(least, distance);
  }
  return ordered ? least : std::numeric_limits<double>::quiet_NaN();
}

float Objective::energy(std::span<const float> latents, std::span<const float> goals,
                        std::span<float> scratch) const noexcept {
  const std::size_t size = shape_.tokens * shape_.dim;
  const std::size_t horizon = shape_.horizon;
  const std::size_t samples = latents.size() / (horizon * size);
  std::size_t trusted = horizon;
  double total = 0.0;
  if (settings_.trust_horizon || settings_.spread_weight > 0.0) {
    double discount = 1.0;
    for (std::size_t h = 0; h < horizon; ++h) {
      const double excess =
          step_spread(latents, samples, horizon, h, part_) - static_cast<double>(data_.radius[h]);
      discount *= settings_.spread_discount;
      if (std::isnan(excess)) {
        return std::numeric_limits<float>::quiet_NaN();
      }
      if (excess > 0.0) {
        trusted = std::min(trusted, h);
        total += settings_.spread_weight > 0.0 ? settings_.spread_weight * discount * excess : 0.0;
      }
    }
    if (!settings_.trust_horizon) {
      trusted = horizon;
    } else if (trusted == 0) {
      return std::numeric_limits<float>::infinity();
    }
  }
  if (!goals.empty()) {
    const std::size_t steps = std::min(settings_.goal_steps, trusted);
    for (std::size_t m = 0; m < samples; ++m) {
      double distance = 0.0;
      for (std::size_t h = trusted - steps; h < trusted; ++h) {
        distance += goal_distance(latents.data() + (m * horizon + h) * size, goals);
      }
      scratch[m] = static_cast<float>(distance / static_cast<double>(steps));
    }
    total += risk_of(scratch.first(samples), settings_);
  }
  if (settings_.world_weight > 0.0) {
    const std::size_t rows = samples * trusted;
    const std::size_t dim = settings_.energy_dim;
    float* centred = scratch.data() + shape_.samples;
    double squares = 0.0;
    for (std::size_t begin = 0; begin < rows; begin += kRows) {
      std::fill_n(centred, kRows * dim, 0.0F);
      for (std::size_t row = begin; row < std::min(rows, begin + kRows); ++row) {
        const std::size_t step = row / trusted * horizon + row % trusted;
        centre(latents.data() + step * size, settings_.energy_tokens, shape_.dim, data_.world_mean,
               centred + row - begin);
      }
      squares += squared_norms(centred, data_.world_whiten, dim);
    }
    total += settings_.world_weight * squares / static_cast<double>(rows * dim);
  }
  const auto energy = static_cast<float>(total);
  return std::isfinite(energy) ? energy : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace jepa_edge
