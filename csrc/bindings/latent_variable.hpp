// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "jepa_edge/latent_variable.hpp"

/// `_core.LatentNoise`: the noise and the lock that an engine's binding holds from before `draw`
/// until after it has read the disagreement.
struct BoundNoise {
  BoundNoise(std::shared_ptr<const jepa_edge::LatentVariable> variable, std::size_t tokens,
             const jepa_edge::Limits& limits)
      : noise(std::move(variable), tokens, limits) {}
  jepa_edge::LatentNoise noise;
  std::mutex busy;
};
