// SPDX-License-Identifier: Apache-2.0
// 4 lanes with NEON; dot products as the compiler's flags allow.

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

#define JEPA_EDGE_KEEP(x) __asm__ volatile("" : "+w"(x))

namespace jepa_edge::kernels {
namespace {

struct Simd {
  using F = float __attribute__((vector_size(16)));
  using I = int __attribute__((vector_size(16)));
  static constexpr std::size_t kWidth = 4;
  static constexpr std::size_t kTileRows = 6;  // 24 sums, 4 columns vectors, 1 row value
  static constexpr std::size_t kTileVectors = 4;
  static constexpr bool kUnsigned = false;
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  static constexpr const char* kName = "neon_bf16";
  static constexpr bool kFastBf16 = true;
  static constexpr bool kFastInt8 = true;
#elif defined(__ARM_FEATURE_DOTPROD)
  static constexpr const char* kName = "neon_dotprod";
  static constexpr bool kFastBf16 = false;
  static constexpr bool kFastInt8 = true;
#else
  static constexpr const char* kName = "neon";
  static constexpr bool kFastBf16 = false;
  static constexpr bool kFastInt8 = false;
#endif

  static F fma(F a, F b, F c) noexcept { return vfmaq_f32(c, a, b); }
  static F max(F a, F b) noexcept { return vmaxq_f32(a, b); }
  static F min(F a, F b) noexcept { return vminq_f32(a, b); }
  static float add_lanes(F v) noexcept { return vaddvq_f32(v); }
  static float max_lanes(F v) noexcept { return vmaxvq_f32(v); }

  static F dot_bf16(F sum, I a, I b) noexcept {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return vbfdotq_f32(sum, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b));
#else
    const I mask = I{} + static_cast<int>(0xFFFF0000U);
    sum = fma(reinterpret_cast<F>(a & mask), reinterpret_cast<F>(b & mask), sum);
    return fma(reinterpret_cast<F>(a << 16), reinterpret_cast<F>(b << 16), sum);
#endif
  }
  static I dot_i8(I sum, I a, I b) noexcept {
    const int8x16_t left = vreinterpretq_s8_s32(a);
    const int8x16_t right = vreinterpretq_s8_s32(b);
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, left, right);
#else
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(left), vget_low_s8(right)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(left, right));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
  }
  static void store_bf16(char* out, F v) noexcept {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    const uint32x4_t top = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
    const uint16x4_t words = vshrn_n_u32(top, 16);
    __builtin_memcpy(out, &words, sizeof words);
  }
  static void store_i8(char* out, I v) noexcept {
    for (std::size_t i = 0; i < kWidth; ++i) out[i] = static_cast<char>(v[i]);
  }
};

}  // namespace
}  // namespace jepa_edge::kernels
