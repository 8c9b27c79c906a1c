// SPDX-License-Identifier: Apache-2.0
// 16 lanes with AVX-512 (F, BW, VL, DQ, VNNI); bfloat16 products where the compiler's flags have
// them, else through float32.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"

#define JEPA_EDGE_KEEP(x) __asm__ volatile("" : "+v"(x))

namespace jepa_edge::kernels {
namespace {

struct Simd {
  using F = float __attribute__((vector_size(64)));
  using I = int __attribute__((vector_size(64)));
  static constexpr std::size_t kWidth = 16;
  static constexpr std::size_t kTileRows = 12;  // 24 sums, 2 columns vectors, 1 row value
  static constexpr std::size_t kTileVectors = 2;
  static constexpr bool kFastInt8 = true;
  static constexpr bool kUnsigned = true;  // vpdpbusd multiplies unsigned by signed bytes

  static F fma(F a, F b, F c) noexcept { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) noexcept { return _mm512_max_ps(a, b); }
  static F min(F a, F b) noexcept { return _mm512_min_ps(a, b); }
  static float add_lanes(F v) noexcept {
    v = v + rotate<8>(v);
    v = v + rotate<4>(v);
    v = v + rotate<2>(v);
    return v[0] + v[1];
  }
  static float max_lanes(F v) noexcept {
    v = max(v, rotate<8>(v));
    v = max(v, rotate<4>(v));
    v = max(v, rotate<2>(v));
    return v[0] > v[1] ? v[0] : v[1];
  }
  template <int kLanes>
  static F rotate(F v) noexcept {
    const __m512i bits = reinterpret_cast<__m512i>(v);
    return reinterpret_cast<F>(
        _mm512_maskz_alignr_epi32(static_cast<__mmask16>(0xFFFF), bits, bits, kLanes));
  }

#ifdef __AVX512BF16__
  static constexpr const char* kName = "avx512_bf16";
  static constexpr bool kFastBf16 = true;
  static F dot_bf16(F sum, I a, I b) noexcept {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
#else
  static constexpr const char* kName = "avx512";
  static constexpr bool kFastBf16 = false;
  static F dot_bf16(F sum, I a, I b) noexcept {
    const I mask = I{} + static_cast<int>(0xFFFF0000U);
    sum = fma(reinterpret_cast<F>(a & mask), reinterpret_cast<F>(b & mask), sum);
    return fma(reinterpret_cast<F>(a << 16), reinterpret_cast<F>(b << 16), sum);
  }
#endif
  static I dot_i8(I sum, I a, I b) noexcept {
    return reinterpret_cast<I>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                   reinterpret_cast<__m512i>(a),
                                                   reinterpret_cast<__m512i>(b)));
  }

  /// Round to nearest even; a NaN stays one.
  static void store_bf16(char* out, F v) noexcept {
#ifdef __AVX512BF16__
    const __m256bh packed = _mm512_cvtneps_pbh(v);
    __builtin_memcpy(out, &packed, sizeof packed);
#else
    const __m512i bits = reinterpret_cast<__m512i>(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i top = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    top = _mm512_mask_or_epi32(top, nan, bits, _mm512_set1_epi32(0x00400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(top, 16)));
#endif
  }
  static void store_i8(char* out, I v) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
  }
};

}  // namespace
}  // namespace jepa_edge::kernels
