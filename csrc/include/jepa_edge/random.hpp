// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace jepa_edge {

/// One block of Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3" (SC 2011). The same counter and key give the same four words on
/// every backend, whatever the order in which blocks are asked for.
[[nodiscard]] std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                      std::array<std::uint32_t, 2> key) noexcept;

/// Fills out with N(0, 1) numbers, element i being a function of (seed, stream, i) alone.
/// Box-Muller on Philox blocks. No allocation, no throw.
void standard_normal(std::uint64_t seed, std::uint64_t stream, std::span<float> out) noexcept;

}  // namespace jepa_edge
