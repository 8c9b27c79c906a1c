// SPDX-License-Identifier: Apache-2.0
// nvcuda::wmma: matrix products of a warp. Who holds which element is nobody's business, here as
// there; each lane holds its share and the warp exchanges them.
#pragma once

#include <array>
#include <cstdint>

#include "numbers.hpp"
#include "threads.hpp"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int m, int n, int k, typename T, typename Layout = void>
class fragment {
 public:
  static constexpr int kRows = std::is_same_v<Use, matrix_b> ? k : m;
  static constexpr int kColumns = std::is_same_v<Use, matrix_a> ? k : n;
  static constexpr int num_elements = kRows * kColumns / 32;
  static constexpr int num_storage_elements = num_elements;
  using element_type = T;
  T x[num_elements];
};

template <typename Use, int m, int n, int k, typename T, typename Layout>
void fill_fragment(fragment<Use, m, n, k, T, Layout>& to, const std::type_identity_t<T>& value) {
  for (T& element : to.x) element = value;
}

namespace detail {
inline int lane() { return static_cast<int>(jepa_edge::cuda_emulation::lane_index()); }

inline void check(const void* address, unsigned ldm, std::size_t element) {
  if (reinterpret_cast<std::uintptr_t>(address) % 32 != 0 || ldm * element % 16 != 0) {
    throw jepa_edge::cuda_emulation::Failure(
        "a matrix of a warp must start at a multiple of 32 bytes, its rows at multiples of 16");
  }
}

template <typename Fragment, typename T>
void load(Fragment& to, const T* from, unsigned ldm, bool by_rows) {
  check(from, ldm, sizeof(T));
  for (int i = 0; i < Fragment::num_elements; ++i) {
    const int at = lane() * Fragment::num_elements + i;
    const int row = at / Fragment::kColumns;
    const int column = at % Fragment::kColumns;
    to.x[i] = by_rows ? from[row * static_cast<int>(ldm) + column]
                      : from[column * static_cast<int>(ldm) + row];
  }
}

inline float number(__half x) { return __half2float(x); }
inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }
inline int number(signed char x) { return x; }
}  // namespace detail

template <typename Use, int m, int n, int k, typename T, typename Layout>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout>& to, const T* from, unsigned ldm,
                      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  detail::load(to, from, ldm, std::is_same_v<Layout, row_major>);
  jepa_edge::cuda_emulation::warp_meeting(~0U, nullptr, nullptr, {file, line});
}
template <int m, int n, int k, typename T>
void load_matrix_sync(fragment<accumulator, m, n, k, T>& to, const T* from, unsigned ldm,
                      layout_t layout, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  detail::load(to, from, ldm, layout == mem_row_major);
  jepa_edge::cuda_emulation::warp_meeting(~0U, nullptr, nullptr, {file, line});
}

template <typename T, int m, int n, int k>
void store_matrix_sync(T* to, const fragment<accumulator, m, n, k, T>& from, unsigned ldm,
                       layout_t layout, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  detail::check(to, ldm, sizeof(T));
  for (int i = 0; i < from.num_elements; ++i) {
    const int at = detail::lane() * from.num_elements + i;
    const int step = static_cast<int>(ldm);
    to[layout == mem_row_major ? at / n * step + at % n : at % n * step + at / n] = from.x[i];
  }
  jepa_edge::cuda_emulation::warp_meeting(~0U, nullptr, nullptr, {file, line});
}

/// d = a b + c, summed in float32 (int32 for bytes) in the order of k.
template <int m, int n, int k, typename T, typename LayoutA, typename LayoutB, typename Sum>
void mma_sync(fragment<accumulator, m, n, k, Sum>& d,
              const fragment<matrix_a, m, n, k, T, LayoutA>& a,
              const fragment<matrix_b, m, n, k, T, LayoutB>& b,
              const fragment<accumulator, m, n, k, Sum>& c, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  struct Share {
    fragment<accumulator, m, n, k, Sum>* d;
    const fragment<matrix_a, m, n, k, T, LayoutA>* a;
    const fragment<matrix_b, m, n, k, T, LayoutB>* b;
    const fragment<accumulator, m, n, k, Sum>* c;
  } share{&d, &a, &b, &c};
  jepa_edge::cuda_emulation::warp_meeting(
      ~0U, &share,
      [](const jepa_edge::cuda_emulation::Lanes& lanes) {
        using Number = decltype(detail::number(T{}));
        static_assert(std::is_same_v<Number, Sum>);
        Number left[m * k];
        Number right[k * n];
        Sum sum[m * n];
        for (int lane = 0; lane < 32; ++lane) {
          const auto* one = static_cast<const Share*>(lanes[static_cast<std::size_t>(lane)]);
          if (one == nullptr) {
            throw jepa_edge::cuda_emulation::Failure("a matrix product needs a whole warp");
          }
          constexpr int kA = m * k / 32;
          constexpr int kB = k * n / 32;
          constexpr int kC = m * n / 32;
          for (int i = 0; i < kA; ++i) left[lane * kA + i] = detail::number(one->a->x[i]);
          for (int i = 0; i < kB; ++i) right[lane * kB + i] = detail::number(one->b->x[i]);
          for (int i = 0; i < kC; ++i) sum[lane * kC + i] = one->c->x[i];
        }
        for (int row = 0; row < m; ++row) {
          for (int inner = 0; inner < k; ++inner) {
            for (int column = 0; column < n; ++column) {
              sum[row * n + column] += left[row * k + inner] * right[inner * n + column];
            }
          }
        }
        for (int lane = 0; lane < 32; ++lane) {
          const auto* one = static_cast<const Share*>(lanes[static_cast<std::size_t>(lane)]);
          for (int i = 0; i < m * n / 32; ++i) one->d->x[i] = sum[lane * (m * n / 32) + i];
        }
      },
      {file, line});
}

}  // namespace nvcuda::wmma
