// SPDX-License-Identifier: Apache-2.0
// Blocks, their threads, and where threads meet.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "vectors.hpp"

// Of the thread that runs.
extern thread_local uint3 threadIdx;
extern thread_local uint3 blockIdx;
extern thread_local dim3 blockDim;
extern thread_local dim3 gridDim;
constexpr int warpSize = 32;

namespace jepa_edge::cuda_emulation {

/// A kernel did what a GPU would not forgive.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Place {
  const char* file;
  int line;
};

/// Runs all blocks of a kernel. Throws Failure, and what the kernel throws.
void run_grid(const dim3& blocks, const dim3& threads, std::size_t shared_bytes,
              const std::function<void()>& kernel);

/// Of the block that runs; full of NaN at first.
void* dynamic_shared_bytes();

void block_barrier(Place place);

using Lanes = std::array<void*, 32>;
/// All lanes of the warp that are in `mask` and live meet here; then `resolve` sees what each of
/// them brought (null for the others), once, before any of them goes on.
void warp_meeting(unsigned mask, void* brought, void (*resolve)(const Lanes&), Place place);

/// Lane of the thread in its warp.
unsigned lane_index();

/// Value that lane `from` of the warp brought; NaN bytes where it did not come.
template <typename T>
T shuffle(unsigned mask, T value, unsigned from, Place place) {
  struct Offer {
    T value;
    T result;
    unsigned from;
  } offer{value, value, from};
  warp_meeting(
      mask, &offer,
      [](const Lanes& lanes) {
        for (void* lane : lanes) {
          if (lane == nullptr) continue;
          auto* mine = static_cast<Offer*>(lane);
          const auto* theirs = static_cast<const Offer*>(lanes[mine->from]);
          if (theirs == nullptr) {
            std::memset(static_cast<void*>(&mine->result), 0xFF, sizeof(T));
          } else {
            mine->result = theirs->value;
          }
        }
      },
      place);
  return offer.result;
}

}  // namespace jepa_edge::cuda_emulation
