// SPDX-License-Identifier: Apache-2.0
// The random numbers of every backend: one source for the processor and, through nvcc, the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define JEPA_EDGE_SHARED __host__ __device__
#else
#define JEPA_EDGE_SHARED
#endif

namespace jepa_edge::philox {

inline constexpr int kRounds = 10;

struct Words {
  std::uint32_t word[4];
};

JEPA_EDGE_SHARED constexpr std::uint32_t low(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word);
}
JEPA_EDGE_SHARED constexpr std::uint32_t high(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word >> 32U);
}

/// One block of Philox4x32-10.
JEPA_EDGE_SHARED inline Words block(Words counter, std::uint32_t key0,
                                    std::uint32_t key1) noexcept {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter.word[2];
    counter = {{high(product1) ^ counter.word[1] ^ key0, low(product1),
                high(product0) ^ counter.word[3] ^ key1, low(product0)}};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return counter;
}

/// Uniform on (0, 1]: never zero, so that its logarithm is finite.
JEPA_EDGE_SHARED inline double open_unit(std::uint32_t word) noexcept {
  return (static_cast<double>(word) + 1.0) * 0x1.0p-32;
}

/// Numbers 4 * index to 4 * index + 3 of a stream of N(0, 1) numbers, by Box and Muller.
JEPA_EDGE_SHARED inline void normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                                     float (&out)[4]) noexcept {
  constexpr double kTurn = 2.0 * 3.141592653589793;
  const Words words =
      block({{low(index), high(index), low(stream), high(stream)}}, low(seed), high(seed));
  for (int pair = 0; pair < 2; ++pair) {
    const double radius = std::sqrt(-2.0 * std::log(open_unit(words.word[2 * pair])));
    const double angle = kTurn * open_unit(words.word[2 * pair + 1]);
    out[2 * pair] = static_cast<float>(radius * std::cos(angle));
    out[2 * pair + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace jepa_edge::philox
