// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "jepa_edge/engine.hpp"

/// What Python holds as `_core.Engine`: an engine, and a lock that makes calls take turns. A
/// binding releases the GIL first and takes the lock then.
struct Engine {
  std::shared_ptr<const jepa_edge::Predictor> predictor;
  std::unique_ptr<jepa_edge::RolloutEngine> rollout;
  std::mutex busy;
};
