// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "search.hpp"

namespace jepa_edge {
namespace {

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

void require(bool holds, const std::string& message) {
  if (!holds) {
    throw std::invalid_argument(message);
  }
}

}  // namespace

PlannerSettings checked(PlannerSettings s) {
  s.momentum = s.momentum.value_or(s.method == Method::kIcem ? 0.1 : 0.0);
  const auto number = [](auto value) { return std::to_string(value); };
  require(s.horizon > 0 && s.action_dim > 0 && s.iterations > 0,
          "horizon " + number(s.horizon) + ", action_dim " + number(s.action_dim) +
              ", iterations " + number(s.iterations) + ": expected at least 1 each");
  require(
      s.elites >= 2 && s.elites <= s.candidates,
      "elites is " + number(s.elites) + ", expected 2 to the candidates, " + number(s.candidates));
  require(s.candidates <= std::numeric_limits<std::uint32_t>::max(), "too many candidates");
  require(s.init_std > 0.0 && std::isfinite(s.init_std),
          "init_std is " + number(s.init_std) + ", expected a finite number above 0");
  for (const auto* values : {&s.action_mean, &s.action_std}) {
    require(values->size() == s.action_dim && all_finite(*values),
            "action_mean and action_std need action_dim = " + number(s.action_dim) +
                " finite numbers each");
  }
  require(std::all_of(s.action_std.begin(), s.action_std.end(), [](float v) { return v > 0.0F; }),
          "action_std has a number of 0 or below: the model's action statistics are broken");
  require(s.low.size() == s.high.size() && (s.low.empty() || s.low.size() == s.action_dim),
          "low and high need action_dim = " + number(s.action_dim) + " numbers each, or none");
  for (std::size_t a = 0; a < s.low.size(); ++a) {
    require(s.low[a] < s.high[a], "low must lie below high everywhere");
  }
  require(s.method == Method::kMppi || (*s.momentum >= 0.0 && *s.momentum < 1.0),
          "momentum is " + number(*s.momentum) + ", expected 0 to below 1");
  if (s.method == Method::kIcem) {
    require(s.keep_elites <= s.elites && s.keep_elites < s.candidates,
            "keep_elites is " + number(s.keep_elites) + ", expected at most the elites, " +
                number(s.elites) + ", and fewer than the candidates");
    require(s.population_decay >= 1.0 && std::isfinite(s.population_decay),
            "population_decay is " + number(s.population_decay) + ", expected 1 or more");
    require(std::isfinite(s.noise_beta), "noise_beta is not finite");
  }
  require(s.method != Method::kMppi || (s.temperature > 0.0 && std::isfinite(s.temperature)),
          "temperature is " + number(s.temperature) + ", expected a finite number above 0");
  return s;
}

}  // namespace jepa_edge
