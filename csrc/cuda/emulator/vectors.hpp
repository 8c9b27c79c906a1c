// SPDX-License-Identifier: Apache-2.0
// CUDA's words and small vectors.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static  // one block at a time
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define JEPA_EDGE_VECTOR(T, name, align)                             \
  struct alignas(align / 2) name##2 { T x, y; };                     \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(align) name##4 { T x, y, z, w; };                   \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
JEPA_EDGE_VECTOR(signed char, char, 4)
JEPA_EDGE_VECTOR(unsigned char, uchar, 4)
JEPA_EDGE_VECTOR(short, short, 8)
JEPA_EDGE_VECTOR(unsigned short, ushort, 8)
JEPA_EDGE_VECTOR(int, int, 16)
JEPA_EDGE_VECTOR(unsigned, uint, 16)
JEPA_EDGE_VECTOR(float, float, 16)
JEPA_EDGE_VECTOR(double, double, 16)
#undef JEPA_EDGE_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned first = 1, unsigned second = 1, unsigned third = 1)
      : x(first), y(second), z(third) {}
};
