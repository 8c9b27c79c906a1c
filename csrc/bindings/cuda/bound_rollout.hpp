// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "../../cuda/rollout.hpp"

/// What Python holds as `_cuda.Rollout`: a rollout on the device, a stream and memory for calls
/// outside of a planner, and a lock that makes calls take turns. A binding releases the GIL first
/// and takes the lock then.
struct BoundRollout {
  explicit BoundRollout(std::shared_ptr<jepa_edge::cuda::DeviceRollout> given,
                        std::size_t shortest = 1)
      : rollout(std::move(given)), shortest_history(shortest) {}

  std::shared_ptr<jepa_edge::cuda::DeviceRollout> rollout;
  std::size_t shortest_history;  ///< frames of a context, at least
  jepa_edge::cuda::Stream stream;
  jepa_edge::cuda::DeviceBuffer<float> actions, latents;  ///< taken by the first call
  std::mutex busy;
};
