// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

#define JEPA_EDGE_KEEP(x) __asm__ volatile("" : "+m"(x))

namespace jepa_edge::kernels {
namespace {

/// 4 lanes of the compiler's own vectors, for processors that no other file knows. It is there to
/// be right, not fast.
struct Simd {
  using F = float __attribute__((vector_size(16)));
  using I = int __attribute__((vector_size(16)));
  static constexpr std::size_t kWidth = 4;
  static constexpr std::size_t kTileRows = 4;
  static constexpr std::size_t kTileVectors = 2;
  static constexpr bool kUnsigned = false;
  static constexpr bool kFastBf16 = false;
  static constexpr bool kFastInt8 = false;
  static constexpr const char* kName = "portable";

  static F fma(F a, F b, F c) noexcept { return a * b + c; }
  static F max(F a, F b) noexcept { return a > b ? a : b; }
  static F min(F a, F b) noexcept { return a < b ? a : b; }
  static float add_lanes(F v) noexcept { return (v[0] + v[2]) + (v[1] + v[3]); }
  static float max_lanes(F v) noexcept {
    const float even = v[0] > v[2] ? v[0] : v[2];
    const float odd = v[1] > v[3] ? v[1] : v[3];
    return even > odd ? even : odd;
  }
  static F dot_bf16(F sum, I a, I b) noexcept {
    const I mask = I{} + static_cast<int>(0xFFFF0000U);
    sum = reinterpret_cast<F>(a & mask) * reinterpret_cast<F>(b & mask) + sum;
    return reinterpret_cast<F>(a << 16) * reinterpret_cast<F>(b << 16) + sum;
  }
  static I dot_i8(I sum, I a, I b) noexcept {
    for (int shift = 24; shift >= 0; shift -= 8) sum += ((a << shift) >> 24) * ((b << shift) >> 24);
    return sum;
  }
  static void store_bf16(char* out, F v) noexcept {
    for (std::size_t i = 0; i < kWidth; ++i) {
      const float x = v[i];
      std::uint32_t bits;
      __builtin_memcpy(&bits, &x, sizeof bits);
      const bool nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
      const auto top = static_cast<std::uint16_t>(
          (nan ? bits | 0x00400000U : bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
      __builtin_memcpy(out + 2 * i, &top, sizeof top);
    }
  }
  static void store_i8(char* out, I v) noexcept {
    for (std::size_t i = 0; i < kWidth; ++i) out[i] = static_cast<char>(v[i]);
  }
};

}  // namespace
}  // namespace jepa_edge::kernels

#include "body.hpp"
#include "tables.hpp"

namespace jepa_edge::kernels {
const Kernels& portable() noexcept { return kTable; }
}  // namespace jepa_edge::kernels
