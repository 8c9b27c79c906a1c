// SPDX-License-Identifier: Apache-2.0
// The narrow numbers of cuda_fp16.h, cuda_bf16.h and cuda_fp8.h: exact, rounded to nearest even.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "vectors.hpp"

namespace jepa_edge::cuda_emulation {

/// Drops low bits of a float's pattern, to nearest even.
constexpr std::uint32_t drop_bits(std::uint32_t bits, unsigned count) noexcept {
  return (bits + (1U << (count - 1)) - 1U + ((bits >> count) & 1U)) >> count;
}

inline std::uint16_t to_half(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16U & 0x8000U);
  const float size = std::fabs(x);
  std::uint32_t out = 0;
  if (std::isnan(x)) return 0x7FFF;
  if (size >= 65520.0F) {
    out = 0x7C00;
  } else if (size < 0x1p-14F) {
    out = static_cast<std::uint32_t>(std::nearbyint(size * 0x1p24F));
  } else {
    out = drop_bits(std::bit_cast<std::uint32_t>(size), 13) - (112U << 10U);
  }
  return static_cast<std::uint16_t>(sign | out);
}

inline float from_half(std::uint16_t bits) noexcept {
  const float sign = (bits & 0x8000U) != 0 ? -1.0F : 1.0F;
  const unsigned exponent = bits >> 10U & 0x1FU;
  const auto fraction = static_cast<float>(bits & 0x3FFU);
  if (exponent == 31)
    return std::bit_cast<float>((bits & 0x8000U) << 16U | 0x7F800000U | (bits & 0x3FFU) << 13U);
  if (exponent == 0) return sign * fraction * 0x1p-24F;
  return sign * std::ldexp(1.0F + fraction * 0x1p-10F, static_cast<int>(exponent) - 15);
}

inline std::uint16_t to_bfloat16(float x) noexcept {
  if (std::isnan(x)) return 0x7FFF;
  return static_cast<std::uint16_t>(drop_bits(std::bit_cast<std::uint32_t>(x), 16));
}
inline float from_bfloat16(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

/// e4m3, numbers beyond +-448 cut to it.
inline std::uint8_t to_e4m3(float x) noexcept {
  if (std::isnan(x)) return 0x7F;
  const auto sign = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(x) >> 24U & 0x80U);
  const float size = std::min(std::fabs(x), 448.0F);
  const std::uint32_t out = size < 0x1p-6F
                                ? static_cast<std::uint32_t>(std::nearbyint(size * 0x1p9F))
                                : drop_bits(std::bit_cast<std::uint32_t>(size), 20) - (120U << 3U);
  return static_cast<std::uint8_t>(sign | std::min(out, 0x7EU));
}
inline float from_e4m3(std::uint8_t bits) noexcept {
  const float sign = (bits & 0x80U) != 0 ? -1.0F : 1.0F;
  const unsigned exponent = bits >> 3U & 0xFU;
  const auto fraction = static_cast<float>(bits & 7U);
  if ((bits & 0x7FU) == 0x7F) return std::bit_cast<float>(0x7FFFFFFFU);
  if (exponent == 0) return sign * fraction * 0x1p-9F;
  return sign * std::ldexp(1.0F + fraction / 8.0F, static_cast<int>(exponent) - 7);
}

}  // namespace jepa_edge::cuda_emulation

struct __half_raw {
  unsigned short x;
};
struct __half {
  std::uint16_t bits;
  __half() = default;
  explicit __half(float x) : bits(jepa_edge::cuda_emulation::to_half(x)) {}
  __half(const __half_raw& raw) : bits(raw.x) {}
  explicit operator float() const { return jepa_edge::cuda_emulation::from_half(bits); }
};
using half = __half;
struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

inline __half __float2half_rn(float x) { return __half(x); }
inline __half __float2half(float x) { return __half(x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }

struct __nv_bfloat16 {
  std::uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x) : bits(jepa_edge::cuda_emulation::to_bfloat16(x)) {}
  explicit operator float() const { return jepa_edge::cuda_emulation::from_bfloat16(bits); }
};
using nv_bfloat16 = __nv_bfloat16;
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return static_cast<float>(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 v) {
  return {__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 x;
  x.bits = bits;
  return x;
}

using __nv_fp8_storage_t = unsigned char;
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t,
                                                __nv_fp8_interpretation_t) {
  return jepa_edge::cuda_emulation::to_e4m3(x);
}
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t) {
  return {jepa_edge::cuda_emulation::to_half(jepa_edge::cuda_emulation::from_e4m3(x))};
}
struct __nv_fp8_e4m3 {
  __nv_fp8_storage_t __x;
  __nv_fp8_e4m3() = default;
  explicit __nv_fp8_e4m3(float x) : __x(jepa_edge::cuda_emulation::to_e4m3(x)) {}
  explicit operator float() const { return jepa_edge::cuda_emulation::from_e4m3(__x); }
};
