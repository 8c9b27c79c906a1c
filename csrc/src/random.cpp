// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/random.hpp"

#include <algorithm>
#include <cstddef>

#include "philox.hpp"

namespace jepa_edge {

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) noexcept {
  const auto words =
      philox::block({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {words.word[0], words.word[1], words.word[2], words.word[3]};
}

void standard_normal(std::uint64_t seed, std::uint64_t stream, std::span<float> out) noexcept {
  for (std::size_t begin = 0; begin < out.size(); begin += 4) {
    float normal[4];
    philox::normals(seed, stream, begin / 4, normal);
    const std::size_t count = std::min<std::size_t>(4, out.size() - begin);
    std::copy_n(normal, count, out.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

}  // namespace jepa_edge
