// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

#define JEPA_EDGE_KEEP(x) __asm__ volatile("" : "+x"(x))

namespace jepa_edge::kernels {
namespace {

/// 8 lanes with AVX2 and FMA.
struct Simd {
  using F = float __attribute__((vector_size(32)));
  using I = int __attribute__((vector_size(32)));
  static constexpr std::size_t kWidth = 8;
  static constexpr std::size_t kTileRows = 6;  // 12 sums, 2 columns vectors, 1 row value
  static constexpr std::size_t kTileVectors = 2;
  static constexpr bool kUnsigned = false;
  static constexpr bool kFastBf16 = false;
  static constexpr bool kFastInt8 = true;
  static constexpr const char* kName = "avx2";

  static F fma(F a, F b, F c) noexcept { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) noexcept { return _mm256_max_ps(a, b); }
  static F min(F a, F b) noexcept { return _mm256_min_ps(a, b); }
  static float add_lanes(F v) noexcept {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  static float max_lanes(F v) noexcept {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }
  static F dot_bf16(F sum, I a, I b) noexcept {
    const I mask = I{} + static_cast<int>(0xFFFF0000U);
    sum = fma(reinterpret_cast<F>(a & mask), reinterpret_cast<F>(b & mask), sum);
    return fma(reinterpret_cast<F>(a << 16), reinterpret_cast<F>(b << 16), sum);
  }
  /// vpmaddubsw wants an unsigned factor: |a|, with a's sign moved to b. Both lie in [-127, 127],
  /// so that its sums of two stay below 2^15.
  static I dot_i8(I sum, I a, I b) noexcept {
    const __m256i left = reinterpret_cast<__m256i>(a);
    const __m256i right = _mm256_sign_epi8(reinterpret_cast<__m256i>(b), left);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(left), right);
    return sum + reinterpret_cast<I>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static void store_bf16(char* out, F v) noexcept {
    const __m256i bits = reinterpret_cast<__m256i>(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i top = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    top = _mm256_blendv_epi8(top, _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)), nan);
    top = _mm256_srli_epi32(top, 16);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(top, top), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(words));
  }
  static void store_i8(char* out, I v) noexcept {
    const __m256i low = _mm256_and_si256(reinterpret_cast<__m256i>(v), _mm256_set1_epi32(0xFF));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm_setzero_si128());
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);
  }
};

}  // namespace
}  // namespace jepa_edge::kernels

#include "body.hpp"
#include "tables.hpp"

namespace jepa_edge::kernels {
const Kernels& avx2() noexcept { return kTable; }
}  // namespace jepa_edge::kernels
