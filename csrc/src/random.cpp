// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace jepa_edge {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;
constexpr int kRounds = 10;

constexpr std::uint32_t low(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word);
}
constexpr std::uint32_t high(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word >> 32U);
}

/// Uniform on (0, 1]: never zero, so that its logarithm is finite.
double open_unit(std::uint32_t word) noexcept {
  return (static_cast<double>(word) + 1.0) * 0x1.0p-32;
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter[2];
    counter = {high(product1) ^ counter[1] ^ key[0], low(product1),
               high(product0) ^ counter[3] ^ key[1], low(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

void standard_normal(std::uint64_t seed, std::uint64_t stream, std::span<float> out) noexcept {
  const std::array<std::uint32_t, 2> key{low(seed), high(seed)};
  for (std::size_t begin = 0; begin < out.size(); begin += 4) {
    const std::uint64_t block = begin / 4;
    const auto words = philox4x32({low(block), high(block), low(stream), high(stream)}, key);
    std::array<float, 4> normal{};
    for (std::size_t pair = 0; pair < 2; ++pair) {
      const double radius = std::sqrt(-2.0 * std::log(open_unit(words[2 * pair])));
      const double angle = 2.0 * std::numbers::pi * open_unit(words[2 * pair + 1]);
      normal[2 * pair] = static_cast<float>(radius * std::cos(angle));
      normal[2 * pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
    const std::size_t count = std::min<std::size_t>(4, out.size() - begin);
    std::copy_n(normal.begin(), count, out.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

}  // namespace jepa_edge
