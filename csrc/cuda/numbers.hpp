// SPDX-License-Identifier: Apache-2.0
// The numbers of each Precision: what goes into a product and what comes out.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "gemm.hpp"

namespace jepa_edge::cuda {

template <Precision precision>
struct Numbers;
template <>
struct Numbers<Precision::kFloat32> {
  using Operand = float;
  using Result = float;
};
template <>
struct Numbers<Precision::kFloat16> {
  using Operand = __half;
  using Result = __half;
};
template <>
struct Numbers<Precision::kBFloat16> {
  using Operand = __nv_bfloat16;
  using Result = __nv_bfloat16;
};
template <>
struct Numbers<Precision::kInt8> {
  using Operand = std::int8_t;
  using Result = std::int32_t;
};
template <>
struct Numbers<Precision::kFloat8> {
  using Operand = __nv_fp8_e4m3;
  using Result = __nv_bfloat16;
};

template <Precision precision>
using Operand = typename Numbers<precision>::Operand;
template <Precision precision>
using Result = typename Numbers<precision>::Result;

/// The largest operand of a scaled precision: a row is divided so that its largest becomes this.
template <Precision precision>
inline constexpr float kLargest = precision == Precision::kInt8     ? 127.0F
                                  : precision == Precision::kFloat8 ? 448.0F
                                                                    : 1.0F;

__host__ __device__ inline float number(float x) { return x; }
__host__ __device__ inline float number(__half x) { return __half2float(x); }
__host__ __device__ inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }
__host__ __device__ inline float number(std::int32_t x) { return static_cast<float>(x); }
__host__ __device__ inline float number(std::int8_t x) { return static_cast<float>(x); }
__host__ __device__ inline float number(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

/// The nearest operand. Scaled precisions: x has been divided by its row's scale; beyond the range
/// it is cut, and NaN may become anything (the row's scale tells).
template <Precision precision>
__host__ __device__ inline Operand<precision> operand(float x) {
  if constexpr (precision == Precision::kFloat32) {
    return x;
  } else if constexpr (precision == Precision::kFloat16) {
    return __float2half_rn(x);
  } else if constexpr (precision == Precision::kBFloat16) {
    return __float2bfloat16_rn(x);
  } else if constexpr (precision == Precision::kInt8) {
    const float cut = fminf(fmaxf(x, -127.0F), 127.0F);  // NaN gives -127
    return static_cast<std::int8_t>(rintf(cut));
  } else {
    __nv_fp8_e4m3 y;
    y.__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    return y;
  }
}

/// Calls f with std::integral_constant<Precision, precision>: host code that is compiled per
/// precision and chosen at run time.
template <typename F>
decltype(auto) with_precision(Precision precision, F&& f) {
  switch (precision) {
    case Precision::kFloat16:
      return f(std::integral_constant<Precision, Precision::kFloat16>{});
    case Precision::kBFloat16:
      return f(std::integral_constant<Precision, Precision::kBFloat16>{});
    case Precision::kInt8:
      return f(std::integral_constant<Precision, Precision::kInt8>{});
    case Precision::kFloat8:
      return f(std::integral_constant<Precision, Precision::kFloat8>{});
    case Precision::kFloat32:
      break;
  }
  return f(std::integral_constant<Precision, Precision::kFloat32>{});
}

}  // namespace jepa_edge::cuda
