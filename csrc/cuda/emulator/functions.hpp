// SPDX-License-Identifier: Apache-2.0
// Functions that kernels call.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "threads.hpp"
#include "vectors.hpp"

#define JEPA_EDGE_HERE \
  const char *file = __builtin_FILE(), int line = __builtin_LINE()  // where it was called

// ---- meetings -----------------------------------------------------------------------------------

inline void __syncthreads(JEPA_EDGE_HERE) {
  jepa_edge::cuda_emulation::block_barrier({file, line});
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFU, JEPA_EDGE_HERE) {
  jepa_edge::cuda_emulation::warp_meeting(mask, nullptr, nullptr, {file, line});
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, JEPA_EDGE_HERE) {
  const unsigned lane = jepa_edge::cuda_emulation::lane_index();
  const unsigned first = lane / static_cast<unsigned>(width) * static_cast<unsigned>(width);
  const unsigned source = first + static_cast<unsigned>(from) % static_cast<unsigned>(width);
  return jepa_edge::cuda_emulation::shuffle(mask, value, source, {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, JEPA_EDGE_HERE) {
  const unsigned lane = jepa_edge::cuda_emulation::lane_index();
  const unsigned source = lane ^ static_cast<unsigned>(flip);
  const bool inside = source / static_cast<unsigned>(width) <= lane / static_cast<unsigned>(width);
  return jepa_edge::cuda_emulation::shuffle(mask, value, inside ? source : lane, {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, JEPA_EDGE_HERE) {
  const unsigned lane = jepa_edge::cuda_emulation::lane_index();
  const unsigned end = (lane / static_cast<unsigned>(width) + 1) * static_cast<unsigned>(width);
  return jepa_edge::cuda_emulation::shuffle(mask, value, lane + by < end ? lane + by : lane,
                                            {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, JEPA_EDGE_HERE) {
  const unsigned lane = jepa_edge::cuda_emulation::lane_index();
  const unsigned first = lane / static_cast<unsigned>(width) * static_cast<unsigned>(width);
  return jepa_edge::cuda_emulation::shuffle(mask, value, lane >= first + by ? lane - by : lane,
                                            {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, JEPA_EDGE_HERE) {
  struct Vote {
    bool yes;
    unsigned result;
  } vote{predicate != 0, 0};
  jepa_edge::cuda_emulation::warp_meeting(
      mask, &vote,
      [](const jepa_edge::cuda_emulation::Lanes& lanes) {
        unsigned all = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if (lanes[lane] != nullptr && static_cast<Vote*>(lanes[lane])->yes) all |= 1U << lane;
        }
        for (void* lane : lanes) {
          if (lane != nullptr) static_cast<Vote*>(lane)->result = all;
        }
      },
      {file, line});
  return vote.result;
}
inline int __any_sync(unsigned mask, int predicate, JEPA_EDGE_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, JEPA_EDGE_HERE) {
  return __ballot_sync(mask, predicate == 0 ? 1 : 0, file, line) == 0 ? 1 : 0;
}
inline unsigned __activemask() { return 1U << jepa_edge::cuda_emulation::lane_index(); }
inline void __threadfence() {}
inline void __threadfence_block() {}

#undef JEPA_EDGE_HERE

// ---- atomics: threads switch nowhere else, so that plain code is atomic
// ----------------------------

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = static_cast<T>(old + value);
  return old;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old | value;
  return old;
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old & value;
  return old;
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = value;
  return old;
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- arithmetic ---------------------------------------------------------------------------------

template <typename T>
T __ldg(const T* address) {
  return *address;
}
#define JEPA_EDGE_MIN_MAX(T)                                   \
  constexpr T min(T a, T b) noexcept { return b < a ? b : a; } \
  constexpr T max(T a, T b) noexcept { return a < b ? b : a; }
JEPA_EDGE_MIN_MAX(int)
JEPA_EDGE_MIN_MAX(unsigned)
JEPA_EDGE_MIN_MAX(long)
JEPA_EDGE_MIN_MAX(unsigned long)
JEPA_EDGE_MIN_MAX(long long)
JEPA_EDGE_MIN_MAX(unsigned long long)
#undef JEPA_EDGE_MIN_MAX
inline float min(float a, float b) noexcept { return std::fmin(a, b); }
inline float max(float a, float b) noexcept { return std::fmax(a, b); }
inline double min(double a, double b) noexcept { return std::fmin(a, b); }
inline double max(double a, double b) noexcept { return std::fmax(a, b); }

inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0F ? std::min(x, 1.0F) : 0.0F; }
// glibc declares these names, without a body.
#define __expf(x) ::expf(x)
#define __logf(x) ::logf(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __powf(x, y) ::powf(x, y)

/// NaN gives 0, and what lies beyond int its nearest end.
inline int __float2int_rn(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0F) return INT32_MAX;
  if (x <= -2147483648.0F) return INT32_MIN;
  return static_cast<int>(std::nearbyint(x));
}
inline unsigned __float2uint_rn(float x) {
  if (!(x > 0.0F)) return 0;
  return x >= 4294967296.0F ? UINT32_MAX : static_cast<unsigned>(std::nearbyint(x));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32U);
}
/// c + the four products of the words' signed bytes.
inline int __dp4a(int a, int b, int c) {
  for (unsigned i = 0; i < 32; i += 8) {
    c += static_cast<signed char>(static_cast<unsigned>(a) >> i & 0xFFU) *
         static_cast<signed char>(static_cast<unsigned>(b) >> i & 0xFFU);
  }
  return c;
}
